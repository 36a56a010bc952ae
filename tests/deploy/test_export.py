import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from src import export
from src.common.errors import UserError
from src.common.sealed import read_sealed, verify
from src.dataset.image_folder import ImageFolder
from src.deploy import program
from src.deploy.student import DeployedStudent, load_student
from src.export import main
from src.network.convnet import ConvNet
from src.report.summary import Summary, write_summary
from tests.deploy.students import CLASSES, card, image_folder, run_folder
from tests.report.conftest import FINISHED


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return run_folder(tmp_path_factory.mktemp("student") / "run")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folder(tmp_path_factory.mktemp("images") / "of_classes", each=8)


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Error: ")
    return line


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Programs that are the student itself plus an offset, since converting takes seconds."""
    offset = {"by": 0.0}

    def trace(student: Any) -> Any:
        return program.batchwise(lambda pixels: student(pixels) + offset["by"])

    def save(run: Any, path: Path, *_: Any) -> Any:
        path.write_bytes(b"a program")
        return run

    monkeypatch.setattr(program, "trace", trace)
    monkeypatch.setattr(program, "save_torch", save)
    return offset


@pytest.fixture
def exporting(run: Path, images: Path, echo: dict[str, Any]) -> Callable[..., int]:
    """The command that writes such a program to a folder."""
    always = [str(run), "--torch-export", f"--images={images}"]
    return lambda output, *more: main([*always, f"--output={output}", *more])


# What is asked, and refused.


def test_nothing_asked_for(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run)]) == 2
    assert "at least one of --onnx, --int8 and --torch-export" in complaint(capsys)


@pytest.mark.parametrize("word", ["--onnx", "--int8"])
def test_without_the_extra(
    run: Path, word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "find_spec", lambda name: None if name == "onnxscript" else 1)
    assert main([str(run), word]) == 2
    line = complaint(capsys)
    assert "Expected onnxscript to be installed" in line
    assert "pip install -e '.[export]'" in line


def test_what_is_written_and_said(
    run: Path,
    images: Path,
    tmp_path: Path,
    exporting: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    assert exporting(output) == 0
    card = read_sealed(output / "export.json")
    verify(output, card["checksums"])
    assert {path.name for path in output.iterdir()} == {"export.json", "student.pt2"}
    assert card["input"]["shape"] == ["batch", 3, 8, 8]
    assert card["input"]["dtype"] == "uint8"
    assert card["class_names"] == list(CLASSES)
    assert (card["image_size"], card["shorter_side"]) == (8, 8)
    assert card["verified_on"] == {"images": 24, "source": f"folder '{images}'"}
    assert card["measured"]["student.pt2"]["largest_difference"] == 0.0
    labels = [n // 8 for n in range(24)]
    logits = load_student(run).predict(sorted(images.rglob("*.png")))
    hits = sum(int(a == b) for a, b in zip(logits.argmax(dim=1).tolist(), labels, strict=True))
    assert card["measured"]["eager"]["acc1"] == pytest.approx(100 * hits / 24, abs=1e-3)
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[0] == "program"
    assert [row.split()[0] for row in rows] == ["eager", "student.pt2", "On", "In"]


def test_a_program_that_differs_leaves_nothing(
    tmp_path: Path,
    echo: dict[str, Any],
    exporting: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    echo["by"] = 0.01
    assert exporting(tmp_path / "out") == 2
    assert "logits of student.pt2 to differ from the student's" in complaint(capsys)
    assert list(tmp_path.iterdir()) == []


def test_only_an_earlier_export_is_replaced_and_only_by_force(
    tmp_path: Path,
    echo: dict[str, Any],
    exporting: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    mine, output = tmp_path / "mine", tmp_path / "out"
    mine.mkdir()
    assert exporting(mine, "--force") == 2
    assert "not to exist or to be an earlier export" in complaint(capsys)
    assert exporting(output) == 0
    before = (output / "student.pt2").stat().st_ino
    capsys.readouterr()
    assert exporting(output) == 2
    assert "replace it with --force" in complaint(capsys)
    echo["by"] = 1.0
    assert exporting(output, "--force") == 2
    assert (output / "student.pt2").stat().st_ino == before
    echo["by"] = 0.0
    assert exporting(output, "--force") == 0
    assert (output / "student.pt2").stat().st_ino != before


# Which images.


def test_a_folder_of_other_names_has_no_labels(run: Path, tmp_path: Path) -> None:
    student = load_student(run)
    folder = image_folder(tmp_path / "images")
    assert export._images_in(folder, student).labels is not None
    (folder / "dark").rename(folder / "unknown")
    assert export._images_in(folder, student).labels is None


def test_of_a_large_folder_some_are_taken(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_MOST_IMAGES", 4)
    found = export._images_in(image_folder(tmp_path / "images"), load_student(run))
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 2]


def test_the_run_s_images_without_its_data_or_the_training_part(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(run), "--torch-export"]) == 2  # a student alone, without a summary
    line = complaint(capsys)
    assert "Cannot use the test images of the run" in line
    assert line.endswith("give images with --images FOLDER")
    monkeypatch.setitem(sys.modules, "hydra.utils", None)
    monkeypatch.delitem(sys.modules, "src.config.node", raising=False)
    assert main([str(run), "--torch-export"]) == 2
    line = complaint(capsys)
    assert "Expected hydra to be installed; run `pip install -e '.[train]'`" in line
    assert line.endswith(", or give images with --images FOLDER")


@pytest.fixture
def measured_on(tmp_path: Path) -> Callable[..., Path]:
    """A run with a summary; keyword arguments change the node of its data set."""
    for split in ("train", "test"):
        image_folder(tmp_path / "data" / split)

    def make(**changes: Any) -> Path:
        node: dict[str, Any] = {
            "_target_": "src.dataset.image_folder.ImageFolder",
            "root": str(tmp_path / "data"),
            "cache_dir": str(tmp_path / "cache"),
            "image_size": 8,
        }
        summary = copy.deepcopy(FINISHED)
        content = ImageFolder(node["root"], node["cache_dir"], image_size=8).fingerprint()
        summary["identity"]["contents"]["dataset"] = content
        summary["config"]["dataset"] = node | changes
        folder = run_folder(tmp_path / "run")
        write_summary(cast("Summary", summary), folder)
        return folder

    return make


@pytest.mark.parametrize("package", ["src", "kdci"])
def test_the_test_split_of_the_run_as_a_clone_and_a_wheel_name_it(
    package: str, echo: dict[str, Any], measured_on: Callable[..., Path]
) -> None:
    run = measured_on(_target_=f"{package}.dataset.image_folder.ImageFolder")
    assert main([str(run), "--torch-export"]) == 0
    verified = read_sealed(run / "export/export.json")["verified_on"]
    assert verified == {"images": 9, "source": "test split of digits"}


def test_nodes_within_a_data_set_are_named_as_here_too() -> None:
    node = {"_target_": "kdci.A", "of": [{"_target_": "src.B", "x": 1}], "_partial_": True}
    named = {"_target_": "src.A", "of": [{"_target_": "src.B", "x": 1}], "_partial_": True}
    assert export._called_here(node, []) == named
    assert export._called_here(node, ["kdci"]) == node


def test_other_data_where_the_run_s_lay_is_refused(
    tmp_path: Path, measured_on: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = measured_on()
    (tmp_path / "data/test/dark/0.png").unlink()
    assert main([str(run), "--torch-export"]) == 2
    line = complaint(capsys)
    assert f"digits in '{tmp_path / 'data'}' holds other data now" in line
    assert line.endswith("give images with --images FOLDER")
    assert not (run / "export").exists()


@pytest.mark.parametrize("target", ["src.network.convnet.ConvNet", "torch.optim.SGD"])
def test_a_summary_chooses_no_class_but_a_data_set(
    target: str, measured_on: Callable[..., Path]
) -> None:
    with pytest.raises(UserError, match="expected a data set, a subclass of"):
        export._images_of(measured_on(_target_=target), [])


def test_too_few_images_to_calibrate(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(program, "require_onnx", lambda: None)
    folder = image_folder(tmp_path / "images")
    assert main([str(run), "--int8", f"--images={folder}"]) == 2
    assert "10 images at least for --int8" in complaint(capsys)


# The programs themselves.


def test_torch_export_takes_any_batch(run: Path, tmp_path: Path) -> None:
    student = load_student(run)
    runner = program.save_torch(program.trace(student), tmp_path / "student.pt2")
    for count in (1, 2, 65):
        images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8)
        torch.testing.assert_close(runner(images), student(images))


@pytest.mark.slow
def test_onnx_and_int8_from_end_to_end(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    output = tmp_path / "out"
    assert main([str(run), "--int8", f"--images={images}", f"--output={output}"]) == 0
    card = json.loads((output / "export.json").read_text())
    assert card["checksums"].keys() == {"student.onnx", "student.int8.onnx"}
    assert (card["opset"], card["calibrated_on"]) == (18, 12)
    assert card["verified_on"]["images"] == 12
    measured = card["measured"]
    assert 0 < measured["student.onnx"]["largest_difference"] < 1e-4
    assert measured["student.int8.onnx"]["largest_difference"] > 1e-4
    student = load_student(run)
    runner = program.onnx_runner(output / "student.onnx")
    for count in (1, 3):
        pixels = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8)
        torch.testing.assert_close(runner(pixels), student(pixels), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_int8_does_not_saturate_on_any_processor(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    network = ConvNet([8, 8], num_classes=2)
    for weights in network.parameters():
        weights.data.uniform_(0.5, 1)  # so that sums are as large as they can be
    student = DeployedStudent(network, card(normalisation={"mean": [0.0] * 3, "std": [1.0] * 3}))
    pixels = torch.randint(0, 256, (32, 3, 8, 8), dtype=torch.uint8)
    program.save_onnx(program.trace(student), tmp_path / "float.onnx")
    fast = program.save_int8(tmp_path / "float.onnx", tmp_path / "int8.onnx", pixels)
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = runtime.InferenceSession(tmp_path / "int8.onnx", options)
    (expected,) = plain.run(None, {program.INPUT: pixels.numpy()})
    torch.testing.assert_close(fast(pixels), torch.from_numpy(expected), rtol=0.01, atol=0.0)
