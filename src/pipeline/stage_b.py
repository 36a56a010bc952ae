"""Stage (b): the student, compensated or not, on the substitution data."""

import logging
from dataclasses import replace
from typing import Any, cast

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from src.common.distributed import rank, world_size
from src.common.seeding import derive_seed, restore_rng_state, rng_state, seed_all
from src.config.node import build, build_partial
from src.kdci.adjustment import require_probabilities
from src.kdci.builder import DictionaryBuilder
from src.kdci.dictionary import ConfounderDictionary
from src.kdci.mixin import KDCIMixin
from src.kdci.unevenness import as_in_batches
from src.pipeline.evaluation import evaluate_every
from src.pipeline.held_out import by_bank, held_out
from src.pipeline.job import Job
from src.pipeline.stage_a import Substitution
from src.student.kdci_student import KDCIStudent
from src.student.module import StudentModule
from src.student.step import meet
from src.substitution.batches import OnlineBatches, OnlineRounds, ReplayBatches
from src.substitution.contract import Baseline
from src.substitution.image_bank import files_of
from src.substitution.module import Recording, predict
from src.teacher.frozen import FrozenTeacher

_log = logging.getLogger(__name__)


def train_student(
    job: Job,
    teacher: FrozenTeacher,
    substitution: Substitution,
    dictionary: ConfounderDictionary | None,
) -> StudentModule:
    """Train the student; seeds and data order are the same with and without KDCI.

    Args:
        job: The run.
        teacher: Whom it meets.
        substitution: On what.
        dictionary: The confounders; None for a vanilla student.
    """
    options, baseline = job.config.distill, substitution.baseline
    recording, seed = substitution.recording, _seed(job)
    if dictionary is not None:
        dictionary = as_in_batches(dictionary, by_bank(recording, recording.logits))
    seed_all(derive_seed(seed, "stage_b"))
    module = _student(job, teacher, baseline.objective(), dictionary)
    seed_all(derive_seed(seed, "stage_b", "rank", rank()))
    online = job.config.substitution.mode == "online"
    batches: OnlineBatches | ReplayBatches
    callbacks: list[Callback] = []
    if online:
        batches = OnlineBatches(
            baseline, batch_size=options.batch_size, steps=options.steps_per_epoch
        )
        callbacks = [_online_rounds(job, module, substitution, dictionary)]
    else:
        batches = ReplayBatches(
            recording.banks,
            options.batch_size,
            options.steps_per_epoch,
            seed,
            inclusion=_inclusion(module, recording, held_out(job, recording)),
            logits=by_bank(recording, recording.logits),
        )
    _say_what_was_found(job, module)
    test = job.test_batches()
    job.fit(
        "stage_b",
        module,
        epochs=options.epochs,
        state=job.folder / "state",
        batches=batches,
        test=test,
        evaluate_every=evaluate_every(options, len(test.split.labels)),
        callbacks=callbacks,
        files=files_of(baseline) if online else {},
        outside={"baseline": baseline} if online else {},
        leaves_out=_leaves_out(job, module),
    )
    return module


def _leaves_out(job: Job, module: StudentModule) -> bool:
    def loss(images: Tensor) -> Tensor:
        return meet(images, module.teacher, module.student_output, module.objective)[1]

    return job.leaves_out(module, loss)


def _seed(job: Job) -> int:
    """The run's; of a repeat one of its own, so that no two stages (a) share it."""
    seed, repeat = job.config.seed, job.config.distill.repeat
    return derive_seed(seed, "repeat", repeat) if repeat else seed


