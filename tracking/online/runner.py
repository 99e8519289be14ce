"""Run a tracker over sequences in parallel workers, store each result when it is ready, and go on where a run stopped.

A run's folder holds `<sequence>.txt` (float boxes), `times/<sequence>_time.txt` (seconds per frame, without decoding),
`scores/<sequence>_score.txt` (if the tracker gives scores) and `run.json` (what was run). The boxes are written last
and atomically, so a sequence that has them is finished.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from core.errors import UserError
from core.storage.claims import claimed
from core.storage.files import read_json, write_json, write_text
from core.storage.video import list_frames, missing_numbers
from core.training.workers import available_cores
from core.workers import WorkerDied, Workers
from tracking.datasets.sequence import Sequence as TrackingSequence
from tracking.datasets.sequence import frame_number
from tracking.files.boxes import format_boxes, parse_boxes
from tracking.files.images import read_frame
from tracking.online.loop import follow
from tracking.online.trackers import Tracker, TrackerSpec, make_tracker


@dataclass(frozen=True)
class Track:
    """A tracker's answer to one sequence.

    Attributes:
        boxes: `(frames, 4)`; the first row is the box that the tracker was started with.
        seconds: `(frames,)` spent in `init` and `update`.
        scores: `(frames,)`, NaN for frames without a score.
    """

    boxes: np.ndarray
    seconds: np.ndarray
    scores: np.ndarray


def track_sequence(
    tracker: Tracker, frames: Sequence[Path], box: Sequence[float], first_pixel: int = 1
) -> Track:
    """Run a fresh tracker over one video.

    Args:
        tracker: see `trackers.Tracker`.
        frames: image files.
        box: the target in the first frame.
        first_pixel: the number of the image's first pixel in `box` and in the answer; it matters to trackers that
            say which one they take.

    Raises:
        UserError: an unreadable frame, or an answer that is not four numbers.
        RuntimeError: an answer that is not finite.
    """
    steps = list(follow(tracker, frames, box, first_pixel, read_frame, str))
    return Track(
        np.array([step.box for step in steps]).reshape(-1, 4),
        np.array([step.seconds for step in steps]),
        np.array([np.nan if step.score is None else step.score for step in steps]),
    )


def is_finished(folder: Path, name: str, frames: int) -> bool:
    """Whether a run's folder holds a result of the sequence `name` with `frames` frames.

    Raises:
        UserError: it holds a result with another number of rows, from another version of the data set.
    """
    path = folder / f"{name}.txt"
    if not path.is_file():
        return False
    rows = len(parse_boxes(path.read_bytes(), str(path)).boxes)
    if rows != frames:
        raise UserError(
            f"{path}: {rows} rows for {frames} frames: remove the file, or choose another --output"
        )
    return True


def _frame_count(sequence: TrackingSequence) -> int:
    frames = len(sequence.frames.paths()) if sequence.frames is not None else 0
    truth = len(sequence.boxes)
    # With ground truth beyond the first frame, both numbers must agree; trackers never run on unannotated tails.
    if frames < truth or not frames:
        raise UserError(
            f"{sequence.name}: {frames} frames for {truth} ground-truth boxes: complete the data set"
        )
    used = frames if truth == 1 else truth
    assert sequence.frames is not None  # else there would be no frames
    paths = sequence.frames.paths()
    numbers = [frame_number(path) for path in paths[:used]]
    twice = [number for number, times in Counter(numbers).items() if times > 1]
    nameless = [path.name for path in paths if frame_number(path) < 0]
    problem = None
    if nameless and len(nameless) < len(paths):
        problem = f"'{nameless[0]}' has no number, unlike the others"
    elif not nameless and twice:
        problem = f"there are several images of {list_frames(twice)}"
    elif not nameless and (missing := missing_numbers(numbers)):
        problem = f"there is no image of {list_frames(missing)}"
    if problem is not None:
        raise UserError(
            f"{sequence.name}: in '{sequence.frames.folder}' {problem}, so that boxes would be of other frames: "
            "complete the data set, or remove the copies"
        )
    return used


def _work(spec: TrackerSpec, sequence: TrackingSequence, folder: Path) -> float:
    """One sequence in a worker; returns the seconds spent tracking."""
    assert sequence.frames is not None  # run() has counted them
    frames = sequence.frames.paths()[: _frame_count(sequence)]
    track = track_sequence(make_tracker(spec), frames, sequence.boxes[0].tolist(), sequence.first_pixel)
    store_track(folder, sequence.name, track)
    return float(track.seconds.sum())


def store_track(folder: Path, name: str, track: Track) -> None:
    """Write the track of the sequence `name` into a run's folder; the boxes, written last, mark it as finished."""
    write_text(folder / "times" / f"{name}_time.txt", "".join(f"{second:.6f}\n" for second in track.seconds))
    if np.isfinite(track.scores).any():
        write_text(
            folder / "scores" / f"{name}_score.txt", "".join(f"{score:.6f}\n" for score in track.scores)
        )
    write_text(folder / f"{name}.txt", format_boxes(track.boxes))


