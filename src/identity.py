"""What shapes what: the one place that decides which result is the same as which.

Four things are reused: teachers, stages (a), dictionaries and whole runs. Each is identified by
the parts of the configuration that shape it, by the content of the data and files that these
name, and by the source and libraries that compute it. They build on each other: what shapes the
teacher shapes all that follows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from fnmatch import fnmatchcase
from functools import cache, cached_property, partial
from typing import Any

from src.common.files import content_hash
from src.common.leaves import leaves
from src.common.provenance import source_hash


class Moment(IntEnum):
    """The first thing that something shapes; it then shapes all later ones too."""

    TEACHER = 0
    STAGE_A = 1
    DICTIONARY = 2
    RUN = 3
    NEVER = 4


@dataclass(frozen=True)
class Traits:
    """What decides which options are read at all.

    Attributes:
        trains_teacher: No checkpoint is given.
        reads_pool: The baseline draws on the unlabeled pool.
        has_companion: A student is trained alongside stage (a).
        is_compensated: There is a confounder dictionary.
    """

    trains_teacher: bool
    reads_pool: bool
    has_companion: bool
    is_compensated: bool


_NEVER, _TEACHER, _STAGE_A = Moment.NEVER, Moment.TEACHER, Moment.STAGE_A
_DICTIONARY, _RUN = Moment.DICTIONARY, Moment.RUN

# Leaves of the configuration, what they shape, and the trait without which they shape something
# else. The first pattern that fits counts; a leaf that none fits is an error.
_TABLE: tuple[tuple[str, Moment, str | None, Moment], ...] = (
    # What is done, shown, or where files lie; content stands in the place of paths.
    *((name, _NEVER, None, _NEVER) for name in ("task", "force", "logger.*", "fid.*", "paths.*")),
    ("search.*", _NEVER, None, _NEVER),
    ("plugins", _NEVER, None, _NEVER),  # what is used of them counts by its source
    *(
        (f"{group}.{name}", _NEVER, None, _NEVER)
        for group in ("dataset", "pool", "pool.of", "pool.other")
        for name in ("root", "cache_dir", "download", "allow_overlap")
    ),
    *((f"teacher.{name}", _NEVER, None, _NEVER) for name in ("checkpoint", "class_map")),
    ("trainer.progress", _NEVER, None, _NEVER),
    ("trainer.accelerator", _NEVER, None, _NEVER),  # the device that it finds counts
    ("substitution.log_every", _NEVER, None, _NEVER),
    ("baseline.store_memory", _NEVER, None, _NEVER),  # where stores lie changes no bit
    ("substitution.published_mode", _NEVER, None, _NEVER),
    # Names that a record shows, and demands that a finished run was held to.
    *((name, _RUN, None, _RUN) for name in ("budget", "teacher.name", "student.name")),
    *((name, _RUN, None, _RUN) for name in ("teacher.expected_acc1", "teacher.strict")),
    # Of stage (b) alone, companion or not.
    *((f"distill.{name}", _RUN, None, _RUN) for name in ("repeat", "evaluate_every", "held_out")),
    # The teacher.
    ("dataset.*", _TEACHER, None, _TEACHER),
    ("trainer.*", _TEACHER, None, _TEACHER),
    ("teacher.network.*", _TEACHER, None, _TEACHER),
    ("teacher.fit.*", _TEACHER, "trains_teacher", _NEVER),
    ("teacher.seed", _TEACHER, "trains_teacher", _NEVER),
    # Stage (a).
    ("seed", _STAGE_A, None, _STAGE_A),
    ("baseline.*", _STAGE_A, None, _STAGE_A),
    ("substitution.*", _STAGE_A, None, _STAGE_A),
    ("pool.*", _STAGE_A, "reads_pool", _NEVER),
    ("student.network.*", _STAGE_A, "has_companion", _RUN),
    ("distill.*", _STAGE_A, "has_companion", _RUN),
    # The dictionary, and what is done with it.
    ("kdci.name", _RUN, None, _RUN),
    *((f"kdci.{name}", _DICTIONARY, "is_compensated", _NEVER) for name in ("N", "dictionary.*")),
    ("kdci.*", _RUN, "is_compensated", _NEVER),
)
# All others: stage (a).
_CONTENTS = dict.fromkeys(("dataset", "teacher.checkpoint", "teacher.class_map"), _TEACHER)


@cache
def first_shaped(leaf: str, traits: Traits) -> Moment:
    """What a leaf of the configuration shapes first.

    Raises:
        KeyError: If the table does not know it.
    """
    for pattern, moment, trait, otherwise in _TABLE:
        if fnmatchcase(leaf, pattern):
            return moment if trait is None or getattr(traits, trait) else otherwise
    raise KeyError(f"Expected every option to have its place in the table, but '{leaf}' has none")


@dataclass(frozen=True)
class Identity:
    """The identities of one configuration.

    Attributes:
        config: Resolved configuration, plain containers.
        traits: What it reads.
        device: Type of the device that computes, e.g. ``cpu``.
        contents: Hashes of what the configuration names: ``dataset``, ``pool`` if it is read, and
            the dotted option of every file.
        code: Hashes of the source by what it shapes, see :func:`code_of`.
    """

    config: Mapping[str, Any]
    traits: Traits
    device: str
    contents: Mapping[str, str]
    code: Mapping[str, str]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All that shapes the run, by dotted name; files by their content elsewhere."""
        return self._settings(Moment.RUN)

    def _settings(self, until: Moment) -> dict[str, Any]:
        return {leaf: value for leaf, value, moment in self._leaves if moment <= until}

    @cached_property
    def _leaves(self) -> list[tuple[str, Any, Moment]]:
        """Dotted name, value, and what it shapes first; no file, which counts by its content."""
        found = [
            (leaf, _plain(value), first_shaped(leaf, self.traits))
            for leaf, value in leaves(self.config)
            if leaf not in self.contents
        ]
        return [*found, ("trainer.device", self.device, Moment.TEACHER)]

    def _hash(self, until: Moment, parts: tuple[str, ...], *more: str) -> str:
        contents = {
            name: digest
            for name, digest in self.contents.items()
            if _CONTENTS.get(name, Moment.STAGE_A) <= until
        }
        code = {part: self.code[part] for part in parts if part in self.code}
        return content_hash([self._settings(until), contents, code, *more])

    @cached_property
    def teacher(self) -> str:
        """Of a teacher that is trained here, 20 hexadecimal digits."""
        return self._hash(Moment.TEACHER, ("teacher",))[:20]

    def stage_a(self, teacher_sha256: str) -> str:
        """Of the substitution data, 20 hexadecimal digits.

        Args:
            teacher_sha256: Hash of the teacher's weights: one trained anew on another machine
                may differ in bits.
        """
        return self._hash(Moment.STAGE_A, ("teacher", "stage_a"), teacher_sha256)[:20]

    @cached_property
    def dictionary(self) -> str:
        """Of the confounder dictionary among those of one stage (a), 16 hexadecimal digits."""
        parts = ("teacher", "stage_a", "dictionary")
        return self._hash(Moment.DICTIONARY, parts)[:16]

    @cached_property
    def run(self) -> str:
        """Of a whole run, 12 hexadecimal digits."""
        return self._hash(Moment.RUN, ("teacher", "stage_a", "stage_b", "kdci"))[:12]

    def record(self) -> dict[str, Any]:
        """JSON-able, for the summary: what makes this run the same as another."""
        return {
            "run": self.run,
            "settings": self.settings,
            "contents": dict(self.contents),
            "code": {part: digest for part, digest in self.code.items() if part != "dictionary"},
        }


