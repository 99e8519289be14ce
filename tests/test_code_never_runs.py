"""Every file that the project reads, but for those that its user names as code, is data: nothing in it is ever run.

Each reader is fed files that would betray it: they leave a marker if anything in them runs. `docs/work_directories.md`
says which files are code.
"""

from __future__ import annotations

import ast
import io
import json
import pickle
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from core.command_line.config import load_config
from core.errors import UserError
from tests.readers import READERS

ROOT = Path(__file__).parents[1]
PACKAGES = ("benchmarks", "classification", "core", "lwdna", "super_resolution", "tracking")


@dataclass(frozen=True)
class Protocol:
    """A configuration."""

    name: str = "x"
    values: tuple[int, ...] = ()


@dataclass(frozen=True)
class Touches:
    """Leaves the marker when it is unpickled."""

    marker: Path

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, (f"open({str(self.marker)!r}, 'w').close()",))


class TouchesBySystem(Touches):
    """The same by a shell."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return (os.system, (f"touch {self.marker}",))


def hostile(marker: Path) -> dict[str, bytes]:
    """Files that would leave `marker`, by what they are."""
    code = f"open({str(marker)!r}, 'w').close()"
    python = f"__import__('os').system('touch {marker}')"
    files = {
        "a program": f"name = {python}\n{code}\n".encode(),
        "an expression": python.encode(),
        "YAML that applies": f'name: !!python/object/apply:os.system ["touch {marker}"]\n'.encode(),
        "YAML that makes": f"name: !!python/object/new:exec [{code!r}]\n".encode(),
        "a placeholder": f"name: '{{{{ _base_.name }}}}'\n_base_: '{marker.with_suffix('.py')}'\n".encode(),
        "JSON with code": json.dumps({"name": python, "_base_": str(marker.with_suffix(".py")), "model": python,
                                      "task": python, "pid": python, "widths": {python: 1},
                                      "inputs": {"tuple": {python: {"value": 1}}},
                                      "content": [python], "contrasts": [python], "method": python}).encode(),
        "JSON of a dtype": json.dumps({"model": "a", "widths": {}, "inputs": {"shape": [1], "dtype": "load"}}).encode(),
    }  # fmt: skip
    for name, bomb in (("exec", Touches(marker)), ("system", TouchesBySystem(marker))):
        for protocol in (0, 2, 4):
            files[f"a pickle of {name}, protocol {protocol}"] = pickle.dumps(bomb, protocol)
            files[f"weights beside {name}, protocol {protocol}"] = pickle.dumps(
                {"state_dict": bomb}, protocol
            )
        for kind in (True, False):
            stream = io.BytesIO()
            torch.save({"weight": torch.zeros(1), "net": bomb}, stream, _use_new_zipfile_serialization=kind)
            files[f"a checkpoint of {name}, {'zip' if kind else 'legacy'}"] = stream.getvalue()
    stream = io.BytesIO()
    np.save(stream, np.array([Touches(marker)], object), allow_pickle=True)
    files["an array of objects"] = stream.getvalue()
    stream = io.BytesIO()
    np.savez(stream, box=np.array([Touches(marker)], object), image=np.zeros(1))
    files["arrays of objects"] = stream.getvalue()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(f"../../../../../../../../{marker}", "slipped")
        archive.writestr("../marker", "slipped")
    files["an archive that slips out"] = stream.getvalue()
    header = {
        "format": "lwdna-state-1",
        "skeleton": python,
        "crc32": "0",
        "origin": python,
        "classification": json.dumps({"model": f"{marker.with_suffix('.py')}:make", "dataset": python, "classes": ["a"],
                                      "input_shape": [1, 8, 8], "mean": [0.0], "std": [1.0]}),
        "super_resolution": json.dumps({"model": f"{marker.with_suffix('.py')}:make", "scale": 2, "options": {}}),
        "dimp": json.dumps({"backbone": f"{marker.with_suffix('.py')}:make"}),
    }  # fmt: skip
    files["a header with code"] = save({"weight": torch.zeros(1)}, header)
    files["a header with code, no state"] = save(
        {"weight": torch.zeros(1)}, header | {"format": "pt", "crc32": "1"}
    )
    del header["format"], header["crc32"]
    files["a header with code, no checksum"] = save({"weight": torch.zeros(1)}, header)
    packed = pickle.dumps(Touches(marker))
    files["a cache with a pickle"] = packed + len(packed).to_bytes(8, "little") + b"LWDNATST"
    return files


@pytest.fixture(scope="module")
def trap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A marker that is not there, beside a module that would leave it if it were imported."""
    marker = tmp_path_factory.mktemp("trap") / "marker"
    marker.with_suffix(".py").write_text(
        f"open({str(marker)!r}, 'w').close()\nname = 'x'\ndef make(): pass\n"
    )
    yield marker
    assert not marker.exists()


