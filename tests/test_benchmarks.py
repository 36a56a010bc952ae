"""That what ``make bench`` times still runs; how long it takes is no test."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import against, against_literal, kdci_costs, literal, paired_timings, work
from src.objective.adversarial import decision_disagreement_loss, reversed_js_divergence
from src.objective.distillation import kl_divergence
from src.objective.inversion import bn_statistics_loss, total_variation_l1
from src.teacher.frozen import FrozenTeacher
from src.teacher.tap import tap

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paired_timings, "_BATCH", 2)
    monkeypatch.setattr(paired_timings, "_images", lambda: torch.zeros(3, 3, 32, 32).byte())


def test_a_student_step_with_and_without_compensation() -> None:
    for count in (0, 4):
        paired_timings.student_step(CPU, width=1, num_prototypes=count, channels_last=True)()


def test_float32_is_that_of_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed: list[bool] = []

    def seen(*_: object) -> tuple[str, str, str]:
        allowed.append(torch.backends.cudnn.allow_tf32)
        return "", "", ""

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(paired_timings, "paired", seen)
    paired_timings.main()
    assert set(allowed) == {False}


def test_images_from_the_bank_and_from_files(tmp_path: Path) -> None:
    paired_timings.bank_batches(CPU)()
    paired_timings.png_batches(CPU, tmp_path)()


def test_pairs_are_compared_by_their_ratio() -> None:
    ticks = iter(range(1000))
    shown = paired_timings.paired(
        lambda: None, lambda: next(ticks), CPU, repeats=3, clock=lambda: float(next(ticks))
    )
    assert shown == ("1000.0", "2000.0", "2.000 (2.000 to 2.000)")


def test_both_sides_are_first_in_turn() -> None:
    order: list[str] = []
    found = against.alternate(lambda: order.append("base"), lambda: order.append("here"), 0)
    assert order[:6] == ["base", "here", "here", "base", "base", "here"]
    assert len(found["wall"]) == len(found["cpu"]) == 5
    assert against._row({"wall": [[1, 2]] * 3, "cpu": [[2, 3]] * 3}) == [
        *("1000.0", "2000.0", "2.000 (2.000 to 2.000)", "1.500", "3")
    ]


def test_growth_is_given_as_a_power() -> None:
    shown = kdci_costs._powers({10: 5.0, 100: 50.0, 400: 100.0})
    assert list(shown) == ["10: 5.0", "100: 50.0 (1.00)", "400: 100.0 (0.50)"]


def test_every_growth_has_sizes_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for what, letter, _, actions in kdci_costs._growing():
        found[what.partition(",")[0], letter] = list(actions)
    assert found["dictionary", "M"] == [10_000, 100_000, 1_000_000]
    assert found["arithmetic compensation", "K"] == [10, 100, 1000]
    assert found["WRN-16-1 step", "pixels"] == [1024, 4096, 50_176]
    assert len(found) == 8


def test_costs_are_kept_as_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    part = kdci_costs.Part("Steps", ("N", "ratio"), [("16", "1.01")])
    monkeypatch.setitem(kdci_costs._PARTS, "steps", lambda: part)
    monkeypatch.setattr(sys, "argv", ["kdci_costs", "steps", "--json", str(tmp_path / "c.json")])
    kdci_costs.main()
    kept = json.loads((tmp_path / "c.json").read_text())
    assert kept["steps"] == {"title": "Steps", "columns": ["N", "ratio"], "rows": [["16", "1.01"]]}
    assert "torch" in kept["where"]
    assert "1.01" in capsys.readouterr().out


def test_a_part_that_there_is_not_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kdci_costs", "stepz"])
    with pytest.raises(SystemExit):
        kdci_costs.main()
    assert "of steps, fits, memory, growth, but got stepz" in capsys.readouterr().err


def test_the_literal_loop_has_the_terms_of_this_program() -> None:
    torch.manual_seed(0)
    own, others, images = torch.randn(6, 4), torch.randn(6, 4), torch.randn(6, 3, 32, 32)
    pairs = [
        (literal.disagreement(own, others), decision_disagreement_loss(own, others)),
        (literal.jensen_shannon(own, others, 3.0), reversed_js_divergence(own, others)),
        (literal.kl(own, others, 20.0).mean(), kl_divergence(own, others, 20.0)),
        (literal.variation(images), total_variation_l1(images)),
    ]
    network = work.network_of_width(1).to(memory_format=torch.contiguous_format).eval()
    with tap(FrozenTeacher(network)) as heard:
        network(images)
        distance, pooled = bn_statistics_loss(heard.statistics(), heard.target), heard.pooled()
    statistics = literal.Statistics(network, pools=True)
    network(images)
    found = statistics.distance(), statistics.features()
    for literally, ours in [*pairs, (found[0], distance), (found[1], pooled)]:
        torch.testing.assert_close(literally, ours)


@pytest.mark.parametrize("name", ["deepinv", "cmi", "fast"])
def test_a_literal_round_keeps_its_images(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(against_literal, "_BATCH", 2)
    monkeypatch.setattr(literal, "_BANK", 8)
    again = against_literal.action_of("literal", name, tmp_path, bf16=False)
    again()
    again()  # Fast's second round reads what the first has remembered
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["0.png", "1.png", "2.png", "3.png"]
    assert len({(tmp_path / name).read_bytes() for name in files}) == 4


def test_every_inner_step_works_on_new_weights_in_bf16() -> None:
    seen = []
    linear = torch.nn.Linear(4, 4)

    def action() -> None:
        for _ in range(2):
            seen.append(linear(torch.ones(1, 4)).sum().item())
            linear.weight.data.zero_()

    against_literal.under_precision(action, bf16=True)()
    assert seen[0] != pytest.approx(seen[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", against_literal.NAMES)
def test_three_processes_take_turns(name: str) -> None:
    words = [name, "--seconds", "0", "--threads", "1"]
    command = [sys.executable, "-m", "benchmarks.against_literal", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "5"  # rounds


@pytest.mark.slow
@pytest.mark.parametrize("name", work.NAMES)
def test_a_piece_of_work(name: str) -> None:
    work.work_of(name)()


@pytest.mark.slow
def test_this_revision_against_itself() -> None:
    words = ["-m", "benchmarks.against", "HEAD", "evaluation", "--seconds", "1", "--threads", "1"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "evaluation" in done.stdout
