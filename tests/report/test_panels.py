"""The report of a W&B project as its library would send it, and how it is saved."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from src.common.errors import MissingExtraError, UserError
from src.report import mirror as mirror_module
from src.report.__main__ import main
from src.report.aggregate import aggregate
from src.report.dashboard import DashboardError
from src.report.mirror import Mirrored, Target, require_panels
from src.report.summary import Summary, read_summary, write_summary
from src.report.table import markdown_table
from tests.report.wandb_server import server

# The library's own, at its import; its version of pydantic has both forms.
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic V1 style:DeprecationWarning")

ONLINE = Target("kdci", "online", "team")
LIVE = {"logger": {"wandb": {"project": "kdci", "mode": "online", "entity": "team"}}}


@pytest.fixture
def module() -> Any:
    pytest.importorskip("wandb_workspaces")
    from src.report import panels

    return panels


@pytest.fixture
def runs(make_summary: Any, make_kdci: Any) -> list[Summary]:
    """Of two baselines and seeds: vanilla, and compensation with two N."""
    made = []
    for baseline in ("dafl", "cmi"):
        for seed in (0, 1):
            options = {"baseline": baseline, "seed": seed}
            made.append(make_summary(70.0 + seed, **options))
            made += [make_kdci(71.0 + seed + n, **options, kdci={"N": n}) for n in (8, 16)]
    for number, run in enumerate(made):
        run["folder"], run["identity"]["run"] = f"outputs/{number}", f"run{number}"
    return made


def sent(module: Any, summaries: list[Summary], to: Target = ONLINE) -> list[dict[str, Any]]:
    """Blocks as they are sent, without the empty lines around them."""
    import wandb_workspaces.reports.v2 as wr

    report = wr.Report("kdci", "team", blocks=module.panels(summaries, to.shown))
    spec = report._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)
    blocks: list[dict[str, Any]] = json.loads(spec)["blocks"][1:-1]
    return blocks


def grids(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [block["metadata"] for block in blocks if block["type"] == "panel-grid"]


def charts(grid: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = grid["panelBankSectionConfig"]["panels"]
    return found


def test_the_sweep_is_a_table_grouped_by_what_runs_are_called(
    module: Any, runs: list[Summary]
) -> None:
    (runset,) = grids(sent(module, runs))[0]["runSets"]
    assert [f"{key['section']}:{key['name']}" for key in runset["grouping"]] == [
        "config:names.value.dataset",
        "config:budget.value",
        "config:names.value.baseline",
        "config:kdci.value.name",
    ]
    assert runset["runFeed"]["columnOrder"] == [
        "summary:acc1/last",
        "summary:acc1/best",
        "config:seed.value",
        "summary:seconds/total",
        "summary:peak_memory_mb",
    ]
    assert "project" not in runset  # that of the report, so that nothing is asked of a server


def test_gains_are_those_of_the_local_tables(module: Any, runs: list[Summary]) -> None:
    texts = [block["content"] for block in sent(module, runs) if block["type"] == "markdown-block"]
    assert texts[0] == markdown_table(aggregate(runs), [])
    assert "| cmi | backdoor | 8 | 2 | +9.00 ± 0.00 | all equal |" in texts[0]
    assert "| dafl | backdoor | - | 70.50 ± 0.71 | 79.50 ± 0.71 | 87.50 ± 0.71* |" in texts[1]


def test_runs_that_contradict_each_other_are_named_in_the_table(
    module: Any, runs: list[Summary]
) -> None:
    other = copy.deepcopy(runs[0]) | {"folder": "outputs/other"}
    other["acc1"]["last"] = 60.0
    texts = [
        block["content"]
        for block in sent(module, [*runs, other])
        if block["type"] == "markdown-block"
    ]
    assert "2 summaries left out" in texts[0]
    assert "'outputs/other' and 'outputs/0' hold different results of seed 0" in texts[0]


def test_accuracy_over_n_is_coloured_by_baseline(module: Any, runs: list[Summary]) -> None:
    runs[-1]["config"] = LIVE
    grid = grids(sent(module, runs))[1]
    (chart,) = charts(grid)
    assert chart["viewType"] == "Scatter Plot"
    assert chart["config"]["xAxis"] == "config:kdci.value.dictionary.N"
    assert chart["config"]["yAxis"] == "summary:acc1/last"
    sized = {
        name: [run for run in runs if run["kdci"]["N"] and run["baseline"] == name]
        for name in ("cmi", "dafl")
    }
    found = {each["name"]: set(each["filters"]["filters"][0]["value"]) for each in grid["runSets"]}
    assert found == {name: {ONLINE.shown(run) for run in of} for name, of in sized.items()}
    assert "run11" in found["cmi"]
    colors = [{grid["customRunColors"][run] for run in found[name]} for name in ("cmi", "dafl")]
    assert colors == [{"#0072B2"}, {"#D55E00"}]


def test_a_run_whose_name_w_and_b_made_up_has_no_point(module: Any, runs: list[Summary]) -> None:
    offline = {"wandb": LIVE["logger"]["wandb"] | {"mode": "offline"}}
    runs[-1]["config"], runs[-2]["config"] = LIVE | {"force": True}, {"logger": offline}
    grid = grids(sent(module, runs))[1]
    found = {each["name"]: each["filters"]["filters"][0]["value"] for each in grid["runSets"]}
    assert {name: len(ids) for name, ids in found.items()} == {"dafl": 4, "cmi": 2}


def test_without_several_n_there_is_no_chart_of_them(module: Any, runs: list[Summary]) -> None:
    vanilla = [run for run in runs if run["kdci"]["name"] == "none"]
    kinds = [chart["viewType"] for grid in grids(sent(module, vanilla)) for chart in charts(grid)]
    assert kinds == ["Bar Chart", "Run History Line Plot", "Bar Chart", "Bar Chart"]


def test_curves_and_cost_are_of_keys_that_runs_log(module: Any, runs: list[Summary]) -> None:
    *_, curves, cost = grids(sent(module, runs))
    (curve,) = charts(curves)
    assert (curve["config"]["xAxis"], curve["config"]["metrics"]) == (
        "student/epoch",
        ["student/acc"],
    )
    seconds, memory = (chart["config"]["metrics"] for chart in charts(cost))
    assert set(runs[0]["seconds"]) <= {key.removeprefix("seconds/") for key in seconds} | {"total"}
    assert memory == ["peak_memory_mb"]


class Saved(NamedTuple):
    id: str
    display_name: str
    description: str | None = None


class FakeApi:
    """Stands in for ``wandb.Api``, with these reports."""

    default_entity: str | None = "me"

    def __init__(self, *reports: Saved) -> None:
        self.saved = reports

    def reports(self, path: str) -> tuple[Saved, ...]:
        self.path = path
        return self.saved


@pytest.fixture
def account(module: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Give an account these reports; returns the list of those that are saved."""

    def give(*reports: Saved, default: str | None = "me") -> list[Any]:
        done: list[Any] = []
        api = FakeApi(*reports)
        api.default_entity = default

        def save(report: Any) -> Any:
            done.append(report)
            return type("Report", (), {"url": f"https://wandb.ai/{report.entity}/{api.path}"})

        monkeypatch.setattr(module.wandb, "Api", lambda: api)
        monkeypatch.setattr(module.wr.Report, "save", save)
        return done

    return give


