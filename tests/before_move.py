"""What the code gave before its modules moved: computed here, kept in `golden/before_move.json`.

    python -m tests.before_move --write                # golden/before_move.json, from the code as it is
    python -m tests.before_move --write-old-work-dir   # golden/old_work_dir/work, a run that was stopped

`test_before_move.py` computes the same again and compares. A commit that moves modules changes none of it; one that
changes a result writes the file anew and says which entries changed, and why.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import sys
import tempfile
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import classification.run
import core
import super_resolution.run
import tracking.run
from benchmarks.bench import open_bench
from benchmarks.hypothesis import build_parser
from benchmarks.hypothesis import main as hypothesis
from classification.config import RunConfig, find_config
from classification.data import open_dataset
from classification.evaluation import error_rates
from classification.task import loss_and_error, make_task
from core.command_line.config import load_config
from core.command_line.exits import run_command
from core.errors import UserError
from core.experiments.plan import Trial
from core.methods.candidates import ProxyConfig
from core.methods.dhp import DhpConfig
from core.methods.method import Request, SearchConfig
from core.methods.registry import METHODS, find
from core.storage.data import data_root
from core.storage.files import atomic_write
from core.training.run_files import read_history
from core.training.train import make_fabric
from core.widths.budget import Budget
from tracking.datasets import list_entries
from tracking.datasets.demo_rendering import SCENES
from tracking.evaluation.evaluation import evaluate

TESTS = Path(__file__).resolve().parent
GOLDEN = TESTS / "golden/before_move.json"
OLD = TESTS / "golden/old_work_dir"
OWN_NETWORK = "guard_network.py"

# Residual blocks on a trunk; depthwise layers; channel split, concatenation and shuffle.
NETWORKS = {
    "resnet20": ["shrink.widen=2.0", "shrink.floor=0.4"],
    "mobilenetv2": ["shrink.widen=1.25", "shrink.floor=0.5"],
    "shufflenetv2_x1_0": ["shrink.widen=1.25", "shrink.floor=0.5"],
}
SEARCH = SearchConfig(dhp=DhpConfig(strength=1.0, max_epochs=1, check_every=1, embedding=1), proxy=ProxyConfig(3, 1),
                      accumulate_epochs=1)  # fmt: skip
# No data and no floating-point sum decide these: they are the same on every computer.
DATA_FREE = ("uniform", "shallow-uniform", "early-wide", "late-wide", "trunk-wide", "inner-wide")

COMMON = ["--device", "cpu", "--no-progress", "--controls", "uniform", "--epochs", "1"]
COMMANDS: dict[str, tuple[Callable[[list[str]], int], list[str]]] = {
    "classification": (
        classification.run.main,
        ["--train-limit", "60", "--cfg-options", "train.batch_size=30", "shrink.batch_size=30"],
    ),
    "super_resolution": (
        super_resolution.run.main,
        ["--scale", "4", "--cfg-options", "options.n_blocks=1", "options.n_feats=8", "data.crops_per_epoch=16",
         "data.benchmarks=('skimage',)", "data.patch=32", "shrink.round_to=1"],
    ),
    "tracking": (
        tracking.run.main,
        ["--cfg-options", "data.sequences_per_epoch=4", "data.views.crop=64", "data.workers=0", "train.batch_size=2",
         "shrink.batch_size=2", "shrink.batches=1", "network.classification_channels=8", "network.iou_channels=8",
         "network.optimizer_iterations=1"],
    ),
}  # fmt: skip

# What the protocol of trackers trained and tried on then.
AS_BEFORE = ["evaluation.split=test", "data.sources=({'dataset': 'otb', 'weight': 0.15, 'partial': True}, "
             "{'dataset': 'demo', 'split': 'train', 'weight': 0.35}, "
             "{'dataset': 'demo', 'split': 'random', 'weight': 0.5})"]  # fmt: skip

STOPPED = ["--model", f"{OWN_NETWORK}:net", "--dataset", "digits", "--train-limit", "60", "--epochs", "2",
           "--device", "cpu", "--no-progress",
           "--cfg-options", "train.batch_size=20", "shrink.batch_size=20", "shrink.batches=1"]  # fmt: skip
RESUMED: dict[str, list[str]] = {
    "bare": [],
    "named": ["--config", "work/config.py", "--model", f"{OWN_NETWORK}:net", "--dataset", "digits", "--epochs", "2",
              "--controls", "uniform"],
}  # fmt: skip

TRIALS = ["--train-limit", "50", "--epochs", "1", "--seeds", "1", "--no-progress", "--device", "cpu", "--cfg-options",
          "train.batch_size=25", "shrink.batch_size=25"]  # fmt: skip
STORES = {
    "plain": ["--methods", "baseline", "uniform", *TRIALS],
    "distilled": [
        "--methods",
        "uniform",
        "--model",
        f"{OWN_NETWORK}:net",
        *TRIALS,
        "distillation.temperature=4.0",
    ],
}


def environment() -> dict[str, str]:
    """What the last bits of a result depend on."""
    return {
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "arithmetic": _arithmetic(),
    }


def _arithmetic() -> str:
    """Fingerprint of a short training in torch alone: libraries choose kernels by more than the CPU's capability."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 24, 3), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 24, 3, groups=24),
                              nn.Conv2d(24, 40, 1), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                              nn.Linear(40, 10))  # fmt: skip
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        inputs, targets = torch.rand(20, 3, 16, 16), torch.randint(10, (20,))
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    values = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()[:16]


