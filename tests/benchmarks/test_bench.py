"""What all benchmarks of trained networks share: protocols and keys of trials."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bench import open_bench, publish, with_published
from benchmarks.hypothesis import build_parser
from classification.config import RunConfig
from core.command_line.config import load_config
from core.command_line.factories import SUITE
from core.errors import UserError
from core.experiments.plan import Trial, grid
from core.experiments.task import model_text
from core.experiments.trials import run_trial
from core.training.distillation import DistillationConfig
from core.widths.budget import Budget
from tests.benchmarks.benches import bench_in


def test_keys_tell_apart_what_decides_a_result(tmp_path: Path) -> None:
    bench = bench_in(tmp_path)
    shrink = bench.config.shrink
    trial = Trial("gradient", shrink, 0)
    key = bench.engine.record_key(trial)
    assert key == bench_in(tmp_path / "elsewhere").engine.record_key(trial)
    others = [
        bench.engine.record_key(replace(trial, seed=1)),
        bench.engine.record_key(replace(trial, method="fisher")),
        bench.engine.record_key(replace(trial, shrink=replace(shrink, budget=Budget(flops=0.8)))),
        bench.engine.record_key(replace(trial, shrink=replace(shrink, floor=0.3))),
        bench_in(tmp_path, "--epochs", "2").engine.record_key(trial),
        bench_in(tmp_path, "--train-limit", "90").engine.record_key(trial),
        bench_in(tmp_path, "--model", "mobilenetv2", "--config",
                 "shared_configs/classification/resnet20_digits.py").engine.record_key(trial),
    ]  # fmt: skip
    assert len({key, *others}) == 8
    # What changes nothing in the result, or belongs to another method, is not in it.
    assert key == bench_in(tmp_path, "--dhp-strength", "3").engine.record_key(trial)
    quicker = replace(bench.engine, train=replace(bench.config.train, eval_every=1))
    assert key == quicker.record_key(trial)
    base = Trial("baseline", shrink, 0)
    assert bench.engine.record_key(base) == bench.engine.record_key(
        replace(base, shrink=replace(shrink, floor=0.1))
    )
    dhp = replace(trial, method="dhp")
    assert bench.engine.record_key(dhp) != bench_in(tmp_path, "--dhp-strength", "3").engine.record_key(dhp)


def test_stores_of_earlier_days_are_still_known(tmp_path: Path) -> None:
    """The published page names the keys of its records: its command gives them today."""
    published = json.loads(Path("docs/results/hypothesis.json").read_text())["records"]
    bench = open_bench(build_parser().parse_args(["--threads", "1", "--work-dir", str(tmp_path)]))
    engine = replace(bench.engine, schema=1)  # by which the page was made
    for method in ("baseline", "gradient", "fisher-per-flop", "accumulated", "synflow-search", "dhp"):
        (record,) = [r for r in published if (r["method"], r["seed"]) == (method, 3)]
        trial = Trial(method, bench.config.shrink, 3)
        assert record["key"] == engine.record_key(trial) != bench.engine.record_key(trial)


def test_the_protocol_decides_the_data_set_unless_the_command_line_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[RunConfig] = []

    def stop(config: RunConfig, *rest: Any) -> None:
        opened.append(config)
        raise UserError("far enough")

    def config_of(*arguments: str) -> RunConfig:
        # The data set is not here, and where the protocol is known by then is the last place before it is needed.
        monkeypatch.setattr("benchmarks.bench.open_dataset", lambda name, root, data: None)
        monkeypatch.setattr("benchmarks.bench.make_task", stop)
        with pytest.raises(UserError, match="far enough"):
            open_bench(build_parser().parse_args(["--work-dir", str(tmp_path), *arguments]))
        return opened[-1]

    folder = "shared_configs/classification"
    cifar = config_of("--config", f"{folder}/resnet20_cifar10.py")
    assert (cifar.dataset, cifar.data.train_limit) == ("cifar10", None)
    assert cifar.train.epochs == load_config(f"{folder}/resnet20_cifar10.py", RunConfig).train.epochs
    assert (
        config_of("--config", f"{folder}/resnet20_cifar10.py", "--dataset", "cifar100").dataset == "cifar100"
    )
    for digits in (config_of(), config_of("--config", f"{folder}/resnet20_digits.py")):
        assert (digits.dataset, digits.data.train_limit, digits.train.epochs) == ("digits", 300, 10)
    assert config_of("--epochs", "3", "--cfg-options", "data.train_limit=50").data.train_limit == 50


def test_the_flag_adds_distillation_to_a_protocol_that_has_none(tmp_path: Path) -> None:
    assert bench_in(tmp_path).config.distillation is None
    assert bench_in(tmp_path, "--distillation").config.distillation == DistillationConfig()


def test_the_text_of_an_own_network_decides_its_key(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    keys = []
    for width in (8, 9, 8):
        file.write_text(
            "from torch import nn\n"
            f"def net(): return nn.Sequential(nn.Conv2d(1, {width}, 3), nn.BatchNorm2d({width}), nn.ReLU(), "
            f"nn.Conv2d({width}, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))\n"
        )
        bench = bench_in(tmp_path / "store", "--model", f"{file}:net")
        keys.append(bench.engine.record_key(Trial("baseline", bench.config.shrink, 0)))
    assert keys[0] == keys[2] != keys[1]


def test_a_module_is_known_by_its_text_and_the_suites_own_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_module.py").write_text("def net(): ...\n")
    before = model_text("own_module:net")
    (tmp_path / "own_module.py").write_text("def net(): return 1\n")
    assert before["model_text"] != model_text("own_module:net")["model_text"]
    for name in (
        "resnet20",
        "benchmarks.channel_bench_networks:half_mobilenet",
        "not_there:net",
        "not.there:net",
    ):
        assert model_text(name) == {}


def test_the_suites_packages_are_those_that_are_installed() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text())
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert set(SUITE) == {name.removesuffix("*") for name in packages}


def test_records_of_other_networks_are_left_where_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = "docs/results/records/confirmation-resnet20"
    parser = build_parser()
    command = ["--work-dir", str(tmp_path), "--records", there, "--model", "resnet56", "--dataset", "digits"]
    arguments = parser.parse_args(command)
    with_published(arguments, bench := open_bench(arguments), [bench.config.shrink])
    assert "0 records of" in (told := capsys.readouterr().out)
    assert "16 are of other settings or networks" in told
    assert not (tmp_path / "records").exists()


def test_records_that_were_finished_before_there_was_a_folder_are_put_there(tmp_path: Path) -> None:
    record = {"key": "0123", "method": "baseline", "seed": 0, "architecture": None, "schema": 2}
    publish([record], tmp_path)
    assert json.loads((tmp_path / "0123.json").read_text())["method"] == "baseline"
    (tmp_path / "0123.json").write_text("{}")
    publish([record], tmp_path)
    assert (tmp_path / "0123.json").read_text() == "{}"  # those that lie there stay


def test_distilled_trials_share_one_teacher_per_seed_and_are_trials_of_their_own(tmp_path: Path) -> None:
    distilled = open_bench(
        build_parser().parse_args(
            ["--train-limit", "50", "--epochs", "1", "--no-progress", "--device", "cpu", "--work-dir", str(tmp_path),
             "--cfg-options", "train.batch_size=25", "shrink.batch_size=25", "distillation.temperature=4.0"]
        )
    )  # fmt: skip
    undistilled = bench_in(tmp_path, "--train-limit", "50")
    trials = grid(["baseline", "uniform"], [distilled.config.shrink], [0])
    found = [run_trial(distilled.engine, trial) for trial in trials]
    assert len(list(tmp_path.glob("runs/*/model.safetensors"))) == 3  # one teacher and two students
    assert found[0] is not None
    assert found[0]["recipe"]["distillation"]["temperature"] == 4.0
    keys = [{bench.engine.record_key(trial) for trial in trials} for bench in (distilled, undistilled)]
    assert keys[0].isdisjoint(keys[1])
