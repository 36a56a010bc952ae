import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from src.pipeline.software import git_revision, versions


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