@cache
def _request(network: str) -> Request:
    options = ["data.train_limit=40", "train.batch_size=20", "train.epochs=1", "shrink.batch_size=20",
               "shrink.batches=1", "shrink.embedding=1", f"model={network!r}", *NETWORKS[network]]  # fmt: skip
    path = find_config(None, "digits", False)
    config = load_config(path, RunConfig, options)
    data = open_dataset("digits", ".", config.data)
    task = make_task(config, data, torch.device("cpu"))
    return Request(task, config.shrink, config.train, SEARCH, make_fabric("cpu"), Path())


def widths(network: str, method: str, folder: Path) -> dict[str, Any]:
    """What a method finds for a network, seed 0, and what it says about it.

    Args:
        network: of `NETWORKS`.
        method: of `core.methods.registry.METHODS`.
        folder: an empty one, for the checkpoints of methods that train.
    """
    found = find(method, replace(_request(network), work_dir=folder))
    architecture = found.architecture
    return {
        "widths": architecture.widths,
        "removed": list(architecture.removed),
        "cost": architecture.to_json()["cost"],
        "baseline": architecture.to_json()["baseline"],
        "found_by": sorted(set(architecture.found_by) - {"groups"}),  # younger than the golden file
        "epochs": [found.epochs, found.baseline_epochs],
    }


