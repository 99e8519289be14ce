"""Where an experiment keeps what it has found, trained and recorded: a readable work directory, or a store by keys.

    WORK_DIR/records/METHOD-seedS.json     STORE/records/KEY.json   one finished trial, with all that decides it
    WORK_DIR/widths/METHOD-seedS.json      STORE/widths/KEY.json    found widths
    WORK_DIR/runs/METHOD-seedS/            STORE/runs/KEY/          one training; in a store, methods that find equal
                                                                    widths share it
    WORK_DIR/widths/METHOD-seedS/          STORE/runs/search-KEY/   files of methods that train while they search

Every file is written whole or not at all, and trainings go on from their own checkpoints, so a command may be killed at
any moment and started again. It claims the folder of its training (`core.storage.claims`); other commands wait for it.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from core.errors import UserError
from core.experiments.plan import SCHEMA, Trial
from core.experiments.settings import FOUND, name_of
from core.methods.method import Found
from core.methods.registry import BASELINE
from core.storage.checkpoint import read_shapes
from core.storage.claims import Claimed, take
from core.storage.files import json_text, read_json, write_json
from core.surgery.architecture import Architecture
from core.training.devices import is_first_process
from core.training.run_files import RunFiles, read_history

Record = dict[str, Any]
RECORDED_ANEW = "to be recorded anew from the training"
SEARCHED_ANEW = "to be searched for anew"
_POLL = 0.2  # seconds between the first two looks at another command's claim; the pauses grow
_LONGEST_POLL = 5.0


def key_of(value: Any) -> str:
    """A short name for plain data: equal data have equal keys."""
    text = json.dumps(value, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


class Store(Protocol):
    """Places of an experiment's files; a key stands for all that decides a result."""

    @property
    def folder(self) -> Path:
        """The folder of the store."""

    def run(self, trial: Trial, key: str) -> Path:
        """Folder of the trial's training."""

    def teacher(self, seed: int, key: str) -> Path:
        """Folder of a teacher's training."""

    def search(self, trial: Trial, key: str) -> Path:
        """Folder for the checkpoints of a search."""

    def load(self, trial: Trial, key: str) -> Record | None:
        """The record of a finished trial; None if it is still to be run.

        Args:
            trial: the trial.
            key: of all that decides its result.

        Raises:
            UserError: the record belongs to something other than what is asked for.
        """

    def save(self, trial: Trial, record: Record) -> None:
        """Keep the record of a finished trial."""

    def load_widths(self, trial: Trial, key: str) -> Found | None:
        """Found widths; None if they are still to be found."""

    def save_widths(self, trial: Trial, key: str, found: Found) -> None:
        """Keep found widths."""


def schema_of(record: Mapping[str, Any]) -> int:
    """The schema by which a trial was run; also for the short records that reports publish."""
    return int(record.get("schema", record.get("subject", {}).get("schema", 1)))


