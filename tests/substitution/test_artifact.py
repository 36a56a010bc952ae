import os
from pathlib import Path

import numpy as np
import pytest
import torch

from src.common.errors import UserError
from src.common.sealed import read_sealed, write_sealed
from src.dataset.contract import ImageSpec
from src.substitution.artifact import Artifact, ArtifactInfo
from src.substitution.image_bank import stores_of
from src.substitution.module import Recording, predict
from src.teacher.frozen import FrozenTeacher
from tests.toys import CPU, Storing, Toy, states_equal


@pytest.fixture
def toy(tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher) -> Toy:
    """A method that has made 40 images."""
    baseline = Toy(teacher=tiny_teacher, spec=tiny_spec)
    for _ in range(4):
        baseline.refresh(None)
        baseline.harvest(10)
    return baseline


@pytest.fixture
def recording(toy: Toy, tiny_teacher: FrozenTeacher) -> Recording:
    return predict(tiny_teacher, toy.substitution_data())


@pytest.fixture
def artifact(toy: Toy, recording: Recording, tmp_path: Path) -> Artifact:
    written = Artifact(tmp_path / "substitution" / "0123abcd")
    written.write(toy, recording, {"confident": 0.5}, acc1_stage_a=80.0)
    return written


def test_what_is_read_is_what_was_written(artifact: Artifact, recording: Recording) -> None:
    read = artifact.read(CPU)
    assert torch.equal(read.logits, recording.logits)
    assert torch.equal(read.features, recording.features)
    (bank,), (written,) = read.banks, recording.banks
    assert torch.equal(bank.images, written.images)
    assert bank.description() == written.description()


def test_the_description_says_what_lies_there(artifact: Artifact, recording: Recording) -> None:
    info = artifact.info()
    assert info == ArtifactInfo(
        key="0123abcd",
        images=40,
        world_size=1,
        data_sha256=info.data_sha256,
        class_proportions=info.class_proportions,
        losses={"confident": 0.5},
        acc1_stage_a=80.0,
    )
    counts = torch.bincount(recording.logits.argmax(1), minlength=4)
    assert info.class_proportions == pytest.approx((counts / 40).tolist())


def test_a_state_that_could_not_be_read_is_refused_before_the_description(
    toy: Toy, recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Toy, "get_extra_state", lambda toy: {"recent": np.float32(1)})
    with pytest.raises(UserError, match="Expected a state of tensors"):
        Artifact(tmp_path / "a").write(toy, recording, {}, None)
    assert not Artifact(tmp_path / "a").exists()


def test_an_artifact_exists_when_it_is_complete(
    toy: Toy, recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = Artifact(tmp_path / "a")
    assert not artifact.exists()

    def power_cut(path: Path, stored: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("src.substitution.artifact.write_sealed", power_cut)
    with pytest.raises(KeyboardInterrupt):
        artifact.write(toy, recording, {}, None)
    assert len(list((tmp_path / "a").iterdir())) == 3
    assert not artifact.exists()
    monkeypatch.undo()
    artifact.write(toy, recording, {}, None)
    assert artifact.exists()


def test_the_disk_has_the_shard_before_the_description(
    toy: Toy, recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []

    def fsync(handle: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{handle}").resolve().name)

    monkeypatch.setattr(os, "fsync", fsync)
    Artifact(tmp_path / "a").write(toy, recording, {}, None)
    *shard, description, folder = flushed
    assert sorted(shard) == sorted(FILES[1:])
    assert description.endswith("artifact.json")
    assert folder == "a"


def test_a_method_can_go_on_from_it(
    artifact: Artifact, toy: Toy, tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher
) -> None:
    other = Toy(teacher=tiny_teacher, spec=tiny_spec)
    artifact.restore(other, artifact.read(torch.device("cpu")))
    assert states_equal(other, toy)
    assert torch.equal(other.bank.images, toy.bank.images)
    for baseline in (toy, other):
        torch.manual_seed(3)
        baseline.refresh(None)
    assert states_equal(other, toy)


@pytest.mark.parametrize("mapped_above", [10**9, 0])
def test_a_method_with_a_store_goes_on_from_what_was_written_of_it(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, tmp_path: Path, mapped_above: int
) -> None:
    toy, other = (Storing(teacher=tiny_teacher, spec=tiny_spec) for _ in range(2))
    other.store.mapped_above = mapped_above
    toy.refresh(None)
    toy.harvest(10)
    artifact, stores = Artifact(tmp_path / "a"), stores_of(toy)
    artifact.write(toy, predict(tiny_teacher, [toy.bank]), {}, None, stores)
    assert artifact.damage() is None
    artifact.restore(other, artifact.read(CPU), stores_of(other))
    for baseline in (toy, other):
        torch.manual_seed(3)
        baseline.refresh(None)
    assert torch.equal(other.store.rows, toy.store.rows)
    (artifact.folder / "store0_rank0.npy").write_bytes(b"edited")
    assert "store0_rank0.npy" in str(artifact.damage())


FILES = ["artifact.json", "bank0_rank0.npy", "predictions_rank0.safetensors", "baseline_rank0.pt"]


def test_a_whole_artifact_is_not_damaged(artifact: Artifact) -> None:
    assert artifact.damage() is None


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "truncated", "random", "flipped"])
def test_damage_is_named(artifact: Artifact, name: str, damage: str) -> None:
    path = artifact.folder / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[:-9])
    elif damage == "random":
        path.write_bytes(bytes(range(256)))
    else:
        middle = len(content) // 2
        flipped = bytes([content[middle] ^ 1])
        path.write_bytes(content[:middle] + flipped + content[middle + 1 :])
    found = artifact.damage()
    assert found is not None
    assert name in found


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"banks": [], "seal": 1}'])
def test_a_damaged_description_is_named(artifact: Artifact, content: str) -> None:
    (artifact.folder / "artifact.json").write_text(content)
    found = artifact.damage()
    assert found is not None
    assert "artifact.json" in found


def test_what_cannot_be_read_is_refused_with_the_way_out(artifact: Artifact, toy: Toy) -> None:
    for path in artifact.folder.glob("*_rank0*"):
        path.unlink()
    for action in (
        lambda: artifact.read(CPU),
        lambda: artifact.restore(toy, Recording([], torch.empty(0), torch.empty(0))),
    ):
        with pytest.raises(UserError, match=r"Cannot read .* \(\w+: .*\); delete the folder"):
            action()


def test_an_artifact_of_several_ranks_is_not_read_by_one(artifact: Artifact) -> None:
    path = artifact.folder / "artifact.json"
    write_sealed(path, read_sealed(path) | {"world_size": 2})
    with pytest.raises(UserError, match="written by 1 ranks, but it was written by 2"):
        artifact.read(CPU)
