"""The hypothesis benchmark: the store, resuming after a kill, statistics, tables and the peer."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from scipy import stats

from benchmarks.hypothesis import label_of, main
from core.errors import UserError
from core.experiments.checks import check_trials
from core.experiments.plan import Trial, grid
from core.experiments.plots import plot_tradeoff
from core.experiments.series import Series, collect, controls_table, results_table
from core.experiments.statistics import holm, paired_p
from core.experiments.store import held, plain
from core.experiments.task import Metric
from core.experiments.trials import metrics_text, run_trial
from core.graph.complexity import count, count_params
from core.methods.registry import find
from core.storage.claims import claimed
from core.storage.files import write_json
from core.surgery.architecture import Architecture
from core.widths.budget import Budget
from tests.benchmarks.benches import FAST, bench_in
from tracking.datasets.demo_rendering import SCENES

ERROR = Metric("top1_error", "top-1 error %", higher_is_better=False)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Baseline, two scores that agree and a control, two seeds each."""
    folder = tmp_path_factory.mktemp("hypothesis") / "work"
    methods = ["baseline", "gradient", "sensitivity", "uniform"]
    assert main([*FAST, "--seeds", "2", "--methods", *methods, "--work-dir", str(folder)]) == 0
    return folder


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((folder / "records").iterdir())]


def test_one_record_per_method_and_seed(experiment: Path) -> None:
    found = records(experiment)
    assert sorted((r["method"], r["seed"]) for r in found) == [
        (m, s) for m in ("baseline", "gradient", "sensitivity", "uniform") for s in (0, 1)
    ]
    for record in found:
        assert 0 <= record["metrics"]["top1_error"] <= 100
        ratio = record["cost"]["flops"]["paper"] / record["baseline_cost"]["flops"]["paper"]
        assert ratio == 1 if record["method"] == "baseline" else 0.89 < ratio <= 0.9
    assert {path.stem for path in (experiment / "records").iterdir()} == {r["key"] for r in found}


def test_methods_that_find_equal_widths_share_a_training(experiment: Path) -> None:
    by = {(r["method"], r["seed"]): r for r in records(experiment)}
    for seed in (0, 1):  # behind plain gates the two scores are one (core.widths.scores)
        assert by["gradient", seed]["training"] == by["sensitivity", seed]["training"]
        assert by["gradient", seed]["metrics"] == by["sensitivity", seed]["metrics"]
    assert len({r["training"] for r in by.values()}) == 6