def command(name: str, folder: Path) -> dict[str, Any]:
    """What a `run` command leaves after one short epoch with one control, seed 0.

    Args:
        name: of `COMMANDS`.
        folder: an empty one.
    """
    main, options = COMMANDS[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LWDNA_CACHE", str(folder / "cache"))
        for split, count in (
            ("test", 1),
            ("train", 2),
            ("random", 2),
        ):  # few and short, they are rendered sooner
            scenes = [replace(scene, frames=24) for scene in SCENES[split]]
            patch.setitem(SCENES, split, tuple(scenes[:count]))
        if name == "tracking":
            options = [*options, *AS_BEFORE, f"evaluation.sequences=('{list_entries('demo')[0].name}',)"]
        (folder / "data").mkdir(
            parents=True
        )  # a root without data: what lies in the user's own would be trained on too
        where = ["--work-dir", str(folder / "work"), "--data-root", str(folder / "data")]
        _done(main([*where, *COMMON, *options]))
    return left_in(folder / "work")


def left_in(work_dir: Path) -> dict[str, Any]:
    """A work directory's result, losses of every epoch, files and the headings of its report."""
    result = json.loads((work_dir / "result.json").read_text(encoding="utf-8"))
    del result["environment"]
    report = (work_dir / "report.md").read_text(encoding="utf-8")
    return {
        "result": result,
        "losses": {
            path.name: [record.train_loss for record in read_history(path)]
            for path in sorted(work_dir.glob("runs/*"))
        },
        "files": _files(work_dir),
        "headings": [line for line in report.splitlines() if line.startswith("#")],
    }


def _files(folder: Path) -> list[str]:
    """Paths below a folder; TensorBoard's without the time and the computer that are in their names."""
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted({path.partition("out.tfevents")[0] for path in paths})


def lasot(root: Path) -> dict[str, Any]:
    """All scores of ATOM's published boxes by LaSOT's rules.

    Args:
        root: a data root with `lasot_annotations/` and `tracker_results/lasot/ATOM/`.
    """
    results = root / "tracker_results/lasot"
    found = evaluate(results, protocol="lasot", data_root=root, trackers=["ATOM"], attributes=True)["ATOM"]
    # The problems name files by where they lie here.
    found["problems"] = [{**item, "file": Path(item["file"]).name} for item in found["problems"]]
    return found


def resumed(how: str, folder: Path) -> dict[str, Any]:
    """The result of the run in `golden/old_work_dir`, resumed in a copy of it.

    Args:
        how: of `RESUMED`: with the protocol's network and data named on the command line again, or not.
        folder: takes the copy; does not exist yet.
    """
    shutil.copytree(OLD, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        arguments = ["--resume", "--work-dir", "work", "--device", "cpu", "--no-progress", *RESUMED[how]]
        _done(classification.run.main(arguments))
    return left_in(folder / "work")


def store(name: str, folder: Path) -> dict[str, Any]:
    """Names of what a store of trials holds, and the metrics in its records.

    Args:
        name: of `STORES`.
        folder: does not exist yet.
    """
    with _beside_own_network(folder):
        _done(hypothesis([*STORES[name], "--work-dir", "store"]))
    records = sorted((folder / "store/records").iterdir())
    return {
        "names": {part: sorted(path.name for path in (folder / "store" / part).iterdir())
                  for part in ("records", "widths", "runs")},
        "metrics": {path.stem: json.loads(path.read_text(encoding="utf-8"))["metrics"] for path in records},
    }  # fmt: skip


def keys(folder: Path) -> dict[str, str]:
    """Names of the records of trials of many settings, which are not run.

    Args:
        folder: does not exist yet.
    """
    found: dict[str, str] = {}

    def note(label: str, method: str, *options: str, seed: int = 0, **shrink: Any) -> None:
        bench = open_bench(build_parser().parse_args([*TRIALS, *options, "--work-dir", "store"]))
        trial = Trial(method, replace(bench.config.shrink, **shrink), seed)
        found[label] = bench.engine.record_key(trial)

    with _beside_own_network(folder):
        for method in ("baseline", *METHODS):
            note(method, method)
        note("seed 1", "gradient", seed=1)
        note("vanish", "gradient", vanish=0.4)
        note("budget", "gradient", budget=Budget(flops=0.5))
        note("budget of parameters", "gradient", budget=Budget(flops=0.9, params=0.8))
        note("floor, ceiling, round_to", "gradient", floor=0.3, ceiling=0.9, round_to=8)
        note("allocation", "magnitude", allocation="equalised")
        note("frozen", "gradient", freeze=("layer1.*",))
        note("tied", "gradient", ties=(("layer1.0.conv1", "layer1.1.conv1"),))
        note("batches", "gradient", batches=3, batch_size=20)
        note("classes", "gradient", "data.classes=5")
        note("recipe", "gradient", "train.ema_decay=0.99", "train.optimizer.lr=0.05")
        note("distillation", "gradient", "distillation.temperature=4.0")
        note("distillation of the baseline", "baseline", "--distillation")
        note("another teacher", "gradient", "distillation.temperature=4.0", "teacher.widen=1.5")
        note("another network", "gradient", "--model", "mobilenetv2")
        note("an own network", "gradient", "--model", f"{OWN_NETWORK}:net")
        note("options of dhp", "dhp", "--dhp-strength", "3", "--dhp-epochs", "2")
        note("candidates", "zico-search", "--candidates", "8")
        note("epochs of accumulation", "accumulated", "--accumulate-epochs", "2")
    return found


@contextmanager
def _beside_own_network(folder: Path) -> Iterator[None]:
    """Within a new folder that holds the own network's file: keys of stores contain the path to it."""
    folder.mkdir(parents=True)
    shutil.copy(OLD / OWN_NETWORK, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


def _done(status: int) -> None:
    if status != 0:
        raise RuntimeError(f"the command ended with status {status}; what it said stands above")


def everything(data: Path, folder: Path) -> dict[str, Any]:
    """The content of `golden/before_move.json`.

    Args:
        data: the data root.
        folder: an empty one, for work directories.
    """
    return {
        "made": {"by": "python -m tests.before_move --write", "environment": environment()},
        "widths": {
            network: {
                name: widths(network, name, folder / "widths" / network / name)
                for name, method in METHODS.items()
                if method.package is None  # a peer's depend on its version
            }
            for network in NETWORKS
        },
        "commands": {name: command(name, folder / name) for name in COMMANDS},
        "lasot": lasot(data),
        "old_work_dir": {how: resumed(how, folder / how) for how in RESUMED},
        "stores": {name: store(name, folder / "stores" / name) for name in STORES},
        "keys": keys(folder / "keys"),
    }


def plain(value: Any) -> Any:
    """As JSON gives it back: lists for tuples."""
    return json.loads(json.dumps(value, allow_nan=False))


def write(data: Path) -> None:
    """Write `golden/before_move.json`, a line for every method, command, sequence and the like."""
    with tempfile.TemporaryDirectory() as folder:
        value = everything(data, Path(folder))
    with atomic_write(GOLDEN) as file:
        file.write(_lines(value, {"": 3, "lasot": 2, "keys": 2}) + "\n")


def _lines(value: Any, depths: dict[str, int], depth: int = 0, place: str = "") -> str:
    """JSON that is indented down to a depth, which is given by the first key."""
    if not isinstance(value, dict) or depth == depths.get(place, depths[""]):
        return json.dumps(value, allow_nan=False, ensure_ascii=False)
    inner = (
        f"{' ' * (depth + 1)}{json.dumps(key, ensure_ascii=False)}: {_lines(item, depths, depth + 1, place or key)}"
        for key, item in value.items()
    )
    return "{\n" + ",\n".join(inner) + "\n" + " " * depth + "}"


def write_old_work_dir() -> None:
    """Write `golden/old_work_dir/work` anew: stopped by Ctrl-C in the second epoch of the found network."""
    evaluations, stopped = 0, False

    def counted(*arguments: Any) -> dict[str, float]:
        nonlocal evaluations
        evaluations += 1
        return error_rates(*arguments)

    def stopping(*arguments: Any) -> Any:
        nonlocal stopped
        if evaluations == 3 and not stopped:  # both epochs of the regular network, and the found one's first
            stopped = True
            signal.raise_signal(signal.SIGINT)
        return loss_and_error(*arguments)

    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(classification.run, "evaluate", counted)
        patch.setattr(classification.run, "loss_and_error", stopping)
        with _beside_own_network(Path(name) / "old"):
            status = classification.run.main([*STOPPED, "--work-dir", "work"])
            if status != 130 or evaluations != 3:
                raise RuntimeError(f"the run was not stopped where it should be: exit status {status}")
            for folder in Path("work").glob("runs/*/tensorboard"):
                shutil.rmtree(folder)
            shutil.rmtree(OLD / "work", ignore_errors=True)
            shutil.copytree("work", OLD / "work")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", action="store_true", help=f"write {GOLDEN.name}; needs LaSOT's data")
    what.add_argument(
        "--write-old-work-dir", action="store_true", help="write old_work_dir/work; then --write"
    )
    parser.add_argument("--data-root", help="folder of the data sets (default: $LWDNA_DATA, else data/)")
    arguments = parser.parse_args(argv)

    def work() -> int:
        if Path(core.__file__).resolve().parents[1] != TESTS.parent:
            raise UserError(f"this would be written from '{core.__file__}': set PYTHONPATH to this checkout")
        torch.set_num_threads(1)  # as conftest.py does
        if arguments.write_old_work_dir:
            write_old_work_dir()
        else:
            write(data_root(arguments.data_root).resolve())
        return 0

    return run_command(work, debug=True)


if __name__ == "__main__":
    sys.exit(main())
