import json
import os
from pathlib import Path

import pytest

from src import naming
from src.common.errors import UserError
from tests.compose import composed, plain


def test_the_resolved_configuration_is_plain_and_without_hydra() -> None:
    resolved = plain("distill.steps_per_epoch=7")
    assert "hydra" not in resolved
    assert resolved["distill"]["scheduler"]["T_max"] == 7
    assert json.loads(json.dumps(resolved)) == resolved


def name_of(task: str, *overrides: str) -> naming.RunName:
    return naming.RunName(task, dict(composed(*overrides).hydra.runtime.choices))


def test_run_folders_are_named_by_choices() -> None:
    assert name_of("distill").folder == "digits_dafl_backdoor"
    assert name_of("distill", "baseline=cmi", "kdci=none").folder == "digits_cmi_none"
    assert name_of("teacher").folder == "teacher_digits_convnet_m"


def memory_of(*overrides: str) -> Path | None:
    config = composed(*overrides)
    return naming.memory_of(plain(*overrides), dict(config.hydra.runtime.choices))


def test_an_identity_is_remembered_for_one_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    first = memory_of()
    assert first == memory_of()
    assert first is not None
    assert first.parent == Path("cache/identity")
    assert memory_of("kdci.N=3") != first
    assert memory_of("paths.outputs=elsewhere") != first
    here = [("library_versions", {"torch": "99"}), ("_processor", "flags: few")]
    for name, value in (*here, ("_gpus", ["/dev/nvidia0", "driver"])):
        with monkeypatch.context() as patch:
            patch.setattr(naming, name, lambda value=value: value)
            assert memory_of() != first


def test_without_a_cache_nothing_is_remembered() -> None:
    for broken in ({}, {"paths": None}, {"paths": "x"}, {"paths": {}}, {"paths": {"cache": 3}}):
        assert naming.memory_of(broken, {}) is None


def test_a_sweep_is_named_by_what_is_asked_and_where(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KDCI_SWEEP", "")
    names = []
    given = ["a=1,2", "b=1,2"], ["a=1,2", "b=1,3"], ["b=1,2", "a=1,2"]
    for asked in (given[0], *given):
        naming.name_sweep(asked)
        names.append(os.environ["KDCI_SWEEP"])
    assert names[0] == names[1]
    monkeypatch.chdir(tmp_path)  # where relative paths lead elsewhere
    naming.name_sweep(given[0])
    names.append(os.environ["KDCI_SWEEP"])
    assert len(set(names)) == 4  # points are numbered in the order of the arguments


def test_another_clone_remembers_for_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = memory_of()
    monkeypatch.setattr(naming, "SOURCE", tmp_path / "src")
    assert memory_of() != first


def test_a_sweep_without_a_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCI_SWEEP", "abc")
    naming.require_sweep()
    monkeypatch.delenv("KDCI_SWEEP")
    with pytest.raises(UserError, match="expected --multirun on the command line"):
        naming.require_sweep()


@pytest.mark.parametrize(
    ("choice", "stated"), [("none", "mine"), ("none", "backdoor"), ("backdoor", "none")]
)
def test_vanilla_runs_are_called_so_and_no_others(choice: str, stated: str) -> None:
    rule = f"with it alone, but got kdci={choice} with kdci.name={stated}; leave kdci.name out"
    with pytest.raises(UserError, match=rule):
        name_of("distill", f"kdci={choice}").require_kdci(stated)


@pytest.mark.parametrize(
    ("choice", "stated"), [("none", "none"), ("backdoor", "backdoor"), ("weighting", "mine")]
)
def test_a_form_may_have_a_name_of_its_own(choice: str, stated: str) -> None:
    name_of("distill", f"kdci={choice}").require_kdci(stated)
