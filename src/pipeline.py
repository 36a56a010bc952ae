"""The moments of a run: teacher, stage (a), stage (b) with its dictionary, report.

The only file that sees all packages.
"""

import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from hydra.utils import get_class, instantiate

from src.common.distributed import (
    broadcast_module,
    join_ranks,
    on_rank_zero,
    rank,
    world_size,
)
from src.common.errors import UserError
from src.common.files import atomic_write, content_hash, lock
from src.common.measure import Measurement, measured
from src.common.provenance import source_hash
from src.common.resume import ResumeCallback
from src.common.seeding import derive_seed, seed_all
from src.dataset.contract import Dataset
from src.dataset.loader import LabelledBatches
from src.kdci.callback import ConfounderDictionaryCallback
from src.kdci.compensation import BackdoorCompensation
from src.kdci.dictionary import DictionarySettings
from src.network.classifier import Classifier
from src.report.summary import is_finished
from src.schema import Node, RunConfig
from src.student.companion import CompanionStudent
from src.student.export import build_network
from src.student.kdci_student import KDCIStudent
from src.student.module import StudentModule
from src.substitution.artifact import FORMAT, Artifact, ArtifactInfo
from src.substitution.contract import Baseline
from src.substitution.datamodule import OnlineBatches, ReplayBatches, SubstitutionDataModule
from src.substitution.image_bank import ImageBank
from src.substitution.module import Recording, SubstitutionModule, predict
from src.teacher.evaluate import accuracy
from src.teacher.frozen import FrozenTeacher
from src.trainer import device_of, make_trainer

_log = logging.getLogger(__name__)
STAGES = ("teacher", "stage_a", "dictionary", "stage_b")
_EVALUATION_BATCH = 250
_PACKAGES_OF_STAGE_A = (
    "baseline",
    "common",
    "dataset",
    "network",
    "objective",
    "substitution",
    "teacher",
)
