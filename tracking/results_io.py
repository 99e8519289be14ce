"""Stored results of trackers: found in every toolkit's layout, read strictly, kept parsed.

Layouts, at any depth below the folder that is named:

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
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from core.errors import MissingData, UserError
from tracking.archives import StoredFile, zip_members
from tracking.box_files import pack, read_box_files, unpack
from tracking.boxes import BoxTable
from tracking.cache import cached
from tracking.datasets.sequence import Sequence as TrackingSequence

LASOT_SUFFIX = "_tracking_result"
REPETITION = re.compile(r"(.+)_(\d{3})")
MAX_DEPTH = 5


@dataclass(frozen=True)
class StoredTracker:
    """The result files of one tracker.

    Attributes:
        name: the tracker, named by its folders below the one that was searched.
        files: sequence name to the files of its repetitions, in their order.
        times: sequence name to the file of seconds per frame.
    """

    name: str
    files: Mapping[str, tuple[StoredFile, ...]]
    times: Mapping[str, StoredFile]


def find_trackers(place: str | Path, sequences: Iterable[TrackingSequence]) -> list[StoredTracker]:
    """All trackers with at least one result of the given sequences under a folder, or in a zip.

    Raises:
        MissingData: no such folder or zip.
        UserError: nothing in it is a result of these sequences, or two trackers have the same name.
    """
    place = Path(place).expanduser()
    if not place.exists():
        raise MissingData(f"results not found: '{place}' does not exist: check --results")
    names = {alias: sequence.name for sequence in sequences for alias in (sequence.name, *sequence.aliases)}
    groups = _group_zip(place, names, place.stem) if place.is_file() else _group_folder(place, names)
    if not groups:
        example = next(iter(names.values()))
        raise UserError(
            f"no results in '{place}': expected files such as '<tracker>/{example}.txt' "
            f"(or '<tracker>/{example}/{example}_001.txt', or a zip of them): check --results and --dataset"
        )
    trackers = []
    for name, found in sorted(groups.items()):
        boxes: dict[str, dict[int, StoredFile]] = {}
        times: dict[str, StoredFile] = {}
        for sequence, repetition, file in found:
            if repetition < 0:
                times[sequence] = file
            elif repetition in boxes.setdefault(sequence, {}):
                first = boxes[sequence][repetition]
                raise UserError(f"two results of '{sequence}': {first} and {file}: remove one of them")
            else:
                boxes[sequence][repetition] = file
        if boxes:
            files = {key: tuple(value[index] for index in sorted(value)) for key, value in boxes.items()}
            trackers.append(StoredTracker(name, files, times))
    return trackers


Found = dict[str, list[tuple[str, int, StoredFile]]]


def _group_folder(place: Path, names: Mapping[str, str]) -> Found:
    groups: Found = {}
    own_name = place.resolve().name
    for walked, subfolders, files in os.walk(place, followlinks=True):
        folder = Path(walked)
        parts = folder.relative_to(place).parts
        subfolders.sort()
        if len(parts) >= MAX_DEPTH:
            subfolders.clear()
        for file in files:
            if file.endswith(".txt"):
                _add(groups, parts, StoredFile(folder / file), names, own_name)
            elif file.endswith(".zip"):
                inner = _group_zip(folder / file, names, "/".join((*parts, file[:-4])))
                for name, found in inner.items():
                    groups.setdefault(name, []).extend(found)
    return groups


def _group_zip(place: Path, names: Mapping[str, str], default: str) -> Found:
    groups: Found = {}
    for file in zip_members(place):
        assert file.member is not None  # zip_members makes nothing else
        if file.member.endswith(".txt"):
            _add(groups, PurePosixPath(file.member).parts[:-1], file, names, default)
    return groups


def _add(
    groups: Found, parts: tuple[str, ...], stored: StoredFile, names: Mapping[str, str], default: str
) -> None:
    """Sort one file into its tracker's group; files that belong to no sequence are other people's notes."""
    stem = stored.name.removesuffix(".txt")
    repetition = 1
    if stem.endswith("_time") and stem[:-5] in names:
        stem, repetition = stem[:-5], -1
        if parts and parts[-1] == "times":
            parts = parts[:-1]
    elif stem not in names:
        match = REPETITION.fullmatch(stem)
        if match is None or match[1] not in names or not parts or parts[-1] != match[1]:
            return
        stem, repetition = match[1], int(match[2])
    if parts and parts[-1] == stem:
        parts = parts[:-1]
    tracker = "/".join(parts) or default
    groups.setdefault(tracker.removesuffix(LASOT_SUFFIX), []).append((names[stem], repetition, stored))


def read_results(
    tracker: StoredTracker, names: Sequence[str], cache: bool = True
) -> dict[str, tuple[BoxTable, ...]]:
    """Read a tracker's boxes.

    Args:
        tracker: where they are.
        names: the sequences wanted; those without a file are left out.
        cache: keep the parsed text for the next time.

    Raises:
        UserError: a malformed file, named with its line.
    """
    files = [(name, file) for name in names for file in tracker.files.get(name, ())]
    members = [file.member for _, file in files if file.member is not None]
    tables = cached(
        f"results {members}",
        (file.path for _, file in files),
        lambda: read_box_files([file for _, file in files]),
        pack,
        lambda arrays: unpack(arrays, [str(file) for _, file in files]),
        cache,
    )
    results: dict[str, tuple[BoxTable, ...]] = {}
    for (name, _), table in zip(files, tables, strict=True):
        results[name] = (*results.get(name, ()), table)
    return results


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
    """Seconds per frame, `(frames, repetitions)`; NaN where a repetition has none.

    Raises:
        UserError: the file is not a table of numbers.
    """
    try:
        text = file.read().decode("utf-8").replace(",", " ")
        return np.loadtxt(text.splitlines(), ndmin=2)
    except (UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{file}: not seconds per frame ({error}): repair or remove the file") from error
