import ast
from pathlib import Path

import pytest

from src.common import provenance
from src.common.provenance import library_versions, source_files, source_hash

FILES = {
    "__init__.py": "",
    "network/__init__.py": '"""Networks."""',
    "network/a.py": "from src.common import tools\nimport torch\nA = 1",
    "network/b.py": "B = 1",
    "network/lazy.py": "def f():\n    from src.network import b\n    return b",
    "network/typed.py": (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from src.network import b\n"
    ),
    "network/round.py": "import src.network.round\nimport src.network.a",
    "common/__init__.py": "",
    "common/tools.py": "T = 1",
}


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small source tree in place of ours."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(provenance, "SOURCE", tmp_path)
    return tmp_path


def edit_changes(source: Path, name: str, root: str) -> bool:
    before = source_hash([root])
    (source / name).write_text("EDITED = 1")
    return source_hash([root]) != before


@pytest.mark.parametrize(
    ("name", "root", "counts"),
    [
        ("network/a.py", "src.network.a", True),
        ("common/tools.py", "src.network.a", True),
        ("network/__init__.py", "src.network.a", False),  # nobody has imported the package
        ("network/b.py", "src.network.a", False),
        ("network/new.py", "src.network.a", False),
        ("network/b.py", "src.network.lazy", True),
        ("network/__init__.py", "src.network.lazy", True),
        ("network/b.py", "src.network.typed", False),
        ("common/tools.py", "src.network.round", True),
    ],
)
def test_what_is_imported_counts_and_nothing_else(
    source: Path, name: str, root: str, counts: bool
) -> None:
    assert edit_changes(source, name, root) is counts


def test_a_module_can_count_alone(source: Path) -> None:
    before = source_hash([], ["src.network.a"])
    (source / "common/tools.py").write_text("EDITED = 1")
    assert source_hash([], ["src.network.a"]) == before
    (source / "network/a.py").write_text("EDITED = 1")
    assert source_hash([], ["src.network.a"]) != before


def test_comments_docstrings_and_layout_do_not_count(source: Path) -> None:
    before = source_hash(["src.network.b"])
    (source / "network/b.py").write_text('"""Words."""\n\n# more\nB   =   (\n    1)\n')
    assert source_hash(["src.network.b"]) == before


def test_python_s_minor_version_does_not_count(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Functions and classes have one more field since 3.12, which is nearly always empty."""
    before = source_hash(["src.network.lazy"])
    parse, fields = ast.parse, ast.FunctionDef._fields

    def newer(text: str) -> ast.Module:
        tree = parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                vars(node)["type_params"] = []
        return tree

    monkeypatch.setattr(ast, "parse", newer)
    newer_fields = tuple(dict.fromkeys((*fields, "type_params")))
    monkeypatch.setattr(ast.FunctionDef, "_fields", newer_fields)
    provenance._parsed.cache_clear()
    assert source_hash(["src.network.lazy"]) == before


def test_the_version_of_a_computing_library_counts(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads_torch, does_not = source_hash(["src.network.a"]), source_hash(["src.network.b"])
    monkeypatch.setattr(provenance, "version", lambda name: f"{name} 99")
    assert source_hash(["src.network.a"]) != reads_torch
    assert source_hash(["src.network.b"]) == does_not


def test_the_order_of_the_roots_is_irrelevant(source: Path) -> None:
    roots = ["src.network.a", "src.network.b"]
    assert source_hash(roots) == source_hash(reversed(roots))


def test_the_files_are_those_of_this_program() -> None:
    files = source_files()
    assert Path(provenance.__file__).resolve() in files
    assert all(path.suffix == ".py" for path in files)


def test_versions_are_those_that_are_installed() -> None:
    assert all(library_versions().values())
