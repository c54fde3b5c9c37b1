"""The order of the house: who may import whom, how large things are, what importing may do."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "sinet"

# Low to high; a file imports its own package or lower floors, never a higher or a neighbouring one.
FLOORS = [
    {"errors", "files", "_register"},
    {"layers", "kernels"},
    {"models"},
    {"heads"},
    {"data"},
    {"training"},
    {"tasks"},
    {"compression"},
    {"deployment"},
    {"measurement"},
    {"search", "federated"},
    {"report"},
    {"papers"},
    {"road"},
    {"cli"},
    {"__main__"},
]
FLOOR = {name: height for height, names in enumerate(FLOORS) for name in names}
# Whole-library names that any floor may use: the version, and what imports nothing on its own.
ANYONE = {"errors", "files"}
HEAVY = {"torch", "torchvision", "timm", "lightning", "torchmetrics", "onnx", "onnxruntime",
         "matplotlib", "numpy", "PIL", "jinja2", "pandas"}  # fmt: skip
MAX_FILE, MAX_FUNCTION = 600, 100
RESULT = {"name", "value", "unit", "target", "command", "hardware", "threads", "versions", "date"}

FILES = sorted(SOURCE.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def package_of(path: Path) -> str:
    """`models` for src/sinet/models/x.py, `road` for src/sinet/road.py, "" for the top."""
    first = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import of this library, wherever in the file, relative or not."""
    home = ["sinet", *path.relative_to(SOURCE).with_suffix("").parts][:-1]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "sinet":
                    yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = home[: len(home) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module.split(".")[0] != "sinet":
                continue
            for alias in node.names:  # `from sinet import road` names a floor only in the alias
                yield node.lineno, f"{module}.{alias.name}" if module == "sinet" else module


def broken_floors(path: Path) -> list[str]:
    package = package_of(path)
    found = []
    for line, module in imported(path):
        parts = module.split(".")
        other = parts[1] if len(parts) > 1 else ""
        if other in ANYONE or other == package or other not in FLOOR:
            continue
        if FLOOR[other] >= FLOOR[package]:
            found.append(f"{name_of(path)}:{line} imports {module}")
    return found


def is_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def top_imports(path: Path) -> set[str]:
    """First names of what importing the file imports (nothing inside functions)."""
    names: set[str] = set()
    pending: list[ast.stmt] = list(tree_of(path).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or is_type_checking(node):
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
        pending += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
    return names


def test_every_package_has_a_floor() -> None:
    unknown = {package_of(path) for path in FILES} - set(FLOOR) - {""}
    assert not unknown, f"give {unknown} a floor in FLOORS"


# not the top of the library: it re-exports from everywhere, lazily
@pytest.mark.parametrize("path", [path for path in FILES if package_of(path)], ids=name_of)
def test_a_file_imports_only_lower_floors(path: Path) -> None:
    assert not broken_floors(path)


def test_a_broken_floor_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule itself: upwards and sideways is seen, the own package and downwards is not."""
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    file = tmp_path / "models" / "x.py"
    file.parent.mkdir()
    file.write_text(
        "from sinet.layers import a\nfrom . import b\nfrom sinet.models._base import c\n"
        "import sinet.heads\n"
        "def late():\n    from sinet import road\n    from ..data import d\n"
    )
    lines = [line.split(" ")[0].split(":")[1] for line in broken_floors(file)]
    assert sorted(lines) == ["4", "6", "7"]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_stay_readable(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE, f"{lines} lines; the limit is {MAX_FILE}: split it, or move data out"
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION, f"{node.name}: {length} lines, limit {MAX_FUNCTION}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_module_says_what_it_is(path: Path) -> None:
    empty_marker = path.name == "__init__.py" and not path.read_text(encoding="utf-8").strip()
    assert empty_marker or ast.get_docstring(tree_of(path))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_importing_prints_nothing(path: Path) -> None:
    for node in tree_of(path).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            assert ast.unparse(node.value.func) not in ("print", "warnings.warn", "rich.print")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_pickles_are_never_trusted(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if called == "torch.load":
                assert given.get("weights_only") == "True", f"line {node.lineno}"
            if called in ("np.load", "numpy.load"):
                assert given.get("allow_pickle", "False") == "False", f"line {node.lineno}"
            assert called not in ("pickle.load", "pickle.loads"), f"line {node.lineno}"


@pytest.mark.parametrize("path", sorted((SOURCE / "cli").rglob("*.py")), ids=name_of)
def test_a_verb_imports_heavy_things_only_when_it_runs(path: Path) -> None:
    heavy = top_imports(path) & HEAVY
    assert not heavy, f"import {', '.join(sorted(heavy))} inside the function"


def test_the_top_of_the_library_is_light() -> None:
    code = "import sys, sinet; print(*sorted({'torch', 'timm', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_test_folders_mirror_the_packages() -> None:
    folders = {p.name for p in (ROOT / "tests").iterdir() if p.is_dir() and any(p.glob("test_*"))}
    packages = {p.name for p in SOURCE.iterdir() if (p / "__init__.py").exists()}
    assert folders <= packages, f"tests of no package: {folders - packages}"


def test_every_package_has_tests() -> None:
    untested = []
    for package in sorted(SOURCE.iterdir()):
        code = [p for p in package.glob("*.py") if p.stat().st_size > 200]
        if code and not list((ROOT / "tests").glob(f"{package.name}/**/test_*.py")):
            untested.append(package.name)
    assert not untested


def test_every_result_can_be_repeated() -> None:
    for path in sorted((ROOT / "docs" / "results").glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        assert not RESULT - set(result), f"{path.name} lacks {RESULT - set(result)}"
        assert result["name"] == path.stem
        assert isinstance(result["value"], int | float)
        assert result["command"].strip()
