"""More epochs for a run: the schedule that its epochs follow, and how the shorter run is kept.

    work_dir/epochs-15/     the run as it was with 15 epochs, a work directory of its own

All trainings of an experiment have one recipe. If they get more epochs, all of them follow the first schedule up to the
last epoch that any of them has begun, and the longer one from there, whether they are finished, half done or not begun.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.storage.claims import CLAIM_FILE
from core.training.run_files import RunFiles
from core.training.run_state import epochs_begun

_EARLIER = "epochs-*"
# Files about a finished run, which are wrong for one that goes on.
_RESULTS = (
    "result.json",
    "report.html",
    "report.md",
    "channels.png",
    "channels.svg",
    "curves.png",
    "curves.svg",
)


def longer_protocol(config: Any, stored: Any, trainings: Sequence[Path], whole: bool) -> tuple[Any, bool]:
    """The protocol to go on with if a command line asks for more epochs than a run has, and for no other change.

    Args:
        config: what the command line asks for, with a section `train`.
        stored: the run's own protocol, of the same class; None for a fresh run.
        trainings: folders of the run's trainings.
        whole: whether the command goes on with the whole run (`--resume`), not with some of its stages.

    Returns:
        The longer protocol and True; otherwise `config` with the run's earlier extensions, and False.

    Raises:
        UserError: a state is damaged, or a finished training has no state from which it could go on.
    """
    if stored is None or config.train.epochs < stored.train.epochs:
        return config, False
    if not config.train.extended:
        config = replace(config, train=replace(config.train, extended=stored.train.extended))
    if config.train.epochs == stored.train.epochs or not whole:
        return config, False
    if replace(config, train=replace(config.train, epochs=stored.train.epochs)) != stored:
        return config, False
    until = max(map(_begun, trainings), default=0)
    return replace(config, train=stored.train.longer(config.train.epochs, until)), True


def trainings_in(folder: Path) -> list[Path]:
    """The trainings of an experiment that get more epochs: all but the teachers', which are done."""
    return sorted(path for path in folder.glob("runs/*") if not path.name.startswith("teacher-seed"))


def keep_shorter(
    folder: Path, config: Any, stored: Any, trainings: Sequence[Path], say: Callable[[str], object]
) -> None:
    """Keep a run as it is in a folder of its own, and remove the files that are wrong for a run that goes on.

    For the first process, before the longer protocol is written. It may be stopped anywhere: a resume of the shorter
    run makes the removed files again.

    Args:
        folder: the work directory.
        config: the longer protocol.
        stored: the shorter one.
        trainings: folders of the run's trainings.
        say: takes a line of news.
    """
    name = f"epochs-{stored.train.epochs}"
    taken = len(list(folder.glob(f"{name}*")))
    kept = folder / (name if not taken else f"{name}-{taken + 1}")
    partial = folder / f".{kept.name}.tmp"
    shutil.rmtree(partial, ignore_errors=True)
    ignored = shutil.ignore_patterns(CLAIM_FILE, _EARLIER, ".*")
    shutil.copytree(folder, partial, ignore=ignored, copy_function=_copy)
    os.replace(partial, kept)
    for training in trainings:
        RunFiles(training).weights.unlink(missing_ok=True)
    own = RunFiles(folder)
    networks = (path for path in folder.glob("*.safetensors") if path not in (own.state, own.previous))
    for path in (*networks, *(folder / name for name in _RESULTS)):
        path.unlink(missing_ok=True)
    say(
        f"'{folder}' gets {config.train.epochs} epochs instead of {stored.train.epochs}; what it holds is kept in "
        f"'{kept}'"
    )


def _begun(training: Path) -> int:
    """How many epochs a training has begun.

    Raises:
        UserError: its state is damaged, or is gone although the training is finished.
    """
    files = RunFiles(training)
    state = files.state if files.state.exists() else files.previous
    if state.exists():
        return epochs_begun(state)
    if files.weights.exists():
        raise UserError(
            f"'{files.weights}' is of a finished training, but its state '{files.state}' is gone, from which it would "
            f"get more epochs: restore it, or train anew in another --work-dir"
        )
    return 0


def _copy(source: str, target: str) -> object:
    """Link networks and states, which are only ever replaced whole; copy all other files."""
    if source.endswith(".safetensors"):
        with suppress(OSError):
            os.link(source, target)
            return target
    return shutil.copy2(source, target)
