"""Who may import whom: tasks import core, never each other; core imports no task and stays light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TASKS = ("classification", "super_resolution", "tracking")
# What core may use: the standard library, itself and the hard dependencies that its rooms need.
FOREIGN_TO_CORE = {
    "torchvision",
    "mmcv",
    "cv2",
    "PIL",
    "jpeg4py",
    "turbojpeg",
    "basicsr",
    "timm",
    "onnx",
    "skimage",
    "sklearn",
    "torch_pruning",
    *TASKS,
}
# The files of core that decode pictures, one for image files and one for videos: tasks do not import each other.
DECODERS = {
    "core/storage/images.py": {"cv2", "PIL", "mmcv", "jpeg4py", "turbojpeg"},
    "core/storage/video.py": {"cv2"},
}
PEERS = {
    "core/methods/peers.py": {"torch_pruning"},  # another library's way of finding widths
    "core/storage/hubs.py": {"timm", "torchvision"},  # where these libraries keep weights
}
# Of these, what is imported only where it is used: mmcv loads torch, jpeg4py the system's library.
LAZY_IN_CORE = {"mmcv", "jpeg4py", "turbojpeg"}
OPTIONAL = {"torchvision", "basicsr", "timm", "onnx", "onnxruntime", "onnxscript", "torch_pruning", "got10k"}


def imported(path: Path, module_level: bool = False) -> set[str]:
    """Top-level names of packages that a file imports; with `module_level`, only outside functions."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if module_level and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name.partition(".")[0] for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.level == 0 and child.module:
                found.add(child.module.partition(".")[0])
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def test_there_is_something_to_check() -> None:
    assert len(files("core")) > 20
    assert all(files(task) for task in TASKS)


@pytest.mark.parametrize("path", files("core"), ids=lambda path: str(path.relative_to(ROOT)))
def test_core_imports_no_task_and_no_vision_library(path: Path) -> None:
    allowed = {**DECODERS, **PEERS}.get(path.relative_to(ROOT).as_posix(), set())
    assert imported(path) & FOREIGN_TO_CORE == allowed
    assert not imported(path, module_level=True) & LAZY_IN_CORE


@pytest.mark.parametrize("task", TASKS)
def test_tasks_do_not_import_each_other(task: str) -> None:
    for path in files(task):
        assert not imported(path) & (set(TASKS) - {task}), path


@pytest.mark.parametrize("package", ["core", *TASKS, "benchmarks"])
def test_others_runners_are_imported_by_their_users_alone(package: str) -> None:
    """Each registers networks in another library as it is imported."""
    for path in files(package):
        assert not re.search(r"^\s*(from|import) lwdna\.runners", path.read_text(), re.MULTILINE), path


@pytest.mark.parametrize("package", ["core", *TASKS])
def test_optional_packages_are_imported_where_they_are_used(package: str) -> None:
    for path in files(package):
        assert not imported(path, module_level=True) & OPTIONAL, path


# Files that take arguments apart: commands, and what several commands share.
COMMANDS = {
    "core/channels.py",  # python -m core.channels
    "core/inspect.py",  # python -m core.inspect
    "core/experiments/arguments.py",  # of all commands that train
    "core/experiments/commands.py",
    "core/experiments/work_directories.py",
    "core/export/command.py",  # export, of every task
    "core/command_line/exits.py",  # from words to exit status, for all commands
    "core/storage/checkpoint.py",  # others keep a Namespace beside their weights
    "core/command_line/parsers.py",  # and the arguments that they share
    "core/command_line/pixels.py",  # --max-pixels of several commands
    "core/command_line/config.py",  # mmengine parses the words of --cfg-options as a command line
    "classification/eval.py",
    "classification/predict.py",
    "classification/run.py",
    "super_resolution/convert.py",
    "super_resolution/eval.py",
    "super_resolution/run.py",
    "super_resolution/upscale.py",
    "tracking/check_dataset.py",
    "tracking/datasets/options.py",
    "tracking/convert.py",
    "tracking/eval.py",
    "tracking/run.py",
    "tracking/track.py",
    "tracking/train.py",
}


def test_only_commands_parse_arguments() -> None:
    parsing = {
        path.relative_to(ROOT).as_posix()
        for package in ("core", *TASKS)
        for path in files(package)
        if "argparse" in imported(path)
    }
    assert parsing == COMMANDS, "a new command belongs into COMMANDS; other files take values, not arguments"


def modules_after(code: str) -> set[str]:
    """Top-level modules that a fresh process has loaded after `code`."""
    program = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_core_costs_nothing() -> None:
    loaded = modules_after("import core")
    assert not loaded & {"torch", "numpy", "mmengine", "matplotlib", "lightning_fabric", *FOREIGN_TO_CORE}


def test_the_method_loads_no_vision_library() -> None:
    loaded = modules_after(
        "import core; core.shrink, core.Architecture, core.attach_hypernetwork, core.trace_channels"
    )
    assert "torch" in loaded
    assert not loaded & FOREIGN_TO_CORE


def test_every_promised_name_exists() -> None:
    import core

    for name in core.__all__:
        assert getattr(core, name).__name__ == name
        assert getattr(core, name).__doc__
    assert set(core.__all__) <= set(dir(core))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        core.nothing  # noqa: B018
