from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from src.config.node import build
from src.dataset.contract import ImageSpec
from src.objective.noise import NoisyDistillationObjective
from src.pipeline import stage_a
from src.pipeline.job import Job
from src.substitution.artifact import Artifact
from src.substitution.image_bank import files_of
from src.teacher.frozen import FrozenTeacher
from tests.compose import checked, with_options
from tests.toys import CPU, Storing, Toy, states_equal


class Watching(Toy):
    """One that looks at a student."""

    reads_student = True

    def objective(self) -> nn.Module:
        return NoisyDistillationObjective(4, 0.9)  # which learns


@pytest.fixture
def toy(tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher) -> Toy:
    return Toy(teacher=tiny_teacher, spec=tiny_spec)


@pytest.fixture
def watching(tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher) -> Watching:
    return Watching(teacher=tiny_teacher, spec=tiny_spec)


def fitted(baseline: Toy, folder: Path, **options: Any) -> dict[str, Any]:
    """What the fit of stage (a) is given, and the noise that it begins with."""
    given: dict[str, Any] = {}

    class Noting(Job):
        def fit(self, stage: str, module: Any, **given_to: Any) -> Any:
            given.update(given_to, module=module, noise=torch.rand(4).tolist())

    config, unknown = (
        with_options(checked("dafl", "digits", "smoke"), **options),
        SimpleNamespace(),
    )
    job: Any = Noting(config, folder, build(config.dataset), CPU, unknown)  # type: ignore[arg-type]
    stage_a._fit(job, baseline, Artifact(folder / "artifact"), None)
    return given


@pytest.mark.parametrize("images", [9, 10, 11])
def test_ranks_share_what_is_recorded_without_a_rest(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: int
) -> None:
    monkeypatch.setattr(stage_a, "world_size", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(stage_a, "rank", lambda rank=rank: rank)
        module = fitted(toy, tmp_path, substitution__num_images=images)["module"]
        shares.append(module.num_images)
    assert sum(shares) == images
    assert max(shares) - min(shares) <= 1


def test_every_rank_and_seed_has_noise_of_its_own_and_one_student(
    watching: Watching, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for seed, rank in ((0, 0), (0, 1), (1, 0), (0, 0)):
        monkeypatch.setattr(stage_a, "rank", lambda rank=rank: rank)
        torch.manual_seed(seed)  # as `make_substitution_data` does before networks are made
        found.append(fitted(watching, tmp_path, seed=seed))
    first, rank, seed, again = (each["noise"] for each in found)
    assert first == again
    assert first != rank
    assert first != seed
    students = [each["module"].companion.network for each in found]
    assert states_equal(students[0], students[1])
    assert not states_equal(students[0], students[2])


@pytest.mark.parametrize(
    ("mode", "warmup", "rounds"), [("replay", 2, 4), ("online", 3, 3), ("online", 0, 1)]
)
def test_online_only_the_warm_up_comes_before_the_student_and_one_round_at_least(
    watching: Watching, tmp_path: Path, mode: str, warmup: int, rounds: int
) -> None:
    options = {"substitution__mode": mode, "substitution__warmup_rounds": warmup}
    module = fitted(watching, tmp_path, **options)["module"]
    assert module.rounds == rounds
    assert (module.companion is None) == (mode == "online")


def test_the_student_alongside_learns_as_that_of_stage_b_after_the_warm_up(
    watching: Watching, tmp_path: Path
) -> None:
    options = {"steps_per_round": 7, "batch_size": 12, "objective_lr": 0.5}
    given = {f"distill__{name}": value for name, value in options.items()}
    for scheduled, steps in ((None, 3), (5, 5)):
        given |= {"distill__scheduler_steps": scheduled, "substitution__warmup_rounds": 2}
        student = fitted(watching, tmp_path, **given)["module"].companion
        assert (student.steps_per_round, student.batch_size, student.first_round) == (7, 12, 2)
        assert student.scheduler_steps == steps  # by default an epoch, of three steps
        assert student._optimizers[1].param_groups[0]["lr"] == 0.5


def test_a_method_that_looks_at_no_student_has_none(toy: Toy, tmp_path: Path) -> None:
    assert fitted(toy, tmp_path)["module"].companion is None


def test_the_last_epoch_may_be_shorter_and_states_of_other_lengths_lie_apart(
    toy: Toy, tmp_path: Path
) -> None:
    places = set()
    for every, epochs in ((1, 4), (2, 2), (3, 2), (4, 1), (9, 1)):
        given = fitted(toy, tmp_path, substitution__log_every=every)
        assert (given["epochs"], given["module"].log_every) == (epochs, every)
        assert given["state"].parent == tmp_path / "artifact" / "state"
        places.add(given["state"])
    assert len(places) == 5


@pytest.mark.parametrize(("share", "first"), [(0.0, 0), (0.5, 2), (1.0, 3)])
def test_a_generator_is_recorded_from_where_it_was_said(
    toy: Toy, tmp_path: Path, share: float, first: int
) -> None:
    module = fitted(toy, tmp_path, substitution__record_from=share)["module"]
    assert module.first_recorded == first


def test_the_student_alongside_is_measured_with_the_statistics_of_rank_zero(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[str, Any]] = []
    monkeypatch.setattr(stage_a, "broadcast_buffers", lambda of: seen.append(("sent", of)))
    monkeypatch.setattr(stage_a, "accuracy", lambda of, _: seen.append(("measured", of)) or 50.0)
    network, job = object(), SimpleNamespace(test_batches=list)
    module = SimpleNamespace(companion=SimpleNamespace(network=network))
    assert stage_a._companion_accuracy(job, module) == 50.0  # type: ignore[arg-type]
    assert seen == [("sent", network), ("measured", network)]


def test_all_that_grows_is_part_of_the_state(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, tmp_path: Path
) -> None:
    method = Storing(teacher=tiny_teacher, spec=tiny_spec)
    assert fitted(method, tmp_path)["files"] == files_of(method)
    assert len(files_of(method)) == 2
