"""That what the documentation shows runs."""

import runpy

import pytest

from src.common import package


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Lightning's, which the program silences itself
def test_kdci_from_python(capsys: pytest.CaptureFixture[str]) -> None:
    left = runpy.run_path(str(package.ROOT / "docs" / "use_from_python.py"))
    assert left["lesson"].acc1 > 15
    assert left["student"].student_step == left["EPOCHS"] * left["STEPS"]
    assert len(left["dictionary"].prior) == 8
    assert "teacher" in capsys.readouterr().out