def test_the_report_that_was_made_before_is_replaced(module: Any, account: Any) -> None:
    done = account()
    assert module.save_panels([], ONLINE) == "https://wandb.ai/team/team/kdci"
    made = Saved("b", done[0].title, done[0].description)
    done = account(Saved("a", "another", made.description), made)
    module.save_panels([], ONLINE)
    assert (done[0].id, done[0].title, done[0].project) == ("b", module.TITLE, "kdci")


def test_a_report_of_somebody_else_stays(module: Any, account: Any) -> None:
    theirs = [Saved("a", "another"), Saved("b", module.TITLE), Saved("c", module.TITLE, "Mine")]
    done = account(*theirs)
    module.save_panels([], ONLINE._replace(entity=None))
    assert (done[0].id, done[0].entity) == ("", "me")


def test_what_is_refused_ends_in_one_line(
    module: Any, account: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    account(default=None)
    with pytest.raises(DashboardError, match="name one by WANDB_ENTITY"):
        module.save_panels([], ONLINE._replace(entity=None))

    def refuse(_: Any) -> None:
        raise Exception("permission denied.\n  at /graphql")

    monkeypatch.setattr(module.wr.Report, "save", refuse)
    with pytest.raises(DashboardError) as caught:
        module.save_panels([], ONLINE)
    assert str(caught.value) == (
        "The runs are in 'kdci', but Weights & Biases did not take the panels (permission "
        "denied. at /graphql); the same command tries again"
    )


@pytest.mark.slow
def test_a_server_is_sent_one_report(
    module: Any,
    runs: list[Summary],
    isolated_wandb: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with server() as (url, reports):
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
        to = ONLINE._replace(entity=None)
        for shown in (runs[:2], runs):
            where = module.save_panels(module.panels(shown, to.shown), to)
            assert where == f"{url}/me/kdci/reports/KDCI-results--report0"
    (report,) = reports
    assert markdown_table(aggregate(runs), []) in [
        block.get("content") for block in json.loads(report["spec"])["blocks"]
    ]


def test_panels_that_cannot_be_saved_are_refused_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="on W&B's server only, but got offline"):
        require_panels(ONLINE._replace(mode="offline"))
    monkeypatch.setattr(mirror_module, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError) as caught:
        require_panels(ONLINE)
    assert str(caught.value) == (
        "Expected wandb-workspaces to be installed; run `pip install -e '.[wandb-dashboards]'` in "
        "the program's folder, or leave --wandb-panels out"
    )


@pytest.mark.parametrize(
    "options",
    [
        ["--wandb-panels"],
        ["--wandb", "kdci", "--wandb-panels", "--csv", "x"],
        ["--wandb", "kdci", "--wandb-panels", "--wandb-mode", "offline"],
    ],
)
def test_options_that_do_not_go_together(
    tmp_path: Path,
    options: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(mirror_module, "mirror", lambda *_: pytest.fail("mirrored"))
    assert main([str(tmp_path), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: Expected --wandb")
    assert error.count("\n") == 1


def test_the_command_shows_what_is_there(
    module: Any,
    tmp_path: Path,
    make_summary: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    there, refused = tmp_path / "there", tmp_path / "refused"
    for seed, folder in enumerate((there, refused)):
        folder.mkdir()
        write_summary(make_summary(seed=seed), folder)
    kept = read_summary(there / "summary.json")
    result = Mirrored([], [there], [], [], [f"'{refused}' is damaged"], [kept])
    monkeypatch.setattr("src.report.__main__.read_summaries", lambda _: pytest.fail("read again"))
    monkeypatch.setattr(mirror_module, "mirror", lambda *_: result)
    monkeypatch.setattr(module, "save_panels", lambda blocks, to: f"{len(blocks)} in {to.project}")
    shown: list[Any] = []
    monkeypatch.setattr(module, "panels", lambda runs, _: shown.extend(runs) or [1, 2])
    command = [str(tmp_path), "--wandb", "kdci", "--wandb-mode", "online", "--wandb-panels"]
    assert main(command) == 2
    assert [run["folder"] for run in shown] == [str(there)]
    assert capsys.readouterr().out.endswith("Panels: 2 in kdci\n")
