"""Read a file of weights without ever executing what it says, or say what it is instead."""

import pickle
import re
import shlex
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from src.common.errors import UserError, in_one_line
from src.teacher.arrays import NUMPY

FORMATS = "safetensors, or a torch file with a state dict"
_ANOTHER = (
    "its entries are named otherwise; save the PyTorch network it was made from: "
    "torch.save(model.state_dict(), path)"
)
_AGAIN = "download or write it again"
_TORCH_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_LARGEST_HEADER = 100_000_000  # of safetensors, by its specification
# First bytes, what such a file is, and the cure.
_OTHERS = (
    (rb"\x1f\x8b", "compressed with gzip", "unpack it: {unpack}"),
    (rb"BZh\d", "compressed with bzip2", "unpack it: {unpack}"),
    (rb"\xfd7zXZ\x00", "compressed with xz", "unpack it: {unpack}"),
    (rb"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it: {unpack}"),
    (rb"7z\xbc\xaf|Rar!", "a 7z or rar archive", "unpack it and give the file that lies inside"),
    (rb"(?s).{257}ustar", "a tar archive", "unpack it and give the file that lies inside"),
    (rb"\x89HDF\r\n\x1a\n", "HDF5, as TensorFlow and Keras write it", _ANOTHER),
    (rb"(?s).{4}TFL3", "a TensorFlow Lite model", _ANOTHER),
    (rb"(?s)\x08[\x01-\x1f][\x12\x1a\x3a].*(pytorch|onnx|graph)", "an ONNX model", _ANOTHER),
    (rb"GGUF", "a GGUF model", _ANOTHER),
    (rb"\x93NUMPY", "one NumPy array (.npy), not the named entries of a network", _ANOTHER),
    (
        rb"version https://git-lfs",
        "a Git-LFS pointer to the file, not the file",
        "fetch it: git lfs pull, in its repository",
    ),
    (
        rb"(?i)\s*<(!doctype|html|head|\?xml)",
        "a web page that was saved instead of the file",
        "download it again, from the link of the file itself",
    ),
    (rb"\s*[\[{]", "JSON text without weights", "give the file of the weights beside it"),
)
_UNPACK = {b"\x1f": "gunzip", b"B": "bunzip2", b"\xfd": "unxz", b"\x28": "unzstd"}


def read(path: Path) -> Any:
    """What a safetensors or torch file holds: tensors, plain values and containers of them.

    The content decides what the file is, not its suffix.

    Raises:
        UserError: If the file is missing, damaged, of another kind, or a pickle that would
            execute code; the message names the cure.
    """
    head = _head(path)
    # First: the length that safetensors begins with can look like any other signature.
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and length <= _LARGEST_HEADER:
        return _read_safetensors(path)
    _refuse_others(path, head)
    if head.startswith(b"PK"):
        _refuse_other_archives(path)
    elif path.suffix.lower() == ".safetensors" and not head.startswith(_TORCH_LEGACY):
        return _read_safetensors(path)
    return _read_torch(path)


def _head(path: Path) -> bytes:
    if path.is_dir():
        raise _refusal(path, *_directory(path))
    if not path.is_file():
        raise UserError(f"Cannot find the checkpoint '{path}'; expected {FORMATS}")
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise _refusal(path, f"unreadable ({error.strerror})", "mend its permissions") from error
    if not head:
        raise _refusal(path, "empty", _AGAIN)
    return head


def _directory(path: Path) -> tuple[str, str]:
    names = sorted(entry.name for entry in path.iterdir())
    if "saved_model.pb" in names:
        return "a TensorFlow SavedModel", _ANOTHER
    if "data.pkl" in names:
        parts = f"cd {shlex.quote(str(path.parent))} && zip -0 -r teacher.pth"
        return "the unpacked folder of a torch file", f"pack it: {parts} {shlex.quote(path.name)}"
    weights = [n for n in names if re.search(r"(?i)\.(safetensors|pth?|ckpt|bin|tar)$", n)]
    inside = f", such as '{weights[0]}'" if weights else ""
    return "a directory", f"give the file of the weights{inside}"


