import pytest
import torch

from src.common.systematic import resampled, thinned


@pytest.mark.parametrize("offset", [1e-6, 0.3, 0.999])
def test_equal_weights_leave_everything_as_it_was(offset: float) -> None:
    everything = torch.arange(1001)
    assert torch.equal(thinned(torch.ones(1001), offset), everything)
    for weight in (1.0, 0.1, 7.0):
        assert torch.equal(resampled(torch.full((1001,), weight), offset), everything)


def test_places_stay_with_their_own_probability() -> None:
    inclusion = torch.tensor([1.0, 0.5, 0.25, 0.05])
    offsets = (torch.arange(2000) + 0.5) / 2000
    kept = torch.zeros(4)
    for offset in offsets:
        kept[thinned(inclusion, float(offset))] += 1
    assert torch.allclose(kept / 2000, inclusion, atol=1e-3)


def test_as_many_stay_as_probabilities_add_up_to() -> None:
    inclusion = torch.rand(500, generator=torch.Generator().manual_seed(0)).clamp(min=0.01)
    for offset in (0.0, 0.5, 0.9):
        assert abs(len(thinned(inclusion, offset)) - float(inclusion.sum())) <= 1


def test_each_comes_about_as_often_as_its_share() -> None:
    weights = torch.rand(64, generator=torch.Generator().manual_seed(1)) + 0.01
    wanted = 64 * weights.double() / weights.double().sum()
    for offset in (0.0, 0.25, 0.99):
        index = resampled(weights, offset)
        counts = torch.bincount(index, minlength=64).double()
        assert len(index) == 64
        assert torch.equal(index, index.sort().values)
        assert (counts >= wanted.floor()).all()
        assert (counts <= wanted.ceil()).all()


def test_what_has_no_weight_never_comes() -> None:
    weights = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0])
    for offset in (0.0, 0.4, 0.999999):
        assert set(resampled(weights, offset).tolist()) == {1, 3}
