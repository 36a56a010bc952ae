import re
import shlex
import shutil
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from src.report.__main__ import main
from src.report.anonymous import without_paths, without_values
from src.report.collection import read_summaries
from src.report.page import render, tsne
from src.report.page.model import Plot, Section, Topic
from src.report.page.provenance import command_of
from src.report.page.render import save_figures, sections_of
from tests.report.conftest import MakeSummary
from tests.report.synthetic import write_run, write_runs

VOID = {"meta", "link", "img", "br", "path", "use", "image", "rect"}
HOSTILE = "<script>alert(1)</script> & $x_1$ \"q\" 'p'"


class Page(HTMLParser):
    """What a page holds: headings, tables by caption, figures and addresses; tags must close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.headings: list[tuple[int, str]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.scopes: list[str | None] = []
        self.labels: list[str | None] = []
        self.captions: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self._open: list[str] = []
        self._words = ""
        self._rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        values = dict(attrs)
        self.tags.add(tag)
        self.addresses += [values[key] for key in ("src", "href") if key in values]
        self.ids += [values["id"]] if "id" in values else []
        if tag not in VOID:
            self._open.append(tag)
        if tag in ("h1", "h2", "h3", "caption", "th", "td", "figcaption"):
            self._words = ""
        if tag == "th":
            self.scopes.append(values.get("scope"))
        if tag == "table":
            self._rows = []
            self._name = ""
        if tag == "tr":
            self._rows.append([])
        if values.get("role") == "img":
            self.labels.append(values.get("aria-label"))
        if tag == "img":
            self.labels.append(values.get("alt"))

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self._open.pop() == tag
        if tag in ("h1", "h2", "h3"):
            self.headings.append((int(tag[1]), self._words))
        elif tag == "caption":
            self._name = self._words
        elif tag == "figcaption":
            self.captions.append(self._words)
        elif tag in ("th", "td"):
            self._rows[-1].append(self._words)
        elif tag == "table":
            self.tables.setdefault(self._name, []).extend(self._rows)

    def handle_data(self, data: str) -> None:
        self._words += data


def page_of(folder: Path, *options: str) -> Page:
    path = folder.parent / "page.html"
    assert main([str(folder), "--html", str(path), *options]) == 0
    return Page(path.read_text(encoding="utf-8"))


def write(root: Path, *runs: Any) -> Path:
    """Runs that left nothing beside their summaries."""
    for run in runs:
        write_run(root / str(len(list(root.glob("*")))), run, left=False)
    return root


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory, make_summary: Any, make_kdci: Any) -> Path:
    """Runs of two seeds and two N that left everything."""
    root = tmp_path_factory.mktemp("page") / "outputs"
    runs = [make_summary(80.0), make_summary(82.0, seed=1), make_kdci(81.0)]
    runs += [make_kdci(85.0, seed=1), make_kdci(86.0, kdci={"N": 32})]
    for number, run in enumerate(runs):
        write_run(root / str(number), run)
    return root


@pytest.fixture(scope="module")
def page(outputs: Path) -> Page:
    return page_of(outputs)


def test_tables_and_figures_are_there_with_their_numbers(page: Page) -> None:
    gains = page.tables["Gains"]
    assert ["dafl", "backdoor", "16", "2", "+2.00 ± 1.41"] in [row[:5] for row in gains]
    assert ["dafl", "backdoor", "32", "1", "+6.00 (n=1)"] in [row[:5] for row in gains]
    assert ["dafl", "none", "-", "2", "81.00 ± 1.41", "81.00"] in page.tables["Accuracies"]
    assert ["dafl", "none", "-", "20.0"] in [row[:4] for row in page.tables["Cost"]]
    fid = next(rows for name, rows in page.tables.items() if "teacher's features" in name)
    assert ["dafl", "none", "-", "teacher", "256", "360", "2", "40.50 ± 0.71"] in fid
    inception = next(rows for name, rows in page.tables.items() if "Inception" in name)
    extractor = "InceptionV3, weights 6726825d"
    assert ["dafl", "none", "-", extractor, "200", "200", "2", "300.50 ± 0.71"] in inception
    assert [name for level, name in page.headings if level == 3] == [
        "Gains and accuracies",
        "Paired gains",
        "Accuracy over N",
        "Gain over N",
        "Learning curves",
        "Substitution images",
        "Classes",
        "Distance from the original images",
        "Agreement with the teacher",
        "Prototypes",
        "Cost per stage",
        "Runs",
        "Machines, versions and data",
    ]
    text = " | ".join(str(label) for label in page.labels)
    assert "dafl backdoor, N=16: +2.00; dafl backdoor, N=32: +6.00" in text
    assert "vanilla: 81.00; backdoor, N=16: 83.00; backdoor, N=32: 86.00" in text
    assert "over N. backdoor, N=16: +2.00; backdoor, N=32: +6.00" in text
    assert "vanilla: 81.00 at the end" in text
    assert "Least frequent class zero: 0.100; most frequent class three: 0.400" in text
    assert "t-SNE" not in page.text


def test_what_ran_is_told(page: Page) -> None:
    runs = page.tables["Finished runs"]
    assert len(runs) == 6
    assert "kdci=backdoor kdci.N=32 seed=0" in runs[5][0]
    assert ["device", "cpu", "5"] in page.tables["What the finished runs have in common"]


def test_nothing_outside_is_named_and_everything_is_labelled(page: Page) -> None:
    assert not re.search(r"https?:|//|@import|url\((?!#)", re.sub("data:[^\"']*", "", page.text))
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert "script" not in page.tags
    assert len(page.ids) == len(set(page.ids))
    inner = {address[1:] for address in page.addresses if address.startswith("#")}
    assert inner <= set(page.ids)
    assert set(page.scopes) == {"col", "row"}
    assert all(page.labels)
    assert len(page.labels) == len(page.captions) == 9
    levels = [level for level, _ in page.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    assert {"main", "nav", "header", "footer"} <= page.tags


def test_names_from_users_are_text(tmp_path: Path, make_summary: Any, make_kdci: Any) -> None:
    names = {"dataset": HOSTILE, "baseline": HOSTILE}
    runs = (make_summary(80.0, **names), make_kdci(81.0, **names))
    page = page_of(write(tmp_path / "outputs", *runs))
    assert "script" not in page.tags
    assert page.tables["Gains"][1][0] == HOSTILE
    assert any(HOSTILE in name for level, name in page.headings if level == 2)


def test_budgets_get_sections_of_their_own(
    tmp_path: Path, make_summary: Any, make_kdci: Any
) -> None:
    runs = (make_summary(80.0), make_summary(10.0, budget="paper"))
    page = page_of(write(tmp_path / "outputs", *runs))
    title = "digits: convnet_m (97.25) -> convnet_s, budget"
    sections = [name for level, name in page.headings if level == 2]
    assert sections == [f"{title} laptop, replay", f"{title} paper, replay", "What ran"]
    first, second = page.text.split("budget paper, replay</h2>")
    assert ("80.00 (n=1)" in first, "10.00 (n=1)" in first) == (True, False)
    assert ("80.00 (n=1)" in second, "10.00 (n=1)" in second) == (False, True)


def test_what_did_not_end_is_named(tmp_path: Path, make_summary: Any) -> None:
    runs = (make_summary(80.0), make_summary(status="failed", error="no memory\nat all", seed=7))
    root = write(tmp_path / "outputs", *runs, make_summary(70.0, seed=3))
    (root / "2/summary.json").write_text("{")
    page = page_of(root)
    (failed,) = page.tables["Failed, interrupted and running runs"][1:]
    assert failed[1:] == [str(root / "1"), "failed", "no memory"]
    assert "1 finished run; 1 damaged summary left out" in page.text
    (left,) = page.tables["Summaries that cannot be used"][1:]
    assert left[0] == str(root / "2/summary.json")


def test_an_anonymous_page_names_no_host_and_no_folder(tmp_path: Path, make_summary: Any) -> None:
    given = ["paths.outputs=/home/jane doe/out", "teacher=r-18/x", "pool.root=~jane/d", "seed=1"]
    command = shlex.join(["/home/jane/bin/kdci", "hydra/launcher=joblib", "a=[1,/home/j]", *given])
    weights = {"baseline.weights": "/home/jane/a.pt"}
    error = "Expected an image, but '/home/jane doe/x.png' is none (see /home/jane/log)"
    runs = (
        make_summary(80.0, host="janes-mac", command=command, seed=1, settings=weights),
        make_summary(status="failed", error=error, host="janes-mac", seed=7),
        make_summary(70.0, seed=3),
    )
    root = write(tmp_path / "jane/outputs", *runs)
    (root / "2/summary.json").write_text("{")
    shutil.copytree(root / "0", tmp_path / "jane/copies/9")
    arguments = [str(root), str(tmp_path / "jane/copies"), "--html", str(tmp_path / "page.html")]
    assert main([*arguments, "--anonymous"]) == 0
    page = Page((tmp_path / "page.html").read_text())
    assert "jane" not in page.text
    assert str(tmp_path) not in page.text
    shown = "... hydra/launcher=joblib a=... paths.outputs=... teacher=r-18/x pool.root=... seed=1"
    assert page.tables["Finished runs"][1][:2] == [shown, "9"]
    (failed,) = page.tables["Failed, interrupted and running runs"][1:]
    assert failed[1:3] == ["1", "failed"]
    assert "being copies: 0." in page.text
    assert failed[-1] == "Expected an image, but ... is none (see ...)"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("read /a/b.", "read ..."),
        ("lr 1/2 of cifar10/x", "lr 1/2 of cifar10/x"),
        ("'/a b/c', then ../d", "..., then ..."),
        ("file:/a or ~/b (/c)", "file:... or ... (...)"),
        ("the student's outputs/r1: '/h/jane/x' is none", "the student's outputs/r1: ... is none"),
        ('"/h/o\'jane/x" and `/h/jane`', "... and ..."),
        ("</h/jane/x> | a=/h/jane @/h/jane", "<...> | a=... @..."),
        ("-I/h/jane '/h/jane", "-I... '..."),
        ("root=data/../../jane/x or ./../jane", "root=... or ..."),
        ("$HOME/jane ${HOME}/jane ~jane", "... ... ..."),
    ],
)
def test_paths_of_a_message_are_hidden(text: str, shown: str) -> None:
    assert without_paths(text) == shown


def test_commands_keep_their_words_only() -> None:
    typed = "python '/srv/my jane/bin/kdci' a=1 'b=/home/jane doe' pool.root=~/d"
    assert without_values(typed) == "python ... a=1 b=... pool.root=..."
    assert without_values("kdci a='b") == "..."


def test_commands_name_no_group() -> None:
    hidden = [
        "logger.wandb.entity",
        "logger.wandb.project",
        "plugins",
        "+hydra.launcher.account",
        "hydra.launcher.partition",
        "++hydra.launcher.qos",
        "dataset.root",
        "substitution.pool.root",
        "teacher.checkpoint",
        "paths.outputs",
    ]
    for option in hidden:
        assert without_values(f"kdci {option}=smithlab seed=1") == f"kdci {option}=... seed=1"
    kept = "kdci logger=wandb hydra/launcher=slurm teacher.lr=0.1 dataset=cifar10 paths --multirun"
    assert without_values(kept) == kept


def test_anonymity_needs_a_page(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(outputs), "--anonymous"]) == 2
    assert "Expected --anonymous with --html" in capsys.readouterr().err


def test_only_failures_make_a_page_too(tmp_path: Path, make_summary: Any) -> None:
    page = page_of(write(tmp_path / "outputs", make_summary(status="failed", error="boom")))
    assert [name for _, name in page.headings][1:] == ["What ran", "Not finished"]


def test_without_anything_beside_the_summaries_only_tables_and_gains_are_left(
    tmp_path: Path, make_summary: Any, make_kdci: Any
) -> None:
    page = page_of(write(tmp_path / "outputs", make_summary(80.0), make_kdci(81.0)))
    names = [name for level, name in page.headings if level == 3]
    assert names[:3] == ["Gains and accuracies", "Paired gains", "Cost per stage"]


def test_a_folder_without_runs_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), "--html", str(tmp_path / "page.html")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: Expected at least one summary.json below")
    assert error.count("\n") == 1
    assert not (tmp_path / "page.html").exists()


def test_a_missing_library_is_one_line(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "src.report.page.render", raising=False)
    monkeypatch.delattr("src.report.page.render", raising=False)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert main([str(outputs), "--html", "page.html"]) == 2
    error = capsys.readouterr().err
    cure = "run `pip install -e '.[train]'` in the program's folder"
    assert error == f"Error: Expected jinja2 to be installed; {cure}\n"


def test_tsne_needs_something_to_stand_on(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(outputs), "--tsne"]) == 2
    assert "Expected --tsne with --html or --figures" in capsys.readouterr().err


def test_figures_as_files(tmp_path: Path, make_summary: Any, make_kdci: Any) -> None:
    root, folder = tmp_path / "outputs", tmp_path / "new/figures"
    write(root, make_summary(80.0), make_kdci(81.0))
    assert main([str(root), "--figures", str(folder)]) == 0
    stem = "digits_convnet_m_97_25_convnet_s_budget_laptop_replay_gains"
    names = {f"{stem}.{kind}" for kind in ("png", "pdf", "svg")}
    assert {path.name for path in folder.iterdir()} == names
    # A data set that stands before it renames nothing.
    write(root, *(make(80.0, dataset="cifar10") for make in (make_summary, make_kdci)))
    assert main([str(root), "--figures", str(folder)]) == 0
    names |= {name.replace("digits", "cifar10") for name in names}
    assert {path.name for path in folder.iterdir()} == names


def test_files_of_figures_that_would_have_one_name_are_numbered(
    tmp_path: Path, make_summary: Any, make_kdci: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that differ in other than letters only, in case only, or after 80 characters."""
    monkeypatch.setattr(render, "save", lambda figure, stem: [stem])
    titles = ["a:b", "a b", "A b", "x" * 80 + "1", "x" * 80 + "2", "a_b_gains_2"]
    runs = [make(80.0, dataset=title) for title in titles for make in (make_summary, make_kdci)]
    sections = sections_of(read_summaries([write(tmp_path / "outputs", *runs)]).summaries)
    written = [path.name.lower() for path in save_figures(sections, tmp_path)]
    assert len(set(written)) == len(written) == len(titles)
    (plot,) = (plot for topic in sections[0].topics for plot in topic.plots)
    names = ["a.b", "a b", "a b_2", "a b"]
    topic = Topic("t", plots=[plot._replace(name=name) for name in names])
    stems = [path.name for path in save_figures([Section("s", "1", [topic])], tmp_path)]
    assert stems == ["s_a_b", "s_a_b_2", "s_a_b_2_2", "s_a_b_3"]


