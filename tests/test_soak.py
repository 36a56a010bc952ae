"""A small soak, and that it can fail at all."""

import json
from pathlib import Path

import pytest
from filelock import FileLock

from tests.chaos.mishaps import (
    ALL,
    HELPER,
    KINDS,
    PARENT,
    POINT,
    WORKER,
    Mishap,
    role_of,
    schedule,
    targets,
)
from tests.chaos.soak import Grid, main, number_of_points, table
from tests.chaos.traces import (
    Check,
    accuracies,
    compare,
    contents,
    count_of,
    held_locks,
    in_shared_memory,
    made,
    none_of,
)

ROLES = {7: PARENT, 8: HELPER, 9: WORKER, 10: WORKER, 11: POINT, 12: POINT}


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.xdist_group("ranks")
def test_a_small_soak_is_clean(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    exit_code = main(["--points=4", "--kills=3", "--minutes=0.4"])
    said = capsys.readouterr().out
    assert exit_code == 0, said
    assert "1 x SIG" in said


def test_a_seed_says_what_happens_and_when() -> None:
    assert schedule(3, 20, 60.0) == schedule(3, 20, 60.0)
    assert schedule(3, 20, 60.0) != schedule(4, 20, 60.0)


def test_every_kind_comes_before_any_comes_again() -> None:
    planned = schedule(0, 2 * len(KINDS) + 1, 170.0)
    kinds = [mishap.kind for mishap in planned]
    half = len(KINDS)
    assert set(kinds[:half]) == set(kinds[half : 2 * half]) == set(KINDS)
    assert all(2.0 <= mishap.after <= 18.0 for mishap in planned)  # 10 s in the mean
    assert schedule(0, 0, 60.0) == []


@pytest.mark.parametrize(
    ("kind", "which", "expected"),
    [
        ("SIGKILL to a point", 0.0, [11]),
        ("SIGKILL to a point", 0.99, [12]),
        ("SIGKILL to a worker", 0.5, [10]),
        ("SIGTERM to the parent", 0.7, [7]),
        ("SIGKILL to parent and workers", 0.7, [7, 9, 10]),
        (ALL, 0.7, [7, 8, 9, 10, 11, 12]),
    ],
)
def test_mishaps_choose_their_targets(kind: str, which: float, expected: list[int]) -> None:
    assert targets(Mishap(0.0, kind, which, 1.0), ROLES) == expected


def test_mishaps_wait_for_a_point() -> None:
    roles = {pid: role for pid, role in ROLES.items() if role != POINT}
    assert targets(Mishap(0.0, "SIGTERM to the parent", 0.0, 1.0), roles) == []


def test_roles_are_read_from_command_lines() -> None:
    sweep = ["python", "-m", "src.run", "--multirun"]
    worker = ["python", "-m", "joblib.externals.loky.backend.popen_loky_posix", "--pipe", "14"]
    assert role_of(sweep, is_leader=True) == PARENT
    assert role_of(worker, is_leader=False) == WORKER
    assert role_of(["python", "-m", "src.run", "hydra.mode=RUN"], is_leader=False) == POINT
    assert role_of(["python", "-c", "main(3, False)"], is_leader=False) == HELPER


@pytest.mark.parametrize(("points", "stages", "kdci"), [(4, 2, 2), (6, 2, 3), (24, 8, 3)])
def test_grids_have_as_many_points_as_asked_for(points: int, stages: int, kdci: int) -> None:
    grid = Grid(points)
    lengths = [len(word.split(",")) for word in grid.overrides[-3:]]
    assert (grid.stages, lengths) == (stages, [2, kdci, stages // 2])
    assert number_of_points(str(points)) == points


def write_run(folder: Path, student: bytes = b"weights", status: str = "finished") -> Path:
    run = folder / "outputs" / "digits_dafl_none" / "0123"
    run.mkdir(parents=True)
    (run / "student.safetensors").write_bytes(student)
    summary = {"status": status, "acc1": {"last": 10.0}, "teacher": {"acc1": 50.0}}
    (run / "summary.json").write_text(json.dumps(summary))
    return run


def test_another_byte_of_a_student_is_a_fault(tmp_path: Path) -> None:
    write_run(tmp_path / "a"), write_run(tmp_path / "b"), write_run(tmp_path / "c", b"weightz")
    quiet, same, other = (contents(tmp_path / name) for name in "abc")
    assert compare("files", same, quiet) == Check("files", 1, [])
    (fault,) = compare("files", other, quiet).faults
    assert "differs: outputs/digits_dafl_none/0123/student.safetensors" in fault


def test_what_is_missing_or_too_much_is_a_fault() -> None:
    found = compare("files", {"a": "1", "b": "2"}, {"b": "2", "c": "3"})
    assert found == Check("files", 2, ["missing: c", "too much: a"])
    assert count_of("teachers", ["x", "y"], 1).faults == ["expected 1, got 2: ['x', 'y']"]
    assert none_of("locks", []).faults == []
    assert none_of("locks", ["x"]).faults == ["x"]


def test_an_unfinished_run_shows(tmp_path: Path) -> None:
    write_run(tmp_path, status="running")
    (fact,) = accuracies(tmp_path).values()
    assert fact.startswith('["running"')


def test_doubles_in_the_cache_are_counted() -> None:
    files = ["cache/teacher/a/teacher.safetensors", "cache/teacher/b/teacher.safetensors"]
    files += ["cache/substitution/c/bank0_rank0.npy", "cache/substitution/c/baseline_rank0.pt"]
    assert made(files, r"cache/teacher/.*") == {"cache/teacher/a", "cache/teacher/b"}
    assert made(files, r"cache/substitution/[^/]*/[^/]*") == {"cache/substitution/c"}


def test_held_locks_are_found(tmp_path: Path) -> None:
    (tmp_path / "free.lock").touch()
    with FileLock(tmp_path / "held.lock", is_singleton=False):
        assert held_locks(tmp_path) == [str(tmp_path / "held.lock")]


def test_shared_memory_is_told_by_process(tmp_path: Path) -> None:
    names = ["sem.loky-12-abc", "joblib_memmapping_folder_12_f0_1", "torch_123_4", "sem.loky-13-x"]
    names.append("database-12")  # somebody else's
    for name in names:
        (tmp_path / name).touch()
    assert in_shared_memory([12, 4000], tmp_path) == set(names[:2])


def test_the_table_names_every_fault() -> None:
    lines = table([Check("locks", 0, []), Check("run folders", 3, ["expected 4"])]).splitlines()
    assert [line.split()[-1] for line in lines[:2]] == ["right", "FAULT"]
    assert lines[2:] == ["FAULT: run folders: expected 4"]
