"""A package of somebody else's with a method, a data set, a network, and options of its own."""

from pathlib import Path

FILES = {
    "__init__.py": "",
    "mine.py": '''\
from pydantic import PositiveFloat
from torch import Tensor, nn

from src.substitution.generator import GeneratorBaseline

from .strength import times


class Confident(nn.Module):
    def __init__(self, weight: PositiveFloat) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, logits: Tensor) -> Tensor:
        return times(self.weight, -logits.log_softmax(1).amax(1).mean())


class Mine(GeneratorBaseline):
    """A generator whose images the teacher is sure of."""

    def __init__(self, *, loss: Confident, **options) -> None:
        super().__init__(**options)
        self.loss = loss

    def refresh(self, student: nn.Module | None) -> dict[str, Tensor]:
        images = self.to_teacher(self.generate(self.batch_size))
        return self.step({"confident": self.loss(self.teacher(images).logits)}, {"confident": 1.0})
''',
    "strength.py": "def times(weight, value):\n    return weight * value\n",
    "blobs.py": '''\
import torch

from src.common.files import sha256_tensors
from src.dataset.contract import Dataset, ImageSpec, Split


class Blobs(Dataset):
    """Three classes: red, green or blue, with noise."""

    name = "blobs"
    class_names = ("red", "green", "blue")
    spec = ImageSpec(3, 8, (0.5,) * 3, (0.25,) * 3)

    def train(self) -> Split:
        labels = torch.arange(96) % 3
        images = torch.randint(120, (96, 3, 8, 8), generator=torch.Generator().manual_seed(0))
        images[torch.arange(96), labels] += 120
        return Split(images.byte(), labels)

    test = train

    def fingerprint(self) -> str:
        return sha256_tensors(self.train().images)
''',
    "pooled.py": '''\
from torch import Tensor, nn

from src.network.classifier import Classifier


class Pooled(Classifier):
    """One convolution."""

    head_name = "fc"

    def __init__(self, width: int, *, num_classes: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, num_classes)

    def embed(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(images)).relu().mean(dim=(2, 3))
''',
    "sure.py": '''\
from pydantic import PositiveFloat
from torch import Tensor

from src.kdci.adjustment import Adjustment
from src.kdci.dictionary import ConfounderDictionary


class Sure(Adjustment):
    """Draws images the more often the surer the teacher is of them."""

    def __init__(
        self,
        dictionary: ConfounderDictionary,
        *,
        num_classes: int,
        seed: int,
        power: PositiveFloat = 1.0,
    ) -> None:
        super().__init__(dictionary, num_classes=num_classes, seed=seed)
        self.power = power
        self.facts = {"power": power}

    def weights(self, teacher_logits: Tensor) -> Tensor:
        return teacher_logits.softmax(1).amax(1) ** self.power
''',
    "conf/kdci/adjustment/sure.yaml": "_target_: mylab.sure.Sure\npower: 1.0\n",
    "conf/kdci/sure.yaml": """\
defaults:
  - backdoor
  - override adjustment: sure
  - _self_
name: sure
""",
    "conf/baseline/mine.yaml": """\
_target_: mylab.mine.Mine
batch_size: 32
loss:
  _target_: mylab.mine.Confident
  weight: 2.0
generator:
  _target_: src.network.generator.Generator
  _partial_: true
  latent_dim: 16
  base_width: 8
optimizer:
  _target_: torch.optim.Adam
  _partial_: true
  lr: 1.0e-3
""",
    "conf/dataset/blobs.yaml": "_target_: mylab.blobs.Blobs\n",
    "conf/setting/blobs.yaml": """\
# @package _global_
defaults:
  - /teacher: pooled
  - /student: pooled
  - /dataset@pool: photo_patches
  - _self_
  - /budget: tiny
""",
    "conf/student/pooled.yaml": """\
name: pooled
network:
  _target_: mylab.pooled.Pooled
  width: 8
""",
    "conf/teacher/pooled.yaml": "defaults:\n  - base\n  - /student@_here_: pooled\n",
    "conf/budget/tiny.yaml": """\
# @package _global_
defaults:
  - smoke
  - _self_
budget: tiny
substitution:
  num_images: 64
""",
    "conf/recipe/mine_blobs.yaml": """\
# @package _global_
substitution:
  published_mode: online
""",
    "conf/experiments/both.yaml": """\
# @package _global_
defaults:
  - override /baseline: mine
  - override /dataset: blobs
hydra:
  sweeper:
    params:
      kdci: none,backdoor
""",
}


def write(folder: Path) -> Path:
    """Write the package into a folder, which belongs on Python's path; return the package."""
    for name, text in FILES.items():
        path = folder / "mylab" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "mylab"
