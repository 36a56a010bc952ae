"""Figures of results: numbers in, a matplotlib ``Figure`` out. Call within ``draw.style()``."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from src.report.page.canvas import INK, PALETTE, SOFT, Look, blank, fitted, legend, looks

_ASIDE = 0.015  # of the axis, so that intervals do not hide each other


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


def forest(effects: Sequence[Effect]) -> Figure:
    """Paired gains, one row each: every pair's dot, their mean and its 95% interval."""
    figure, axes = blank(0.9 + 0.42 * len(effects))
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
    return fitted(figure)


def over_prototypes(bands: Sequence[Line], lines: Sequence[Line]) -> Figure:
    """Accuracy over N: a line with intervals each, vanilla as horizontal bands.

    Args:
        bands: Vanilla runs; of each only the first point counts.
        lines: ``x`` is N.
    """
    figure, axes = blank(2.9)
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
    legend(axes)
    return fitted(figure)


def gain_lines(lines: Sequence[Line], over: str, *, doubling: bool = False) -> Figure:
    """Gains over something: a line with intervals each.

    Args:
        lines: ``mean``, ``low`` and ``high`` in points.
        over: What ``x`` is.
        doubling: Whether ``x`` grows by doubling.
    """
    figure, axes = blank(2.9)
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
    legend(axes)
    return fitted(figure)


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
    figure, axes = blank(2.9)
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
    legend(axes)
    return fitted(figure)


def _spread_out(count: int) -> NDArray[np.float64]:
    """Small steps up and down, so that equal dots are seen to be several."""
    return 0.05 * (np.arange(count, dtype=np.float64) % 3 - 1)
