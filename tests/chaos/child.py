"""What a forked child does: redirect, set its trap, and become the program."""

import os
import resource
import runpy
import sys
import tempfile
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir")


class Trap:
    """Counts the changes below a folder, notes them, and raises a signal before one of them.

    Args:
        root: Folder whose changes count.
        log: File that has one line a change.
        at: Number of the change, from 0; None for no signal.
        number: The signal.
    """

    def __init__(self, root: str, log: str, at: int | None, number: int) -> None:
        self.root, self.at, self.number = root, at, number
        self.count = 0
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
        self.pid = os.getpid()

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        path = self._changed(event, arguments)
        if path is None or os.getpid() != self.pid:
            return
        count, self.count = self.count, self.count + 1
        os.write(self.log, f"{event} {path}\n".encode(errors="replace"))
        if count == self.at:
            os.kill(self.pid, self.number)

    def _changed(self, event: str, arguments: tuple[Any, ...]) -> str | None:
        if event == "open":
            path, mode, flags = arguments
            if not (flags or 0) & _WRITING and (mode or "r")[0] == "r":
                return None
        elif event in _CHANGES:
            path = arguments[1] if event == "os.rename" else arguments[0]
        else:
            return None
        if isinstance(path, int):
            return None
        name = os.fsdecode(path)
        if not name.startswith("/") and event in _CHANGES:
            return name  # relative to an open folder: a tree is being removed
        return name if name.startswith(self.root) else None


def become(request: dict[str, Any]) -> None:
    """Be the program that was asked for; ends as it ends."""
    os.setsid()
    for target, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, request["stdout"], os.O_WRONLY | os.O_CREAT),
        (2, request["stderr"], os.O_WRONLY | os.O_CREAT),
    ):
        opened = os.open(path, flags)
        os.dup2(opened, target)
        os.close(opened)
    if request.get("memory"):
        resource.setrlimit(resource.RLIMIT_AS, (request["memory"], request["memory"]))
    os.environ.update(request.get("environment") or {})
    tempfile.tempdir = None
    os.chdir(request["cwd"])
    trap = request.get("trap")
    if trap:
        sys.addaudithook(Trap(trap["root"], trap["log"], trap["at"], trap["signal"]))
    sys.argv[1:] = [os.fsdecode(argument) for argument in request["arguments"]]
    sys.modules.pop(request["module"], None)  # it runs as the main module, as it would have
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
