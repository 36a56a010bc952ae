"""The device that is not there refuses and notes what a GPU does."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import elsewhere

HERE = torch.arange(3.0)
MIXED: list[Callable[[Tensor], Any]] = [
    lambda there: there + HERE,
    lambda there: torch.cat([there, HERE]),
    lambda there: torch.stack([there[0], torch.zeros(())]),
    lambda there: torch.rand(3, generator=torch.Generator(), device=there.device),
    lambda there: there.normal_(generator=torch.Generator()),
]
WAITING: list[Callable[[Tensor], Any]] = [
    lambda there: float(there[0]),
    lambda there: there[there > 1],
    lambda there: there.nonzero(),
    lambda there: torch.equal(there, there),
    lambda there: torch.allclose(there, there),
    lambda there: there.unique(),
    lambda there: there.unique_consecutive(),
    lambda there: there[None].unique(dim=0),
    lambda there: there.repeat_interleave(there.long()),
]


@pytest.mark.parametrize("mix", MIXED)
def test_what_mixes_devices_is_refused(mix: Callable[[Tensor], Any]) -> None:
    with pytest.raises(
        RuntimeError, match=r"expected (all tensors on one|a generator of the) dev"
    ):
        mix(HERE.to(elsewhere.DEVICE))


@pytest.mark.parametrize("wait", WAITING)
def test_what_waits_is_noted(wait: Callable[[Tensor], Any]) -> None:
    there = HERE.to(elsewhere.DEVICE)
    with elsewhere.watched() as seen:
        wait(there)
    assert seen


def test_what_a_gpu_does_by_itself_is_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    there = HERE.to(elsewhere.DEVICE)
    monkeypatch.setattr(torch, "Generator", elsewhere.generator)
    its = torch.Generator(device=elsewhere.DEVICE)
    with elsewhere.watched() as seen:
        found = [
            there * torch.ones(()) + 2,
            there.repeat_interleave(2),
            there.repeat_interleave(there.long(), output_size=3),
            torch.rand(3, generator=its, device=there.device),
            torch.rand(3, generator=torch.default_generator, device=there.device),
        ]
    assert seen == []
    assert {each.device for each in found} == {elsewhere.DEVICE}
