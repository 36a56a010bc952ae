import os
from pathlib import Path

import pytest

from src.common.sealed import DamagedError
from src.report.metrics import metric_files, read_points

HEADER = "epoch,step,teacher/acc,teacher/epoch\n"


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "metrics.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_attempts_are_in_order(tmp_path: Path) -> None:
    for name in ("stage_b.10", "stage_b", "stage_a", "stage_b.2"):
        (tmp_path / "metrics" / name).mkdir(parents=True)
        (tmp_path / "metrics" / name / "metrics.csv").touch()
    names = [path.parent.name for path in metric_files(tmp_path, "stage_b")]
    assert names == ["stage_b", "stage_b.2", "stage_b.10"]
    assert metric_files(tmp_path, "teacher") == []


def test_lines_of_one_step_are_one_point(tmp_path: Path) -> None:
    text = HEADER + "0,21,54.5,\r\n0,21,,1.0\r\n1,43,60.0,2.0\r\n"
    assert list(read_points(written(tmp_path, text))) == [
        {"teacher/acc": 54.5, "teacher/epoch": 1.0, "epoch": 0, "step": 21},
        {"teacher/acc": 60.0, "teacher/epoch": 2.0, "epoch": 1, "step": 43},
    ]


def test_rounds_without_a_step_between_them_stay_apart(tmp_path: Path) -> None:
    text = "epoch,stage_a/round,step\n0,1.0,0\n1,2.0,0\n"
    rounds = [point["stage_a/round"] for point in read_points(written(tmp_path, text))]
    assert rounds == [1.0, 2.0]


@pytest.mark.parametrize("rest", ["1,43,60.0,\n", "1,43,60.0,\n1,43,,2.", "1,4"])
def test_what_a_killed_process_has_not_ended_does_not_count(tmp_path: Path, rest: str) -> None:
    (point,) = read_points(written(tmp_path, HEADER + "0,21,54.5,1.0\n" + rest))
    assert point["teacher/epoch"] == 1.0


def test_accuracy_of_an_epoch_that_never_came_joins_no_other(tmp_path: Path) -> None:
    (point,) = read_points(written(tmp_path, HEADER + "0,21,54.5,\n1,43,,2.0\n"))
    assert point == {"teacher/epoch": 2.0, "epoch": 1, "step": 43}


@pytest.mark.parametrize("text", ["", "epoch,step\n", "epo"])
def test_nothing_yet_is_no_point(tmp_path: Path, text: str) -> None:
    assert list(read_points(written(tmp_path, text))) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEADER + "0,21,54.5,1.0\n0,x,1.0,1.0\n", "line 3"),
        (HEADER + "0,21,good,1.0\n", "line 2"),
        (HEADER + "0,21,54.5\n", "one cell for each column"),
        (HEADER + "0,21,54.5,1.0,7\n", "one cell for each column"),
        ("teacher/epoch\n1.0\n", "no column 'epoch'"),
        (b"\xff\xfe", "cannot be read"),
        ('epoch,step\n0,"2\n', "unexpected end of data"),
    ],
)
def test_damage_is_named(tmp_path: Path, text: str | bytes, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(DamagedError, match=said) as error:
        list(read_points(path))
    assert str(path) in str(error.value)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.csv")
    with pytest.raises(DamagedError, match="no regular file"):
        list(read_points(tmp_path / "metrics.csv"))
