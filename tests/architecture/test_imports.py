"""The shape of the house, read from the source: imports point down, heavy libraries stay behind one module each."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.paths import ROOT

MAX_LINES = 500
MAX_SCRIPT_LINES = 400

# DESIGN 3. A part may import parts of its own floor and of those below, never of one above.
FLOORS = {
    "pipeline": 1,  # the package's own __init__: resolves its names lazily
    "pipeline.neurons": 1,
    "pipeline.io": 1,
    "pipeline.models": 1,
    "pipeline.derived_layers": 1,
    "pipeline.alignment": 1,
    "pipeline.attribution": 1,
    "pipeline.synthesis": 2,
    "pipeline.recipe": 2,
    "pipeline.data": 2,
    "pipeline.activations": 3,
    "pipeline.references": 4,
    "pipeline.evaluation": 4,
    "pipeline.atlas": 4,
    "jobs": 5,
}
# Who may import what. A trailing ".*" means every module of that package.
ONLY_HERE = {
    "ray": ("jobs.*",),
    "zarr": ("pipeline.io.zarr_arrays",),
    "pyarrow": ("pipeline.io.parquet", "pipeline.io.parquet_lookup"),
    "webdataset": ("pipeline.data.shards",),
    "fsspec": ("pipeline.io.remote",),
    "rich": ("jobs.reporting.progress",),
    "open_clip": ("pipeline.evaluation.evaluators.clip",),
    "openTSNE": ("pipeline.atlas.neighbors.projection",),
}
# What a GPU machine without the data libraries needs: no data library may be reached from here.
NUMERICAL = ("pipeline.models", "pipeline.alignment", "pipeline.attribution", "pipeline.synthesis")
DATA_LIBRARIES = {"ray", "zarr", "webdataset"}


@dataclass(frozen=True)
class Import:
    """One import statement's target, by its full name."""

    target: str
    line: int
    at_module_level: bool
    for_types_only: bool


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path
    for package in ("pipeline", "jobs", "atlas_viewer")
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imports_of(name: str) -> Iterator[Import]:
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    yield from _walk(tree, name, top=True, types=False)


def _walk(node: ast.AST, name: str, *, top: bool, types: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        inside_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, top, types)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{name}:{child.lineno}: relative import; imports are written in full"
            for alias in child.names:
                full = f"{child.module}.{alias.name}"
                yield Import(full if full in MODULES else str(child.module), child.lineno, top, types)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for statement in child.body:
                yield from _walk(ast.Module([statement], []), name, top=top, types=True)
            for statement in child.orelse:
                yield from _walk(ast.Module([statement], []), name, top=top, types=types)
        else:
            yield from _walk(child, name, top=top and not inside_function, types=types)


def part_of(module: str) -> str | None:
    """The part of the house a module belongs to: the longest known prefix."""
    pieces = module.split(".")
    for length in range(len(pieces), 0, -1):
        part = ".".join(pieces[:length])
        if part in FLOORS and (part != "pipeline" or length == len(pieces)):
            return part
    return None


def allowed(module: str, homes: tuple[str, ...]) -> bool:
    return any(module == home or (home.endswith(".*") and module.startswith(home[:-1])) for home in homes)


OUR_MODULES = sorted(name for name in MODULES if not name.startswith("atlas_viewer"))


def test_the_parts_of_the_house_are_seen():
    assert {"jobs.engine.work", "pipeline.io.root", "pipeline.neurons"} <= set(MODULES)
    assert part_of("pipeline.activations.store") == "pipeline.activations"
    assert part_of("pipeline.unknown") is None


@pytest.mark.parametrize("name", OUR_MODULES)
def test_every_module_has_a_floor_and_imports_point_down(name):
    part = part_of(name)
    assert part is not None, f"{name} belongs to no floor: give it one in FLOORS (and in the design)"
    for found in imports_of(name):
        if found.target.split(".")[0] not in ("pipeline", "jobs") or found.target == "pipeline":
            continue
        other = part_of(found.target)
        assert other is not None, f"{name}:{found.line} imports {found.target}, which has no floor"
        # Types are checked, not run: a name imported for an annotation alone makes no floor depend on another.
        if not found.for_types_only:
            assert FLOORS[other] <= FLOORS[part], (
                f"{name}:{found.line} (floor {FLOORS[part]}) imports {found.target} (floor {FLOORS[other]})"
            )


