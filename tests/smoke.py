"""Whole runs at the smoke budget, as a user starts them or inside this process."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir

from src import naming
from src.common import package
from src.config.check import check
from src.config.schema import RunConfig
from src.pipeline.run import run

LIMIT = 600  # seconds; nothing at this budget takes a tenth of it on a machine at rest


def on_two_ranks(module: str, folder: Path) -> list[dict[str, Any]]:
    """Run ``python -m module folder`` as rank 0 and rank 1; what each has left in its file."""
    command = [sys.executable, "-m", module, str(folder)]
    processes = [
        subprocess.Popen(command, cwd=package.ROOT, env=os.environ | {"RANK": str(rank)})
        for rank in range(2)
    ]
    try:
        assert [process.wait(LIMIT) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@dataclass(frozen=True)
class Finished:
    """How a program ended."""

    exit_code: int
    stdout: str
    stderr: str
    outputs: Path

    @property
    def summaries(self) -> list[dict[str, Any]]:
        """All summaries below the outputs, in path order."""
        return [
            json.loads(path.read_text()) for path in sorted(self.outputs.rglob("summary.json"))
        ]

    @property
    def folder(self) -> Path:
        """Folder of the only run."""
        (path,) = self.outputs.rglob("summary.json")
        return path.parent

    @property
    def summary(self) -> dict[str, Any]:
        """Summary of the only run."""
        (summary,) = self.summaries
        return summary

    def complaint(self) -> str:
        """The one line on stderr of a program that was given bad input."""
        (line,) = self.stderr.splitlines()
        assert line.startswith("Error: "), line
        return line


class Smoke:
    """Runs programs and pipelines; teachers and substitution data are shared through a cache.

    Args:
        folder: Empty folder for the cache and for the first run.
    """

    def __init__(self, folder: Path) -> None:
        self.root, self.cache = folder, folder / "cache"

    def overrides(self, outputs: Path, *more: str, cache: Path | None = None) -> list[str]:
        """Arguments of a run with its own outputs; later arguments win."""
        paths = [f"paths.outputs={outputs}", f"paths.cache={cache or self.cache}"]
        return ["budget=smoke", "trainer.progress=false", *paths, *more]

    def start(
        self, outputs: Path, *more: str, cache: Path | None = None
    ) -> "subprocess.Popen[str]":
        """``python -m src.run``, not waited for."""
        command = [sys.executable, "-m", "src.run", *self.overrides(outputs, *more, cache=cache)]
        return subprocess.Popen(
            command,
            cwd=package.ROOT,
            env=os.environ | {"WANDB_SILENT": "true"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def command(self, outputs: Path, *more: str, cache: Path | None = None) -> Finished:
        """``python -m src.run`` with its own outputs."""
        with self.start(outputs, *more, cache=cache) as process:
            try:
                stdout, stderr = process.communicate(timeout=LIMIT)
            except subprocess.TimeoutExpired:
                process.terminate()  # which takes its ranks down too; killed, it would leave them
                stdout, stderr = process.communicate(timeout=LIMIT)
                raise AssertionError(f"no end after {LIMIT} s: {stdout}{stderr}") from None
        return Finished(process.returncode, stdout, stderr, outputs)

    @property
    def default(self) -> Finished:
        """The main job: DAFL on digits with KDCI; leaves teacher and stage (a) in the cache."""
        return self._default[0]

    @property
    def teacher(self) -> Path:
        """Folder of the teacher that it has trained."""
        return self._default[1]

    @cached_property
    def _default(self) -> tuple[Finished, Path]:
        before = set((self.cache / "teacher").glob("*/"))
        finished = self.command(self.root / "default")
        assert finished.exit_code == 0, finished.stderr
        made = set((self.cache / "teacher").glob("*/")) - before
        # A test that runs the program itself may have trained it before.
        said = re.findall(r"Reusing the teacher in (.*)", finished.stdout + finished.stderr)
        (teacher,) = made or map(Path, said)
        return finished, teacher

    def config(self, outputs: Path, *more: str, cache: Path | None = None) -> RunConfig:
        """The checked configuration of a run."""
        if cache is None:
            assert self.default  # whoever shares the cache finds the teacher in it
        with initialize_config_dir(str(package.CONF), version_base="1.3"):
            config = compose("config", self.overrides(outputs, *more, cache=cache))
        return check(naming.resolved(config))

    def cache_with_teacher(self, folder: Path) -> Path:
        """A cache of one's own in which the teacher lies already."""
        shutil.copytree(self.teacher, folder / "teacher" / self.teacher.name)
        return folder

    def here(self, outputs: Path, *more: str, cache: Path | None = None) -> Finished:
        """The same in this process, which spares the imports."""
        config = self.config(outputs, *more, cache=cache)
        baseline = config.baseline["_target_"].split(".")[-2]
        kdci = "none" if config.kdci is None else config.kdci.name
        choices = {"dataset": "digits", "baseline": baseline, "kdci": kdci, "budget": "smoke"}
        choices["recipe"] = f"{baseline}_digits"
        run(config, outputs / "run", naming.RunName("distill", choices))
        return Finished(0, "", "", outputs)