def test_the_report_holds_table_controls_and_figure(experiment: Path) -> None:
    text = (experiment / "report.md").read_text()
    assert "| baseline | 2 |" in text
    assert "minus uniform" in text
    assert "`gradient`: |dL/dz| of plain gates" in text
    assert "Against the controls:" in text
    assert (experiment / "report.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(json.loads((experiment / "report.json").read_text())["records"]) == 8


def test_a_second_command_trains_nothing_and_adds_methods(
    experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = {path: path.stat().st_mtime_ns for path in experiment.glob("runs/*/model.safetensors")}
    methods = ["baseline", "uniform", "late-wide"]
    common = [*FAST, "--seeds", "1", "--work-dir", str(experiment)]
    assert main([*common, "--methods", *methods, "--output", str(experiment / "more")]) == 0
    said = capsys.readouterr().out
    assert "baseline, seed 0" not in said
    assert "3/3 late-wide, seed 0: budget 0.9" in said
    assert "| late-wide |" in (experiment / "more.md").read_text()
    assert all(path.stat().st_mtime_ns == was for path, was in weights.items())
    assert main([*common, "--report-only", "--methods", "baseline", "early-wide", "uniform", "--output",
                 str(experiment / "known"), "--metrics", "top5_error", "top1_error"]) == 0  # fmt: skip
    known = (experiment / "known.md").read_text()
    assert "| early-wide |" not in known
    assert known.index("| method | n | top-5 error % |") < known.index("| method | n | top-1 error % |")
    assert "Against the controls, by top-5 error %, then by top-1 error %:" in known
    assert [metric["key"] for metric in json.loads((experiment / "known.json").read_text())["metrics"]] == [
        "top5_error", "top1_error"]  # fmt: skip


def test_a_command_that_was_killed_goes_on_to_the_same_results(tmp_path: Path) -> None:
    """kill -9 in the middle of the second training; the store is whole, and nothing that was done is done again."""
    arguments = [*FAST, "--epochs", "3", "--seeds", "1", "--methods", "baseline", "uniform"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-m", "benchmarks.hypothesis", *arguments, "--work-dir", str(killed)]
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        states = list(killed.glob("runs/*/last.safetensors"))
        if len(states) == 2 and len(list(killed.glob("records/*.json"))) == 1:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    (first,) = killed.glob("records/*.json")
    written = first.stat().st_mtime_ns
    assert main([*arguments, "--work-dir", str(killed)]) == 0
    assert main([*arguments, "--work-dir", str(whole)]) == 0
    assert first.stat().st_mtime_ns == written
    results = [{r["key"]: r["metrics"] for r in records(folder)} for folder in (killed, whole)]
    assert results[0] == results[1]
    assert len(results[0]) == 2


def test_published_records_make_the_published_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, published = Path("docs/results/hypothesis.md"), Path("docs/results/hypothesis.json")
    content = json.loads(published.read_text())["records"]
    methods = list(dict.fromkeys(record["method"] for record in content))
    command = ["--threads", "1", "--seeds", "5", "--device", "cpu", "--work-dir", str(tmp_path / "store"),
               "--import", str(published), "--report-only", "--output", str(tmp_path / "again"),
               "--methods", *methods]  # fmt: skip
    assert main(command) == 0
    assert f"{len(content)} records of '{published}' imported" in capsys.readouterr().out

    def tables(path: Path) -> list[str]:
        return [line for line in path.read_text().splitlines() if line.startswith("|")]

    assert tables(tmp_path / "again.md") == tables(page)
    again = json.loads((tmp_path / "again.json").read_text())["records"]
    assert {r["key"]: r for r in again} == {r["key"]: r for r in content}
    assert main(command) == 0
    assert "0 records of" in capsys.readouterr().out
    assert main([argument for argument in command if argument != "--report-only"]) == 2
    assert "of an earlier release" in capsys.readouterr().err
    damaged = tmp_path / "damaged.json"
    damaged.write_text(json.dumps({"records": [{**content[0], "cost": None}, {"key": content[1]["key"]}]}))
    assert main([*command, "--import", str(damaged)]) == 2
    assert "no published records: ValueError('a record lacks method')" in capsys.readouterr().err


def test_several_trials_at_a_time_give_the_same_results(
    experiment: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The second method finds the widths of the first: one of them trains, the other waits for it."""
    methods = ["gradient", "sensitivity"]
    command = [*FAST, "--seeds", "1", "--jobs", "2", "--methods", *methods, "--work-dir", str(tmp_path)]
    assert main(command) == 0
    said = capfd.readouterr().out
    assert (
        said.count("/2 gradient, seed 0: top-1 error %") == said.count("/2 sensitivity, seed 0: top-1") == 1
    )
    assert said.count("report:") == 1
    serial = {r["key"]: r["metrics"] for r in records(experiment)}
    assert {r["key"]: r["metrics"] for r in records(tmp_path)}.items() <= serial.items()
    assert len(records(tmp_path)) == 2
    assert len(list(tmp_path.glob("runs/*/model.safetensors"))) == 1
    assert not list(tmp_path.glob("runs/*/claim.json"))


def test_a_trial_that_fails_stops_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = bench_in(tmp_path)
    command = [*FAST, "--methods", "baseline", "uniform", "--seeds", "1", "--work-dir", str(tmp_path)]
    (tmp_path / "widths").mkdir()
    blocked = (
        tmp_path / "widths" / f"{bench.engine.search_key(Trial('uniform', bench.config.shrink, 0))}.json"
    )
    blocked.mkdir()  # where a file belongs
    assert main(command) == 1
    captured = capsys.readouterr()
    assert "failed: uniform, seed 0: IsADirectoryError: " in captured.err
    assert "| baseline | 1 |" in captured.out
    report = (tmp_path / "report.md").read_text()
    assert "1 trials failed and are left out:" in report
    assert "- uniform, seed 0: IsADirectoryError" in report
    assert json.loads((tmp_path / "report.json").read_text())["failed"][0]["method"] == "uniform"
    blocked.rmdir()
    assert main(command) == 0  # the failed one alone is tried again
    captured = capsys.readouterr()
    assert "baseline, seed 0" not in captured.out
    assert "| uniform | 1 |" in captured.out


def test_a_command_that_is_terminated_takes_its_jobs_with_it(tmp_path: Path) -> None:
    long = [*FAST, "--epochs", "10000", "--methods", "baseline", "--seeds", "2", "--jobs", "2"]
    command = [sys.executable, "-m", "benchmarks.hypothesis", *long, "--work-dir", str(tmp_path)]
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    while len(list(tmp_path.glob("runs/*/last.safetensors"))) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    assert process.stderr is not None
    said = process.stderr.read().decode()  # until nobody has it open any more
    assert process.wait() == 75
    assert "stopping the other processes" in said
    assert said.count("stopped by SIGTERM; the same command goes on where it stopped") == 1
    assert "Traceback" not in said
    for folder in tmp_path.glob("runs/*"):
        with claimed(folder):  # no process is left that holds it
            pass


def test_a_training_belongs_to_one_command_at_a_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    with claimed(tmp_path / "runs/key"):
        other = threading.Thread(target=lambda: held(tmp_path / "runs/key", said.append).__enter__())
        other.start()
        while not said:
            assert other.is_alive()
            time.sleep(0.01)
    other.join()
    assert len(said) == 1
    assert said[0].startswith("waiting for another command: ")
    assert "is in use by process" in said[0]


@pytest.mark.parametrize("arguments", [["--jobs", "0"], ["--no-report", "--report-only"]], ids=str)
def test_jobs_that_make_no_sense_are_refused(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*FAST, *arguments, "--work-dir", str(tmp_path)]) == 2
    assert arguments[0] in capsys.readouterr().err


def test_trackers_are_compared_with_all_their_seeds_in_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, scenes in SCENES.items():
        monkeypatch.setitem(SCENES, split, tuple(replace(scene, frames=20) for scene in scenes[:1]))
    monkeypatch.setenv("LWDNA_CACHE", str(tmp_path / "cache"))
    small = ["data.sequences_per_epoch=2", "data.views.crop=64", "train.batch_size=2", "shrink.batch_size=2",
             "network.classification_channels=8", "network.iou_channels=8", "train.ema_decay=None",
             "network.optimizer_iterations=1", "tracker={'update_iterations': 0}"]  # fmt: skip
    command = ["--task", "tracking", "--methods", "baseline", "uniform", "--seeds", "1", "--epochs", "1", "--device",
               "cpu", "--no-progress", "--records", str(tmp_path / "kept"), "--cfg-options", *small]  # fmt: skip
    refused = [*command, "--work-dir", str(tmp_path / "none"), "--distillation"]
    assert main(refused) == 2
    assert "--distillation: of classification, not of --task tracking" in capsys.readouterr().err
    assert main([*command, "--work-dir", str(tmp_path / "store"), "--output", str(tmp_path / "page")]) == 0
    kept = [json.loads(path.read_text()) for path in (tmp_path / "kept").iterdir()]
    assert {record["method"] for record in kept} == {"baseline", "uniform"}
    for record in kept:
        curve = record["detail"]["success"]  # AUC is the mean of the curve, as in OTB's own code
        assert fmean(curve) == pytest.approx(record["metrics"]["success_auc"], abs=0.01)
    tracked = [path.name for path in (tmp_path / "store/tracks").iterdir()]
    assert len(tracked) == 4  # two references and two networks, each of which was tried once
    page = (tmp_path / "page.md").read_text()
    assert page.startswith("# dimp18-small-comparison on resnet18-small on Demo random test, 1 epochs")
    assert "Without a network, AUC: `still` " in page
    for name in ("page.png", "page_success.png"):
        assert f"({name})" in page
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert "Trained on demo train, demo random, 2 samples an epoch; all is scored." in page


def test_trials_go_seed_by_seed_with_one_baseline() -> None:
    from core.widths.config import ShrinkConfig

    settings = [ShrinkConfig(budget=Budget(flops=value)) for value in (0.5, 0.9)]
    trials = grid(["baseline", "random"], settings, range(2))
    assert [(t.method, t.seed, t.shrink.budget.flops) for t in trials] == [
        ("baseline", 0, 0.5), ("random", 0, 0.5), ("random", 0, 0.9),
        ("baseline", 1, 0.5), ("random", 1, 0.5), ("random", 1, 0.9),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["torch-pruning", "torch-pruning-norm"])
def test_the_peers_widths_are_its_networks(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning", reason="the extra 'peers' is not installed")
    bench = bench_in(tmp_path)
    trial = Trial(name, bench.config.shrink, 0)
    record = run_trial(bench.engine, trial)
    assert record is not None
    assert bench.engine.load(trial) == record
    architecture = Architecture.from_json(record["architecture"])
    network = architecture.build(bench.engine.task.build())
    assert count(network, bench.engine.task.example_inputs, "paper") == record["cost"]["flops"]["paper"]
    assert count_params(network) == record["cost"]["params"]
    assert 0.88 < record["cost"]["flops"]["paper"] / record["baseline_cost"]["flops"]["paper"] <= 0.9
    assert (
        len(
            {width / record["baseline_cost"]["widths"][group] for group, width in architecture.widths.items()}
        )
        > 3
    )


def test_the_peer_copes_with_depthwise_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Widths alone: the library has to couple a depthwise convolution with what comes before it, as our groups do."""
    pytest.importorskip("torch_pruning", reason="the extra 'peers' is not installed")
    monkeypatch.setattr("core.methods.peers.TRIALS", 7)  # as exact as the range below
    bench = bench_in(tmp_path, "--model", "mobilenetv2")
    shrink = replace(bench.config.shrink, batches=1, batch_size=8)
    architecture = find(
        "torch-pruning-norm",
        bench.engine.request(Trial("torch-pruning-norm", shrink, 0), tmp_path),
        dict(bench.engine.methods),
    ).architecture
    network = architecture.build(bench.engine.task.build())
    assert count(network, bench.engine.task.example_inputs, "paper") == architecture.costs[0].paper
    assert 0.85 < architecture.costs[0].paper / architecture.costs[1].paper <= 0.9
    assert len({architecture.widths[g] / w for g, w in architecture.baseline_widths.items()}) > 3


def test_a_peer_that_is_not_installed_is_missed_before_anything_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "core.methods.method.find_spec", lambda name: None if name == "torch_pruning" else real(name)
    )
    common = [*FAST, "--seeds", "1", "--work-dir", str(tmp_path / "work")]
    assert main([*common, "--methods", "baseline", "torch-pruning"]) == 2
    assert (
        "torch-pruning is not installed: install the extra, pip install -e '.[peers]'"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "work").exists()
    # What is in the store already can be reported without it.
    assert main([*common, "--report-only", "--methods", "torch-pruning"]) == 2
    assert "holds no trial" in capsys.readouterr().err


def made_up(values: dict[str, list[float]]) -> dict[str, Series]:
    cost = {"flops": {"paper": 90}, "params": 80}
    base = {"flops": {"paper": 100}, "params": 100}
    return collect(
        [{"method": method, "seed": seed, "metrics": {"top1_error": value}, "cost": cost, "baseline_cost": base,
          "search_epochs": 0.5, "search_baseline_epochs": 2.0}
         for method, list_of in values.items() for seed, value in enumerate(list_of)],
        lambda record: str(record["method"]),
    )  # fmt: skip


def test_tables_hold_scipys_paired_test() -> None:
    ours, base, random = [8.1, 7.9, 8.4, 8.0, 7.7], [8.9, 8.3, 9.1, 8.2, 8.4], [8.8, 8.5, 9.0, 8.6, 8.0]
    series = made_up({"baseline": base, "gradient": ours, "random": random})
    table = results_table(series, "baseline", ERROR)
    p = [float(stats.ttest_rel(values, base).pvalue) for values in (ours, random)]
    row = next(line for line in table.splitlines() if line.startswith("| gradient"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    mean = sum(a - b for a, b in zip(ours, base)) / 5
    half = float(stats.t.ppf(0.975, 4) * stats.tstd([a - b for a, b in zip(ours, base)]) / 5**0.5)
    assert cells[3] == f"{mean:.2f} ± {half:.2f}"
    assert cells[4:6] == [f"{p[0]:.3f}", f"{2 * p[0]:.3f}"]
    assert cells[6:] == ["90.00", "80.0", "", "0.50 (2.00)"]  # these records name no widths
    assert f"{stats.ttest_rel(ours, random).pvalue:.3f}" in controls_table(
        series, ["random", "uniform"], ERROR
    )


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_infinite_and_undefined_values_are_shown_as_such(tmp_path: Path) -> None:
    """As they come from a store, where they are words."""
    words = {"baseline": ["inf", 30.0, 31.0], "gradient": [30.0, 31.0, "nan"], "random": ["inf", 31.0, 32.0]}
    series = made_up(words)  # type: ignore[arg-type]
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in
            results_table(series, "baseline", ERROR).splitlines()}  # fmt: skip
    assert rows["baseline"][2] == "inf ± undefined"
    assert rows["gradient"][2:6] == ["undefined", "undefined", "n/a", "n/a"]
    assert rows["random"][2:6] == ["inf ± undefined", "undefined", "n/a", "n/a"]  # inf - inf
    assert "undefined | n/a" in controls_table(series, ["random"], ERROR)
    curves = {name: [item] for name, item in series.items()}
    plot_tradeoff(tmp_path / "plot.png", curves, ERROR, "title", baseline=series["baseline"])
    assert (tmp_path / "plot.png").exists()


def test_records_keep_them(tmp_path: Path) -> None:
    cost = {"flops": {"paper": 9}}
    record = plain({"metrics": {"top1_error": math.inf}, "recipe": {"clip_grad_norm": math.inf, "path": tmp_path},
                     "cost": cost, "baseline_cost": cost})  # fmt: skip
    write_json(tmp_path / "record.json", record)
    assert json.loads((tmp_path / "record.json").read_text(), parse_constant=pytest.fail) == record
    assert record["recipe"]["path"] == str(tmp_path)
    assert (
        metrics_text(bench_in(tmp_path).engine.task, record) == "top-1 error % inf at 100.00 % of the FLOPs"
    )


def test_differences_finer_than_their_values_keep_their_digits() -> None:
    """Of PSNR, hundredths of a dB are a result."""
    series = made_up(
        {"baseline": [26.7, 26.8, 26.75], "gradient": [26.7221, 26.8219, 26.7733], "random": [27, 27, 28]}
    )
    assert "| 0.02243 ± 0.00188 |" in results_table(series, "baseline", ERROR)
    assert "| 0.02243 ± 0.00188 |" in controls_table(series, ["baseline"], ERROR)


def test_seeds_that_only_one_side_has_are_left_out_of_the_pairs() -> None:
    series = made_up({"baseline": [5.0, 6.0, 7.0], "gradient": [4.0, 5.5]})
    assert series["gradient"].against(series["baseline"], ERROR) == [-1.0, -0.5]
    assert "| gradient | 2 |" in results_table(series, "baseline", ERROR)
    other = Series("late", {seed + 9: record for seed, record in series["baseline"].records.items()})
    assert series["gradient"].against(other, ERROR) == []  # no seed in common: no pair


def test_budgets_of_any_kind_have_rows_of_their_own() -> None:
    budgets = [
        Budget(params=0.5),
        Budget(params=0.9),
        Budget(flops=0.9),
        Budget(flops=0.9, convention="macs"),
    ]
    labels = [
        label_of({"method": "uniform", "shrink": {"budget": asdict(budget)}}, True) for budget in budgets
    ]
    assert labels == [
        "uniform at params=0.5", "uniform at params=0.9", "uniform at 0.9", "uniform at flops=0.9,convention=macs"
    ]  # fmt: skip


def test_two_records_for_one_place_of_a_table_are_an_error() -> None:
    with pytest.raises(ValueError, match="two records of 'uniform', seed 3"):
        collect([{"method": "uniform", "seed": 3}] * 2, lambda record: str(record["method"]))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, float("nan"), 0.5])[0] == pytest.approx(1.0)
    assert str(holm([0.9, float("nan"), 0.5])[1]) == "nan"
    assert str(paired_p([0.2, 0.2])) == "nan"


def test_wrong_usage_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["--methods", "luck"], "unknown method 'luck'"),
        (["--metrics", "luck"], "--metrics 'luck': allowed: top1_error"),
        (["--seeds", "0"], "--seeds 0"),
        (["--seed", "-1"], "--seed -1"),
        (["--report-only"], "holds no trial"),
        (["--budget", "0.01", "--methods", "uniform"], "cannot be reached"),
    ):
        assert main([*FAST, "--work-dir", str(tmp_path), *arguments]) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert len(captured.err.strip().splitlines()) == 1
    with pytest.raises(UserError, match="unknown method"):
        check_trials(bench_in(tmp_path).engine, [Trial("luck", bench_in(tmp_path).config.shrink, 0)])
    assert bench_in(tmp_path).engine.search.dhp.max_epochs == 60
