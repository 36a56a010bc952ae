import errno
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.report.__main__ import _ELEMENTS, main
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
    assert "+1.00 (n=1)" in markdown.read_text(encoding="utf-8")
    assert "out of memory" in markdown.read_text(encoding="utf-8")


@pytest.mark.parametrize("more", ["--csv=x", "--latex=x", "--runs", "--discard-failed"])
def test_an_experiment_goes_with_markdown_only(
    outputs: Path, capsys: pytest.CaptureFixture[str], more: str
) -> None:
    assert main([str(outputs), "--experiment", "ablation", more]) == 2
    assert capsys.readouterr().err.startswith("Error: Expected --")


def test_experiments_are_named_as_their_files_say() -> None:
    folder = Path(__file__).parents[2] / "experiments"
    texts = [path.read_text(encoding="utf-8") for path in folder.glob("*.yaml")]
    named = [name for text in texts for name in re.findall(r"--experiment (\w+)", text)]
    assert "fig4_dictionary_size" in named
    assert set(named) <= _ELEMENTS.keys()


def test_an_experiment_that_did_not_run_is_said(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(outputs), "--experiment", "variance"]) == 2
    assert "as those of experiments=variance do" in capsys.readouterr().err


def test_an_experiment_as_markdown(
    tmp_path: Path, make_kdci: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for size in (8, 16):
        folder = tmp_path / f"{size}"
        folder.mkdir()
        write_summary(make_kdci(80.0 + size, kdci={"N": size}), folder)
    arguments = ["--experiment", "fig4_dictionary_size", "--markdown", str(tmp_path / "n.md")]
    assert main([str(tmp_path), *arguments]) == 0
    assert "96.00 (n=1)*" in capsys.readouterr().out
    text = (tmp_path / "n.md").read_text(encoding="utf-8")
    assert "| dafl | backdoor | - | - | 88.00 (n=1) | 96.00 (n=1)* |" in text


def test_writes_latex_and_says_what_it_lacks(
    outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (outputs / "1/summary.json").write_text("{")
    assert main([str(outputs), "--latex", str(tmp_path / "rows.tex")]) == 0
    assert "+1.00 (n=1) & n too small" in (tmp_path / "rows.tex").read_text(encoding="utf-8")
    error = capsys.readouterr().err
    assert error.startswith(f"Warning: '{tmp_path / 'rows.tex'}' is not complete: 1 summary")
    assert error.count("\n") == 1


def test_runs_keeps_seeds_apart(outputs: Path, tmp_path: Path) -> None:
    assert main([str(outputs), "--runs", "--csv", str(tmp_path / "runs.csv")]) == 0
    lines = (tmp_path / "runs.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 4
    assert lines[0].endswith("device,ranks,commit,run,started")


@pytest.mark.parametrize("kind", ["empty", "missing", "broken", "another file"])
def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path
    if kind == "broken":
        (tmp_path / "summary.json").write_text("{")
    elif kind == "another file":
        path = tmp_path / "notes.md"
        path.write_text("# Notes")
    elif kind == "missing":
        path = tmp_path / "missing"
    assert main([str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("Error: ")
    assert captured.err.count("\n") == 1
    assert str(path) in captured.err
    assert captured.out == ""
    assert ("remove the folder" in captured.err) == (kind == "broken")


def test_several_summaries_none_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text("{")
    assert main([str(tmp_path)]) == 2
    first, second, last = capsys.readouterr().err.splitlines()
    assert (str(tmp_path / "a"), str(tmp_path / "b")) < (first[11:], second[11:])
    assert last.startswith("Error: No summary can be used; 2 summaries left out")


def test_one_damaged_summary_does_not_stop_the_report(
    outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (outputs / "0/summary.json").write_text("{")
    csv, markdown = tmp_path / "rows.csv", tmp_path / "rows.md"
    assert main([str(outputs), "--csv", str(csv), "--markdown", str(markdown)]) == 0
    captured = capsys.readouterr()
    assert "1 summary left out" in captured.out
    assert "'" + str(outputs / "0/summary.json") + "' cannot be read" in markdown.read_text()
    assert captured.err.startswith("Warning: ")
    assert captured.err.count("\n") == 1
    assert len(csv.read_text().splitlines()) == 3
    assert "left out" not in csv.read_text()


def test_a_closed_folder_is_named_and_counted(
    outputs: Path,
    tmp_path: Path,
    closed: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (outputs / "0/summary.json").write_text("{")
    closed(outputs / "2")
    files = [f"--markdown={tmp_path / 'rows.md'}", f"--html={tmp_path / 'page.html'}"]
    assert main([str(outputs), *files]) == 0
    text = (tmp_path / "rows.md").read_text()
    assert "or remove the folder; 1 folder left out; ask for the right to read it" in text
    assert f"'{outputs / '2'}' cannot be read (Permission denied)" in text
    page = (tmp_path / "page.html").read_text()
    assert "1 damaged summary left out" in page
    assert "1 closed folder left out" in page
    capsys.readouterr()
    assert main([str(outputs / "2")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"Error: '{outputs / '2'}' cannot be read (Permission denied); 1 folder"
    )
    assert "remove" not in error


def test_runs_that_contradict_each_other_are_named_and_left_out(
    outputs: Path, tmp_path: Path, make_summary: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, last in (("4", 80.0), ("5", 80.5)):  # 0 and 4 are copies, which 5 contradicts
        (outputs / name).mkdir()
        write_summary(make_summary(last), outputs / name)
    csv, markdown = tmp_path / "rows.csv", tmp_path / "rows.md"
    assert main([str(outputs), "--csv", str(csv), "--markdown", str(markdown)]) == 0
    text = markdown.read_text()
    assert "3 summaries left out; run the same commands again, or remove the folders" in text
    for one, other in (("0", "5"), ("4", "5"), ("5", "0")):
        assert f"'{outputs / one}' and '{outputs / other}' hold different results of seed" in text
    assert "3 summaries left out" in capsys.readouterr().err
    assert "80.0" not in csv.read_text()
    assert main([str(outputs / "0"), str(outputs / "5")]) == 2
    assert capsys.readouterr().err.startswith(f"Left out: '{outputs / '0'}' and")


def test_unwritable_targets_are_one_line_and_exit_code_2(
    outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    for target, said in (
        (outputs / "0/summary.json/rows.csv", "Cannot write"),
        (tmp_path, "is a folder"),
        (tmp_path / "pipe", "is a device or pipe"),
    ):
        assert main([str(outputs), "--csv", str(target)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("Error: ")
        assert error.count("\n") == 1
        assert said in error
        assert str(target) in error


def test_a_full_disk_is_one_line(
    outputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    assert main([str(outputs), "--markdown", str(tmp_path / "rows.md")]) == 2
    error = capsys.readouterr().err
    assert "rows.md' (No space left on device)" in error
    assert "paths.outputs" not in error
    assert not list(tmp_path.glob("*rows*"))


def test_one_file_for_two_formats_is_refused(
    outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = [str(tmp_path / "rows"), f"{tmp_path}/outputs/../rows"]
    for first, second in (("csv", "markdown"), ("markdown", "latex"), ("csv", "latex")):
        assert main([str(outputs), f"--{first}", same[0], f"--{second}", same[1]]) == 2
        assert f"Expected --{first} and --{second} to differ" in capsys.readouterr().err
        assert not Path(same[0]).exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_one_line_and_costs_no_file(
    outputs: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.csv"
    command = [sys.executable, "-m", "src.report", str(outputs), "--csv", str(rows)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "Error: Cannot print (No space left on device)\n")
    assert len(rows.read_text(encoding="utf-8").splitlines()) == 3


@pytest.mark.parametrize("option", [None, "--discard-failed"])
def test_a_terminal_that_is_not_utf8_is_printed_to(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, option: str | None
) -> None:
    outputs = outputs.rename(outputs.with_name("Läufe"))
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding="ascii"))
    assert main([str(outputs), *([option] if option else [])]) == 0
    sys.stdout.flush()
    assert (b"/L?ufe/3" if option else b"81.00 ? 1.41") in printed.getvalue()


def test_discard_failed(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(outputs), "--discard-failed"]) == 0
    assert capsys.readouterr().out == f"Discarded '{outputs / '3'}'\n"
    assert sorted(path.name for path in outputs.iterdir()) == ["0", "1", "2"]
    assert main([str(outputs), "--discard-failed"]) == 0
    assert "nothing discarded" in capsys.readouterr().out


def test_discard_failed_leaves_what_is_damaged(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (outputs / "0/summary.json").write_text("{")
    assert main([str(outputs), "--discard-failed"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"Error: Not discarded: '{outputs / '0'}")
    assert "Discarded" in captured.out
    assert (outputs / "0/summary.json").exists()


def test_discard_failed_goes_with_no_table(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for other in (["--runs"], ["--latex", "rows.tex"]):
        assert main([str(outputs), "--discard-failed", *other]) == 2
    assert (outputs / "3").exists()


def test_import_is_light() -> None:
    program = (
        "import sys, src.report.__main__; "
        "heavy = {'torch', 'lightning', 'numpy', 'scipy', 'wandb', 'matplotlib'}; "
        "print(*heavy & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("", "")