def _refuse_others(path: Path, head: bytes) -> None:
    for signature, what, cure in _OTHERS:
        if re.match(signature, head):
            raise _refusal(path, what, cure.format(unpack=_unpack(path, head)))
    if re.match(rb"\x80[\x02-\x05].", head, re.DOTALL) and not head.startswith(_TORCH_LEGACY):
        raise _refusal(
            path,
            "a plain pickle, which can execute code, or a damaged torch file",
            "where you trust whoever made it, convert it in the environment it comes from (this "
            f"executes it): `import pathlib, pickle; state = "
            f"pickle.loads(pathlib.Path({str(path)!r}).read_bytes())` and "
            f"`{_saving(path)}`",
        )


def _unpack(path: Path, head: bytes) -> str:
    tool = _UNPACK.get(head[:1], "")
    packed = path.suffix.lower() in (".gz", ".bz2", ".xz", ".zst")
    target = path.with_suffix("") if packed else Path(f"{path}.unpacked")
    # By redirection: the tools refuse suffixes that are not theirs.
    return f"{tool} < {shlex.quote(str(path))} > {shlex.quote(str(target))}"


def _refuse_other_archives(path: Path) -> None:
    """Zip archives that are no torch file with a state dict."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception as error:  # garbage can make it fail in any way
        raise _damaged(path) from error
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner:
        load = f"state = torch.jit.load({str(path)!r}, map_location='cpu').state_dict()"
        raise _refusal(
            path,
            "a TorchScript archive, that is a program with weights",
            f"where you trust it, convert it: `import torch; {load}` and `{_saving(path)}`",
        )
    if "data.pkl" in inner:
        return
    if names and all(name.endswith(".npy") for name in names):
        load = f"state = {{k: torch.from_numpy(v) for k, v in numpy.load({str(path)!r}).items()}}"
        raise _refusal(
            path,
            "an archive of NumPy arrays (.npz)",
            f"convert it: `import numpy, torch; {load}` and `{_saving(path)}`",
        )
    if any(name.endswith(".weights.h5") for name in names):
        raise _refusal(path, "a Keras archive", _ANOTHER)
    if any(name.endswith("models/model.json") for name in names):
        raise _refusal(path, "a program written by torch.export", _ANOTHER)
    first = f", such as '{names[0]}'" if names else ""
    what = f"a zip archive of {len(names)} files and no torch file"
    raise _refusal(path, what, f"unpack it and give the file of the weights{first}")


def _read_safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        reason = in_one_line(error)
        raise _refusal(path, f"a damaged safetensors file ({reason})", _AGAIN) from error


def _read_torch(path: Path) -> Any:
    allowed: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [*NUMPY]
    try:
        # An open file, since torch would go by the suffix of a path.
        with path.open("rb") as file, safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch wonders aloud about files of another kind
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not re.search("GLOBAL|Can only", str(error)):
            raise _damaged(path) from error
        raise _unsafe(path, str(error)) from error
    except Exception as error:  # garbage can make the unpickler fail in any way
        raise _damaged(path) from error


def _unsafe(path: Path, reason: str) -> UserError:
    named = re.search(r"GLOBAL ([\w.]+)", reason)
    what = f"'{named[1]}'" if named else "more"
    load = f"torch.load({str(path)!r}, map_location='cpu', weights_only=False)"
    if _holds_module(path):
        what, load = f"a whole model ({what})", f"{load}.state_dict()"
    else:
        load = f'{load}["state_dict"]'
    return UserError(
        f"Refused the checkpoint '{path}': loading it could execute code, since it holds {what} "
        "beside tensors. Where you trust whoever made it, convert it in the environment it comes "
        f"from (this executes it): `import torch; state = {load}`, or whatever holds the weights "
        f"in it, and `{_saving(path)}`"
    )


def _holds_module(path: Path) -> bool:
    """Whether layers were pickled; looks at names only."""
    try:
        return any("torch.nn.modules" in name for name in get_unsafe_globals_in_checkpoint(path))
    except Exception:  # noqa: BLE001 - this only chooses words, and old containers have no list
        return False


def _saving(path: Path) -> str:
    target = str(path.with_name(f"{path.name}.safetensors"))
    return (
        "from safetensors.torch import save_file; "
        f"save_file({{k: v.contiguous() for k, v in state.items()}}, {target!r})"
    )


def _refusal(path: Path, what: str, cure: str) -> UserError:
    return UserError(f"Cannot read the checkpoint '{path}': it is {what}; {cure}")


def _damaged(path: Path) -> UserError:
    return _refusal(path, f"truncated or damaged, or no torch file; expected {FORMATS}", _AGAIN)
