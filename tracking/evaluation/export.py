"""Write results in the layouts of the benchmarks' servers and toolkits."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from core.errors import UserError, check_known
from core.storage.files import refuse_overwriting, write_text, write_with
from tracking.datasets.sequence import Sequence as TrackingSequence
from tracking.files.boxes import BoxTable, format_boxes

Results = Mapping[str, Sequence[BoxTable]]
Times = Mapping[str, np.ndarray]

TRACKINGNET_TEST_SEQUENCES = 511
# Any fixed date: the same results make the same archive, byte for byte.
ZIP_DATE = (1980, 1, 1, 0, 0, 0)


def _refuse_overwriting(paths: Iterable[Path], results: Results) -> None:
    """Refuse to overwrite the results that are exported."""
    sources = {table.source for tables in results.values() for table in tables if table.source}
    files = {
        before + ".zip" if inside else source
        for source in sources
        for before, inside, _ in [source.partition(".zip:")]
    }
    refuse_overwriting(
        [("--export's", path) for path in paths], [("a result that is read", file) for file in files]
    )


def _write_folder(files: Mapping[Path, str], results: Results) -> None:
    _refuse_overwriting(files, results)
    for path, text in files.items():
        write_text(path, text)


def _write_zip(path: Path, members: Mapping[str, str], results: Results) -> None:
    _refuse_overwriting([path], results)

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in members.items():
                archive.writestr(zipfile.ZipInfo(name, ZIP_DATE), text, zipfile.ZIP_DEFLATED)

    write_with(path, write)


def _checked(results: Results, sequences: Sequence[TrackingSequence]) -> None:
    """Refuse to write an incomplete submission: servers score missing results as zero."""
    for sequence in sequences:
        if sequence.name not in results:
            raise UserError(f"no result of '{sequence.name}': run the tracker on it before exporting")
        frames = len(sequence.boxes)
        if frames == 1:  # the benchmark keeps the rest of the ground truth on its server
            frames = len(sequence.frames.paths()) if sequence.frames is not None else 0
        for table in results[sequence.name]:
            if frames and len(table.boxes) != frames:
                raise UserError(
                    f"{table.source}: {len(table.boxes)} rows for {frames} frames: run the tracker again"
                )


def export_trackingnet(
    path: Path, name: str, sequences: Sequence[TrackingSequence], results: Results, times: Times
) -> str:
    """A flat zip of `<sequence>.txt`, comma-separated, two decimals, as TrackingNet's server takes it.

    Returns:
        A sentence on what was written; it says if these are not the 511 test sequences.
    """
    _write_zip(
        path,
        {f"{item.name}.txt": format_boxes(results[item.name][0].boxes, decimals=2) for item in sequences},
        results,
    )
    note = (
        ""
        if len(sequences) == TRACKINGNET_TEST_SEQUENCES
        else f"; the server expects {TRACKINGNET_TEST_SEQUENCES}"
    )
    return f"{path}: {len(sequences)} files{note}"


def export_got10k(
    path: Path, name: str, sequences: Sequence[TrackingSequence], results: Results, times: Times
) -> str:
    """A zip of `<sequence>/<sequence>_001.txt` … and `<sequence>_time.txt`, as GOT-10k's server takes it."""
    members = {}
    for item in sequences:
        for number, table in enumerate(results[item.name], start=1):
            members[f"{item.name}/{item.name}_{number:03d}.txt"] = format_boxes(table.boxes, decimals=3)
        if item.name in times:
            rows = (",".join(f"{second:.8f}" for second in row) for row in times[item.name])
            members[f"{item.name}/{item.name}_time.txt"] = "".join(f"{row}\n" for row in rows)
    _write_zip(path, members, results)
    return f"{path}: {len(sequences)} sequences"


def export_lasot(
    path: Path, name: str, sequences: Sequence[TrackingSequence], results: Results, times: Times
) -> str:
    """A folder `<tracker>_tracking_result/<sequence>.txt`, comma-separated, as LaSOT's MATLAB toolkit reads it."""
    folder = path / f"{name.replace('/', '_')}_tracking_result"
    _write_folder(
        {folder / f"{item.name}.txt": format_boxes(results[item.name][0].boxes) for item in sequences},
        results,
    )
    return f"{folder}: {len(sequences)} files"


def export_pytracking(
    path: Path, name: str, sequences: Sequence[TrackingSequence], results: Results, times: Times
) -> str:
    """A folder `<tracker>/<parameters>/<sequence>.txt`, tab-separated, with `<sequence>_time.txt`.

    Boxes keep their decimals: pytracking's own writer truncates them, which costs up to 0.2 points of AUC.
    """
    tracker, _, parameters = name.partition("/")
    folder = path / tracker / (parameters or "default")
    files = {}
    for item in sequences:
        files[folder / f"{item.name}.txt"] = format_boxes(results[item.name][0].boxes, separator="\t")
        if item.name in times:
            files[folder / f"{item.name}_time.txt"] = "".join(
                f"{second:f}\n" for second in times[item.name][:, 0]
            )
    _write_folder(files, results)
    return f"{folder}: {len(sequences)} files"


Exporter = Callable[[Path, str, Sequence[TrackingSequence], Results, Times], str]

EXPORTERS: dict[str, Exporter] = {
    "trackingnet": export_trackingnet,
    "got10k": export_got10k,
    "lasot": export_lasot,
    "pytracking": export_pytracking,
}


def export(
    kind: str,
    path: str | Path,
    name: str,
    sequences: Sequence[TrackingSequence],
    results: Results,
    *,
    times: Times | None = None,
) -> str:
    """Write one tracker's results for a server or toolkit.

    Args:
        kind: `"trackingnet"` or `"got10k"` (a zip), `"lasot"` or `"pytracking"` (a folder).
        path: the zip or the folder to write.
        name: the tracker.
        sequences: all that must be there.
        results: sequence name to its repetitions.
        times: sequence name to seconds per frame `(frames, repetitions)`, if known.

    Returns:
        A sentence on what was written.

    Raises:
        UserError: no such layout, a result is missing or has the wrong length, or would be written over.
    """
    check_known("no export", [kind], EXPORTERS)
    if kind in ("trackingnet", "got10k") and Path(path).suffix != ".zip":
        raise UserError(f"the {kind} export is a zip, '{path}' does not end in .zip: name a zip file")
    parts = {sequence.name: sequence.part for sequence in sequences if sequence.part is not None}
    results = {
        name: [parts[name].cut(table) for table in tables] if name in parts else tables
        for name, tables in results.items()
    }
    _checked(results, sequences)
    return EXPORTERS[kind](Path(path), name, sequences, results, times or {})
