from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from src.common.errors import UserError
from src.common.files import lock, sha256_tensors
from src.common.measure import Measurement
from src.dataset.contract import ImageSpec
from src.kdci import builder as module
from src.kdci.builder import DictionaryBuilder
from src.kdci.clustering import Clustering, KMeans
from src.kdci.dictionary import ConfounderDictionary, Space
from src.substitution.module import Recording, predict
from src.teacher.frozen import FrozenTeacher
from tests.toys import filled_bank

SETTINGS = KMeans(3)


@pytest.fixture
def recording(tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher) -> Recording:
    return predict(tiny_teacher, [filled_bank(tiny_spec)])


def make(
    folder: Path,
    teacher: FrozenTeacher,
    clustering: Clustering = SETTINGS,
) -> DictionaryBuilder:
    return DictionaryBuilder(
        clustering,
        teacher_sha256=teacher.fingerprint(),
        data_key="key",
        path=folder / "dictionary.safetensors",
        cost=Measurement(),
    )


def test_clusters_features_if_asked(
    tiny_teacher: FrozenTeacher, recording: Recording, tmp_path: Path
) -> None:
    builder = make(tmp_path, tiny_teacher, clustering=replace(SETTINGS, space="features"))
    assert builder.build(recording).prototypes.shape == (3, 8)


def test_reads_what_an_equal_run_has_saved(
    tiny_teacher: FrozenTeacher, recording: Recording, tmp_path: Path
) -> None:
    first = make(tmp_path, tiny_teacher)
    built = first.build(recording)
    marked = replace(built, prototypes=built.prototypes + 1)
    marked.save(first.path)
    second = make(tmp_path, tiny_teacher)
    given = second.obtain(recording).prototypes
    assert torch.equal(given, marked.prototypes)
    assert second.cost.seconds == 0


def test_never_reads_a_dictionary_of_other_predictions(
    tiny_teacher: FrozenTeacher, recording: Recording, tmp_path: Path
) -> None:
    other = recording._replace(logits=recording.logits + 1)
    make(tmp_path, tiny_teacher).build(other)
    given = make(tmp_path, tiny_teacher).obtain(recording).prototypes
    assert torch.equal(given, SETTINGS.fit(recording.logits).prototypes)


