"""What a method asks of its options, seen before anything is trained."""

import pytest

from src.common.errors import UserError
from src.config.check import check
from tests.compose import plain

GENERATOR = "baseline.generator._target_=src.network.generator."
LATENTS = "~baseline.generator.latent_dim"


@pytest.mark.parametrize(
    ("baseline", "key", "allowed", "refused"),
    [
        ("nayer", "bn_momentum", (0.0, 0.99), (1.0, 1.5, -0.1)),
        ("fast", "bn_momentum", (0.0, 0.99), (1.0, 1.5, -0.1)),
        ("deepinv", "js_floor", (1e-6, 0.49), (0.5, 0.6, 0.0)),
    ],
)
def test_a_number_without_its_range_is_refused(
    baseline: str, key: str, allowed: tuple[float, ...], refused: tuple[float, ...]
) -> None:
    for value in allowed:
        check(plain(f"baseline={baseline}", f"baseline.{key}={value}"))
    for value in refused:
        with pytest.raises(UserError, match=rf"'baseline\.{key}': expected .* but got {value}"):
            check(plain(f"baseline={baseline}", f"baseline.{key}={value}"))


@pytest.mark.parametrize("name", ["DeepGenerator", "DAFLGenerator"])
def test_nayer_asks_for_pixels_of_vectors(name: str) -> None:
    told = rf"{name}': expected .*, a subclass of src\.network\.generator\.Generator"
    with pytest.raises(UserError, match=told):
        check(plain("baseline=nayer", f"{GENERATOR}{name}", LATENTS))
