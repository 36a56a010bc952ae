"""The wheel: the same source under another import name, beside somebody's own ``src``."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

from src.common.package import ROOT


def _load() -> ModuleType:
    # Without setuptools, which would replace distutils for all later tests of this process.
    spec = importlib.util.spec_from_file_location("kdci_tree", ROOT / "package/kdci_tree.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TREE = _load()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package ``kdci`` as the wheel holds it."""
    folder = tmp_path_factory.mktemp("site")
    TREE.write_tree(ROOT, folder)
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Somebody's working directory, with a package ``src`` of their own."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src/__init__.py").write_text("raise RuntimeError('somebody else')")
    return tmp_path


def run(site: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    # Isolated from PYTHONPATH and from the editable installation's `src`, but for this folder.
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r}); sys.argv = ['kdci', *{list(words)!r}];"
        "from kdci.__main__ import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("text", "renamed"),
    [
        ("from src.a import b", "from kdci.a import b"),
        ("from src import a", "from kdci import a"),
        ("import src.a.b", "import kdci.a.b"),
        ("_target_: src.a.B", "_target_: kdci.a.B"),
        ("run `python -m src.run`", "run `python -m kdci.run`"),
        ('kdci = "src.__main__:main"', 'kdci = "kdci.__main__:main"'),
        ("in ``src/a.py`` and src", "in ``src/a.py`` and src"),
        ("https://x/src.git lib_src.a a.src.b", "https://x/src.git lib_src.a a.src.b"),
    ],
)
def test_modules_are_renamed_and_nothing_else(text: str, renamed: str) -> None:
    assert TREE.renamed(text) == renamed


def test_all_that_is_renamed_is_a_module_of_ours(site: Path) -> None:
    own = {path.stem for path in (ROOT / "src").iterdir()} | {"x"}  # src.x: an example
    for folder in ("src", "conf", "experiments"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".yaml", ".toml"}:
                found = re.findall(r"(?<![\w./-])src\.([a-z_]+)", path.read_text())
                assert set(found) <= own, path


def test_no_module_is_left_out(site: Path) -> None:
    ours = {path.relative_to(ROOT / "src") for path in (ROOT / "src").rglob("*.py")}
    theirs = {path.relative_to(site / "kdci") for path in (site / "kdci").rglob("*.py")}
    assert ours == theirs
    assert (site / "kdci/teacher/checkpoints.toml").is_file()
    assert not re.search(r"^(from|import) src\b", _sources(site), re.MULTILINE)


def _sources(site: Path) -> str:
    return "\n".join(path.read_text() for path in (site / "kdci").rglob("*.py"))


def test_it_composes_beside_another_src(site: Path, elsewhere: Path) -> None:
    done = run(site, elsewhere, "experiments=ablation", "--cfg", "job", "baseline=cmi")
    assert done.returncode == 0, done.stderr
    assert "_target_: kdci.baseline.cmi.CMI" in done.stdout


def test_its_targets_are_its_own(site: Path, elsewhere: Path) -> None:
    done = run(site, elsewhere, "baseline._target_=src.baseline.dafl.DAFL")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "src.baseline.dafl.DAFL" in done.stderr


@pytest.mark.parametrize(("typed", "offered"), [("exp", "experiments="), ("rep", "")])
def test_tab_offers_options_and_no_folder_of_modules(
    typed: str, offered: str, site: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMP_LINE", f"kdci {typed}")
    monkeypatch.setenv("COMP_POINT", str(len(f"kdci {typed}")))
    assert run(site, elsewhere, "-sc", "query=bash").stdout.strip() == offered


def test_report_is_a_word_of_the_command(site: Path, elsewhere: Path) -> None:
    done = run(site, elsewhere, "report", "nowhere")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: Expected a run folder")


def test_without_its_extras_it_says_what_to_install(site: Path, elsewhere: Path) -> None:
    (elsewhere / "rich.py").write_text("raise ModuleNotFoundError(name='rich')")
    code = (
        f"import sys; sys.path[:0] = [{str(elsewhere)!r}, {str(site)!r}];"
        "sys.argv = ['kdci', 'report', '.']; from kdci.__main__ import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=False)
    cure = "run `pip install 'kdci[train]'`"
    assert (done.returncode, done.stderr) == (
        2,
        f"Error: Expected rich to be installed; {cure}\n",
    )


@pytest.mark.slow
def test_the_wheel_runs_where_it_is_installed(elsewhere: Path, tmp_path: Path) -> None:
    """Built and installed by pip; libraries are those of this environment."""
    wheels, venv = tmp_path / "wheels", tmp_path / "venv"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(ROOT)]
    subprocess.run([*pip, *build], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    python = venv / "bin/python"
    (wheel,) = wheels.iterdir()
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", str(wheel)], check=True)
    (folder,) = venv.glob("lib/python*/site-packages")
    libraries = next(path for path in map(Path, sys.path) if path.name == "site-packages")
    (folder / "libraries.pth").write_text(str(libraries))  # `.pth` files there are not followed
    command = [str(venv / "bin/kdci"), "budget=smoke", "trainer.progress=false"]
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (summary,) = elsewhere.glob("outputs/digits_dafl_backdoor/*/summary.json")
    load = f"from kdci.deploy.student import load_student; load_student({str(summary.parent)!r})"
    subprocess.run([str(python), "-c", load], cwd=elsewhere, check=True)
    report = [str(python), "-m", "kdci", "report", "outputs"]
    shown = subprocess.run(report, cwd=elsewhere, capture_output=True, text=True, check=True)
    assert "dafl" in shown.stdout
    from src.deploy.student import load_student

    assert load_student(summary.parent).predict is not None  # a clone reads the wheel's card


def test_what_is_set_up_is_pinned_hashed_and_within_the_bounds() -> None:
    """``make setup`` installs requirements.txt; ``make lock`` writes it again."""
    text = (ROOT / "requirements.txt").read_text()
    blocks = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in block for block in blocks)
    pinned: dict[str, set[str]] = {}
    for block in blocks:
        requirement = Requirement(block.split("\\")[0])
        (version,) = requirement.specifier
        assert version.operator == "=="
        pinned.setdefault(requirement.name, set()).add(version.version)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    for line in [*project["dependencies"], *chain.from_iterable(extras)]:
        wanted = Requirement(line)
        if wanted.name != "kdci":
            assert all(version in wanted.specifier for version in pinned[wanted.name]), line
