"""Collectives that are correct with one process and with many.

Every function is called by all ranks in the same order. Decisions are taken on rank 0 and
broadcast, so that no rank can wait for a collective that another never reaches.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from src.common.errors import UserError
from src.common.files import sha256_tensors
from src.common.signals import is_rank

T = TypeVar("T")


def rank() -> int:
    """Index of this process; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def joined_ranks(device: torch.device) -> Iterator[None]:
    """Join the process group of the ranks that ``torch.distributed.run`` has started, if any.

    Lightning finds the group and uses it. The timeout is long because the other ranks wait in a
    collective while rank 0 waits for another job's lock; a rank that dies takes all down anyway.
    The group is left at the end: threads of it that outlive the interpreter abort the process.
    After an error it is not: leaving waits for the others, which may wait for this rank in another
    collective. Such a rank has to end by :func:`src.ranks.ending_at_once`.
    """
    if not is_rank() or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(days=1))
    yield
    dist.destroy_process_group()


def own_places(n: int, device: torch.device) -> Tensor:
    """Where this rank's ``n`` rows stand among as many of each rank, ``[n]`` int64."""
    first = rank() * n
    return torch.arange(first, first + n, device=device)


def sum_over_ranks(value: Tensor) -> Tensor:
    """Sum of ``value`` over ranks, on every rank."""
    if world_size() > 1:
        dist.all_reduce(value)
    return value


def barrier() -> None:
    """Wait for all ranks."""
    if world_size() > 1:
        # NCCL's would say in every run that it had to guess the device.
        on_gpus = dist.get_backend() == "nccl"
        dist.barrier(device_ids=[torch.cuda.current_device()] if on_gpus else None)


def broadcast_object(value: T) -> T:
    """Rank 0's ``value``, on every rank."""
    if world_size() == 1:
        return value
    box: list[object] = [value]
    dist.broadcast_object_list(box, src=0)
    return cast("T", box[0])


def on_rank_zero(action: Callable[[], T]) -> T:
    """Run ``action`` on rank 0 only and return its result on every rank.

    Raises:
        UserError: On every rank, when the action raised one on rank 0.
        RuntimeError: On the other ranks, when the action failed otherwise on rank 0.
    """
    if world_size() == 1:
        return action()
    value: T | None = None
    failure: Exception | None = None
    if rank() == 0:
        try:
            value = action()
        except Exception as error:  # noqa: BLE001 - the other ranks must hear of any failure
            failure = error
    kind = type(failure).__name__ if failure else None
    kind, message, user = broadcast_object((kind, str(failure), isinstance(failure, UserError)))
    if kind is None:
        return broadcast_object(cast("T", value))
    if failure is not None:
        raise failure
    raise UserError(message) if user else RuntimeError(f"rank 0 failed with {kind}: {message}")


def gather_objects(value: T) -> list[T]:
    """The values of all ranks in rank order, on every rank."""
    if world_size() == 1:
        return [value]
    values: list[T | None] = [None] * world_size()
    dist.all_gather_object(values, value)
    return cast("list[T]", values)


def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate ``[m_r, ...]`` of all ranks in rank order; counts may differ."""
    if world_size() == 1:
        return rows
    counts = gather_objects(len(rows))
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over ranks, in one reduction."""
    if world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= world_size()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def broadcast_module(module: nn.Module) -> None:
    """Overwrite parameters and buffers of every rank with rank 0's."""
    if world_size() == 1:
        return
    for tensor in [*module.parameters(), *module.buffers()]:
        dist.broadcast(tensor.data, src=0)


def broadcast_buffers(module: nn.Module) -> None:
    """Overwrite the buffers of every rank with rank 0's (BN statistics at the end of a fit)."""
    if world_size() == 1:
        return
    for tensor in module.buffers():
        dist.broadcast(tensor.data, src=0)


def require_equal_on_all_ranks(tensors: Iterable[Tensor], what: str) -> str:
    """Check that every rank holds the same bytes; return their checksum.

    Raises:
        RuntimeError: When any rank differs.
    """
    own = sha256_tensors(*tensors)
    if world_size() > 1:
        sums = gather_objects(own)
        if len(set(sums)) > 1:
            raise RuntimeError(f"Expected equal {what} on all ranks, but checksums are {sums}")
    return own
