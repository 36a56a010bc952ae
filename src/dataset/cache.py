"""Decoded images on disk: decode once, then load or map.

``<cache_dir>/dataset/<key>/`` holds ``images.npy`` ``[N, 3, H, W]`` uint8, ``labels.npy`` ``[N]``
int64 and ``meta.json``. The key hashes relative path, size and time of change of every source
file, so a changed source gets a new entry; the source folder itself is only read.
"""

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.common.errors import UserError
from src.common.files import atomic_folder, atomic_write, content_hash, lock, remove_leftovers
from src.dataset.decode import Geometry, Pixels, decode_files
from src.dataset.listing import ImageFiles

_log = logging.getLogger(__name__)
_FORMAT = 1
MAP_ABOVE_BYTES = 2**30


@dataclass(frozen=True)
class Decoded:
    """Decoded images of a list of files.

    Attributes:
        images: ``[N, 3, H, W]`` uint8. Above ``MAP_ABOVE_BYTES`` a read-only memory map: writing
            into it ends the process.
        labels: ``[N]`` int64.
        names: Relative path of each image.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]


def load_decoded(
    files: ImageFiles,
    geometry: Geometry,
    cache_dir: Path,
    name: str,
    *,
    skip_corrupt: bool = False,
) -> Decoded:
    """Images of ``files`` from the cache, after decoding them where they are not there yet.

    Safe with several processes at once: one decodes, the others wait.

    Args:
        files: What to decode.
        geometry: Size of the result.
        cache_dir: Root of all caches.
        name: Readable first part of the key.
        skip_corrupt: Leave unreadable images out, with a warning, instead of failing.

    Raises:
        UserError: If images cannot be decoded or the cache cannot be written.
    """
    version = [_FORMAT, asdict(geometry), skip_corrupt, files.signature()]
    folder = cache_dir / "dataset" / f"{name}-{geometry.size}-{content_hash(version)[:16]}"
    found = _read(folder, files)
    if found is not None:
        return found
    with _writing(folder), lock(folder):
        found = _read(folder, files)
        if found is None:
            remove_leftovers(folder)
            _log.info("Decoding %d images of '%s' into '%s'", len(files.names), files.root, folder)
            with atomic_folder(folder) as temporary:
                _build(temporary, files, geometry, skip_corrupt=skip_corrupt)
            found = _read(folder, files)
    if found is None:
        raise UserError(f"Cannot read back the cache '{folder}'; check the disk or paths.cache")
    return found


def remember(cache_dir: Path, key: str, compute: Callable[[], Any]) -> Any:
    """The JSON-able result of ``compute``, kept as ``<cache_dir>/dataset/<key>.json``."""
    path = cache_dir / "dataset" / f"{key}.json"
    if not path.exists():
        with _writing(path), lock(path):
            if not path.exists():  # another process may have computed it meanwhile
                value = compute()
                with atomic_write(path) as temporary:
                    temporary.write_text(json.dumps(value))
    return json.loads(path.read_text())


def _build(folder: Path, files: ImageFiles, geometry: Geometry, *, skip_corrupt: bool) -> None:
    corrupt: dict[int, str] = {}

    def readable() -> Iterator[Pixels]:
        for index, result in enumerate(decode_files(files.paths, geometry)):
            if isinstance(result, str):
                corrupt[index] = result
            else:
                yield result

    shape = (len(files.names), 3, geometry.size, geometry.size)
    count = _write_images(folder / "images.npy", readable(), shape)
    if corrupt:
        first = min(corrupt)
        report = (
            f"{len(corrupt)} of {len(files.names)} images in '{files.root}' cannot be decoded, "
            f"first '{files.names[first]}' ({corrupt[first]})"
        )
        if not skip_corrupt or count == 0:
            raise UserError(f"{report}; replace them, or leave them out with skip_corrupt=true")
        _log.warning("%s; left out", report)
    labels = np.array([label for i, label in enumerate(files.labels) if i not in corrupt])
    np.save(folder / "labels.npy", labels.astype(np.int64))
    meta = {"source": str(files.root), "num_images": count, "skipped": sorted(corrupt)}
    (folder / "meta.json").write_text(json.dumps(meta))


def _write_images(path: Path, images: Iterator[Pixels], shape: tuple[int, ...]) -> int:
    """Stream images into an ``.npy`` file, so that a set larger than memory can be written."""
    count = 0
    with path.open("wb") as file:
        _write_header(file, shape)
        for image in images:
            file.write(image.tobytes())
            count += 1
        # NumPy pads the header such that the first axis may change in place.
        file.seek(0)
        _write_header(file, (count, *shape[1:]))
    return count


def _write_header(file: Any, shape: tuple[int, ...]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _read(folder: Path, files: ImageFiles) -> Decoded | None:
    if not folder.is_dir():
        return None
    path = folder / "images.npy"
    try:
        large = path.stat().st_size > MAP_ABOVE_BYTES
        images = np.load(path, mmap_mode="r" if large else None, allow_pickle=False)
        labels = torch.from_numpy(np.load(folder / "labels.npy", allow_pickle=False))
        skipped = set(json.loads((folder / "meta.json").read_text())["skipped"])
    except (OSError, ValueError, KeyError, EOFError) as error:
        _log.warning("The cache '%s' is damaged (%s); decoding again", folder, error)
        return None
    names = tuple(name for i, name in enumerate(files.names) if i not in skipped)
    return Decoded(_as_tensor(images), labels, names)


def _as_tensor(images: Pixels) -> Tensor:
    with warnings.catch_warnings():
        # A map is read-only on purpose. Copy-on-write maps would be silent, but the system
        # counts them as memory and refuses one larger than the machine's.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(images)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"Cannot write the cache '{path}' ({error.strerror}); free space, or point "
            "paths.cache to a folder that can be written"
        ) from error
