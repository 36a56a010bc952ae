"""The development kit of ILSVRC 2012: which class each validation image is of.

Source: https://image-net.org/challenges/LSVRC/2012/, ``ILSVRC2012_devkit_t12/readme.txt``.
"""

import os
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

from src.common.errors import UserError
from src.dataset.decode import require_regular

_NAME = "ILSVRC2012_devkit_t12"
_META = "data/meta.mat"
_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"


def read_devkit(root: Path) -> dict[str, str]:
    """WordNet identifier by name of the validation image without suffix; empty without a kit.

    Args:
        root: Folder that may hold the kit, unpacked or as the published ``.tar.gz``.

    Raises:
        UserError: If the kit is there but damaged.
    """
    folder, archive = root / _NAME, root / f"{_NAME}.tar.gz"
    kit = folder if folder.is_dir() else archive
    if not os.path.lexists(kit):
        return {}
    try:
        meta, truth = (_read(kit, name) for name in (_META, _TRUTH))
        wnids = _wnids(meta)
        classes = [wnids[int(line)] for line in truth.split()]
    except Exception as error:  # a damaged file can make its readers fail in any way
        raise UserError(
            f"Cannot read the development kit '{kit}' ({error}); expected the published "
            f"{_META} and {_TRUTH} in it: unpack or download it again, or remove it"
        ) from error
    return {f"ILSVRC2012_val_{number:08d}": wnid for number, wnid in enumerate(classes, start=1)}


def devkit_files(root: Path) -> list[Path]:
    """What :func:`read_devkit` looks for, whether it is there or not."""
    folder = root / _NAME
    return [root / f"{_NAME}.tar.gz", folder, folder / _META, folder / _TRUTH]


def _read(kit: Path, name: str) -> bytes:
    path = kit / name if kit.is_dir() else kit
    require_regular(path)
    if kit.is_dir():
        return path.read_bytes()
    with tarfile.open(kit) as archive:
        member = archive.extractfile(f"{_NAME}/{name}")
        if member is None:
            raise KeyError(f"{name} is no file")
        return member.read()


def _wnids(meta: bytes) -> dict[int, str]:
    from scipy.io import loadmat  # half a second that nobody else should pay

    synsets: list[dict[str, Any]] = loadmat(BytesIO(meta), simplify_cells=True)["synsets"]
    return {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}
