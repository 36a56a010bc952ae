"""Weights & Biases as a mirror of the run; the local files stay the record."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from src.common.distributed import rank
from src.common.errors import UserError
from src.report.summary import Summary

if TYPE_CHECKING:  # importing wandb costs half a second that most runs need not pay
    from wandb import Run

# Each stage counts on its own: one shared step would run backwards where a stage begins.
_STEPS = {"teacher": "teacher/epoch", "stage_a": "stage_a/round", "student": "student/epoch"}


def start_wandb(
    project: str,
    mode: Literal["online", "offline", "disabled"],
    group: str,
    name: str,
    config: dict[str, Any],
    folder: Path,
    tags: Sequence[str] = (),
    entity: str | None = None,
    run_id: str | None = None,
) -> "Run | None":
    """Open one run, on rank 0 only; the other ranks get ``None``.

    Args:
        project: Project to log into.
        mode: ``offline`` and ``disabled`` need neither account nor network.
        group: What the run is compared with, for instance its sweep.
        name: Shown name of the run.
        config: Resolved configuration, plain containers.
        folder: Run folder; W&B keeps its files in ``folder/wandb``.
        tags: Labels to filter by.
        entity: Team or user; ``None`` is the account's default.
        run_id: Identity under which a later call goes on with the same run. Used online only:
            offline runs under one identity do not merge when they are synchronised.

    Raises:
        UserError: If W&B refuses to start, for instance without an account in online mode.
    """
    if rank() != 0:
        return None
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    resumable = mode == "online" and run_id is not None
    try:
        run = wandb.init(
            project=project,
            mode=mode,
            group=group,
            name=name,
            config=config,
            dir=folder,
            tags=tags,
            entity=entity,
            id=run_id if resumable else None,
            resume="allow" if resumable else None,
        )
    except wandb.Error as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"Weights & Biases did not start: {reason}; run `wandb login`, "
            "or set logger.wandb.mode=offline or logger=csv"
        ) from error
    for stage, step in _STEPS.items():
        run.define_metric(step)
        run.define_metric(f"{stage}/*", step_metric=step)
    return run


def log_summary(run: "Run | None", summary: Summary, image_path: Path | None = None) -> None:
    """Mirror a finished run: accuracies, class proportions, dictionary and substitution images.

    Args:
        run: What ``start_wandb`` returned; ``None`` does nothing.
        summary: The finished run.
        image_path: PNG grid of substitution images, if there is one.
    """
    if run is None:
        return
    import wandb

    run.summary.update({f"acc1/{key}": value for key, value in summary["acc1"].items()})
    run.summary.update({f"seconds/{key}": value for key, value in summary["seconds"].items()})
    run.summary.update({"peak_memory_mb": summary["peak_memory_mb"]})
    dictionary = summary.get("dictionary") or {}
    charts = {
        "substitution/class_proportions": _bars("class", summary.get("class_proportions", [])),
        "dictionary/prior": _bars("prototype", dictionary.get("prior", [])),
        "dictionary/inertia": _curve("iteration", "inertia", dictionary.get("inertia", [])),
    }
    media: dict[str, Any] = {key: chart for key, chart in charts.items() if chart is not None}
    if image_path is not None:
        media["substitution/images"] = wandb.Image(str(image_path))
    if media:
        run.log(media)


def finish(run: "Run | None", exit_code: int = 0) -> None:
    """Close ``run``; a non-zero ``exit_code`` shows it as failed instead of finished."""
    if run is not None:
        run.finish(exit_code=exit_code)


def _bars(label: str, shares: Sequence[float]) -> Any:
    import wandb

    if not shares:
        return None
    rows = [[str(index), share] for index, share in enumerate(shares)]
    table = wandb.Table(columns=[label, "share"], data=rows)
    return wandb.plot.bar(table, label, "share", title=f"share of each {label}")


def _curve(x: str, y: str, values: Sequence[float]) -> Any:
    import wandb

    if not values:
        return None
    rows = [[index, value] for index, value in enumerate(values)]
    table = wandb.Table(columns=[x, y], data=rows)
    return wandb.plot.line(table, x, y, title=y)
