"""The tables for a paper, in LaTeX with the rules of the package booktabs."""

import re
from collections.abc import Sequence
from itertools import groupby

from src.report.aggregate import Row
from src.report.block import Block, Part, blocks, notes

_ESCAPED = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
_MINUS = re.compile(r"(?<!\w)-(?=\d)")


def latex_table(rows: Sequence[Row]) -> str:
    """One ``table`` of booktabs rules for each block: accuracies, gains and cost below another."""
    return "\n".join([r"% needs \usepackage{booktabs}", *map(_table, blocks(rows))])


def _table(block: Block) -> str:
    gap = r"\par\medskip"
    lines = [r"\begin{table}", r"\centering", r"\small", rf"\caption{{{_escaped(block.title)}}}"]
    for part in block.parts:
        lines += [*_tabular(part), gap]
    text = " ".join(map(_escaped, notes(block.rows)))
    lines += [rf"\parbox{{\linewidth}}{{\footnotesize {text}}}", r"\end{table}", ""]
    return "\n".join(lines)


def _tabular(part: Part) -> list[str]:
    columns = "l" * part.text_columns + "r" * (len(part.header) - part.text_columns)
    header = [name.replace("\n", " ") for name in part.header]
    groups = [
        "\n".join(map(_line, lines)) for _, lines in groupby(part.lines, key=lambda line: line[0])
    ]
    return [
        rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
        r"\toprule",
        _line(header),
        r"\midrule",
        "\n\\addlinespace\n".join(groups),
        r"\bottomrule",
        r"\end{tabular}",
    ]


def _line(cells: Sequence[str]) -> str:
    return " & ".join(map(_escaped, cells)) + r" \\"


def _escaped(text: str) -> str:
    marked = "".join(_ESCAPED.get(character, character) for character in text)
    return _MINUS.sub("$-$", marked)
