"""Holds the tables of docs/architecture.md: which room may import which, inside of some too; what no room may touch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
AT_ROOT = {"passes", "targets", "tuning"}
SHARED = {"errors", "schema"}

CLOCKS = {"time", "datetime", "timeit"}
FILES = {"os", "io", "pathlib", "shutil", "tempfile", "sqlite3", "subprocess", "socket"}


@dataclass(frozen=True)
class Room:
    rooms: set[str]  # other rooms it may import
    libraries: set[str]  # third-party packages it may import
    lazy: frozenset[str] = frozenset()  # rooms and packages it may import inside functions only
    never: frozenset[str] = frozenset()  # parts of the standard library it must not touch


ENGINE_LIBRARIES = {
    *("tvm", "onnx", "torch", "onnxruntime", "openvino", "nncf", "ai_edge_litert", "litert_torch", "ai_edge_quantizer"),
    *("executorch", "torchao"),
}

TABLE = {
    "errors": Room(set(), set()),
    "schema": Room({"errors"}, set(), lazy=frozenset({"tvm"})),  # Plan.tvm_target()
    "numerics": Room(SHARED, {"numpy"}, never=frozenset(CLOCKS)),
    "select": Room(SHARED, {"numpy", "pulp", "highspy"}, never=frozenset(CLOCKS | FILES)),
    "targets": Room(SHARED, {"tvm"}),
    # google: protobuf's exceptions, which onnx raises for a corrupt file
    "frontends": Room(
        SHARED, {"tvm", "numpy", "onnx", "google", "tflite"}, lazy=frozenset({"torch", "onnxruntime", "ai_edge_litert"})
    ),
    "kernels": Room(SHARED | {"numerics", "targets"}, {"tvm", "numpy"}, never=frozenset(CLOCKS | FILES)),
    "processes": Room(SHARED, set()),
    "scratch": Room(set(), set()),
    "tuning": Room(
        SHARED | {"processes", "scratch", "numerics", "targets", "kernels"},
        {"tvm", "tvm_ffi", "numpy", "xgboost", "scipy", "psutil"},
    ),
    "passes": Room(
        SHARED | {"numerics", "targets", "frontends", "kernels"},
        {"tvm", "tvm_ffi", "numpy"},
        never=frozenset(CLOCKS | FILES),
    ),
    "execute": Room(
        SHARED | {"scratch", "numerics", "targets", "frontends", "kernels", "tuning", "passes"}, {"tvm", "numpy"}
    ),
    "calibrate": Room(
        SHARED | {"numerics", "select", "kernels", "tuning", "passes", "execute"},
        {"tvm", "numpy"},
        lazy=frozenset({"torch"}),
    ),
    "training": Room(
        SHARED | {"scratch", "numerics", "kernels", "passes", "execute", "calibrate"},
        {"tvm", "numpy", "torch"},
    ),
    "agents": Room(SHARED | {"select"}, {"numpy", "torch", "gymnasium", "stable_baselines3"}),
    "costs": Room(SHARED | {"select", "targets", "kernels", "tuning", "execute"}, {"tvm", "numpy"}),
    "simulators": Room(
        SHARED | {"processes", "kernels", "tuning", "costs"}, set(), lazy=frozenset({"zigzag", "scalesim", "yaml"})
    ),
    "report": Room(SHARED, {"rich", "numpy", "jinja2"}),
    "deploy": Room(SHARED | {"report"}, {"numpy", "jinja2"}),
    # The public face; TVM is imported when a function is called.
    "keywords": Room(SHARED, set(), lazy=frozenset({"numpy"})),
    "api": Room(SHARED | {"keywords"}, set(), lazy=frozenset({"pipeline", "report", "typing_extensions"})),
    "pipeline": Room(
        SHARED
        | {
            "scratch",
            "numerics",
            "select",
            "targets",
            "frontends",
            "kernels",
            "tuning",
            "passes",
            "execute",
            "calibrate",
            "costs",
        }
        | {"simulators", "report", "deploy"},
        {"tvm", "tvm_ffi", "numpy", "rich"},
        lazy=frozenset({"training", "agents", "torch", "sklearn"}),
    ),
    # Each engine is a process of its own: nothing but the standard library and numpy at import.
    "peers": Room(
        SHARED | {"processes", "scratch"},
        {"numpy"},
        lazy=frozenset({"pipeline", "calibrate", "execute", "targets", "tuning", *ENGINE_LIBRARIES}),
    ),
    "cli": Room(SHARED | {"scratch"}, {"click", "rich"}, lazy=frozenset({"pipeline", "peers", "report", "targets"})),
}

TABLE_OF_KERNELS = {"features", "emit", "parameters", "work", "registry"}

INSIDE: dict[str, dict[str, Room]] = {  # parts of a room: its folders and files; `__init__` is its face
    "kernels": {
        "order": Room(set(), set()),
        "features": Room(set(), set()),
        "emit": Room(set(), {"tvm", "numpy"}),
        "parameters": Room({"emit"}, set()),
        "work": Room({"emit", "parameters"}, {"numpy"}),
        "registry": Room({"order", "parameters", "work"}, {"tvm", "numpy"}),
        "shapes": Room(TABLE_OF_KERNELS, set()),
        "packing": Room(TABLE_OF_KERNELS | {"shapes"}, {"numpy"}),
        "frames": Room(TABLE_OF_KERNELS | {"shapes", "packing"}, {"tvm", "numpy"}),
        "machines": Room(TABLE_OF_KERNELS | {"shapes", "packing", "frames"}, {"tvm", "numpy"}),
        "knobs": Room(TABLE_OF_KERNELS | {"shapes", "packing", "frames", "machines"}, set()),
        "families": Room(TABLE_OF_KERNELS | {"shapes", "packing", "frames", "machines", "knobs"}, {"tvm", "numpy"}),
        "__init__": Room({"registry", "families"}, set()),
    },
    "tuning": {
        "compile": Room(set(), {"tvm", "tvm_ffi", "numpy"}),
        "devices": Room({"compile"}, {"tvm", "numpy"}),
        "measure": Room({"devices"}, {"tvm", "numpy"}),
        "database": Room(set(), set()),
        "predictor": Room(set(), {"numpy", "xgboost", "scipy"}),
        "__init__": Room(set(), set()),
    },
}


@dataclass(frozen=True)
class Import:
    module: str  # dotted, absolute
    lazy: bool  # inside a function, or for type checkers only
    line: int


def source_files(*rooms: str) -> list[Path]:
    """All but the public face tvm_mpq/__init__.py, which is in no room; what importing it costs is tested below."""
    files = sorted(p for folder in ("tvm_mpq", *AT_ROOT) for p in (ROOT / folder).rglob("*.py"))
    inside = [p for p in files if p != ROOT / "tvm_mpq" / "__init__.py"]
    return [p for p in inside if not rooms or room_of(p) in rooms]


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    name = parts[0] if parts[0] in AT_ROOT else parts[1]
    return name.removesuffix(".py")


def part_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return parts[1 if parts[0] in AT_ROOT else 2].removesuffix(".py")


def imports_of(source: str) -> Iterator[Import]:
    def walk(node: ast.AST, lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(a.name, lazy, child.lineno) for a in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"line {child.lineno}: rooms import each other by full name, not relatively"
                if child.module == "tvm_mpq":
                    yield from (Import(f"tvm_mpq.{a.name}", lazy, child.lineno) for a in child.names)
                else:
                    yield Import(child.module or "", lazy, child.lineno)
            else:
                function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
                yield from walk(child, lazy or function or typing_only)

    yield from walk(ast.parse(source), lazy=False)


def complaints(room: str, source: str) -> list[str]:
    """What `source`, standing in `room`, imports against the table."""
    row = TABLE[room]
    found = []
    for item in imports_of(source):
        top, *rest = item.module.split(".")
        if top == "tvm_mpq":
            name, allowed = (rest or ["tvm_mpq"])[0], row.rooms | {room}
        elif top in sys.stdlib_module_names:
            if top in row.never:
                found.append(f"line {item.line}: {room} never touches {top}")
            continue
        else:
            name, allowed = top, row.libraries
        if name not in allowed | (row.lazy if item.lazy else set()):
            when = " outside a function" if name in row.lazy else ""
            found.append(f"line {item.line}: {room} may not import {item.module}{when}")
    return found


def complaints_inside(room: str, part: str, source: str) -> list[str]:
    """What `source`, standing in a part of `room`, imports against the table of the room's inside."""
    row = INSIDE[room][part]
    found = []
    for item in imports_of(source):
        top, *rest = item.module.split(".")
        if top == "tvm_mpq" and rest[:1] == [room]:
            name = (*rest, "__init__")[1]
            allowed = name in row.rooms | {part}
        else:
            allowed = top in row.libraries | {"tvm_mpq"} | sys.stdlib_module_names
        if not allowed:
            found.append(f"line {item.line}: {room}/{part} may not import {item.module}")
    return found


