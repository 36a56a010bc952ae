"""Files, names and targets that mean harm. All are made on the spot, and are harmless."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from threading import Lock

from tests.chaos import hostile_files as make
from tests.chaos.hostile_images import FOLDERS
from tests.chaos.images import overrides_for, write_images
from tests.chaos.lab import DIGITS, Lab
from tests.chaos.runner import Case
from tests.chaos.runs import command, copy_of, reference, result
from tests.chaos.verdict import Kind, Outcome, Verdict, crash_of, judge, judge_refusal

SMALL = (
    "checkpoint: payload_in_zip",
    "checkpoint: fifo",
    "target os.system in baseline.generator",
    "experiments: python_tag",
    "summary.json: endless_device",
)
_LIMIT = 40
_ONE_EXPERIMENT = Lock()  # all lie in one folder, and one may be in the way of another
_MEMORY = 12 * 2**30
# The file, and the marker that must not appear; another path if that is to be given.
Write = Callable[[Path, Path], Path | None]
_TARGETS = (
    "os.system",
    "subprocess.run",
    "builtins.eval",
    "src.run.main",
    "torch.load",
    "torch.hub.load",
    "shutil.rmtree",
    "src.common.files.lock",
    "hydra.utils.get_method",
)
_PLACES = (
    "teacher.network",
    "student.network",
    "baseline",
    "baseline.generator",
    "baseline.optimizer",
    "distill.optimizer",
    "distill.scheduler",
    "teacher.fit.optimizer",
    "dataset",
    "+baseline.generator.inner.deep",
    "+distill.optimizer.inner",
    "+teacher.network.widths.inner",
)


def cases() -> list[Case]:
    """Checkpoints, arrays, targets, image folders, paths, YAML and JSON."""
    found = [_file_case("checkpoint", w, ["teacher.checkpoint"]) for w in make.CHECKPOINTS]
    initial = ["baseline=cmi", "baseline.initial_images"]
    found += [_file_case("initial images", w, initial) for w in make.ARRAYS]
    for index, place in enumerate(_PLACES):
        for target in (_TARGETS[index % len(_TARGETS)], "os.system"):
            title = f"target {target} in {place}"
            found.append(Case(title, partial(_target, place, target)))
    found += [Case(f"images: {w.__name__}", partial(_images, w)) for w in FOLDERS]
    for option in ("paths.outputs", "paths.cache", "dataset.root"):
        found += [Case(f"{option}: {w.__name__}", partial(_path, option, w)) for w in make.PLACES]
    found += [Case(f"experiments: {w.__name__}", partial(_yaml, w)) for w in make.EXPERIMENTS]
    cards = ("outputs/*_*/*/summary.json", "cache/teacher/*/teacher.json")
    for pattern in (*cards, "cache/substitution/*/artifact.json", "outputs/*_*/*/student.json"):
        for write in make.CARDS:
            title = f"{Path(pattern).name}: {write.__name__}"
            found.append(Case(title, partial(_card, pattern, write)))
    return found


def _file_case(what: str, write: Write, options: list[str]) -> Case:
    return Case(f"{what}: {write.__name__}", partial(_file, write, options))


def _guarded(lab: Lab, folder: Path, arguments: list[str]) -> Outcome:
    return lab.run(folder, arguments, limit=_LIMIT, memory=_MEMORY)


def _unless_marked(marker: Path, outcome: Outcome, verdict: Verdict) -> Verdict:
    if marker.exists():
        return Verdict(Kind.SILENT, "foreign code was run", outcome.evidence())
    return verdict


def refused_or_finished(outcome: Outcome) -> Verdict:
    """What may be taken for good, or refused; nothing else."""
    crash = crash_of(outcome)
    if crash is None and outcome.exit_code == 0:
        return Verdict(Kind.RIGHT)
    return crash or judge_refusal(outcome)


def _file(write: Write, options: list[str], lab: Lab, folder: Path, rng: Random) -> Verdict:
    folder.mkdir(parents=True)
    path, marker = folder / "hostile", folder / "marker"
    given = write(path, marker) or path
    *more, option = options
    arguments = command(folder, [*DIGITS, *more, f"{option}={make.quoted(given)}"])
    outcome = _guarded(lab, folder, arguments)
    return _unless_marked(marker, outcome, judge_refusal(outcome))


def _target(place: str, target: str, lab: Lab, folder: Path, rng: Random) -> Verdict:
    marker = folder / "marker"
    plus = "" if place.startswith("+") else "+"
    key = place.removeprefix("+")
    wanted = [f"{'+' * place.startswith('+')}{key}._target_={target}"]
    wanted.append(f"+{key}.command={make.quoted(f'touch {marker}')}" if plus else "")
    arguments = command(folder, [*DIGITS, *filter(None, wanted)])
    if not plus:
        value = f"{{_target_:{target},command:{make.quoted(f'touch {marker}')}}}"
        arguments = command(folder, [*DIGITS, f"{place}={value}"])
    outcome = _guarded(lab, folder, arguments)
    return _unless_marked(marker, outcome, judge_refusal(outcome))


def _images(write: Callable[[Path], None], lab: Lab, folder: Path, rng: Random) -> Verdict:
    root = write_images(folder / "images", each=4)
    write(root)
    outcome = _guarded(lab, folder, command(folder, overrides_for(root)))
    return refused_or_finished(outcome)


def _path(option: str, write: Write, lab: Lab, folder: Path, rng: Random) -> Verdict:
    folder.mkdir(parents=True)
    place = folder / "place"
    given = write(place, folder / "marker") or place
    kind = overrides_for(folder) if option == "dataset.root" else DIGITS
    arguments = command(folder, [*kind, f"{option}={make.quoted(given)}"])
    return refused_or_finished(_guarded(lab, folder, arguments))


def _yaml(write: Write, lab: Lab, folder: Path, rng: Random) -> Verdict:
    marker = folder / "marker"
    path = lab.tree / "experiments" / f"{folder.name}.yaml"
    with _ONE_EXPERIMENT:
        write(path, marker)
        try:
            arguments = command(folder, [*DIGITS, f"experiments={path.stem}"])
            outcome = _guarded(lab, folder, arguments)
        finally:
            make.remove(path)
    return _unless_marked(marker, outcome, refused_or_finished(outcome))


def _card(pattern: str, write: Write, lab: Lab, folder: Path, rng: Random) -> Verdict:
    whole = reference(lab, DIGITS)
    copy_of(whole.folder, folder)
    (path,) = folder.glob(pattern)
    path.rename(folder / "original")
    write(path, folder / "original")
    reads_again = "outputs" not in pattern
    more = ("kdci.N=8",) if reads_again else ()
    if reads_again:
        make.remove(folder / "outputs")
    outcome = _guarded(lab, folder, command(folder, [*DIGITS, *more]))
    expected = reference(lab, (*DIGITS, *more)).result
    return judge(outcome, result(folder), expected, named=str(path.parent))
