from pathlib import Path

import torch

from src.common.measure import Measurement
from src.dataset.contract import ImageSpec
from src.kdci.builder import DictionaryBuilder
from src.kdci.callback import ConfounderDictionaryCallback
from src.kdci.clustering import KMeans
from src.substitution.module import SubstitutionModule, predict
from src.teacher.frozen import FrozenTeacher
from tests.toys import Toy, job

SETTINGS = KMeans(3)


def test_clusters_all_substitution_data_at_the_end_of_stage_a(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, tmp_path: Path
) -> None:
    path, cost = tmp_path / "dictionary.safetensors", Measurement()
    builder = DictionaryBuilder(SETTINGS, tiny_teacher.fingerprint(), "key", path, cost)
    callback = ConfounderDictionaryCallback(builder)
    baseline = Toy(teacher=tiny_teacher, spec=tiny_spec)
    module = SubstitutionModule(baseline, rounds=4, num_images=30, record_from=0.5, log_every=2)
    assert callback.dictionary is None
    job(tmp_path).fit("stage_a", module, epochs=2, state=tmp_path / "state", callbacks=[callback])
    built = callback.dictionary
    assert built is not None
    expected = SETTINGS.fit(predict(tiny_teacher, [baseline.bank]).logits)
    assert torch.equal(built.prototypes, expected.prototypes)
    assert built.provenance["num_predictions"] == 30
    assert built.provenance["data_key"] == "key"
    assert built.provenance["teacher_sha256"] == tiny_teacher.fingerprint()
    assert path.is_file()
    assert cost.seconds > 0
