"""A sweep: what is refused before its first point, and the table when it ends."""

import logging
import os
import traceback
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from src.common.errors import UserError
from src.common.files import writing
from src.common.parent import follow, leave
from src.complaint import complaints, of_sweep
from src.config.launchers import SEARCH
from src.config.option_files import PARAMS, SWEEPS
from src.config.points import is_several, listed, refuse_unfit_params, refuse_unfit_points
from src.point import BEGUN, FOLDER, POINT, START, begin, has_begun
from src.report.sweep import report_sweep, result_of

_log = logging.getLogger(__name__)
SWEEP_PROCESS = "KDCI_SWEEP_PROCESS"


def _let_workers_follow() -> None:
    """Have joblib's workers end soon after a sweep that has ended without a word.

    Else they outlive it, and go on with what they were given in advance, or wait for it.
    """
    from joblib import register_parallel_backend
    from joblib.parallel import LokyBackend

    # Hydra names this backend and has no word for options of it.
    register_parallel_backend("loky", partial(LokyBackend, initializer=_follow_sweep))


def _follow_sweep() -> None:
    follow(os.environ[SWEEP_PROCESS], leave)


@contextmanager
def reported() -> Iterator[None]:
    """Show the table also of a sweep that sweeper or launcher end by an error of their own.

    Optuna raises where no point has a value, launchers where a point was lost or refused; Hydra
    then tells no callback that the sweep has ended.
    """
    try:
        yield
    except Exception as error:
        is_known = isinstance(error, UserError) or of_sweep(error) is not None
        is_its_own = os.environ.get(SWEEP_PROCESS) == str(os.getpid())  # and no point's process
        if is_known and is_its_own and os.environ.get(FOLDER):
            folder = Path(os.environ[FOLDER])
            try:
                records = _records(folder)
                if records:  # others of its points may go on in jobs of their own
                    report_sweep(folder, records, wait=False)
            except (UserError, OSError) as trouble:  # how the sweep ended is what counts
                _log.warning("No table: %s", trouble)
        raise


def _records(folder: Path) -> list[Path]:
    """Where each point is recorded that this call of a sweep has begun.

    The same command may have had other points before an option's file was edited. What a
    launcher loses before it has begun ends the sweep by the launcher's own error.
    """
    records = [path.with_name(POINT) for path in folder.rglob(f"*/{BEGUN}") if has_begun(path)]
    return sorted(records, key=lambda path: (len(path.parent.name), path.parent.name))  # 9, 10


@contextmanager
def _heard() -> Iterator[None]:
    """End the program where a callback fails: Hydra would make a warning of it, and go on."""
    try:
        with complaints():
            yield
    except Exception as error:  # which nobody has foreseen
        traceback.print_exc()
        raise SystemExit(1) from error


class SweepReport(Callback):
    """One table over all points when a sweep ends; exit code 1 if a point failed."""

    @_heard()
    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse points that would be lost; have joblib's workers follow the sweep."""
        typed = config.hydra.overrides.task
        params = config.hydra.sweeper.get("params") or {}
        refuse_unfit_params(params, typed)
        points = [*typed, *listed(params, typed)]
        refuse_unfit_points(points)
        if _is_search(config):
            _refuse_unfit_search(config, is_over_something=any(map(is_several, points)))
        folder = Path(config.hydra.sweep.dir).absolute()
        sweep: Any = OmegaConf.to_container(config.hydra.sweep, resolve=False)
        subdir = str(sweep["subdir"])
        if "${" not in subdir:  # the same for all
            raise UserError(
                "Expected hydra.sweep.subdir to be the folder of each point below "
                f"hydra.sweep.dir, such as ${{hydra.job.num}}, but got '{subdir}'; leave it out"
            )
        # For a search of which every point fails: Optuna then raises without a word of it.
        os.environ[FOLDER], os.environ[START] = str(folder), uuid.uuid4().hex
        with writing(folder):  # a disk that takes nothing is found before the first point
            folder.mkdir(parents=True, exist_ok=True)
            begin(folder)
        if "joblib" in config.hydra.launcher._target_:
            _let_workers_follow()

    @_heard()
    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Read the record of every point and its summary."""
        folder = Path(config.hydra.sweep.dir)
        records = _records(folder)
        if not records:
            raise UserError("Expected a sweep of one point or more, but none has begun")
        failed = report_sweep(folder, records)
        if _is_by_agreement(config):
            _mention_other_images(records)
        if failed:
            raise SystemExit(1)


def refuse_one_run(job: Any) -> None:
    """Refuse an experiment with points of its own where Hydra would run one, without them.

    Args:
        job: Hydra's node of a single run.

    Raises:
        UserError: If what is chosen has points that are not typed.
    """
    if not listed(job.sweeper.get("params"), job.overrides.task):
        return
    chosen = job.runtime.choices.get(SWEEPS)
    what = f"{SWEEPS}={chosen}, which is a sweep" if chosen else f"the points in {PARAMS}"
    raise UserError(
        f"Expected --multirun with {what}; add --multirun, or hydra.mode=RUN for one run without "
        "its points"
    )


def _refuse_unfit_search(config: DictConfig, *, is_over_something: bool) -> None:
    """Of what is not the same for all points, this configuration has the default."""
    if config.task == "teacher":
        raise UserError(
            "Expected task=distill in a search, but got task=teacher, whose points have no value "
            "to be compared by"
        )
    if _is_by_agreement(config) and not config.distill.held_out:
        raise UserError(
            "Expected one distill.held_out above 0 for all points of a search by agreement; add "
            "distill.held_out=0.1, or search.objective=acc1, which chooses by test accuracy"
        )
    for name in ("n_trials", "n_jobs"):
        count = config.hydra.sweeper[name]
        if count < 1:
            raise UserError(f"Expected hydra.sweeper.{name} of 1 or more, but got {count}")
    if not is_over_something:
        raise UserError(
            "Expected something to search over, but each key has one value; give some, as in "
            "kdci.N=8,16,32"
        )


def _is_by_agreement(config: DictConfig) -> bool:
    return _is_search(config) and bool(config.search.objective == "agreement")


def _is_search(config: DictConfig) -> bool:
    return bool(config.hydra.runtime.choices["hydra/sweeper"] == SEARCH)


def _mention_other_images(records: Sequence[Path]) -> None:
    """Say so where points were not measured on the same images."""
    found = [result_of(record) for record in records]
    stages = {each["substitution"]["artifact"] for each in found if isinstance(each, dict)}
    if len(stages) > 1:
        _log.warning(
            "The points were measured on images of %d stages (a), which their options shape: a "
            "student agrees more on easier images, so compare points of one stage (a) only",
            len(stages),
        )