def test_figures_name_what_tells_a_row_from_most(
    tmp_path: Path, make_summary: Any, make_kdci: Any
) -> None:
    options = [{"attention": "additive"}, {"attention": "random"}, {"N": 32}, {"N": 64}]
    runs = [make_kdci(80.0 + n, kdci=options[n]) for n in range(4)]
    root = write(tmp_path / "outputs", make_summary(80.0), *runs)
    (section,) = sections_of(read_summaries([root]).summaries)
    gains = next(plot for topic in section.topics for plot in topic.plots if plot.name == "gains")
    assert gains.alt.endswith(
        "dafl backdoor, N=16: +0.00; dafl backdoor, N=16 attention=random: +1.00; "
        "dafl backdoor, N=32: +2.00; dafl backdoor, N=64: +3.00."
    )


def test_figures_keep_apart_what_only_looks_alike(
    tmp_path: Path, make_summary: Any, make_kdci: Any
) -> None:
    """Of two options with one last name, and of one that some rows lack."""
    runs: list[Any] = [make_summary(80.0)]
    for count in (8, 16):
        for key in ("kdci.a.size", "kdci.b.size"):
            sizes = {"kdci.a.size": 1, "kdci.b.size": 1} | {key: 2}
            runs.append(make_kdci(80.0 + len(runs), kdci={"N": count}, settings=sizes))
    root = write(tmp_path / "outputs", *runs)
    (section,) = sections_of(read_summaries([root]).summaries)
    plots = {plot.name: plot for topic in section.topics for plot in topic.plots}
    (axes,) = plots["gain_over_n_dafl"].figure.axes
    assert [list(line[0].get_ydata()) for line in axes.containers] == [[2, 4], [1, 3]]


