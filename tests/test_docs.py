"""That what the documentation shows runs, and that it cites what the source says it is from."""

import re
import runpy

import pytest
from omegaconf import OmegaConf

from src.common import package


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Lightning's, which the program silences itself
def test_kdci_from_python(capsys: pytest.CaptureFixture[str]) -> None:
    left = runpy.run_path(str(package.ROOT / "docs" / "use_from_python.py"))
    assert left["lesson"].acc1 > 15
    assert left["student"].student_step == left["EPOCHS"] * left["STEPS"]
    assert len(left["dictionary"].prior) == 8
    assert "teacher" in capsys.readouterr().out


@pytest.mark.parametrize("part", ["baseline", "objective", "kdci", "inside"])
def test_every_paper_of_a_method_or_measure_is_cited(part: str) -> None:
    cited = OmegaConf.load(package.ROOT / "CITATION.cff").references
    known = {each.value for paper in cited for each in paper.get("identifiers", ())}
    source = [path.read_text() for path in (package.ROOT / "src" / part).rglob("*.py")]
    named = set(re.findall(r"arXiv:\d{4}\.\d{4,5}", "".join(source)))
    assert named
    assert named <= known


def test_every_word_of_the_makefile_is_told_of() -> None:
    words = re.findall(r"(?m)^([a-z-]+):", (package.ROOT / "Makefile").read_text())
    told = re.findall(r"(?m)^\| `make ([a-z-]+)`", (package.ROOT / "CONTRIBUTING.md").read_text())
    assert sorted(told) == sorted(words)
