import re
from typing import Any

from src.report.aggregate import aggregate
from src.report.latex import latex_table

# What TeX reads as something else than text, if it is not escaped.
SPECIAL = re.compile(r"(?<!\\)[&%$#_{}~^]")


def test_one_table_per_block_in_booktabs_style(make_summary: Any, make_kdci: Any) -> None:
    runs = [make_summary(80.0), make_kdci(79.0), make_summary(70.0, baseline="cmi")]
    text = latex_table(aggregate([*runs, make_summary(90.0, budget="paper")]))
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 5  # no gain without pairs
    assert text.count(r"\addlinespace") == 2  # between two baselines
    caption = (
        r"\caption{digits: convnet\_m (97.25) -\textgreater{} convnet\_s, budget laptop, replay}"
    )
    assert caption in text
    too_small = " & ".join(["n too small"] * 3)
    assert rf"dafl & backdoor & 16 & 1 & $-$1.00 (n=1) & {too_small} \\" in text
    assert r"95\% interval" in text


def test_every_line_has_the_columns_that_its_table_declares(
    make_summary: Any, make_kdci: Any
) -> None:
    runs = [make_summary(80.0), make_kdci(81.0), make_kdci(82.0, kdci={"N": 4})]
    tables = re.findall(
        r"\\begin\{tabular\}\{@\{\}([lr]+)@\{\}\}(.*?)\\end\{tabular\}",
        latex_table(aggregate(runs)),
        re.DOTALL,
    )
    assert len(tables) == 3
    for columns, body in tables:
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(lines) >= 3
        assert {line.count(" & ") for line in lines} == {len(columns) - 1}


def test_settings_cannot_be_read_as_commands(make_summary: Any) -> None:
    hostile = r"\input{x} & 50% $a_b^c$ #1 ~ <|>"
    runs = [make_summary(settings={"name": name}, seed=0) for name in (hostile, "plain")]
    lines = latex_table(aggregate(runs)).splitlines()
    line = next(line for line in lines if "textbackslash" in line)
    assert r" & name=\textbackslash{}input\{x\} \& 50\% \$a\_b" in line
    words = re.sub(r"\\text\w+\{\}", "", line).replace(" & ", " ").replace(r"$\pm$", "")
    assert not SPECIAL.search(words)
