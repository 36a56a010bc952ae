"""Seeds and random-number states."""

import hashlib
import random
from typing import Any

import numpy as np
import torch


def derive_seed(seed: int, *labels: int | str) -> int:
    """A 32-bit seed for one purpose, independent between purposes.

    Args:
        seed: The run's seed.
        labels: What the stream is for, e.g. ``"augmentation", rank, epoch``.
    """
    text = "/".join(str(part) for part in (seed, *labels))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def seed_all(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    random.seed(seed)
    # Third-party code may draw from NumPy's global state; ours never does.
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


def generator(device: torch.device | str, seed: int, *labels: int | str) -> torch.Generator:
    """A torch generator on ``device``, seeded for one purpose."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *labels))


def global_generator(device: torch.device) -> torch.Generator:
    """Torch's global generator of ``device``, for functions that take a generator."""
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or 0]
    return torch.default_generator


def rng_state() -> dict[str, Any]:
    """State of all global generators as tensors, numbers and strings only.

    Such a state can be saved and loaded with weights-only loading. Of several GPUs it holds the
    current one, which a process computes on: another machine may show it fewer. A GPU that the
    process has not used is left alone, since asking it takes hundreds of megabytes of it.
    """
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    return {
        "python": [version, torch.tensor(internal, dtype=torch.int64), gauss],
        "numpy": [
            str(kind),
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def restore_rng_state(state: dict[str, Any]) -> None:
    """Undo everything drawn since :func:`rng_state`."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal.tolist()), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(  # noqa: NPY002
        (kind, keys.numpy().astype(np.uint32), position, has_gauss, cached)
    )
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
