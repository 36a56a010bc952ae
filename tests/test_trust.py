"""Results are never somebody else's, never damaged, never half: whole runs put to the test."""

import errno
import os
import re
import shutil
import signal
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from src.baseline.dafl import DAFL
from src.common.errors import UserError
from src.common.files import atomic_write
from src.config.check import check
from src.config.node import build
from src.config.schema import RunConfig
from src.dataset.digits import Digits
from src.dataset.image_folder import ImageFolder
from src.deploy.student import load_student
from src.naming import RunName
from src.pipeline import outcome as pipeline_outcome
from src.pipeline import run as pipeline_run
from src.pipeline import stage_a as pipeline_stage_a
from src.pipeline import teacher as pipeline_teacher
from src.pipeline.identify import find, identify
from src.pipeline.job import Job
from src.pipeline.refusals import refuse_misfit, refuse_unfit_networks
from src.pipeline.teacher import prepare_teacher
from src.teacher.checkpoint import save_trained
from src.teacher.evaluate import accuracy
from src.teacher.known import KnownCheckpoint
from tests.compose import plain
from tests.smoke import LIMIT, Finished, Smoke

IMAGE_FOLDER = {"dataset": "image_folder", "baseline": "dafl", "kdci": "backdoor"}


def images(root: Path, *classes: str, seed: int = 0) -> Path:
    """A few small images of every class in both splits."""
    draws = np.random.default_rng(seed)
    for split in ("train", "test"):
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(3):
                pixels = draws.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return root


@pytest.fixture
def cats(tmp_path: Path) -> Path:
    return images(tmp_path / "cats", "cat", "dog")


def folder_config(root: Path, tmp_path: Path, *more: str) -> RunConfig:
    paths = [f"paths.{name}={tmp_path / name}" for name in ("outputs", "cache")]
    chosen = ["dataset=image_folder", f"dataset.root={root}", "teacher=convnet_s", "budget=smoke"]
    return check(plain(*chosen, *paths, *more))


def place(root: Path, tmp_path: Path, *more: str) -> str:
    """Where the run of an image folder would lie."""
    config = folder_config(root, tmp_path, *more)
    found = find(config, RunName(config.task, IMAGE_FOLDER | {"teacher": "convnet_s"}), None)
    return str(found["folder"])


# What does not fit is refused before any image is read.


def test_numbered_classes_need_an_order_where_the_teacher_is_given(tmp_path: Path) -> None:
    root = images(tmp_path / "numbers", *map(str, range(11)))
    weights = tmp_path / "teacher.safetensors"
    given = f"teacher.checkpoint={weights}"
    network = build(folder_config(root, tmp_path).teacher.network, num_classes=11)
    save_file(network.state_dict(), weights)
    with pytest.raises(UserError, match=r"are 0, 1, 10, 2, 3 .* by name, 0, 1, 2, 3, 4 and 6"):
        refuse_misfit(folder_config(root, tmp_path, given))
    for order in ("name", "natural"):
        refuse_misfit(folder_config(root, tmp_path, given, f"dataset.order={order}"))
    refuse_misfit(folder_config(root, tmp_path))


