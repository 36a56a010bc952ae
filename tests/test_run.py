"""Whole runs: what they leave behind, what they reuse, and what they do about trouble."""

import os
import platform
import re
import shlex
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models import inception_v3

from src.common import package
from src.common.divergence import divergence_from_uniform
from src.common.errors import UserError
from src.common.files import sha256_file
from src.common.resume import ResumeCallback
from src.common.sealed import read_sealed, write_sealed
from src.dataset.contract import Split
from src.dataset.digits import Digits
from src.dataset.loader import LabelledBatches
from src.deploy.student import load_student
from src.inside.frechet import FrechetDistance
from src.kdci.adjustment import Adjustment
from src.kdci.dictionary import ConfounderDictionary
from src.pipeline import job as pipeline_job
from src.pipeline.job import Job
from src.pipeline.pictures import evenly_spaced, shown_of_all
from src.report.aggregate import aggregate
from src.report.summary import read_summary
from src.substitution.artifact import Artifact
from src.teacher.evaluate import accuracy
from src.teacher.known import KnownCheckpoint
from tests.smoke import LIMIT, Finished, Smoke
from tests.toys import CPU

BASELINES = sorted(path.stem for path in (package.CONF / "baseline").glob("*.yaml"))
SMALL_POOL = "pool.num_images=300"
# What only a dictionary that is being built can refuse: the width of the features.
TOO_WIDE = ["kdci.dictionary.space=features", "kdci.dictionary.pca_dim=9999"]
KEYS = {
    "": "status error baseline dataset seed budget recipe protocol identity started device "
    "precision world_size checksums finished command host inside_error",
    "identity": "run settings contents code",
    "teacher": "name acc1 seed checkpoint sha256",
    "student": "name",
    "kdci": "name N",
    "acc1": "last best compensated stage_a",
    "substitution": "mode images reused artifact",
    "seconds": "teacher stage_a dictionary stage_b inside total",
    "peak_memory_mb_by_stage": "teacher stage_a dictionary stage_b inside",
    "versions": "python torch lightning faiss-cpu",
    "config": "seed baseline distill kdci",
    "dictionary": "prior inertia",
}


def weights(finished: Finished) -> dict[str, torch.Tensor]:
    return load_file(finished.folder / "student.safetensors")


def assert_same_student(left: Finished, right: Finished) -> None:
    first, second = weights(left), weights(right)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


# The main job, as a user starts it.


def test_the_main_job_leaves_a_complete_record(smoke: Smoke) -> None:
    summary = smoke.default.summary
    for group, keys in KEYS.items():
        assert set(keys.split()) <= (summary[group] if group else summary).keys(), group
    assert summary["peak_memory_mb"] == max(summary["peak_memory_mb_by_stage"].values())
    assert (summary["status"], summary["error"]) == ("finished", None)
    assert (summary["baseline"], summary["dataset"]) == ("dafl", "digits")
    assert (summary["kdci"]["name"], summary["kdci"]["N"]) == ("backdoor", 16)
    assert (summary["budget"], summary["substitution"]["mode"]) == ("smoke", "replay")
    assert (summary["recipe"], summary["protocol"]) == ("dafl_digits", "replay instead of online")
    assert summary["substitution"]["images"] == 256
    assert summary["substitution"]["reused"] is False
    assert len(summary["class_proportions"]) == 10
    assert sum(summary["dictionary"]["prior"]) == pytest.approx(1)
    assert summary["adjustment"] == {"strength": 1.0}
    assert 30 < summary["teacher"]["acc1"] <= 100
    assert summary["acc1"]["compensated"] is not None
    assert summary["acc1"]["last"] <= summary["acc1"]["best"]


def test_the_main_job_shows_where_its_results_lie(smoke: Smoke) -> None:
    shown = smoke.default.stdout
    assert "summary.json" in shown
    assert f"{smoke.default.summary['teacher']['acc1']:.2f}" in shown
    names = {path.name for path in smoke.default.folder.iterdir()}
    assert names >= {"summary.json", "student.safetensors", "student.json", "substitution.png"}
    assert "state" not in names


