"""Which device this process works on."""

import os

import torch

from src.common.errors import UserError


def device_of(accelerator: str, devices: int) -> torch.device:
    """The device of this process; checked before any process is started.

    Args:
        accelerator: ``auto``, ``cpu`` or ``gpu``.
        devices: Number of processes, one a device.

    Raises:
        UserError: If there are fewer GPUs, or fewer CPU cores, than processes.
    """
    if accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available()):
        found, kind = os.cpu_count() or 1, "CPU cores"
        device = torch.device("cpu")
    else:
        found, kind = torch.cuda.device_count(), "GPUs"
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    if found < devices:
        raise UserError(
            f"Expected at least {devices} {kind} (trainer.devices), but found {found}; lower "
            "trainer.devices"
        )
    return device
