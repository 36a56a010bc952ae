"""Data, checkpoints and source that become others between two runs, or within one."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import numpy as np

from tests.chaos.images import overrides_for, picture, write_images
from tests.chaos.lab import DIGITS, Lab, copy_tree
from tests.chaos.runner import Case
from tests.chaos.runs import command, copy_of, reference, result_of, summaries
from tests.chaos.verdict import Kind, Outcome, Verdict, crash_of, judge_refusal

SMALL = ("checkpoint replaced",)
_MADE = {"teacher": "Training the teacher", "stage (a)": "Stage (a): making"}
Edit = Callable[[Path, Random], None]


def _replace_image(root: Path, rng: Random) -> None:
    path = rng.choice(sorted(root.glob("train/*/*.png")))
    picture(rng.random()).save(path)


def _replace_image_secretly(root: Path, rng: Random) -> None:
    """Same length, and the time of modification set back."""
    first, second = rng.sample(sorted(root.glob("train/*/*.png")), 2)
    stat, content = first.stat(), second.read_bytes()
    if len(content) != stat.st_size:  # padding behind the end of a PNG is not read
        content = content.ljust(stat.st_size, b"\0")[: stat.st_size]
    first.write_bytes(content)
    os.utime(first, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _replace_test_image(root: Path, rng: Random) -> None:
    picture(rng.random()).save(rng.choice(sorted(root.glob("test/*/*.png"))))


def _rename_class(root: Path, rng: Random) -> None:
    for split in ("train", "test"):
        (root / split / "owl").rename(root / split / "ant")


def _move_image(root: Path, rng: Random) -> None:
    path = rng.choice(sorted(root.glob("train/cat/*.png")))
    path.rename(root / "train" / "dog" / "moved.png")


def _add_image(root: Path, rng: Random) -> None:
    picture(rng.random()).save(root / "train" / "dog" / "new.png")


def _remove_image(root: Path, rng: Random) -> None:
    rng.choice(sorted(root.glob("train/*/*.png"))).unlink()


_DATA: tuple[Edit, ...] = (
    _replace_image,
    _replace_image_secretly,
    _replace_test_image,
    _rename_class,
    _move_image,
    _add_image,
    _remove_image,
)
# Module, and what has to be made again when it is edited.
_MODULES = (
    ("src/network/convnet.py", ("teacher", "stage (a)")),
    ("src/teacher/module.py", ("teacher", "stage (a)")),
    ("src/dataset/digits.py", ("teacher", "stage (a)")),
    ("src/baseline/dafl.py", ("stage (a)",)),
    ("src/objective/inversion.py", ("stage (a)",)),
    ("src/substitution/module.py", ("stage (a)",)),
    ("src/student/module.py", ()),
    ("src/kdci/compensation.py", ()),
    ("src/kdci/kmeans.py", ()),
)
_UNRELATED = ("src/network/newcomer.py", "src/baseline/newcomer.py", "src/newcomer.py")


def cases() -> list[Case]:
    """Data between and within runs, files that options name, and the source."""
    found = [Case(f"between runs: {e.__name__}", partial(_between, e)) for e in _DATA]
    found += [Case(f"within a run: {e.__name__}", partial(_within, e)) for e in _DATA]
    found += [Case("checkpoint replaced", _checkpoint), Case("initial images", _initial)]
    found += [Case(f"edited {name}", partial(_module, name, made)) for name, made in _MODULES]
    found += [Case(f"new {name}", partial(_newcomer, name)) for name in _UNRELATED]
    return found


def _new_result(
    lab: Lab, folder: Path, overrides: tuple[str, ...], outcome: Outcome, before: set[Path]
) -> Verdict:
    """The run was a new one, and is what it is with a cache of its own."""
    crash = crash_of(outcome)
    if crash is not None:
        return crash
    new = set(summaries(folder)) - before
    if outcome.exit_code != 0 or len(new) != 1:
        return Verdict(Kind.SILENT, "the old result was shown", outcome.evidence())
    clean = folder / "clean"
    own = lab.run(clean, command(clean, overrides))
    (expected,) = summaries(clean)
    if result_of(new.pop()) != result_of(expected):
        return Verdict(Kind.SILENT, "another result than with an own cache", own.evidence())
    return Verdict(Kind.RIGHT)


def _between(edit: Edit, lab: Lab, folder: Path, rng: Random) -> Verdict:
    root = write_images(folder / "images")
    overrides = overrides_for(root)
    time.sleep(2.1)  # so that everything may be remembered
    lab.run(folder, command(folder, overrides))
    before = set(summaries(folder))
    edit(root, rng)
    outcome = lab.run(folder, command(folder, overrides))
    return _new_result(lab, folder, overrides, outcome, before)


def _within(edit: Edit, lab: Lab, folder: Path, rng: Random) -> Verdict:
    """Stopped somewhere, edited, continued: nothing of two data sets may be kept."""
    root = write_images(folder / "images")
    overrides = overrides_for(root)
    running = lab.start(
        folder, command(folder, overrides), trap=(rng.randrange(20, 130), signal.SIGSTOP)
    )
    deadline = time.monotonic() + 20
    while running.code is None and not _is_stopped(running.pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    edit(root, rng)
    running.send(signal.SIGCONT)
    outcome = lab.wait(running)
    verdict = judge_refusal(outcome)
    if outcome.exit_code == 0:
        verdict = crash_of(outcome) or Verdict(Kind.RIGHT)
    if verdict.kind.is_failure:
        return verdict
    before = set(summaries(folder))
    again = lab.run(folder, command(folder, overrides))
    fresh = _new_result(lab, folder, overrides, again, before)
    return fresh if fresh.kind.is_failure else verdict


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return True


def _swap_file(
    lab: Lab, folder: Path, new: Callable[[], object], overrides: tuple[str, ...]
) -> Verdict:
    time.sleep(2.1)
    first = lab.run(folder, command(folder, overrides))
    if first.exit_code != 0:
        return Verdict(Kind.OTHER, "the first run failed", first.evidence())
    before = set(summaries(folder))
    new()
    outcome = lab.run(folder, command(folder, overrides))
    return _new_result(lab, folder, overrides, outcome, before)


def _checkpoint(lab: Lab, folder: Path, rng: Random) -> Verdict:
    old, new = (
        next(reference(lab, (*DIGITS, *more)).folder.glob("cache/teacher/*/teacher.safetensors"))
        for more in ((), ("seed=1", "teacher.seed=1"))
    )
    folder.mkdir(parents=True)
    path = folder / "given.safetensors"
    shutil.copy(old, path)
    overrides = (*DIGITS, f"teacher.checkpoint={path}")
    return _swap_file(lab, folder, lambda: shutil.copy(new, path), overrides)


def _initial(lab: Lab, folder: Path, rng: Random) -> Verdict:
    folder.mkdir(parents=True)
    path = folder / "initial.npy"

    def write(seed: int) -> None:
        shape = (64, 3, 32, 32)
        np.save(path, np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))

    write(0)
    overrides = (*DIGITS, "baseline=cmi", f"baseline.initial_images={path}")
    return _swap_file(lab, folder, lambda: write(1), overrides)


def _warm(lab: Lab, folder: Path) -> Path:
    copy_of(reference(lab, DIGITS).folder, folder)
    return copy_tree(folder / "tree")


def _module(name: str, made: tuple[str, ...], lab: Lab, folder: Path, rng: Random) -> Verdict:
    tree = _warm(lab, folder)
    before = set(summaries(folder))
    with (tree / name).open("a") as file:
        file.write("\n\n_EDITED = 1\n")
    outcome = lab.run(folder, command(folder, DIGITS), tree=tree, real=True)
    crash = crash_of(outcome)
    if crash is not None:
        return crash
    if outcome.exit_code != 0 or len(set(summaries(folder)) - before) != 1:
        return Verdict(Kind.SILENT, "the old result was shown", outcome.evidence())
    missing = [part for part in made if _MADE[part] not in outcome.stderr]
    if missing:
        return Verdict(Kind.SILENT, f"reused: {missing}", outcome.evidence())
    return Verdict(Kind.RIGHT)


def _newcomer(name: str, lab: Lab, folder: Path, rng: Random) -> Verdict:
    tree = _warm(lab, folder)
    (tree / name).write_text('"""A newcomer."""\n\nVALUE = 1\n')
    before = set(summaries(folder))
    outcome = lab.run(folder, command(folder, DIGITS), tree=tree, real=True)
    crash = crash_of(outcome)
    if crash is not None:
        return crash
    again = [line for line in _MADE.values() if line in outcome.stderr]
    if outcome.exit_code != 0 or again or set(summaries(folder)) != before:
        return Verdict(Kind.OTHER, "not everything was reused", outcome.evidence())
    return Verdict(Kind.RIGHT)
