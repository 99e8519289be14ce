"""What every experiment's command line shares: common arguments, protocols, work directories."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from lightning_fabric import Fabric

from core.budget import Budget
from core.config import dump_config, load_config
from core.divergence import lowered_rate
from core.errors import UserError
from core.exits import run_command  # noqa: F401 (command lines of experiments take both from here)
from core.experiment import STAGES, Settings, Task, TeacherConfig, check, run_experiment
from core.scores import NAMES
from core.train import make_fabric

CONFIG_FILE = "config.py"
T = TypeVar("T")
Use = Literal["new", "existing", "either"]


def add_experiment_arguments(parser: ArgumentParser) -> None:
    """Add the arguments that `run` of every task understands."""
    run = parser.add_argument_group("experiment")
    run.add_argument("--config", help="protocol: a file of shared_configs/, or your own")
    run.add_argument(
        "--work-dir", type=Path, help="where results go (default: a new folder under work_dirs/)"
    )
    run.add_argument("--data-root", help="folder of the data sets (default: $LWDNA_DATA, else data/)")
    run.add_argument(
        "--stages", nargs="+", choices=STAGES, help="run only these stages in an existing work directory"
    )
    run.add_argument(
        "--resume", action="store_true", help="go on where an earlier run in the work directory stopped"
    )
    run.add_argument("--seed", type=int, help="first seed (default: the protocol's)")
    run.add_argument("--seeds", type=int, default=1, help="repetitions, each with its own seed (default: 1)")
    run.add_argument("--epochs", type=int, help="train exactly so many epochs (default: the protocol's)")
    run.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")
    run.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change protocol entries"
    )
    run.add_argument("--no-progress", action="store_true", help="no progress bars")
    run.add_argument("--debug", action="store_true", help="show the traceback of an error")
    method = parser.add_argument_group("shrinkage")
    method.add_argument(
        "--budget", help="0.9 (of the baseline's FLOPs), or flops=0.9,params=20M,latency=12ms"
    )
    method.add_argument("--score", help=", ".join(NAMES))
    method.add_argument("--widen", type=float, help="growth of the space of widths")
    method.add_argument(
        "--controls", nargs="+", default=[], help="scores to compare with, such as random uniform"
    )


def read_protocol(path: str | Path, schema: type[T], arguments: Namespace, given: Mapping[str, Any]) -> T:
    """The protocol in `path` with everything that the command line changes in it.

    Args:
        path: an mmengine config file.
        schema: the task's dataclass; its fields `train` and `shrink` are those of `core.experiment`.
        arguments: parsed `add_experiment_arguments`.
        given: the task's own shorthands: key of the protocol -> value, None where the user said nothing.
    """
    common = {"train.epochs": arguments.epochs, "train.seed": arguments.seed}
    common |= {"shrink.score": arguments.score, "shrink.widen": arguments.widen}
    overrides = [f"{key}={value!r}" for key, value in {**common, **given}.items() if value is not None]
    config: Any = load_config(path, schema, [*arguments.cfg_options, *overrides])
    if arguments.budget is not None:
        config = replace(config, shrink=replace(config.shrink, budget=Budget.parse(arguments.budget)))
    return config


def execute(
    arguments: Namespace,
    schema: type[T],
    find_protocol: Callable[[], Path],
    given: Mapping[str, Any],
    default_name: Callable[[T], str],
    open_task: Callable[[T, Fabric, Path], Task],
    complete: Callable[[T], T] = lambda config: config,
) -> int:
    """Run the experiment that a command line describes; returns the exit status 0.

    Args:
        arguments: parsed arguments, `add_experiment_arguments` among them.
        schema: dataclass of the task's protocol.
        find_protocol: the protocol file where `--config` does not name one.
        given: see `read_protocol`.
        default_name: name of the work directory for a protocol.
        open_task: opens data and describes the task; takes protocol, devices and work directory.
        complete: fills in what follows from the rest of the protocol.
    """
    config: Any = complete(read_protocol(arguments.config or find_protocol(), schema, arguments, given))
    devices, num_nodes = launched_processes()
    fabric = make_fabric(arguments.device, config.train.precision, devices, num_nodes)
    use: Use = "existing" if arguments.resume else "new" if arguments.stages is None else "either"
    folder = agree(fabric, lambda: work_directory(arguments.work_dir, default_name(config), use))
    stored = None
    if (folder / CONFIG_FILE).exists():
        stored = load_config(folder / CONFIG_FILE, schema)
        config = complete(read_protocol(arguments.config or folder / CONFIG_FILE, schema, arguments, given))
    config, lowered_lr = lowered_rate(config, stored, folder)
    settings = Settings(
        train=config.train,
        shrink=config.shrink,
        work_dir=folder,
        controls=tuple(arguments.controls),
        seeds=arguments.seeds,
        stages=tuple(arguments.stages or STAGES),
        distillation=getattr(config, "distillation", None),
        teacher=getattr(config, "teacher", TeacherConfig()),
        progress=not arguments.no_progress,
        lowered_lr=lowered_lr,
    )
    task = open_task(config, fabric, folder)
    check(task, config.shrink)
    fabric.barrier()  # every process has looked for a stored protocol before the first one writes it
    if fabric.is_global_zero:
        settle_config(config, stored, folder)
    run_experiment(task, settings, fabric, say=_say if fabric.is_global_zero else _silent)
    return 0


def launched_processes() -> tuple[int, int]:
    """(processes per machine, machines) that torchrun or SLURM started; (1, 1) without a launcher."""
    environment = os.environ
    if "WORLD_SIZE" in environment:
        world = int(environment["WORLD_SIZE"])
        local = int(environment.get("LOCAL_WORLD_SIZE", world))
        return local, world // local
    if "SLURM_NTASKS" in environment and "SLURM_PROCID" in environment:
        nodes = int(environment.get("SLURM_NNODES", 1))
        return int(environment["SLURM_NTASKS"]) // nodes, nodes
    return 1, 1


def agree(fabric: Fabric, decide: Callable[[], Path]) -> Path:
    """What the first process decides, for all of them; its error is everybody's error."""
    folder, problem = None, None
    if fabric.is_global_zero:
        try:
            folder = str(decide())
        except UserError as error:
            problem = str(error)
    folder, problem = fabric.broadcast((folder, problem))
    if folder is None:
        raise UserError(problem)
    return Path(folder)


