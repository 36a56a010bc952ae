"""KDCI from Python, without Hydra: each part by its constructor, joined by hand.

``python docs/use_from_python.py``, from the root of a clone. What ``python -m src.run`` adds to
this are the files: what is reused, resumed, checked and reported. Lengths are those of a test;
raise ROUNDS, EPOCHS and STEPS for a student that has learned something.
"""

import sys
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Trainer

sys.path.insert(0, str(Path(__file__).parent.parent))  # run as a file, its folder is on the path

from src.baseline.dafl import DAFL
from src.dataset.digits import Digits
from src.dataset.loader import LabelledBatches
from src.kdci.clustering import KMeans
from src.kdci.compensation import BackdoorCompensation
from src.network.convnet import ConvNet
from src.network.generator import Generator
from src.student.kdci_student import KDCIStudent
from src.substitution.batches import ReplayBatches
from src.substitution.module import SubstitutionModule
from src.teacher.frozen import FrozenTeacher
from src.teacher.module import TeacherModule

ROUNDS, EPOCHS, STEPS = 4, 2, 4
CPU = torch.device("cpu")
SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
ADAM = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999))
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
         "enable_model_summary": False, "accelerator": "cpu"}  # fmt: skip

torch.manual_seed(0)

# Original data: seen by the teacher, and by nobody else.
digits = Digits()
train = LabelledBatches(digits.train(), digits.spec, 64, CPU, training=True)
test = LabelledBatches(digits.test(), digits.spec, 60, CPU)
network = ConvNet([16, 32, 64], num_classes=10)
lesson = TeacherModule(network, SGD, total_steps=EPOCHS * len(train), schedule="one_cycle")
Trainer(max_epochs=EPOCHS, num_sanity_val_steps=0, **QUIET).fit(lesson, train, test)
teacher = FrozenTeacher(network)

# Stage (a): substitution data, and what the teacher says of it.
dafl = DAFL(
    teacher=teacher, spec=digits.spec, optimizer=ADAM, batch_size=32,
    generator=partial(Generator, latent_dim=64, base_width=8),
    one_hot_weight=1.0, balance_weight=20.0, activation_weight=0.001,
)  # fmt: skip
stage_a = SubstitutionModule(
    dafl, rounds=ROUNDS, num_images=128, record_from=0.5, log_every=ROUNDS
)
Trainer(max_epochs=1, **QUIET).fit(stage_a)
recording = stage_a.recording()

# The confounder dictionary: N prototypes z_i with priors P(z_i).
dictionary = KMeans(N=8).fit(recording.logits)

# Stage (b): the student, its prediction compensated before it meets the teacher's.
student = KDCIStudent(
    ConvNet([8, 16, 32], num_classes=10), teacher, dafl.objective(), SGD,
    adjustment=BackdoorCompensation(dictionary, num_classes=10),
)  # fmt: skip
replay = ReplayBatches(recording.banks, batch_size=32, steps=STEPS, seed=0)
Trainer(max_epochs=EPOCHS, num_sanity_val_steps=0, **QUIET).fit(student, replay, test)

print(f"teacher {lesson.acc1:.2f}%, student {student.acc1['last']:.2f}%")  # noqa: T201