@pytest.mark.parametrize("name", OUR_MODULES)
def test_heavy_libraries_stay_behind_their_module(name):
    for found in imports_of(name):
        library = found.target.split(".")[0]
        if library in ONLY_HERE:
            homes = ONLY_HERE[library]
            assert allowed(name, homes), f"{name}:{found.line} imports {library}: only {', '.join(homes)} may"


def test_ray_is_imported_by_its_engine_and_pools_alone_and_never_at_import_time():
    importers = {
        (name, found.at_module_level)
        for name in OUR_MODULES
        for found in imports_of(name)
        if found.target.split(".")[0] == "ray"
    }
    assert importers == {("jobs.engine.ray_engine", False), ("jobs.engine.ray_pools", False)}


def reachable(start: str, *, module_level_only: bool) -> dict[str, str]:
    """Imported module or library → the module that imports it, over all of our modules reachable from `start`."""
    importer: dict[str, str] = {}
    queue = [start]
    while queue:
        name = queue.pop()
        for found in imports_of(name):
            if found.for_types_only or (module_level_only and not found.at_module_level):
                continue
            if found.target not in importer:
                importer[found.target] = name
                if found.target in MODULES:
                    queue.append(found.target)
    return importer


@pytest.mark.parametrize("name", [name for name in OUR_MODULES if part_of(name) in NUMERICAL])
def test_numerical_code_reaches_no_data_library(name):
    for target, importer in reachable(name, module_level_only=True).items():
        assert target.split(".")[0] not in DATA_LIBRARIES, f"{name} reaches {target} through {importer}"


def test_no_import_cycles():
    graph = {
        name: {
            found.target
            for found in imports_of(name)
            if found.target in MODULES and found.at_module_level and not found.for_types_only
        }
        for name in OUR_MODULES
    }
    assert_no_cycles(graph)


def assert_no_cycles(graph: Mapping[str, set[str]]) -> None:
    finished: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        assert name not in path, f"import cycle: {' → '.join([*path[path.index(name) :], name])}"
        if name in finished:
            return
        for target in sorted(graph.get(name, ())):
            if target != name:
                visit(target, [*path, name])
        finished.add(name)

    for name in graph:
        visit(name, [])


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
    assert_no_cycles(imported)


# The viewer's rooms from the bottom up; the pages do not know each other.
ROOMS = {
    "base": 0,
    "data": 1,
    "ui": 2,
    "shell": 4,
    **dict.fromkeys(("gallery", "neuron", "map", "compare", "study", "pages"), 3),
}
# Static and lazy imports, and those of types alone.
SCRIPT_IMPORT = re.compile(r"""\b(?:from|import)\s*\(?\s*['"](\.[^'"]+)['"]""")


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_import_their_own_room_and_lower_ones(name):
    room = name.partition("/")[0]
    assert room in ROOMS, f"{name} stands in no room"
    for target in SCRIPT_IMPORT.findall(SCRIPTS[name].read_text(encoding="utf-8")):
        other = (SCRIPTS[name].parent / target).resolve().relative_to(VIEWER).parts[0]
        assert other in (room, "vendor") or ROOMS[other] < ROOMS[room], f"{name} imports {target}"


def test_all_scripts_stand_in_rooms():
    assert len(ROOMS) == len({name.partition("/")[0] for name in SCRIPTS})
    assert len([name for name in SCRIPTS if "/" not in name]) <= 2


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_stay_readable(name):
    lines = SCRIPTS[name].read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_SCRIPT_LINES, f"{name} has {len(lines)} lines, more than {MAX_SCRIPT_LINES}"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_modules_stay_readable(name):
    lines = MODULES[name].read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_LINES, f"{name} has {len(lines)} lines, more than {MAX_LINES}: one idea per module"
    assert not lines or ast.get_docstring(ast.parse("\n".join(lines))), f"{name} has no docstring"


@pytest.mark.parametrize("name", OUR_MODULES)
def test_no_unfinished_code(name):
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        raised = node.exc if isinstance(node, ast.Raise) else None
        called = raised.func if isinstance(raised, ast.Call) else raised
        assert not (isinstance(called, ast.Name) and called.id == "NotImplementedError"), f"{name}:{node.lineno}"
        if isinstance(node, ast.ExceptHandler):
            silent = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
            assert not (silent and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))), (
                f"{name}:{node.lineno}: an exception of any kind is swallowed"
            )


@pytest.mark.parametrize("module", ["pipeline", "jobs.cli"])
def test_light_imports(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'ray', 'zarr', 'pyarrow', 'timm') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert printed.stdout.strip() == "[]"
