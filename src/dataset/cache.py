"""Decoded images on disk: decode once, then load or map.

``<cache_dir>/dataset/<key>/`` holds ``images.npy`` ``[N, 3, H, W]`` uint8, ``labels.npy`` ``[N]``
int64 and ``meta.json``, a sealed card with the checksums of both. The key hashes names, labels and
content of all source files, and what decodes them, so a changed source gets a new entry and an
equal copy does not; the source folder itself is only read.
"""

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.common.errors import UserError
from src.common.files import atomic_folder, content_hash, lock, remove_leftovers, writing
from src.common.provenance import source_hash
from src.common.sealed import DamagedError, digests, read_own, verify, write_sealed
from src.dataset.decode import Geometry, Pixels, decode_files
from src.dataset.listing import ImageFiles, some

_log = logging.getLogger(__name__)
_FORMAT = 4
DECODER = "src.dataset.decode"
_ARRAYS, _CARD = ("images.npy", "labels.npy"), "meta.json"
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
    content = content_of(files, cache_dir, name)
    # An entry that lacks images must not serve a run that would refuse them, and whether one lacks
    # any is known only when it is decoded.
    version = [_FORMAT, asdict(geometry), skip_corrupt, content, source_hash([DECODER])]
    folder = cache_dir / "dataset" / f"{name}-{geometry.size}-{content_hash(version)[:16]}"
    found = _read(folder, files)
    if found is not None:
        return found
    with lock(folder), writing(folder):
        found = _read(folder, files)
        if found is None:
            remove_leftovers(folder.parent, folder.name)
            _log.info("Decoding %d images of '%s' into '%s'", len(files.names), files.root, folder)
            with atomic_folder(folder) as temporary:
                _build(temporary, files, geometry, skip_corrupt=skip_corrupt, of=folder.name)
                _require_unchanged(files)
            found = _read(folder, files)
    if found is None:
        raise UserError(f"Cannot read back the cache '{folder}'; check the disk or paths.cache")
    return found


def content_of(files: ImageFiles, cache_dir: Path, name: str) -> str:
    """Hash of the files' contents, remembered for as long as they stay as they are.

    Args:
        files: What to hash.
        cache_dir: Root of all caches.
        name: Readable first part of the memory's name.
    """
    return str(
        remember(
            cache_dir,
            f"{name}-fingerprint-{files.signature()[:32]}",
            files.fingerprint,
            is_lasting=files.is_settled(),
        )
    )


def remember(
    cache_dir: Path, key: str, compute: Callable[[], Any], *, is_lasting: bool = True
) -> Any:
    """The JSON-able result of ``compute``, kept as ``<cache_dir>/dataset/<key>.json``.

    Args:
        cache_dir: Root of all caches.
        key: Names all that the result depends on.
        compute: Makes it.
        is_lasting: Whether it may be kept.
    """
    path = cache_dir / "dataset" / f"{key}.json"
    found = _recall(path)
    if found is None:
        with lock(path):
            found = _recall(path)  # another process may have computed it meanwhile
            if found is None:
                found = {"of": path.name, "value": compute()}
                if is_lasting:
                    write_sealed(path, found)
    return found["value"]


def _recall(path: Path) -> dict[str, Any] | None:
    try:
        return read_own(path, path.name)
    except DamagedError as error:
        if path.exists():
            _log.warning("What was remembered is damaged: %s; it is computed again", error)
        return None


def _require_unchanged(files: ImageFiles) -> None:
    """The entry is named by the content from before: it must hold that."""
    if replace(files).signature() != files.signature():
        raise UserError(
            f"Expected the images in '{files.root}' to stay as they are while they are decoded, "
            "but some have changed; run again"
        )


def _build(
    folder: Path, files: ImageFiles, geometry: Geometry, *, skip_corrupt: bool, of: str
) -> None:
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
        why = f"first {files.names[first]!r} ({corrupt[first]})"
        report = f"{_left_out(files, corrupt)} cannot be decoded, {why}"
        if not skip_corrupt or count == 0:
            raise UserError(f"{report}; replace them, or leave them out with skip_corrupt=true")
        _refuse_emptied(files, corrupt, why)
    labels = np.array([label for i, label in enumerate(files.labels) if i not in corrupt])
    np.save(folder / "labels.npy", labels.astype(np.int64))
    found = {"source": str(files.root), "num_images": count}
    found["skipped"] = {str(index): corrupt[index] for index in sorted(corrupt)}
    card = {"of": of, **found, "checksums": digests(folder, _ARRAYS)}
    write_sealed(folder / _CARD, card)


def _left_out(files: ImageFiles, corrupt: Collection[int]) -> str:
    """How many images, and of which classes."""
    report = f"{len(corrupt)} of {len(files.names)} images in '{files.root}'"
    if not files.classes:
        return report
    counts = Counter(files.classes[files.labels[index]] for index in sorted(corrupt))
    return f"{report} ({some([f'{name}: {counts[name]}' for name in counts])})"


def _refuse_emptied(files: ImageFiles, corrupt: Collection[int], why: str) -> None:
    left = {label for index, label in enumerate(files.labels) if index not in corrupt}
    emptied = sorted({*files.labels} - left)
    if emptied:
        names = some([files.classes[label] for label in emptied])
        raise UserError(
            f"Expected readable images of every class in '{files.root}', but none can be decoded "
            f"of {names}, {why}; replace them, or remove the class"
        )


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
    if not folder.exists():
        return None
    path = folder / "images.npy"
    try:
        card = read_own(folder / _CARD, folder.name)
        verify(folder, card["checksums"])
        large = path.stat().st_size > MAP_ABOVE_BYTES
        images = np.load(path, mmap_mode="r" if large else None, allow_pickle=False)
        labels = torch.from_numpy(np.load(folder / "labels.npy", allow_pickle=False))
        skipped = {int(index): str(reason) for index, reason in card["skipped"].items()}
    except (OSError, ValueError, KeyError, EOFError, AttributeError) as error:
        _log.warning("The cache '%s' is damaged (%s); decoding again", folder, error)
        return None
    if skipped:
        first = min(skipped)
        _log.warning(
            "%s cannot be decoded, first %r (%s); left out",
            *(_left_out(files, skipped), files.names[first], skipped[first]),
        )
    names = tuple(name for i, name in enumerate(files.names) if i not in skipped)
    return Decoded(_as_tensor(images), labels, names)


def _as_tensor(images: Pixels) -> Tensor:
    with warnings.catch_warnings():
        # A map is read-only on purpose. Copy-on-write maps would be silent, but the system
        # counts them as memory and refuses one larger than the machine's.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(images)