def _say(line: str) -> None:
    print(line, flush=True)


def _silent(line: str) -> None:
    """Other processes than the first one say nothing."""


def work_directory(given: Path | None, default_name: str, use: Use) -> Path:
    """The work directory of a run.

    Without `--work-dir`: work_dirs/NAME for a first run, NAME-2, NAME-3 ... for later ones; an existing one is the
    latest of them.

    Args:
        given: `--work-dir`.
        default_name: NAME.
        use: "new" for a fresh run, "existing" to resume, "either" to run single stages.

    Raises:
        UserError: a named directory holds a run and resuming was not asked for, or there is nothing to resume.
    """
    first = Path("work_dirs") / default_name
    runs = (
        [given]
        if given is not None
        else [first, *sorted(first.parent.glob(f"{first.name}-[0-9]*"), key=_number)]
    )
    runs = [path for path in runs if (path / CONFIG_FILE).exists()]
    if runs and use != "new":
        return runs[-1]
    if use == "existing":
        raise UserError(f"no run in '{given or first}': there is nothing to resume")
    if given is not None:
        if runs:
            raise UserError(
                f"work directory '{given}' already holds a run: add --resume to go on, or name another"
            )
        return given
    return first.with_name(f"{first.name}-{max(map(_number, runs)) + 1}") if runs else first


def settle_config(config: T, stored: T | None, folder: Path) -> None:
    """Write the protocol of a run into its work directory, or check that it is the one that is there.

    Args:
        config: the protocol to run with.
        stored: the one that the directory holds, if any.
        folder: the work directory.

    Raises:
        UserError: they differ: results of two protocols would be mixed.
    """
    if stored is None:
        dump_config(config, folder / CONFIG_FILE)
    elif stored != config:
        names = [item.name for item in fields(config)  # type: ignore[arg-type]
                 if getattr(stored, item.name) != getattr(config, item.name)]  # fmt: skip
        raise UserError(
            f"'{folder}' was made with another protocol ({', '.join(names)} differ): use another --work-dir, or leave "
            f"out what changes it"
        )


def _number(path: Path) -> int:
    tail = path.name.rpartition("-")[2]
    return int(tail) if tail.isdigit() else 1
