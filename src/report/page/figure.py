"""Figures: numbers in, a matplotlib ``Figure`` out. Call these within ``draw.style()``."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

# Okabe and Ito's, told apart by the colour-blind, without its yellow, which is faint on white.
# Vanilla has the colour of the text, which `draw` adapts to dark pages.
INK, SOFT = "#1b1b1d", "#8c8c90"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES = ("-", ":", "-.", "--")
_MARKERS = "osD^vP"
_WIDTH = 4.1  # inches; small, so that letters stay readable where a phone shrinks the figure
_BARS = 30  # classes; more are drawn as one outline
_ASIDE = 0.015  # of the axis, so that intervals do not hide each other
_LEGEND = 18  # letters in a label, two of which fit beside each other
_LETTERS = 40  # of all class names, that fit beside each other


class Effect(NamedTuple):
    """Paired gains of one setting, in points; the ends are None where pairs are too few."""

    label: str
    gains: Sequence[float]
    mean: float
    low: float | None
    high: float | None


class Line(NamedTuple):
    """A curve with its band; ``low`` and ``high`` are NaN where nothing is known of the spread."""

    label: str
    is_vanilla: bool
    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


class Look(NamedTuple):
    """How a curve is told from the others, in colour and without."""

    color: str
    dash: str
    marker: str


def looks(are_vanilla: Sequence[bool]) -> list[Look]:
    """One look each: the ink for vanilla, the palette for the others."""
    others = iter(cycle(zip(PALETTE, _MARKERS, strict=True)))
    # Dashed and on top, vanilla leaves what lies below to be seen.
    dashes = {True: iter(cycle(_DASHES[::-1])), False: iter(cycle(_DASHES))}
    found = []
    for vanilla in are_vanilla:
        color, marker = (INK, "o") if vanilla else next(others)
        found.append(Look(color, next(dashes[vanilla]), marker))
    return found


def forest(effects: Sequence[Effect]) -> Figure:
    """Paired gains, one row each: every pair's dot, their mean and its 95% interval."""
    figure, axes = _blank(0.9 + 0.42 * len(effects))
    for place, effect in enumerate(effects):
        spread = _spread_out(len(effect.gains))
        axes.plot(effect.gains, place + 0.16 + spread, "o", color=SOFT, markersize=3.2)
        if effect.low is not None and effect.high is not None:
            axes.plot([effect.low, effect.high], [place - 0.16] * 2, color=PALETTE[0], lw=2)
        axes.plot(effect.mean, place - 0.16, "D", color=PALETTE[0], markersize=5.5)
    axes.axvline(0, color=INK, lw=0.8, zorder=0)
    axes.set_yticks(range(len(effects)), [effect.label for effect in effects])
    axes.set_ylim(len(effects) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_xlabel("gain over vanilla, points")
    return _fitted(figure)


def over_prototypes(bands: Sequence[Line], lines: Sequence[Line]) -> Figure:
    """Accuracy over N: a line with intervals each, vanilla as horizontal bands.

    Args:
        bands: Vanilla runs; of each only the first point counts.
        lines: ``x`` is N.
    """
    figure, axes = _blank(2.9)
    styles = looks([line.is_vanilla for line in (*bands, *lines)])
    for band, look in zip(bands, styles, strict=False):
        axes.axhline(band.mean[0], color=look.color, ls=look.dash, lw=1.2, label=band.label)
        if np.isfinite(band.low[0]):
            axes.axhspan(band.low[0], band.high[0], color=look.color, alpha=0.12, lw=0)
    for line, look in zip(lines, styles[len(bands) :], strict=True):
        _error_bars(axes, line, look)
    _doubling(axes, sorted({x for line in lines for x in line.x}))
    axes.set_xlabel("prototypes, N")
    axes.set_ylabel("test accuracy, %")
    axes.grid(axis="y")
    _legend(axes)
    return _fitted(figure)


def gain_lines(lines: Sequence[Line], over: str, *, doubling: bool = False) -> Figure:
    """Gains over something: a line with intervals each.

    Args:
        lines: ``mean``, ``low`` and ``high`` in points.
        over: What ``x`` is.
        doubling: Whether ``x`` grows by doubling.
    """
    figure, axes = _blank(2.9)
    scale = np.log2 if doubling else np.asarray
    ticks = sorted({x for line in lines for x in line.x})
    span = _ASIDE * float(scale(ticks[-1]) - scale(ticks[0]))
    for place, (line, look) in enumerate(zip(lines, looks([False] * len(lines)), strict=True)):
        x = scale(line.x) + span * (place - (len(lines) - 1) / 2)
        _error_bars(axes, line._replace(x=list(2**x if doubling else x)), look)
    if doubling:
        _doubling(axes, ticks)
    axes.axhline(0, color=INK, lw=0.8, zorder=0)
    axes.set_xlabel(over)
    axes.set_ylabel("gain over vanilla, points")
    axes.grid(axis="y")
    _legend(axes)
    return _fitted(figure)


def _doubling(axes: Axes, ticks: Sequence[float]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def _error_bars(axes: Axes, line: Line, look: Look) -> None:
    mean = np.asarray(line.mean)
    error = np.vstack([mean - np.asarray(line.low), np.asarray(line.high) - mean])
    axes.errorbar(
        line.x, mean, yerr=error, color=look.color, ls=look.dash, marker=look.marker,
        markersize=4, capsize=2.5, lw=1.4, label=line.label,
    )  # fmt: skip


def learning_curves(lines: Sequence[Line]) -> Figure:
    """Test accuracy over epochs: mean of the seeds and their range."""
    figure, axes = _blank(2.9)
    for line, look in zip(lines, looks([line.is_vanilla for line in lines]), strict=True):
        axes.plot(
            line.x, line.mean, color=look.color, ls=look.dash, lw=1.4, label=line.label,
            marker=look.marker if len(line.x) < 3 else "", markersize=4,
            zorder=3 if line.is_vanilla else 2,
        )  # fmt: skip
        if np.isfinite(line.low).any():
            axes.fill_between(line.x, line.low, line.high, color=look.color, alpha=0.15, lw=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("epoch of the student")
    axes.set_ylabel("test accuracy, %")
    axes.grid(axis="y")
    _legend(axes)
    return _fitted(figure)


def class_bars(
    names: Sequence[str], original: Sequence[float], substitution: Sequence[float]
) -> Figure:
    """Shares of the K classes in the substitution images, beside those of the original ones."""
    figure, axes = _blank(2.5)
    values = {"original": original, "substitution": substitution}
    for place, (label, shares) in enumerate(values.items()):
        color, alpha = ((INK, 0.45), (PALETTE[0], 1.0))[place]
        if len(names) > _BARS:
            edges = np.arange(len(names) + 1) - 0.5
            axes.stairs(shares, edges, color=color, lw=1.1, label=label, alpha=alpha)
        else:
            at = np.arange(len(names)) + 0.4 * place - 0.2
            axes.bar(at, shares, 0.4, color=color, label=label, alpha=alpha)
    axes.set_ylabel("share of the images")
    _name_classes(axes, names)
    _legend(axes)
    return _fitted(figure)


def class_dots(names: Sequence[str], values: Mapping[str, Sequence[float]], unit: str) -> Figure:
    """Values of the K classes, a mark for each label."""
    figure, axes = _blank(2.9)
    width = 0.6 / len(values)
    for place, (look, (label, found)) in enumerate(
        zip(looks([False] * len(values)), values.items(), strict=True)
    ):
        at = np.arange(len(names)) + (place - (len(values) - 1) / 2) * width
        axes.plot(at, found, look.marker, color=look.color, markersize=3.5, label=label)
    axes.set_ylabel(unit)
    _name_classes(axes, names)
    _legend(axes)
    return _fitted(figure)


def prototypes(
    prior: Sequence[float], attention: Sequence[float] | None, classes: NDArray[np.float64]
) -> Figure:
    """Prior of each prototype, the attention it got, and below them the classes it stands for.

    Args:
        prior: N shares.
        attention: N shares, or None.
        classes: ``[N, K]`` shares of the classes in a prototype's cluster.
    """
    figure = Figure(figsize=(_WIDTH, 3.4))
    top, below, bar = figure.subplots(3, 1, height_ratios=(1, 1.4, 0.08))
    below.sharex(top)
    top.tick_params(labelbottom=False)
    place = np.arange(len(prior)) + 1
    top.bar(place, prior, 0.8, color=PALETTE[0], label="prior")
    if attention is not None:
        top.plot(place, attention, "D", color=PALETTE[1], markersize=3.5, label="mean attention")
    top.set_ylabel("share")
    top.grid(axis="y")
    _legend(top)
    image = below.imshow(
        classes.T, aspect="auto", cmap="cividis", vmin=0, vmax=1, interpolation="nearest",
        extent=(0.5, len(prior) + 0.5, classes.shape[1] - 0.5, -0.5),
    )  # fmt: skip
    below.set_xlabel("prototype")
    below.set_ylabel("class")
    for axis in (below.xaxis, below.yaxis):
        axis.set_major_locator(MaxNLocator(8, integer=True))
    figure.colorbar(image, cax=bar, location="bottom", label="share of the prototype")
    return _fitted(figure)


def scatter(
    panels: Mapping[str, NDArray[np.float64]], labels: Mapping[str, NDArray[np.int64]]
) -> Figure:
    """Points in the plane, coloured by class; of few classes, each has its number at its middle.

    Args:
        panels: Title to ``[n, 2]``.
        labels: Title to classes ``[n]``.
    """
    figure = Figure(figsize=(_WIDTH, 2.7))
    for axes, (title, points) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        found = labels[title]
        colors = [PALETTE[label % len(PALETTE)] for label in found]
        axes.scatter(*points.T, c=colors, s=4, linewidths=0, rasterized=True)
        _write_labels(axes, points, found)
        axes.set_title(title)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    return _fitted(figure)


def _blank(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height))
    return figure, figure.add_subplot()


def _fitted(figure: Figure) -> Figure:
    """Axes as large as their letters leave them: once, so that every format is alike.

    A constrained layout is solved at each drawing, and takes longer than all the rest of it.
    """
    for _ in range(2):  # other axes can have other ticks, with longer letters
        figure.tight_layout(pad=0.4)
    return figure


def _spread_out(count: int) -> NDArray[np.float64]:
    """Small steps up and down, so that equal dots are seen to be several."""
    return 0.05 * (np.arange(count, dtype=np.float64) % 3 - 1)


def _write_labels(axes: Axes, points: NDArray[np.float64], labels: NDArray[np.int64]) -> None:
    classes = np.unique(labels)
    for label in classes if len(classes) <= _BARS else ():
        x, y = np.median(points[labels == label], axis=0)
        axes.text(x, y, str(label), ha="center", va="center", weight="bold")


def _name_classes(axes: Axes, names: Sequence[str]) -> None:
    axes.set_ylim(bottom=0)
    axes.set_xlabel("class")
    axes.grid(axis="y")
    if len(names) <= _BARS:
        is_long = sum(map(len, names)) > _LETTERS
        axes.set_xticks(range(len(names)), names, rotation=90 if is_long else 0)


def _legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        is_long = max(len(line) for label in labels for line in label.split("\n")) > _LEGEND
        axes.legend(
            handles,
            labels,
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            ncols=1 if is_long else 2,
            frameon=False,
        )
