import torch

from src.dataset.contract import ImageSpec
from src.pipeline.pictures import evenly_spaced, shown, shown_of_all
from src.substitution.image_bank import ImageBank
from tests.toys import filled_bank


def test_evenly_spaced_from_first_to_last() -> None:
    assert evenly_spaced(9, 3).tolist() == [0, 4, 8]
    assert evenly_spaced(2, 5).tolist() == [0, 1]
    assert evenly_spaced(0, 5).tolist() == []
    spaced = evenly_spaced(20_000_001, 3)
    assert spaced.tolist() == [0, 10_000_000, 20_000_000]  # float32 holds no odd one there


def test_rows_count_on_from_bank_to_bank(tiny_spec: ImageSpec) -> None:
    banks = [filled_bank(tiny_spec, count=count) for count in (3, 1, 4)]
    images = torch.cat([bank.images for bank in banks])
    rows = torch.tensor([7, 0, 3, 2, 4])
    assert torch.equal(shown_of_all(banks, rows, tiny_spec), images[rows])


def test_whitened_images_are_shown_through_the_statistics(tiny_spec: ImageSpec) -> None:
    bank = ImageBank.of(tiny_spec, pixels=False)
    bank.append(torch.zeros(1, 3, 8, 8))
    means = shown(bank, torch.tensor([0]), tiny_spec)[0, :, 0, 0]
    assert means.tolist() == [128, 102, 76]  # of 0.5, 0.4, 0.3
