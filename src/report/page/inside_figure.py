"""Figures of the inside of runs: classes, prototypes, features. Call within ``draw.style()``."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from src.report.page.canvas import INK, PALETTE, WIDTH, blank, fitted, legend, looks

_BARS = 30  # classes; more are drawn as one outline
_LETTERS = 40  # of all class names, that fit beside each other


def class_bars(
    names: Sequence[str], original: Sequence[float], substitution: Sequence[float]
) -> Figure:
    """Shares of the K classes in the substitution images, beside those of the original ones."""
    figure, axes = blank(2.5)
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
    legend(axes)
    return fitted(figure)


def class_dots(names: Sequence[str], values: Mapping[str, Sequence[float]], unit: str) -> Figure:
    """Values of the K classes, a mark for each label."""
    figure, axes = blank(2.9)
    width = 0.6 / len(values)
    for place, (look, (label, found)) in enumerate(
        zip(looks([False] * len(values)), values.items(), strict=True)
    ):
        at = np.arange(len(names)) + (place - (len(values) - 1) / 2) * width
        axes.plot(at, found, look.marker, color=look.color, markersize=3.5, label=label)
    axes.set_ylabel(unit)
    _name_classes(axes, names)
    legend(axes)
    return fitted(figure)


def prototypes(
    prior: Sequence[float], attention: Sequence[float] | None, classes: NDArray[np.float64]
) -> Figure:
    """Prior of each prototype, the attention it got, and below them the classes it stands for.

    Args:
        prior: N shares.
        attention: N shares, or None.
        classes: ``[N, K]`` shares of the classes in a prototype's cluster.
    """
    figure = Figure(figsize=(WIDTH, 3.4))
    top, below, bar = figure.subplots(3, 1, height_ratios=(1, 1.4, 0.08))
    below.sharex(top)
    top.tick_params(labelbottom=False)
    place = np.arange(len(prior)) + 1
    top.bar(place, prior, 0.8, color=PALETTE[0], label="prior")
    if attention is not None:
        top.plot(place, attention, "D", color=PALETTE[1], markersize=3.5, label="mean attention")
    top.set_ylabel("share")
    top.grid(axis="y")
    legend(top)
    image = below.imshow(
        classes.T, aspect="auto", cmap="cividis", vmin=0, vmax=1, interpolation="nearest",
        extent=(0.5, len(prior) + 0.5, classes.shape[1] - 0.5, -0.5),
    )  # fmt: skip
    below.set_xlabel("prototype")
    below.set_ylabel("class")
    for axis in (below.xaxis, below.yaxis):
        axis.set_major_locator(MaxNLocator(8, integer=True))
    figure.colorbar(image, cax=bar, location="bottom", label="share of the prototype")
    return fitted(figure)


def scatter(
    panels: Mapping[str, NDArray[np.float64]], labels: Mapping[str, NDArray[np.int64]]
) -> Figure:
    """Points in the plane, coloured by class; of few classes, each has its number at its middle.

    Args:
        panels: Title to ``[n, 2]``.
        labels: Title to classes ``[n]``.
    """
    figure = Figure(figsize=(WIDTH, 2.7))
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
    return fitted(figure)


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
