import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.elastic.multiprocessing.api import SignalException

from src.common import package
from src.common.errors import UserError
from src.common.signals import Interrupted, speaks
from src.config.schema import TrainerOptions
from src.ranks import (
    ending_at_once,
    handed_down,
    prepare_rank,
    refuse_sweep_of_ranks,
    refuse_unfit_ranks,
    start_ranks,
)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "KDCI_FOUND", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def quiet_again() -> Iterator[None]:
    yield
    logging.disable(logging.NOTSET)


def be_rank(monkeypatch: pytest.MonkeyPatch, rank: int, *, local: int = 2, ranks: int = 2) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    for name, value in (("RANK", rank), ("LOCAL_WORLD_SIZE", local), ("WORLD_SIZE", ranks)):
        monkeypatch.setenv(name, str(value))


def trainer(devices: int = 1, nodes: int = 1) -> TrainerOptions:
    return TrainerOptions(
        accelerator="cpu",
        devices=devices,
        nodes=nodes,
        precision="32-true",
        channels_last=True,
        sync_batch_norm=False,
        deterministic=False,
        progress=False,
    )


def test_a_program_that_is_alone_speaks_and_may_start_ranks() -> None:
    assert speaks()
    assert handed_down() is None
    refuse_unfit_ranks(trainer(devices=2))
    refuse_sweep_of_ranks()


def test_of_torchruns_processes_rank_zero_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    be_rank(monkeypatch, 0)
    assert speaks()
    be_rank(monkeypatch, 1)
    assert not speaks()
    be_rank(monkeypatch, 0)
    monkeypatch.setenv("KDCI_FOUND", "{}")  # whoever started the ranks speaks for them
    assert not speaks()


def test_a_rank_takes_over_what_its_parent_has_found(monkeypatch: pytest.MonkeyPatch) -> None:
    be_rank(monkeypatch, 1)
    monkeypatch.setenv("KDCI_FOUND", '{"folder": "outputs/a"}')
    monkeypatch.setenv("KDCI_TYPED", "python -m src.run")
    assert handed_down() == ({"folder": "outputs/a"}, "python -m src.run")


@pytest.mark.usefixtures("quiet_again")
def test_what_every_rank_would_say_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        for rank in range(2):
            be_rank(monkeypatch, rank)
            prepare_rank()
            logging.getLogger("src").warning("from rank %d", rank)
    assert caplog.messages == ["from rank 0"]


@pytest.mark.parametrize(("devices", "nodes", "local", "ranks"), [(2, 1, 2, 2), (1, 2, 1, 2)])
def test_ranks_of_torchrun_that_are_as_many_as_asked_for(
    monkeypatch: pytest.MonkeyPatch, devices: int, nodes: int, local: int, ranks: int
) -> None:
    be_rank(monkeypatch, 0, local=local, ranks=ranks)
    refuse_unfit_ranks(trainer(devices, nodes))


def test_other_numbers_of_ranks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    be_rank(monkeypatch, 0, local=2, ranks=4)
    with pytest.raises(
        UserError,
        match=r"trainer\.devices=2 on trainer\.nodes=1, but torchrun has started 2 here and 4 in",
    ):
        refuse_unfit_ranks(trainer(devices=2))


def test_several_nodes_need_torchrun() -> None:
    with pytest.raises(UserError, match="torchrun --nnodes=2 --nproc-per-node=8 "):
        refuse_unfit_ranks(trainer(devices=8, nodes=2))


def test_a_sweep_under_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    be_rank(monkeypatch, 0)
    with pytest.raises(UserError, match="Expected --multirun without torchrun"):
        refuse_sweep_of_ranks()


def test_tasks_of_srun_that_do_not_know_of_each_other_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(UserError, match="srun has started 2"):
        refuse_unfit_ranks(trainer())
    be_rank(monkeypatch, 0)  # torchrun under srun, one on every node
    refuse_unfit_ranks(trainer(devices=2))


ENDING = """
import atexit, logging, sys, threading
from src.ranks import ending_at_once
threading.Thread(target=threading.Event().wait, daemon=False).start()  # as a group leaves some
atexit.register(print, "tidied up")
logging.basicConfig(stream=sys.stdout, format="%(message)s")
with ending_at_once():
    logging.warning("logged")
    print("said", end="")
    print("complained", end="", file=sys.stderr)
    raise {error}
"""


@pytest.mark.parametrize(
    ("error", "exit_code", "complaint"),
    [
        ("SystemExit(2)", 2, "complained"),
        ("SystemExit(0)", 0, "complained"),
        ("SystemExit()", 0, "complained"),
        ("KeyError('mistake')", 1, "KeyError: 'mistake'\n"),
    ],
)
def test_a_rank_that_ends_early_waits_for_no_thread(
    error: str, exit_code: int, complaint: str
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ENDING.format(error=error)],
        cwd=package.ROOT,
        env=os.environ | {"TORCHELASTIC_RUN_ID": "x"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout) == (exit_code, "logged\nsaid")
    assert ended.stderr.startswith("complained")
    assert ended.stderr.endswith(complaint)


def test_whoever_is_no_rank_tidies_up() -> None:
    with pytest.raises(SystemExit) as caught, ending_at_once():
        raise SystemExit(2)
    assert caught.value.code == 2


MEETING = """
import os, time
import torch, torch.distributed as dist
from src import complaint
from src.common.distributed import barrier, joined_ranks, rank
from src.common.errors import UserError
from src.common.signals import heed_signals
from src.ranks import ending_at_once

def wait_for_who_never_comes():  # as NCCL does
    time.sleep(60)
    os._exit(9)

heed_signals()
dist.destroy_process_group = wait_for_who_never_comes
with ending_at_once(), complaint.complaints(), joined_ranks(torch.device("cpu")):
    barrier()
    if rank() == 0:
        raise UserError("Expected more")
    barrier()
"""


@pytest.mark.ddp
@pytest.mark.xdist_group("ranks")
def test_a_rank_that_fails_ends_while_the_other_waits_for_it() -> None:
    agent = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    ended = subprocess.run(
        [sys.executable, "-m", *agent, sys.executable, "-c", MEETING],
        cwd=package.ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Error: Expected more\n" in ended.stderr
    assert "exitcode  : 2 " in ended.stderr
    assert ended.returncode == 1  # torchrun's own


def test_what_stops_the_ranks_is_said_by_us_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed.elastic.agent.server import api as agent
    from torch.distributed.launcher import api

    agent.logger.setLevel(logging.WARNING)  # as its import leaves it

    def stop(*_: Any) -> None:
        assert not agent.logger.isEnabledFor(logging.WARNING)
        raise SignalException("stopped", signal.SIGTERM)

    monkeypatch.setattr(api, "elastic_launch", lambda *_: stop)
    with pytest.raises(Interrupted, match="Stopped by SIGTERM"):
        start_ranks(2, [], Path("outputs/abc"), {}, "kdci")


def test_ranks_of_one_machine_do_not_ask_for_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which may have no address; the rendezvous would then wait for ever."""
    from torch.distributed.launcher import api

    launched: list[Any] = []

    def launch(config: Any, *_: Any) -> Any:
        launched.append(config)
        return lambda *command: launched.append(command)

    monkeypatch.setattr(api, "elastic_launch", launch)
    start_ranks(2, ["--config-name=mine", "seed=1"], Path("outputs/abc"), {}, "kdci")
    config, command = launched
    assert config.local_addr == "localhost"
    assert command == ("-m", "src.run", "--config-name=mine", "seed=1")