def test_a_damaged_dictionary_is_reported_and_built_again(
    tiny_teacher: FrozenTeacher,
    recording: Recording,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = make(tmp_path, tiny_teacher)
    built = first.build(recording)
    whole = first.path.read_bytes()
    first.path.write_bytes(whole[:-7] + bytes([whole[-7] ^ 1]) + whole[-6:])
    assert make(tmp_path, tiny_teacher).read(recording) is None
    (line,) = caplog.messages
    assert line.endswith("has been altered: its checksum differs; it is built again")
    assert str(first.path) in line
    given = make(tmp_path, tiny_teacher).obtain(recording).prototypes
    assert torch.equal(given, built.prototypes)
    assert first.path.read_bytes() == whole


def test_a_dictionary_of_unknown_predictions_is_not_used(
    tiny_teacher: FrozenTeacher, recording: Recording, tmp_path: Path
) -> None:
    builder = make(tmp_path, tiny_teacher)
    sha = tiny_teacher.fingerprint()
    SETTINGS.fit(recording.logits, teacher_sha256=sha).save(builder.path)
    assert builder.read(recording) is None


def test_a_dictionary_of_another_teacher_is_refused(
    tiny_teacher: FrozenTeacher, recording: Recording, tmp_path: Path
) -> None:
    make(tmp_path, tiny_teacher).build(recording)
    tiny_teacher.network.head.bias.data += 1
    with pytest.raises(UserError, match="to be of this teacher"):
        make(tmp_path, tiny_teacher).obtain(recording)


@dataclass(frozen=True)
class Halves(Clustering):
    """As somebody else would write it: the first half and the rest, and no provenance."""

    share: float = 0.5
    metric: object = None
    parts: tuple[int, ...] = (1, 2)

    def fit(
        self, rows: Tensor, logits: Tensor | None = None, **origin: Any
    ) -> ConfounderDictionary:
        parts = rows.split([int(self.share * len(rows)), len(rows) - int(self.share * len(rows))])
        prototypes = torch.stack([part.mean(0) for part in parts])
        prior = torch.tensor([self.share, 1 - self.share])
        return ConfounderDictionary(prototypes, prior, torch.ones(2, 4).long(), {"mine": 1})


@pytest.mark.parametrize("space", ["logits", "features"])
def test_a_clustering_that_notes_no_provenance_is_reused_all_the_same(
    tiny_teacher: FrozenTeacher,
    recording: Recording,
    tmp_path: Path,
    space: Space,
    caplog: pytest.LogCaptureFixture,
) -> None:
    clustering = Halves(2, space=space, metric=object())  # which JSON would not hold
    built = make(tmp_path, tiny_teacher, clustering).build(recording)
    assert built.space == space
    assert built.provenance["mine"] == 1
    second = make(tmp_path, tiny_teacher, clustering)
    found = second.obtain(recording)
    assert torch.equal(found.prototypes, built.prototypes)
    assert found.provenance == built.provenance
    assert second.cost.seconds == 0
    assert caplog.messages == []
    assert make(tmp_path, tiny_teacher, replace(clustering, seed=1)).read(recording) is None


def test_the_provenance_of_ours_is_what_its_fit_has_noted(
    tiny_teacher: FrozenTeacher, recording: Recording, tmp_path: Path
) -> None:
    built = make(tmp_path, tiny_teacher).cluster(recording)
    origin = {
        "teacher_sha256": tiny_teacher.fingerprint(),
        "data_key": "key",
        "predictions_sha256": sha256_tensors(recording.logits),
    }
    assert [*built.provenance.items()] == [
        *SETTINGS.fit(recording.logits, **origin).provenance.items()
    ]


@dataclass(frozen=True)
class Measured(KMeans):
    """K-means of somebody else's, with a field that JSON would not hold."""

    metric: object = None


def test_a_clustering_built_on_ours_may_have_fields_that_are_objects(
    tiny_teacher: FrozenTeacher, recording: Recording, tmp_path: Path
) -> None:
    ours = make(tmp_path, tiny_teacher).cluster(recording)
    clustering = Measured(3, metric=object())
    built = make(tmp_path, tiny_teacher, clustering).build(recording)
    assert built.provenance == ours.provenance
    found = make(tmp_path, tiny_teacher, clustering).read(recording)
    assert found is not None
    assert found.provenance == built.provenance


@dataclass(frozen=True)
class Noting(KMeans):
    """Notes what JSON does not hold."""

    def fit(
        self, rows: Tensor, logits: Tensor | None = None, **origin: Any
    ) -> ConfounderDictionary:
        return super().fit(rows, logits, dtype=rows.dtype, **origin)


def test_provenance_that_could_not_be_written_is_named(
    tiny_teacher: FrozenTeacher, recording: Recording, tmp_path: Path
) -> None:
    builder = make(tmp_path, tiny_teacher, Noting(3))
    with pytest.raises(UserError, match=r"but Noting notes dtype=torch\.float32; .* str\(dtype\)"):
        builder.build(recording)


def test_the_classes_of_clustered_features_are_those_of_the_logits(
    tiny_teacher: FrozenTeacher, recording: Recording, tmp_path: Path
) -> None:
    builder = make(tmp_path, tiny_teacher, clustering=replace(SETTINGS, space="features"))
    counts = builder.cluster(recording).counts
    assert torch.equal(counts.sum(0), recording.logits.argmax(1).bincount(minlength=4))


def test_a_rebuilt_dictionary_need_not_be_saved(
    tiny_teacher: FrozenTeacher, recording: Recording, tmp_path: Path
) -> None:
    assert make(tmp_path, tiny_teacher).cluster(recording).prototypes.shape == (3, 4)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_saved_when_clustering_fails(
    tiny_teacher: FrozenTeacher, recording: Recording, tmp_path: Path
) -> None:
    builder = make(tmp_path, tiny_teacher, clustering=KMeans(1000))
    with pytest.raises(UserError, match="1000 > 40"):
        builder.build(recording)
    assert list(tmp_path.iterdir()) == []


def test_predictions_of_one_class_are_mentioned(
    tiny_teacher: FrozenTeacher,
    recording: Recording,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    builder = make(tmp_path, tiny_teacher)
    logits = recording.logits.index_fill(1, torch.tensor(2), 99)
    builder.cluster(recording._replace(logits=logits))
    (message,) = caplog.messages
    assert f"all {len(recording.logits)} images of the substitution data class 2" in message


def test_they_are_mentioned_again_where_the_dictionary_is_reused(
    tiny_teacher: FrozenTeacher,
    recording: Recording,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    one_class = recording._replace(logits=recording.logits.index_fill(1, torch.tensor(2), 99))
    for _ in range(2):
        make(tmp_path, tiny_teacher).obtain(one_class)
    assert [message for message in caplog.messages if "class 2" in message] == caplog.messages
    assert len(caplog.messages) == 2


def test_no_other_run_touches_the_file_of_a_dictionary_that_is_being_saved(
    tiny_teacher: FrozenTeacher,
    recording: Recording,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    builder, events = make(tmp_path, tiny_teacher), list[str]()

    def noted(name: str, action: Any) -> Any:
        def noting(*args: Any) -> None:
            # Of another process as of another thread, which shares no lock with this one.
            with ThreadPoolExecutor(1) as pool:
                events.append(f"{name} {pool.submit(is_locked, builder.path).result()}")
            action(*args)

        return noting

    save = noted("save", ConfounderDictionary.save)
    remove = noted("remove", module.remove_leftovers)
    monkeypatch.setattr(ConfounderDictionary, "save", save)
    monkeypatch.setattr(module, "remove_leftovers", remove)
    builder.build(recording)
    assert events == ["remove True", "save True"]
    assert not is_locked(builder.path)


def is_locked(path: Path) -> bool:
    try:
        with lock(path, wait=False):
            return False
    except UserError:
        return True


def test_what_others_are_writing_beside_a_dictionary_is_left_alone(
    tiny_teacher: FrozenTeacher, recording: Recording, tmp_path: Path
) -> None:
    builder = make(tmp_path, tiny_teacher)
    own, other = (tmp_path / f".7-0123abcd-{name}" for name in (builder.path.name, "other"))
    own.touch()
    other.touch()
    builder.build(recording)
    assert (own.exists(), other.exists()) == (False, True)
