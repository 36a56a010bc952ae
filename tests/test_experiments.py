"""Every experiment at smoke length on digits, as a user starts it, through its report."""

from pathlib import Path

import pytest

from src.report.__main__ import main as report
from tests.smoke import Smoke

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("experiments")]
ONE = ["baseline=dafl", "seed=0"]
FEWER = {  # what keeps each to a few points, and how many these are
    "ablation": (["seed=0"], 5),
    "adjustments": ([*ONE, "kdci=none,weighting"], 2),
    "controlled_shift": (["seed=0", "pool.class_ratio=1,5", "kdci=none,prior"], 4),
    "cost": (ONE, 2),
    "fig1_substitution": (["baseline=dafl,dfnd"], 2),
    "fig4_dictionary_size": ([*ONE, "kdci=backdoor", "kdci.N=4,8"], 2),
    "fig5_tsne": ([], 2),
    "table_cifar10": (ONE, 2),
    "table_cifar100": ([*ONE, "kdci=none"], 1),
    "table_imagenet": ([*ONE, "kdci=none"], 1),
    "table_tiny_imagenet": ([*ONE, "kdci=none"], 1),
    "variance": (["kdci=none", "seed=0,1", "distill.repeat=0,1"], 4),
}
SHOWN = {
    "ablation": ("random lambda", "random z", "no P(z)", "vanilla"),
    "controlled_shift": ("unevenness", "pool.class_ratio=5"),
    "fig4_dictionary_size": ("N=4", "N=8"),
    "variance": ("teachers", "n for"),
}


@pytest.mark.parametrize("name", FEWER)
def test_an_experiment_through_its_report(
    name: str, smoke: Smoke, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides, points = FEWER[name]
    sweep = ["--multirun", f"experiments={name}", "dataset=digits", *overrides]
    finished = smoke.command(tmp_path, *sweep, "pool.num_images=300")
    assert finished.exit_code == 0, finished.stderr
    assert f"{points} points, 0 failed" in finished.stdout
    element = ["--experiment", name] if name in SHOWN else []
    capsys.readouterr()
    assert report([str(tmp_path), *element]) == 0
    shown = capsys.readouterr().out
    assert all(words in shown for words in SHOWN.get(name, ("digits",))), shown
