"""The shape of the house, read from the source; import-linter (pyproject.toml) holds which room may import which."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.support.paths import ROOT

MAX_LINES = 500
MAX_SCRIPT_LINES = 400
PACKAGES = ("pipeline", "jobs", "atlas_viewer")
# Loose files that may stand beside the rooms: ids and errors; the command line and the runner.
LOOSE = {"pipeline": {"neurons.py", "errors.py"}, "jobs": {"cli.py", "runner.py"}, "atlas_viewer": set()}
# Where imports of our own modules may stand inside functions: light modules, an optional extra, and torchvision, which
# takes as long to import as torch and is not needed by every network.
LIGHT = {"pipeline", "jobs.cli", "pipeline.evaluation.evaluators.load", "pipeline.models.attention"}
MAX_SHARE_INSIDE_FUNCTIONS = 0.05


@dataclass(frozen=True)
class Import:
    """One import of a module of ours."""

    importer: str
    target: str
    line: int
    in_function: bool


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def own_imports(name: str, node: ast.AST | None = None, *, in_function: bool = False) -> Iterator[Import]:
    for child in ast.iter_child_nodes(TREES[name] if node is None else node):
        if isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{name}:{child.lineno}: relative import; imports are written in full"
            targets = [str(child.module)]
        else:
            targets = [alias.name for alias in child.names] if isinstance(child, ast.Import) else []
        for target in targets:
            if target.split(".")[0] in PACKAGES:
                yield Import(name, target, child.lineno, in_function)
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from own_imports(name, child, in_function=in_function or is_function)


@pytest.mark.parametrize("package", LOOSE)
def test_files_stand_in_rooms(package):
    suffix = "*.js" if package == "atlas_viewer" else "*.py"
    assert {path.name for path in (ROOT / package).glob(suffix)} - {"__init__.py"} == LOOSE[package]


def test_own_imports_stand_at_the_top_of_the_file():
    found = [found for name in MODULES for found in own_imports(name)]
    inside = [found for found in found if found.in_function]
    assert {found.importer for found in inside} <= LIGHT, [f"{one.importer}:{one.line}" for one in inside]
    assert len(inside) <= MAX_SHARE_INSIDE_FUNCTIONS * len(found)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_module_of_ours_is_imported_by_a_string(name):
    """Import-linter cannot see them. Only the package's own lazy names and a user's factory are loaded so."""
    if name in ("pipeline", "pipeline.models.python_factory"):
        return
    for node in ast.walk(TREES[name]):
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        assert called.split(".")[-1] not in ("import_module", "__import__"), f"{name}:{node.lineno}: {called}"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_modules_stay_readable(name):
    lines = MODULES[name].read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_LINES, f"{name} has {len(lines)} lines, more than {MAX_LINES}: one idea per module"
    assert not lines or ast.get_docstring(TREES[name]), f"{name} has no docstring"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_unfinished_code(name):
    for node in ast.walk(TREES[name]):
        raised = node.exc if isinstance(node, ast.Raise) else None
        called = raised.func if isinstance(raised, ast.Call) else raised
        assert not (isinstance(called, ast.Name) and called.id == "NotImplementedError"), f"{name}:{node.lineno}"
        if isinstance(node, ast.ExceptHandler):
            silent = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
            assert not (silent and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))), (
                f"{name}:{node.lineno}: an exception of any kind is swallowed"
            )


@pytest.mark.parametrize("module", ["pipeline", "pipeline.recipe.recipe", "jobs.cli"])
def test_light_imports(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'ray', 'zarr', 'pyarrow', 'timm') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert printed.stdout.strip() == "[]"


VIEWER = ROOT / "atlas_viewer"
SCRIPTS = {
    path.relative_to(VIEWER).as_posix(): path
    for path in sorted(VIEWER.rglob("*.js"))
    if path.parent != VIEWER / "vendor"
}


def test_the_viewer_s_scripts_import_one_another_without_circles():
    static = re.compile(r"^(?:import|[^'\n]*\bfrom) '(\.[^']+)'", re.MULTILINE)
    imported = {
        name: {
            (path.parent / target).resolve().relative_to(VIEWER).as_posix()
            for target in static.findall(path.read_text(encoding="utf-8"))
        }
        for name, path in SCRIPTS.items()
    }
    assert len(imported["shell/main.js"]) > 3
    assert set().union(*imported.values()) <= set(SCRIPTS)
    tuple(TopologicalSorter(imported).static_order())  # raises CycleError with the circle


# The viewer's rooms from the bottom up; the pages do not know each other.
VIEWER_ROOMS = {
    "base": 0,
    "data": 1,
    "ui": 2,
    **dict.fromkeys(("gallery", "neuron", "map", "compare", "study", "pages"), 3),
    "shell": 4,
}
# Static and lazy imports, and those of types alone.
SCRIPT_IMPORT = re.compile(r"""\b(?:from|import)\s*\(?\s*['"](\.[^'"]+)['"]""")


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_import_their_own_room_and_lower_ones(name):
    room = name.partition("/")[0]
    assert room in VIEWER_ROOMS, f"{name} stands in no room"
    for target in SCRIPT_IMPORT.findall(SCRIPTS[name].read_text(encoding="utf-8")):
        other = (SCRIPTS[name].parent / target).resolve().relative_to(VIEWER).parts[0]
        assert other in (room, "vendor") or VIEWER_ROOMS[other] < VIEWER_ROOMS[room], f"{name} imports {target}"


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_stay_readable(name):
    lines = SCRIPTS[name].read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_SCRIPT_LINES, f"{name} has {len(lines)} lines, more than {MAX_SCRIPT_LINES}"