def test_figures_call_no_other_seed_the_seed(tmp_path: Path, make_summary: Any) -> None:
    runs = [make_summary(80.0 + seed, settings={"teacher.seed": seed}) for seed in (0, 1)]
    root = tmp_path / "outputs"
    for number, run in enumerate(runs):
        write_run(root / str(number), run)
    said = plots_of(root)["curves_dafl"].alt
    assert "vanilla teacher.seed=0: 80.00" in said
    assert "vanilla teacher.seed=1: 81.00" in said


def test_every_figure_of_the_page_has_a_file_name_of_its_own(outputs: Path) -> None:
    (section,) = sections_of(read_summaries([outputs]).summaries)
    assert [plot.name for topic in section.topics for plot in topic.plots] == [
        "gains", "over_n_dafl", "gain_over_n_dafl", "curves_dafl", "classes_dafl", "agreement",
        "prototypes_dafl",
    ]  # fmt: skip


def test_teachers_that_a_title_does_not_tell_apart_share_a_section(
    tmp_path: Path, make_summary: Any, make_kdci: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "save", lambda figure, stem: [stem])
    root = tmp_path / "outputs"
    for acc1, sha256 in ((97.251, "ab12"), (97.249, "cd34")):
        for number, baseline in enumerate(("cmi", "dafl")):
            teacher = {"acc1": acc1, "sha256": sha256}
            options = {"baseline": baseline, "teacher": teacher}
            for run in (make_summary(80.0, **options), make_kdci(81.0 + number, **options)):
                write_run(root / str(len(list(root.glob("*")))), run)
    (section,) = sections_of(read_summaries([root]).summaries)
    plots = [plot.name for topic in section.topics for plot in topic.plots]
    assert len(plots) == len(set(plots))
    assert {"curves_cmi", "curves_dafl"} <= set(plots)
    assert not any(path.name.endswith("_2") for path in save_figures([section], tmp_path))


