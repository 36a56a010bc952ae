import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.common.errors import UserError
from src.common.files import lock
from src.report import collection
from src.report.collection import read_summaries, unfinished
from src.report.discard import discard_failed
from src.report.summary import PREVIOUS, write_summary


def write(folder: Path, summary: Any) -> Path:
    folder.mkdir(parents=True)
    write_summary(summary, folder)
    return folder


def test_reading_is_recursive_sorted_and_counts_each_file_once(
    tmp_path: Path, make_summary: Any
) -> None:
    write(tmp_path / "b/deep", make_summary(2.0))
    write(tmp_path / "a", make_summary(1.0))
    found = read_summaries([tmp_path, tmp_path / "a", tmp_path / "b/deep/summary.json"])
    assert [summary["acc1"]["last"] for summary in found.summaries] == [1.0, 2.0]
    assert found.damaged == []


def test_an_empty_folder_holds_no_summary(tmp_path: Path) -> None:
    assert read_summaries([tmp_path]) == ([], [])


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere' does not exist"):
        read_summaries([tmp_path / "nowhere"])


def test_damaged_summaries_stand_apart_and_a_pipe_is_not_opened(
    tmp_path: Path, make_summary: Any
) -> None:
    write(tmp_path / "good", make_summary(1.0))
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe/summary.json")
    found = read_summaries([tmp_path])
    assert len(found.summaries) == 1
    path = tmp_path / "pipe/summary.json"
    assert found.damaged == [(path, f"'{path}' is no regular file", False)]


def test_a_folder_that_cannot_be_read_stands_among_the_damaged_once(
    tmp_path: Path, make_summary: Any, closed: Callable[[Path], None]
) -> None:
    write(tmp_path / "a/open", make_summary(1.0))
    write(tmp_path / "a/closed/run", make_summary(2.0))
    write(tmp_path / "b", make_summary(3.0))
    (tmp_path / "b/summary.json").write_text("{")
    closed(tmp_path / "a/closed")
    found = read_summaries([tmp_path, tmp_path / "a"])
    assert [summary["acc1"]["last"] for summary in found.summaries] == [1.0]
    folder, damaged = found.damaged
    reason = f"'{folder.path}' cannot be read (Permission denied)"
    assert folder == (tmp_path / "a/closed", reason, True)
    assert damaged.path == tmp_path / "b/summary.json"


def test_links_to_folders_are_followed_and_lead_nowhere_twice(
    tmp_path: Path, make_summary: Any
) -> None:
    outputs, other = tmp_path / "outputs", tmp_path / "other"
    write(outputs / "b/run", make_summary(1.0))
    write(other / "run", make_summary(2.0))
    (other / "back").symlink_to(outputs)
    (outputs / "a").symlink_to("b")
    (outputs / "b/here").symlink_to(".")
    (outputs / "c").symlink_to(other)
    (outputs / "nowhere").symlink_to("nowhere")
    folders = [summary["folder"] for summary in read_summaries([outputs]).summaries]
    assert folders == [str(outputs / "b/run"), str(outputs / "c/run")]


