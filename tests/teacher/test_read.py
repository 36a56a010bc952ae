import argparse
import gzip
import pickle
import re
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from src.network.convnet import ConvNet
from src.teacher.checkpoint import load_into
from src.teacher.read import read
from tests.teacher.weights import network, refused, written
from tests.toys import states_equal


@pytest.fixture
def trained() -> ConvNet:
    return network()


@pytest.mark.parametrize("name", ["t.pth", "T.PTH", "t.pth.tar", "t.bin", "t.safetensors", "t"])
@pytest.mark.parametrize("container", ["zip", "legacy", "safetensors"])
def test_the_content_decides_and_not_the_suffix(
    tmp_path: Path, trained: ConvNet, name: str, container: str
) -> None:
    path = tmp_path / name
    if container == "safetensors":
        save_file(trained.state_dict(), path)
    else:
        modern = container == "zip"
        torch.save(trained.state_dict(), path, _use_new_zipfile_serialization=modern)
    target = network()
    load_into(target, path)
    assert states_equal(target, trained)


@pytest.mark.parametrize("signature", [b"\x80\x02", b"\x1f\x8b", b"BZ", b"\x08\x01"])
def test_a_safetensors_length_that_looks_like_another_signature_is_none(
    tmp_path: Path, signature: bytes
) -> None:
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    length = int.from_bytes(signature, "little")
    path = tmp_path / "t.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + header.ljust(length) + b"\0\0\x80?")
    assert read(path)["a"].tolist() == [1.0]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere.pt", "Cannot find the checkpoint")


@pytest.mark.parametrize(
    ("inside", "match"),
    [
        (["notes.txt"], "it is a directory; give the file of the weights$"),
        (["a.txt", "model.PT"], "it is a directory; give the file of the weights, such as 'mod"),
        (["saved_model.pb"], r"a TensorFlow SavedModel; .*torch\.save\(model\.state_dict"),
        (["data.pkl", "version"], "the unpacked folder of a torch file; pack it: cd .* && zip"),
    ],
)
def test_a_directory_is_told_with_what_it_could_be(
    tmp_path: Path, inside: list[str], match: str
) -> None:
    for name in inside:
        (tmp_path / name).touch()
    refused(tmp_path, match)


KINDS = {
    "empty": (b"", "it is empty; download or write it again"),
    "pickle_byte": (b"\x80", "truncated or damaged, or no torch file"),
    "text": (b"not a checkpoint", "truncated or damaged, or no torch file"),
    "bytes": (bytes(range(256)) * 40, "truncated or damaged, or no torch file"),
    "bzip2": (b"BZh91AY&SY", "compressed with bzip2; unpack it: bunzip2 < "),
    "xz": (b"\xfd7zXZ\x00\x00", "compressed with xz; unpack it: unxz < "),
    "zstd": (b"\x28\xb5\x2f\xfd\x04", "compressed with zstd; unpack it: unzstd < "),
    "tar": (bytes(257) + b"ustar\x0000", "a tar archive; unpack it and give the file"),
    "hdf5": (b"\x89HDF\r\n\x1a\n\0", "HDF5, as TensorFlow and Keras write it; its entries"),
    "tflite": (b"\x1c\0\0\0TFL3", "a TensorFlow Lite model"),
    "onnx": (b'\x08\x08\x12\x07pytorch\x1a\x052.1.0:"', "an ONNX model; its entries are named"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
        "pointer .* git lfs pull",
    ),
    "html": (b"\n<!DOCTYPE html><html>", "a web page that was saved instead .*download it again"),
    "xml": (b'<?xml version="1.0"?><Error>', "a web page that was saved instead"),
    "json": (b'{"weight_map": {}}', "JSON text without weights"),
}


