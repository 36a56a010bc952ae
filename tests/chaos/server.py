"""A process that has imported everything and forks a child for every program it is asked for.

It reads one JSON request a line from its input and answers on its output: the process id when
the child exists, the exit code when it has ended. It starts no thread.
"""

import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import sys
from typing import Any

from tests.chaos import child

_LIBRARIES = ("faiss", "sklearn.datasets", "PIL.Image", "matplotlib", "rich.table", "wandb")
_POLL_SECONDS = 0.02


def _import_everything() -> None:
    import src

    for module in pkgutil.walk_packages(src.__path__, "src."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in _LIBRARIES:
        importlib.import_module(name)
    importlib.import_module("hydra._internal.core_plugins")
    gc.collect()
    gc.freeze()


def _answer(**values: Any) -> None:
    os.write(1, (json.dumps(values) + "\n").encode())


def _reap(children: dict[int, int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        if pid in children:
            _answer(id=children.pop(pid), code=os.waitstatus_to_exitcode(status))


def _serve() -> dict[str, Any] | None:
    """Fork as asked; in the child, return its request; None when there will be no more."""
    children: dict[int, int] = {}
    buffer = b""
    while True:
        _reap(children)
        if not select.select([0], [], [], _POLL_SECONDS)[0]:
            continue
        data = os.read(0, 2**16)
        if not data:
            for pid in children:
                os.killpg(pid, signal.SIGKILL)
            return None
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            request: dict[str, Any] = json.loads(line)
            pid = os.fork()
            if pid == 0:
                return request
            children[pid] = request["id"]
            _answer(id=request["id"], pid=pid)


def main() -> None:
    _import_everything()
    if len(os.listdir("/proc/self/task")) > 1:
        sys.stderr.write("Expected no thread in the fork server\n")
        sys.exit(1)
    _answer(ready=True)
    request = _serve()
    if request is not None:
        child.become(request)


if __name__ == "__main__":
    main()
