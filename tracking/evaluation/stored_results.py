"""Stored results of trackers: found in every toolkit's layout, read strictly.

Layouts, at any depth below the named folder:

- `<tracker>/<sequence>.txt`, as this package, pysot and the got10k toolkit (OTB, UAV123, LaSOT) write,
- `<tracker>_tracking_result/<sequence>.txt`, the LaSOT toolkit's,
- `<tracker>/<parameters>[_<run>]/<sequence>.txt`, pytracking's,
- `<tracker>/<sequence>/<sequence>_001.txt` …, GOT-10k's, with several repetitions,
- zips of any of these: TrackingNet's and GOT-10k's submissions.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType

import numpy as np

from core.errors import MissingData, UserError, first_names
from core.tables import grouped
from tracking.datasets.sequence import Sequence as TrackingSequence
from tracking.files.archives import StoredFile, zip_members
from tracking.files.box_files import read_box_files
from tracking.files.boxes import BoxTable

LASOT_SUFFIX = "_tracking_result"
REPETITION = re.compile(r"(.+)_(\d{3})")
MAX_DEPTH = 5
SIDE_FOLDERS = ("times", "scores")  # folders of files beside the boxes
RUN_RECORD = "run.json"
NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class StoredTracker:
    """The result files of one tracker.

    Attributes:
        name: the tracker, named by its folders below the one that was searched.
        files: sequence name to the files of its repetitions, in their order.
        times: sequence name to the file of seconds per frame.
        renamed: file to the sequence with which it was matched, if its name is not exactly the sequence's.
        unused: what else lies in its folder, named below the one that was searched.
        others: number of its files of sequences that were not asked for.
    """

    name: str
    files: Mapping[str, tuple[StoredFile, ...]]
    times: Mapping[str, StoredFile]
    renamed: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    others: int = 0


@dataclass(frozen=True)
class StoredResults:
    """Everything under a folder, or in a zip.

    Attributes:
        place: what was searched.
        trackers: those with a result.
        without: folders and zips without any result; their files are in `unused`.
        unused: files beside the trackers' folders.
    """

    place: Path
    trackers: tuple[StoredTracker, ...]
    without: tuple[StoredTracker, ...]
    unused: tuple[str, ...]


def normal_name(name: str) -> str | None:
    """A sequence's name without differences in spelling: case, `-_.` and spaces, zeros before a number.

    Two numbers that follow each other stay apart: `bird1_1` is `bird-01.1`, not `bird11`. None for a name with other
    characters, such as the brackets of a second download.
    """
    name = name.casefold()
    if re.fullmatch(r"[a-z0-9 ._-]+", name) is None:
        return None
    parts: list[str] = []
    for word in re.findall(r"[a-z]+|[0-9]+", name):
        if word.isdigit() and parts and parts[-1].isdigit():
            parts.append("-")
        parts.append(word.lstrip("0") or "0" if word.isdigit() else word)
    return "".join(parts)


class _Names:
    """The sequence after which a file or folder is named: by its exact name, else by its normalised one."""

    def __init__(self, sequences: Iterable[TrackingSequence], others: Mapping[str, str]) -> None:
        self.exact = dict(others)
        for sequence in sequences:
            self.exact |= dict.fromkeys((sequence.name, *sequence.aliases), sequence.name)
        self.known: dict[str, str | None] = dict(self.exact)
        self.normal: dict[str | None, dict[str, str]] | None = None

    def find(self, name: str) -> str | None:
        """The sequence, or None.

        Raises:
            UserError: it could be either of two sequences.
        """
        if name not in self.known:
            self.known[name] = self._find_normal(name)
        return self.known[name]

    def _find_normal(self, name: str) -> str | None:
        if self.normal is None:  # usually all names are exact
            self.normal = {}
            for alias, sequence in self.exact.items():
                self.normal.setdefault(normal_name(alias), {})[sequence] = alias
        wanted = normal_name(name)
        found = {} if wanted is None else self.normal.get(wanted, {})
        if len(found) > 1:
            one, other = list(found)[:2]
            raise UserError(
                f"'{name}' could be a result of '{one}' or of '{other}': name the file exactly as its sequence"
            )
        return next(iter(found), None)


@dataclass
class _Folder:
    """The findings in a tracker's folder (or zip)."""

    name: str
    place: str  # as messages show it
    found: list[tuple[str, int, StoredFile]] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)


