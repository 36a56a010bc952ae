"""Weights & Biases as a mirror of the run; the local files stay the record."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakSet

from src.common.distributed import rank
from src.common.errors import UserError
from src.report.metrics import STEPS
from src.report.summary import Summary

if TYPE_CHECKING:  # importing wandb costs half a second that most runs need not pay
    from wandb import Run

_log = logging.getLogger(__name__)
Mode = Literal["online", "offline"]
_CALLED_BEFORE = {"dryrun": "offline", "run": "online"}  # by W&B, which takes either
NAMES = "names"  # in W&B's config: names of options, of which the configuration holds the values
_NAMED: tuple[Literal["dataset", "baseline"], ...] = ("dataset", "baseline")
_NO_COPY = (
    "W&B has no whole copy of this run, whose files here are the record "
    "(src.report --wandb mirrors them to another project)"
)
_partial: "WeakSet[Run]" = WeakSet()  # of which that was said


class DashboardError(UserError):
    """Weights & Biases did not start; the message says why, and how to do without."""


def start_wandb(
    summary: Summary,
    folder: Path,
    project: str,
    mode: Mode | Literal["disabled"] | None,
    tags: Sequence[str] = (),
    entity: str | None = None,
    goes_on: bool = True,
) -> "Run | None":
    """Open one run that is about to begin, on rank 0 only; the other ranks get ``None``.

    Args:
        summary: What is known of it; its configuration is told which mode and entity were taken,
            by which the mirror knows the run again.
        folder: Run folder; W&B keeps its files in ``folder/wandb``.
        project: Project to log into.
        mode: ``offline`` and ``disabled`` need neither account nor network; ``None`` is that of
            WANDB_MODE, or else ``online``.
        tags: Labels to filter by.
        entity: Team or user; ``None`` is that of WANDB_ENTITY, or else the account's default.
        goes_on: Whether a later call in the same folder goes on with the same run. It does online
            only: offline runs under one identity do not merge when they are synchronised. In a
            folder without an earlier call the run begins anew, in place of one of its identity.

    Raises:
        DashboardError: If W&B refuses to start, for instance without an account in online mode.
        UserError: If WANDB_MODE counts and is none of the modes.
    """
    if rank() != 0:
        return None
    taken = mode_or_default(mode, ("online", "offline", "disabled"))
    folder.mkdir(parents=True, exist_ok=True)
    entity = entity or default_entity()
    summary["config"]["logger"]["wandb"] |= {"mode": taken, "entity": entity}
    name = summary["identity"]["run"] if taken == "online" and goes_on else None
    # Of a run that is made again, in a new folder, curves would hold every epoch twice.
    has_begun = name is not None and any((folder / "wandb").glob(f"run-*-{name}"))
    return _start(
        summary,
        folder,
        "set logger.wandb.mode=offline or logger=csv",
        project=project,
        mode=taken,
        tags=tags,
        entity=entity,
        id=name,
        resume="allow" if has_begun else None,
    )


def mode_or_default(mode: str | None, allowed: Sequence[str]) -> str:
    """What is asked for; where nothing is, that of WANDB_MODE, or else ``online``.

    Args:
        mode: One that is allowed, or None.
        allowed: Those that there are.

    Raises:
        UserError: If WANDB_MODE counts and is none of them.
    """
    taken = mode or default_mode()
    if taken not in allowed:
        *others, last = allowed
        expected = f"{', '.join(others)} or {last}"
        raise UserError(f"Expected WANDB_MODE to be {expected}, but got '{taken}'")
    return taken


def default_mode() -> str:
    """That of WANDB_MODE by its present name, whatever it is, or else ``online``."""
    named = os.environ.get("WANDB_MODE") or "online"
    return _CALLED_BEFORE.get(named, named)


def default_entity() -> str | None:
    """That of WANDB_ENTITY; None is the account's own."""
    return os.environ.get("WANDB_ENTITY") or None


def start_afterwards(summary: Summary, folder: Path, project: str, mode: Mode, name: str) -> "Run":
    """Open one run that is over; a call of the same identity replaces it, in every mode.

    Nothing is recorded of this process: neither its console, load and machine nor its source.

    Args:
        summary: The finished run.
        folder: Run folder; W&B keeps its files in ``folder/wandb``.
        project: Project to log into.
        mode: ``offline`` needs neither account nor network.
        name: Identity of the run in W&B.

    Raises:
        DashboardError: If W&B refuses to start, for instance without an account in online mode.
    """
    import wandb

    settings = wandb.Settings(
        console="off",
        disable_code=True,
        disable_git=True,
        host=summary.get("host"),
        quiet=True,
        silent=mode == "offline",  # online its lines name the page
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )
    otherwise = "give --wandb-mode offline"
    run = _start(
        summary, folder, otherwise, project=project, mode=mode, id=name, settings=settings
    )
    if run.offline and mode == "online":  # chosen where W&B asked for an account
        finish(run, exit_code=1)
        raise DashboardError(f"Expected an account for Weights & Biases; or {otherwise}")
    return run


