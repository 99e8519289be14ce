"""`python -m benchmarks.tracking_evaluation`: all of LaSOT's test set, one tracker, from text files to scores.

Under the contract of `benchmarks/README.md` it compares this project's `evaluate`, the got10k toolkit's `report` (as it
ships, which draws two plots, and without the plots), and, if Octave and a checkout of the LaSOT toolkit are given, the
authors' MATLAB functions. All must give the same scores. A second table shows the scores of the same boxes under each
protocol.

Needs the extra `peers`, LaSOT's annotations and ATOM's boxes under the data root.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Page, benchmark
from core.storage.data import data_root, require
from core.tables import markdown_table
from core.timing import Outcome, Timing, Work, time_in_turns, timings
from tracking.datasets.lasot import test_names
from tracking.evaluation.evaluation import evaluate

TRACKER = "ATOM"
OURS = "tracking.evaluate"
BARE, SHIPPED = "got10k report, plots removed", "got10k report, as shipped"

OCTAVE_SCRIPT = """
addpath('{toolkit}/utils');
names = strsplit(strtrim(fileread('{names}')));
trackers = {{struct('name', '{tracker}')}};
for norm_dst = [false true]
  tic; cpu = cputime;
  evalc("eval_tracker(names, trackers, 'OPE', {{'{tracker}'}}, '{out}/', '{annos}/', '{results}/', norm_dst)");
  seconds = toc; cpu = cputime - cpu;
  curves = load('{out}/aveSuccessRatePlot_1alg_overlap_OPE.mat').ave_success_rate_plot;
  printf("%.6f %.6f %.10f\\n", seconds, cpu, mean(mean(curves(1, :, :), 2), 3));
end
"""


class Annotations:
    """LaSOT's ground truth in the form that the got10k toolkit's experiments expect of a data set.

    The toolkit's own LaSOT reader (0.1.3) cannot be constructed: it calls a method with one argument too many.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.seq_names = folder, test_names()

    def __len__(self) -> int:
        return len(self.seq_names)

    def __iter__(self) -> Iterator[tuple[None, np.ndarray]]:
        for name in self.seq_names:
            yield None, np.loadtxt(self.folder / f"{name}.txt", delimiter=",")


def got10k_experiment(root: Path, reports: Path, plots: bool) -> Any:
    """The toolkit's OTB-style experiment on LaSOT, by which the toolkit itself scores LaSOT."""
    import matplotlib as mpl

    mpl.use("Agg")
    from got10k.experiments.otb import ExperimentOTB

    experiment = ExperimentOTB.__new__(ExperimentOTB)  # its __init__ would download OTB
    experiment.dataset = Annotations(root / "lasot_annotations/annos")
    experiment.result_dir, experiment.report_dir = str(root / "tracker_results/lasot"), str(reports)
    experiment.nbins_iou, experiment.nbins_ce = 21, 51
    if not plots:
        experiment.plot_curves = lambda names: None
    return experiment


def ways(root: Path, reports: Path) -> dict[str, Callable[[], Work[tuple[float, float]]]]:
    """Name to preparation; the work returns the success AUC and the precision at 20 px."""

    def ours() -> tuple[float, float]:
        found = evaluate(root / "tracker_results/lasot", "got10k-otb", root, trackers=[TRACKER])
        return found[TRACKER]["success_auc"], found[TRACKER]["precision"]

    def theirs(plots: bool) -> Work[tuple[float, float]]:
        experiment = got10k_experiment(root, reports, plots)

        def work() -> tuple[float, float]:
            with contextlib.redirect_stdout(io.StringIO()):
                overall = experiment.report([TRACKER])[TRACKER]["overall"]
            return float(overall["success_score"]), float(overall["precision_score"])

        return work

    return {OURS: lambda: ours, BARE: lambda: theirs(False), SHIPPED: lambda: theirs(True)}


def time_command(root: Path, turns: int) -> Timing:
    """Times of the whole command on stored boxes: start, imports, scoring, table; one extra run warms up."""
    command = [sys.executable, "-m", "tracking.eval", "--dataset", "lasot", "--data-root", str(root)]
    command += ["--results", str(root / "tracker_results/lasot"), "--trackers", TRACKER]
    wall, cpu = [], []
    for _ in range(turns + 1):
        before = os.times()
        subprocess.run(command, check=True, capture_output=True)
        after = os.times()
        wall.append(after.elapsed - before.elapsed)
        cpu.append(
            after.children_user + after.children_system - before.children_user - before.children_system
        )
    return Timing(tuple(wall[1:]), tuple(cpu[1:]))


def time_octave(root: Path, toolkit: Path, reports: Path) -> list[dict[str, float]]:
    """One run each of the MATLAB functions for precision and for normalised precision; each computes success too."""
    require(
        toolkit / "utils/eval_tracker.m",
        "the LaSOT toolkit",
        "https://github.com/HengLan/LaSOT_Evaluation_Toolkit",
    )
    results = reports / "results"
    results.mkdir()
    (results / f"{TRACKER}_tracking_result").symlink_to((root / "tracker_results/lasot" / TRACKER).resolve())
    names = reports / "names.txt"
    names.write_text("\n".join(test_names()))
    script = OCTAVE_SCRIPT.format(
        toolkit=toolkit.resolve(),
        names=names,
        tracker=TRACKER,
        out=reports / "octave",
        annos=(root / "lasot_annotations/annos").resolve(),
        results=results,
    )
    done = subprocess.run(
        ["octave-cli", "--norc", "--quiet", "--eval", script], check=True, capture_output=True, text=True
    )
    rows = [[float(value) for value in line.split()] for line in done.stdout.splitlines()]
    return [{"seconds": row[0], "cpu_seconds": row[1], "success_auc": row[2]} for row in rows]