@pytest.mark.parametrize(
    ("names", "is_refused"),
    [(("cat", "dog"), True), (("n01440764", "n02102040"), False), (("0", "1"), False)],
)
def test_a_teacher_of_imagenet_needs_folders_in_its_order(
    names: tuple[str, ...], is_refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "teacher.safetensors"
    config = folder_config(
        images(tmp_path / "data", *names), tmp_path, f"teacher.checkpoint={weights}"
    )
    save_file(build(config.teacher.network, num_classes=2).state_dict(), weights)
    known = KnownCheckpoint(network="convnet_s", dataset="imagenet", acc1=70.0, source="a friend")
    monkeypatch.setattr("src.pipeline.refusals.recognise", lambda path: known)
    if is_refused:
        with pytest.raises(UserError, match=r"WordNet .* but got cat, dog, \.\.\."):
            refuse_misfit(config)
    else:
        refuse_misfit(config)


@pytest.mark.parametrize("baseline", ["dafl", "fast", "cmi", "mosaickd"])
def test_a_size_that_no_generator_makes_is_refused(
    baseline: str, cats: Path, tmp_path: Path
) -> None:
    options = (f"baseline={baseline}", "dataset.image_size=33")
    with pytest.raises(UserError, match=r"'baseline\.generator' .* of 33 x 33 pixels: .* of 4"):
        refuse_misfit(folder_config(cats, tmp_path, *options))
    refuse_misfit(folder_config(cats, tmp_path, *options, "task=teacher"))


@pytest.mark.parametrize("baseline", ["deepinv", "dfnd"])
def test_a_baseline_without_a_generator_makes_any_size(
    baseline: str, cats: Path, tmp_path: Path
) -> None:
    refuse_misfit(folder_config(cats, tmp_path, f"baseline={baseline}", "dataset.image_size=33"))


@pytest.mark.parametrize(
    ("baseline", "options", "said"),
    [
        ("dafl", "substitution.num_images=20", "20 by substitution.num_images"),
        ("fast", "substitution.rounds=2 baseline.batch_size=10", "20 by the rounds of stage"),
        (
            "fast",
            "substitution.mode=online substitution.warmup_rounds=0 baseline.batch_size=20",
            "20 by the rounds of stage (a)",
        ),
        ("cmi", "substitution.rounds=5 baseline.batch_size=4", "20 by the rounds of stage (a)"),
        (
            "deepinv",
            "substitution.rounds=1 trainer.devices=2 baseline.batch_size=20",
            "20 by the rounds of stage (a)",
        ),
        ("dfnd", "pool.num_images=200 baseline.num_select=0.1", "20 by baseline.num_select of"),
        ("dfnd", "pool.num_images=20", "20 by baseline.num_select of a pool of 20"),
        (
            "mosaickd",
            "substitution.num_images=5 pool.num_images=15",
            "5 by substitution.num_images and 15 by baseline.subset of a pool of 15",
        ),
        ("mosaickd", "substitution.num_images=5 pool.num_images=150 baseline.subset=0.1", "5 by"),
    ],
)
def test_more_prototypes_than_there_will_be_images_are_refused(
    baseline: str, options: str, said: str, cats: Path, tmp_path: Path
) -> None:
    config = folder_config(cats, tmp_path, f"baseline={baseline}", *options.split(), "kdci.N=20")
    refuse_misfit(config)
    more = {"kdci": config.kdci.model_copy(update={"N": 21})}
    auto = {"kdci": config.kdci.model_copy(update={"N": "auto"})}
    for other in ({"kdci": None}, auto, more | {"task": "teacher"}):
        refuse_misfit(config.model_copy(update=other))
    with pytest.raises(UserError, match=re.escape(f"but got 21 > {said}")):
        refuse_misfit(config.model_copy(update=more))


@pytest.mark.parametrize(
    ("baseline", "enough", "few", "said"),
    [
        ("dafl", "num_images=2", "num_images=1", "in every bank for .* DAFL records 1 by subst"),
        (
            "dafl",
            "num_images=4 trainer.devices=2",
            "num_images=3 trainer.devices=2",
            "in every bank for each of 2 ranks for .* DAFL records 3 by substitution.num_images",
        ),
        ("dfnd", "num_images=9", "num_images=9 pool.num_images=1", "a pool of 1"),
        (
            "mosaickd",
            "num_images=9 pool.num_images=20 baseline.subset=0.1",
            "num_images=9 pool.num_images=20 baseline.subset=0.05",
            "9 by substitution.num_images and 1 by baseline.subset of a pool of 20",
        ),
    ],
)
@pytest.mark.parametrize("kdci", ["kdci=none", "kdci.N=1"])
def test_too_few_images_to_hold_some_out_are_refused(
    kdci: str, baseline: str, enough: str, few: str, said: str, cats: Path, tmp_path: Path
) -> None:
    def config(options: str, share: float) -> RunConfig:
        held_out = (f"distill.held_out={share}", kdci, f"baseline={baseline}")
        return folder_config(cats, tmp_path, *held_out, *f"substitution.{options}".split())

    refuse_misfit(config(enough, 0.5))
    refuse_misfit(config(few, 0))
    with pytest.raises(UserError, match=rf"{said}.*; have more recorded, or use"):
        refuse_misfit(config(few, 0.5))


def test_a_folder_as_a_pool_is_counted_before_it_is_decoded(cats: Path, tmp_path: Path) -> None:
    pool = ["baseline=dfnd", "dataset@pool=folder_pool", f"pool.root={cats / 'train'}"]
    with pytest.raises(UserError, match=r"but got 7 > 6 by baseline.num_select of a pool of 6"):
        refuse_misfit(folder_config(cats, tmp_path, *pool, "kdci.N=7"))
    assert not (tmp_path / "cache").exists()


def tiny_job(root: Path, tmp_path: Path, *more: str) -> Job:
    """A folder of images that a VGG cannot take."""
    config, cpu = folder_config(root, tmp_path, "dataset.image_size=4", *more), torch.device("cpu")
    return Job(config, tmp_path / "run", build(config.dataset), cpu, identify(config, cpu))


def test_a_teacher_that_cannot_take_the_images_is_refused_where_only_it_is_trained(
    cats: Path, tmp_path: Path
) -> None:
    config = tiny_job(cats, tmp_path, "task=teacher", "teacher=vgg8").config
    with pytest.raises(UserError, match="Cannot use the teacher 'vgg8' on images of 4 pixels"):
        pipeline_run.run_teacher(config, tmp_path / "run")
    assert not (tmp_path / "cache" / "teacher").exists()


def test_where_only_a_teacher_is_trained_student_and_method_do_not_count(
    cats: Path, tmp_path: Path
) -> None:
    options = ("student=vgg8", "baseline=deepinv")
    refuse_unfit_networks(tiny_job(cats, tmp_path, "task=teacher", *options))
    with pytest.raises(UserError, match="Cannot use the student 'vgg8' on images of 4 pixels"):
        refuse_unfit_networks(tiny_job(cats, tmp_path, *options))


def test_networks_whose_stages_cannot_be_compared_are_refused_before_either_is_trained(
    cats: Path, tmp_path: Path
) -> None:
    options = ("dataset.image_size=8", "baseline=zskt", "student=wrn16_1")
    refuse_unfit_networks(tiny_job(cats, tmp_path, *options))  # nobody compares them
    asked = (*options, "baseline.attention_weight=250")
    told = "but got 8x8, 4x4, 2x2, 1x1 of the teacher and 8x8, 4x4, 2x2 of the student"
    config = tiny_job(cats, tmp_path, *asked).config
    name = RunName("distill", IMAGE_FOLDER | {"budget": "smoke"})
    with pytest.raises(UserError, match=told):
        pipeline_run.run(config, tmp_path / "run", name)
    assert not (tmp_path / "cache" / "teacher").exists()
    refuse_unfit_networks(tiny_job(cats, tmp_path, *asked, "teacher=wrn40_2"))


def test_a_last_layer_that_reads_other_channels_is_refused_where_it_weighs_them(
    cats: Path, tmp_path: Path
) -> None:
    networks = ("teacher=mobilenetv2_imagenet", "student=mobilenetv2_imagenet")
    job = tiny_job(cats, tmp_path, "dataset.image_size=32", *networks, "baseline=spaceshipnet")
    with pytest.raises(UserError, match=r"reads the 320 channels .* but it reads 1280 features"):
        refuse_unfit_networks(job)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            ["baseline=spaceshipnet", "+baseline.generator.blocks=1"],
            "Expected baseline.generator.",
        ),
        (
            ["baseline=fast", "baseline.generator._target_=src.network.generator.DeepGenerator"],
            "with baseline.reset_after=",
        ),
        (["baseline=nayer", "baseline.embedding=missing.npy"], "baseline.embedding"),
        (["baseline=cmi", "baseline.initial_images={wrong}"], "baseline.initial_images"),
    ],
)
def test_what_only_the_method_refuses_is_refused_before_the_teacher_is_trained(
    cats: Path, tmp_path: Path, options: list[str], told: str
) -> None:
    np.save(wrong := tmp_path / "wrong.npy", np.zeros((3, 5), np.float32))
    filled = [option.format(wrong=wrong) for option in options]
    job = tiny_job(cats, tmp_path, "dataset.image_size=16", *filled)
    with pytest.raises(UserError, match=told):
        refuse_unfit_networks(job)


