"""The whole experiment, shared by all tasks: baseline → shrink → train → compare, with controls and seeds.

A client of the engine (`core.experiments.trials`): every network, whether baseline, LW-DNA or control, is a trial, and
goes through the same `core.training.train.fit` with the same recipe and the same seeds. Finished work is not repeated,
so a run that was stopped goes on where it was, and each stage can be run alone. A trial that fails stops no other: it
is named in the report, and tried again by the next run.

    work_dir/
        config.py  plan.json  widths.json  result.json  report.html  report.md  channels.png  curves.png  latency.json
        widths/METHOD-seedS.json        the widths that `shrink` found for each method and seed
        runs/METHOD-seedS/              checkpoints, weights, log.jsonl and TensorBoard events of each training
        records/METHOD-seedS.json       each finished trial, with all that decided it
        failed.json                     trials that failed, while there are any
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from lightning_fabric import Fabric

from core.errors import UserError
from core.experiments.checks import check
from core.experiments.curve_plots import plot_curves
from core.experiments.engine import Engine
from core.experiments.executors import Resources
from core.experiments.page import report_page
from core.experiments.plan import EARLIER, SCHEMA, Trial
from core.experiments.pretrained import as_json
from core.experiments.report import markdown_report, results_table
from core.experiments.scheduling import OpenEngine, run_trials
from core.experiments.settings import FOUND, STAGES, Run, Settings, TeacherConfig
from core.experiments.starts import unknown_text
from core.experiments.statistics import statistics
from core.experiments.store import WorkDirectory
from core.experiments.task import Metric, Task
from core.experiments.trainings import baseline_graph
from core.experiments.trials import Failure
from core.experiments.width_plots import found_widths, plot_channels
from core.methods.method import Found, Method
from core.methods.registry import BASELINE, METHODS, PROTOCOL
from core.methods.subject import find_architecture
from core.report.page import LARGEST, write_page
from core.storage.files import read_json, write_json, write_text
from core.storage.schema import lower
from core.surgery.architecture import Architecture
from core.training.divergence import Divergence, read_divergences
from core.training.optim import schedule_notes
from core.training.run_files import EpochRecord, RunFiles, read_history, training_notes
from core.widths.config import ShrinkConfig

__all__ = ["BASELINE", "FOUND", "STAGES", "Metric", "Outcome", "Run", "Settings", "ShrinkConfig", "Task",
           "TeacherConfig", "check", "find_architecture", "run_experiment", "summarise"]  # fmt: skip

FAILED_FILE = "failed.json"
PAGE_FILE = "report.html"


@dataclass(frozen=True)
class Outcome:
    """The outcome of an experiment.

    Attributes:
        result: the content of result.json; None if nothing was compared.
        failed: trials of this call that failed.
    """

    result: dict[str, Any] | None
    failed: tuple[Failure, ...] = ()


def engine_of(task: Task, settings: Settings, fabric: Fabric, say: Callable[[str], None] = print) -> Engine:
    """The engine of an experiment: trials are named by their methods, the found network's trial FOUND.

    Args:
        task: what is trained and measured.
        settings: the experiment.
        fabric: device and processes (`core.training.train.make_fabric`).
        say: takes one line of news at a time.
    """
    given = task.given
    own = PROTOCOL if settings.method is None else METHODS[settings.method]
    if given is not None:
        own = Method("given widths", lambda request: Found(given))
    return Engine(
        task=task,
        train=settings.train,
        store=WorkDirectory(settings.work_dir, settings.train.seed),
        fabric=fabric,
        methods={FOUND: own, **{name: METHODS[name] for name in settings.controls}},
        search=settings.search,
        distillation=settings.distillation,
        teacher=settings.teacher,
        lowered_lr=settings.lowered_lr,
        allow_unknown_start=settings.allow_unknown_start,
        start=settings.start,
        say=say,
        progress=settings.progress,
    )


def run_experiment(
    task: Task,
    settings: Settings,
    fabric: Fabric,
    say: Callable[[str], None] = print,
    *,
    resources: Resources | None = None,
    open_engine: OpenEngine | None = None,
) -> Outcome:
    """Run the stages that the settings ask for.

    Args:
        task: what is trained and measured.
        settings: the experiment.
        fabric: device and processes (`core.training.train.make_fabric`).
        say: takes one line of news at a time.
        resources: where trials run; None for this process.
        open_engine: see `core.experiments.scheduling.run_trials`.

    Raises:
        UserError: a stage needs results that an earlier stage has not made yet; a method cannot do what is asked of
            it; or all trials failed by mistakes that the user can repair.
    """
    engine = engine_of(task, settings, fabric, say)
    trials = [trial for trial in settings.trials() if _is_wanted(trial, settings)]
    if "train" in settings.stages and "shrink" not in settings.stages:
        for trial in trials:
            if trial.method != BASELINE and not settings.widths_file(trial.method, trial.seed).exists():
                raise UserError(
                    f"no widths for '{trial.method}', seed {trial.seed}, in '{settings.work_dir}': run the stage "
                    f"shrink first"
                )
    wanted = [(trial, trial.method == BASELINE or "train" in settings.stages) for trial in trials]
    failed = run_trials(engine, wanted, resources, open_engine)
    if fabric.is_global_zero and trials:
        _note_failures(settings, trials, failed)
    if failed and len(failed) == len(trials) and all(failure.usage for failure in failed):
        more = f" (all {len(failed)} trials failed)" if len(failed) > 1 else ""
        raise UserError(f"{failed[0].error}{more}")
    result = None
    if "compare" in settings.stages and fabric.is_global_zero and len(failed) < len(settings.trials()):
        result = _compare(task, settings, fabric.device, say)
    return Outcome(result, tuple(failed))


def _is_wanted(trial: Trial, settings: Settings) -> bool:
    stages = ("baseline",) if trial.method == BASELINE else ("shrink", "train")
    return any(stage in settings.stages for stage in stages)


def _note_failures(settings: Settings, trials: Sequence[Trial], failed: Sequence[Failure]) -> None:
    """Record the failed trials for a later comparison; trials of this call leave the record unless they failed."""
    path = settings.work_dir / FAILED_FILE
    run = {(trial.method, trial.seed) for trial in trials}
    kept = [entry for entry in _read_failures(settings) if (entry["method"], entry["seed"]) not in run]
    entries = [*kept, *(failure.to_json() for failure in failed)]
    if entries:
        write_json(path, entries)
    else:
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Failed:
    """A failed trial as it is recorded (`Failure.to_json`)."""

    method: str
    seed: int
    error: str


def _read_failures(settings: Settings) -> list[dict[str, Any]]:
    path = settings.work_dir / FAILED_FILE
    if not path.exists():
        return []
    try:
        entries = lower(read_json(path), list[_Failed], "it")
        return [asdict(entry) for entry in entries]
    except ValueError as error:
        raise UserError(
            f"'{path}' is damaged ({error}): remove it, and --resume tries again what failed"
        ) from error


def _compare(
    task: Task, settings: Settings, device: torch.device, say: Callable[[str], None]
) -> dict[str, Any]:
    runs, failed = _read_runs(settings)
    result = summarise(task, runs, settings.seed_list, settings.train.epochs, settings.shrink)
    result["failed"] = failed
    if (weights := as_json(task.pretrained, settings.start)) is not None:
        frozen = next((run.architecture.options.freeze for run in runs if run.architecture is not None), ())
        whole = [name for name in frozen if name not in settings.shrink.freeze]
        result["weights"] = {**weights, "kept_whole": whole}
    result["training_notes"] += [f"{note[0].upper()}{note[1:]}." for note in schedule_notes(settings.train)]
    if settings.schema < SCHEMA:
        result["training_notes"].append(f"The work directory was {EARLIER}.")
    if settings.distillation is not None:
        for seed in settings.seed_list:
            found = read_divergences(settings.run_dir("teacher", seed))
            for key, lines in _told(f"teacher, seed {seed}", found, ()).items():
                result[key] += lines
    write_json(settings.work_dir / "result.json", result)
    table = results_table(task.metrics, result)
    shown = task.finish(settings, runs)
    write_text(settings.work_dir / "report.md", markdown_report(task, settings, result, shown.markdown))
    widths = found_widths(task, runs)
    plot_channels(settings.work_dir / "channels.png", task, runs, widths)
    plot_curves(settings.work_dir / "curves.png", task, runs)
    page = settings.work_dir / PAGE_FILE
    size = write_page(page, report_page(task, settings, runs, result, shown.sections, widths, device))
    for line in table.splitlines():
        say(line)
    say(f"report: {page}, {settings.work_dir / 'report.md'}")
    if size > LARGEST:
        say(
            f"'{page}' has {size / 2**20:.1f} MiB, more than the usual {LARGEST >> 20}: mail and phones may refuse it"
        )
    return result


def _read_runs(settings: Settings) -> tuple[list[Run], list[dict[str, Any]]]:
    """All finished trainings and failed trials; a training that is neither is an error."""
    runs: list[Run] = []
    store = WorkDirectory(settings.work_dir, settings.train.seed)
    failures = {(entry["method"], entry["seed"]): entry for entry in _read_failures(settings)}
    failed = []
    for method in (BASELINE, *settings.methods):
        for seed in settings.seed_list:
            if (method, seed) in failures:
                failed.append(failures[method, seed])
                continue
            history = read_history(settings.run_dir(method, seed))
            if len(history) < settings.train.epochs:
                files = RunFiles(settings.run_dir(method, seed))
                if files.weights.exists():
                    raise UserError(
                        f"'{files.log}' has {len(history)} of {settings.train.epochs} epochs: --resume writes it anew "
                        f"from '{files.state}'"
                    )
                stage = "baseline" if method == BASELINE else "train"
                raise UserError(f"'{method}', seed {seed}, is not trained yet: run the stage {stage} first")
            path = settings.widths_file(method, seed)
            architecture = None if method == BASELINE else Architecture.load(path)
            if runs and (lost := runs[0].history[-1].eval_metrics.keys() ^ history[-1].eval_metrics.keys()):
                raise UserError(
                    f"'{method}', seed {seed}, and '{runs[0].method}', seed {runs[0].seed}, were not scored alike: "
                    f"only one of their logs ('{settings.run_dir(method, seed)}') has {', '.join(sorted(lost))} of the "
                    f"last epoch; restore it, or remove that folder to train it anew"
                )
            divergences = read_divergences(settings.run_dir(method, seed))
            unknown = store.unknown_start(method, seed)
            at_start = store.metrics_at_start(method, seed)
            runs.append(Run(method, seed, history, architecture, divergences, unknown, at_start))
    if not runs:
        raise UserError(f"all trials in '{settings.work_dir}' failed: there is nothing to compare")
    return runs, failed


def summarise(
    task: Task, runs: Sequence[Run], seeds: Sequence[int], epochs: int, shrink: ShrinkConfig
) -> dict[str, Any]:
    """The content of result.json: costs and metrics (mean, std, values over seeds) by method.

    Args:
        task: what was trained.
        runs: one per method and seed, at least one; without failed ones.
        seeds: all seeds that were asked for.
        epochs: of every training.
        shrink: how the baseline is traced if there is no other network.
    """
    found = [run.architecture for run in runs if run.architecture is not None]
    if found:
        base, base_widths = found[0].costs[1], found[0].baseline_widths
    else:
        graph = baseline_graph(task, shrink)
        base, base_widths = graph.price(), dict(graph.widths)
    told = [_told(f"{run.method}, seed {run.seed}", run.divergences, run.history) for run in runs]
    methods: dict[str, Any] = {}
    for method in dict.fromkeys(run.method for run in runs):
        own = [run for run in runs if run.method == method]
        costs = [run.architecture.costs[0] if run.architecture else base for run in own]
        flops = [cost.paper for cost in costs]
        params = [cost.params for cost in costs]
        widths = [(run.architecture.widths if run.architecture else base_widths) for run in own]
        methods[method] = {
            "flops": _mean(flops),
            "params": _mean(params),
            "flops_ratio": _mean(flops) / base.paper,
            "params_ratio": _mean(params) / base.params,
            "metrics": _metrics(task, [run.history[-1].eval_metrics for run in own]),
            "raw_metrics": _metrics(task, [run.history[-1].raw_metrics for run in own]),
            **(
                {"metrics_at_start": _metrics(task, [run.at_start for run in own])} if own[0].at_start else {}
            ),
            "widths": widths[0],
            "per_seed": [
                {"seed": run.seed, "flops": f, "params": p, "widths": w}
                for run, f, p, w in zip(own, flops, params, widths, strict=True)
            ],
        }
    return {
        "task": task.name,
        "dataset": task.dataset,
        "model": task.model_name,
        "seeds": list(seeds),
        "epochs": epochs,
        "methods": methods,
        **{
            key: [line for lines in told for line in lines[key]]
            for key in ("recipe_changes", "training_notes")
        },
        "unknown_start": [
            f"{run.method}, seed {run.seed}: {unknown_text(run.unknown_start)}."
            for run in runs
            if run.unknown_start
        ],
        "references": {name: dict(values) for name, values in task.references.items()},
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
            "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        },
    }


def _told(
    trial: str, divergences: Sequence[Divergence], history: Sequence[EpochRecord]
) -> dict[str, list[str]]:
    """Sentences on one training: where it left the common recipe, and further notes."""
    lowered = [divergence for divergence in divergences if divergence.lowered_to is not None]
    others = [divergence for divergence in divergences if divergence.lowered_to is None]
    return {
        "recipe_changes": [f"{trial}: {divergence}." for divergence in lowered],
        "training_notes": [f"{trial}: {note}." for note in (*others, *training_notes(history))],
    }


def _metrics(task: Task, scores: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Statistics over the seeds of every metric that was measured."""
    return {
        metric.key: statistics([score[metric.key] for score in scores])
        for metric in task.metrics
        if metric.key in scores[0]
    }


def _mean(values: Sequence[int]) -> float:
    return values[0] if len(set(values)) == 1 else sum(values) / len(values)
