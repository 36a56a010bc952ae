"""Stage (a): the substitution data, made or reused."""

import logging
from dataclasses import dataclass
from typing import cast

from hydra.utils import get_class

from src.common.distributed import broadcast_buffers, on_rank_zero, rank, world_size
from src.common.files import remove_leftovers
from src.common.seeding import derive_seed, seed_all
from src.config.node import build, build_partial
from src.kdci.builder import DictionaryBuilder
from src.kdci.callback import ConfounderDictionaryCallback
from src.kdci.dictionary import ConfounderDictionary
from src.pipeline.dictionary import dictionary_builder
from src.pipeline.job import Job, locked, remove
from src.student.companion import CompanionStudent
from src.substitution.artifact import Artifact, ArtifactInfo
from src.substitution.contract import Baseline
from src.substitution.image_bank import files_of, stores_of
from src.substitution.module import Recording, SubstitutionModule
from src.teacher.evaluate import accuracy
from src.teacher.frozen import FrozenTeacher

_log = logging.getLogger(__name__)


@dataclass
class Substitution:
    """What stage (a) hands on.

    Attributes:
        baseline: The method, in its last state.
        artifact: Where all of it lies.
        info: What is known of it.
        recording: Images and the teacher's predictions.
        reused: Whether another run has made it.
        builder: Makes the confounder dictionary; None for a vanilla student.
        dictionary: What was built at the end of stage (a); None if it was reused.
        attribution: Owed where images are shown.
    """

    baseline: Baseline
    artifact: Artifact
    info: ArtifactInfo
    recording: Recording
    reused: bool
    builder: DictionaryBuilder | None
    dictionary: ConfounderDictionary | None
    attribution: str | None


def make_substitution_data(job: Job, teacher: FrozenTeacher) -> Substitution:
    """Run the baseline, or reuse what an equal stage (a) has left."""
    seed_all(derive_seed(job.config.seed, "stage_a"))
    baseline = _baseline(job, teacher)
    key = job.identity.stage_a(teacher.fingerprint())
    artifact = Artifact(job.cache / "substitution" / key)
    builder = dictionary_builder(job, teacher, artifact)
    callback = ConfounderDictionaryCallback(builder) if builder else None
    # Whoever only replays never goes on, and stores are the largest of what it would need.
    kept = stores_of(baseline) if job.config.substitution.mode == "online" else {}
    with locked(artifact.folder):
        on_rank_zero(lambda: remove_leftovers(artifact.folder))
        reused = _is_reusable(artifact)
        if reused:
            _log.info("Reusing stage (a) in %s", artifact.folder)
            info, recording = artifact.info(), artifact.read(job.device)
            artifact.restore(baseline, recording, kept)
        else:
            _log.info("Stage (a): making substitution data in %s", artifact.folder)
            module = _fit(job, baseline, artifact, callback)
            recording = module.recording()
            acc1 = _companion_accuracy(job, module)
            job.require_unchanged_data(artifact.folder)  # with the dictionary that is built of it
            info = artifact.write(
                baseline, recording, losses=module.losses, acc1_stage_a=acc1, stores=kept
            )
            for store in () if kept else stores_of(baseline).values():
                store.clear()  # as where the artifact is reused
        remove(artifact.folder / "state")  # also of one that was killed between its card and this
    dictionary = callback.dictionary if callback else None
    attribution = job.pool.attribution if baseline.reads_pool else None
    return Substitution(
        baseline, artifact, info, recording, reused, builder, dictionary, attribution
    )


def _is_reusable(artifact: Artifact) -> bool:
    """Whether a whole stage (a) lies there; a damaged one is reported and removed."""
    if not artifact.exists():
        return False
    damage = artifact.damage()
    if damage is None:
        return True
    _log.warning("Substitution data that was made before is damaged: %s; it is not used", damage)
    remove(artifact.folder)
    return False


def _baseline(job: Job, teacher: FrozenTeacher) -> Baseline:
    node = job.config.baseline
    kind = cast("type[Baseline]", get_class(node["_target_"]))
    pool = {"pool": job.pool} if kind.reads_pool else {}
    baseline: Baseline = build(node, teacher=teacher, spec=job.dataset.spec, **pool)
    job.to_device(baseline)
    return baseline


def _fit(
    job: Job,
    baseline: Baseline,
    artifact: Artifact,
    callback: ConfounderDictionaryCallback | None,
) -> SubstitutionModule:
    options = job.config.substitution
    online = options.mode == "online"
    rounds = max(1, options.warmup_rounds) if online else options.rounds
    companion = _companion(job, baseline) if baseline.reads_student and not online else None
    module = SubstitutionModule(
        baseline,
        rounds=rounds,
        num_images=len(range(rank(), options.num_images, world_size())),
        record_from=options.record_from,
        log_every=options.log_every,
        companion=companion,
    )
    # From here on every rank has noise of its own; until now networks were equal.
    seed_all(derive_seed(job.config.seed, "stage_a", "rank", rank()))
    job.fit(
        "stage_a",
        module,
        epochs=-(-rounds // options.log_every),
        # Rounds an epoch shape no result, but what an interrupted fit counts in.
        state=artifact.folder / "state" / f"every{options.log_every}",
        callbacks=[callback] if callback else [],
        files=files_of(baseline),
    )
    return module


def _companion(job: Job, baseline: Baseline) -> CompanionStudent:
    options = job.config.distill
    companion = CompanionStudent(
        job.network(job.config.student.network),
        baseline.objective(),
        optimizer=build_partial(options.optimizer),
        scheduler=build_partial(options.scheduler),
        scheduler_steps=options.scheduler_steps or options.steps_per_epoch,
        steps_per_round=options.steps_per_round,
        batch_size=options.batch_size,
        first_round=job.config.substitution.warmup_rounds,
        objective_lr=options.objective_lr,
    )
    job.to_device(companion)
    return companion


def _companion_accuracy(job: Job, module: SubstitutionModule) -> float | None:
    if module.companion is None:
        return None
    network = cast("CompanionStudent", module.companion).network
    broadcast_buffers(network)  # one network, not one of each rank
    return accuracy(network, job.test_batches())
