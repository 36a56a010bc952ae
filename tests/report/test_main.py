import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from src.report.__main__ import main
from src.report.summary import write_summary


@pytest.fixture
def outputs(tmp_path: Path, make_summary: Any, make_kdci: Any) -> Path:
    runs = [
        make_summary(80.0),
        make_summary(82.0, seed=1),
        make_kdci(81.0),
        make_summary(status="failed", error="out of memory", seed=2),
    ]
    for number, run in enumerate(runs):
        folder = tmp_path / "outputs" / str(number)
        folder.mkdir(parents=True)
        write_summary(run, folder)
    return tmp_path / "outputs"


def test_prints_the_table(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(outputs)]) == 0
    printed = capsys.readouterr().out
    assert "budget laptop" in printed
    assert "out of memory" in printed


def test_writes_csv_and_markdown_into_new_folders(
    outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    csv, markdown = tmp_path / "new/rows.csv", tmp_path / "new/rows.md"
    assert main([str(outputs), "--csv", str(csv), "--markdown", str(markdown)]) == 0
    assert len(csv.read_text(encoding="utf-8").splitlines()) == 3
    assert "+1.00 ± - (1)" in markdown.read_text(encoding="utf-8")
    assert "out of memory" in markdown.read_text(encoding="utf-8")


def test_runs_keeps_seeds_apart(outputs: Path, tmp_path: Path) -> None:
    assert main([str(outputs), "--runs", "--csv", str(tmp_path / "runs.csv")]) == 0
    assert len((tmp_path / "runs.csv").read_text(encoding="utf-8").splitlines()) == 4


@pytest.mark.parametrize("kind", ["empty", "missing", "broken"])
def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "broken":
        (tmp_path / "summary.json").write_text("{")
    path = tmp_path / "missing" if kind == "missing" else tmp_path
    assert main([str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert str(path) in captured.err
    assert captured.out == ""


def test_an_unwritable_file_is_one_line_and_exit_code_2(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(outputs), "--csv", str(outputs / "0/summary.json/rows.csv")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_import_is_light() -> None:
    program = (
        "import sys, src.report.__main__; "
        "print(*{'torch', 'lightning', 'numpy', 'wandb', 'matplotlib'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("", "")
