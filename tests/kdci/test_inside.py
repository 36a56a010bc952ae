"""What a look inside says of the dictionary, after it was made again."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from src.dataset.contract import ImageSpec
from src.kdci.adjustment import Adjustment
from src.kdci.compensation import BackdoorCompensation
from src.kdci.prior import PriorAdjustment
from src.kdci.standardisation import Standardisation
from src.kdci.weighting import InversePropensityWeighting
from src.pipeline.inside import _prototypes
from src.substitution.module import predict
from src.teacher.frozen import FrozenTeacher
from tests.toys import dictionary, filled_bank


@pytest.mark.parametrize(
    "kind",
    [BackdoorCompensation, Standardisation, PriorAdjustment, InversePropensityWeighting],
)
def test_prototypes_are_of_the_dictionary_that_the_student_met_last(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, tmp_path: Path, kind: type[Adjustment]
) -> None:
    first, last = dictionary(), dictionary()
    adjustment = kind(first, num_classes=4, seed=0)
    adjustment.load(last)
    recording = predict(tiny_teacher, [filled_bank(tiny_spec)])
    job: Any = SimpleNamespace(folder=tmp_path, dataset=SimpleNamespace(spec=tiny_spec))
    substitution: Any = SimpleNamespace(recording=recording, attribution=None)
    seen: Any = SimpleNamespace(attention=None)
    found = _prototypes(job, substitution, first, adjustment, seen)
    distances = torch.cdist(last.prototypes.double(), recording.logits.double())
    assert found["prior"] == last.prior.tolist()
    assert found["nearest"] == distances.argsort(dim=1)[:, :8].tolist()
    assert found["prior"] != first.prior.tolist()