def test_others_can_read_what_a_run_leaves_as_the_umask_says(smoke: Smoke) -> None:
    os.umask(umask := os.umask(0))
    left = [smoke.default.folder, smoke.cache]
    files = [file for folder in left for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 10
    kept_back = [f for f in files if f.stat().st_mode & 0o777 != 0o666 & ~umask]
    assert kept_back == []


def test_the_main_job_says_nothing_alarming(smoke: Smoke) -> None:
    first = (
        "Recipe: dafl_digits; budget: smoke; protocol: replay instead of online; "
        "precision: 32-true"
    )
    assert smoke.default.stderr.startswith(f"{first}\n")
    expected = (
        "Recipe: ",
        "Training the teacher",
        "Stage (a): making",
        "The teacher calls all 256 images",  # a generator of so few rounds has learned nothing
    )
    for line in smoke.default.stderr.splitlines():
        assert line.startswith(expected), line


def test_the_deployed_student_has_the_accuracy_of_the_record(smoke: Smoke) -> None:
    student, data = load_student(smoke.default.folder), Digits()
    batches = LabelledBatches(data.test(), data.spec, 250, CPU)
    measured = accuracy(student.network, batches)
    assert measured == pytest.approx(smoke.default.summary["acc1"]["last"], abs=1e-4)
    assert student.card["accuracy"]["acc1"] == smoke.default.summary["acc1"]["last"]


def test_the_same_command_again_only_shows_the_result(smoke: Smoke) -> None:
    path = smoke.default.folder / "summary.json"
    before, modified = path.read_bytes(), path.stat().st_mtime_ns
    again = smoke.command(smoke.default.outputs)
    assert (again.exit_code, again.stderr) == (0, "")
    assert again.stdout == smoke.default.stdout
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (before, modified)


# What it looks like from inside.


def inside(finished: Finished) -> dict[str, Any]:
    return read_sealed(finished.folder / "inside.json")


def test_what_was_measured_inside_agrees_with_the_record(smoke: Smoke) -> None:
    found, summary, labels = inside(smoke.default), smoke.default.summary, Digits().test().labels
    keys = "classes fid inception_fid agreement accuracy_per_class prototypes"
    assert found.keys() == set(keys.split())
    assert found["inception_fid"] is None
    counts = torch.bincount(labels, minlength=10).double()
    right = (counts * torch.tensor(found["accuracy_per_class"])).sum() / counts.sum()
    assert right.item() == pytest.approx(summary["acc1"]["last"], abs=1e-4)
    same = (counts * torch.tensor(found["agreement"]["per_class"])).sum() / counts.sum()
    assert same.item() == pytest.approx(found["agreement"]["overall"])
    assert found["classes"]["names"] == list(Digits().class_names)
    assert found["classes"]["substitution"] == summary["class_proportions"]
    assert found["classes"]["original"] == pytest.approx((counts / counts.sum()).tolist())
    assert found["fid"]["extractor"] == "teacher convnet_m, penultimate features"
    assert (found["fid"]["images"], found["fid"]["originals"]) == (256, len(labels))
    assert found["fid"]["value"] > 0
    assert summary["seconds"]["inside"] > 0
    assert summary["inside_error"] is None
    assert all((smoke.default.folder / name).exists() for name in summary["files"].values())


def test_prototypes_are_those_of_the_dictionary(smoke: Smoke) -> None:
    found, summary = inside(smoke.default)["prototypes"], smoke.default.summary
    assert found["prior"] == pytest.approx(summary["dictionary"]["prior"])
    assert sum(found["attention"]) == pytest.approx(1)
    assert [len(rows) for rows in found["nearest"]] == [8] * 16
    assert {row for rows in found["nearest"] for row in rows} <= set(range(256))
    mix = torch.tensor([row or [0.0] * 10 for row in found["classes"]])
    shares = torch.tensor(found["prior"]) @ mix
    # Exactly the shares of the data where k-means has converged.
    assert shares.tolist() == pytest.approx(summary["class_proportions"], abs=0.1)


def test_features_of_the_student_are_kept(smoke: Smoke) -> None:
    kept, test = load_file(smoke.default.folder / "features.safetensors"), Digits().test()
    assert torch.equal(kept["labels"], test.labels)
    network = load_student(smoke.default.folder).network
    batches = LabelledBatches(test, Digits().spec, 360, CPU)
    with torch.no_grad():
        expected = network.embed(next(iter(batches))[0])
    assert kept["features"].dtype == torch.float16
    assert torch.allclose(kept["features"].float(), expected, rtol=1e-2, atol=1e-2)


def test_a_vanilla_run_has_no_prototypes(smoke: Smoke, tmp_path: Path) -> None:
    vanilla = smoke.here(tmp_path, "kdci=none")
    assert "prototypes" not in inside(vanilla)
    assert "prototypes" not in vanilla.summary["files"]
    assert not (vanilla.folder / "prototypes.png").exists()


@pytest.mark.parametrize("option", ["kdci.dictionary.space=features", "kdci.dictionary.pca_dim=3"])
def test_neighbours_are_sought_where_was_clustered(
    smoke: Smoke, tmp_path: Path, option: str
) -> None:
    found = inside(smoke.here(tmp_path, option))["prototypes"]
    assert [len(rows) for rows in found["nearest"]] == [8] * 16


class Means(nn.Module):
    """Stands in for Inception: the mean of each channel."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.facts = {"extractor": f"means of {path.name}"}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.dtype == torch.uint8
        return images.float().mean((2, 3))


def test_the_inception_distance_is_that_of_shown_images_and_shapes_nothing(
    smoke: Smoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.pipeline.inside.Inception", Means)
    monkeypatch.setattr("src.pipeline.inside.DIM", 3)
    finished = smoke.here(tmp_path, "fid.weights=some/weights.pth", "fid.images=100")
    found, substitution = inside(finished)["inception_fid"], finished.summary["substitution"]
    distance, network = FrechetDistance(3), Means(Path())
    banks = Artifact(Path(substitution["artifact"])).read(CPU).banks
    distance.add_images(network(shown_of_all(banks, evenly_spaced(256, 100), Digits().spec)))
    distance.add_originals(network(Digits().test().images[evenly_spaced(360, 100)]))
    assert found == {
        "extractor": "means of weights.pth",
        "value": pytest.approx(distance.value()),
        "images": 100,
        "originals": 100,
        "originals_are": "images of the test split",
        "image_size": Digits().spec.image_size,
    }
    assert substitution["reused"] is True
    assert finished.summary["identity"] == smoke.default.summary["identity"]
    assert_same_student(finished, smoke.default)


@pytest.mark.slow
def test_the_inception_distance_of_random_weights(smoke: Smoke, tmp_path: Path) -> None:
    pytest.importorskip("torch_fidelity")
    network = inception_v3(weights=None, aux_logits=False, num_classes=1008, init_weights=False)
    torch.save(network.state_dict(), path := tmp_path / "weights.pth")
    finished = smoke.here(tmp_path, f"fid.weights={path}", "fid.images=3")
    found = inside(finished)["inception_fid"]
    assert finished.summary["inside_error"] is None
    assert found["weights"] == {"name": "weights.pth", "sha256": sha256_file(path)}
    assert (found["images"], found["originals"]) == (3, 3)
    assert found["value"] >= 0


def test_weights_that_cannot_be_used_are_refused_before_a_teacher_is_trained(
    smoke: Smoke, tmp_path: Path
) -> None:
    refused = smoke.command(tmp_path, "fid.weights=absent_fid.pth", cache=tmp_path / "cache")
    assert refused.exit_code == 2
    assert re.search(r"absent_fid|\[fid\]", refused.complaint())  # the file, or the extra
    assert not (tmp_path / "cache" / "teacher").exists()
    assert not list(tmp_path.rglob("summary.json"))


def test_what_was_fitted_goes_back_to_the_device_of_the_run(
    smoke: Smoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning takes every module to the CPU when its fit ends, with all that lies within."""
    order: list[tuple[str, str]] = []
    cpu, to_device = LightningModule.cpu, Job.to_device

    def left(module: LightningModule) -> LightningModule:
        order.append(("left", type(module).__name__))
        return cpu(module)

    def moved(job: Job, module: nn.Module) -> None:
        order.append(("moved", type(module).__name__))
        to_device(job, module)

    monkeypatch.setattr(LightningModule, "cpu", left)
    monkeypatch.setattr(Job, "to_device", moved)
    smoke.here(tmp_path, "teacher.seed=9")
    fitted = [name for what, name in order if what == "left"]
    assert fitted == ["TeacherModule", "SubstitutionModule", "KDCIStudent"]
    after = [order[order.index(("left", name)) + 1] for name in fitted]
    assert after == [("moved", name) for name in fitted]


def test_a_measure_that_fails_is_reported_and_the_run_is_finished(
    smoke: Smoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = smoke.here(tmp_path)

    def fail(*_: Any) -> None:
        raise RuntimeError("no such\nmeasure")

    with monkeypatch.context() as patch:
        patch.setattr("src.pipeline.inside.class_mix", fail)
        second = smoke.here(tmp_path, "force=true")
    assert second.summary["status"] == "finished"
    assert second.summary["inside_error"] == "RuntimeError: no such measure"
    assert "Looking inside failed (RuntimeError: no such measure; traceback in" in caplog.text
    assert "Looking inside failed" in (second.folder / "run.log").read_text()
    names = {path.name for path in second.folder.iterdir()}
    assert not names & {"inside.json", "prototypes.png", "features.safetensors"}
    assert "in fail" in (second.folder / "traceback_inside.txt").read_text()
    assert_same_student(second, first)
    third = smoke.here(tmp_path, "force=true")
    assert third.summary["inside_error"] is None
    assert not (third.folder / "traceback_inside.txt").exists()


def test_who_typed_what_where_is_recorded_and_shapes_nothing(
    smoke: Smoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = smoke.default.summary
    words = shlex.split(typed["command"])
    assert words[0].startswith("python")
    assert words[1:4] == ["-m", "src.run", "budget=smoke"]
    assert typed["host"] == platform.node()
    assert typed["started"] <= typed["finished"]
    monkeypatch.setattr(platform, "node", lambda: "elsewhere")
    other = smoke.here(tmp_path).summary
    assert (other["host"], other["command"]) == ("elsewhere", None)
    assert other["identity"] == typed["identity"]


def test_the_log_holds_what_the_console_said(smoke: Smoke) -> None:
    lines = (smoke.default.folder / "run.log").read_text().splitlines()
    said = [line.split(" ", 3)[3] for line in lines]
    command = smoke.default.summary["command"]
    assert said == [f"Command: {command}", *smoke.default.stderr.splitlines(), "Finished"]


# What is reused, and what is not.


def test_a_vanilla_run_reuses_stage_a_and_has_no_compensated_accuracy(
    smoke: Smoke, tmp_path: Path
) -> None:
    summary = smoke.here(tmp_path, "kdci=none").summary
    assert summary["substitution"]["reused"] is True
    assert summary["acc1"]["compensated"] is None
    assert summary["dictionary"] is None
    assert summary["kdci"] == {"name": "none", "N": None}


def test_another_dictionary_size_reuses_stage_a(smoke: Smoke, tmp_path: Path) -> None:
    summary = smoke.here(tmp_path, "kdci.N=5").summary
    assert summary["substitution"]["reused"] is True
    assert len(summary["dictionary"]["prior"]) == 5


def test_a_reused_stage_a_gives_the_student_of_a_fresh_one(smoke: Smoke, tmp_path: Path) -> None:
    again = smoke.here(tmp_path)
    assert again.summary["substitution"]["reused"] is True
    assert_same_student(again, smoke.default)


def test_a_repeat_is_another_student_on_the_same_stage_a(smoke: Smoke, tmp_path: Path) -> None:
    first, second = (smoke.here(tmp_path / f"{n}", f"distill.repeat={n}") for n in (1, 2))
    same = ("teacher", "substitution", "dictionary", "seed")
    assert [first.summary[key] for key in same] == [second.summary[key] for key in same]
    assert first.summary["substitution"]["reused"] is True
    ones, others, plain = (weights(each) for each in (first, second, smoke.default))
    for left, right in ((ones, others), (ones, plain)):
        assert any(not torch.equal(left[name], right[name]) for name in left)


def test_a_repeat_pairs_with_its_vanilla_run(smoke: Smoke, tmp_path: Path) -> None:
    for kdci in ("none", "backdoor"):
        smoke.here(
            tmp_path / kdci, f"kdci={kdci}", "distill.repeat=1", "kdci.adjustment.strength=0.0"
        )
    _, compensated = aggregate([read_summary(path) for path in tmp_path.rglob("summary.json")])
    assert (compensated.gain.pairs, compensated.gain.mean) == (1, 0.0)


@pytest.mark.parametrize(
    "powerless",
    [
        ("kdci=backdoor", "kdci.adjustment.strength=0.0"),
        ("kdci=weighting", "kdci.adjustment.gamma=0.0"),
        ("kdci=prior", "kdci.adjustment.strength=0.0"),
        ("kdci=standardisation", "kdci.adjustment.strength=0.0"),
    ],
    ids=lambda options: options[0],
)
@pytest.mark.parametrize("mode", ["replay", pytest.param("online", marks=pytest.mark.slow)])
def test_no_strength_is_the_vanilla_run_bit_for_bit(
    smoke: Smoke, tmp_path: Path, mode: str, powerless: tuple[str, ...]
) -> None:
    mode = f"substitution.mode={mode}"
    vanilla = smoke.here(tmp_path / "vanilla", mode, "kdci=none")
    without = smoke.here(tmp_path / "powerless", mode, *powerless)
    assert_same_student(vanilla, without)
    assert vanilla.summary["acc1"]["last"] == without.summary["acc1"]["last"]


def test_a_rebuilt_dictionary_moves_no_image(smoke: Smoke, tmp_path: Path) -> None:
    online = ["substitution.mode=online", "distill.steps_per_round=1"]
    rebuilt = ["kdci.adjustment.strength=0.0", "kdci.refresh_every=2"]
    vanilla = smoke.here(tmp_path / "vanilla", *online, "kdci=none")
    assert_same_student(smoke.here(tmp_path / "rebuilt", *online, *rebuilt), vanilla)


@pytest.mark.parametrize(
    "automatic",
    [
        ("kdci=weighting", "kdci.adjustment.gamma=auto"),
        ("kdci=prior", "kdci.adjustment.strength=auto"),
        pytest.param(("kdci=backdoor", "kdci.adjustment.strength=auto"), marks=pytest.mark.slow),
        pytest.param(
            ("kdci=standardisation", "kdci.adjustment.strength=auto"), marks=pytest.mark.slow
        ),
    ],
    ids=lambda options: options[0],
)
def test_nothing_automatic_reads_the_test_split(
    smoke: Smoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, automatic: tuple[str, ...]
) -> None:
    options = (*automatic, "kdci.N=auto", "baseline=dafl")
    caches = [smoke.cache_with_teacher(tmp_path / name) for name in ("one", "two")]
    told = smoke.here(tmp_path / "told", *options, cache=caches[0])
    test = Digits().test()
    wrong = Split(test.images.flip(0), torch.zeros_like(test.labels))
    monkeypatch.setattr(Digits, "test", lambda self: wrong)
    misled = smoke.here(tmp_path / "misled", *options, cache=caches[1])
    assert_same_student(told, misled)
    for name in ("adjustment", "dictionary"):
        assert told.summary[name] == misled.summary[name]
    assert told.summary["acc1"]["last"] != misled.summary["acc1"]["last"]


def test_another_seed_makes_other_data_for_the_same_teacher(smoke: Smoke, tmp_path: Path) -> None:
    summary = smoke.here(tmp_path, "seed=1").summary
    assert summary["substitution"]["reused"] is False
    assert summary["teacher"]["sha256"] == smoke.default.summary["teacher"]["sha256"]
    assert summary["substitution"]["artifact"] != smoke.default.summary["substitution"]["artifact"]


def test_a_finished_run_is_skipped_unless_forced(smoke: Smoke, tmp_path: Path) -> None:
    first = smoke.here(tmp_path).folder / "summary.json"
    write_sealed(first, read_sealed(first) | {"error": "marked"})
    assert smoke.here(tmp_path).summary["error"] == "marked"
    assert smoke.here(tmp_path, "force=true").summary["error"] is None


@pytest.mark.parametrize("baseline", BASELINES)
def test_no_method_reads_the_original_training_data(
    smoke: Smoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, baseline: str
) -> None:
    assert smoke.default

    def forbidden(self: Digits) -> None:
        raise AssertionError("the original data")

    monkeypatch.setattr(Digits, "train", forbidden)
    summary = smoke.here(tmp_path, f"baseline={baseline}", SMALL_POOL, "seed=7").summary
    assert (summary["status"], summary["inside_error"]) == ("finished", None)
    assert summary["substitution"]["reused"] is False


@pytest.mark.parametrize("kdci", ["backdoor", "none"])
def test_online_the_baseline_goes_on_with_the_student(
    smoke: Smoke, tmp_path: Path, kdci: str
) -> None:
    options = ["substitution.mode=online", f"kdci={kdci}", "distill.steps_per_round=1"]
    refresh = ["kdci.refresh_every=2"] if kdci == "backdoor" else []
    summary = smoke.here(tmp_path, *options, *refresh).summary
    assert (summary["substitution"]["mode"], summary["inside_error"]) == ("online", None)
    assert (summary["acc1"]["compensated"] is None) == (kdci == "none")


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[ConfounderDictionary]:
    """Every dictionary of images that an adjustment is given, the first of a run included."""
    given: list[ConfounderDictionary] = []
    load = Adjustment.load

    def noting(self: Adjustment, dictionary: ConfounderDictionary) -> None:
        if "data_key" in dictionary.provenance:  # which that of a trial lacks
            given.append(dictionary)
        load(self, dictionary)

    monkeypatch.setattr(Adjustment, "load", noting)
    return given


def test_a_student_meets_the_dictionary_that_was_made_again(
    smoke: Smoke, tmp_path: Path, loaded: list[ConfounderDictionary]
) -> None:
    online = ["substitution.mode=online", "distill.steps_per_round=1"]
    once = smoke.here(tmp_path / "once", *online)
    assert len(loaded) == 1
    again = smoke.here(tmp_path / "again", *online, "kdci.refresh_every=2")
    first, *rebuilt = loaded[1:]
    steps = once.summary["config"]["distill"]["steps_per_epoch"]
    rounds = steps * once.summary["config"]["distill"]["epochs"]
    assert len(rebuilt) == rounds // 2 > 1
    assert not torch.equal(rebuilt[-1].prototypes, first.prototypes)
    with pytest.raises(AssertionError):
        assert_same_student(once, again)


def test_a_dictionary_of_what_a_method_keeps_is_made_again_of_all_of_it(
    smoke: Smoke, tmp_path: Path, loaded: list[ConfounderDictionary]
) -> None:
    online = ["substitution.mode=online", "distill.steps_per_round=1", "kdci.refresh_every=2"]
    smoke.here(tmp_path, "baseline=dfnd", SMALL_POOL, "kdci=prior", *online)
    first, *rebuilt = loaded
    assert rebuilt
    for each in rebuilt:  # DFND's choice of images is made once
        assert torch.equal(each.counts, first.counts)
        torch.testing.assert_close(each.prototypes, first.prototypes)


def test_a_prior_is_of_batches_of_which_each_bank_is_an_equal_part(
    smoke: Smoke, tmp_path: Path
) -> None:
    options = ["baseline=mosaickd", SMALL_POOL, "baseline.subset=100", "kdci=prior"]
    summary = smoke.here(tmp_path, *options).summary
    folder = tmp_path / "cache" / "substitution" / summary["substitution"]["artifact"]
    classes = load_file(folder / "predictions_rank0.safetensors")["logits"].argmax(1)
    sizes = [len(np.load(folder / f"bank{index}_rank0.npy")) for index in (0, 1)]
    assert sizes[0] != sizes[1]
    each = [part.bincount(minlength=10) / len(part) for part in classes.split(sizes)]
    uneven = divergence_from_uniform(torch.stack(each).mean(0).tolist())
    assert summary["adjustment"]["strength"] == pytest.approx(uneven / (uneven + 0.05), rel=1e-5)


def test_other_content_of_a_file_that_an_option_names_makes_another_stage_a(
    smoke: Smoke, tmp_path: Path
) -> None:
    images = tmp_path / "images.npy"
    options = ["baseline=cmi", "kdci=none", f"baseline.initial_images={images}"]
    keys = []
    for name, value in (("first", 0), ("second", 1), ("again", 0)):
        np.save(images, np.full((8, 3, 32, 32), value, np.uint8))
        substitution = smoke.here(tmp_path / name, *options).summary["substitution"]
        keys.append((substitution["artifact"], substitution["reused"]))
    assert keys[0][0] != keys[1][0]
    assert keys[2] == (keys[0][0], True)


# Teachers from elsewhere.


@pytest.fixture
def checkpoint(smoke: Smoke) -> Path:
    """Weights of the trained smoke teacher."""
    return smoke.teacher / "teacher.safetensors"


def test_a_given_teacher_is_measured_and_not_trained(
    smoke: Smoke, tmp_path: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    cache = tmp_path / "cache"
    options = [f"teacher.checkpoint={checkpoint}", "kdci=none"]
    summary = smoke.here(tmp_path, *options, cache=cache).summary
    assert summary["teacher"]["acc1"] == pytest.approx(smoke.default.summary["teacher"]["acc1"])
    assert summary["teacher"]["checkpoint"] == str(checkpoint)
    assert "of 32 pixels a side, normalised by mean 0.305, 0.305, 0.305, std 0." in caplog.text
    assert not (cache / "teacher").exists()


def test_a_teacher_that_does_not_fit_is_refused_before_any_image_is_read(
    smoke: Smoke, tmp_path: Path, checkpoint: Path
) -> None:
    for place in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (tmp_path / "images" / place).mkdir(parents=True)
        (tmp_path / "images" / place / "no_image.png").touch()
    options = ["dataset=image_folder", f"dataset.root={tmp_path / 'images'}", "teacher=wrn16_1"]
    with pytest.raises(UserError, match=r"choose the matching teacher=\.\.\."):
        smoke.here(tmp_path / "outputs", *options, f"teacher.checkpoint={checkpoint}")


def test_other_teacher_weights_make_another_stage_a(
    smoke: Smoke, tmp_path: Path, checkpoint: Path
) -> None:
    state = load_file(checkpoint)
    state["fc.bias"][0] += 1e-3
    save_file(state, tmp_path / "other.safetensors")
    options = [f"teacher.checkpoint={tmp_path / 'other.safetensors'}", "kdci=none"]
    assert smoke.here(tmp_path, *options).summary["substitution"]["reused"] is False


def test_a_teacher_below_its_accuracy_is_reported_or_refused(
    smoke: Smoke, tmp_path: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = [f"teacher.checkpoint={checkpoint}", "teacher.expected_acc1=99.9", "kdci=none"]
    smoke.here(tmp_path / "reported", *options)
    assert "to reach 99.90% on the test split" in caplog.text
    with pytest.raises(UserError, match=r"to reach 99\.90% on .* but it reaches"):
        smoke.here(tmp_path / "refused", *options, "teacher.strict=true")


def test_a_known_checkpoint_brings_its_expected_accuracy(
    smoke: Smoke,
    tmp_path: Path,
    checkpoint: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = KnownCheckpoint(
        network="convnet_m",
        dataset="digits",
        acc1=99.8,
        source="a friend",
        sha256=sha256_file(checkpoint)[:8],
    )
    monkeypatch.setattr("src.teacher.known.known_checkpoints", lambda: (known,))
    caplog.set_level("INFO")
    options = [f"teacher.checkpoint={checkpoint}", "kdci=none", "teacher.strict=true"]
    with pytest.raises(UserError, match=r"to reach 99\.80%"):
        smoke.here(tmp_path / "refused", *options)
    assert "Recognised the checkpoint: convnet_m on digits, a friend" in caplog.text
    smoke.here(tmp_path / "believed", *options, "teacher.expected_acc1=1")


# Interruptions.


class PowerCut(Exception):  # noqa: N818 - it is no error of ours
    """The machine stops."""


def interrupt(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop right after the first saved state of a stage."""

    class Interrupting(ResumeCallback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            super().on_train_epoch_end(trainer, pl_module)
            if type(pl_module).__name__ == stage:
                raise PowerCut

    monkeypatch.setattr(pipeline_job, "ResumeCallback", Interrupting)


@pytest.mark.parametrize("mode", ["replay", "online"])
@pytest.mark.parametrize("stage", ["SubstitutionModule", "KDCIStudent"])
def test_an_interrupted_run_ends_like_one_that_was_not(
    smoke: Smoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, mode: str
) -> None:
    options = [f"substitution.mode={mode}", "substitution.warmup_rounds=4", "seed=3"]
    straight = smoke.here(
        tmp_path / "a", *options, cache=smoke.cache_with_teacher(tmp_path / "cache_a")
    )
    cache = smoke.cache_with_teacher(tmp_path / "cache_b")
    with monkeypatch.context() as patch:
        interrupt(stage, patch)
        with pytest.raises(PowerCut):
            smoke.here(tmp_path / "b", *options, cache=cache)
    cut = Finished(1, "", "", tmp_path / "b")
    assert cut.summary["status"] == "failed"
    assert not (cut.folder / "student.safetensors").exists()
    resumed = smoke.here(tmp_path / "b", *options, cache=cache)
    assert resumed.summary["status"] == "finished"
    assert_same_student(resumed, straight)
    assert resumed.summary["acc1"] == straight.summary["acc1"]
    assert resumed.summary["dictionary"] == straight.summary["dictionary"]
    assert not list(tmp_path.rglob("state"))


def test_a_killed_run_goes_on_when_it_is_started_again(smoke: Smoke, tmp_path: Path) -> None:
    assert smoke.default
    epochs = 12
    options = [f"distill.epochs={epochs}", "distill.steps_per_epoch=20", "kdci=none"]
    deadline = time.monotonic() + LIMIT
    with smoke.start(tmp_path, *options) as process:
        while not list(tmp_path.rglob("state/epoch*_rank0.json")):
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    assert Finished(1, "", "", tmp_path).summary["status"] == "running"
    again = smoke.command(tmp_path, *options)
    assert (again.exit_code, again.summary["status"]) == (0, "finished")
    metrics = {path.name for path in (again.folder / "metrics").iterdir()}
    assert metrics == {"stage_b", "stage_b.1"}
    resumed = (again.folder / "metrics/stage_b.1/metrics.csv").read_text()
    assert len(resumed.splitlines()) < 1 + epochs  # one line an epoch
    said = (again.folder / "run.log").read_text().splitlines()
    assert [" Command: " in line for line in said].count(True) == 2
    assert said[-1].endswith(" INFO Finished")


# Trouble.


def test_a_diverging_student_is_named_and_nothing_is_kept(smoke: Smoke, tmp_path: Path) -> None:
    assert smoke.default
    failed = smoke.command(tmp_path, "distill.optimizer.lr=1e30")
    assert failed.exit_code == 1
    last = failed.stderr.splitlines()[-1]
    assert last.startswith("Error: Loss term 'distillation' is not finite at student step")
    assert "Traceback" not in failed.stderr
    assert (failed.summary["status"], failed.summary["error"]) == ("failed", last[7:])
    assert not list(tmp_path.rglob("student.*"))
    assert not list(tmp_path.rglob("state/*"))


def test_nothing_is_saved_of_a_dictionary_that_cannot_be(smoke: Smoke, tmp_path: Path) -> None:
    cache = smoke.cache_with_teacher(tmp_path / "cache")
    with pytest.raises(UserError, match=r"got 300 > 256 of 256; lower kdci\.N"):
        smoke.here(tmp_path / "first", "kdci.N=300", cache=cache)
    assert not list(cache.rglob("*dictionaries*"))
    assert not list(cache.rglob("artifact.json"))
    assert smoke.here(tmp_path / "second", cache=cache).summary["status"] == "finished"


@pytest.mark.parametrize("name", ["teacher.safetensors", "teacher.json"])
def test_a_damaged_teacher_is_trained_again(
    smoke: Smoke, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    cache = smoke.cache_with_teacher(tmp_path / "cache")
    (path,) = cache.rglob(name)
    content = bytearray(path.read_bytes())
    content[-30] ^= 4
    path.write_bytes(content)
    caplog.set_level("INFO")
    summary = smoke.here(tmp_path / "o", cache=cache).summary
    assert f"damaged: '{path}' has been altered" in caplog.text
    assert summary["teacher"] == smoke.default.summary["teacher"]
    assert summary["acc1"] == smoke.default.summary["acc1"]


BAD_INPUT = {
    "an unknown option": (["kdci=backdor"], "'kdci=backdor'; did you mean 'backdoor'?"),
    "an unknown key": (["distill.epoch=3"], "'distill.epoch'; did you mean 'distill.epochs'?"),
    "no prototype": (["kdci.N=0"], "'kdci.N': expected greater than 0 or 'auto', but got 0"),
    "a wrong type": (["distill.batch_size=many"], "'distill.batch_size': expected"),
    "a missing folder": (
        ["dataset=cifar10", "dataset.root=/nonexistent", "teacher=convnet_s", "student=convnet_s"],
        "/nonexistent",
    ),
    "too many prototypes": (["kdci.N=257"], "but got 257 > 256 by substitution.num_images"),
    "a missing checkpoint": (["teacher.checkpoint=/nonexistent.pt"], "'/nonexistent.pt'"),
    "a hostile target": (["baseline._target_=os.system"], "'baseline._target_=os.system'"),
    "an option that is not there": (["experiments=nothing"], "'experiments=nothing'"),
}


@pytest.mark.parametrize("kind", BAD_INPUT)
def test_bad_input_is_one_line_and_exit_code_2(smoke: Smoke, tmp_path: Path, kind: str) -> None:
    overrides, expected = BAD_INPUT[kind]
    failed = smoke.command(tmp_path / "o", *overrides)
    assert failed.exit_code == 2
    assert expected in failed.complaint()
    assert failed.stdout == ""
    assert all(summary["status"] == "failed" for summary in failed.summaries)
    assert not list((tmp_path / "o").rglob("student.*"))


def test_a_dictionary_that_cannot_be_is_one_line_and_exit_code_2(
    smoke: Smoke, tmp_path: Path
) -> None:
    assert smoke.default
    failed = smoke.command(tmp_path, *TOO_WIDE)
    assert failed.exit_code == 2
    assert failed.stderr.splitlines()[-1].startswith(
        "Error: Expected kdci.dictionary.pca_dim to be below"
    )
    assert "of the predictions, but got 9999" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert failed.summary["status"] == "failed"


# Weights & Biases.


def wandb_runs(folder: Path) -> list[Path]:
    return list(folder.rglob("offline-run-*"))


def test_an_offline_mirror_is_one_run(smoke: Smoke, tmp_path: Path) -> None:
    assert smoke.default
    finished = smoke.command(tmp_path, "logger=wandb", "logger.wandb.mode=offline")
    assert finished.exit_code == 0, finished.stderr
    (run,) = wandb_runs(tmp_path)
    assert run.is_relative_to(finished.folder)
    assert list((run / "files/media").rglob("images*.png"))


class Mirror:
    """Stands in for a W&B run and keeps how it ended."""

    exit_code: int | None = None

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


def test_the_mirror_of_a_failed_run_says_so(
    smoke: Smoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = Mirror()
    monkeypatch.setattr("src.pipeline.run.start_wandb", lambda *_, **__: mirror)
    with pytest.raises(UserError, match="nonexistent"):
        smoke.here(tmp_path, "logger=wandb", "teacher.checkpoint=/nonexistent.pt")
    assert mirror.exit_code == 1
