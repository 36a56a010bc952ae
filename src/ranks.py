"""Ranks of one run: started here, or by torchrun."""

import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from src.common.errors import RankError, UserError
from src.common.parent import PARENT
from src.common.signals import FOUND, Interrupted, is_rank
from src.config.schema import TrainerOptions

_TYPED = "KDCI_TYPED"
_TALKATIVE = ("torch.distributed.elastic", "torch.distributed.elastic.agent.server.api")


def prepare_rank() -> None:
    """Where this process is a rank, leave speaking to rank 0."""
    if is_rank() and os.environ["RANK"] != "0":
        logging.disable(logging.WARNING)  # rank 0 says the same


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Where this process is a rank, let whatever ends the block early end the process, at once.

    The process group that it leaves behind has threads that can hold up or abort an interpreter
    that tidies up, and then the exit code is lost.
    """
    try:
        yield
    except BaseException as error:
        if not is_rank():
            raise
        _end(error)


def _end(error: BaseException) -> NoReturn:
    """End this process with the exit code that the interpreter would give it."""
    code = (error.code or 0) if isinstance(error, SystemExit) else 1  # none of its own is 0
    if not isinstance(error, SystemExit):  # whoever exits has said why
        traceback.print_exception(error)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # nobody may be reading
            stream.flush()
    os._exit(code if isinstance(code, int) else 1)


def start_ranks(
    count: int, overrides: Sequence[str], folder: Path, found: Any, typed: str
) -> None:
    """Run this program in ``count`` processes that find each other; return when all are done.

    All ranks exist before the first decision. Lightning's own launcher would start them at the
    first fit and run the whole program, sweep included, again in each.

    Args:
        count: Number of ranks.
        overrides: Their command line.
        folder: The run's folder.
        found: What was found of the run, so that the ranks need not look again.
        typed: The command line of this process, for the record.

    Raises:
        RankError: If a rank failed; the others were stopped.
        Interrupted: If this process was asked to stop; the ranks were stopped.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # The second tells of a signal, and has been given a level of its own by its import.
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=folder.name,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",  # torch would look up the host's name, which may have no address
        max_restarts=0,
        monitor_interval=0.1,
    )
    os.environ[PARENT], os.environ[FOUND] = str(os.getpid()), json.dumps(found)
    os.environ[_TYPED] = typed
    try:
        elastic_launch(launch, sys.executable)("-m", "src.run", *overrides)
    except ChildFailedError as error:
        first_rank, failure = error.get_first_failure()
        raise RankError(first_rank, failure.exitcode) from error
    except SignalException as error:
        raise Interrupted(error.sigval) from error
    finally:
        for name in (PARENT, FOUND, _TYPED):
            del os.environ[name]


def handed_down() -> tuple[Any, str] | None:
    """What was found of the run, and what was typed; None where no parent of ours has looked."""
    if not is_rank() or FOUND not in os.environ:
        return None
    return json.loads(os.environ[FOUND]), os.environ[_TYPED]


def refuse_unfit_ranks(trainer: TrainerOptions) -> None:
    """Refuse processes of other number or kind than ``trainer`` asks for.

    Raises:
        UserError: If torchrun has started another number of them, if it would have to and has
            not, or if srun has started several that do not know of each other.
    """
    if is_rank():
        _refuse_unfit_torchrun(trainer, os.environ)
        return
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if tasks > 1:
        raise UserError(
            f"Expected one process of a run, which starts its ranks itself, but srun has started "
            f"{tasks}; use srun --ntasks=1 with trainer.devices=N, or torchrun on every node"
        )
    if trainer.nodes > 1:
        raise UserError(
            f"Expected trainer.nodes={trainer.nodes} under torchrun; on every node, run: torchrun "
            f"--nnodes={trainer.nodes} --nproc-per-node={trainer.devices} --rdzv-backend=c10d "
            f"--rdzv-endpoint=HOST:29500 -m src.run ..."
        )


def _refuse_unfit_torchrun(trainer: TrainerOptions, environment: Mapping[str, str]) -> None:
    ranks, local = int(environment["WORLD_SIZE"]), int(environment["LOCAL_WORLD_SIZE"])
    if (ranks, local) == (trainer.ranks, trainer.devices):
        return
    raise UserError(
        f"Expected as many processes as trainer.devices={trainer.devices} on trainer.nodes="
        f"{trainer.nodes}, but torchrun has started {local} here and {ranks} in all; change "
        "one of them"
    )


def refuse_sweep_of_ranks() -> None:
    """Refuse ``--multirun`` in processes of torchrun, each of which would run the sweep.

    Raises:
        UserError: If it was asked for there.
    """
    if is_rank():
        raise UserError(
            "Expected --multirun without torchrun; the points of a sweep start their ranks "
            "themselves, trainer.devices of them"
        )
