import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from src.common.errors import UserError
from src.report.summary import git_revision, read_summaries, versions, write_summary


def test_what_is_written_is_read_back_with_its_folder(tmp_path: Path, make_summary: Any) -> None:
    summary = make_summary(80.0)
    path = write_summary(summary, tmp_path)
    assert path == tmp_path / "summary.json"
    assert read_summaries([path]) == [summary | {"folder": str(tmp_path)}]


def test_reading_is_recursive_sorted_and_counts_each_file_once(
    tmp_path: Path, make_summary: Any
) -> None:
    for name, last in (("b/deep", 2.0), ("a", 1.0)):
        (tmp_path / name).mkdir(parents=True)
        write_summary(make_summary(last), tmp_path / name)
    found = read_summaries([tmp_path, tmp_path / "a", tmp_path / "b/deep/summary.json"])
    assert [summary["acc1"]["last"] for summary in found] == [1.0, 2.0]


def test_an_empty_folder_holds_no_summary(tmp_path: Path) -> None:
    assert read_summaries([tmp_path]) == []


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: expected a run folder"):
        read_summaries([tmp_path / "nowhere"])


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"[1]", b"null", b'"text"'])
def test_a_file_that_is_no_summary_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "summary.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"summary\.json: expected"):
        read_summaries([tmp_path])


@pytest.mark.parametrize("key", ["status", "teacher.acc1", "acc1.last", "seconds.total", "config"])
@pytest.mark.parametrize("value", ["absent", None, []])
def test_a_missing_or_mistyped_key_is_named(
    tmp_path: Path, make_summary: Any, key: str, value: Any
) -> None:
    summary = make_summary(80.0)
    *parents, last = key.split(".")
    node = summary[parents[0]] if parents else summary
    if value == "absent":
        del node[last]
    else:
        node[last] = value
    write_summary(summary, tmp_path)
    with pytest.raises(UserError, match=rf"summary\.json: expected `{key}` to be"):
        read_summaries([tmp_path])


def test_a_failed_run_needs_no_results(tmp_path: Path, make_summary: Any) -> None:
    summary = make_summary(status="failed", error="boom")
    for key in ("acc1", "seconds", "peak_memory_mb", "substitution"):
        del summary[key]
    write_summary(summary, tmp_path)
    (read,) = read_summaries([tmp_path])
    assert read["error"] == "boom"


def test_a_summary_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, make_summary: Any
) -> None:
    write_summary(make_summary(80.0), tmp_path)
    with pytest.raises(TypeError):
        write_summary(make_summary(90.0, device=object()), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
    assert json.loads((tmp_path / "summary.json").read_text())["acc1"]["last"] == 80.0


def test_versions_name_what_shapes_a_result() -> None:
    found = versions()
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"python", "lightning", "faiss-cpu"} <= found.keys()


@pytest.fixture
def outside_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that no repository reaches, also when a git hook runs the tests."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    folder = tmp_path / "checkout"
    folder.mkdir()
    return folder


def test_no_revision_outside_git(outside_git: Path) -> None:
    assert git_revision(outside_git) is None


def test_no_revision_without_the_git_command(
    outside_git: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(outside_git))
    assert git_revision(outside_git) is None


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_revision_is_the_commit_and_says_when_files_changed(outside_git: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
        command = ["git", *identity, "-c", "commit.gpgsign=false", *arguments]
        return subprocess.run(
            command, cwd=outside_git, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init")
    (outside_git / "file").write_text("one")
    git("add", "file")
    git("commit", "--message", "first")
    git("tag", "--annotate", "v1", "--message", "a tag must not replace the hash")
    commit = git("rev-parse", "HEAD")
    assert git_revision(outside_git) == commit
    (outside_git / "file").write_text("two")
    assert git_revision(outside_git) == f"{commit}-dirty"
