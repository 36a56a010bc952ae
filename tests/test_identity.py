"""What shapes what: every option, every content, every module."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from src.common import package, provenance
from src.common.leaves import leaves
from src.config.check import check
from src.identity import Identity, Moment, Traits, code_of, first_shaped
from src.pipeline.content import traits_of
from src.pipeline.identify import plain as plain_of
from tests.compose import plain

BASELINES = sorted(path.stem for path in (package.CONF / "baseline").glob("*.yaml"))
SETTINGS = sorted(path.stem for path in (package.CONF / "setting").glob("*.yaml"))
ORDER = ["teacher", "stage_a", "dictionary", "run"]
NOTHING, TEACHER, STAGE_A, DICTIONARY, RUN = [], ORDER, ORDER[1:], ORDER[2:], ORDER[3:]

# Spelt out once more, by hand: which identities an option must change, and which it must not.
# The first line that fits counts; a name stands for itself, a group with a dot for its options.
EXPECTED = (
    ("task force plugins paths. logger. fid. search.", NOTHING),
    ("substitution.log_every substitution.published_mode baseline.store_memory", NOTHING),
    ("trainer.progress trainer.accelerator", NOTHING),
    ("dataset.root dataset.cache_dir dataset.download dataset.allow_overlap", NOTHING),
    ("pool.root pool.cache_dir pool.download pool.allow_overlap", NOTHING),
    ("teacher.checkpoint teacher.class_map", NOTHING),
    ("budget teacher.name student.name kdci.name teacher.expected_acc1 teacher.strict", RUN),
    ("distill.repeat distill.evaluate_every distill.held_out", RUN),
    ("dataset. teacher.network. trainer.", TEACHER),
    ("seed baseline. substitution.", STAGE_A),
)
# With the trait, and without it.
CONDITIONAL = (
    ("teacher.fit. teacher.seed", "trains_teacher", TEACHER, NOTHING),
    ("pool.", "reads_pool", STAGE_A, NOTHING),
    ("student.network. distill.", "has_companion", STAGE_A, RUN),
    (
        "kdci.N kdci.dictionary.",
        *("is_compensated", DICTIONARY, NOTHING),
    ),
    (
        "kdci.adjustment. kdci.lr_scale kdci.refresh_every",
        *("is_compensated", RUN, NOTHING),
    ),
)


def fits(leaf: str, words: str) -> bool:
    return any(leaf == w or (w[-1] == "." and leaf.startswith(w)) for w in words.split())


def expected(leaf: str, traits: Traits) -> list[str]:
    """Identities that a leaf has to change."""
    for words, shaped in EXPECTED:
        if fits(leaf, words):
            return shaped
    for words, trait, shaped, otherwise in CONDITIONAL:
        if fits(leaf, words):
            return shaped if getattr(traits, trait) else otherwise
    raise AssertionError(f"'{leaf}' is a new option: say here what it shapes")


def names(found: Identity) -> dict[str, str]:
    return {
        "teacher": found.teacher,
        "stage_a": found.stage_a("weights"),
        "dictionary": found.dictionary,
        "run": found.run,
    }


def changed(before: Identity, after: Identity) -> list[str]:
    old, new = names(before), names(after)
    return [name for name in ORDER if old[name] != new[name]]


def other(value: Any) -> Any:
    """A different value."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list):
        return [*value, 7]
    return f"{value}x"


def with_leaf(node: Mapping[str, Any], leaf: str, value: Any) -> dict[str, Any]:
    key, _, rest = leaf.partition(".")
    return {**node, key: with_leaf(node[key], rest, value) if rest else value}


def made(*overrides: str, contents: Mapping[str, str] | None = None) -> Identity:
    config = check(plain(*overrides))
    contents = contents or {"dataset": "images"}
    options, traits = plain_of(config), traits_of(config)
    return Identity(options, traits, "cpu", contents, code_of(options, traits))


@pytest.mark.parametrize(("setting", "baseline"), list(product(SETTINGS, BASELINES)))
def test_every_option_changes_exactly_what_it_shapes(setting: str, baseline: str) -> None:
    assert_table_holds(made(f"dataset={setting}", f"baseline={baseline}"))


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("choice", ["kdci=none", "substitution.mode=online"])
def test_what_is_not_read_shapes_nothing(baseline: str, choice: str) -> None:
    assert_table_holds(made(f"baseline={baseline}", choice))


def assert_table_holds(before: Identity) -> None:
    """Change every leaf, one at a time."""
    every = dict(leaves(before.config))
    assert len(every) > 50
    for leaf, value in every.items():
        after = replace(before, config=with_leaf(before.config, leaf, other(value)))
        assert changed(before, after) == expected(leaf, before.traits), leaf


def test_with_a_checkpoint_the_training_of_a_teacher_shapes_nothing() -> None:
    contents = {"dataset": "images", "teacher.checkpoint": "weights"}
    before = made("teacher.checkpoint=weights.pt", contents=contents)
    assert not before.traits.trains_teacher
    assert_table_holds(before)


