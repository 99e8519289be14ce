"""Several stores of trials made one: records, widths and trainings, by their keys.

Nothing is overwritten, and a record with the same key but other scores (another machine rounds otherwise) is reported.
Files are written whole or not at all, and trainings are claimed while they are copied. So commands may be running in
all of the stores, and a merge that was stopped is simply repeated.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from core.errors import MissingData, UserError
from core.experiments.plan import PLAN_FILE
from core.storage.claims import CLAIM_FILE, Claimed, claimed
from core.storage.files import atomic_write, read_json, write_json
from core.training.run_files import RunFiles

ADDED, THERE, DIFFERENT, DAMAGED, IN_USE = "added", "there already", "different", "damaged", "in use"
LEFT_OUT = (DIFFERENT, DAMAGED, IN_USE)
_PARTS = ("records", "widths", "runs")


def merge(into: Path, others: Sequence[Path], say: Callable[[str], object]) -> Counter[tuple[str, str]]:
    """Add the content of other stores to one.

    Args:
        into: the store that grows; made if it is missing.
        others: stores that stay as they are.
        say: called with a line about everything that is left out.

    Returns:
        (part, outcome) -> how many: ("records", ADDED), ...

    Raises:
        MissingData: one of the others is not there.
        UserError: one of them is no store, or the same as `into`.
    """
    for store in (into, *others):
        if (store / PLAN_FILE).exists():
            raise UserError(
                f"'{store}' is the work directory of one experiment, no store of trials: it grows with --resume --seeds"
            )
    for other in others:
        if not other.is_dir():
            raise MissingData(f"there is no store '{other}'")
        if not any((other / part).is_dir() for part in _PARTS):
            raise UserError(f"'{other}' is no store of trials: it holds none of {', '.join(_PARTS)}")
        if into.exists() and other.samefile(into):
            raise UserError(f"'{other}' is the store to add to: name another")
    counts: Counter[tuple[str, str]] = Counter()
    for other in others:
        for path in sorted((other / "records").glob("*.json")):
            counts["records", _add(path, into / "records" / path.name, _scores, say)] += 1
        for path in sorted((other / "widths").glob("*.json")):
            counts["widths", _add(path, into / "widths" / path.name, _widths, say)] += 1
        for folder in sorted(path for path in (other / "runs").glob("*") if path.is_dir()):
            counts["runs", _add_run(folder, into / "runs" / folder.name, say)] += 1
    return counts


def summary(counts: Counter[tuple[str, str]]) -> list[str]:
    """A line for every part of a merge: "records: 120 added, 3 there already"."""
    lines = []
    for part in _PARTS:
        told = [f"{count} {outcome}" for (name, outcome), count in sorted(counts.items()) if name == part]
        lines.append(f"{part}: {', '.join(told) or 'none'}")
    return lines


def _scores(content: Any) -> Any:
    return content["key"], content["metrics"]


def _widths(content: Any) -> Any:
    return content["architecture"]["widths"]


def _add(path: Path, target: Path, what: Callable[[Any], Any], say: Callable[[str], object]) -> str:
    try:
        content = read_json(path)
        own = what(content)
    except (OSError, ValueError, LookupError, TypeError) as error:
        say(f"'{path}' is damaged ({error!r}): left out")
        return DAMAGED
    try:
        there = what(read_json(target))
    except (OSError, ValueError, LookupError, TypeError) as error:
        if not isinstance(error, FileNotFoundError):
            say(f"'{target}' is damaged: written anew from '{path}'")
        write_json(target, content)
        return ADDED
    if there == own:
        return THERE
    say(f"'{path}' differs from '{target}', which stays: {own} against {there}")
    return DIFFERENT


def _add_run(folder: Path, target: Path, say: Callable[[str], object]) -> str:
    """Copy a training, finished or not, unless the target has one that has come as far."""
    try:
        with claimed(folder, say), claimed(target, say):
            own, there = RunFiles(folder), RunFiles(target)
            if there.weights.exists() or (there.state.exists() and not own.weights.exists()):
                return THERE
            for path in target.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != CLAIM_FILE:
                    path.unlink()
            files = [path for path in folder.rglob("*") if path.is_file() and path.name != CLAIM_FILE]
            # The weights last: with them the training counts as finished.
            for path in sorted(files, key=lambda path: (path == own.weights, path)):
                with path.open("rb") as source, atomic_write(target / path.relative_to(folder), "wb") as file:
                    shutil.copyfileobj(source, file)
            return ADDED
    except Claimed as error:
        say(f"left out: {error}")
        return IN_USE
