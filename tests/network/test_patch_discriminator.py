import pytest
import torch

from src.network.patch_discriminator import PatchDiscriminator


def test_published_size() -> None:
    assert sum(p.numel() for p in PatchDiscriminator().parameters()) == 531_328


@pytest.mark.parametrize(("image_size", "grid"), [(32, 8), (64, 16)])
def test_one_logit_per_patch(image_size: int, grid: int) -> None:
    discriminator = PatchDiscriminator(base_width=4)
    assert discriminator(torch.randn(2, 3, image_size, image_size)).shape == (2, 1, grid, grid)


def test_logits_take_both_signs() -> None:
    torch.manual_seed(0)
    logits = PatchDiscriminator(base_width=8)(torch.randn(4, 3, 32, 32))
    assert logits.min() < 0 < logits.max()


def test_a_logit_sees_ten_pixels_and_its_neighbour_starts_four_later() -> None:
    # In eval mode, since batch statistics would let every logit see every pixel.
    discriminator = PatchDiscriminator(base_width=4).double().eval()
    spans = []
    for row in (3, 4):
        images = torch.randn(1, 3, 32, 32, dtype=torch.float64, requires_grad=True)
        discriminator(images)[0, 0, row, row].backward()
        assert images.grad is not None
        seen = images.grad[0].abs().sum(dim=0) > 0
        rows, columns = (seen.any(dim=d).nonzero().flatten().tolist() for d in (1, 0))
        assert rows == columns
        spans.append((rows[0], len(rows)))
    (first, size), (second, same_size) = spans
    assert (size, same_size, second - first) == (10, 10, 4)