@pytest.mark.parametrize("suffix", ["pth", "h5", "safetensors"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_something_else_is_named(tmp_path: Path, kind: str, suffix: str) -> None:
    content, match = KINDS[kind]
    path = tmp_path / f"c.{suffix}"
    path.write_bytes(content)
    if suffix == "safetensors":
        match = match.replace("truncated or damaged, or no torch file", "a damaged safetensors")
    refused(path, f"Cannot read the checkpoint '.*': it is .*{match.removeprefix('it is ')}")


@pytest.mark.parametrize("name", ["c.pth.gz", "c.pth"])
def test_the_command_that_unpacks_gzip_works(tmp_path: Path, trained: ConvNet, name: str) -> None:
    whole = written(tmp_path / "whole", trained.state_dict()).read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(whole))
    command = refused(tmp_path / name, "compressed with gzip").partition("unpack it: ")[2]
    subprocess.run(command, shell=True, check=True)
    target = network()
    load_into(target, tmp_path / ("c.pth" if name.endswith(".gz") else "c.pth.unpacked"))
    assert states_equal(target, trained)


@pytest.mark.parametrize(
    ("names", "match"),
    [
        ([], "a zip archive of 0 files and no torch file"),
        (["a/b.pth", "c"], r"a zip archive of 2 files .* of the weights, such as 'a/b\.pth'"),
        (["config.json", "model.weights.h5"], "a Keras archive; its entries are named"),
        (["m/models/model.json", "m/version"], r"a program written by torch\.export"),
    ],
)
def test_a_zip_archive_of_something_else_is_named(
    tmp_path: Path, names: list[str], match: str
) -> None:
    path = tmp_path / "c.pth"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    refused(path, match)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("suffix", ["pt", "legacy.pt", "safetensors"])
def test_a_truncated_file_is_refused(
    tmp_path: Path, trained: ConvNet, suffix: str, keep: float
) -> None:
    path = tmp_path / f"c.{suffix}"
    if suffix == "safetensors":
        save_file(trained.state_dict(), path)
    else:
        modern = suffix == "pt"
        torch.save(trained.state_dict(), path, _use_new_zipfile_serialization=modern)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    refused(path, "Cannot read the checkpoint .* damaged.*; download or write it again")


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_checkpoint_is_refused_and_never_run(
    tmp_path: Path, trained: ConvNet, legacy: bool
) -> None:
    path, trace = tmp_path / "evil.pt", tmp_path / "trace"
    content = {"state_dict": trained.state_dict(), "best_acc1": Payload(trace)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    refused(path, "Refused .* could execute code")
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()  # so the payload does work


def test_code_in_a_plain_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "evil.pt", tmp_path / "trace"
    path.write_bytes(pickle.dumps({"weight": Payload(trace)}))
    refused(path, "a plain pickle, which can execute code")
    assert not trace.exists()


def test_code_in_a_numpy_scalar_is_refused_and_never_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "evil.pt", tmp_path / "trace"
    torch.save({"best_acc1": np.array([Payload(trace)], dtype=object)}, path)
    refused(path, "Refused .* could execute code")
    assert not trace.exists()


class Net(nn.Module):
    """Traced into a program: the network without what a trace does not allow."""

    def __init__(self, whole: ConvNet) -> None:
        super().__init__()
        self.stages, self.fc = whole.stages, whole.fc

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.stages(images).mean(dim=(2, 3)))  # type: ignore[no-any-return]


def _scripted(trained: ConvNet, path: Path) -> None:
    program = torch.jit.trace(Net(trained).eval(), torch.zeros(1, 3, 8, 8))  # type: ignore[no-untyped-call]
    torch.jit.save(program, path)  # type: ignore[no-untyped-call]


def _with_arguments(trained: ConvNet, path: Path) -> None:
    torch.save({"state_dict": trained.state_dict(), "args": argparse.Namespace(lr=0.1)}, path)


def _pickled(trained: ConvNet, path: Path) -> None:
    path.write_bytes(pickle.dumps(dict(trained.state_dict())))


def _npz(trained: ConvNet, path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, **{name: value.numpy() for name, value in trained.state_dict().items()})


CONVERTED: dict[str, tuple[Callable[[ConvNet, Path], None], str]] = {
    "namespace": (_with_arguments, r"Refused .* holds 'argparse\.Namespace' .*you trust"),
    "module": (torch.save, r"Refused .* holds a whole model \('src\.network\.convnet.*you trust"),
    "script": (_scripted, "a TorchScript archive, that is a program with weights; .*you trust"),
    "pickle": (_pickled, "a plain pickle, which can execute code, .*you trust"),
    "npz": (_npz, r"an archive of NumPy arrays \(\.npz\)"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.parametrize("kind", CONVERTED)
def test_the_lines_that_convert_a_file_work(tmp_path: Path, trained: ConvNet, kind: str) -> None:
    write, match = CONVERTED[kind]
    path = tmp_path / "c.pth"
    write(trained, path)
    lines = re.findall("`([^`]+)`", refused(path, match))
    assert len(lines) == 2
    exec("\n".join(lines), {})
    target = network()
    load_into(target, tmp_path / "c.pth.safetensors")
    assert states_equal(target, trained)


def test_a_single_numpy_array_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", np.zeros(3))
    refused(tmp_path / "c.npy", r"one NumPy array \(\.npy\)")