def short(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as it is published: without what can be made again from its key's folder."""
    left_out = ("architecture", "decided_by", "recipe", "subject", "baseline_cost", "named_widths")
    if schema_of(record) > 1:  # the first pages do not name their schema
        record = {"schema": schema_of(record), **record}
    found = record["architecture"]
    if found is None and "widths" in record:  # imported
        return {key: value for key, value in record.items() if key not in left_out}
    own = {"widths": found and list(found["widths"].values())}
    if found and found.get("removed"):
        own["removed"] = found["removed"]
    return {**{key: value for key, value in record.items() if key not in left_out}, **own}


@dataclass(frozen=True)
class KeyedStore:
    """A store that any number of commands share: names are keys.

    Attributes:
        folder: of the store.
        published: a folder that also keeps every finished trial as a small file (`short`).
    """

    folder: Path
    published: Path | None = None

    def run(self, trial: Trial, key: str) -> Path:
        """See `Store`."""
        return self.folder / "runs" / key

    def teacher(self, seed: int, key: str) -> Path:
        """See `Store`."""
        return self.folder / "runs" / key

    def search(self, trial: Trial, key: str) -> Path:
        """See `Store`."""
        return self.folder / "runs" / f"search-{key}"

    def record_file(self, key: str) -> Path:
        """Where the finished trial of this key is kept."""
        return self.folder / "records" / f"{key}.json"

    def load(self, trial: Trial, key: str) -> Record | None:
        """See `Store`; the key tells releases apart."""
        return _read(self.record_file(key), RECORDED_ANEW)

    def records(self) -> list[Record]:
        """All records, whatever their keys."""
        found = (_read(path, "left out") for path in sorted((self.folder / "records").glob("*.json")))
        return [record for record in found if record is not None]

    def save(self, trial: Trial, record: Record) -> None:
        """See `Store`."""
        write_json(self.record_file(record["key"]), record)
        if self.published is not None:
            write_json(self.published / f"{record['key']}.json", short(record))

    def load_widths(self, trial: Trial, key: str) -> Found | None:
        """See `Store`."""
        path = self.folder / "widths" / f"{key}.json"
        value = _read(path, SEARCHED_ANEW, ("architecture", "epochs", "baseline_epochs"))
        if value is None:
            return None
        architecture = Architecture.from_json(value["architecture"], f"widths file '{path}'")
        return Found(architecture, value["epochs"], value["baseline_epochs"])

    def save_widths(self, trial: Trial, key: str, found: Found) -> None:
        """See `Store`."""
        value = {"architecture": found.architecture.to_json(), "epochs": found.epochs,
                 "baseline_epochs": found.baseline_epochs}  # fmt: skip
        write_json(self.folder / "widths" / f"{key}.json", value)


@dataclass(frozen=True)
class WorkDirectory:
    """The work directory of one experiment: names are readable, and one protocol holds for all trials.

    Attributes:
        folder: the directory.
        first_seed: the seed whose found widths are also in `widths.json`.
    """

    folder: Path
    first_seed: int

    def run(self, trial: Trial, key: str = "") -> Path:
        """See `Store`."""
        return self.folder / "runs" / name_of(trial.method, trial.seed)

    def teacher(self, seed: int, key: str = "") -> Path:
        """See `Store`."""
        return self.folder / "runs" / name_of("teacher", seed)

    def search(self, trial: Trial, key: str) -> Path:
        """See `Store`."""
        return self.folder / "widths" / name_of(trial.method, trial.seed)

    def load(self, trial: Trial, key: str) -> Record | None:
        """See `Store`; a record without its trained weights does not count, so that a folder of runs/ can be removed.

        Nor does a record whose log, weights or widths are lost or damaged: the trial then runs once more, which writes
        them anew and trains nothing. Trials in directories of earlier releases, which have no records, run once more as
        well.
        """
        path = self.record_file(trial.method, trial.seed)
        record = _read(path, RECORDED_ANEW)
        files = RunFiles(self.run(trial))
        if record is None or not files.weights.exists() or _cut_short(files):
            return None
        if schema_of(record) < SCHEMA:
            raise UserError(
                f"'{path}' is of an earlier release, whose found networks started by other rules: use another "
                f"--work-dir"
            )
        if record.get("key") != key:
            raise UserError(
                f"'{path}' is of another network, data set, recipe, search or start than this run's (has the network's "
                f"own file been edited?): use another --work-dir, or remove the file to take the training as it is"
            )
        whole = _has_log(self.run(trial), record) and (
            trial.method == BASELINE or _widths_in(self.widths_file(trial.finder)) is not None
        )
        return record if whole else None

    def save(self, trial: Trial, record: Record) -> None:
        """See `Store`."""
        write_json(self.record_file(trial.method, trial.seed), record)

    def record_file(self, method: str, seed: int) -> Path:
        """Where the finished trial of one method and seed is kept."""
        return self.folder / "records" / f"{name_of(method, seed)}.json"

    def unknown_start(self, method: str, seed: int) -> dict[str, str]:
        """Tensors of a trained network that may have started otherwise than the baseline's -> why."""
        record = _read(self.record_file(method, seed), RECORDED_ANEW)
        return {} if record is None else dict(record.get("unknown_start", {}))

    def environment(self, method: str, seed: int) -> dict[str, Any]:
        """The environment in which a network was trained, and when; empty if there is no record."""
        record = _read(self.record_file(method, seed), RECORDED_ANEW)
        return {} if record is None else dict(record.get("environment") or {})

    def metrics_at_start(self, method: str, seed: int) -> dict[str, float]:
        """Metrics of a network with trained weights before it was fine-tuned; empty for one from scratch."""
        record = _read(self.record_file(method, seed), RECORDED_ANEW)
        return {} if record is None else dict(record.get("metrics_at_start") or {})

    def widths_file(self, trial: Trial) -> Path:
        """Where the widths of one method and seed are kept."""
        return self.folder / "widths" / f"{name_of(trial.method, trial.seed)}.json"

    def load_widths(self, trial: Trial, key: str = "") -> Found | None:
        """See `Store`."""
        path = self.widths_file(trial)
        architecture = _widths_in(path)
        if architecture is None:
            architecture = self._recorded_widths(trial)
            if architecture is not None:
                _note(
                    f"'{path}' is {'damaged' if path.exists() else 'gone'}: written anew from the trial's record"
                )
                architecture.save(path)
            elif path.exists():
                architecture = Architecture.load(path)  # raises what is wrong with it
        if architecture is None:
            return None
        self._publish(trial, architecture)
        how = architecture.found_by
        return Found(architecture, how.get("search_epochs", 0.0), how.get("search_baseline_epochs", 0.0))

    def save_widths(self, trial: Trial, key: str, found: Found) -> None:
        """See `Store`; `found_by` says how long the search took."""
        architecture = found.architecture
        if found.epochs:
            took = {"search_epochs": found.epochs, "search_baseline_epochs": found.baseline_epochs}
            architecture = replace(architecture, found_by={**architecture.found_by, **took})
        architecture.save(self.widths_file(trial))
        self._publish(trial, architecture)

    def _recorded_widths(self, trial: Trial) -> Architecture | None:
        """The widths of a trained network, from its record; None if there is no record."""
        path = self.record_file(trial.method, trial.seed)
        if not RunFiles(self.run(trial)).weights.exists():
            return None
        record = _read(path, RECORDED_ANEW, ("architecture",))
        return None if record is None else Architecture.from_json(record["architecture"], f"'{path}'")

    def _publish(self, trial: Trial, architecture: Architecture) -> None:
        path = self.folder / "widths.json"
        if trial.method == FOUND and trial.seed == self.first_seed and not path.exists():
            architecture.save(path)


def plain(value: Any) -> Any:
    """A value as it will be read back: lists for tuples, text for paths, words for numbers that are not finite."""
    return json.loads(json_text(json.loads(json.dumps(value, default=str))))


@contextmanager
def held(folder: Path, say: Callable[[str], object]) -> Iterator[None]:
    """Hold the folder of a training or a search; waits for another command that has it.

    Args:
        folder: made if it is missing, and removed again if nothing was written.
        say: called with a line about waiting, or about a claim that was taken over.
    """
    pause = 0.0
    while True:
        try:
            release = take(folder, say)
            break
        except Claimed as error:
            if not pause:
                say(f"waiting for another command: {error}")
            pause = min(1.5 * pause, _LONGEST_POLL) or _POLL
            time.sleep(pause)
    try:
        yield
    finally:
        release()


def _has_log(folder: Path, record: Record) -> bool:
    """Whether the log of a recorded training is there, with a line for every epoch."""
    try:
        return len(read_history(folder)) == record["recipe"]["train"]["epochs"]
    except (UserError, KeyError, TypeError):
        return False


def _cut_short(files: RunFiles) -> bool:
    """Whether weights are damaged, as their header says, that the training's state holds too: then they are removed."""
    try:
        read_shapes(files.weights)
    except UserError:
        if files.state.exists():
            _note(f"'{files.weights}' is damaged: written anew from '{files.state}'")
            if is_first_process():
                files.weights.unlink(missing_ok=True)
            return True
    return False


def _widths_in(path: Path) -> Architecture | None:
    """The widths in a file; None if it is missing or damaged."""
    try:
        return Architecture.load(path)
    except UserError:
        return None


def _read(path: Path, anew: str, needed: Sequence[str] = ()) -> Record | None:
    """The object in a file; None if it is missing or damaged; a note on damage says what is done about it."""
    if not path.exists():
        return None
    try:
        record = read_json(path)
        if not isinstance(record, dict):
            raise ValueError("it is no object")
        if not record:
            raise ValueError("it is empty")
        lacking = [name for name in needed if name not in record]
        if lacking:
            raise ValueError(f"it has no '{lacking[0]}'")
    except (ValueError, RecursionError) as error:
        _note(f"'{path}' is damaged ({error}): {anew}")
        return None
    return record


@cache
def _note(line: str) -> None:
    """Print a note once, on the error stream of the first process, however often it is called."""
    if is_first_process() and multiprocessing.parent_process() is None:
        print(f"note: {line}", file=sys.stderr, flush=True)
