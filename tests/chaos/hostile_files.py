"""Writers of hostile files, each named for what it writes."""

import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

_LONG = "n" * 300


class _Payload:
    """Would make the marker when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.marker}'",)


def quoted(value: object) -> str:
    """As Hydra's command line takes any text."""
    text = str(value).replace("\\'", "\\\\'").replace("'", "\\'")
    return f"'{text}'"


def remove(path: Path) -> None:
    """Whatever it is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def fifo(path: Path, marker: Path) -> None:
    os.mkfifo(path)


def endless_device(path: Path, marker: Path) -> None:
    path.symlink_to("/dev/zero")


def full_device(path: Path, marker: Path) -> None:
    path.symlink_to("/dev/full")


def linked_into_itself(path: Path, marker: Path) -> None:
    path.symlink_to(path)


def a_folder(path: Path, marker: Path) -> None:
    path.mkdir()


def a_file(path: Path, marker: Path) -> None:
    path.write_text("a file")


def below_a_file(path: Path, marker: Path) -> Path:
    path.write_text("a file")
    return path / "inner"


def broken_link(path: Path, marker: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def long_name(path: Path, marker: Path) -> Path:
    return path.with_name(_LONG)


def odd_name(path: Path, marker: Path) -> Path:
    return path.with_name("a\nb \"c' d\t{e}=$f,[g]")


def not_utf8_name(path: Path, marker: Path) -> Path:
    return path.with_name(os.fsdecode(b"\xe9t\xe9"))


def nothing(path: Path, marker: Path) -> None:
    path.write_bytes(b"")


def pickled_payload(path: Path, marker: Path) -> None:
    path.write_bytes(pickle.dumps(_Payload(marker)))


def payload_in_zip(path: Path, marker: Path) -> None:
    torch.save({"state_dict": _Payload(marker)}, path)


def payload_in_old_format(path: Path, marker: Path) -> None:
    torch.save([_Payload(marker)], path, _use_new_zipfile_serialization=False)


def payload_as_safetensors(path: Path, marker: Path) -> Path:
    target = path.with_suffix(".safetensors")
    target.write_bytes(pickle.dumps(_Payload(marker)))
    return target


def whole_model(path: Path, marker: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), path)


def huge_tensor(path: Path, marker: Path) -> None:
    torch.save({"head.weight": torch.zeros(1).expand(10, 2**36)}, path)


def odd_tensors(path: Path, marker: Path) -> None:
    sparse = torch.eye(3).to_sparse()
    meta = torch.empty(3, device="meta")
    torch.save({"a": sparse, "b": torch.zeros(2, dtype=torch.complex64), "c": meta}, path)


def odd_keys(path: Path, marker: Path) -> None:
    torch.save({1: torch.zeros(2), ("a",): torch.zeros(2)}, path)


def a_list(path: Path, marker: Path) -> None:
    torch.save([torch.zeros(2)], path)


def safetensors_of_huge_header(path: Path, marker: Path) -> Path:
    target = path.with_suffix(".safetensors")
    target.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    return target


def safetensors_of_deep_header(path: Path, marker: Path) -> Path:
    header = b'{"a":' * 5000
    target = path.with_suffix(".safetensors")
    target.write_bytes(struct.pack("<Q", len(header)) + header)
    return target


def pickled_array(path: Path, marker: Path) -> Path:
    target = path.with_suffix(".npy")
    np.save(target, np.array([_Payload(marker)], dtype=object), allow_pickle=True)
    return target


def array_of_huge_header(path: Path, marker: Path) -> Path:
    target = path.with_suffix(".npy")
    with target.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (2**40, 3, 32, 32)}
        np.lib.format.write_array_header_1_0(file, header)
    return target


def array_of_reals(path: Path, marker: Path) -> Path:
    target = path.with_suffix(".npy")
    np.save(target, np.full((4, 3, 32, 32), np.nan, dtype=np.float32))
    return target


def array_of_none(path: Path, marker: Path) -> Path:
    target = path.with_suffix(".npy")
    np.save(target, np.zeros((0, 3, 32, 32), dtype=np.uint8))
    return target


_COMMON = (fifo, endless_device, full_device, linked_into_itself, a_folder, broken_link)
_NAMES = (long_name, odd_name, not_utf8_name, below_a_file)
CHECKPOINTS: tuple[Callable[..., Any], ...] = (
    *_COMMON,
    *_NAMES,
    nothing,
    pickled_payload,
    payload_in_zip,
    payload_in_old_format,
    payload_as_safetensors,
    whole_model,
    huge_tensor,
    odd_tensors,
    odd_keys,
    a_list,
    safetensors_of_huge_header,
    safetensors_of_deep_header,
)
ARRAYS: tuple[Callable[..., Any], ...] = (
    *_COMMON,
    *_NAMES,
    nothing,
    pickled_array,
    array_of_huge_header,
    array_of_reals,
    array_of_none,
    payload_in_zip,
)
PLACES: tuple[Callable[..., Any], ...] = (*_COMMON, *_NAMES, a_file)


def _yaml(name: str, content: bytes) -> Callable[[Path, Path], None]:
    def write(path: Path, marker: Path) -> None:
        path.write_bytes(content.replace(b"MARKER", os.fsencode(marker)))

    write.__name__ = name
    return write


EXPERIMENTS: tuple[Callable[..., Any], ...] = (
    fifo,
    endless_device,
    full_device,
    linked_into_itself,
    a_folder,
    broken_link,
    nothing,
    _yaml("tab", b"a:\n\t- b\n"),
    _yaml("unclosed", b"a: [1, {b: 2\n"),
    _yaml("not_utf8", b"a: \xe9t\xe9\n"),
    _yaml("nul", b"a: \x00\n"),
    _yaml("yaml_list", b"- a\n- b\n"),
    _yaml("yaml_text", b"just words\n"),
    _yaml("duplicate_keys", b"# @package _global_\nseed: 1\nseed: 2\n"),
    _yaml(
        "python_tag",
        b"# @package _global_\nseed: !!python/object/apply:os.system ['touch MARKER']\n",
    ),
    _yaml("anchor_of_itself", b"a: &a [*a]\n"),
    _yaml("odd_interpolation", b"# @package _global_\nseed: ${oc.env:NOWHERE}\n"),
    _yaml("endless_interpolation", b"# @package _global_\nseed: ${seed}\n"),
    _yaml("unknown_resolver", b"# @package _global_\nseed: ${eval:1}\n"),
    _yaml("odd_package", b"# @package ../x\nseed: 1\n"),
    _yaml("own_default", b"defaults: [nowhere]\n"),
    _yaml("int_keys", b"# @package _global_\n1: 2\nnull: 3\ntrue: 4\n"),
)


def moved_behind_link(path: Path, original: Path) -> None:
    path.symlink_to(original)


def link_to_other_file(path: Path, original: Path) -> None:
    path.symlink_to("/etc/hostname")


def deep_json(path: Path, original: Path) -> None:
    path.write_text('{"a":' * 50000 + "1" + "}" * 50000)


def huge_number(path: Path, original: Path) -> None:
    path.write_text('{"seed": ' + "9" * 6000 + ', "seal": 1e999}')


def not_utf8(path: Path, original: Path) -> None:
    path.write_bytes(b'{"\xe9t\xe9": 1}')


def json_list(path: Path, original: Path) -> None:
    path.write_text("[1, 2]")


CARDS: tuple[Callable[..., Any], ...] = (
    moved_behind_link,
    link_to_other_file,
    fifo,
    endless_device,
    linked_into_itself,
    deep_json,
    huge_number,
    not_utf8,
    json_list,
)