HOLD = """
import sys
from pathlib import Path
from src.common.files import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_run_whose_lock_is_held_is_running(tmp_path: Path, make_summary: Any) -> None:
    folder = write(tmp_path / "run", make_summary(status="running"))
    command = [sys.executable, "-c", HOLD, str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert read_summaries([tmp_path]).summaries[0]["status"] == "running"
        holder.kill()
    (summary,) = read_summaries([tmp_path]).summaries
    assert summary["status"] == "interrupted"
    assert summary["error"] == "killed; the same command goes on"


def test_without_a_lock_file_a_running_run_was_killed_and_none_is_made(
    tmp_path: Path, make_summary: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "run", make_summary(status="running"))
    monkeypatch.chdir(folder)  # where the run's folder is called "."
    assert read_summaries([Path("summary.json")]).summaries[0]["status"] == "interrupted"
    assert list(tmp_path.iterdir()) == [folder]


def test_what_is_finished_or_begun_later_supersedes(make_summary: Any) -> None:
    def attempt(day: int, status: str, seed: int, **changes: Any) -> Any:
        started = f"2026-11-{day:02}T10:00:00+00:00"
        return make_summary(status=status, seed=seed, **changes) | {"started": started}

    code = {"code": {"stage_a": "a2"}}
    runs = [
        attempt(2, "failed", 0),
        attempt(1, "finished", 0, **code),
        attempt(4, "interrupted", 1),
        attempt(3, "failed", 1, **code),
        attempt(5, "failed", 2, settings={"student.lr": 0.2}),
        attempt(6, "running", 2),
    ]
    assert unfinished(runs) == [runs[2], runs[4], runs[5]]


@pytest.mark.parametrize(
    "option", ["teacher.checkpoint", "teacher.class_map", "pool.of.root", "baseline.weights"]
)
def test_a_run_of_another_file_supersedes_nothing(make_summary: Any, option: str) -> None:
    def of(path: str, status: str) -> Any:
        config: dict[str, Any] = {}
        *groups, name = option.split(".")
        node = config
        for group in groups:
            node = node.setdefault(group, {})
        node[name] = path
        contents = {} if name == "root" else {option: path}
        return make_summary(status=status, config=config, contents=contents)

    runs = [of("a", "finished"), of("b", "interrupted"), of("a", "failed")]
    assert unfinished(runs) == [runs[1]]


def test_the_time_of_the_file_stands_in_for_a_start_that_is_not_told(
    tmp_path: Path, make_summary: Any
) -> None:
    for name, time in (("a", 2), ("b", 3), ("c", 1)):
        folder = write(tmp_path / name, make_summary(status="failed", error=name))
        os.utime(folder / "summary.json", (time, time))
    (left,) = unfinished(read_summaries([tmp_path]).summaries)
    assert left["error"] == "b"


def test_only_failed_runs_are_discarded(tmp_path: Path, make_summary: Any) -> None:
    for status in ("failed", "interrupted", "running", "finished"):
        folder = write(tmp_path / status, make_summary(status=status))
        (folder / "run.log").write_text("what the console said")
    assert discard_failed([tmp_path]) == ([tmp_path / "failed"], [])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "finished",
        "interrupted",
        "running",
    ]


def test_a_closed_folder_is_left_and_nobody_is_told_to_remove_it(
    tmp_path: Path, make_summary: Any, closed: Callable[[Path], None]
) -> None:
    write(tmp_path / "closed/run", make_summary(status="failed"))
    closed(tmp_path / "closed")
    (line,) = discard_failed([tmp_path]).refused
    assert line.startswith(f"'{tmp_path / 'closed'}' cannot be read (Permission denied); ask")


@pytest.mark.parametrize("what", ["finished", "damaged", "empty", "other file"])
def test_a_path_that_has_not_failed_is_refused_before_anything_is_deleted(
    tmp_path: Path, make_summary: Any, what: str
) -> None:
    failed = write(tmp_path / "failed", make_summary(status="failed"))
    path = tmp_path / "named"
    if what == "finished":
        write(path, make_summary())
        paths = [failed, path]
    elif what == "damaged":
        path.mkdir()
        (path / "summary.json").write_text("{")
        paths = [failed, path]
    elif what == "empty":
        path.mkdir()
        paths = [path]
    else:
        path = failed / "copy.json"
        path.write_bytes((failed / "summary.json").read_bytes())
        paths = [path]
    with pytest.raises(UserError, match=r"'?.*(named|copy\.json)"):
        discard_failed(paths)
    assert (failed / "summary.json").exists()


def test_a_folder_on_which_more_hangs_is_left(
    tmp_path: Path, make_summary: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = write(tmp_path / "top", make_summary(status="failed"))
    write(top / "run", make_summary())
    here = write(tmp_path / "here", make_summary(status="failed"))
    used = write(tmp_path / "used", make_summary(status="failed"))
    link = tmp_path / "link"
    link.mkdir()
    (link / "summary.json").symlink_to(top / "run/summary.json")
    monkeypatch.chdir(here)
    with lock(used):
        done = discard_failed([tmp_path])
    assert done.folders == []
    assert done.refused == [
        f"'{here}' is the working directory, or holds it",
        f"'{top}' holds other runs too",
        f"'{used}' is in use",
    ]
    assert all(path.exists() for path in (here, top, used))


def test_what_lies_behind_a_link_is_discarded_by_its_own_name_only(
    tmp_path: Path, make_summary: Any
) -> None:
    run = write(tmp_path / "other/run", make_summary(status="failed"))
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    (outputs / "link").symlink_to(run.parent)
    (line,) = discard_failed([outputs]).refused
    assert line.startswith(f"'{outputs / 'link/run'}' lies behind a link, in '{run}'; name that")
    assert run.exists()
    assert discard_failed([run / "summary.json"]).folders == [run]


@pytest.mark.parametrize("status", ["failed", "interrupted", "running"])
def test_the_result_before_a_forced_run_that_ended_early_is_kept_and_told(
    tmp_path: Path, make_summary: Any, status: str
) -> None:
    folder = write(tmp_path / "run", make_summary(status=status, error="no"))
    (folder / PREVIOUS).write_text("{}")
    (summary,) = read_summaries([tmp_path]).summaries
    assert summary["error"].endswith(f"; the earlier result is kept in {PREVIOUS}")
    done = discard_failed([tmp_path])
    assert done.folders == []
    assert len(done.refused) == (status == "failed")
    assert all(f"holds an earlier result ({PREVIOUS});" in line for line in done.refused)
    assert (folder / PREVIOUS).exists()


def test_what_is_damaged_or_closed_stands_in_one_order(
    tmp_path: Path, make_summary: Any, closed: Callable[[Path], None]
) -> None:
    write(tmp_path / "a", make_summary(3.0))
    (tmp_path / "a/summary.json").write_text("{")
    write(tmp_path / "b/run", make_summary(2.0))
    closed(tmp_path / "b")
    found = read_summaries([tmp_path])
    assert [each.path for each in found.damaged] == [tmp_path / "a/summary.json", tmp_path / "b"]


def test_a_run_that_ends_while_it_is_read_has_ended(
    tmp_path: Path, make_summary: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "run", make_summary(status="running"))
    whole = collection.read_whole

    def ending(path: Path) -> Any:
        summary = whole(path)
        write_summary(make_summary(), folder)
        return summary

    monkeypatch.setattr(collection, "read_whole", ending)
    (summary,) = read_summaries([tmp_path]).summaries
    assert (summary["status"], summary["error"]) == ("finished", None)


def test_starts_are_compared_as_times_whatever_their_zone(make_summary: Any) -> None:
    starts = ["2026-11-02T10:00:00+00:00", "2026-11-02T11:00:00+05:00", "2026-11-02T09:00:00"]
    runs = [make_summary(status="failed") | {"started": start} for start in starts]
    assert unfinished(runs) == [runs[0]]
