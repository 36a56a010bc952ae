from dataclasses import replace

import pytest
import torch
from torch import Tensor

from src.common.errors import UserError
from src.deploy import verify
from src.deploy.verify import EAGER, Images, measure, require_alike, require_equal

PIXELS = torch.tensor([0, 50, 100, 150, 200, 250], dtype=torch.uint8).view(6, 1, 1, 1)
LABELS = torch.tensor([0, 0, 0, 1, 1, 0])


def eager(pixels: Tensor) -> Tensor:
    """Class 0 below 128, else class 1; logits up to 12.8."""
    values = pixels.float().flatten(1)
    return torch.cat([128 - values, values - 128], dim=1) / 10


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_ROUNDS", 2)


def test_programs_are_measured_beside_the_student() -> None:
    programs = {EAGER: eager, "off": lambda pixels: eager(pixels) + torch.tensor([0.0, 6.0])}
    found = measure(programs, Images(PIXELS, LABELS, "six pixels"))
    assert found[EAGER].record() == {
        "largest_logit": pytest.approx(12.8),
        "largest_difference": 0.0,
        "agreement": 100.0,
        "acc1": pytest.approx(100 * 5 / 6, abs=1e-4),
        "milliseconds": found[EAGER].milliseconds,
    }
    assert found["off"].largest_difference == pytest.approx(6.0)
    assert found["off"].agreement == pytest.approx(100 * 5 / 6, abs=1e-4)  # 100 turns
    assert found["off"].acc1 == pytest.approx(100 * 4 / 6, abs=1e-4)
    assert found["off"].milliseconds.keys() == {"1", "32"}
    assert min(found["off"].milliseconds.values()) > 0


def test_without_labels_there_is_no_accuracy() -> None:
    assert measure({EAGER: eager}, Images(PIXELS, None, ""))[EAGER].acc1 is None


def test_times_are_of_one_thread_which_is_given_back() -> None:
    before, seen = torch.get_num_threads(), []

    def watched(pixels: Tensor) -> Tensor:
        seen.append(torch.get_num_threads())
        return eager(pixels)

    torch.set_num_threads(2)
    try:
        measure({EAGER: watched}, Images(PIXELS, None, ""))
        assert seen[0] == 1
        assert seen[-1] == torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("error", [1.5e-3, float("nan")])
def test_float_programs_may_differ_by_a_ten_thousandth(error: float) -> None:
    near, far = (lambda pixels: eager(pixels) + 1e-3), (lambda pixels: eager(pixels) + error)
    found = measure({EAGER: eager, "near": near, "far": far}, Images(PIXELS, LABELS, ""))
    require_equal("near", found["near"], found[EAGER])
    with pytest.raises(UserError, match=r"logits of far to differ .* nothing was written"):
        require_equal("far", found["far"], found[EAGER])


def test_a_quantised_program_may_differ_but_not_in_most_classes() -> None:
    programs = {EAGER: eager, "coarse": lambda p: eager(p).round(), "broken": lambda p: -eager(p)}
    found = measure(programs, Images(PIXELS, LABELS, ""))
    require_alike("coarse", found["coarse"])
    with pytest.raises(UserError, match=r"broken to agree .* on 0\.00%"):
        require_alike("broken", found["broken"])
    with pytest.raises(UserError, match="nothing was written"):
        require_alike("nan", replace(found["coarse"], largest_difference=float("nan")))


def test_images_are_taken_evenly_and_apart() -> None:
    images = Images(PIXELS, LABELS, "six pixels")
    assert images.at_most(6) is images
    assert images.at_most(3).pixels.flatten().tolist() == [0, 100, 200]
    taken, rest = images.apart(2)
    assert taken.pixels.flatten().tolist() == [0, 150]
    assert rest.pixels.flatten().tolist() == [50, 100, 200, 250]
    assert rest.labels is not None
    assert rest.labels.tolist() == [0, 0, 1, 0]
    assert len(images.apart(100)[0].pixels) == 3
    assert Images(PIXELS, None, "").apart(2)[0].labels is None