Key = tuple[
    str, tuple[str, ...]
]  # the zip, "" for none, and the folders below it or below the place searched


def find_trackers(
    place: str | Path, sequences: Iterable[TrackingSequence], others: Mapping[str, str] = NONE
) -> list[StoredTracker]:
    """All trackers with at least one result of the given sequences, see `find_results`."""
    return list(find_results(place, sequences, others).trackers)


def find_results(
    place: str | Path, sequences: Iterable[TrackingSequence], others: Mapping[str, str] = NONE
) -> StoredResults:
    """The trackers' results for the given sequences under a folder or in a zip, and everything else that lies there.

    Args:
        place: the folder or zip.
        sequences: whose results are wanted; files are matched by exact name or alias, else by `normal_name`.
        others: names and aliases, each to the name, of the data set's other sequences; their results are only counted.

    Raises:
        MissingData: no such folder or zip.
        UserError: nothing in it is a result of these sequences, two files are the same result, one file could be of
            two sequences, or two trackers have the same name.
    """
    place = Path(place).expanduser()
    if not place.exists():
        raise MissingData(f"results not found: '{place}' does not exist: check --results")
    sequences = list(sequences)
    names = _Names(sequences, others)
    search = _Search(names, {sequence.name for sequence in sequences}, place.resolve().name)
    if place.is_file():
        search.zip(place, place.name, place.stem)
    else:
        search.folder(place)
    results = search.results(place)
    if not results.trackers:
        example = sequences[0].name
        there = [name for item in results.without for name in item.unused] + list(results.unused)
        seen = f"; there: {named_files(there)}" if there else ""
        raise UserError(
            f"no results in '{place}': expected files such as '<tracker>/{example}.txt' "
            f"(or '<tracker>/{example}/{example}_001.txt', or a zip of them){seen}: check --results and --dataset"
        )
    return results


def named_files(names: Sequence[str]) -> str:
    """Number and first names: `"2 files (a.txt, b.txt)"`."""
    return f"{len(names)} file{'' if len(names) == 1 else 's'} ({first_names(names)})"