def code_of(config: Mapping[str, Any], traits: Traits) -> dict[str, str]:
    """Hashes of the source as it is now, by the part of a run that it shapes.

    Of ``teacher``, ``stage_a`` and ``stage_b``, and with compensation of ``dictionary`` and
    ``kdci``. What lies in ``src.pipeline`` counts without its imports, which are nearly all.
    """
    hashed = partial(source_hash, plugins=config["plugins"])
    loading = "src.teacher.module" if traits.trains_teacher else "src.teacher.checkpoint"
    teacher = ["src.teacher.evaluate", "src.dataset.loader", "src.common.sync_batch_norm", loading]
    teacher += _targets(config["dataset"], config["teacher"])
    stage_a = ["src.substitution.module", *_targets(config["baseline"])]
    if traits.reads_pool:
        stage_a += _targets(config["pool"])
    if traits.has_companion:
        stage_a += ["src.student.companion", *_targets(config["student"])]
    stage_b = ["src.student.module", "src.substitution.batches"]
    stage_b += _targets(config["student"], config["distill"])
    stage_a_alone = ["src.pipeline.stage_a"]
    stage_a_alone += ["src.substitution.artifact", "src.substitution.strategy"]
    stage_b_alone = ("src.pipeline.stage_b", "src.pipeline.evaluation", "src.pipeline.held_out")
    always = tuple(f"src.pipeline.{name}" for name in ("teacher", "job", "trainer", "share"))
    hashes = {
        "teacher": hashed(teacher, always),
        "stage_a": hashed(stage_a, stage_a_alone),
        "stage_b": hashed(stage_b, stage_b_alone),
    }
    if traits.is_compensated:
        alone = ("src.kdci.builder", "src.kdci.callback", "src.pipeline.dictionary")
        clustering, adjustment = config["kdci"]["dictionary"], config["kdci"]["adjustment"]
        dictionary = ["src.kdci.dictionary", *_targets(clustering)]
        hashes["dictionary"] = hashed(dictionary, alone)
        student = ["src.student.kdci_student", *dictionary, *_targets(adjustment)]
        hashes["kdci"] = hashed(student, alone)
    return hashes


def _targets(*nodes: Any) -> list[str]:
    """Modules of all classes that nodes name, at any depth."""
    found = []
    for node in nodes:
        for leaf, value in leaves(node):
            if leaf.split(".")[-1] == "_target_":
                found.append(str(value).rpartition(".")[0])
    return found


def _plain(value: Any) -> Any:
    """Numbers that are equal are written alike: 1.0 as 1."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value
