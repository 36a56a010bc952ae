"""What one of two ranks is left with after some rounds; the contract test starts both.

Run as ``RANK=<rank> python -m tests.baseline.two_ranks <folder>``.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from src.common.augment import Augmentation
from src.common.files import sha256_tensors
from src.common.seeding import seed_all
from src.dataset.contract import ImageSpec
from src.network.convnet import ConvNet
from src.substitution.contract import Baseline
from src.teacher.frozen import FrozenTeacher
from tests.test_baseline_contract import NAMES, made, play

ROUNDS = 3


def shared(baseline: Baseline) -> str:
    """Checksum of the parameters that all ranks share."""
    return sha256_tensors(*(p for network in baseline.networks() for p in network.parameters()))


def main(folder: Path) -> None:
    """Play every method with noise of this rank's own."""
    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    spec = ImageSpec(4, 8, (0.5,) * 3, (0.2,) * 3, augmentation=Augmentation(1))
    found = {}
    for name in NAMES:
        seed_all(0)
        teacher = FrozenTeacher(ConvNet([4, 8], num_classes=4))
        student = ConvNet([4, 8], num_classes=4)
        baseline = made(name, spec, teacher)
        before = shared(baseline)
        seed_all(rank)
        play(baseline, student, ROUNDS)
        found[name] = {
            "networks": shared(baseline),
            "moved": shared(baseline) != before,
            "trained": any(list(network.parameters()) for network in baseline.networks()),
            "images": sha256_tensors(*(bank.images for bank in baseline.substitution_data())),
        }
    torch.save(found, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