def test_a_method_may_refuse_in_words_of_its_own(
    cats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(self: DAFL, **options: Any) -> None:
        raise ValueError("expected another width")

    job = tiny_job(cats, tmp_path, "dataset.image_size=16", "baseline=dafl")
    monkeypatch.setattr(DAFL, "__init__", refusing)
    with pytest.raises(Exception, match="expected another width"):
        refuse_unfit_networks(job)


def test_a_method_that_cannot_be_tried_without_a_teacher_is_not_refused(
    cats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init = DAFL.__init__

    def reading(self: DAFL, **options: Any) -> None:
        init(self, **options)
        self.trust = self.teacher.acc1 / 100  # which nobody has measured yet

    monkeypatch.setattr(DAFL, "__init__", reading)
    refuse_unfit_networks(tiny_job(cats, tmp_path, "dataset.image_size=16", "baseline=dafl"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["kdci=none", "kdci.name=mine"], "Expected kdci.name=none with kdci=none"),
        (["kdci.dictionary.pca_dim=10"], "to be below the width 10 of the predictions"),
    ],
)
def test_what_names_and_classes_tell_is_refused_by_the_command(
    smoke: Smoke, tmp_path: Path, options: list[str], told: str
) -> None:
    failed = smoke.command(tmp_path, *options)
    assert failed.exit_code == 2
    assert told in failed.stderr
    assert len(failed.stderr.splitlines()) == 1
    assert not list(tmp_path.rglob("teacher"))


# A teacher of more classes than the folder has.


def seven_ways(root: Path, tmp_path: Path, text: str) -> tuple[RunConfig, torch.nn.Module]:
    """A folder, a teacher of 7 classes and a class map; the teacher's network."""
    weights, path = tmp_path / "teacher.safetensors", tmp_path / "map.csv"
    path.write_text(text)
    given = [f"teacher.checkpoint={weights}", f"teacher.class_map={path}"]
    config = folder_config(root, tmp_path, *given)
    network = build(config.teacher.network, num_classes=7)
    save_file(network.state_dict(), weights)
    return config, network


@torch.no_grad()
def test_a_class_map_cuts_the_teacher_as_one_would_by_hand(tmp_path: Path) -> None:
    columns = [4, 6, 1]
    root, cpu = images(tmp_path / "data", "ant", "bee", "cat"), torch.device("cpu")
    config, network = seven_ways(root, tmp_path, "cat,1\nant,4\nbee,6\n")
    job = Job(config, tmp_path, build(config.dataset), cpu, identify(config, cpu))
    pixels, labels = next(iter(job.test_batches()))
    # Right on all images in these columns, surer of another class in the whole.
    features, wanted = network.eval().embed(pixels), torch.eye(3)[labels]
    network.head.weight[columns] = torch.linalg.lstsq(features, wanted).solution.T
    network.head.bias.copy_(10.0 * torch.tensor([i not in columns for i in range(7)]))
    assert accuracy(network, job.test_batches()) < 40
    save_file(network.state_dict(), tmp_path / "teacher.safetensors")
    by_hand = build(config.teacher.network, num_classes=3)
    state = network.state_dict()
    cut = {k: v[columns] if k.startswith(network.head_name) else v for k, v in state.items()}
    by_hand.load_state_dict(cut)
    job.to_device(by_hand)
    refuse_misfit(config)
    teacher = prepare_teacher(job)
    assert teacher.acc1 == accuracy(by_hand, job.test_batches()) == 100.0
    assert torch.equal(teacher(pixels).logits, by_hand.eval()(pixels))
    torch.testing.assert_close(
        teacher(pixels).logits, network(pixels)[:, columns], atol=1e-5, rtol=0
    )


def test_a_misfitting_class_map_is_refused_before_any_image_is_read(
    cats: Path, tmp_path: Path
) -> None:
    config, _ = seven_ways(cats, tmp_path, "cat,3\ndog,7\n")
    with pytest.raises(UserError, match="the teacher has 7 outputs, but 'dog' has 7"):
        refuse_misfit(config)


def test_with_a_class_map_no_order_is_in_doubt(tmp_path: Path) -> None:
    root = images(tmp_path / "numbers", "9", "10")
    refuse_misfit(seven_ways(root, tmp_path, "9,0\n10,1\n")[0])


def test_a_changed_class_map_is_another_run(cats: Path, tmp_path: Path) -> None:
    def found(text: str) -> str:
        seven_ways(cats, tmp_path, text)
        files = {"checkpoint": "teacher.safetensors", "class_map": "map.csv"}
        given = [f"teacher.{key}={tmp_path / name}" for key, name in files.items()]
        return place(cats, tmp_path, *given)

    torch.manual_seed(0)
    first = found("cat,3\ndog,5\n")
    torch.manual_seed(0)
    assert found("cat,5\ndog,3\n") != first
    torch.manual_seed(0)
    assert found("cat,3\ndog,5\n") == first


# Identity: what is read counts by its content.


def test_another_folder_is_another_run(cats: Path, tmp_path: Path) -> None:
    cars = images(tmp_path / "cars", "bus", "car", "tram", seed=1)
    assert place(cats, tmp_path) != place(cars, tmp_path)


def test_an_equal_copy_elsewhere_is_the_same_run(cats: Path, tmp_path: Path) -> None:
    copy = images(tmp_path / "copy", "cat", "dog")
    assert place(cats, tmp_path) == place(copy, tmp_path)


def swap_a_file(cats: Path) -> None:
    pixels = np.full((32, 32, 3), 7, dtype=np.uint8)
    Image.fromarray(pixels).save(cats / "train" / "cat" / "1.png")


def rename_a_class(cats: Path) -> None:
    for split in ("train", "test"):
        (cats / split / "dog").rename(cats / split / "wolf")


def add_a_file(cats: Path) -> None:
    Image.new("RGB", (32, 32)).save(cats / "test" / "dog" / "9.png")


@pytest.mark.parametrize("edit", [swap_a_file, rename_a_class, add_a_file])
def test_edited_data_are_another_run(cats: Path, tmp_path: Path, edit: Any) -> None:
    before = place(cats, tmp_path)
    edit(cats)
    assert place(cats, tmp_path) != before


@pytest.mark.parametrize(
    "option",
    [
        "dataset.image_size=8",
        "dataset.keep_aspect=false",
        "dataset.skip_corrupt=true",
        "dataset.mean=[0,0,0] dataset.std=[1,1,1]",
    ],
)
def test_another_view_of_the_data_is_another_teacher(
    cats: Path, tmp_path: Path, option: str
) -> None:
    teachers = [
        place(cats, tmp_path, "task=teacher"),
        place(cats, tmp_path, "task=teacher", *option.split()),
    ]
    assert teachers[0] != teachers[1]


def test_files_that_options_name_count_by_content(
    cats: Path, tmp_path: Path, smoke: Smoke
) -> None:
    banked = tmp_path / "images.npy"
    chosen = ["baseline=cmi", f"baseline.initial_images={banked}"]
    np.save(banked, np.zeros((4, 3, 32, 32), dtype=np.uint8))
    before = place(cats, tmp_path, *chosen)
    np.save(banked, np.ones((4, 3, 32, 32), dtype=np.uint8))
    assert place(cats, tmp_path, *chosen) != before


def test_an_identity_is_remembered_while_nothing_changes(
    cats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not a moment longer: the clock is put an hour ahead, so that all has settled."""
    later = time.time_ns() + 3600 * 10**9
    monkeypatch.setattr("src.common.memory.time.time_ns", lambda: later)
    memory, name = tmp_path / "memory.json", RunName("distill", IMAGE_FOLDER)
    config = folder_config(cats, tmp_path)
    first = find(config, name, memory)
    read = []
    fingerprint = ImageFolder.fingerprint

    def counted(self: ImageFolder) -> str:
        read.append(self)
        return fingerprint(self)

    monkeypatch.setattr(ImageFolder, "fingerprint", counted)
    assert find(config, name, memory) == first
    assert read == []
    time.sleep(0.02)
    add_a_file(cats)
    assert find(config, name, memory) != first
    assert read != []


def test_a_replaced_checkpoint_is_another_run(smoke: Smoke, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    state = load_file(smoke.teacher / "teacher.safetensors")
    save_file(state, path)
    first = smoke.command(tmp_path / "o", f"teacher.checkpoint={path}", "kdci=none")
    assert first.exit_code == 0, first.stderr
    state["fc.bias"][0] += 5
    save_file(state, path)
    smoke.command(tmp_path / "o", f"teacher.checkpoint={path}", "kdci=none")
    old, new = sorted(first.summaries, key=lambda summary: summary["started"])
    assert old["teacher"]["sha256"] != new["teacher"]["sha256"]
    assert old["substitution"]["artifact"] != new["substitution"]["artifact"]


@pytest.mark.parametrize(
    ("module", "fit"),
    [
        pytest.param(pipeline_teacher, "_train", id="teacher", marks=pytest.mark.slow),
        pytest.param(pipeline_stage_a, "_fit", id="stage_a"),
        pytest.param(pipeline_run, "train_student", id="stage_b"),
    ],
)
def test_data_that_change_meanwhile_leave_no_result(
    module: ModuleType, fit: str, smoke: Smoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    if module is not pipeline_teacher:
        smoke.cache_with_teacher(cache)
    train = getattr(module, fit)

    with monkeypatch.context() as patch:

        def edited_meanwhile(*arguments: Any) -> Any:
            trained = train(*arguments)
            patch.setattr(Digits, "fingerprint", lambda self: "edited")
            return trained

        patch.setattr(module, fit, edited_meanwhile)
        with pytest.raises(UserError, match="content of dataset to stay as it was"):
            smoke.here(tmp_path / "run", cache=cache)
    assert not [*tmp_path.rglob("student.*"), *tmp_path.rglob("state")]
    assert module is pipeline_run or not list(cache.rglob("dictionaries"))
    # With the data as they were, nothing is taken up that was made of others.
    again = smoke.here(tmp_path / "run", cache=cache).summary
    assert again["resumed"] == []
    assert again["acc1"] == smoke.default.summary["acc1"]


# Damage: what we made is made again, with a line that says why.


def flip(path: Path, position: int = -40) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 16
    path.write_bytes(content)


def test_damaged_substitution_data_are_made_again(
    smoke: Smoke, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = smoke.cache_with_teacher(tmp_path / "cache")
    smoke.here(tmp_path / "first", cache=cache)
    names = ["bank0_rank0.npy", "predictions_rank0.safetensors", "baseline_rank0.pt"]
    for number, name in enumerate([*names, "artifact.json"]):
        (path,) = cache.rglob(name)
        flip(path)
        caplog.clear()
        again = smoke.here(tmp_path / f"again{number}", cache=cache)
        assert f"is damaged: '{path}' " in caplog.text
        assert again.summary["substitution"]["reused"] is False
        assert again.summary["acc1"] == smoke.default.summary["acc1"]


def test_a_damaged_dictionary_is_built_again(
    smoke: Smoke, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = smoke.cache_with_teacher(tmp_path / "cache")
    first = smoke.here(tmp_path / "first", cache=cache)
    (path,) = cache.rglob("dictionaries/*.safetensors")
    flip(path)
    again = smoke.here(tmp_path / "again", cache=cache)
    assert str(path) in caplog.text
    assert again.summary["dictionary"] == first.summary["dictionary"]


@pytest.mark.parametrize(
    "name",
    [
        "summary.json",
        pytest.param("student.json", marks=pytest.mark.slow),
        pytest.param("student.safetensors", marks=pytest.mark.slow),
    ],
)
def test_a_finished_run_that_is_damaged_is_made_again(
    smoke: Smoke, tmp_path: Path, name: str
) -> None:
    assert smoke.default  # whose record says that it made what this one reuses
    first = smoke.command(tmp_path, "kdci=none")
    before = (first.folder / "student.safetensors").read_bytes()
    flip(first.folder / name)
    if name != "summary.json":
        with pytest.raises(UserError, match=re.escape(name)):
            load_student(first.folder)
    again = smoke.command(tmp_path, "kdci=none")
    assert again.exit_code == 0
    assert name in again.stderr
    assert "made again" in again.stderr
    assert (again.folder / "student.safetensors").read_bytes() == before


# Nothing half.


def test_work_is_kept_until_its_result_is_written(
    smoke: Smoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert smoke.default

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline_outcome, "save_student", full)
        with pytest.raises(OSError, match="No space"):
            smoke.here(tmp_path)
    assert Finished(1, "", "", tmp_path).summary["status"] == "failed"
    assert list(tmp_path.rglob("state/epoch2_rank0.pt"))
    again = smoke.here(tmp_path)
    assert again.summary["acc1"] == smoke.default.summary["acc1"]
    assert not list(tmp_path.rglob("state"))


def test_a_forced_run_that_fails_leaves_the_old_result(
    smoke: Smoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = smoke.here(tmp_path)
    kept = (first.folder / "summary.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(pipeline_run, "train_student", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            smoke.here(tmp_path, "force=true")
    assert (first.folder / "summary.previous.json").read_bytes() == kept
    assert load_student(first.folder)
    again = smoke.here(tmp_path, "force=true")
    assert again.summary["acc1"] == smoke.default.summary["acc1"]
    assert not (first.folder / "summary.previous.json").exists()


def test_what_nobody_has_foreseen_keeps_its_traceback(
    smoke: Smoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_run, "train_student", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        smoke.here(tmp_path)
    (note,) = caught.value.__notes__
    (path,) = tmp_path.rglob("traceback.txt")
    assert str(path) in note
    assert "ZeroDivisionError" in path.read_text()


@pytest.mark.parametrize("steps", ["distill.steps_per_epoch=1", "distill.steps_per_epoch=3"])
def test_a_student_that_is_not_finite_is_no_result(
    smoke: Smoke, tmp_path: Path, steps: str
) -> None:
    options = ["distill.optimizer.lr=1e30", "distill.epochs=1", steps]
    with pytest.raises(FloatingPointError, match="Lower the learning rate"):
        smoke.here(tmp_path, *options)
    assert Finished(1, "", "", tmp_path).summary["status"] == "failed"
    assert not list(tmp_path.rglob("student.*"))


# Disks.


def test_a_disk_that_is_full_is_named(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_write(tmp_path / "folder" / "file"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match=r"Cannot write '.*/folder/file' \(No space left on dev"):
        write()
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_writer_that_does_not_say_why_is_asked_by_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write() -> None:
        with atomic_write(tmp_path / "file"):
            raise RuntimeError("file write failed")

    with pytest.raises(RuntimeError, match="file write failed"):
        write()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left on device"):
        write()


@pytest.mark.parametrize("folder", ["outputs", pytest.param("cache", marks=pytest.mark.slow)])
def test_a_file_where_a_folder_should_be_is_one_line(
    smoke: Smoke, tmp_path: Path, folder: str
) -> None:
    (tmp_path / "occupied").write_text("")
    overrides = [f"paths.{folder}={tmp_path / 'occupied'}"]
    failed = smoke.command(tmp_path / "o", *overrides, cache=smoke.cache)
    assert failed.exit_code == 2
    assert str(tmp_path / "occupied") in failed.stderr.splitlines()[-1]
    assert "Traceback" not in failed.stderr


# Signals.


RANKS = [pytest.mark.slow, pytest.mark.ddp, pytest.mark.xdist_group("ranks")]


@pytest.mark.parametrize(
    ("number", "code", "trainer"),
    [
        (signal.SIGTERM, 143, "trainer=default"),
        pytest.param(signal.SIGINT, 130, "trainer=default", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, "trainer=ddp_cpu", marks=RANKS),
    ],
)
def test_a_stopped_run_says_so_and_goes_on(
    smoke: Smoke, tmp_path: Path, number: signal.Signals, code: int, trainer: str
) -> None:
    assert smoke.default
    options = [trainer, "distill.epochs=12", "distill.steps_per_epoch=20", "kdci=none"]
    deadline = time.monotonic() + LIMIT
    with smoke.start(tmp_path, *options) as process:
        while not list(tmp_path.rglob("state/epoch*_rank0.json")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        asked = time.monotonic()
        _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == code
    assert time.monotonic() - asked < 30  # after which torch kills ranks that have not ended
    line = f"Error: Stopped by {number.name}; the same command goes on from what is saved"
    assert said.splitlines()[-1] == line
    assert "Traceback" not in said
    assert "death signal" not in said  # torch's word to whoever started ranks
    summary = Finished(1, "", "", tmp_path).summary
    assert (summary["status"], summary["error"]) == ("interrupted", line.removeprefix("Error: "))
    again = smoke.command(tmp_path, *options)
    assert (again.exit_code, again.summary["status"]) == (0, "finished")


# What a run asks for is asked of what it reuses, too.


def test_a_reused_teacher_that_has_seen_test_images_is_refused_where_asked(
    cats: Path, tmp_path: Path
) -> None:
    def reuse(*more: str) -> float:
        job = tiny_job(cats, tmp_path, *more)
        folder = job.cache / "teacher" / f"convnet_s_{job.identity.teacher[:12]}"
        if not folder.exists():
            save_trained(job.network(job.config.teacher.network), folder, 90.0, "convnet_s")
        return prepare_teacher(job).acc1

    assert reuse("dataset.allow_overlap=false") == 90.0
    shutil.copy(cats / "train" / "cat" / "0.png", cats / "test" / "cat" / "9.png")
    assert reuse() == 90.0
    with pytest.raises(UserError, match=r"1 test images .* remove them or set allow_overlap=true"):
        reuse("dataset.allow_overlap=false")


# Whole folders can be swapped, too.


def test_a_whole_teacher_in_another_ones_place_is_not_used(
    smoke: Smoke, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = smoke.cache_with_teacher(tmp_path / "cache")
    smoke.here(tmp_path / "other", "teacher.seed=1", cache=cache)
    own = cache / "teacher" / smoke.teacher.name
    (other,) = (path for path in (cache / "teacher").glob("*/") if path != own)
    shutil.rmtree(own)
    other.rename(own)
    again = smoke.here(tmp_path / "again", cache=cache)
    assert "is not of" in caplog.text
    assert again.summary["teacher"] == smoke.default.summary["teacher"]


def test_whole_substitution_data_in_anothers_place_are_not_used(
    smoke: Smoke, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = smoke.cache_with_teacher(tmp_path / "cache")
    folders = [
        Path(
            smoke.here(tmp_path / seed, f"seed={seed}", cache=cache).summary["substitution"][
                "artifact"
            ]
        )
        for seed in ("0", "1")
    ]
    shutil.rmtree(folders[0])
    folders[1].rename(folders[0])
    again = smoke.here(tmp_path / "again", cache=cache)
    assert "is not of" in caplog.text
    assert again.summary["substitution"]["reused"] is False
    assert again.summary["acc1"] == smoke.default.summary["acc1"]


def test_what_was_left_beside_finished_work_is_removed(smoke: Smoke, tmp_path: Path) -> None:
    teacher = smoke.teacher
    finished = smoke.command(tmp_path / "run")
    stage_a = Path(finished.summary["substitution"]["artifact"])
    places = [finished.folder, teacher, stage_a]
    for place in places:
        (place / "state").mkdir()
    assert smoke.command(tmp_path / "run").summary["acc1"] == finished.summary["acc1"]
    assert smoke.here(tmp_path / "another", "distill.epochs=2").summary["substitution"]["reused"]
    assert [place for place in places if (place / "state").exists()] == []


@pytest.mark.slow
def test_a_whole_run_in_another_ones_place_is_not_shown(smoke: Smoke, tmp_path: Path) -> None:
    assert smoke.default  # whose record says that it made what these reuse
    runs = [smoke.command(tmp_path / n, "kdci=none", f"seed={n}") for n in ("0", "1")]
    other = runs[1].folder
    shutil.rmtree(runs[0].folder)
    own = tmp_path / "0" / "digits_dafl_none" / "0"
    lock = next(own.parent.glob("*.lock"))
    own = lock.with_suffix("")
    other.rename(own)
    again = smoke.command(tmp_path / "0", "kdci=none", "seed=0")
    assert "is of another run; it is made again" in again.stderr
    assert again.summary["seed"] == 0
