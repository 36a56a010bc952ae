"""Where programs are run: a copy of the source, a fork server, and undisturbed runs to compare."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.chaos.verdict import Outcome

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 240  # seconds; nothing here takes a tenth of it on a machine at rest
_PARTS = ("src", "conf", "experiments", "tests/chaos")
_Value = TypeVar("_Value")
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "WANDB_SILENT": "true",
    "PYTHONDONTWRITEBYTECODE": "1",
    "GIT_CEILING_DIRECTORIES": "/",
}

SMALL_NETWORKS = ("teacher.network.widths=[8,16]", "student.network.widths=[4,8]")
DIGITS = (
    "budget=smoke",
    "dataset=digits",
    "trainer.progress=false",
    *SMALL_NETWORKS,
    "teacher.fit.batch_size=256",
    "pool.num_images=300",
    "kdci.dictionary.iterations=5",
)


def copy_tree(folder: Path) -> Path:
    """The source as it is now, so that nothing edited meanwhile disturbs."""
    for part in _PARTS:
        skip = shutil.ignore_patterns("__pycache__", "results", "*.pdf", "*.png")
        shutil.copytree(ROOT / part, folder / part, ignore=skip)
    shutil.copy(ROOT / "tests/__init__.py", folder / "tests")
    return folder


@dataclass
class Running:
    """A program that was started; ``pid`` leads a process group of its own."""

    number: int
    folder: Path
    arguments: tuple[str, ...]
    started: float
    process: "subprocess.Popen[bytes] | None" = None
    pid: int = 0
    code: int | None = None

    @property
    def stderr(self) -> str:
        return _text(self.folder / f"{self.number}.err")

    @property
    def stdout(self) -> str:
        return _text(self.folder / f"{self.number}.out")

    @property
    def changes(self) -> tuple[str, ...]:
        return tuple(_text(self.folder / f"{self.number}.changes").splitlines())

    def send(self, number: int, *, group: bool = False) -> None:
        """Send a signal to the program, or to all that it has started."""
        try:
            (os.killpg if group else os.kill)(self.pid, number)
        except ProcessLookupError:
            return


def _text(path: Path) -> str:
    return path.read_bytes().decode(errors="replace") if path.exists() else ""


def start_real(running: Running, module: str, cwd: Path, environment: Mapping[str, str]) -> None:
    """Start a program as a process, session and process group of its own."""
    names = [running.folder / f"{running.number}.{suffix}" for suffix in ("out", "err")]
    with names[0].open("wb") as stdout, names[1].open("wb") as stderr:
        running.process = subprocess.Popen(
            [sys.executable, "-m", module, *running.arguments],
            cwd=cwd,
            env={**os.environ, **_ENVIRONMENT, **environment},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
    running.pid = running.process.pid


def heed_all_signals() -> None:
    """What ignores a signal passes that on: under ``nohup``, or behind ``&`` in a script."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


class Lab:
    """Runs programs and remembers undisturbed results.

    Args:
        folder: Empty folder for everything.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        heed_all_signals()
        self.tree = copy_tree(folder / "tree")
        self._condition = threading.Condition()
        self._started: dict[int, Running] = {}
        self._last = 0
        self._ready = self._is_dead = False
        self._once: dict[Any, Any] = {}
        self._guards: dict[Any, threading.Lock] = {}
        self._server = self._start_server()
        self._reader = threading.Thread(target=self._read_answers, daemon=True)
        self._reader.start()

    def _start_server(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.server"],
            cwd=self.tree,
            env=os.environ | _ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def _read_answers(self) -> None:
        for line in self._server.stdout or ():
            answer = json.loads(line)
            with self._condition:
                if "ready" in answer:
                    self._ready = True
                elif "pid" in answer:
                    self._started[answer["id"]].pid = answer["pid"]
                else:
                    self._started[answer["id"]].code = answer["code"]
                self._condition.notify_all()
        with self._condition:
            self._is_dead = True
            self._condition.notify_all()

    def close(self) -> None:
        """End the server and what it has started."""
        if self._server.stdin:
            self._server.stdin.close()
        self._server.wait()
        self._reader.join()
        if self._server.stdout:
            self._server.stdout.close()

    def start(
        self,
        folder: Path,
        arguments: Sequence[str],
        *,
        module: str = "src.run",
        trap: tuple[int | None, int] = (None, signal.SIGKILL),
        environment: Mapping[str, str] | None = None,
        memory: int | None = None,
        tree: Path | None = None,
        real: bool = False,
    ) -> Running:
        """Start a program; with ``real``, a process of its own from the first import on.

        Args:
            folder: Where its output goes, and whose changes count for the trap.
            arguments: Those of the command line.
            module: What to run.
            trap: Number of a change, and the signal to raise before it.
            environment: Variables to set.
            memory: Bytes of address space that it may have.
            tree: Source to run from; the copy by default.
            real: Import everything anew.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with self._condition:
            self._condition.wait_for(lambda: self._ready or self._is_dead)
            self._last += 1
            running = Running(self._last, folder, tuple(arguments), time.monotonic())
            self._started[running.number] = running
        cwd = tree or self.tree
        if real:
            start_real(running, module, cwd, environment or {})
            return running
        request = {
            "id": running.number,
            "module": module,
            "arguments": list(arguments),
            "stdout": str(folder / f"{running.number}.out"),
            "stderr": str(folder / f"{running.number}.err"),
            "cwd": str(cwd),
            "environment": dict(environment or {}),
            "memory": memory,
            "trap": {
                "root": str(folder),
                "log": str(folder / f"{running.number}.changes"),
                "at": trap[0],
                "signal": int(trap[1]),
            },
        }
        with self._condition:
            assert self._server.stdin is not None
            self._server.stdin.write((json.dumps(request) + "\n").encode())
            self._server.stdin.flush()
            self._condition.wait_for(lambda: running.pid or self._is_dead)
        return running

    def wait(self, running: Running, limit: float = LIMIT) -> Outcome:
        """How it ended; one that does not end in time is killed with all that it has started."""
        code = self._code(running, limit)
        if code is None:
            running.send(signal.SIGKILL, group=True)
            self._code(running, LIMIT)
        return Outcome(
            code,
            running.stdout,
            running.stderr,
            time.monotonic() - running.started,
            running.arguments,
            running.changes,
        )

    def _code(self, running: Running, limit: float) -> int | None:
        if running.process is not None:
            try:
                return running.process.wait(limit)
            except subprocess.TimeoutExpired:
                return None
        with self._condition:
            self._condition.wait_for(lambda: running.code is not None or self._is_dead, limit)
            if self._is_dead:
                raise RuntimeError("The fork server has died")
        return running.code

    def run(
        self, folder: Path, arguments: Sequence[str], *, limit: float = LIMIT, **how: Any
    ) -> Outcome:
        """Start a program and wait for it."""
        return self.wait(self.start(folder, arguments, **how), limit)

    def once(self, key: Any, make: Callable[[], _Value]) -> _Value:
        """What ``make`` returns, made by the first of all threads that ask."""
        with self._condition:
            guard = self._guards.setdefault(key, threading.Lock())
        with guard:
            if key not in self._once:
                self._once[key] = make()
        value: _Value = self._once[key]
        return value
