import os

import pytest
import torch

from src.common.device import device_of, has_native_bf16
from src.common.errors import UserError


def pretend(monkeypatch: pytest.MonkeyPatch, gpus: int, cores: int = 4) -> None:
    """A machine of that many GPUs and CPU cores."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)


@pytest.mark.parametrize(
    ("accelerator", "gpus", "rank", "expected"),
    [
        ("auto", 0, 0, "cpu"),
        ("auto", 2, 0, "cuda:0"),
        ("cpu", 2, 0, "cpu"),
        ("cpu", 0, 1, "cpu"),
        ("gpu", 2, 1, "cuda:1"),
    ],
)
def test_each_process_has_its_device(
    monkeypatch: pytest.MonkeyPatch, accelerator: str, gpus: int, rank: int, expected: str
) -> None:
    pretend(monkeypatch, gpus)
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    assert device_of(accelerator, 2) == torch.device(expected)


@pytest.mark.parametrize(
    ("accelerator", "gpus", "devices", "complaint"),
    [
        ("gpu", 0, 1, "at least 1 GPUs .* found 0"),
        ("gpu", 1, 2, "at least 2 GPUs .* found 1"),
        ("auto", 1, 2, "at least 2 GPUs .* found 1"),
        ("auto", 0, 5, "at least 5 CPU cores .* found 4"),
        ("cpu", 8, 5, "at least 5 CPU cores .* found 4"),
    ],
)
def test_more_processes_than_devices_are_refused(
    monkeypatch: pytest.MonkeyPatch, accelerator: str, gpus: int, devices: int, complaint: str
) -> None:
    pretend(monkeypatch, gpus)
    with pytest.raises(UserError, match=complaint):
        device_of(accelerator, devices)


@pytest.mark.parametrize(
    ("accelerator", "gpus", "capabilities", "on_gpu", "expected"),
    [
        ("auto", 0, {"avx512_bf16": True}, False, True),
        ("cpu", 1, {"amx_bf16": True}, False, True),
        ("cpu", 0, {"bf16": True, "neon": True}, False, True),
        ("cpu", 1, {"avx2": True, "avx512_bf16": False}, True, False),
        ("auto", 1, {}, True, True),
        ("gpu", 1, {"avx512_bf16": True}, False, False),
        ("gpu", 0, {"avx512_bf16": True}, True, False),
    ],
)
def test_bfloat16_is_native_where_there_are_instructions(
    monkeypatch: pytest.MonkeyPatch,
    accelerator: str,
    gpus: int,
    capabilities: dict[str, bool],
    on_gpu: bool,
    expected: bool,
) -> None:
    pretend(monkeypatch, gpus)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: on_gpu)
    assert has_native_bf16(accelerator) is expected


@pytest.mark.parametrize(
    ("gpus", "cure"),
    [
        (0, r"use trainer\.accelerator=cpu \(trainer=ddp_cpu .* CUDA_VISIBLE_DEVICES and the d"),
        (1, "lower trainer.devices$"),
    ],
)
def test_without_any_gpu_fewer_do_not_help(
    monkeypatch: pytest.MonkeyPatch, gpus: int, cure: str
) -> None:
    pretend(monkeypatch, gpus)
    with pytest.raises(UserError, match=f"found {gpus}; {cure}"):
        device_of("gpu", 2)