class _Search:
    """Sorts files into the trackers' folders."""

    def __init__(self, names: _Names, wanted: set[str], own_name: str) -> None:
        self.names, self.wanted, self.own_name = names, wanted, own_name
        self.folders: dict[Key, _Folder] = {}
        self.walked: list[Key] = []
        self.left: list[tuple[Key, str]] = []  # unused files and where they lie

    def folder(self, place: Path) -> None:
        """Everything below a folder."""
        for walked, subfolders, files in os.walk(place, followlinks=True):
            folder = Path(walked)
            real = folder.resolve()
            parts = folder.relative_to(place).parts
            here: Key = ("", parts)
            if parts:
                self.walked.append(here)
            subfolders.sort()
            for name in list(subfolders):
                # A link to a folder above would find the same trackers again and again.
                above = real.is_relative_to((folder / name).resolve())
                if name.startswith(".") or len(parts) >= MAX_DEPTH or above:
                    self.left.append((here, "/".join((*parts, name, ""))))
                    subfolders.remove(name)
            for name in sorted(files):
                path = "/".join((*parts, name))
                if name.lower().endswith(".zip") and not name.startswith("."):
                    self.zip(folder / name, path, path[:-4])
                else:
                    self._sort(here, StoredFile(folder / name), name, path, self.own_name)

    def zip(self, place: Path, shown: str, default: str) -> None:
        """Everything in a zip."""
        folders: set[tuple[str, ...]] = {()}
        for file in zip_members(place):
            assert file.member is not None  # zip_members makes nothing else
            parts = PurePosixPath(file.member).parts[:-1]
            folders |= {parts[:depth] for depth in range(len(parts) + 1)}
            self._sort((shown, parts), file, file.name, f"{shown}:{file.member}", default)
        self.walked += [(shown, parts) for parts in sorted(folders)]

    def _sort(self, here: Key, stored: StoredFile, name: str, shown: str, default: str) -> None:
        container, parts = here
        read = (
            None
            if name.startswith(".") or not name.lower().endswith(".txt")
            else self._read(name[:-4], parts)
        )
        if read is None:
            if name != RUN_RECORD:
                self.left.append((here, shown))
            return
        sequence, repetition, exact = read
        if parts and parts[-1] in SIDE_FOLDERS and repetition < 1:
            parts = parts[:-1]
        if parts and self.names.find(parts[-1]) == sequence:
            parts = parts[:-1]
        key = (container, parts)
        if key not in self.folders:
            title = ("/".join(parts) or default).removesuffix(LASOT_SUFFIX)
            where = f"{container}:{'/'.join(parts)}" if container else "/".join(parts) or "."
            self.folders[key] = _Folder(title, where)
        self.folders[key].found.append((sequence, repetition, stored))
        if not exact and repetition > 0 and sequence in self.wanted:
            self.folders[key].renamed[shown] = sequence

    def _read(self, stem: str, parts: tuple[str, ...]) -> tuple[str, int, bool] | None:
        """Sequence and repetition (0: scores, -1: times) of a file, and whether it is named exactly."""
        exact = self.names.exact
        for kind, suffix in ((-1, "_time"), (0, "_score")):
            if stem.endswith(suffix) and (sequence := self.names.find(stem.removesuffix(suffix))):
                return sequence, kind, stem.removesuffix(suffix) in exact
        if stem in exact:
            return exact[stem], 1, True
        # In a sequence's own folder the last number is the repetition's; this goes before looser readings of the name.
        match = REPETITION.fullmatch(stem)
        if (
            match
            and parts
            and (sequence := self.names.find(match[1]))
            and self.names.find(parts[-1]) == sequence
        ):
            return sequence, int(match[2]), match[1] in exact
        loose = self.names.find(stem)
        if match and loose is not None and (first := self.names.find(match[1])) not in (None, loose):
            raise UserError(
                f"'{stem}' could be a repetition of '{first}' or a result of '{loose}': name the file exactly as its "
                f"sequence, or put repetitions into a folder '{first}'"
            )
        return None if loose is None else (loose, 1, False)

    def results(self, place: Path) -> StoredResults:
        """The trackers, and everything else."""
        used = {
            key: folder
            for key, folder in self.folders.items()
            if any(name in self.wanted and number > 0 for name, number, _ in folder.found)
        }
        for key, folder in self.folders.items():
            if key not in used:
                self.left += [(key, str(file)) for _, _, file in folder.found]
        without = self._without(used)
        unused: list[str] = []
        for (container, parts), shown in sorted(self.left, key=lambda item: item[1]):
            owner = _owner(used, container, parts) or _owner(without, container, parts)
            (owner.unused if owner else unused).append(shown)
        titles: dict[str, _Folder] = {}
        for folder in (*used.values(), *without.values()):
            if folder.name in titles:
                raise UserError(
                    f"two trackers are called '{folder.name}': '{titles[folder.name].place}' and '{folder.place}' in "
                    f"'{place}': rename one of them"
                )
            titles[folder.name] = folder
        ordered = sorted(used.values(), key=lambda folder: folder.name)
        trackers = [_tracker(folder, self.wanted) for folder in ordered]
        rest = [StoredTracker(folder.name, {}, {}, {}, tuple(folder.unused)) for folder in without.values()]
        return StoredResults(place, tuple(trackers), tuple(rest), tuple(unused))

    def _without(self, used: Mapping[Key, _Folder]) -> dict[Key, _Folder]:
        """The topmost folders, and the zips, that hold no result and belong to no tracker above them."""
        inside = {(container, parts[:depth]) for container, parts in used for depth in range(len(parts) + 1)}
        for container, _ in used:
            above = PurePosixPath(container).parts[:-1]  # of a zip
            inside |= {("", above[:depth]) for depth in range(len(above) + 1)}
        without: dict[Key, _Folder] = {}
        for key in self.walked:
            container, parts = key
            side = bool(parts) and (parts[-1] in SIDE_FOLDERS or self.names.find(parts[-1]) is not None)
            owner = _owner(used, container, parts) or _owner(without, container, parts)
            if key in inside or owner or (side and (container, parts[:-1]) in used):
                continue
            name = "/".join((*PurePosixPath(container[:-4]).parts, *parts))
            without[key] = _Folder(name, name)
        return without


