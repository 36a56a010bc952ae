"""The confounder dictionary, between stages (a) and (b)."""

from src.config.node import build
from src.kdci.builder import DictionaryBuilder
from src.kdci.dictionary import ConfounderDictionary
from src.pipeline.job import Job
from src.substitution.artifact import Artifact
from src.substitution.module import Recording
from src.teacher.frozen import FrozenTeacher


def dictionary_builder(
    job: Job, teacher: FrozenTeacher, artifact: Artifact
) -> DictionaryBuilder | None:
    """What builds the dictionary of a stage (a); None for a vanilla student."""
    kdci = job.config.kdci
    if kdci is None:
        return None
    return DictionaryBuilder(
        build(kdci.dictionary, seed=job.config.seed),
        teacher_sha256=teacher.fingerprint(),
        data_key=artifact.key,
        path=artifact.dictionaries / f"{job.identity.dictionary}.safetensors",
        cost=job.costs["dictionary"],
    )


def make_dictionary(
    builder: DictionaryBuilder | None, recording: Recording, built: ConfounderDictionary | None
) -> ConfounderDictionary | None:
    """The dictionary of this run; None for a vanilla student.

    Args:
        builder: How it is built.
        recording: What is clustered.
        built: What was built at the end of stage (a), if that was not reused.
    """
    if builder is None or built is not None:
        return built
    return builder.obtain(recording)
