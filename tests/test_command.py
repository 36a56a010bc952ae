"""What the program prints when it is asked about itself."""

import os
import subprocess
import sys

from src.common import package


def printed(*arguments: str, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "src.run", *arguments],
        cwd=package.ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_help_begins_with_examples_and_words_and_ends_with_the_groups() -> None:
    text = printed("--help", "baseline=cmi")
    first, keys, groups = text.split("\n== ")[2:]
    assert "python -m src.run --multirun" in text.split("== Words")[0]
    assert first.startswith("Words ==")
    methods = "cmi, cudfkd, dafl, deepinv, dfad, dfnd, dfq, fast, mosaickd, nayer, spaceshipnet"
    assert methods + ", zskt" in " ".join(first.split())
    assert keys.startswith("Every key")
    assert "_target_: src.baseline.cmi.CMI" in keys
    assert "recipe: " in groups
    assert max(len(line) for line in text.split("== Every key")[0].splitlines()) <= 80


def test_tab_completes_options_and_keys() -> None:
    line = "kdci baseline=cm"
    found = printed("-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)))
    assert found.split() == ["baseline=cmi"]
