"""What every test starts from: one thread, a fixed seed, and a small frozen teacher."""

import os
import signal
from typing import Any

# Before torch is imported, and for the processes we start. A GPU rounds otherwise than what is
# compared with.
os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

import pytest
import torch
from lightning.pytorch import LightningModule

from src.common import package
from src.common.augment import Augmentation
from src.common.seeding import seed_all
from src.dataset.contract import ImageSpec
from src.network.convnet import ConvNet
from src.teacher.frozen import FrozenTeacher
from tests.smoke import Smoke

torch.set_num_threads(1)
os.environ["KDCI_ROOT"] = str(package.ROOT)
# Whoever starts the tests may ignore signals (nohup, a job in the background), and the programs
# that they start would inherit that.
for number, heeded in (
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGINT, signal.default_int_handler),
):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, heeded)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Make every test repeat, alone or among others."""
    seed_all(0)


@pytest.fixture
def tiny_spec() -> ImageSpec:
    """Four classes of 8 x 8 colour images."""
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    return ImageSpec(4, 8, mean, std, augmentation=Augmentation(1, 0.5))


@pytest.fixture
def tiny_teacher(tiny_spec: ImageSpec) -> FrozenTeacher:
    """An untrained teacher for them, with BN statistics that are not the initial ones."""
    network = ConvNet([4, 8], num_classes=tiny_spec.num_classes).train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(16, 3, 8, 8))
    return FrozenTeacher(network, acc1=90.0)


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Smoke:
    """Whole runs of seconds that share one trained teacher, see ``tests/smoke.py``."""
    return Smoke(tmp_path_factory.mktemp("smoke"))


@pytest.fixture
def backward_passes(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of every backward pass that a test makes: is it under autocast?"""
    seen: list[bool] = []
    for name in ("backward", "grad"):
        run = getattr(torch.autograd, name)

        def watched(*args: Any, run: Any = run, **options: Any) -> Any:
            seen.append(torch.is_autocast_enabled("cpu"))
            return run(*args, **options)

        monkeypatch.setattr(torch.autograd, name, watched)
    return seen


@pytest.fixture
def averaged(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Of every value that a fit logs: is its mean over ranks taken?"""
    seen: dict[str, bool] = {}
    log = LightningModule.log

    def noting(
        self: LightningModule, name: str, *args: Any, sync_dist: bool = False, **options: Any
    ) -> None:
        seen[name] = sync_dist
        log(self, name, *args, sync_dist=sync_dist, **options)

    monkeypatch.setattr(LightningModule, "log", noting)
    return seen
