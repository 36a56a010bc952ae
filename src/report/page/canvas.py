"""What all figures share: colours and marks, axes, legend, and how they fill their frame."""

from collections.abc import Sequence
from itertools import cycle
from typing import NamedTuple, cast

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's, told apart by the colour-blind, without its yellow, which is faint on white.
# Vanilla has the colour of the text, which `draw` adapts to dark pages.
INK, SOFT = "#1b1b1d", "#8c8c90"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
WIDTH = 4.1  # inches; small, so that letters stay readable where a phone shrinks the figure
_DASHES = ("-", ":", "-.", "--")
_MARKERS = "osD^vP"
_LEGEND = 18  # letters in a label, two of which fit beside each other
_ROOM = 0.75  # inches of a figure's height that are a legend's


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


def blank(height: float) -> tuple[Figure, Axes]:
    """A figure of this many inches, and its axes."""
    figure = Figure(figsize=(WIDTH, height))
    return figure, figure.add_subplot()


def fitted(figure: Figure) -> Figure:
    """Axes as large as their letters leave them: once, so that every format is alike.

    A constrained layout is solved at each drawing, and takes longer than all the rest of it.
    """
    for _ in range(2):  # other axes can have other ticks, with longer letters
        figure.tight_layout(pad=0.4)
    return figure


def legend(axes: Axes) -> None:
    """Above the axes, where there is more than one label; the figure grows by a tall one."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        is_long = max(len(line) for label in labels for line in label.split("\n")) > _LEGEND
        made = axes.legend(
            handles,
            labels,
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            ncols=1 if is_long else 2,
            frameon=False,
        )
        figure = cast("Figure", axes.figure)
        tall = made.get_window_extent().height / figure.dpi
        figure.set_figheight(figure.get_figheight() + max(0.0, tall - _ROOM))