def plots_of(root: Path) -> dict[str, Plot]:
    (section,) = sections_of(read_summaries([root]).summaries)
    return {plot.name: plot for topic in section.topics for plot in topic.plots}


def test_vanilla_settings_are_named_and_leave_room_for_lines(
    tmp_path: Path, make_summary: Any, make_kdci: Any
) -> None:
    rates = [{"student.lr": 0.1 * (place + 1)} for place in range(8)]
    runs = [make_summary(70.0 + place, settings=rate) for place, rate in enumerate(rates)]
    runs += [make_kdci(80.0, kdci={"N": size}) for size in (8, 16)]
    plot = plots_of(write(tmp_path / "outputs", *runs))["over_n_dafl"]
    _, said = plot.alt.split("percent. ")
    assert said.startswith("vanilla lr=0.1: 70.00; vanilla lr=0.2: 71.00; ")
    assert said.endswith("; backdoor, N=8: 80.00; backdoor, N=16: 80.00.")
    assert said.count("vanilla") == 4
    assert plot.caption.endswith(" 4 more settings are not drawn.")


def test_learning_curves_are_of_the_runs_that_reach_the_end(
    tmp_path: Path, make_summary: Any
) -> None:
    root = tmp_path / "outputs"
    for seed in (0, 1):
        write_run(root / str(seed), make_summary(80.0 + seed, seed=seed))
    whole, damaged = (root / f"{seed}/metrics/stage_b/metrics.csv" for seed in (0, 1))
    head, *lines = whole.read_text().splitlines(keepends=True)
    damaged.write_text("".join([head, *lines[:2], "1,"]))
    assert "vanilla: 80.00 at the end" in plots_of(root)["curves_dafl"].alt
    whole.write_text("".join([head, *lines[2:]]))  # now they share no epoch
    assert "vanilla: 80.00 at the end" in plots_of(root)["curves_dafl"].alt


