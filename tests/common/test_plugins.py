import sys
from pathlib import Path

import pytest

from src.common.errors import UserError
from src.common.plugins import conf_of, folders_of, is_within, refuse_unfit_plugins


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which Python looks for packages."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def package(path: Path, name: str, *folders: str) -> None:
    for folder in ("", *folders):
        (path / name / folder).mkdir(parents=True)
    (path / name / "__init__.py").write_text("raise RuntimeError('imported')")


@pytest.mark.parametrize(
    "name",
    ["", ".", "a.b", "a.", ".a", "_a", "__main__", "1a", "a-b", "a b", "a/b", "..", "ä", "a\n"],
)
def test_only_a_plain_name_is_a_package(name: str) -> None:
    with pytest.raises(UserError, match="expected the name of a package, without dots"):
        refuse_unfit_plugins([name])


@pytest.mark.parametrize(
    ("name", "whose"),
    [
        ("os", "Python's"),
        ("subprocess", "Python's"),
        ("builtins", "Python's"),
        ("importlib", "Python's"),
        ("src", "the program itself"),
        ("torch", "the program needs torch"),
        ("numpy", "the program needs numpy"),
        ("hydra", "the program needs hydra-core"),
        ("PIL", "the program needs pillow"),
        ("yaml", "the program needs pyyaml"),  # which only what it needs needs
        ("pip", "the program needs pip"),
        ("pytest", "the program needs pytest"),
    ],
)
def test_what_is_no_package_of_ones_own_is_refused(name: str, whose: str) -> None:
    with pytest.raises(UserError) as caught:
        refuse_unfit_plugins([name])
    assert str(caught.value).startswith(f"Refused 'plugins=[{name}]': expected a package of your")
    assert whose in str(caught.value)


def test_a_package_passes_without_being_imported(path: Path) -> None:
    package(path, "theirs", "conf")
    refuse_unfit_plugins(["theirs"])
    assert folders_of("theirs") == [path / "theirs"]
    assert conf_of(["theirs", "theirs"]) == [path / "theirs" / "conf"]
    assert "theirs" not in sys.modules


def test_a_package_may_have_classes_only(path: Path) -> None:
    package(path, "classes")
    refuse_unfit_plugins(["classes"])
    assert conf_of(["classes"]) == []


def test_a_folder_without_an_init_is_a_package(path: Path) -> None:
    (path / "bare").mkdir()
    refuse_unfit_plugins(["bare"])
    assert folders_of("bare") == [path / "bare"]


def test_a_folder_of_ones_own_may_be_called_as_an_installed_package(path: Path) -> None:
    package(path, "pip")
    refuse_unfit_plugins(["pip"])


def test_what_is_no_folder_or_nowhere_is_refused(path: Path) -> None:
    (path / "single.py").write_text("")
    with pytest.raises(UserError, match=r"a folder of Python files, but got '.*single\.py"):
        refuse_unfit_plugins(["single"])
    with pytest.raises(UserError, match=r"'plugins=\[nowhere\]': Python finds no such package"):
        refuse_unfit_plugins(["nowhere"])


@pytest.mark.parametrize(
    ("target", "expected"),
    [("a.X", True), ("a.b.X", True), ("ab.X", False), ("a", False), ("b.a.X", False)],
)
def test_a_package_stands_for_what_is_within_it(target: str, expected: bool) -> None:
    assert is_within(target, ["a"]) is expected
    assert not is_within(target, [])
