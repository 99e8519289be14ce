"""Score trackers: `python -m tracking.eval --dataset lasot`.

With `--results DIR` stored boxes are scored. Without it, the tracker `--tracker` is first run over the sequences, in
parallel; it goes on where an earlier run stopped, and its results stay in `--output`. DiMP needs a network:
`--tracker dimp50 --checkpoint FILE`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from core.command_line.exits import run_parsed
from core.command_line.parsers import command_parser
from core.errors import UserError, check_known, first_names
from core.storage.files import refuse_overwriting, write_json, write_text
from tracking.datasets import TITLES, TrackingDataset, list_entries, load
from tracking.datasets.entries import Entry, select
from tracking.datasets.options import STORED, add_data_options, add_tracker_options, tracker_name
from tracking.evaluation.evaluation import Evaluation, as_dict, evaluate_trackers, pick_trackers
from tracking.evaluation.protocols import PROTOCOL_OF, PROTOCOLS, get_protocol
from tracking.evaluation.stored_results import (
    StoredResults,
    StoredTracker,
    find_results,
    named_files,
    read_results,
    read_times,
)

PROBLEMS_SHOWN = 20


EXAMPLES = (
    "tracking.eval --dataset demo --checkpoint WORK/lwdna.safetensors",
    "tracking.eval --dataset lasot --data-root DATA --results RESULTS",
    "tracking.eval --dataset otb --data-root DATA --tracker ncc",
)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    made = command_parser(
        "tracking.eval", "Score trackers exactly as each benchmark's own toolkit does.", EXAMPLES
    )
    add_data_options(made)
    made.add_argument(
        "--protocol", metavar="NAME", help=f"default: the data set's own; {', '.join(PROTOCOLS)}"
    )
    made.add_argument("--list", action="store_true", help="list the sequences and stop")
    made.add_argument(
        "--partial",
        action="store_true",
        help="leave out missing sequences (all trackers are scored on the sequences that all have)",
    )

    stored = made.add_argument_group("scoring stored results")
    stored.add_argument(
        "--results", type=Path, metavar="DIR", help="folder or zip of stored boxes, any toolkit's layout"
    )
    stored.add_argument("--trackers", nargs="+", default=(), metavar="NAME", help="only these of them")

    running = made.add_argument_group("running a tracker")
    running.add_argument(
        "--tracker",
        metavar="SPEC",
        help="still, ncc, dimp50, package.module:factory or path/to/file.py:factory (ncc; dimp50 with --checkpoint)",
    )
    add_tracker_options(running)
    running.add_argument("--name", help="what to call its results; default: the tracker")
    running.add_argument("--output", type=Path, metavar="DIR", help="default: work_dirs/tracking/<dataset>")
    running.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes; default: one per core"
    )

    output = made.add_argument_group("output")
    output.add_argument("--attributes", action="store_true", help="score each challenge attribute too")
    output.add_argument(
        "--compare", nargs=2, metavar=("A", "B"), help="per-sequence differences of two trackers"
    )
    output.add_argument(
        "--measure", default="success_auc", help="the score that --compare compares (success_auc)"
    )
    for option, what in (
        ("--json", "everything as JSON"),
        ("--markdown", "the tables as Markdown"),
        ("--latex", "the table as LaTeX"),
        ("--table-json", "the table's rows as JSON"),
    ):
        output.add_argument(option, type=Path, metavar="FILE", help=f"write {what}")
    output.add_argument(
        "--plots", type=Path, metavar="DIR", help="write success, precision and attribute plots"
    )
    output.add_argument(
        "--export",
        nargs=2,
        metavar=("KIND", "PATH"),
        help="trackingnet or got10k (a zip), lasot or pytracking (a folder)",
    )
    return made


def command(arguments: argparse.Namespace) -> int:
    """Run the command line; returns the exit status."""
    if arguments.list:
        for entry in select(_entries(arguments), arguments.sequences):
            print(entry.name)
        return 0
    if arguments.results is not None and (arguments.tracker or arguments.checkpoint):
        option = "--tracker" if arguments.tracker else "--checkpoint"
        raise UserError(f"--results scores stored boxes and {option} runs a tracker: give one of the two")
    if arguments.results is None and arguments.trackers:
        raise UserError("--trackers chooses among stored results: add --results, or name one with --tracker")
    if arguments.workers < 0:
        raise UserError(f"--workers {arguments.workers}: expected 0 (one per core) or more")
    protocol = get_protocol(
        arguments.protocol or PROTOCOL_OF.get(arguments.dataset, "lasot"), arguments.dataset
    )
    running = arguments.results is None
    dataset = load(
        arguments.dataset,
        arguments.data_root,
        arguments.split,
        arguments.annotations,
        patterns=arguments.sequences,
        partial=arguments.partial,
        frames=running,
        absence=protocol.absent != "ignore",
    )
    if running:
        _refuse_overwriting(arguments, ())
    place = _run(arguments, dataset) if running else arguments.results
    stored = find_results(place, dataset.sequences, dataset.others)
    trackers = pick_trackers(stored, arguments.trackers)
    if not running:
        _refuse_overwriting(arguments, trackers)
    _warn_of_files(stored, trackers)
    if arguments.export:
        _export(arguments, dataset, [tracker for tracker in trackers if tracker.files])
        if all(len(sequence.boxes) == 1 for sequence in dataset.sequences):
            return 0  # the ground truth is on a server, so there is nothing to score against
    evaluations = evaluate_trackers(dataset, trackers, protocol, arguments.partial)
    _warn(dataset, evaluations)
    _report(arguments, dataset, evaluations)
    return 0


def _entries(arguments: argparse.Namespace) -> list[Entry]:
    running = arguments.results is None and not arguments.list
    return list_entries(
        arguments.dataset, arguments.data_root, arguments.split, arguments.annotations, beside_frames=running
    )


def _refuse_overwriting(arguments: argparse.Namespace, trackers: Sequence[StoredTracker]) -> None:
    outputs = ("json", "table_json", "markdown", "latex")
    results = {
        file.path
        for tracker in trackers
        for files in (*tracker.files.values(), tracker.times.values())
        for file in files
    }
    read = {path for entry in _entries(arguments) for path in entry.sources()}
    refuse_overwriting(
        [(f"--{name.replace('_', '-')}", getattr(arguments, name)) for name in outputs],
        [
            ("the network that is read", arguments.checkpoint),
            *(("a result that is read", path) for path in results),
            *(("the ground truth that is read", path) for path in read),
        ],
    )


def _run(arguments: argparse.Namespace, dataset: TrackingDataset) -> Path:
    from tracking.online.runner import run  # OpenCV is not needed to score stored boxes
    from tracking.online.trackers import TrackerSpec

    tracker = tracker_name(arguments)
    spec = TrackerSpec(tracker, arguments.checkpoint, arguments.device, arguments.seed, arguments.backbone)
    name = arguments.name or Path(tracker).name.replace(":", ".")
    folder = (arguments.output or Path("work_dirs/tracking") / arguments.dataset) / name
    run(
        spec,
        dataset.sequences,
        folder,
        arguments.workers,
        lambda line: print(line, file=sys.stderr),
    )
    return folder


def _export(
    arguments: argparse.Namespace, dataset: TrackingDataset, trackers: Sequence[StoredTracker]
) -> None:
    from tracking.evaluation.export import export

    kind, path = arguments.export
    if len(trackers) > 1 and Path(path).suffix == ".zip":
        names = ", ".join(tracker.name for tracker in trackers)
        raise UserError(f"a zip holds one tracker's results: choose one of {names} with --trackers")
    for tracker in trackers:
        results = read_results(tracker, [sequence.name for sequence in dataset.sequences])
        times = {name: read_times(file) for name, file in tracker.times.items()}
        print(export(kind, path, tracker.name, dataset.sequences, results, times=times))


def _warn_of_files(stored: StoredResults, trackers: Sequence[StoredTracker]) -> None:
    """Print on the error stream which files were matched by a looser name, and which were not used."""
    for tracker in trackers:
        if not tracker.files:
            held = f"not used: {named_files(tracker.unused)}" if tracker.unused else "it is empty"
            _say(f"{tracker.name}: no result in it, {held}")
            continue
        if tracker.renamed:
            shown = [f"{file} as {sequence}" for file, sequence in tracker.renamed.items()]
            _say(f"{tracker.name}: named like a sequence, but not exactly: {named_files(shown)}")
        if tracker.unused:
            _say(f"{tracker.name}: not used: {named_files(tracker.unused)}")
    if stored.unused:
        _say(f"{stored.place}: belong to no tracker, not used: {named_files(stored.unused)}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _say(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr)


def _warn(dataset: TrackingDataset, evaluations: Sequence[Evaluation]) -> None:
    """Print on the error stream what was left out or repaired: no score may hide it."""
    if dataset.missing:
        total = len(dataset.missing) + len(dataset.sequences)
        shown = first_names(dataset.missing)
        _say(f"{TITLES[dataset.name]}: {len(dataset.missing)} of {total} sequences missing: {shown}")
    for item in evaluations:
        if item.missing and item.curves.names:
            shown = first_names(item.missing)
            _say(f"{item.name}: no result for {_count(len(item.missing), 'sequence')}, left out: {shown}")
        if item.left_out:
            shown = first_names(item.left_out)
            _say(
                f"{item.name}: {_count(len(item.left_out), 'result')} left out that not all trackers have: {shown}"
            )
        for problem in item.problems[:PROBLEMS_SHOWN]:
            _say(str(problem))
        if len(item.problems) > PROBLEMS_SHOWN:
            more = len(item.problems) - PROBLEMS_SHOWN
            _say(f"{item.name}: {more} more problems, all are in --json FILE")


def _report(
    arguments: argparse.Namespace,
    dataset: TrackingDataset,
    evaluations: Sequence[Evaluation],
) -> None:
    from tracking.evaluation.comparison import compare
    from tracking.evaluation.tables import (
        attribute_table,
        comparison_table,
        latex_table,
        score_rows,
        scores_table,
    )

    if arguments.attributes and not evaluations[0].attributes:
        raise UserError(
            f"--attributes: no challenge attributes beside the ground truth of {TITLES[dataset.name]}: "
            "for LaSOT they come with the evaluation toolkit's annotation folder"
        )
    parts = [scores_table(evaluations, dataset.split)]
    if arguments.attributes:
        parts += [attribute_table(item) for item in evaluations if item.curves.names]
        bare = [sequence.name for sequence in dataset.sequences if not sequence.attributes]
        if bare:
            _say(
                f"{TITLES[dataset.name]}: no challenge attribute stated for {len(bare)} of {len(dataset.sequences)} "
                f"sequences: {first_names(bare)}"
            )
    shown = list(parts)
    if arguments.compare:
        named = {item.name: item for item in evaluations}
        check_known("--compare: no tracker", arguments.compare, named)
        first, second = (named[name] for name in arguments.compare)
        result = compare(first, second, arguments.measure)
        parts.append(comparison_table(result))
        shown.append(comparison_table(result, rows=10))
    print("\n".join(shown), end="")
    if arguments.json:
        write_json(arguments.json, {item.name: as_dict(item, arguments.attributes) for item in evaluations})
    if arguments.table_json:
        write_json(arguments.table_json, score_rows(evaluations))
    for path, text in (
        (arguments.markdown, "\n".join(parts)),
        (arguments.latex, latex_table(evaluations, dataset.split)),
    ):
        if path:
            write_text(path, text)
    if arguments.plots:
        from tracking.evaluation.plots import (
            save_plots,  # matplotlib takes longer to import than the scoring takes
        )

        for path in save_plots(arguments.plots, evaluations, dataset.split):
            print(f"wrote {path}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run_parsed(build_parser(), command, argv, STORED)


if __name__ == "__main__":
    sys.exit(main())
