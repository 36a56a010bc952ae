from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from src.common.augment import Augmentation
from src.config.node import build
from src.dataset.contract import ImageSpec
from src.kdci.adjustment import Adjustment
from src.kdci.clustering import KMeans
from src.network.convnet import ConvNet
from src.pipeline import stage_b
from src.pipeline.job import Job
from src.pipeline.stage_a import Substitution
from src.student.kdci_student import KDCIStudent
from src.substitution.batches import OnlineBatches, ReplayBatches
from src.substitution.image_bank import ImageBank
from src.substitution.module import Recording, predict
from src.teacher.frozen import FrozenTeacher
from tests.compose import checked, with_options
from tests.toys import CPU, Toy, dictionary, filled_bank, states_equal


@pytest.fixture
def teacher() -> FrozenTeacher:
    """Of ten classes, as digits have."""
    return FrozenTeacher(ConvNet([4, 8], num_classes=10))


@pytest.fixture
def toy(teacher: FrozenTeacher) -> Toy:
    spec = ImageSpec(10, 8, (0.5,) * 3, (0.25,) * 3)
    method = Toy(teacher=teacher, spec=spec)
    method.harvest(40)
    return method


Given = dict[str, Any]


@pytest.fixture
def trained(toy: Toy, teacher: FrozenTeacher, tmp_path: Path) -> Callable[..., Given]:
    """What the fit of stage (b) is given, and the noise that it begins with."""

    def train(**options: Any) -> Given:
        given: Given = {}

        class Noting(Job):
            def fit(self, stage: str, module: Any, **given_to: Any) -> Any:
                given.update(given_to, module=module, noise=torch.rand(4).tolist())

        config, unknown = checked("dafl", "digits", "smoke"), SimpleNamespace()
        config = with_options(config, **options)
        job: Any = Noting(config, tmp_path, build(config.dataset), CPU, unknown)  # type: ignore[arg-type]
        recording = predict(teacher, toy.substitution_data())
        builder = SimpleNamespace(clustering=KMeans(16))
        made = Substitution(toy, *[unknown] * 2, recording, False, builder, None, None)  # type: ignore[arg-type]
        found = None if config.kdci is None else dictionary(3, dim=10)
        stage_b.train_student(job, teacher, made, found)
        return given

    return train


