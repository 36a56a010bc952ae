"""What one of two processes finds; ``tests/test_ddp.py`` starts both and compares.

Usage: ``RANK=0 python -m tests.two_ranks FOLDER``, and the same with ``RANK=1``.
"""

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from src.common import distributed
from src.common.errors import UserError
from src.common.measure import Measurement
from src.common.resume import ResumeCallback
from src.common.sealed import digest_file, write_sealed
from src.common.sync_batch_norm import sync_batch_norm
from src.kdci.builder import DictionaryBuilder
from src.kdci.clustering import KMeans
from src.kdci.unevenness import as_in_batches
from src.kdci.weighting import InversePropensityWeighting
from src.substitution.image_bank import ImageBank
from src.substitution.module import Recording

COUNTS = (2, 5)  # rows of rank 0 and of rank 1


def rows(rank: int) -> Tensor:
    """Predictions ``[COUNTS[rank], 4]``."""
    draws = torch.Generator().manual_seed(10 + rank)
    return torch.randn(COUNTS[rank], 4, generator=draws)


def banks(rank: int) -> list[Tensor]:
    """The same, and a part of others, as two banks of predictions."""
    return [rows(rank), rows(rank)[1:].flip(1)]


def network(seed: int) -> Any:
    """Three layers, the first frozen."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    module[0].requires_grad_(False)
    return module


def outcome(action: Callable[[], Any]) -> tuple[str, str]:
    """Type and message of what ``action`` raises."""
    try:
        action()
    except Exception as error:  # noqa: BLE001 - it is what we ask for
        return type(error).__name__, str(error)
    return "", ""


def _raise(error: Exception) -> None:
    raise error


def gathering(rank: int) -> dict[str, Any]:
    """Rows, sums and objects over ranks."""
    return {
        "rows": distributed.gather_rows(rows(rank)),
        "labels": distributed.gather_rows(torch.arange(3 * rank)),
        "sum": distributed.sum_over_ranks(torch.tensor([1.0, rank])),
        "object": distributed.broadcast_object({"rank": rank}),
    }


def decisions(rank: int) -> dict[str, Any]:
    """Values and failures of rank 0."""
    zero = distributed.on_rank_zero
    return {
        "value": zero(lambda: ("decided by", rank)),
        "user_error": outcome(lambda: zero(lambda: _raise(UserError("lower kdci.N")))),
        "key_error": outcome(lambda: zero(lambda: _raise(KeyError("N")))),
        "after": zero(lambda: "still in step"),
    }


def agreement(rank: int) -> dict[str, Any]:
    """Networks and gradients over ranks."""
    gradients = network(0).train(False)
    gradients(rows(rank)).square().mean().backward()
    distributed.average_gradients(gradients.parameters())
    whole, statistics = network(rank), network(rank)
    statistics[1](rows(rank))
    own_weight = statistics[2].weight.detach().clone()
    distributed.broadcast_module(whole)
    distributed.broadcast_buffers(statistics)
    equal, different = torch.ones(3), torch.full((3,), float(rank))
    check = distributed.require_equal_on_all_ranks
    return {
        "gradients": [p.grad for p in gradients.parameters()],
        "whole": whole.state_dict(),
        "buffers": dict(statistics.named_buffers()),
        "weight_untouched": torch.equal(statistics[2].weight, own_weight),
        "checksum": check([equal], "things"),
        "difference": outcome(lambda: check([different], "things")),
    }


def norms() -> list[nn.Module]:
    """BatchNorm layers that have seen and learned something: of rows, and of maps, unscaled."""
    torch.manual_seed(7)
    layers = [nn.BatchNorm1d(4), nn.BatchNorm2d(4, momentum=None, affine=False)]
    for layer in layers:
        for tensor in layer.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 2.0)
    return layers


def maps(rank: int) -> list[Tensor]:
    """What :func:`norms` are shown: values far from 0, ``[COUNTS[rank], 4]`` and maps of 3 x 2."""
    draws = torch.Generator().manual_seed(20 + rank)
    n = COUNTS[rank]
    flat = 30 + torch.randn(n, 4, generator=draws)
    wide = -50 + torch.randn(n, 4, 3, 2, generator=draws)
    return [flat, wide.contiguous(memory_format=torch.channels_last)]


def normalised(layers: list[nn.Module], shown: list[Tensor]) -> list[dict[str, Any]]:
    """Results, state and gradients of a loss that is a sum over images."""
    found = []
    for layer, value in zip(layers, shown, strict=True):
        given = value.clone().requires_grad_()
        result = layer(given)
        (result * value.sin()).sum().backward()
        scales = [p.grad for p in layer.parameters()]
        state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
        plain = layer.eval()(value)
        found.append(
            {
                "result": result.detach(),
                "gradient": given.grad,
                "scales": scales,
                "state": state,
                "plain": plain.detach(),
                "format": result.is_contiguous(memory_format=torch.channels_last)
                if value.dim() == 4
                else None,
            }
        )
    return found


def synced(rank: int) -> dict[str, Any]:
    """BatchNorm over both ranks, and a kind that cannot be."""
    layers = norms()
    sync_batch_norm(nn.ModuleList(layers))
    return {
        "norms": normalised(layers, maps(rank)),
        "kinds": [type(layer).__name__ for layer in layers],
        "odd_norm": outcome(lambda: sync_batch_norm(nn.Sequential(nn.BatchNorm3d(2)))),
    }


def dictionary(rank: int, folder: Path) -> dict[str, Any]:
    """The confounder dictionary of both ranks' predictions, and one that cannot be."""

    def build(count: int) -> Any:
        builder = DictionaryBuilder(
            KMeans(count),
            teacher_sha256="0" * 64,
            data_key="key",
            path=folder / f"dictionary{count}.safetensors",
            cost=Measurement(),
        )
        bank = ImageBank((3, 2, 2), mean=(0.5,) * 3, std=(0.5,) * 3)
        recording = Recording([bank], rows(rank), rows(rank))
        built = builder.build(recording)
        again = builder.read(recording)
        assert again is not None
        assert torch.equal(again.prototypes, built.prototypes)
        return built.prototypes, built.prior

    return {"built": build(3), "too_many": outcome(lambda: build(8))}


