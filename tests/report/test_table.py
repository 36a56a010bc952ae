import csv
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from src.report.aggregate import aggregate
from src.report.collection import Damaged
from src.report.record import Record, records
from src.report.table import (
    csv_table,
    first_line,
    left_out,
    markdown_table,
    run_table,
    terminal_table,
)

MARKDOWN = """\
### digits: convnet_m (97.25) -> convnet_s, budget laptop, replay

| baseline | KDCI | N | seeds | last | best | comp. |
| --- | --- | --- | --: | --: | --: | --: |
| dafl | none | - | 2 | 81.00 ± 1.41 | 81.00 | - |
| dafl | backdoor | 16 | 1 | 83.50 (n=1) | 81.00 | 79.00 |

| baseline | KDCI | N | pairs | gain | 95% interval | p | n for 1 point |
| --- | --- | --- | --: | --: | --: | --: | --: |
| dafl | backdoor | 16 | 1 | +3.50 (n=1) | n too small | n too small | n too small |

| baseline | KDCI | N | (a) s | (a) MiB | (a) made | (b) s | (b) MiB | (b) made |
| --- | --- | --- | --: | --: | --: | --: | --: | --: |
| dafl | none | - | 20.0 | 1500 | 2/2 | 9.0 | 1200 | 2/2 |
| dafl | backdoor | 16 | - | - | - | 9.0 | 1200 | 1/1 |

"""
MARKDOWN_END = """\
Measured on: cpu.

### Not finished

- digits laptop dafl none seed 9 (outputs/none_9_80.0): failed, boom | [red]here
"""
CSV = """\
dataset,budget,mode,teacher,teacher_acc1,student,baseline,kdci,num_prototypes,settings,seeds,\
last_mean,last_std,best_mean,compensated_mean,stage_a_mean,\
gain_pairs,gain_mean,gain_std,gain_t_low,gain_t_high,gain_bootstrap_low,gain_bootstrap_high,\
gain_p,gain_pairs_for_one_point,unevenness,\
stage_a_made,stage_a_seconds,stage_a_peak_memory_mb,\
dictionary_made,dictionary_seconds,dictionary_peak_memory_mb,\
stage_b_made,stage_b_seconds,stage_b_peak_memory_mb,\
inside_made,inside_seconds,inside_peak_memory_mb,devices,folders,copies
digits,laptop,replay,convnet_m,97.25,convnet_s,dafl,none,,,0;1,\
81.0,1.4142135623730951,81.0,,,0,,,,,,,,,0.13081203594113697,2,20.0,1500.0,0,,,2,9.0,1200.0,\
0,,,cpu,outputs/none_0_80.0;outputs/none_1_82.0,
digits,laptop,replay,convnet_m,97.25,convnet_s,dafl,backdoor,16,,0,\
83.5,,81.0,79.0,,1,3.5,,,,,,,,0.13081203594113697,0,,,0,,,1,9.0,1200.0,0,,,cpu,outputs/backdoor_0_83.5,
"""


@pytest.fixture
def runs(make_summary: Any, make_kdci: Any) -> list[Any]:
    kdci = make_kdci(83.5, acc1={"last": 83.5, "compensated": 79.0}, substitution={"reused": True})
    return [make_summary(80.0, seed=0), make_summary(82.0, seed=1), kdci]


@pytest.fixture
def failed(make_summary: Any) -> Any:
    return make_summary(status="failed", error="boom | [red]here\nsecond line", seed=9)


