"""Files that are reused, damaged in every way."""

import filecmp
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from tests.chaos import damages
from tests.chaos.images import overrides_for, shared_images
from tests.chaos.lab import DIGITS, Lab
from tests.chaos.resumes import overrides_of
from tests.chaos.runner import Case
from tests.chaos.runs import command, copy_of, reference, result, result_of
from tests.chaos.verdict import Kind, Outcome, Verdict, crash_of, judge

SMALL = (
    "teacher weights, flip",
    "bank, permute",
    "artifact card, plausible",
    "summary, zeros",
    "student.safetensors, noise, loaded",
)
_OTHER = ("seed=1", "teacher.seed=1")
_TIMES = 2  # flipped bits are cheap to try, and each is somewhere else
Overrides = Callable[[Lab], tuple[str, ...]]


@dataclass(frozen=True)
class Subject:
    """A kind of file.

    Attributes:
        name: What it is.
        pattern: Where it lies in a case's folder.
        made_by: Overrides of the run that leaves it.
        reader: Overrides that are added for the run that reads it; None reads it otherwise.
        keeps_outputs: The reader is the same command.
        is_silent: Nothing need be said of damage: it only spares time, or a part is not read.
        stopped_in: The run is killed in this stage; None for one that finishes.
    """

    name: str
    pattern: str
    made_by: Overrides = lambda lab: DIGITS
    reader: tuple[str, ...] = ()
    keeps_outputs: bool = False
    is_silent: bool = False
    stopped_in: str | None = None


def _digits(lab: Lab) -> tuple[str, ...]:
    return DIGITS


def _folder(lab: Lab) -> tuple[str, ...]:
    return overrides_for(shared_images(lab))


def _cmi(lab: Lab) -> tuple[str, ...]:
    return overrides_of("cmi")


def _online(lab: Lab) -> tuple[str, ...]:
    return overrides_of("cmi", "online")


_SIBLING, _SAME_DICTIONARY = ("kdci.N=8",), ("kdci.adjustment.strength=0.5",)
_RETRAINED = ("teacher.seed=1",)  # so that the train split is read, too
_A, _T, _RUN = "cache/substitution/*", "cache/teacher/*", "outputs/*_*/*"
SUBJECTS = (
    Subject("teacher weights", f"{_T}/teacher.safetensors", _digits, _SIBLING),
    Subject("teacher card", f"{_T}/teacher.json", _digits, _SIBLING),
    Subject("bank", f"{_A}/bank0_rank0.npy", _digits, _SIBLING),
    Subject("predictions", f"{_A}/predictions_rank0.safetensors", _digits, _SIBLING),
    Subject("baseline", f"{_A}/baseline_rank0.pt", _digits, _SIBLING),
    Subject("artifact card", f"{_A}/artifact.json", _digits, _SIBLING),
    Subject("dictionary", f"{_A}/dictionaries/*.safetensors", _digits, _SAME_DICTIONARY),
    Subject("decoded images", "cache/dataset/*/images.npy", _folder, _RETRAINED),
    Subject("decoded labels", "cache/dataset/*/labels.npy", _folder, _RETRAINED),
    Subject("decoded card", "cache/dataset/*/meta.json", _folder, _RETRAINED),
    Subject("data memory", "cache/dataset/*.json", _folder, _RETRAINED, is_silent=True),
    Subject("summary", f"{_RUN}/summary.json", _digits, keeps_outputs=True),
    Subject("student card", f"{_RUN}/student.json", _digits, keeps_outputs=True),
    Subject("student weights", f"{_RUN}/student.safetensors", _digits, keeps_outputs=True),
    Subject("image grid", f"{_RUN}/substitution.png", _digits, keeps_outputs=True),
    *(
        Subject(
            f"{stage} {name}", f"{where}/{file}", kind, (), True, name.startswith("bank"), where
        )
        for stage, where, kind, names in (
            ("teacher", f"{_T}/state", _cmi, ("state", "card of state")),
            ("stage (a)", f"{_A}/state/*", _cmi, ("state", "card of state", "bank of state")),
            ("stage (b)", f"{_RUN}/state", _cmi, ("state", "card of state")),
            ("online", f"{_RUN}/state", _online, ("state", "card of state", "bank of state")),
        )
        for name, file in (
            ("state", "epoch*.pt"),
            ("card of state", "epoch*.json"),
            ("bank of state", "bank*.bin"),
        )
        if name in names
    ),
)
_FOLDERS = (
    Subject("teacher's folder", _T, _digits, _SIBLING),
    Subject("stage (a)'s folder", _A, _digits, _SIBLING),
    Subject("run folder", _RUN, _digits, keeps_outputs=True),
)


