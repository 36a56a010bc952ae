"""Which device this process works on, and what it computes in natively."""

import os

import torch

from src.common.errors import UserError

_BF16 = ("avx512_bf16", "amx_bf16", "bf16")  # as torch calls these instructions; the last: ARM's
_FEWER = "lower trainer.devices"
_NO_GPU = (
    "use trainer.accelerator=cpu (trainer=ddp_cpu for several ranks), or look at "
    "CUDA_VISIBLE_DEVICES and the driver"
)


def device_of(accelerator: str, devices: int) -> torch.device:
    """The device of this process; checked before any process is started.

    Args:
        accelerator: ``auto``, ``cpu`` or ``gpu``.
        devices: Number of processes, one a device.

    Raises:
        UserError: If there are fewer GPUs, or fewer CPU cores, than processes.
    """
    if _is_cpu(accelerator):
        found, kind, cure = os.cpu_count() or 1, "CPU cores", _FEWER
        device = torch.device("cpu")
    else:
        found, kind = torch.cuda.device_count(), "GPUs"
        cure = _FEWER if found else _NO_GPU
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    if found < devices:
        raise UserError(
            f"Expected at least {devices} {kind} (trainer.devices), but found {found}; {cure}"
        )
    return device


def has_native_bf16(accelerator: str) -> bool:
    """Whether the device has instructions for bfloat16, or would emulate it, many times slower.

    Args:
        accelerator: ``auto``, ``cpu``, or ``gpu`` or ``cuda``.
    """
    if _is_cpu(accelerator):
        found = torch.cpu.get_capabilities()  # torch leaves them unused where oneDNN is missing
        return torch.backends.mkldnn.is_available() and any(
            found.get(name, False) for name in _BF16
        )
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def _is_cpu(accelerator: str) -> bool:
    return accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
