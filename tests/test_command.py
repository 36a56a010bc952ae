"""What the program prints when it is asked about itself."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from src import command
from src.common import package
from src.common.errors import UserError
from src.common.signals import FOUND


def printed(*arguments: str, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "src.run", *arguments],
        cwd=package.ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_help_begins_with_examples_and_words_and_ends_with_the_groups() -> None:
    text = printed("--help", "baseline=cmi")
    first, keys, groups = text.split("\n== ")[2:]
    assert "python -m src.run --multirun" in text.split("== Words")[0]
    assert first.startswith("Words ==")
    methods = "cmi, cudfkd, dafl, deepinv, dfad, dfnd, dfq, fast, mosaickd, nayer, spaceshipnet"
    assert methods + ", zskt" in " ".join(first.split())
    assert keys.startswith("Every key")
    assert "_target_: src.baseline.cmi.CMI" in keys
    assert "recipe: " in groups
    assert max(len(line) for line in text.split("== Every key")[0].splitlines()) <= 80


def test_settings_that_a_pattern_finds_are_looked_at_late(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KDCI_PLUGINS", "KDCI_COMPOSING"):
        monkeypatch.setenv(name, "[]")
    monkeypatch.setattr(sys, "argv", ["src.run"])
    command._prepare(["-m", "setting=glob(cifar*)"])
    late = ",".join(f"${{oc.decode:{name}}}" for name in ("cifar10", "cifar100"))
    assert sys.argv[1:] == ["-m", f"setting={late}"]
    with pytest.raises(UserError, match=r"Expected one option in 'setting=glob\(cifar\*\)'"):
        command._prepare(["setting=glob(cifar*)"])
    with pytest.raises(UserError, match="Expected 'seed' once in a sweep, as in 'seed=0,1', but"):
        command._prepare(["-m", "seed=0,1", "seed=2"])


def test_tab_completes_options_and_keys() -> None:
    line = "kdci baseline=cm"
    found = printed("-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)))
    assert found.split() == ["baseline=cmi"]


# Says what a point or a rank would be given, and where, and starts none.
SHOWING = """
import json, os
from src import command, launch, point
def show(overrides):
    print(json.dumps([overrides, os.getcwd()]))
point.run_point = lambda overrides, record: show(overrides)
launch.run_single = lambda config, overrides: show([*overrides, f"seed is {config.seed}"])
command.command()
"""


def write_mine(path: Path, *, mode: str = "RUN") -> None:
    """The main configuration with another seed."""
    text = (package.CONF / "config.yaml").read_text()
    text = text.replace("\nhydra:\n", f"\nhydra:\n  mode: {mode}\n")
    path.write_text(re.sub(r"^seed: \d+", "seed: 7", text, flags=re.MULTILINE))


def showing(folder: Path, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
    environment = more | {
        name: v for name, v in os.environ.items() if not name.startswith("KDCI_")
    }
    return subprocess.run(
        [sys.executable, "-c", SHOWING, *arguments],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(package.ROOT)},
        capture_output=True,
        text=True,
    )


def shown(done: "subprocess.CompletedProcess[str]") -> list[Any]:
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[[")]


def test_points_and_ranks_are_composed_of_the_same_configuration(tmp_path: Path) -> None:
    (tmp_path / "cfg").mkdir()
    write_mine(tmp_path / "cfg" / "mine.yaml")
    flags = ["--config-name=mine", "--config-dir=cfg"]
    done = showing(tmp_path, "kdci.N=4,8", "-m", *flags, "hydra.job.chdir=true")
    # Where the points' relative paths are meant.
    assert shown(done) == [[[*flags, f"kdci.N={n}"], str(tmp_path)] for n in (4, 8)], done.stderr
    alone = showing(tmp_path, "kdci.N=4", "-cn", "mine", "-cd", "cfg")
    assert shown(alone) == [[[*flags, "kdci.N=4", "seed is 7"], str(tmp_path)]], alone.stderr


def test_a_sweep_that_only_a_file_asks_for_is_refused(tmp_path: Path) -> None:
    write_mine(tmp_path / "mine.yaml", mode="MULTIRUN")
    done = showing(tmp_path, "kdci.N=4", "-cn", "mine", "-cd", ".")
    assert (done.returncode, shown(done)) == (2, [])
    assert "Error: Refused 'hydra.mode' of a configuration" in done.stderr


def test_an_experiment_is_not_run_as_one_point_by_mistake(tmp_path: Path) -> None:
    done = showing(tmp_path, "experiments=ablation")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: Expected --multirun with experiments=ablation")
    meant = showing(tmp_path, "experiments=ablation", "hydra.mode=RUN")
    assert len(shown(meant)) == 1, meant.stderr
    swept = showing(tmp_path, "experiments=ablation,variance", "-m")  # each has its own
    assert (swept.returncode, shown(swept)) == (2, [])
    assert "Error: Expected the same values in hydra.sweeper.params for all" in swept.stderr
    handed_down = {"TORCHELASTIC_RUN_ID": "1", "RANK": "0", FOUND: "{}", "KDCI_TYPED": ""}
    rank = showing(tmp_path, "experiments=ablation", **handed_down)  # its parent had the word
    assert len(shown(rank)) == 1, rank.stderr
    (tmp_path / "cfg/experiments").mkdir(parents=True)
    heir = "# @package _global_\ndefaults: [../experiments/ablation.yaml, _self_]\n"
    (tmp_path / "cfg/experiments/heir.yaml").write_text(heir)
    done = showing(tmp_path, "experiments=heir", "--config-dir=cfg")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: Expected --multirun with experiments=heir, which is a")


def test_a_sweep_is_known_by_where_its_options_lie(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two people with folders of one name and the same outputs have sweeps of their own."""
    names = set()
    monkeypatch.setattr(command, "_prepare", lambda _: None)
    monkeypatch.setattr(command, "_job", lambda: None)
    monkeypatch.setattr(os, "execve", None)  # what starts anew is not tried here
    for name in ("KDCI_SWEEP", "KDCI_ROOT", "HYDRA_FULL_ERROR", "KDCI_SWEEP_PROCESS"):
        monkeypatch.setenv(name, "")
    for name in ("alice", "bob"):
        (tmp_path / name / "own").mkdir(parents=True)
        monkeypatch.setenv("HOME", str(tmp_path / name))
        monkeypatch.setattr(sys, "argv", ["src.run", "-m", "--config-dir=~/own", "seed=0,1"])
        command.command()
        names.add(os.environ["KDCI_SWEEP"])
    assert len(names) == 2