def cases() -> list[Case]:
    """Every kind of file with every damage that it can have."""
    found = []
    for subject in SUBJECTS:
        json_only = (damages.plausible, damages.not_a_number)
        for damage in damages.ALL:
            is_json = subject.pattern.endswith(".json")
            is_array = subject.pattern.endswith((".npy", ".safetensors", ".pt"))
            if (damage in json_only and not is_json) or (
                damage is damages.permute and not is_array
            ):
                continue
            times = _TIMES if damage is damages.flip else 1
            found += [_case(subject, damage)] * times
    found += [_case(subject, damages.swap) for subject in _FOLDERS]
    identity = Subject("identity", "cache/identity/*.json", _digits, (), True, is_silent=True)
    found += [Case(f"identity, {d.__name__}", partial(_in_place, identity, d)) for d in _IDENTITY]
    found += [Case(f"{f}, {d.__name__}, loaded", partial(_loaded, d, f)) for d, f in _LOADED]
    found += [Case(f"point of a sweep, {d.__name__}", partial(_point, d)) for d in _POINT]
    return found


_IDENTITY = tuple(d for d in damages.ALL if d is not damages.permute)
_POINT = tuple(d for d in damages.ALL if d is not damages.permute)
_LOADED = tuple(
    (damage, file)
    for file in ("student.json", "student.safetensors")
    for damage in damages.ALL
    if not (file.endswith("json") and damage is damages.permute)
    if not (file.endswith("s") and damage in (damages.plausible, damages.not_a_number))
)


def _case(subject: Subject, damage: damages.Damage) -> Case:
    return Case(f"{subject.name}, {damage.__name__}", partial(_read_again, subject, damage))


def _prepared(lab: Lab, subject: Subject, more: tuple[str, ...] = ()) -> Path:
    """A folder with what a run left, whole or killed in some stage."""
    overrides = (*subject.made_by(lab), *more)
    whole = reference(lab, overrides)
    if subject.stopped_in is None:
        return whole.folder
    stage = subject.stopped_in.split("/*")[0]
    key = ("stopped", stage, *overrides)

    def make() -> Path:
        folder = lab.folder / "references" / f"stopped{abs(hash(key))}"
        # Before the last state is in place: the one before it is then the only one.
        states = [
            i
            for i, line in enumerate(whole.outcome.changes)
            if line.startswith("os.rename") and f"/{stage}" in line and "/state/" in line
            if line.endswith(".pt")
        ]
        lab.run(folder, command(folder, overrides), trap=(states[-1], signal.SIGKILL))
        return folder

    return lab.once(key, make)


def _one(folder: Path, subject: Subject, rng: Random) -> Path:
    found = [path for path in folder.glob(subject.pattern) if not path.name.endswith(".lock")]
    if not found:
        raise AssertionError(f"Expected a {subject.name} in {sorted(folder.rglob('*'))}")
    return rng.choice(sorted(found))


def _damage(
    lab: Lab, folder: Path, subject: Subject, damage: damages.Damage, rng: Random
) -> tuple[Path, bool]:
    """Damage one file; which, and whether its content is now another."""
    path, other = _one(folder, subject, rng), Path()
    if damage is damages.swap:
        other = _one(_prepared(lab, subject, _OTHER), subject, Random(0))
    before = folder / "before"
    if path.is_file():
        shutil.copyfile(path, before)
    damage(path, other, rng)
    same = path.is_file() and before.exists() and filecmp.cmp(path, before, shallow=False)
    return path, not same