def in_banks(banks: list[Tensor]) -> dict[str, Any]:
    """What is counted of the samples of two banks, by class and by cluster."""
    given = KMeans(3).fit(torch.cat([rows(0), rows(1)]))
    weighting = InversePropensityWeighting(given, num_classes=4, seed=0, strata="both", gamma=1.0)
    return {
        "shares": as_in_batches(given, banks).counts,
        "weights": weighting.weights_within(banks),
    }


def resuming(rank: int, folder: Path) -> dict[str, Any]:
    """The newest state that both ranks have saved."""
    state = folder / "state"
    if rank == 0:
        state.mkdir()
        for name in ("epoch1_rank0", "epoch1_rank1", "epoch2_rank0"):
            torch.save({"of": name}, state / f"{name}.pt")
            digest = digest_file(state / f"{name}.pt")
            card = {"of": "/".join(state.parts[-3:]), "state": digest, "files": {}}
            write_sealed(state / f"{name}.json", card)
    distributed.barrier()
    return {"epoch": ResumeCallback(state).epochs_done()}


def main(folder: Path) -> None:
    """Join the other rank and write down what is found."""
    rank = int(os.environ["RANK"])
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=180),
    )
    found = {
        "identity": (distributed.rank(), distributed.world_size()),
        **gathering(rank),
        **decisions(rank),
        **agreement(rank),
        **synced(rank),
        **dictionary(rank, folder),
        **in_banks(banks(rank)),
        **resuming(rank, folder),
    }
    torch.save(found, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