def _student(
    job: Job,
    teacher: FrozenTeacher,
    objective: nn.Module,
    dictionary: ConfounderDictionary | None,
) -> StudentModule:
    options, kdci = job.config.distill, job.config.kdci
    common: dict[str, Any] = {
        "network": job.network(job.config.student.network),
        "teacher": teacher,
        "objective": objective.to(job.device),
        "optimizer": build_partial(options.optimizer),
        "scheduler": build_partial(options.scheduler),
        "scheduler_steps": options.scheduler_steps,
        "objective_lr": options.objective_lr,
    }
    if kdci is None or dictionary is None:
        return StudentModule(**common)
    adjustment = build(
        kdci.adjustment,
        dictionary=dictionary,
        num_classes=job.dataset.spec.num_classes,
        seed=_seed(job),
    )
    online = job.config.substitution.mode == "online"
    return KDCIStudent(
        **common,
        adjustment=adjustment,
        lr_scale=kdci.lr_scale,
        resampling_seed=_seed(job) if online else None,
    )


def _say_what_was_found(job: Job, module: StudentModule) -> None:
    kdci = job.config.kdci
    if kdci and isinstance(module, KDCIMixin) and "auto" in kdci.adjustment.values():
        facts = module.adjustment.facts.items()
        found = ", ".join(f"{name} {value:.2f}" for name, value in facts)
        _log.info("Adjustment %s: %s", kdci.name, found)


def _inclusion(
    module: StudentModule, recording: Recording, held_out: list[Tensor] | None
) -> list[Tensor] | None:
    """Probabilities by bank, where the adjustment weighs samples or images are held out."""
    inclusion = None
    if isinstance(module, KDCIMixin):
        inclusion = module.adjustment.weights_within(by_bank(recording, recording.logits))
        for part in inclusion or ():
            require_probabilities(part, module.adjustment)  # they are taken for them
    if held_out is None:
        return inclusion
    if inclusion is None:
        inclusion = [torch.ones(len(bank)) for bank in recording.banks]
    left = [part.index_fill(0, rows, 0) for part, rows in zip(inclusion, held_out, strict=True)]
    return [part / part.max() for part in left]  # the heaviest may all be held out


def _online_rounds(
    job: Job,
    module: StudentModule,
    substitution: Substitution,
    dictionary: ConfounderDictionary | None,
) -> OnlineRounds:
    """The rounds between student steps, and the dictionary made again after some of them."""
    rounds = OnlineRounds(
        substitution.baseline, steps_per_round=job.config.distill.steps_per_round
    )
    kdci, builder = job.config.kdci, substitution.builder
    every = kdci.refresh_every if kdci else None
    if every is not None and builder is not None and dictionary is not None:
        # What learns has the shape of the first one, also where its N was found.
        clustering = replace(builder.clustering, N=len(dictionary.prior))
        again = replace(builder, clustering=clustering)

        def rebuild(rounds: int) -> None:
            if rounds % every == 0:
                found = _dictionary_now(job, again, substitution.baseline)
                cast("KDCIMixin", module).adjustment.load(found)
                _say_what_was_found(job, module)

        rounds.after_round = rebuild
    return rounds


def _dictionary_now(
    job: Job, builder: DictionaryBuilder, baseline: Baseline
) -> ConfounderDictionary:
    """Of all images that the baseline keeps; where it keeps none, of as many as (a) records."""
    if not baseline.keeps_images:
        return builder.cluster(_draw(job, baseline))
    banks = baseline.substitution_data()
    recording = predict(baseline.teacher, banks, type(baseline).__name__)
    return as_in_batches(builder.cluster(recording), by_bank(recording, recording.logits))


@torch.no_grad()
def _draw(job: Job, baseline: Baseline) -> Recording:
    """The teacher's predictions on what the baseline makes now.

    Its dice are thrown back: the student goes on with the images of a run that draws none.
    """
    before = rng_state()
    batch = job.config.distill.batch_size
    steps = -(-job.config.substitution.num_images // (batch * world_size()))
    outputs = [baseline.teacher(baseline.fresh(batch)) for _ in range(steps)]
    logits = torch.cat([output.logits for output in outputs]).cpu()
    features = torch.cat([output.features for output in outputs]).cpu()
    restore_rng_state(before)
    return Recording(baseline.substitution_data(), logits, features)