def _read_again(
    subject: Subject, damage: damages.Damage, lab: Lab, folder: Path, rng: Random
) -> Verdict:
    copy_of(_prepared(lab, subject), folder)
    if not subject.keeps_outputs:
        shutil.rmtree(folder / "outputs", ignore_errors=True)
    path, differs = _damage(lab, folder, subject, damage, rng)
    return _verdict(
        lab, folder, subject, path, needs_line=differs and damage is not damages.missing
    )


def _verdict(lab: Lab, folder: Path, subject: Subject, path: Path, *, needs_line: bool) -> Verdict:
    overrides = (*subject.made_by(lab), *subject.reader)
    expected = reference(lab, overrides).result
    outcome = lab.run(folder, command(folder, overrides))
    return judge(
        outcome,
        result(folder),
        expected,
        named=str(path.parent),
        needs_line=needs_line and not subject.is_silent,
    )


def _in_place(
    subject: Subject, damage: damages.Damage, lab: Lab, folder: Path, rng: Random
) -> Verdict:
    """What holds for one place only, and is therefore made there."""
    overrides = subject.made_by(lab)
    lab.run(folder, command(folder, overrides))
    path = _one(folder, subject, rng)
    other = path.with_name("other.json")
    if damage is damages.swap:
        lab.run(folder, command(folder, [*overrides, "kdci.N=8"]))
        (found,) = set(path.parent.glob("*.json")) - {path}
        other = found
    damage(path, other, rng)
    expected = reference(lab, overrides)
    outcome = lab.run(folder, command(folder, overrides))
    (own,) = {p.parent.name for p in expected.folder.glob(f"{_RUN}/summary.json")}
    (run,) = folder.glob(f"outputs/*/{own}/summary.json")
    if outcome.exit_code == 0 and str(run.parent) not in outcome.stdout.replace("\n", ""):
        return Verdict(Kind.SILENT, "another run was shown", outcome.evidence())
    return judge(outcome, result_of(run), expected.result)


def _loaded(damage: damages.Damage, file: str, lab: Lab, folder: Path, rng: Random) -> Verdict:
    """A student that is loaded by whoever uses it."""
    subject = Subject(file, f"{_RUN}/{file}", _digits)
    whole = reference(lab, DIGITS).folder

    def load(run: Path) -> Outcome:
        return lab.run(folder, [str(run)], module="tests.chaos.load")

    copy_of(whole, folder)
    (run,) = folder.glob(_RUN + "/summary.json")
    expected = lab.once("loaded", lambda: load(run.parent).stdout)
    _damage(lab, folder, subject, damage, rng)
    outcome = load(run.parent)
    return judge(outcome, outcome.stdout, expected)


def _sweep(lab: Lab) -> Path:
    folder = lab.folder / "references" / "sweep"
    copy_of(reference(lab, DIGITS).folder, folder)
    arguments = ["--multirun", *command(folder, DIGITS), "kdci.N=4,8"]
    outcome = lab.run(folder, arguments, real=True)
    assert outcome.exit_code == 0, outcome.evidence()
    return folder


def _point(damage: damages.Damage, lab: Lab, folder: Path, rng: Random) -> Verdict:
    """The record of a point: its run is shown, or the point has failed."""
    whole = lab.once("sweep", partial(_sweep, lab))
    shutil.copytree(whole / "outputs", folder / "outputs")
    (sweep,) = (folder / "outputs" / "sweeps").iterdir()
    expected = (sweep / "table.csv").read_text()
    path = rng.choice(sorted(sweep.glob("*/point.json")))
    damage(path, next(each for each in sorted(sweep.glob("*/point.json")) if each != path), rng)
    outcome = lab.run(folder, [str(sweep)], module="tests.chaos.points")
    crash = crash_of(outcome)
    if crash is not None:
        return crash
    if outcome.exit_code == 1 and "failed: " in outcome.stdout:
        return Verdict(Kind.REFUSED)
    if outcome.exit_code == 0 and (sweep / "table.csv").read_text() == expected:
        return Verdict(Kind.RIGHT)
    return Verdict(Kind.SILENT, "another table", outcome.evidence())