def _start(summary: Summary, folder: Path, otherwise: str, **options: Any) -> "Run":
    import wandb

    identity, choices = summary["identity"]["run"], folder.resolve().parent.name
    try:
        run = wandb.init(
            group=summary.get("sweep") or choices,
            name=f"{choices}_{identity}",
            config={**summary["config"], NAMES: {key: summary[key] for key in _NAMED}},
            dir=folder,
            **options,
        )
    except wandb.Error as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise DashboardError(
            f"Weights & Biases did not start: {reason}; run `wandb login`, or {otherwise}"
        ) from error
    # Each stage counts on its own: one shared step would run backwards where a stage begins.
    for stage, step in STEPS.items():
        run.define_metric(step)
        run.define_metric(f"{stage}/*", step_metric=step)
    return run


def log_points(run: "Run", points: Iterable[Mapping[str, float]]) -> None:
    """Log what a run has logged before, as Lightning's logger for W&B does.

    Args:
        run: What ``start_afterwards`` returned.
        points: Metrics by name, with Lightning's ``epoch`` and ``step``.
    """
    for point in points:
        run.log({"trainer/global_step" if key == "step" else key: point[key] for key in point})


def log_summary(
    run: "Run | None", summary: Summary, class_names: Sequence[str], image_path: Path | None = None
) -> None:
    """Mirror a finished run: accuracies, origin, class proportions, dictionary and images.

    Args:
        run: What ``start_wandb`` or ``start_afterwards`` returned; ``None`` does nothing.
        summary: The finished run.
        class_names: Those of the K classes, in order.
        image_path: PNG grid of substitution images, if there is one.
    """
    if run is None:
        return
    import wandb

    run.summary.update({f"acc1/{key}": value for key, value in summary["acc1"].items()})
    run.summary.update({f"seconds/{key}": value for key, value in summary["seconds"].items()})
    run.summary.update(_origin(summary))
    run.summary.update({"peak_memory_mb": summary["peak_memory_mb"], "classes": [*class_names]})
    dictionary = summary.get("dictionary") or {}
    shares, prior = summary.get("class_proportions", []), dictionary.get("prior", [])
    names = class_names or range(len(shares))
    charts = {
        "substitution/class_proportions": _bars("class", shares, names),
        "dictionary/prior": _bars("prototype", prior, range(len(prior))),
        "dictionary/inertia": _curve("iteration", "inertia", dictionary.get("inertia", [])),
    }
    media: dict[str, Any] = {key: chart for key, chart in charts.items() if chart is not None}
    if image_path is not None:
        media["substitution/images"] = wandb.Image(str(image_path))
    if media:
        run.log(media)


def _origin(summary: Summary) -> dict[str, Any]:
    """What the accuracies are to be compared with, and the source and data they come of."""
    contents = summary["identity"]["contents"]
    return {
        "acc1/teacher": summary["teacher"]["acc1"],
        "git_revision": summary.get("git_revision"),
        **{f"fingerprint/{name}": value for name, value in contents.items()},
    }


def finish(run: "Run | None", exit_code: int = 0) -> None:
    """Close ``run``; a non-zero ``exit_code`` shows it as failed instead of finished."""
    if run is None:
        return
    try:
        run.finish(exit_code=exit_code)
    except ConnectionError:  # its process is gone, as a traceback would say again at exit
        import wandb

        with suppress(ConnectionError, SystemExit):
            wandb.teardown()
        raise


@contextmanager
def tolerated(run: "Run | None") -> Iterator[None]:
    """Go on where W&B fails in the block, and say once that it has no whole copy of ``run``."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - the local files are the record, W&B has a copy
        if run not in _partial:
            _log.warning("%s: %s: %s", _NO_COPY, type(error).__name__, error)
        if run is not None:
            _partial.add(run)


@contextmanager
def finished(run: "Run | None") -> Iterator["Run | None"]:
    """Close ``run`` when the block ends; one that raises shows it as failed."""
    try:
        yield run
    except BaseException:
        finish(run, exit_code=1)
        raise
    finish(run)


def _bars(label: str, shares: Sequence[float], names: Sequence[object]) -> Any:
    import wandb

    if not shares:
        return None
    rows = [[str(name), share] for name, share in zip(names, shares, strict=True)]
    table = wandb.Table(columns=[label, "share"], data=rows)
    return wandb.plot.bar(table, label, "share", title=f"share of each {label}")


def _curve(x: str, y: str, values: Sequence[float]) -> Any:
    import wandb

    if not values:
        return None
    rows = [[index, value] for index, value in enumerate(values)]
    table = wandb.Table(columns=[x, y], data=rows)
    return wandb.plot.line(table, x, y, title=y)
