import random
from pathlib import Path

import numpy as np
import torch

from src.common.seeding import (
    derive_seed,
    generator,
    global_generator,
    restore_rng_state,
    rng_state,
    seed_all,
)


def draw() -> tuple[float, float, float, list[float]]:
    """One number from every global source; NumPy's normal keeps a second one for the next call."""
    normal = float(np.random.standard_normal())  # noqa: NPY002
    return random.random(), random.gauss(0, 1), normal, torch.randn(3).tolist()


def test_a_seed_repeats_every_source() -> None:
    seed_all(5)
    first = draw()
    seed_all(5)
    assert draw() == first
    seed_all(6)
    other = draw()
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_seeds_are_32_bit_and_differ_by_purpose() -> None:
    seeds = {
        derive_seed(0),
        derive_seed(1),
        derive_seed(0, "order"),
        derive_seed(0, "order", 1),
        derive_seed(0, "order", 1, 2),
        derive_seed(0, "order", 2, 1),
        derive_seed(0, "augmentation", 1),
    }
    assert len(seeds) == 7
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert derive_seed(3, "a", 1) == derive_seed(3, "a", 1)


def test_a_generator_is_its_purpose_alone() -> None:
    before = torch.get_rng_state()
    draws = [
        torch.randn(3, generator=generator("cpu", seed, *labels)).tolist()
        for seed, labels in [(0, ("a", 1)), (0, ("a", 1)), (0, ("a", 2)), (1, ("a", 1))]
    ]
    assert draws[0] == draws[1]
    assert len({tuple(d) for d in draws}) == 3
    assert torch.equal(torch.get_rng_state(), before)


def test_the_global_generator_is_the_one_that_torch_draws_from() -> None:
    torch.manual_seed(0)
    expected = torch.randn(3)
    torch.manual_seed(0)
    own = torch.randn(3, generator=global_generator(torch.device("cpu")))
    assert torch.equal(own, expected)


def test_a_state_brings_every_source_back(tmp_path: Path) -> None:
    seed_all(0)
    draw()
    state = rng_state()
    first = draw()
    seed_all(9)
    draw()
    restore_rng_state(state)
    assert draw() == first


def test_a_state_survives_weights_only_loading(tmp_path: Path) -> None:
    seed_all(0)
    draw()
    torch.save(rng_state(), tmp_path / "rng.pt")
    first = draw()
    restore_rng_state(torch.load(tmp_path / "rng.pt", weights_only=True))
    assert draw() == first