def test_every_rank_and_repeat_has_noise_of_its_own_and_ranks_one_student(
    trained: Callable[..., Given], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for rank, repeat in ((0, 0), (1, 0), (0, 1), (0, 0)):
        monkeypatch.setattr(stage_b, "rank", lambda rank=rank: rank)
        torch.rand(1 + rank)  # whatever was drawn before
        found.append(trained(distill__repeat=repeat))
    first, rank, repeat, again = (each["noise"] for each in found)
    assert first == again
    assert first != rank
    assert first != repeat
    students = [each["module"].network for each in found]
    assert states_equal(students[0], students[1])
    assert not states_equal(students[0], students[2])
    seeds = [each["batches"].seed for each in found]
    assert seeds[0] == seeds[1] == seeds[3] == 0
    assert seeds[2] != 0


def test_replay_goes_through_the_banks_and_online_the_method_goes_on(
    trained: Callable[..., Given], toy: Toy
) -> None:
    options = {"distill__batch_size": 8, "distill__steps_per_epoch": 5, "distill__epochs": 3}
    replay = trained(**options)
    batches = replay["batches"]
    assert isinstance(batches, ReplayBatches)
    assert (batches.shares, len(batches), replay["epochs"]) == ([8], 5, 3)
    assert (replay["files"], replay["outside"], replay["callbacks"]) == ({}, {}, [])
    online = trained(**options, substitution__mode="online", distill__steps_per_round=2)
    batches = online["batches"]
    assert isinstance(batches, OnlineBatches)
    assert (batches.batch_size, len(batches)) == (8, 5)
    assert online["files"] == {"bank0": toy.bank}
    assert online["outside"] == {"baseline": toy}
    (rounds,) = online["callbacks"]
    assert (rounds.baseline, rounds.steps_per_round, rounds.after_round) == (toy, 2, None)


def test_the_student_has_the_options_of_its_configuration(trained: Callable[..., Given]) -> None:
    options = {"distill__objective_lr": 0.5, "distill__scheduler_steps": 7}
    for mode, resampling_seed in (("replay", None), ("online", 3)):
        module = trained(**options, kdci__lr_scale=4, seed=3, substitution__mode=mode)["module"]
        assert isinstance(module, KDCIStudent)
        assert (module.objective_lr, module.scheduler_steps, module.lr_scale) == (0.5, 7, 4)
        assert module.resampling_seed == resampling_seed  # replayed batches are weighted already
        assert module.make_scheduler is not None
    vanilla = trained(**options, kdci=None)["module"]
    assert not isinstance(vanilla, KDCIStudent)
    assert (vanilla.objective_lr, vanilla.scheduler_steps) == (0.5, 7)


def test_a_repeat_draws_an_adjustment_and_a_weighting_of_its_own(
    trained: Callable[..., Given], monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []

    def noting(node: Any, **given: Any) -> Any:
        seeds.append(given["seed"])
        return build(node, **given)

    monkeypatch.setattr(stage_b, "build", noting)
    found = [
        trained(distill__repeat=repeat, seed=3, substitution__mode="online")["module"]
        for repeat in range(3)
    ]
    assert seeds == [module.resampling_seed for module in found]
    assert seeds[0] == 3
    assert len(set(seeds)) == 3


def test_no_repeat_has_the_seed_of_another_run() -> None:
    seeds = set()
    for seed in range(4):
        for repeat in range(4):
            config = SimpleNamespace(seed=seed, distill=SimpleNamespace(repeat=repeat))
            seeds.add(stage_b._seed(SimpleNamespace(config=config)))  # type: ignore[arg-type]
    assert len(seeds) == 16


def test_what_the_teacher_has_said_is_replayed_and_what_is_held_out_is_not(
    trained: Callable[..., Given], toy: Toy
) -> None:
    toy.bank.augmentation = Augmentation()
    batches = trained(kdci=None)["batches"]
    expected = toy.teacher(toy.bank.batch(torch.arange(40))).logits
    torch.testing.assert_close(batches.logits, [expected])
    assert batches.inclusion is None
    (inclusion,) = trained(kdci=None, distill__held_out=0.25)["batches"].inclusion
    assert inclusion.long().bincount().tolist() == [10, 30]


@pytest.mark.parametrize(("every", "epochs"), [(3, 3), ("auto", 12)])
def test_evaluations_are_as_far_apart_as_the_test_split_asks_for(
    trained: Callable[..., Given], every: int | str, epochs: int
) -> None:
    # 360 test images of digits / (0.08 * 4 * 3 * 32) = 11.7
    assert trained(kdci=None, distill__evaluate_every=every)["evaluate_every"] == epochs


@pytest.mark.parametrize("every", [1, 3])
def test_a_dictionary_is_made_again_after_every_so_many_rounds_of_the_size_of_the_first(
    trained: Callable[..., Given], monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    sizes: list[int] = []

    def remake(job: Job, builder: Any, baseline: Toy) -> Any:
        sizes.append(builder.clustering.N)
        return dictionary(3, dim=10)

    monkeypatch.setattr(
        stage_b, "replace", lambda made, **new: SimpleNamespace(**vars(made) | new)
    )
    monkeypatch.setattr(stage_b, "_dictionary_now", remake)
    (rounds,) = trained(substitution__mode="online", kdci__refresh_every=every)["callbacks"]
    made, loaded = [], list[int]()
    monkeypatch.setattr(Adjustment, "load", lambda *_: loaded.append(len(sizes)))
    for count in range(1, 7):
        rounds.after_round(count)
        if len(loaded) > len(made):
            made.append(count)
    assert made == list(range(every, 7, every))
    assert set(sizes) == {3}


@pytest.mark.parametrize(("ranks", "images", "batches"), [(1, 9, 3), (2, 9, 2), (2, 8, 1)])
def test_images_that_are_only_drawn_are_as_many_as_stage_a_records(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, ranks: int, images: int, batches: int
) -> None:
    monkeypatch.setattr(stage_b, "world_size", lambda: ranks)
    config = SimpleNamespace(
        distill=SimpleNamespace(batch_size=4), substitution=SimpleNamespace(num_images=images)
    )
    job: Any = SimpleNamespace(config=config)
    before = torch.get_rng_state()
    recording = stage_b._draw(job, toy)
    assert torch.equal(torch.get_rng_state(), before)
    shown = torch.cat([toy.sample(4) for _ in range(batches)])
    output = toy.teacher(shown)
    torch.testing.assert_close(recording.logits, output.logits.detach())
    torch.testing.assert_close(recording.features, output.features.detach())
    assert not recording.logits.requires_grad


def test_whoever_keeps_its_images_is_clustered_on_all_of_them_and_nobody_else(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def cluster(recording: Any) -> Any:
        seen.append(len(recording.logits))
        return dictionary(3, dim=10)

    builder: Any = SimpleNamespace(cluster=cluster)
    config = SimpleNamespace(
        distill=SimpleNamespace(batch_size=4), substitution=SimpleNamespace(num_images=12)
    )
    job: Any = SimpleNamespace(config=config)
    for keeps, images in ((False, 12), (True, 40)):
        monkeypatch.setattr(Toy, "keeps_images", keeps)
        stage_b._dictionary_now(job, builder, toy)
        assert seen.pop() == images


class Doubled(Toy):
    """Keeps two banks, the second of which is small."""

    def __init__(self, *, teacher: FrozenTeacher, spec: ImageSpec) -> None:
        super().__init__(teacher=teacher, spec=spec)
        self.second = filled_bank(spec, 8)

    def substitution_data(self) -> list[ImageBank]:
        return [self.bank, self.second]


def test_a_dictionary_that_is_made_again_is_of_batches_too(
    toy: Toy, teacher: FrozenTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, logits = Doubled(teacher=teacher, spec=toy.spec), torch.randn(48, 10)
    method.bank = toy.bank
    recording = Recording(method.substitution_data(), logits, logits)
    monkeypatch.setattr(stage_b, "predict", lambda *_: recording)
    monkeypatch.setattr(Toy, "keeps_images", True)
    builder: Any = SimpleNamespace(cluster=lambda recording: KMeans(3).fit(recording.logits))
    found = stage_b._dictionary_now(SimpleNamespace(), builder, method)  # type: ignore[arg-type]
    parts = logits.argmax(1).split([40, 8])
    shares = [part.bincount(minlength=10) / len(part) for part in parts]
    assert not torch.allclose(*shares)
    of_class = found.counts.sum(0).float()
    torch.testing.assert_close(of_class / of_class.sum(), torch.stack(shares).mean(0))
