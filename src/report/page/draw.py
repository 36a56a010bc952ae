"""Figures as inline SVG for a page, and as files for a paper."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from src.common.files import atomic_write
from src.report.page.canvas import INK, SOFT

_STYLE: dict[str, Any] = {
    "font.size": 9.5,
    "axes.titlesize": 9.5,
    "legend.fontsize": 8.5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "none",  # a page's own; files are white
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": SOFT,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.6,
    "text.parse_math": False,  # names come from users; a dollar is a dollar
    "svg.hashsalt": "kdci",  # of ids, random otherwise
    "pdf.fonttype": 42,
}
# Without a date, the same figure is the same file.
_FORMATS: dict[str, dict[str, Any]] = {
    "png": {"dpi": 200},
    "pdf": {"metadata": {"CreationDate": None}},
    "svg": {"metadata": {"Date": None}},
}
_HEAD = re.compile(r"^.*?(?=<svg)|<metadata>.*?</metadata>|<!--.*?-->", re.DOTALL)
_SIZE = re.compile(r'(<svg [^>]*?)width="[\d.]+pt" height="[\d.]+pt"')
_NAMESPACE = re.compile(r'\sxmlns(:\w+)?="[^"]*"')
_REFERENCE = re.compile(r'(\bid="|(?:xlink:)?href="#|url\(#)')


@contextmanager
def style(fonts: str = "path") -> Iterator[None]:
    """How figures look, while the block lasts; they are to be made and drawn within.

    Args:
        fonts: Of SVG: ``path`` draws letters anywhere alike, ``none`` leaves text to the page.
    """
    settings = cast("Any", {**_STYLE, "svg.fonttype": fonts})  # keys are literals to matplotlib
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # Of a name in a script that the font lacks: on a page the browser's font has it.
        warnings.filterwarnings("ignore", r"Glyph \d+", UserWarning)
        yield


def inline_svg(figure: Figure, prefix: str) -> str:
    """An ``<svg>`` for HTML: no header, ids of its own, in the page's font and colour.

    Args:
        figure: What to draw.
        prefix: Of its ids, which all figures of a page share otherwise.
    """
    stream = io.StringIO()
    with style("none"):
        # `savefig` would draw everything twice.
        FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None})  # type: ignore[no-untyped-call]
    text = _HEAD.sub("", stream.getvalue())
    text = _NAMESPACE.sub("", _SIZE.sub(r"\1", text))
    text = _REFERENCE.sub(rf"\g<1>{prefix}-", text).replace("xlink:href", "href")
    return text.replace(INK, "currentColor").strip()


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write ``stem`` with ``.png``, ``.pdf`` and ``.svg``, and return these paths.

    Raises:
        UserError: If the disk does not take them.
    """
    written = []
    for suffix, options in _FORMATS.items():
        path = stem.with_name(f"{stem.name}.{suffix}")
        with style(), atomic_write(path) as temporary:
            figure.savefig(temporary, format=suffix, facecolor="white", **options)
        written.append(path)
    return written