# One thread of BLAS and OpenMP: workers that share the cores would only compete.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def _start_worker() -> None:
    cv2.setNumThreads(1)


def _sequence_of(spec: TrackerSpec, sequence: TrackingSequence, folder: Path) -> str:
    return sequence.name


def run(
    spec: str | TrackerSpec,
    sequences: Sequence[TrackingSequence],
    folder: str | Path,
    workers: int = 0,
    report: Callable[[str], None] = print,
) -> list[str]:
    """Run a tracker over sequences that have no result yet, longest first.

    Args:
        spec: the tracker, see `trackers.TrackerSpec`; a string names one without options.
        sequences: with frames.
        folder: where the results go.
        workers: processes; 0 for one per available core.
        report: is called with a line on each finished sequence.

    Returns:
        The names of the sequences that were run now.

    Raises:
        UserError: no such tracker, a folder of another tracker's results or in use by another run, unreadable frames.
        RuntimeError: the tracker failed on some sequences; the others are stored.
    """
    folder = Path(folder).resolve()
    spec = TrackerSpec(spec) if isinstance(spec, str) else spec
    make_tracker(spec)
    with claimed(folder, report, wait=True):  # the same command goes on with what is stored
        return _run(spec, sequences, folder, workers, report)


def _run(
    spec: TrackerSpec,
    sequences: Sequence[TrackingSequence],
    folder: Path,
    workers: int,
    report: Callable[[str], None],
) -> list[str]:
    """`run` in a claimed folder."""
    _claim(folder, spec)
    frames = {sequence.name: _frame_count(sequence) for sequence in sequences}
    waiting = [
        sequence for sequence in sequences if not is_finished(folder, sequence.name, frames[sequence.name])
    ]
    waiting.sort(key=lambda sequence: -frames[sequence.name])
    for sequence in sequences:
        tail = len(sequence.frames.paths()) - frames[sequence.name] if sequence.frames is not None else 0
        if tail > 0:
            report(f"{sequence.name}: the last {tail} frames have no ground truth, they are not run")
    if len(waiting) < len(sequences):
        report(f"{len(sequences) - len(waiting)} of {len(sequences)} sequences are finished already")
    if not waiting:
        return []
    count = min(workers or available_cores(), len(waiting))
    finished: list[str] = []
    failures: list[tuple[str, BaseException]] = []
    with Workers(count, _start_worker, environment=_ONE_THREAD, report=report, name=_sequence_of) as pool:
        jobs: dict[Future[float], str] = {
            pool.submit(_work, spec, sequence, folder): sequence.name for sequence in waiting
        }
        for job in as_completed(jobs):
            name, error = jobs[job], job.exception()
            if error is not None:
                failures.append((name, error))
                advice = ": try fewer --workers" if isinstance(error, WorkerDied) else ""
                report(f"{name} failed: {type(error).__name__}: {error}{advice}")
                continue
            finished.append(name)
            speed = frames[name] / max(job.result(), 1e-9)
            report(f"{len(finished)}/{len(waiting)} {name}: {frames[name]} frames, {speed:.1f} frames/s")
    if failures:
        name, error = failures[0]
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        if isinstance(error, UserError):
            raise error
        raise RuntimeError(f"{spec.name} failed on {name}{more}: {type(error).__name__}: {error}") from error
    return finished


def _claim(folder: Path, spec: TrackerSpec) -> None:
    """Record the source of this folder's results; refuse to mix two trackers' results."""
    record = folder / "run.json"
    wanted = spec.record()
    if record.exists():
        try:
            earlier = dict(read_json(record))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"'{record}' is damaged ({error}): it says whose results lie in {folder}; restore it from a copy, or "
                "choose another --name or --output"
            ) from error
        if earlier.get("tracker") != spec.name:
            raise UserError(
                f"{folder} holds results of '{earlier.get('tracker')}', not of '{spec.name}': choose another --name "
                f"or --output ('{record}' tells)"
            )
        for key, value in wanted.items():
            if earlier.get(key) != value:
                raise UserError(
                    f"{folder} holds results of '{spec.name}' with another {key.removesuffix('_sha256')}: choose "
                    f"another --name or --output ('{record}' tells)"
                )
        return
    foreign = next(iter(sorted(folder.glob("*.txt"))), None)
    if foreign is not None:
        raise UserError(
            f"'{foreign}' is not of a run of this command ('{record.name}' is missing): choose another --name or "
            "--output, or score stored boxes with --results"
        )
    versions = {"python": platform.python_version(), "numpy": np.__version__, "opencv": cv2.__version__}
    write_json(record, wanted | versions)
