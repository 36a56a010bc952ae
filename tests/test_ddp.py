"""Two gloo processes: the collectives, and whole runs."""

import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from src.common.package import CONF, ROOT
from src.common.sealed import digest_file, read_sealed
from src.kdci.clustering import KMeans
from tests.chaos.traces import words_of
from tests.smoke import LIMIT, Smoke, on_two_ranks
from tests.two_ranks import banks, in_banks, maps, network, normalised, norms, rows

pytestmark = [pytest.mark.ddp, pytest.mark.xdist_group("ranks")]
TOO_WIDE = ["kdci.dictionary.space=features", "kdci.dictionary.pca_dim=9999"]
DDP = ["trainer=ddp_cpu", "trainer.progress=false", "pool.num_images=300"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What ``tests/two_ranks.py`` finds on rank 0 and on rank 1."""
    folder = tmp_path_factory.mktemp("ranks")
    return on_two_ranks("tests.two_ranks", folder)


def test_ranks_know_each_other(found: list[dict[str, Any]]) -> None:
    assert [rank["identity"] for rank in found] == [(0, 2), (1, 2)]


def test_rows_of_unequal_counts_are_gathered_in_rank_order(found: list[dict[str, Any]]) -> None:
    for rank in found:
        assert torch.equal(rank["rows"], torch.cat([rows(0), rows(1)]))
        assert rank["labels"].tolist() == [0, 1, 2]  # rank 0 has none


def test_sums_and_objects_reach_both(found: list[dict[str, Any]]) -> None:
    for rank in found:
        assert rank["sum"].tolist() == [2.0, 1.0]
        assert rank["object"] == {"rank": 0}


def test_rank_zero_decides_and_both_hear_of_its_failures(found: list[dict[str, Any]]) -> None:
    assert [rank["value"] for rank in found] == [("decided by", 0)] * 2
    assert [rank["user_error"] for rank in found] == [("UserError", "lower kdci.N")] * 2
    assert [rank["key_error"][0] for rank in found] == ["KeyError", "RuntimeError"]
    assert "rank 0 failed with KeyError" in found[1]["key_error"][1]
    assert [rank["after"] for rank in found] == ["still in step"] * 2


def test_gradients_are_the_mean_over_ranks(found: list[dict[str, Any]]) -> None:
    module = network(0).train(False)
    losses = [module(rows(rank)).square().mean() for rank in range(2)]
    ((losses[0] + losses[1]) / 2).backward()
    for rank in found:
        for gradient, parameter in zip(rank["gradients"], module.parameters(), strict=True):
            torch.testing.assert_close(gradient, parameter.grad)


def test_networks_and_statistics_become_those_of_rank_zero(found: list[dict[str, Any]]) -> None:
    expected = network(0)
    for rank in found:
        for name, tensor in expected.state_dict().items():
            assert torch.equal(rank["whole"][name], tensor)
        assert rank["weight_untouched"]
    expected[1](rows(0))
    for name, tensor in expected.named_buffers():
        assert torch.equal(found[1]["buffers"][name], tensor)


def test_a_difference_between_ranks_is_found_on_both(found: list[dict[str, Any]]) -> None:
    assert found[0]["checksum"] == found[1]["checksum"]
    for rank in found:
        kind, message = rank["difference"]
        assert kind == "RuntimeError"
        assert "Expected equal things on all ranks" in message


@pytest.mark.parametrize("kind", [0, 1], ids=["rows", "maps"])
def test_synced_batch_norm_is_that_of_one_process_on_all_images(
    found: list[dict[str, Any]], kind: int
) -> None:
    both = torch.cat([maps(0)[kind].double(), maps(1)[kind].double()])
    (expected,) = normalised([norms()[kind].double()], [both])
    parts = [rank["norms"][kind] for rank in found]
    for name in ("result", "gradient", "plain"):
        value = torch.cat([part[name] for part in parts])
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-4, atol=1e-5)
    for first, second, whole in zip(
        parts[0]["scales"], parts[1]["scales"], expected["scales"], strict=True
    ):
        torch.testing.assert_close((first + second).double(), whole, rtol=1e-4, atol=1e-5)
    for part in parts:
        assert part["format"] is not False
        for name, tensor in expected["state"].items():
            torch.testing.assert_close(part["state"][name].to(tensor.dtype), tensor)


def test_other_kinds_of_batch_norm_are_not_synced(found: list[dict[str, Any]]) -> None:
    for rank in found:
        assert rank["kinds"] == ["SyncBatchNorm1d", "SyncBatchNorm2d"]
        kind, message = rank["odd_norm"]
        assert kind == "UserError"
        assert "trainer.sync_batch_norm, but Sequential has a BatchNorm3d" in message


def test_the_dictionary_is_that_of_all_predictions(found: list[dict[str, Any]]) -> None:
    expected = KMeans(3).fit(torch.cat([rows(0), rows(1)]))
    for rank in found:
        assert torch.equal(rank["built"][0], expected.prototypes)
        assert torch.equal(rank["built"][1], expected.prior)


def test_both_are_told_that_a_dictionary_cannot_be(found: list[dict[str, Any]]) -> None:
    assert found[0]["too_many"] == found[1]["too_many"]
    kind, message = found[0]["too_many"]
    assert kind == "UserError"
    assert "8 > 7 of 7" in message


def test_samples_of_all_ranks_are_counted(found: list[dict[str, Any]]) -> None:
    expected = in_banks([torch.cat(parts) for parts in zip(banks(0), banks(1), strict=True)])
    for rank in found:
        torch.testing.assert_close(rank["shares"], expected["shares"])
    for of_bank, parts in zip(
        expected["weights"], zip(*(rank["weights"] for rank in found), strict=True), strict=True
    ):
        torch.testing.assert_close(torch.cat(parts), of_bank)


def test_both_resume_from_what_both_have_saved(found: list[dict[str, Any]]) -> None:
    assert [rank["epoch"] for rank in found] == [1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["replay", "online"])
@pytest.mark.parametrize("baseline", sorted(p.stem for p in (CONF / "baseline").glob("*.yaml")))
def test_every_method_runs_in_two_processes(
    smoke: Smoke, tmp_path: Path, baseline: str, mode: str
) -> None:
    """The run itself compares the ranks' students, and fails where they differ."""
    options = [f"baseline={baseline}", f"substitution.mode={mode}", "kdci=weighting"]
    options.append(f"trainer.sync_batch_norm={str(mode == 'online').lower()}")
    finished = smoke.command(tmp_path, *options, *DDP)
    assert finished.exit_code == 0, finished.stderr
    assert (finished.summary["status"], finished.summary["world_size"]) == ("finished", 2)
    assert finished.summary["inside_error"] is None
    if mode == "replay" and baseline in ("cmi", "deepinv", "fast"):  # a batch a round, of both
        config = finished.summary["config"]
        made = config["substitution"]["rounds"] * config["baseline"]["batch_size"]
        assert finished.summary["substitution"]["images"] == made
    # Each line once, however many ranks there are.
    said = [line for line in finished.stderr.splitlines() if line]
    assert len(said) == len(set(said))


def test_a_run_of_two_processes_finishes(smoke: Smoke, tmp_path: Path) -> None:
    finished = smoke.command(tmp_path, *DDP)
    assert finished.exit_code == 0, finished.stderr
    summary = finished.summary
    assert (summary["status"], summary["world_size"]) == ("finished", 2)
    assert summary["substitution"]["images"] == 256
    assert summary["acc1"]["compensated"] is not None
    assert "Traceback" not in finished.stderr
    assert "Warning" not in finished.stderr
    assert finished.stdout.count("student convnet_s, last") == 1
    assert (finished.stdout + finished.stderr).count("Recipe: ") == 1
    shards = sorted(Path(summary["substitution"]["artifact"]).glob("predictions_rank*"))
    counts = [len(load_file(shard)["logits"]) for shard in shards]
    assert counts == [128, 128]
    assert summary["inside_error"] is None
    found = read_sealed(finished.folder / "inside.json")
    assert (found["fid"]["images"], found["fid"]["originals"]) == (128, 360)
    assert shlex.split(summary["command"])[1:4] == ["-m", "src.run", "budget=smoke"]
    assert (finished.folder / "run.log").read_text().count("Command: ") == 1


TWO_HEADS = """
from torch import nn

from src.network.convnet import ConvNet


class TwoHeads(ConvNet):
    def __init__(self, widths, *, num_classes):
        super().__init__(widths, num_classes=num_classes)
        self.second = nn.Linear(3, 2)
"""


@pytest.mark.slow
def test_ranks_do_not_wait_for_a_head_of_no_use(
    smoke: Smoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "__init__.py").write_text(TWO_HEADS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    network = "{_target_: lab.TwoHeads, widths: [4, 8]}"
    finished = smoke.command(
        tmp_path / "runs",
        *DDP,
        "plugins=lab",
        *(f"{role}.network={network}" for role in ("teacher", "student")),
        "student.name=two_heads",
        "teacher.name=two_heads",
    )
    assert (finished.exit_code, finished.summary["status"]) == (0, "finished"), finished.stderr


@pytest.mark.slow
def test_two_nodes_make_what_two_processes_of_one_make(smoke: Smoke, tmp_path: Path) -> None:
    """Two agents of torchrun that meet on loopback stand for two machines."""
    here = smoke.command(tmp_path / "one", *DDP)
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    agent = ["torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-id=two"]
    agent += ["--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}", "-m", "src.run"]
    options = [*DDP, "trainer.devices=1", "trainer.nodes=2"]
    command = [sys.executable, "-m", *agent, *smoke.overrides(tmp_path / "two", *options)]
    started = [
        subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(2)
    ]
    try:
        said = [process.communicate(timeout=LIMIT)[0] for process in started]
    finally:
        for process in started:
            process.terminate()
    assert [process.returncode for process in started] == [0, 0], said
    assert "".join(said).count("student convnet_s, last") == 1
    (student,) = (tmp_path / "two").rglob("student.safetensors")
    assert digest_file(student) == digest_file(here.folder / "student.safetensors")


@pytest.mark.slow
def test_ranks_that_were_told_different_things_are_refused_in_one_line(
    smoke: Smoke, tmp_path: Path
) -> None:
    words = shlex.join(smoke.overrides(tmp_path, *DDP))
    program = f"exec {shlex.quote(sys.executable)} -m src.run {words} seed=$RANK"
    agent = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    ended = subprocess.run(
        [sys.executable, "-m", *agent, "bash", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert ended.returncode != 0
    said = [line for line in ended.stderr.splitlines() if "Error: " in line]
    assert [line for line in said if "Expected the same in all ranks" in line] == said[:1]
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.slow
def test_ranks_do_not_outlive_a_parent_that_was_killed(smoke: Smoke, tmp_path: Path) -> None:
    with smoke.start(tmp_path, "substitution.rounds=100000", *DDP) as process:
        parent, ranks = psutil.Process(process.pid), list[psutil.Process]()
        try:
            until = time.monotonic() + LIMIT
            while len(ranks) < 2 and time.monotonic() < until:
                time.sleep(0.2)
                ranks = [p for p in parent.children(recursive=True) if "src.run" in words_of(p)]
            assert len(ranks) == 2
            parent.kill()
            _, alive = psutil.wait_procs(ranks, timeout=60)
            assert alive == []
        finally:
            for rank in ranks:
                if rank.is_running():
                    rank.kill()


def test_a_failure_ends_both_and_says_why(smoke: Smoke, tmp_path: Path) -> None:
    failed = smoke.command(tmp_path, *TOO_WIDE, *DDP)
    assert failed.exit_code not in (0, None)
    assert "Error: Expected kdci.dictionary.pca_dim to be below the width" in failed.stderr
    assert failed.summary["status"] == "failed"
    assert not list(tmp_path.rglob("student.*"))


@pytest.mark.slow
def test_what_is_wrong_with_one_rank_alone_is_said(smoke: Smoke, tmp_path: Path) -> None:
    """Rank 0 has two images of three, and meets the end of rank 1 in a collective.

    Only decoding them tells that there are no four.
    """
    pool = tmp_path / "pool"
    pool.mkdir()
    for position in range(3):
        Image.new("RGB", (32, 32), (80 * position, 0, 0)).save(pool / f"{position}.png")
    (pool / "3.png").write_bytes(b"no image")
    options = ["baseline=dfnd", "kdci=none", "distill.held_out=0.5", *DDP[:2]]
    options += ["dataset@pool=folder_pool", f"pool.root={pool}", "pool.skip_corrupt=true"]
    failed = smoke.command(tmp_path, *options)
    assert failed.exit_code == 2
    assert "[rank 1] Error: Expected at least two recorded images" in failed.stderr
    assert (failed.summary["status"], failed.summary["error"][:6]) == ("failed", "Rank 1")
    assert not list(tmp_path.rglob("traceback*"))