def check_scores(
    outcomes: dict[str, Outcome[tuple[float, float]]], lasot_auc: float, octave: list[dict[str, float]]
) -> None:
    """Refuse to publish times of ways that do not do the job.

    Raises:
        RuntimeError: a way's scores differ from ours by more than 1e-6.
    """
    results = {name: np.array(outcome.result) for name, outcome in outcomes.items()}
    for name, result in results.items():
        if np.abs(result - results[OURS]).max() > 1e-6:
            raise RuntimeError(f"{name} scores {result}, not {results[OURS]}")
    for run in octave:
        if abs(run["success_auc"] - lasot_auc) > 1e-6:
            raise RuntimeError(f"the LaSOT toolkit scores {run['success_auc']}, not {lasot_auc}")


def protocol_table(root: Path) -> tuple[str, dict[str, dict[str, float]]]:
    """The same boxes on the same ground truth under each protocol that LaSOT's annotations allow."""
    keys = ("success_auc", "op50", "op75", "precision", "norm_precision_at_0.2", "norm_precision_auc")
    found = {}
    for name in ("lasot", "pytracking", "pysot", "got10k-otb", "otb", "trackingnet"):
        results = root / "tracker_results/lasot"
        scores = evaluate(results, name, root, dataset="lasot", trackers=[TRACKER])[TRACKER]
        found[name] = {key: scores[key] for key in keys}
    rows = [[name, *(f"{100 * scores[key]:.4f}" for key in keys)] for name, scores in found.items()]
    return markdown_table(["protocol", *keys], rows), found


def report(
    outcomes: dict[str, Outcome[tuple[float, float]]], command: Timing, octave: list[dict[str, float]]
) -> str:
    """The published page: times, ratios against ours, and the scores."""
    times = timings(outcomes)
    cpu = {name: timing.cpu_median for name, timing in times.items()}
    wall = {name: timing.median for name, timing in times.items()}
    rows = []
    for name, timing in times.items():
        auc, _ = outcomes[name].result or (math.nan, math.nan)
        ratio = f"{cpu[name] / cpu[OURS]:.1f}"
        rows.append([name, str(timing), f"{cpu[name]:.3f} s", ratio, f"{100 * auc:.4f}"])
    for run, kind in zip(octave, ("precision", "normalised precision"), strict=False):
        ratio = f"{run['cpu_seconds'] / cpu[OURS]:.0f}"
        spent = f"{run['cpu_seconds']:.1f} s"
        name = f"LaSOT toolkit in Octave, success and {kind}"
        rows.append([name, f"{run['seconds']:.1f} s", spent, ratio, f"{100 * run['success_auc']:.4f}"])
    table = markdown_table(["way", "elapsed", "CPU", "CPU, times ours", "AUC"], rows)
    summary = (
        f"In CPU time the got10k toolkit's report takes {cpu[SHIPPED] / cpu[OURS]:.1f} times as long as ours "
        f"({cpu[BARE] / cpu[OURS]:.1f} times without its plots), in elapsed time {wall[SHIPPED] / wall[OURS]:.1f} times"
    )
    if octave:
        total = sum(run["cpu_seconds"] for run in octave)
        summary += (
            f". The LaSOT toolkit, which has to run twice for all scores, takes {total / cpu[OURS]:.0f} times as much "
            f"CPU time"
        )
    return (
        f"{summary}.\n\n{table}\n\n"
        f"The whole command: {command} elapsed, {command.cpu_median:.2f} s of CPU time.\n"
    )


def measure(options: Namespace) -> Page:
    """Score with every way, and by every protocol.

    Raises:
        MissingData: annotations, boxes or the toolkit are not there.
        RuntimeError: the ways come to different scores.
    """
    root = data_root(options.data_root)
    require(root / "lasot_annotations/annos", "LaSOT's annotations", "the LaSOT evaluation toolkit")
    require(root / f"tracker_results/lasot/{TRACKER}", f"{TRACKER}'s boxes on LaSOT", "its authors")
    with tempfile.TemporaryDirectory() as folder:
        outcomes = time_in_turns(ways(root, Path(folder)), turns=options.turns, warmup=1)
        command = time_command(root, options.turns)
        toolkit = options.lasot_toolkit
        octave = [] if toolkit is None else time_octave(root, toolkit, Path(folder))
        table, protocols = protocol_table(root)
    check_scores(outcomes, protocols["lasot"]["success_auc"], octave)
    text = (
        f"{TRACKER}'s published boxes on LaSOT's 280 test sequences (685,360 frames).\n\n"
        f"{report(outcomes, command, octave)}\n## The same boxes under each protocol\n\nIn percent.\n\n{table}"
    )
    value = {
        "ways": {name: timing.to_json() for name, timing in timings(outcomes).items()},
        "whole_command": command.to_json(),
        "octave": octave,
        "protocols": protocols,
    }
    return Page("Tracking evaluation", text, value)


main = benchmark(
    "tracking_evaluation",
    __doc__,
    measure,
    numbers={"turns": (7, "counted runs of each way")},
    options={
        "--lasot-toolkit": {"type": Path, "metavar": "DIR", "help": "a checkout, to be run by octave-cli"}
    },
    data="LaSOT's annotations and the trackers' boxes",
    packages=("got10k", "matplotlib"),
)

if __name__ == "__main__":
    sys.exit(main(None))