def test_tsne_sets_a_student_beside_the_vanilla_one_that_it_is_paired_with(
    tmp_path: Path, make_summary: Any, make_kdci: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    monkeypatch.setattr(tsne, "read_features", lambda folder: read.append(folder.name))
    other = {"student.lr": 0.2}  # its vanilla run stands in the last row
    root = write(
        tmp_path / "outputs", make_summary(80.0), make_summary(70.0, settings=other), make_kdci(81)
    )
    sections_of(read_summaries([root]).summaries, with_tsne=True)
    assert read == ["0", "2"]


@pytest.mark.slow
def test_tsne_is_shown_where_it_is_asked_for(outputs: Path) -> None:
    page = page_of(outputs, "--tsne")
    assert any(caption.startswith("dafl, seed 0: features of up") for caption in page.captions)


def test_figures_want_a_folder(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(outputs), "--figures", str(outputs / "0/summary.json")]) == 2
    assert "Expected the name of a folder" in capsys.readouterr().err


@pytest.mark.slow
def test_two_hundred_runs_are_all_there(tmp_path: Path, make_summary: Any, make_kdci: Any) -> None:
    folders = write_runs(tmp_path / "outputs", make_summary, make_kdci, 200)
    page = page_of(tmp_path / "outputs")
    rows = page.tables["Finished runs"][1:]
    assert {row[1] for row in rows} == set(map(str, folders))
    assert len(page.tables["Accuracies"]) == 2 + 40  # two heads
    assert len(page.text) < 5_000_000


def test_a_run_shows_what_was_typed(make_summary: MakeSummary) -> None:
    named = make_summary(80.0)
    assert command_of(named).startswith("python -m src.run dataset=digits baseline=")
    typed = {**named, "command": "python -m src.run kdci.N=7"}
    assert command_of(typed) == "python -m src.run kdci.N=7"  # type: ignore[arg-type]
