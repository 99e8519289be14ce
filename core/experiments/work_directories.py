"""Work directories of commands that train: which one a run gets, which command holds it, and its protocol."""

from __future__ import annotations

import glob
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from lightning_fabric import Fabric

from core.command_line.config import dump_config
from core.differences import differences
from core.errors import UserError
from core.experiments.plan import PLAN_FILE, Plan
from core.experiments.processes import from_first
from core.storage.claims import Claimed, take

CONFIG_FILE = "config.py"
WORK_DIRS = Path("work_dirs")
_MADE = ("runs", "records", "last.safetensors")  # left in a work directory by trainings
_TOLD = 4  # differences of two protocols that a message lists
Use = Literal["new", "existing", "either"]


def settle(plan: Plan, config: Any, stored: Any, folder: Path, stages: Sequence[str]) -> None:
    """Write plan and protocol into a work directory, the protocol last: a folder with a protocol has a plan.

    The stage compare alone leaves the plan as it is: it only runs if nothing is added.
    """
    if stored is None or tuple(stages) != ("compare",):
        plan.save(folder)
    if stored is None:
        dump_config(config, folder / CONFIG_FILE)


def find_run(
    given: Path | None, default_name: Callable[[], str], use: Use, any_of: str | None = None
) -> Path | None:
    """The work directory of an earlier run, or None for a fresh run; nothing is written.

    Without `--work-dir`: the latest of work_dirs/NAME, NAME-2, NAME-3 ...

    Args:
        given: `--work-dir`.
        default_name: gives NAME.
        use: "new" for a fresh run, "existing" to resume one if there is one, "either" to run single stages.
        any_of: a task: if there is no run called NAME, its only experiment under another name is taken.

    Raises:
        UserError: a named directory holds a run although resuming was not asked for, or there are several runs.
    """
    if given is not None:
        runs = [given] if (given / CONFIG_FILE).exists() else []
    elif use == "new":
        return None
    else:
        runs = _runs_called(default_name())
    if runs and use != "new":
        return runs[-1]
    if runs:
        raise UserError(
            f"work directory '{given}' already holds a run: add --resume to go on, or name another"
        )
    if use != "existing":
        return None
    others = [] if given is not None or any_of is None else _experiments_of(any_of)
    if len(others) == 1:
        return others[0]
    if others:
        raise UserError(f"several runs could go on: name one with --work-dir: {', '.join(map(str, others))}")
    return None


@contextmanager
def work_directory(
    fabric: Fabric,
    there: Path | None,
    arguments: Namespace,
    default_name: Callable[[], str],
    result: str,
    say: Callable[[str], object],
) -> Iterator[Path]:
    """Hold the work directory of a run until the block is left; the first process holds it for all.

    Args:
        fabric: the processes.
        there: the directory of an earlier run that goes on; None for a fresh run in `--work-dir`, or in work_dirs/NAME,
            NAME-2, NAME-3 ..., the first that is free.
        arguments: parsed, `work_dir` and `resume` among them.
        default_name: gives NAME.
        result: a file that a finished run has.
        say: takes one line of news at a time.

    Raises:
        UserError: another command has it, or it holds the remains of a run.
    """
    release: list[Callable[[], None]] = []

    def hold() -> Path:
        place = there or arguments.work_dir
        if place is not None:
            _require_text(place)
            release.append(take(place, say, wait=arguments.resume))
            if there is None and (place / CONFIG_FILE).exists():
                raise UserError(
                    f"work directory '{place}' holds the run of another command that has just ended: add "
                    f"--resume to go on with it, or name another"
                )
        else:
            place = first_free()
        if there is None:
            left = [name for name in _MADE if (place / name).exists()]
            if left:
                raise UserError(
                    f"'{place}' holds trainings ({', '.join(left)}), but not the {CONFIG_FILE} that made them: "
                    f"restore it, or name another --work-dir"
                )
            if arguments.resume:
                say(f"there is no run in '{place}' to resume: starting one")
        return place

    def first_free() -> Path:
        first = WORK_DIRS / default_name()
        earlier = _runs_called(first.name)
        if earlier and not (earlier[-1] / result).exists():
            say(
                f"'{earlier[-1]}' holds a run that is not finished: --resume goes on with it; this one starts anew"
            )
        number = max(map(_number, earlier), default=0)
        while True:
            number += 1
            folder = first if number == 1 else first.with_name(f"{first.name}-{number}")
            try:
                let_go = take(folder, say)
            except Claimed:  # another command has just started there
                continue
            if not (folder / CONFIG_FILE).exists():
                release.append(let_go)
                return folder
            let_go()

    try:
        yield from_first(fabric, hold)
    finally:
        for let_go in release:
            let_go()


def _require_text(folder: Path) -> None:
    """Refuse a folder whose name is no text in this locale: TensorBoard and JSON cannot write it.

    Raises:
        UserError: the name is no text.
    """
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"work directory '{folder}': its name is no text in this locale (LANG, LC_ALL): set LC_ALL=C.UTF-8 or "
            f"PYTHONUTF8=1, or use another"
        ) from error


def check_same(config: Any, stored: Any, folder: Path) -> None:
    """Check that the protocol equals the one in the work directory.

    Raises:
        UserError: they differ: results of two protocols would be mixed.
    """
    found = list(differences(asdict(stored), asdict(config)))
    if found:
        more = f", and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
        raise UserError(
            f"'{folder}' was made with another protocol ({', '.join(map(str, found[:_TOLD]))}{more}): use another "
            f"--work-dir, or leave out what changes it"
        )


def _runs_called(name: str) -> list[Path]:
    """Those of work_dirs/NAME, NAME-2, ... that hold a run, by number."""
    first = WORK_DIRS / name
    numbered = [path for path in first.parent.glob(f"{glob.escape(name)}-[0-9]*") if _number(path) > 1]
    return [path for path in (first, *sorted(numbered, key=_number)) if (path / CONFIG_FILE).exists()]


def _experiments_of(task: str) -> list[Path]:
    """The work directories under work_dirs/ that hold an experiment of this task with a plan."""
    return sorted(
        path.parent
        for path in WORK_DIRS.glob(f"{task}-*/{PLAN_FILE}")
        if (path.parent / CONFIG_FILE).exists()
    )


def _number(path: Path) -> int:
    tail = path.name.rpartition("-")[2]
    return int(tail) if tail.isdigit() else 1
