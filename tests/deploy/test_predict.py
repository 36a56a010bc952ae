import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from src.common import package
from src.deploy.student import load_student
from src.predict import main
from tests.deploy.students import CLASSES, image_folder, run_folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return run_folder(tmp_path / "run")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return image_folder(tmp_path / "images")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def predict(run: Path, images: Path, output: Path, *more: str) -> int:
    return main([str(run), str(images), "--output", str(output), *more])


def test_one_row_an_image(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "p.csv"
    assert predict(run, images, output) == 0
    found = rows(output)
    names = [f"{name}/{number}.png" for name in CLASSES for number in range(3)]
    assert [row["file"] for row in found] == names
    assert list(found[0]) == ["file", "class", "p(dark)", "p(grey)", "p(light)"]
    expected = load_student(run).predict([images / name for name in names])
    chances = torch.tensor([[float(row[f"p({name})"]) for name in CLASSES] for row in found])
    torch.testing.assert_close(chances, expected, atol=1e-5, rtol=1e-5)
    assert [row["class"] for row in found] == [CLASSES[i] for i in expected.argmax(dim=1)]
    captured = capsys.readouterr()
    assert captured.out == f"9 predictions in '{output}', 0 left out\n"
    assert captured.err == ""


def test_unreadable_images_are_named_and_counted(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "empty.png").write_bytes(b"")
    (images / "dark" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    os.mkfifo(images / "pipe.jpg")
    assert predict(run, images, tmp_path / "p.csv") == 1
    assert len(rows(tmp_path / "p.csv")) == 8
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    names = [line.split("'")[1] for line in lines]
    assert names == ["dark/0.png", "empty.png", "pipe.jpg"]
    assert all(line.startswith("Left out: ") for line in lines)
    assert captured.out.endswith("', 3 left out\n")


def test_names_that_are_no_text_and_classes_with_commas(run: Path, tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "images", each=1)
    strange = os.fsencode(folder) + b"/a,\xff\n.png"
    os.rename(folder / "dark" / "0.png", strange)
    assert predict(run, folder, tmp_path / "p.csv") == 0
    assert os.fsencode(rows(tmp_path / "p.csv")[0]["file"]) == b"a,\xff\n.png"


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Error: ")
    return line


def test_a_file_is_replaced_only_by_force(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "p.csv"
    output.write_text("mine")
    assert predict(run, images, output) == 2
    assert "replace a file with --force" in complaint(capsys)
    assert output.read_text() == "mine"
    assert predict(run, images, output, "--force") == 0
    assert len(rows(output)) == 9
    assert predict(run, images, tmp_path, "--force") == 2  # a folder


def test_nothing_is_written_where_nothing_can_be_read(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = tmp_path / "images", tmp_path / "out" / "p.csv"
    assert predict(run, folder, output) == 2
    assert "Expected a folder of images" in complaint(capsys)
    folder.mkdir()
    assert predict(run, folder, output) == 2
    assert "found none" in complaint(capsys)
    (folder / "a.png").write_bytes(b"")
    assert predict(run, folder, output) == 2
    left_out, error = capsys.readouterr().err.splitlines()
    assert left_out.startswith("Left out: 'a.png'")
    assert error.startswith("Error: None of the 1 images")
    assert list(output.parent.iterdir()) == []


def test_a_folder_without_a_student_and_a_disk_that_does_not_take_it(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(images, images, tmp_path / "p.csv") == 2
    assert "Cannot use the student in" in complaint(capsys)
    (tmp_path / "file").touch()
    assert predict(run, images, tmp_path / "file" / "p.csv") == 2
    assert "free space or name another" in complaint(capsys)


FOREIGN = (
    *("lightning", "hydra", "omegaconf", "yaml", "faiss", "wandb", "torchmetrics", "sklearn"),
    *("scipy", "matplotlib", "pydantic", "rich", "psutil", "torchvision", "onnx", "onnxruntime"),
)


def test_nothing_of_the_training_part_is_imported(run: Path, images: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from src.predict import main; code = main(sys.argv[1:]); "
        f"print(sorted(set({FOREIGN}) & set(sys.modules))); sys.exit(code)"
    )
    arguments = [str(run), str(images), "--output", str(tmp_path / "p.csv")]
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=package.ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
