import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from src.dataset.contract import ImageSpec
from src.pipeline.evaluation import evaluate_every
from src.student.module import StudentModule
from src.substitution.batches import ReplayBatches
from src.teacher.frozen import FrozenTeacher
from tests.compose import checked
from tests.toys import filled_bank, job, labelled, states_equal, student

EPOCHS = 7


@pytest.mark.parametrize(
    ("dataset", "budget", "test_images", "epochs"),
    [
        ("digits", "laptop", 360, 1),
        ("cifar10", "laptop", 10_000, 5),  # 10,000 / (0.08 * 4 * 60 * 128) = 4.07
        ("cifar10", "paper", 10_000, 1),
    ],
)
def test_evaluations_are_a_small_part_of_the_work(
    dataset: str, budget: str, test_images: int, epochs: int
) -> None:
    options = checked("dafl", dataset, budget).distill
    assert evaluate_every(options, test_images) == epochs
    chosen = options.model_copy(update={"evaluate_every": 3})
    assert evaluate_every(chosen, test_images) == 3


@pytest.mark.parametrize(("ranks", "epochs"), [(1, 5), (2, 3), (4, 2), (8, 1)])
def test_ranks_train_on_as_many_images_each(
    ranks: int, epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.pipeline.evaluation.world_size", lambda: ranks)
    # 4.07, 2.03, 1.02 and 0.51
    assert evaluate_every(checked("dafl", "cifar10", "laptop").distill, 10_000) == epochs


def fit(
    module: StudentModule, spec: ImageSpec, folder: Path, every: int, epochs: int = EPOCHS
) -> list[int]:
    """Epochs after which there was an evaluation, counted over all attempts."""
    found: list[int] = []
    evaluated = module.on_validation_epoch_end
    module.on_validation_epoch_end = lambda: found.append(module.epochs_done + 1) or evaluated()  # type: ignore[method-assign,func-returns-value]
    job(folder).fit(
        "stage_b",
        module,
        epochs=epochs,
        state=folder / "state",
        batches=ReplayBatches([filled_bank(spec)], batch_size=8, steps=2, seed=0),
        test=labelled(spec, 20),
        evaluate_every=every,
    )
    return found


def test_the_last_epoch_is_always_evaluated_and_the_student_does_not_notice(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, tmp_path: Path
) -> None:
    made: dict[int, Any] = {}
    for every, epochs in {1: [1, 2, 3, 4, 5, 6, 7], 3: [1, 4, 7], 20: [7]}.items():
        torch.manual_seed(0)
        made[every] = student(tiny_spec, tiny_teacher)
        folder = tmp_path / str(every)
        assert fit(made[every], tiny_spec, folder, every) == epochs
        assert len(logged := rows(folder)) == EPOCHS
        assert [row["student/epoch"] for row in logged if row["student/acc"]] == [
            str(float(epoch)) for epoch in epochs
        ]
    for every in (3, 20):
        assert states_equal(made[every].network, made[1].network)
        assert made[every].acc1["last"] == made[1].acc1["last"]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics" / "stage_b" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_an_interruption_does_not_move_the_evaluations(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, tmp_path: Path
) -> None:
    class StopError(Exception): ...

    def stop() -> None:
        if module.epochs_done == 2:
            raise StopError

    module = student(tiny_spec, tiny_teacher)
    module.on_train_epoch_start = stop  # type: ignore[method-assign]
    with pytest.raises(StopError):
        fit(module, tiny_spec, tmp_path, every=3)
    assert fit(student(tiny_spec, tiny_teacher), tiny_spec, tmp_path, every=3) == [4, 7]
