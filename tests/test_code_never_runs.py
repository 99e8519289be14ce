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
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn

import classification.checkpoint
import core.inspect
import super_resolution.checkpoint
import super_resolution.convert
import tracking.dimp.checkpoint
from classification.data import cache as classification_cache
from classification.data.cifar import _load as read_cifar
from classification.data.listed import _matrix
from classification.data.photographs import _read_digests
from classification.task import _content
from core.command_line.config import load_config
from core.errors import UserError
from core.experiments.experiment import FAILED_FILE, _read_failures
from core.experiments.plan import PLAN_FILE, stored_plan
from core.experiments.sequential import read_registered
from core.experiments.store import _read as read_record
from core.storage.checkpoint import load_state, load_weights, read_metadata, read_weights
from core.storage.claims import _read as read_claim
from core.storage.images import read_image, read_profile
from core.storage.packed import read_packed
from core.storage.video import open_video_file
from core.surgery.architecture import Architecture
from core.training.divergence import FILE, read_divergences
from core.training.run_files import RunFiles, read_history
from tracking.dimp.backbones import backbone_trunk, load_backbone_weights
from tracking.evaluation.stored_results import read_times
from tracking.files.archives import StoredFile, zip_members
from tracking.files.boxes import parse_boxes, parse_flags
from tracking.online.runner import _claim
from tracking.online.trackers import TrackerSpec
from tracking.training.coco import _stored, parse_objects

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


def within(name: str, read: Callable[[Path], object]) -> Callable[[Path], object]:
    """A reader of a folder that looks at the file called `name` in it."""

    def read_renamed(path: Path) -> object:
        target = path.with_name(name)
        path.rename(target)
        return read(target.parent)

    return read_renamed


def history(folder: Path) -> object:
    return read_history(folder)


def published_lists(folder: Path) -> object:
    (folder / "labels.mat").rename(folder / "imagelabels.mat")
    return _matrix(folder, "imagelabels.mat", "labels")


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    # Name of the file, and what reads it.
    "YAML configuration": ("a.yaml", lambda path: load_config(path, Protocol)),
    "JSON configuration": ("a.json", lambda path: load_config(path, Protocol)),
    "stored protocol": ("config.py", lambda path: load_config(path, Protocol, dumped=True)),
    "option of a command line": (
        "a.txt",
        lambda path: load_config(
            None, Protocol, [f"name={' '.join(path.read_bytes().decode('latin1').splitlines())}"]
        ),
    ),
    "plan": (
        "a.json",
        within(PLAN_FILE, lambda folder: stored_plan(folder, "classification", 0, lambda line: None)),
    ),
    "record": ("a.json", lambda path: read_record(path, "to be recorded anew")),
    "claim": ("claim.json", read_claim),
    "failures": (
        "a.json",
        within(FAILED_FILE, lambda folder: _read_failures(SimpleNamespace(work_dir=folder))),
    ),  # type: ignore[arg-type]
    "divergences": ("a.json", within(FILE, read_divergences)),
    "log": ("a.jsonl", within(RunFiles(Path()).log.name, history)),
    "contrasts": ("a.json", read_registered),
    "data's content": ("data.json", _content),
    "digests": ("a.json", lambda path: _read_digests(path, 1)),
    "widths": ("widths.json", Architecture.load),
    "state": ("last.safetensors", load_state),
    "header": ("a.safetensors", read_metadata),
    "weights": ("a.safetensors", read_weights),
    "weights into a network": ("a.pth", lambda path: load_weights(nn.Linear(1, 1), path)),
    "torch checkpoint": ("a.pth", read_weights),
    "checkpoint of a classifier": ("a.safetensors", classification.checkpoint.load_network),
    "checkpoint of an upscaler": ("a.safetensors", super_resolution.checkpoint.load_network),
    "checkpoint of a tracker": ("a.safetensors", tracking.dimp.checkpoint.load_network),
    "published tracker": ("dimp50.pth", tracking.dimp.checkpoint.read_published),
    "published upscaler": (
        "a.pth",
        lambda path: super_resolution.convert.convert_file(path, path.with_name("b.safetensors")),
    ),
    "weights of a backbone": (
        "a.pth",
        lambda path: load_backbone_weights(backbone_trunk("resnet18-small"), path),
    ),
    "inspect": ("a.safetensors", lambda path: core.inspect.run(Namespace(file=path, json=False))),
    "inspect of a program": ("a.pt2", lambda path: core.inspect.run(Namespace(file=path, json=False))),
    "inspect of a graph": ("a.onnx", lambda path: core.inspect.run(Namespace(file=path, json=False))),
    "CIFAR's pickle": ("data_batch_1", read_cifar),
    "MATLAB's file": ("labels.mat", lambda path: published_lists(path.parent)),
    "decoded images": ("a.npy", lambda path: classification_cache._open(path, 1, np.dtype(np.uint8))),
    "COCO's objects, decoded": ("a.npy", _stored),
    "COCO's annotations": ("a.json", parse_objects),
    "packed cache": ("a.bin", lambda path: read_packed(path, b"LWDNATST")),
    "image": ("a.png", lambda path: read_image(path, upright=True)),
    "colour profile": ("a.jpg", read_profile),
    "video": ("a.mp4", open_video_file),
    "boxes": ("a.txt", lambda path: parse_boxes(StoredFile(path).read(), str(path))),
    "flags": ("a.txt", lambda path: parse_flags(path.read_bytes(), str(path))),
    "times": ("a.txt", lambda path: read_times(StoredFile(path))),
    "archive of results": ("a.zip", lambda path: [member.read() for member in zip_members(path)]),
    "record of a tracker's run": (
        "a.json",
        within("run.json", lambda folder: _claim(folder, TrackerSpec("still"))),
    ),
}


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
    name, read = READERS[reader]
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
    ("core/command_line/factories.py", "import_module"): "--model package.module:factory",
    ("core/command_line/factories.py", "exec_module"): "--model file.py:factory",
    ("benchmarks/networks.py", "import_module"): "networks of a task, by the name in its table",
    ("lwdna/__main__.py", "import_module"): "its own commands",
    ("lwdna/export.py", "import_module"): "the exports of the three tasks",
    ("super_resolution/torchvision_shim.py", "import_module"): "torchvision, under an earlier name",
    ("tracking/online/trackers.py", "import_module"): "--tracker package.module:Class",
    ("core/workers.py", "loads"): "what a process of ours sends another, by a pipe",
}
UNPICKLERS = ("pickle", "dill", "joblib", "marshal", "shelve", "cloudpickle", "pd", "pandas")
LOADS = {
    ("classification/data/cache.py", "load"): "allow_pickle=False",
    ("tracking/training/coco.py", "load"): "allow_pickle=False",
    ("core/storage/checkpoint.py", "load"): "weights_only=True",
    ("tracking/dimp/checkpoint.py", "load"): "weights_only=True",
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
