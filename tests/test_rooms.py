"""The rooms of `core` and the wings of `tracking`: every import points down, also inside functions and for types."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Room -> the rooms that it may import. What lies at the top of core (`errors`, `modules`, `networks/`, ...) serves all.
CORE: dict[str, set[str]] = {
    "storage": set(),
    "report": {"storage"},
    "command_line": {"storage"},
    "training": {"storage"},
    "graph": set(),
    "surgery": {"graph", "storage"},
    "widths": {"surgery", "graph", "storage"},
    "export": {"surgery", "graph", "storage", "command_line"},
    "methods": {"widths", "surgery", "graph", "training", "storage"},
    "experiments": {"methods", "widths", "surgery", "graph", "training", "storage", "command_line", "report"},
}
CORE_TOP = {
    "__init__",
    "differences",
    "errors",
    "interruption",
    "modules",
    "tables",
    "terminal",
    "timing",
    "workers",
    "networks",
}
CORE_COMMANDS = {"channels", "inspect"}  # at the top of core, and free to import every room

TRACKING: dict[str, set[str]] = {
    "files": set(),
    "datasets": {"files"},
    "evaluation": {"datasets", "files"},
    "dimp": {"datasets", "files"},
    "online": {"dimp", "datasets", "files"},
    "training": {"dimp", "datasets", "evaluation", "files"},
    "experiment": {"training", "online", "dimp", "evaluation", "datasets", "files"},
}
TRACKING_COMMANDS = {"run", "train", "track", "eval", "export", "check_dataset", "convert"}

# (importing file, room): arrows upwards that a promised name asks for -> the one module at their end, which is imported
# for types and at the first call alone.
EXCEPTIONS = {
    ("core/graph/channels.py", "surgery"): "core.surgery.verification",  # ChannelGraph.verify(model, x)
}


def imported(path: Path) -> set[str]:
    """Dotted names of the modules and of the names that a file imports, wherever in it that stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
    return found


def rooms_used(path: Path, package: str, rooms: set[str]) -> set[str]:
    parts = [name.split(".") for name in imported(path)]
    return {part[1] for part in parts if len(part) > 1 and part[0] == package and part[1] in rooms}


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize(("package", "allowed"), [("core", CORE), ("tracking", TRACKING)])
def test_the_order_has_no_circle(package: str, allowed: dict[str, set[str]]) -> None:
    placed: set[str] = set()
    for room, below in allowed.items():
        assert below <= placed, f"{package}/{room} stands above rooms that are listed later"
        placed.add(room)


@pytest.mark.parametrize(
    ("package", "room", "below"),
    [(package, room, below) for package, allowed in (("core", CORE), ("tracking", TRACKING))
     for room, below in allowed.items()],
)  # fmt: skip
def test_arrows_point_down(package: str, room: str, below: set[str]) -> None:
    rooms = set(CORE if package == "core" else TRACKING)
    assert files(f"{package}/{room}")
    for path in files(f"{package}/{room}"):
        name = path.relative_to(ROOT).as_posix()
        upwards = rooms_used(path, package, rooms) - below - {room}
        upwards = {target for target in upwards if (name, target) not in EXCEPTIONS}
        assert not upwards, f"{name} imports {upwards}"


@pytest.mark.parametrize(("name", "room"), EXCEPTIONS)
def test_an_arrow_upwards_is_one_call(name: str, room: str) -> None:
    package, module = name.partition("/")[0], EXCEPTIONS[name, room]
    upwards = {found for found in imported(ROOT / name) if found.startswith(f"{package}.{room}")}
    assert module in upwards
    assert all(found == module or found.rpartition(".")[0] == module for found in upwards)
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
    at_once = [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert module not in at_once
    inside = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    calls = [node.name for node in inside for inner in ast.walk(node)
             if isinstance(inner, ast.ImportFrom) and inner.module == module]  # fmt: skip
    assert calls == ["verify"]
    code = f"import sys, {name.removesuffix('.py').replace('/', '.')}; print('{module}' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize("name", sorted(CORE_TOP - {"__init__"}))
def test_what_serves_all_rooms_imports_none(name: str) -> None:
    place = ROOT / "core" / name
    for path in files(f"core/{name}") if place.is_dir() else [place.with_suffix(".py")]:
        assert not rooms_used(path, "core", set(CORE)), path


def test_the_top_of_core() -> None:
    found = {
        path.stem
        for path in (ROOT / "core").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert found == {*CORE, *CORE_TOP, *CORE_COMMANDS}
    assert len(list((ROOT / "core").glob("*.py"))) <= 12


def test_the_top_of_tracking_holds_commands_alone() -> None:
    assert {path.stem for path in (ROOT / "tracking").glob("*.py")} == {"__init__", *TRACKING_COMMANDS}


@pytest.mark.parametrize("task", ["classification", "super_resolution", "tracking"])
def test_no_room_below_imports_a_command(task: str) -> None:
    commands = {
        path.stem for path in (ROOT / task).glob("*.py") if '__name__ == "__main__"' in path.read_text()
    }
    for path in files(task):
        if path.parent != ROOT / task:
            assert not rooms_used(path, task, commands), path
