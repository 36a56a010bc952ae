import re
from math import nan
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from src.report.page.canvas import INK, looks
from src.report.page.draw import inline_svg, save, style
from src.report.page.figure import Effect, Line, forest, learning_curves, over_prototypes
from src.report.page.inside_figure import class_bars, class_dots, prototypes, scatter
from src.report.page.tsne import embed

VANILLA = Line("vanilla", True, [nan], [80.0], [79.0], [81.0])


@pytest.fixture
def effects() -> Figure:
    with style():
        pair = Effect("dafl N=16", [1.0, 3.0], 2.0, -10.7, 14.7)
        return forest([pair, Effect("$x_1$ <b>", [6.0], 6.0, None, None)])


def test_a_forest_has_every_dot_mean_and_interval(effects: Figure) -> None:
    (axes,) = effects.axes
    drawn = [list(map(float, np.atleast_1d(line.get_xdata()))) for line in axes.lines]
    assert drawn == [[1.0, 3.0], [-10.7, 14.7], [2.0], [6.0], [6.0], [0, 0]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["dafl N=16", "$x_1$ <b>"]
    assert "points" in axes.get_xlabel()


def test_vanilla_is_a_band_over_n() -> None:
    with style():
        line = Line("backdoor", False, [8, 64], [80.5, 82.0], [80.0, nan], [81.0, nan])
        (axes,) = over_prototypes([VANILLA], [line]).axes
    (band,) = axes.patches
    assert band.get_extents().height > 0
    assert [label.get_text() for label in axes.get_xticklabels()] == ["8", "64"]
    assert axes.get_xscale() == "log"
    assert axes.get_ylabel() == "test accuracy, %"


def test_curves_are_told_apart_without_colour() -> None:
    found = looks([True, False, False, True])
    assert [look.color == INK for look in found] == [True, False, False, True]
    assert len({(look.color == INK, look.dash) for look in found}) == 4
    with style():
        lines = [Line("a", False, [1, 2], [1, 2], [0, 1], [2, 3]), VANILLA._replace(x=[1])]
        (axes,) = learning_curves(lines).axes
    assert len(axes.collections) == 2  # bands


def test_a_tall_legend_leaves_the_axes_their_height() -> None:
    heights = []
    for count in (2, 8):
        label = "backdoor, N=16 strength=1\nattention=random "
        with style():
            figure = learning_curves(
                [
                    Line(f"{label}{n}", False, [1, 2], [n, 2], [nan] * 2, [nan] * 2)
                    for n in range(count)
                ]
            )
        (axes,) = figure.axes
        heights.append(axes.get_window_extent().height)
        legend = axes.get_legend()
        assert legend is not None
        assert legend.get_window_extent().y1 <= figure.bbox.y1
    assert heights[1] == pytest.approx(heights[0])


@pytest.mark.parametrize("count", [4, 100])
def test_classes_have_bars_or_many_an_outline(count: int) -> None:
    names, share = [f"class {number}" for number in range(count)], [1 / count] * count
    with style():
        (axes,) = class_bars(names, share, share).axes
        (dots,) = class_dots(names, {"dafl": share, "fast": share}, "share").axes
    assert len(axes.patches) == (8 if count == 4 else 2)
    assert len(dots.lines) == 2


def test_prototypes_have_priors_and_a_map_of_classes() -> None:
    classes = np.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
    with style():
        top, below, _ = prototypes([0.25, 0.75], None, classes).axes
    assert [bar.get_height() for bar in top.patches] == [0.25, 0.75]
    assert np.array_equal(below.images[0].get_array(), classes.T)


def test_inline_svg_belongs_to_its_page(effects: Figure) -> None:
    text = inline_svg(effects, "f1")
    assert text.startswith("<svg ")
    assert text.endswith("</svg>")
    assert "$x_1$ &lt;b&gt;" in text  # text, neither a formula nor a tag
    assert "http" not in text
    assert INK not in text
    assert "currentColor" in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert all(each.startswith("f1-") for each in ids)
    assert set(re.findall(r"(?:href=\"#|url\(#)([^\")]+)", text)) <= set(ids)


def test_files_are_whole_and_the_same_each_time(effects: Figure, tmp_path: Path) -> None:
    first = {path.suffix: path.read_bytes() for path in save(effects, tmp_path / "a.b")}
    assert {suffix: data[:4] for suffix, data in first.items()} == {
        ".png": b"\x89PNG",
        ".pdf": b"%PDF",
        ".svg": b"<?xm",
    }
    assert b"/Type3" not in first[".pdf"]
    assert first == {path.suffix: path.read_bytes() for path in save(effects, tmp_path / "a.b")}
    assert {path.name for path in tmp_path.iterdir()} == {"a.b.png", "a.b.pdf", "a.b.svg"}


def test_a_name_in_a_script_that_the_font_lacks_warns_nobody() -> None:
    with style():
        figure = forest([Effect("日本", [1.0], 1.0, None, None)])
    assert "日本" in inline_svg(figure, "f")


def test_scatter_numbers_its_classes() -> None:
    points, labels = np.array([[0.0, 0.0], [1.0, 1.0], [3.0, 1.0]]), np.array([0, 7, 7])
    with style():
        (axes,) = scatter({"vanilla": points}, {"vanilla": labels}).axes
    assert [(text.get_text(), text.get_position()) for text in axes.texts] == [
        ("0", (0.0, 0.0)),
        ("7", (2.0, 1.0)),
    ]


def test_embedding_repeats_and_takes_few_points() -> None:
    features = np.random.default_rng(0).normal(size=(6, 3))
    plane = embed(features)
    assert plane.shape == (6, 2)
    assert np.array_equal(plane, embed(features))
    assert embed(features[:2]).shape == (2, 2)