def test_the_files_would_betray_a_reader_that_runs_them(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    files = hostile(marker)
    for name, run in (
        ("a program", exec),
        ("an expression", eval),
        ("a pickle of exec, protocol 2", pickle.loads),
        ("a pickle of system, protocol 4", pickle.loads),
        ("an array of objects", lambda content: np.load(io.BytesIO(content), allow_pickle=True)),
        ("a checkpoint of exec, zip", lambda content: torch.load(io.BytesIO(content), weights_only=False)),
        ("a checkpoint of exec, legacy", lambda content: torch.load(io.BytesIO(content), weights_only=False)),
    ):
        run(files[name])
        assert marker.exists(), name
        marker.unlink()


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.filterwarnings("ignore")
def test_nothing_in_a_file_is_run(
    reader: str, trap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, read = READERS[reader].file, READERS[reader].read
    monkeypatch.chdir(tmp_path)
    for number, (kind, content) in enumerate(hostile(trap).items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / name).write_bytes(content)
        said = ""
        try:
            read(folder / name)
        except UserError as error:
            said = str(error)
        assert "\n" not in said, kind
        assert not trap.exists(), kind
        assert {path.name for path in tmp_path.iterdir()} == {str(n) for n in range(number + 1)}, kind
    assert not (tmp_path.parent / "marker").exists()


def test_yaml_that_blows_up_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.command_line.config_files._MOST_VALUES", 1_000)
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    merged = ["a0: &a0 {k: 1}"]
    merged += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}], k{n}: 1}}" for n in range(1, 12)]
    for text in (
        "\n".join(lines),
        "\n".join(merged),
        "name: &name [*name]",
        "values: [" + "1," * 1_001 + "]",
    ):
        (tmp_path / "a.yaml").write_text(text)
        with pytest.raises(UserError, match=r"a\.yaml' cannot be read: ValueError: .* more than 1,000"):
            load_config(tmp_path / "a.yaml", Protocol)


# What runs, imports or unpickles, where it stands, and why that is no data's doing.
RUNS = {
    ("core/__init__.py", "import_module"): "its own rooms, by the names in its table",
    (
        "core/command_line/config_files.py",
        "fromfile",
    ): "--config file.py; YAML and JSON by readers of our own",
    ("core/command_line/factories.py", "import_module"): "--model, --tracker package.module:factory",
    ("core/command_line/factories.py", "exec_module"): "--model file.py:factory",
    ("benchmarks/networks.py", "import_module"): "networks of a task, by the name in its table",
    ("lwdna/__main__.py", "import_module"): "its own commands",
    ("lwdna/checks.py", "import_module"): "the packages that the suite needs, by the names in its table",
    ("lwdna/export.py", "import_module"): "the exports of the three tasks",
    ("super_resolution/torchvision_shim.py", "import_module"): "torchvision, under an earlier name",
    ("core/workers.py", "loads"): "what a process of ours sends another, by a pipe",
}
UNPICKLERS = ("pickle", "dill", "joblib", "marshal", "shelve", "cloudpickle", "pd", "pandas")
LOADS = {
    ("core/storage/packed.py", "load"): "allow_pickle=False",
    ("core/storage/checkpoint.py", "load"): "weights_only=True",
    ("core/command_line/config_files.py", "load"): "Loader=_OnceLoader",
}


def calls(tree: ast.Module) -> Iterator[tuple[str, str, str]]:
    """Module or "", name and arguments of every call, and of what `partial` is given to call."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Name) and function.id == "partial" and node.args:
            function = node.args[0]
        where = ast.unparse(function.value) if isinstance(function, ast.Attribute) else ""
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        yield where, name, ", ".join(ast.unparse(item) for item in (*node.args, *node.keywords))


def test_what_can_run_code_is_called_where_it_is_known() -> None:
    runs, loads = set(), {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            file = path.relative_to(ROOT).as_posix()
            for where, name, arguments in calls(ast.parse(path.read_text(encoding="utf-8"))):
                plain = not where and name in ("eval", "exec", "compile", "__import__")
                shells = (where == "os" and name in ("system", "popen")) or "shell=True" in arguments
                unpickles = where in UNPICKLERS and name.removesuffix("s") in ("load", "read_pickle")
                imports = name in ("import_module", "exec_module", "run_path", "run_module", "load_module")
                configs = where == "Config" and name == "fromfile"  # mmengine's, which runs a .py file
                if plain or shells or imports or unpickles or configs:
                    runs.add((file, name))
                if name in ("load", "loads", "unsafe_load", "full_load") and where in (
                    "np",
                    "numpy",
                    "torch",
                    "yaml",
                ):
                    loads[file, name] = arguments
    # CIFAR's reader is an Unpickler whose `find_class` refuses all but arrays of pixels; it is a class, not a call.
    assert runs == set(RUNS)
    assert set(loads) == set(LOADS)
    for place, argument in LOADS.items():
        assert argument in loads[place], place
