import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest

from src.common.errors import UserError
from src.common.sealed import digests, write_sealed
from src.report.summary import (
    is_finished,
    read_summary,
    why_not_finished,
    write_summary,
)


def test_what_is_written_is_read_back_with_its_folder(tmp_path: Path, make_summary: Any) -> None:
    summary = make_summary(80.0)
    path = write_summary(summary, tmp_path)
    assert path == tmp_path / "summary.json"
    assert read_summary(path) == summary | {"folder": str(tmp_path)}
    assert "folder" not in json.loads(path.read_text())


def test_what_was_held_out_is_optional(tmp_path: Path, make_summary: Any) -> None:
    summary = make_summary(80.0)
    held_out = {"images": 12, "agreement": 97.5, "one_class": 25.0}
    for changed in (summary, summary | {"held_out": None}, summary | {"held_out": held_out}):
        assert read_summary(write_summary(changed, tmp_path)).get("held_out") == changed.get(
            "held_out"
        )
    held_out["agreement"] = 100.5
    with pytest.raises(ValueError, match=r"`held_out\.agreement` within 0\.\.100 percent"):
        write_summary(summary | {"held_out": held_out}, tmp_path)


def broken(path: Path, kind: str) -> None:
    """Damage a good summary."""
    text = path.read_text()
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "altered":
        path.write_text(text.replace("80.0", "90.0"))
    elif kind == "truncated":
        path.write_text(text[: len(text) // 2])
    elif kind == "unsealed":
        path.write_text(json.dumps({k: v for k, v in json.loads(text).items() if k != "seal"}))
    elif kind == "deep":
        path.write_text("[" * 100_000)
    else:
        path.write_bytes(kind.encode("latin-1"))


KINDS = ["pipe", "folder", "altered", "truncated", "unsealed", "deep", "", "\xff", "null", "[1]"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_summary_is_named_with_reason_and_cure(
    tmp_path: Path, make_summary: Any, kind: str
) -> None:
    path = write_summary(make_summary(80.0), tmp_path)
    broken(path, kind)
    with pytest.raises(UserError, match=r"run the same command again, or remove the folder") as e:
        read_summary(path)
    assert str(path) in str(e.value)
    assert is_finished(tmp_path) is False
    reason = why_not_finished(tmp_path)
    assert reason is not None
    assert str(path) in reason


@pytest.mark.parametrize(
    "key",
    [
        "status",
        "seed",
        "teacher.acc1",
        "teacher.sha256",
        "acc1.last",
        "seconds.total",
        "identity.code",
        "device",
        "checksums",
    ],
)
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
    write_sealed(tmp_path / "summary.json", summary)
    with pytest.raises(UserError, match=rf"summary\.json' is incomplete.*`{key}`"):
        read_summary(tmp_path / "summary.json")


@pytest.mark.parametrize("key", ["last", "best", "compensated", "stage_a"])
@pytest.mark.parametrize("value", [-0.1, 100.1])
def test_no_accuracy_leaves_its_range(
    tmp_path: Path, make_summary: Any, key: str, value: float
) -> None:
    summary = make_summary(80.0, acc1={key: value})
    with pytest.raises(ValueError, match=rf"`acc1\.{key}` within 0\.\.100 percent"):
        write_summary(summary, tmp_path)
    write_sealed(tmp_path / "summary.json", summary)
    with pytest.raises(UserError, match=rf"`acc1\.{key}` within 0\.\.100 percent"):
        read_summary(tmp_path / "summary.json")


@pytest.mark.parametrize("change", [{"peak_memory_mb": math.nan}, {"acc1": {"last": math.nan}}])
def test_what_is_no_number_is_not_written(
    tmp_path: Path, make_summary: Any, change: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"nan|float values"):
        write_summary(make_summary(80.0, **change), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_status_is_refused(tmp_path: Path, make_summary: Any) -> None:
    path = write_summary(make_summary(status="done"), tmp_path)
    with pytest.raises(UserError, match="`status` to be one of"):
        read_summary(path)


@pytest.fixture
def finished(tmp_path: Path, make_summary: Any) -> Path:
    """Folder of a finished run with its files."""
    for name in ("student.safetensors", "student.json", "substitution.png"):
        (tmp_path / name).write_text(f"content of {name}")
    checksums = digests(tmp_path, ["student.safetensors", "student.json", "substitution.png"])
    write_summary(make_summary(80.0, checksums=checksums), tmp_path)
    return tmp_path


def test_a_whole_run_is_finished(finished: Path) -> None:
    assert is_finished(finished) is True
    assert why_not_finished(finished) is None


@pytest.mark.parametrize("name", ["student.safetensors", "student.json", "substitution.png"])
@pytest.mark.parametrize("harm", ["altered", "missing"])
def test_a_run_with_a_damaged_file_is_not_finished(finished: Path, name: str, harm: str) -> None:
    if harm == "missing":
        (finished / name).unlink()
    else:
        (finished / name).write_text(f"Content of {name}")
    assert is_finished(finished) is False
    reason = why_not_finished(finished)
    assert reason is not None
    assert re.search(rf"{re.escape(str(finished / name))}' (is missing|has been altered)", reason)


@pytest.mark.parametrize("status", ["running", "failed", "interrupted"])
def test_an_unfinished_run_is_not_finished_and_not_damaged(
    tmp_path: Path, make_summary: Any, status: str
) -> None:
    assert (is_finished(tmp_path), why_not_finished(tmp_path)) == (False, None)
    summary = make_summary(status=status, error="boom")
    for key in ("acc1", "seconds", "peak_memory_mb", "substitution", "checksums"):
        del summary[key]
    path = write_summary(summary, tmp_path)
    assert read_summary(path)["error"] == "boom"
    assert (is_finished(tmp_path), why_not_finished(tmp_path)) == (False, None)


def test_a_summary_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, make_summary: Any
) -> None:
    path = write_summary(make_summary(80.0), tmp_path)
    with pytest.raises(TypeError):
        write_summary(make_summary(90.0, device=object()), tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    assert read_summary(path)["acc1"]["last"] == 80.0


def test_all_and_none_right_are_accuracies(tmp_path: Path, make_summary: Any) -> None:
    ends = make_summary(0.0, acc1={"last": 0.0, "best": 100.0}, teacher={"acc1": 100.0})
    assert read_summary(write_summary(ends, tmp_path))["acc1"]["best"] == 100.0
    with pytest.raises(ValueError, match=r"`teacher\.acc1` within 0\.\.100 percent"):
        write_summary(make_summary(teacher={"acc1": 100.1}), tmp_path)


def test_a_wrong_value_is_shown_as_far_as_it_helps(tmp_path: Path, make_summary: Any) -> None:
    text = "one of some words " * 40
    write_sealed(tmp_path / "summary.json", make_summary(seed=text))
    with pytest.raises(UserError, match="`seed` to be int, but got 'one of some words") as error:
        read_summary(tmp_path / "summary.json")
    shown = str(error.value).split("but got ")[1].split("; run")[0]
    assert 60 < len(shown) <= 80


def test_a_finished_run_is_of_its_identity(finished: Path) -> None:
    assert is_finished(finished, "c0ffee") is True
    assert is_finished(finished, "decaf") is False
    assert (
        why_not_finished(finished, "decaf") == f"'{finished / 'summary.json'}' is of another run"
    )


def test_a_link_to_nothing_is_damage(tmp_path: Path) -> None:
    (tmp_path / "summary.json").symlink_to("nowhere")
    assert str(why_not_finished(tmp_path)).endswith("is missing")