@pytest.mark.parametrize("path", source_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_table(path: Path) -> None:
    room = room_of(path)
    assert room in TABLE, f"{path} is in no room of the table: add it to docs/architecture.md and here"
    assert complaints(room, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", source_files(*INSIDE), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_inside_a_room_follow_its_table(path: Path) -> None:
    room, part = room_of(path), part_of(path)
    assert part in INSIDE[room], f"{path} is in no part of {room}: add it to docs/architecture.md and here"
    assert complaints_inside(room, part, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("room", "part", "source"),
    [
        ("kernels", "emit", "from tvm_mpq.kernels.shapes.geometry import BLOCK"),
        ("kernels", "packing", "import tvm"),
        ("kernels", "packing", "from tvm_mpq.kernels.frames import machine"),
        ("kernels", "frames", "def f():\n    from tvm_mpq.kernels.machines.vnni512 import dot"),
        ("kernels", "families", "from tvm_mpq.kernels import candidates"),
        ("tuning", "database", "from tvm_mpq.tuning.measure import kernels"),
        ("tuning", "predictor", "import tvm_mpq.tuning.database.store"),
    ],
)
def test_a_forbidden_import_inside_a_room_is_found(room: str, part: str, source: str) -> None:
    assert len(complaints_inside(room, part, source)) == 1


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("numerics", "import tvm"),
        ("select", "from tvm_mpq.targets import rows"),
        ("select", "import time"),
        ("passes", "from pathlib import Path"),
        ("passes", "from tvm_mpq import tuning"),
        ("tuning", "import tvm_mpq.passes.normalize"),
        ("kernels", "def f():\n    from tvm_mpq.passes import normalize"),
        ("cli", "import tvm_mpq.pipeline"),
        ("schema", "import tvm"),
    ],
)
def test_a_forbidden_import_is_found(room: str, source: str) -> None:
    assert len(complaints(room, source)) == 1


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("cli", "def f():\n    import tvm_mpq.pipeline"),
        ("schema", "def f():\n    import tvm"),
        ("passes", "from tvm_mpq.numerics import affine\nfrom tvm import relax"),
        ("select", "from tvm_mpq import schema\nimport numpy as np\nimport math"),
    ],
)
def test_an_allowed_import_is_not(room: str, source: str) -> None:
    assert complaints(room, source) == []


@pytest.mark.parametrize("table", [TABLE, *INSIDE.values()], ids=["rooms", *INSIDE])
def test_the_table_has_no_circle(table: dict[str, Room]) -> None:
    done: set[str] = set()
    while len(done) < len(table):
        ready = {name for name, row in table.items() if name not in done and row.rooms <= done}
        assert ready, f"these import each other: {sorted(set(table) - done)}"
        done |= ready


LIGHT = ["errors", "schema", "cli", "report", "deploy", "select", "numerics", "targets"]


@pytest.mark.parametrize("module", ["tvm_mpq", *(f"tvm_mpq.{m}" for m in LIGHT)])
def test_import_does_not_load_tvm(module: str) -> None:
    """`tvm-mpq --help` and `tvm-mpq targets` answer at once."""
    code = f"import sys, {module}; print('tvm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("False", "")
