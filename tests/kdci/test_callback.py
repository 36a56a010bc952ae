from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from src.common.errors import UserError
from src.common.measure import Measurement
from src.dataset.contract import ImageSpec
from src.kdci.callback import ConfounderDictionaryCallback
from src.kdci.dictionary import ConfounderDictionary, DictionarySettings, fit_dictionary
from src.substitution.batches import ReplayBatches
from src.substitution.module import Recording, SubstitutionModule, predict
from src.teacher.frozen import FrozenTeacher
from tests.toys import Toy, dictionary, filled_bank, job, kdci_student, labelled, student

SETTINGS = DictionarySettings(3)


@pytest.fixture
def recording(tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher) -> Recording:
    return predict(tiny_teacher, [filled_bank(tiny_spec)])


def make(
    folder: Path,
    teacher: FrozenTeacher,
    recording: Recording | None = None,
    settings: DictionarySettings = SETTINGS,
) -> ConfounderDictionaryCallback:
    return ConfounderDictionaryCallback(
        settings,
        teacher_sha256=teacher.fingerprint(),
        data_key="key",
        path=folder / "dictionary.safetensors",
        cost=Measurement(),
        recording=recording,
    )


def start_stage_b(callback: ConfounderDictionaryCallback, module: Any) -> Tensor:
    """What the student is given at the start of its fit."""
    unused: Any = None
    callback.on_fit_start(unused, module)
    prototypes: Tensor = module.compensation.prototypes
    return prototypes


def test_clusters_all_substitution_data_at_the_end_of_stage_a(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, tmp_path: Path
) -> None:
    callback = make(tmp_path, tiny_teacher)
    baseline = Toy(teacher=tiny_teacher, spec=tiny_spec)
    module = SubstitutionModule(baseline, rounds=4, num_images=30, record_from=0.5, log_every=2)
    job(tmp_path).fit("stage_a", module, epochs=2, state=tmp_path / "state", callbacks=[callback])
    built = callback.dictionary
    assert built is not None
    expected = fit_dictionary(predict(tiny_teacher, [baseline.bank]).logits, SETTINGS)
    assert torch.equal(built.prototypes, expected.prototypes)
    assert built.provenance["num_predictions"] == 30
    assert built.provenance["data_key"] == "key"
    assert built.provenance["teacher_sha256"] == tiny_teacher.fingerprint()
    assert (tmp_path / "dictionary.safetensors").is_file()
    assert callback.cost.seconds > 0


def test_hands_over_at_the_start_of_stage_b(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, recording: Recording, tmp_path: Path
) -> None:
    callback = make(tmp_path, tiny_teacher, recording)
    module = kdci_student(tiny_spec, tiny_teacher)
    batches = ReplayBatches(recording.banks, batch_size=8, steps=2, seed=0)
    job(tmp_path).fit(
        "stage_b",
        module,
        epochs=1,
        state=tmp_path / "state",
        batches=batches,
        test=labelled(tiny_spec),
        callbacks=[callback],
    )
    expected = fit_dictionary(recording.logits, SETTINGS)
    assert torch.equal(module.compensation.prototypes, expected.prototypes)
    assert torch.equal(module.compensation.prior, expected.prior)


def test_clusters_features_if_asked(
    tiny_teacher: FrozenTeacher, recording: Recording, tmp_path: Path
) -> None:
    callback = make(tmp_path, tiny_teacher, settings=replace(SETTINGS, space="features"))
    assert callback.build(recording).prototypes.shape == (3, 8)


def test_reads_what_an_equal_run_has_saved(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, recording: Recording, tmp_path: Path
) -> None:
    first = make(tmp_path, tiny_teacher, recording)
    built = first.build(recording)
    marked = ConfounderDictionary(built.prototypes + 1, built.prior, built.provenance)
    marked.save(first.path)
    second = make(tmp_path, tiny_teacher, recording)
    given = start_stage_b(second, kdci_student(tiny_spec, tiny_teacher))
    assert torch.equal(given, marked.prototypes)
    assert second.cost.seconds == 0