def rendered(renderable: RenderableType, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_markdown(runs: list[Any], failed: Any) -> None:
    text = markdown_table(aggregate(runs), [failed])
    assert text.startswith(MARKDOWN)
    assert text.endswith(MARKDOWN_END)


def test_csv(runs: list[Any]) -> None:
    assert csv_table(aggregate(runs)) == CSV


def test_csv_reads_back_as_one_record_per_row(runs: list[Any]) -> None:
    records = list(csv.DictReader(io.StringIO(csv_table(aggregate(runs, by_seed=True)))))
    assert [float(record["last_mean"]) for record in records] == [80.0, 82.0, 83.5]
    assert [record["settings"] for record in records] == ["seed=0", "seed=1", "seed=0"]


def test_published_lines_hold_where_a_run_is_from_and_no_folder(
    runs: list[Any], failed: Any, make_kdci: Any
) -> None:
    known = {"git_revision": "abc", "started": "2026-01-02", "precision": "bf16-mixed"}
    for run in runs:
        run.update(known | {"recipe": "dafl_digits", "world_size": 2, "host": "lab7"})
    runs[2]["adjustment"] = {"strength": 0.5, "size": 2.0}
    alone = make_kdci(70.0, seed=5)
    text = csv_table(records([*runs, failed, alone]), Record)
    first, second, paired, unpaired = csv.DictReader(io.StringIO(text))
    assert [first["seed"], second["seed"]] == ["0", "1"]
    assert [r["gain"] for r in (first, second, paired, unpaired)] == ["", "", "3.5", ""]
    assert [r["last"] for r in (first, second, paired)] == ["80.0", "82.0", "83.5"]
    assert (first["stage_a_made"], first["stage_a_seconds"]) == ("1", "20.0")
    assert (paired["stage_a_made"], paired["stage_a_seconds"]) == ("0", "")
    assert (paired["adjustment"], first["adjustment"]) == ("strength=0.5;size=2.0", "")
    assert (first["commit"], first["started"], first["run"]) == ("abc", "2026-01-02", "c0ffee")
    assert (first["recipe"], first["precision"], first["ranks"]) == (
        "dafl_digits",
        "bf16-mixed",
        "2",
    )
    assert (unpaired["commit"], unpaired["ranks"]) == ("", "1")
    assert float(first["unevenness"]) == pytest.approx(0.130812, abs=1e-6)
    assert "outputs" not in text
    assert "lab7" not in text


def test_published_lines_show_settings_that_are_paths_as_hashes(make_summary: Any) -> None:
    lists = [{"pool.list": f"/home/jane/{name}.txt"} for name in ("one", "two")]
    text = csv_table(records(make_summary(80.0, settings=each) for each in lists), Record)
    first, second = csv.DictReader(io.StringIO(text))
    assert first["settings"].startswith("pool.list=path-")
    assert first["settings"] != second["settings"]
    assert "jane" not in text


def test_terminal_holds_rows_and_failures_with_markup_left_alone(
    runs: list[Any], failed: Any
) -> None:
    text = rendered(terminal_table(aggregate(runs), [failed]))
    assert "81.00 ± 1.41" in text
    assert "+3.50 (n=1)" in text
    assert "± -" not in text
    assert text.index("none") < text.index("backdoor")
    assert "failed, boom | [red]here" in text
    assert "second line" not in text


def test_a_narrow_terminal_cuts_no_number_short(runs: list[Any]) -> None:
    text = rendered(terminal_table(aggregate(runs), []), width=50)
    assert max(map(len, text.splitlines())) <= 50
    assert "…" not in text
    assert "(n=1)" in text


def test_rows_of_many_pairs_stand_in_one_line_of_80_columns(
    make_summary: Any, make_kdci: Any
) -> None:
    runs = []
    for seed in range(6):
        runs.append(make_summary(80.0, seed=seed, baseline="mosaickd"))
        cost = {"substitution": {"reused": True}, "seconds": {"dictionary": 0.1}}
        runs.append(make_kdci(81.0 + seed, seed=seed, baseline="mosaickd", **cost))
    lines = rendered(terminal_table(aggregate(runs), []), width=80).splitlines()
    (gain,) = (line.split() for line in lines if "[" in line)
    pair = ["mosaickd", "backdoor", "16", "6", "+3.50", "±", "1.87"]
    assert gain == [*pair, "[+1.54,", "+5.46]", "0.0312", "30"]
    (cost_line,) = (line.split() for line in lines if "6/6" in line and "backdoor" in line)
    assert cost_line == [*pair[:3], "-", "-", "-", "0.1", "6/6", "9.0", "1200", "6/6"]


def test_columns_without_any_value_are_not_shown(make_summary: Any, runs: list[Any]) -> None:
    assert "comp." in rendered(terminal_table(aggregate(runs), [])).split("Accuracies")[0]
    vanilla = rendered(terminal_table(aggregate([make_summary()]), [])).split("Accuracies")[0]
    assert "comp." not in vanilla
    assert "gain" not in vanilla


def test_budgets_get_tables_of_their_own(make_summary: Any) -> None:
    rows = aggregate([make_summary(80.0), make_summary(90.0, budget="paper")])
    for text in (rendered(terminal_table(rows, [])), markdown_table(rows, [])):
        first, second = text.split("budget paper")
        assert "budget laptop" in first
        assert "80.00" in first
        assert "90.00" not in first
        assert "90.00" in second


def test_nothing_but_failures_has_no_table(failed: Any) -> None:
    assert markdown_table([], [failed]).startswith("### Not finished")
    assert rendered(terminal_table([], [failed])).startswith("Not finished: digits")


def test_pipes_in_settings_cannot_break_a_markdown_row(make_summary: Any) -> None:
    runs = [make_summary(settings={"name": name}, seed=0) for name in ("a|b", "c")]
    assert r"name=a\|b" in markdown_table(aggregate(runs), [])


def test_seconds_of_a_stage_that_was_interrupted_are_told_so(runs: list[Any]) -> None:
    text = rendered(run_table(runs[2] | {"resumed": ["stage_b"]}, Path("outputs/x")))
    marked = [line.split()[1] for line in text.splitlines() if "(of the last attempt)" in line]
    assert marked == ["stage_b", "total"]


def test_run_table_of_one_run(runs: list[Any]) -> None:
    text = rendered(run_table(runs[2], Path("outputs/x")))
    lines = [line.split() for line in text.splitlines()]
    assert "digits, dafl, KDCI backdoor, seed 0, budget laptop: finished" in text
    for parts in (
        ["teacher", "convnet_m", "97.25"],
        ["student", "convnet_s,", "last", "83.50"],
        ["student", "convnet_s,", "compensated", "79.00"],
        ["stage_a", "(reused)", "20.0", "1500"],
        ["dictionary", "-", "-"],
        ["total", "30.0", "1500"],
        ["Folder:", "outputs/x"],
        ["Files:", "summary.json,", "student.safetensors"],
    ):
        assert parts in [[part for part in line if part != "│"] for line in lines]
    assert lines[-1] == ["Student", "convnet_s,", "last", "epoch,", "plain", "network:", "83.50%"]
    assert "alongside" not in text
    assert "Measured on: cpu" in text


def test_run_table_shows_the_agreement_on_what_was_held_out(make_summary: Any) -> None:
    summary = make_summary(80.0) | {
        "held_out": {"images": 51, "agreement": 97.5, "one_class": 20.0}
    }
    text = rendered(run_table(summary, Path("outputs/x")))
    line = "Agreement with the teacher on 51 held-out substitution images: 97.50%, one class for"
    assert f"{line} all would have 20.00%" in " ".join(text.split())


def test_a_narrow_terminal_shows_paths_uncut(runs: list[Any]) -> None:
    folder = Path("outputs/a folder of a long name/" * 5)
    screen = Console(width=80, record=True, file=io.StringIO())
    screen.print(run_table(runs[2], folder), crop=False)
    assert f"Folder: {folder}\n" in screen.export_text()


def test_run_table_of_a_failed_run_shows_its_error(failed: Any) -> None:
    del failed["acc1"]
    text = rendered(run_table(failed, Path("outputs/x")))
    assert "failed" in text
    assert "boom | [red]here" in text


def test_damaged_summaries_are_counted_and_named(runs: list[Any]) -> None:
    damaged = [Damaged(Path(name), f"'{name}' is [red]broken") for name in ("a", "b")]
    for text in (
        rendered(terminal_table(aggregate(runs), [], damaged)),
        markdown_table(aggregate(runs), [], damaged),
    ):
        assert "2 summaries left out; run the same commands again" in text
        assert "'a' is [red]broken" in text
        assert "'b' is [red]broken" in text
    assert "1 summary left out" in markdown_table([], [], damaged[:1])


def test_markdown_cells_hold_any_text(make_summary: Any) -> None:
    runs = [make_summary(settings={"name": name}, seed=0) for name in ("a\\|b\nc", "d")]
    text = markdown_table(aggregate(runs), [])
    assert r"| name=a\\\|b c |" in text


def test_markdown_shows_errors_as_they_are(make_summary: Any) -> None:
    error = "C.__init__ got <class 'a_b'>, not *.jpg or *.png of `x`"
    shown = r"C.\_\_init\_\_ got \<class 'a_b'>, not \*.jpg or \*.png of \`x\`"
    text = markdown_table([], [make_summary(status="failed", error=error)])
    assert text.splitlines()[2].endswith(f": failed, {shown}")
    damaged = [Damaged(Path("a"), f"{error}\n\n# and more")]
    assert f"- {shown} # and more\n" in markdown_table([], [], damaged)


def test_copies_are_noted(make_summary: Any) -> None:
    text = markdown_table(aggregate([make_summary(), make_summary()]), [])
    assert "Counted once, being copies: outputs/none_0_80.0." in text


def test_a_running_run_has_no_error_to_show(make_summary: Any) -> None:
    text = markdown_table([], [make_summary(status="running")])
    assert text.strip().endswith("(outputs/none_0_80.0): running")


def test_closed_folders_are_counted_apart_from_summaries() -> None:
    broken = [Damaged(Path(name), name) for name in ("a", "b")]
    closed = [Damaged(Path(name), name, is_closed=True) for name in ("c", "d")]
    assert left_out(broken) == (
        "2 summaries left out; run the same commands again, or remove the folders"
    )
    assert left_out(closed[:1]) == (
        "1 folder left out; ask for the right to read it, or name other folders"
    )
    assert left_out([*broken[:1], *closed]) == (
        "1 summary left out; run the same command again, or remove the folder; "
        "2 folders left out; ask for the right to read them, or name other folders"
    )


@pytest.mark.parametrize("error", [None, "", " \n "])
def test_an_error_that_says_nothing_is_told_so(error: str | None) -> None:
    assert first_line(error) == "no error recorded"


def test_the_first_line_of_an_error_is_the_first_that_says_something() -> None:
    assert first_line("\n\nboom\nand more") == "boom"


def test_run_table_shows_each_accuracy_that_there_is(make_summary: Any) -> None:
    accuracies = {"last": 80.0, "best": 81.0, "compensated": 79.0, "stage_a": 70.0}
    lines = rendered(run_table(make_summary(80.0, acc1=accuracies), Path("x"))).splitlines()
    found = [line for line in lines if "student convnet_s" in line]
    for line, value in zip(found, ("80.00", "81.00", "79.00", "70.00"), strict=True):
        assert value in line


TERMINAL = """\
digits: convnet_m (97.25) -> convnet_s, budget laptop, replay
baseline  KDCI      N   seeds         last   best
──────────────────────────────────────────────────
cmi       none      -       1  70.00 (n=1)  81.00

dafl      none      -       1   8.00 (n=1)  81.00
dafl      backdoor  16      1  83.50 (n=1)  81.00

                                                                    n for
baseline  KDCI      N   pairs          gain  95% interval      p  1 point
──────────────────────────────────────────────────────────────────────────
                                                           n too    n too
dafl      backdoor  16      1  +75.50 (n=1)   n too small  small    small
"""


def test_terminal_parts_baselines_and_sets_numbers_to_the_right(
    make_summary: Any, make_kdci: Any
) -> None:
    runs = [make_summary(8.0), make_kdci(83.5), make_summary(70.0, baseline="cmi")]
    lines = rendered(terminal_table(aggregate(runs), []), width=80).splitlines()
    assert "\n".join(map(str.rstrip, lines)).startswith(TERMINAL)