@pytest.mark.parametrize(
    ("name", "shaped"),
    [
        ("dataset", TEACHER),
        ("teacher.checkpoint", TEACHER),
        ("teacher.class_map", TEACHER),
        ("pool", STAGE_A),
        ("baseline.initial_images", STAGE_A),
    ],
)
def test_content_counts_where_it_is_read(name: str, shaped: list[str]) -> None:
    contents = {"dataset": "a", "teacher.checkpoint": "b", "pool": "c"}
    contents |= {"teacher.class_map": "d", "baseline.initial_images": "e"}
    before = made("baseline=cmi", contents=contents)
    assert changed(before, replace(before, contents=contents | {name: "other"})) == shaped


def test_a_file_counts_by_its_content_not_by_its_name() -> None:
    contents = {"dataset": "a", "baseline.initial_images": "d"}
    before = made("baseline=cmi", "baseline.initial_images=here.npy", contents=contents)
    moved = made("baseline=cmi", "baseline.initial_images=there.npy", contents=contents)
    assert changed(before, moved) == NOTHING


def test_other_weights_of_the_teacher_make_another_stage_a() -> None:
    found = made()
    assert found.stage_a("these") != found.stage_a("those")


def test_another_device_computes_something_else() -> None:
    before = made()
    assert changed(before, replace(before, device="cuda")) == TEACHER


def test_equal_numbers_are_equal_however_they_are_written() -> None:
    whole, point = made("distill.optimizer.lr=1"), made("distill.optimizer.lr=1.0")
    assert changed(whole, point) == NOTHING


def test_an_option_without_a_place_is_an_error() -> None:
    with pytest.raises(KeyError, match="'surprise' has none"):
        first_shaped("surprise", Traits(True, True, True, True))
    assert first_shaped("kdci.N", Traits(True, True, True, False)) == Moment.NEVER
    assert first_shaped("baseline.store_memory", Traits(True, True, True, True)) == Moment.NEVER


# Source.

EDITS = {
    "baseline/dafl.py": STAGE_A,
    "baseline/cmi.py": NOTHING,
    "objective/inversion.py": STAGE_A,
    "objective/contrastive.py": NOTHING,
    "network/convnet.py": TEACHER,
    "network/vgg.py": NOTHING,
    "network/generator.py": STAGE_A,
    "dataset/digits.py": TEACHER,
    "dataset/cifar.py": NOTHING,
    "teacher/module.py": TEACHER,
    "teacher/known.py": NOTHING,
    "teacher/tap.py": NOTHING,
    "substitution/image_bank.py": STAGE_A,
    "substitution/batches.py": RUN,
    "student/module.py": RUN,
    "student/companion.py": NOTHING,
    "deploy/student.py": NOTHING,
    "kdci/kmeans.py": DICTIONARY,
    "kdci/compensation.py": RUN,
    "kdci/builder.py": DICTIONARY,
    "kdci/callback.py": DICTIONARY,
    "pipeline/dictionary.py": DICTIONARY,
    "pipeline/teacher.py": TEACHER,
    "pipeline/stage_a.py": STAGE_A,
    "pipeline/stage_b.py": RUN,
    "pipeline/evaluation.py": RUN,
    "pipeline/outcome.py": NOTHING,
    "report/table.py": NOTHING,
    "run.py": NOTHING,
    "network/new.py": NOTHING,
    "kdci/new.py": NOTHING,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this program's source, to be edited."""
    copy = tmp_path_factory.mktemp("source") / "src"
    shutil.copytree(package.ROOT / "src", copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture(scope="module")
def unedited() -> dict[str, str]:
    return names(made())


def edited(path: Path, text: str, monkeypatch: pytest.MonkeyPatch, source: Path) -> list[str]:
    """Identities that differ while ``text`` stands in ``path``."""
    monkeypatch.setattr(provenance, "SOURCE", source)
    before = path.read_text() if path.exists() else None
    path.write_text(text)
    try:
        now = names(made())
    finally:
        path.unlink() if before is None else path.write_text(before)
    old = names(made())
    return [name for name in ORDER if old[name] != now[name]]


@pytest.mark.parametrize("module", EDITS)
def test_an_edited_module_changes_what_imports_it(
    module: str, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = source / module
    text = path.read_text() if path.exists() else ""
    assert edited(path, f"{text}\nEDITED = 1\n", monkeypatch, source) == EDITS[module]


def test_words_about_the_code_are_no_code(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = source / "network/convnet.py"
    lines = path.read_text().splitlines()
    lines[0] = '"""Other words about the same network."""'
    text = "\n\n".join([*lines, "# a remark"])
    assert edited(path, text, monkeypatch, source) == NOTHING


def test_a_copy_elsewhere_is_the_same_code(
    source: Path, unedited: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "SOURCE", source)
    assert names(made()) == unedited


def test_the_vanilla_run_does_not_care_for_the_compensation(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "SOURCE", source)
    before = names(made("kdci=none"))
    path = source / "kdci/compensation.py"
    text = path.read_text()
    path.write_text(f"{text}\nEDITED = 1\n")
    try:
        assert names(made("kdci=none")) == before
    finally:
        path.write_text(text)