def _owner(folders: Mapping[Key, _Folder], container: str, parts: tuple[str, ...]) -> _Folder | None:
    """The nearest of the given folders that holds a file; the searched folder itself owns only files directly in it."""
    shortest = 0 if container or not parts else 1
    for depth in range(len(parts), shortest - 1, -1):
        if (container, parts[:depth]) in folders:
            return folders[container, parts[:depth]]
    above = PurePosixPath(container).parts[:-1]  # the folders in which a zip lies
    return _owner(folders, "", above) if above else None


def _tracker(folder: _Folder, wanted: set[str]) -> StoredTracker:
    boxes: dict[str, dict[int, StoredFile]] = {}
    times: dict[str, StoredFile] = {}
    others = 0
    for sequence, repetition, file in folder.found:
        if sequence not in wanted:
            others += repetition > 0
        elif repetition != 0:
            if repetition < 0:
                first = times.setdefault(sequence, file)
            else:
                first = boxes.setdefault(sequence, {}).setdefault(repetition, file)
            if first is not file:
                what = "times" if repetition < 0 else "results"
                raise UserError(f"two {what} of '{sequence}': {first} and {file}: remove one of them")
    files = {key: tuple(value[index] for index in sorted(value)) for key, value in boxes.items()}
    return StoredTracker(folder.name, files, times, folder.renamed, tuple(folder.unused), others)


def read_results(tracker: StoredTracker, names: Sequence[str]) -> dict[str, tuple[BoxTable, ...]]:
    """Read a tracker's boxes.

    Args:
        tracker: where they are.
        names: the sequences wanted; those without a file are left out.

    Raises:
        UserError: a malformed file; the message names file and line.
    """
    files = [(name, file) for name in names for file in tracker.files.get(name, ())]
    tables = read_box_files([file for _, file in files])
    by_name = grouped((name, table) for (name, _), table in zip(files, tables, strict=True))
    return {name: tuple(own) for name, own in by_name.items()}


def frames_per_second(tracker: StoredTracker, names: Iterable[str], pooled: bool = False) -> float | None:
    """Mean over sequences of the mean of 1 / seconds, as the got10k toolkit reports speed; None without times.

    Args:
        tracker: whose stored times.
        names: the sequences.
        pooled: the mean over all frames of all sequences, as the toolkit does on GOT-10k.

    Raises:
        UserError: a file of times is malformed.
    """
    speeds: list[np.ndarray] = []
    for name in names:
        if name in tracker.times:
            seconds = read_times(tracker.times[name])
            seconds = seconds[np.isfinite(seconds) & (seconds > 0)]
            if seconds.size:
                speeds.append(1 / seconds if pooled else np.mean(1 / seconds, keepdims=True))
    return float(np.mean(np.concatenate(speeds))) if speeds else None


def read_times(file: StoredFile) -> np.ndarray:
    """Seconds per frame, `(frames, repetitions)`; NaN for a frame without a time.

    Raises:
        UserError: the file is not a table of numbers.
    """
    try:
        text = file.read().decode("utf-8").replace(",", " ")
        return np.loadtxt(text.splitlines(), ndmin=2)
    except (UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{file}: not seconds per frame ({error}): repair or remove the file") from error
