import copy
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.report.summary import Summary

MakeSummary = Callable[..., Summary]

FINISHED: dict[str, Any] = {
    "status": "finished",
    "error": None,
    "baseline": "dafl",
    "dataset": "digits",
    "teacher": {
        "name": "convnet_m",
        "acc1": 97.25,
        "seed": 0,
        "checkpoint": None,
        "sha256": "ab12",
    },
    "student": {"name": "convnet_s"},
    "kdci": {"name": "none", "N": None, "strength": None, "attention": None},
    "seed": 0,
    "budget": "laptop",
    "acc1": {"last": 80.0, "best": 81.0, "compensated": None, "stage_a": None},
    "substitution": {"mode": "replay", "images": 100, "reused": False, "artifact": "a"},
    "seconds": {
        "teacher": 1.0,
        "stage_a": 20.0,
        "dictionary": None,
        "stage_b": 9.0,
        "total": 30.0,
    },
    "peak_memory_mb": 1500.0,
    "peak_memory_mb_by_stage": {"teacher": 900.0, "stage_a": 1500.0, "stage_b": 1200.0},
    "identity": {
        "run": "c0ffee",
        "settings": {"student.lr": 0.1},
        "contents": {"dataset": "d1" * 16},
        "code": {"teacher": "t1", "stage_a": "a1", "stage_b": "b1"},
    },
    "config": {"seed": 0, "student": {"lr": 0.1}, "kdci": {"name": "none"}},
    "device": "cpu",
    "class_proportions": [0.25, 0.75],
    "dictionary": None,
    "files": {"student": "student.safetensors"},
    "checksums": {},
    "folder": "outputs/run",
}


@pytest.fixture(scope="session")
def make_summary() -> MakeSummary:
    """A finished vanilla run; keyword arguments replace top-level values, dicts are merged.

    ``settings``, ``contents`` and ``code`` are merged into the identity.
    """

    def make(last: float = 80.0, **changes: Any) -> Summary:
        summary = copy.deepcopy(FINISHED)
        for part in ("settings", "contents", "code"):
            summary["identity"][part] |= changes.pop(part, {})
        summary["acc1"]["last"] = last
        for key, value in changes.items():
            merged = isinstance(value, dict) and isinstance(summary[key], dict)
            summary[key] = summary[key] | value if merged else value
        kdci = summary["kdci"]
        vanilla = kdci["name"] == "none"
        shown = {"name": "none"} if vanilla else kdci
        settings = {"seed": summary["seed"], **{f"kdci.{k}": v for k, v in shown.items()}}
        summary["identity"]["settings"] |= settings
        if not vanilla:
            summary["identity"]["code"].setdefault("kdci", "k1")
        summary["folder"] = f"outputs/{summary['kdci']['name']}_{summary['seed']}_{last}"
        return summary  # type: ignore[return-value]

    return make


@pytest.fixture(scope="session")
def make_kdci(make_summary: MakeSummary) -> MakeSummary:
    """The same run with compensation; ``kdci`` options are merged into the defaults."""

    def make(last: float, **changes: Any) -> Summary:
        options = {"name": "backdoor", "N": 16, "strength": 1.0, "attention": "additive"}
        kdci = options | changes.pop("kdci", {})
        return make_summary(last, kdci=kdci, **changes)

    return make


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Close a folder, to root too, whom a mode would not stop."""

    def close(folder: Path) -> None:
        scandir = os.scandir

        def refusing(path: Any) -> Any:
            if Path(path) == folder:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refusing)

    return close


@pytest.fixture
def isolated_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep W&B away from the user's account, settings and terminal."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("WANDB_SILENT", "true")
