"""Files that are whole or absent, hashes that name content, and locks between processes."""

import errno
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from src.common.errors import UserError

if TYPE_CHECKING:  # a reader of tables needs files and hashes, but never torch
    from torch import Tensor

_log = logging.getLogger(__name__)
_PROBE_BYTES = 2**20
_NOT_FLUSHED = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}  # of folders, by FUSE and SMB


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write a file under a temporary name, then put it in place in one step.

    Missing parent folders are made. When the block fails, an older file at ``path`` stays.

    Args:
        path: The file; its suffix is kept by the temporary name.

    Yields:
        Path in the same folder, to be written by the block.

    Raises:
        UserError: If the disk does not take it.
    """
    temporary = _temporary(path)
    try:
        with writing(path):  # which finds a disk full only while the half file is there
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            flush(temporary)
            os.replace(temporary, path)
            flush(path.parent)
    finally:
        with suppress(OSError):  # of a folder that never was
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in one line what keeps a file or folder from being written: a full disk, say.

    Raises:
        UserError: If the disk does not take it; names the path and the cure.
    """
    try:
        yield
    except (UserError, Timeout):
        raise
    except Exception as error:
        # Writers in C++ and Rust have errors of their own, which do not tell why.
        reason = error if isinstance(error, OSError) else _probe(path.parent)
        if reason is None:
            raise
        raise UserError(
            f"Cannot write '{path}' ({reason.strerror or reason}); free space there, or point "
            "paths.outputs and paths.cache to folders that can be written. What is done is kept: "
            "the same command then goes on"
        ) from error


def _probe(folder: Path) -> OSError | None:
    """Why nothing can be written into ``folder``; None if something can."""
    probe = folder / f".{os.getpid()}-{secrets.token_hex(4)}-probe"
    try:
        probe.write_bytes(bytes(_PROBE_BYTES))
    except OSError as error:
        return error
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return None


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Fill a folder under a temporary name, then rename it; on failure nothing is left.

    A folder that lies at ``path`` already is replaced. Processes that may write the same
    folder at once hold ``lock(path)``.

    Yields:
        Empty folder beside ``path``, to be filled by the block.
    """
    temporary, aside = _temporary(path), _temporary(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.rglob("*"):
            flush(file)
        if path.exists():  # a folder cannot be renamed onto one that has content
            path.rename(aside)
        temporary.rename(path)
        flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Delete what killed writers left in ``folder``; call it holding a lock against others.

    Args:
        folder: Where they wrote.
        name: Of the file or folder that they wrote; None for any.
    """
    ending = ".+" if name is None else re.escape(name)
    # Where nobody else writes, safetensors' own, too, which are hidden and have random names.
    others = "" if name else r"|\.tmp\w{6}"
    pattern = re.compile(rf"\.\d+-[0-9a-f]{{8}}-{ending}{others}")
    for entry in list(folder.iterdir()) if folder.is_dir() else ():
        if pattern.fullmatch(entry.name):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def remove_spent_state(folder: Path) -> None:
    """Delete the ``state`` of a finished run whose process was killed before it could do so.

    Unless another process holds the run: then it is making it again.
    """
    state = folder / "state"
    if state.exists():
        with suppress(UserError), lock(folder, wait=False):
            shutil.rmtree(state, ignore_errors=True)


@contextmanager
def lock(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold ``<path>.lock`` against other processes; the system frees it when a process dies.

    Args:
        path: The file or folder to guard; need not exist.
        wait: Wait for the other process, or fail at once.

    Raises:
        UserError: When another process holds it and ``wait`` is false.
    """
    guard = FileLock(path.with_name(f"{path.name}.lock"))
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            guard.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise UserError(
                f"Expected '{path}' to be free, but another process is using it; "
                "wait for that process or stop it"
            ) from None
        _log.info("Waiting for another process that holds '%s'", guard.lock_file)
        guard.acquire()
    try:
        yield
    finally:
        guard.release()


def flush(path: Path) -> None:
    """Wait until the disk has a file or folder, where there is a way to wait for folders."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NOT_FLUSHED or not path.is_dir():
            raise
    finally:
        os.close(handle)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_tensors(*tensors: "Tensor") -> str:
    """SHA-256 over dtype, shape and bytes of ``tensors`` in order, hexadecimal."""
    import torch

    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def content_hash(value: Any) -> str:
    """SHA-256 of a JSON-able value, hexadecimal; the order of dictionary keys is irrelevant.

    Raises:
        TypeError: If ``value`` holds anything that JSON cannot.
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _temporary(path: Path) -> Path:
    return path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}-{path.name}")
