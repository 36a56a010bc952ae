"""One process; tests/test_ddp.py asks two for the same."""

from contextlib import suppress
from functools import partial

import pytest
import torch
from torch import nn

from src.common import distributed
from src.common.errors import UserError


def test_one_process_is_rank_zero_of_one() -> None:
    assert (distributed.rank(), distributed.world_size()) == (0, 1)


def test_one_process_keeps_what_it_has() -> None:
    rows, network = torch.randn(3, 2), nn.BatchNorm1d(2)
    network(rows).sum().backward()
    before = [tensor.clone() for tensor in network.state_dict().values()]
    gradients = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    assert len(gradients) == 2
    assert distributed.gather_rows(rows) is rows
    assert distributed.sum_over_ranks(rows) is rows
    assert distributed.broadcast_object([rows])[0] is rows
    distributed.average_gradients(network.parameters())
    distributed.broadcast_module(network)
    distributed.broadcast_buffers(network)
    distributed.barrier()
    assert all(map(torch.equal, network.state_dict().values(), before))
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize(("backend", "devices"), [("gloo", None), ("nccl", [1])])
def test_ranks_on_gpus_say_which_is_theirs(
    monkeypatch: pytest.MonkeyPatch, backend: str, devices: list[int] | None
) -> None:
    given: list[list[int] | None] = []
    group = torch.distributed
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(group, "get_backend", lambda: backend)
    monkeypatch.setattr(group, "barrier", lambda *, device_ids: given.append(device_ids))
    distributed.barrier()
    assert given == [devices]


def test_no_process_group_is_joined_where_nobody_started_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with distributed.joined_ranks(torch.device("cpu")):
        assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("error", [None, KeyError(), KeyboardInterrupt()])
def test_only_a_rank_that_ends_well_waits_for_the_others(
    monkeypatch: pytest.MonkeyPatch, error: BaseException | None
) -> None:
    calls: list[str] = []
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    for name in ("init_process_group", "destroy_process_group"):
        note = partial(calls.append, name)
        monkeypatch.setattr(torch.distributed, name, lambda *_, note=note, **__: note())
    with suppress(KeyError, KeyboardInterrupt), distributed.joined_ranks(torch.device("cpu")):
        if error is not None:
            raise error
    left = [] if error else ["destroy_process_group"]
    assert calls == ["init_process_group", *left]


def test_rank_zero_acts_and_returns() -> None:
    assert distributed.on_rank_zero(lambda: 42) == 42


@pytest.mark.parametrize("kind", [UserError, KeyError, KeyboardInterrupt])
def test_a_failure_of_rank_zero_is_its_own(kind: type[BaseException]) -> None:
    def fail() -> None:
        raise kind("why")

    with pytest.raises(kind, match="why"):
        distributed.on_rank_zero(fail)


def test_a_checksum_is_of_the_bytes() -> None:
    first, other = torch.zeros(3), torch.zeros(3)
    checksum = distributed.require_equal_on_all_ranks([first], "things")
    assert distributed.require_equal_on_all_ranks([other], "things") == checksum
    other[1] = 1e-30
    assert distributed.require_equal_on_all_ranks([other], "things") != checksum