def test_never_reads_a_dictionary_of_other_predictions(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, recording: Recording, tmp_path: Path
) -> None:
    other = recording._replace(logits=recording.logits + 1)
    make(tmp_path, tiny_teacher).build(other)
    given = start_stage_b(
        make(tmp_path, tiny_teacher, recording), kdci_student(tiny_spec, tiny_teacher)
    )
    assert torch.equal(given, fit_dictionary(recording.logits, SETTINGS).prototypes)


def test_a_damaged_dictionary_is_reported_and_built_again(
    tiny_spec: ImageSpec,
    tiny_teacher: FrozenTeacher,
    recording: Recording,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = make(tmp_path, tiny_teacher, recording)
    built = first.build(recording)
    whole = first.path.read_bytes()
    first.path.write_bytes(whole[:-7] + bytes([whole[-7] ^ 1]) + whole[-6:])
    assert make(tmp_path, tiny_teacher).read(recording) is None
    (line,) = caplog.messages
    assert line.endswith("has been altered: its checksum differs; it is built again")
    assert str(first.path) in line
    given = start_stage_b(
        make(tmp_path, tiny_teacher, recording), kdci_student(tiny_spec, tiny_teacher)
    )
    assert torch.equal(given, built.prototypes)
    assert first.path.read_bytes() == whole


def test_a_dictionary_of_unknown_predictions_is_not_used(
    tiny_teacher: FrozenTeacher, recording: Recording, tmp_path: Path
) -> None:
    callback = make(tmp_path, tiny_teacher)
    sha = tiny_teacher.fingerprint()
    fit_dictionary(recording.logits, SETTINGS, teacher_sha256=sha).save(callback.path)
    assert callback.read(recording) is None


def test_a_dictionary_of_another_teacher_is_refused(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, recording: Recording, tmp_path: Path
) -> None:
    make(tmp_path, tiny_teacher).build(recording)
    tiny_teacher.network.head.bias.data += 1
    with pytest.raises(UserError, match="to be of this teacher"):
        start_stage_b(
            make(tmp_path, tiny_teacher, recording), kdci_student(tiny_spec, tiny_teacher)
        )


def test_a_dictionary_that_was_built_is_kept(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, tmp_path: Path
) -> None:
    callback = make(tmp_path, tiny_teacher)
    callback.dictionary = dictionary()
    given = start_stage_b(callback, kdci_student(tiny_spec, tiny_teacher))
    assert torch.equal(given, callback.dictionary.prototypes)
    assert list(tmp_path.iterdir()) == []


def test_a_rebuilt_dictionary_need_not_be_saved(
    tiny_teacher: FrozenTeacher, recording: Recording, tmp_path: Path
) -> None:
    make(tmp_path, tiny_teacher).build(recording, save=False)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_saved_when_clustering_fails(
    tiny_teacher: FrozenTeacher, recording: Recording, tmp_path: Path
) -> None:
    callback = make(tmp_path, tiny_teacher, settings=DictionarySettings(1000))
    with pytest.raises(UserError, match="1000 > 40"):
        callback.build(recording)
    assert list(tmp_path.iterdir()) == []


def test_stage_b_without_stage_a_is_a_mistake_in_the_program(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match=r"stage \(a\) or its recording"):
        start_stage_b(make(tmp_path, tiny_teacher), kdci_student(tiny_spec, tiny_teacher))


def test_leaves_a_vanilla_student_alone(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, recording: Recording, tmp_path: Path
) -> None:
    callback = make(tmp_path, tiny_teacher, recording)
    unused: Any = None
    callback.on_fit_start(unused, student(tiny_spec, tiny_teacher))
    callback.on_train_end(unused, student(tiny_spec, tiny_teacher))
    assert callback.dictionary is None
