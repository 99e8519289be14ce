"""The command line of classification, from arguments to the files of a work directory."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from classification.checkpoint import load_network
from classification.config import RunConfig
from classification.run import main, uses
from core.export.command import build_parser as export_parser
from core.methods.registry import METHODS
from core.report.page import LARGEST
from core.storage.checkpoint import read_weights
from core.storage.description import read_contents
from core.surgery.architecture import Architecture
from core.training.train import train_step
from core.widths.scores import SCORES

FAST = ["--train-limit", "150", "--epochs", "2", "--no-progress", "--cfg-options", "train.batch_size=50"]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole experiment with two controls and two seeds on digits."""
    folder = tmp_path_factory.mktemp("run") / "work"
    status = main([*FAST, "--work-dir", str(folder), "--controls", "random", "uniform", "--seeds", "2"])
    assert status == 0
    return folder


def test_a_run_leaves_everything_it_promises(experiment: Path) -> None:
    expected = ["config.py", "widths.json", "result.json", "report.html", "report.md", "channels.png", "curves.png",
                "channels.svg", "curves.svg", "latency.json"]  # fmt: skip
    assert [name for name in expected if not (experiment / name).exists()] == []
    for method in ("baseline", "lwdna", "random", "uniform"):
        for seed in (0, 1):
            assert (experiment / "runs" / f"{method}-seed{seed}" / "model.safetensors").exists()
    assert (experiment / "channels.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_page_counts_errors_as_the_result_does(experiment: Path) -> None:
    errors = json.loads((experiment / "result.json").read_text())["methods"]
    for method in ("baseline", "lwdna"):
        for seed in (0, 1):
            kept = json.loads((experiment / f"runs/{method}-seed{seed}/predictions.json").read_text())
            wrong = sum(a != b for a, b in zip(kept["targets"], kept["predicted"], strict=True))
            error = errors[method]["metrics"]["top1_error"]["values"][seed]
            assert 100 * wrong / len(kept["targets"]) == pytest.approx(error)
    page = (experiment / "report.html").read_text()
    for title in ("Class by class", "Where the networks disagree"):
        assert f">{title}</h2>" in page
    assert len(page) < LARGEST
    assert "top-1 error % is " in page


def test_result_json_has_the_promised_form(experiment: Path) -> None:
    result = json.loads((experiment / "result.json").read_text())
    assert result["task"] == "classification"
    assert result["dataset"] == "digits"
    assert result["seeds"] == [0, 1]
    assert list(result["methods"]) == ["baseline", "lwdna", "random", "uniform"]
    for method, entry in result["methods"].items():
        error = entry["metrics"]["top1_error"]
        assert len(error["values"]) == 2
        assert error["mean"] == pytest.approx(sum(error["values"]) / 2)
        assert 0 <= error["mean"] <= 100
        assert entry["widths"].keys() == result["methods"]["baseline"]["widths"].keys()
        if method == "baseline":
            assert entry["flops_ratio"] == entry["params_ratio"] == 1.0
        else:
            assert 0.89 < entry["flops_ratio"] <= 0.9


def test_blocks_that_were_left_out_show_in_the_report(tmp_path: Path) -> None:
    assert main([*FAST, "shrink.vanish=0.4", "--work-dir", str(tmp_path), "--epochs", "1"]) == 0
    removed = Architecture.load(tmp_path / "widths.json").removed
    assert removed
    report = (tmp_path / "report.md").read_text()
    assert f"| `{removed[0]}.conv1` | " in report
    assert report.count("| – |") == len(removed)
    assert "–: the block was left out." in report
    assert (tmp_path / "channels.png").exists()


def test_the_report_shows_each_method_and_the_paired_difference(experiment: Path) -> None:
    report = (experiment / "report.md").read_text()
    for name in (
        "Baseline",
        "LW-DNA",
        "Random widths",
        "Uniform widths",
        "p (paired t-test)",
        "channels.png",
    ):
        assert name in report


def test_the_trained_network_can_be_rebuilt_from_its_two_files(experiment: Path) -> None:
    from classification.models import build
    from core.storage.checkpoint import load_weights

    network = Architecture.load(experiment / "widths.json").build(build("resnet20", 10, dataset="digits"))
    load_weights(network, experiment / "runs" / "lwdna-seed0" / "model.safetensors")
    assert network.eval()(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_checkpoints_say_what_they_are(experiment: Path) -> None:
    for method in ("baseline", "lwdna", "random", "uniform"):
        network, described = load_network(experiment / f"{method}.safetensors")
        assert (described.model, described.dataset, described.input_shape) == (
            "resnet20",
            "digits",
            (1, 8, 8),
        )
        assert described.classes == tuple("0123456789")
        assert (len(described.mean), len(described.std)) == (1, 1)
        assert (described.architecture is None) == (method == "baseline")
        weights = read_weights(experiment / f"runs/{method}-seed0/model.safetensors")
        loaded = network.state_dict()
        assert loaded.keys() == weights.keys()
        assert all(torch.equal(loaded[name], value) for name, value in weights.items())


def test_weights_of_every_training_say_how_they_were_made(experiment: Path) -> None:
    for method in ("baseline", "lwdna", "random", "uniform"):
        of_method = read_contents(experiment / f"{method}.safetensors")
        assert of_method == read_contents(experiment / f"runs/{method}-seed0/model.safetensors")
        other = read_contents(experiment / f"runs/{method}-seed1/model.safetensors")
        assert (other.task, other.checked) == ("classification", True)
        assert [part.origin["seed"] for part in (of_method, other)] == [0, 1]
        assert {part.origin["method"] for part in (of_method, other)} == {method}
        assert of_method.origin["recipe"]["train"]["batch_size"] == 50
        assert of_method.origin["recipe"]["data"]["train_limit"] == 150
        assert "distillation" not in of_method.origin["recipe"]
        widths = of_method.description["architecture"]
        if method != "baseline":
            assert widths == json.loads((experiment / f"widths/{method}-seed0.json").read_text())
            assert widths["found_by"]["seed"] == 0
    network, _ = load_network(experiment / "runs/lwdna-seed1/model.safetensors")
    assert network(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_a_finished_run_stays_finished(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lost and cut logs, records and widths are written anew; nothing is trained, and what is told names the files."""
    work = tmp_path / "work"
    shutil.copytree(experiment, work)
    (work / "runs/baseline-seed0/log.jsonl").unlink()
    for name in ("runs/random-seed1/log.jsonl", "records/uniform-seed0.json"):
        (work / name).write_bytes((work / name).read_bytes()[:60])
    (work / "widths/lwdna-seed1.json").unlink()
    command = ["--work-dir", str(work), "--no-progress"]
    assert main([*command, "--stages", "compare"]) == 2
    earlier = capsys.readouterr().err
    assert f"'{work}/runs/baseline-seed0/log.jsonl' has 0 of 2 epochs: --resume" in earlier
    assert main([*command, "--resume"]) == 0
    told = capsys.readouterr()
    for line in (
        f"'{work}/runs/baseline-seed0/log.jsonl' is gone: written anew from",
        f"'{work}/runs/random-seed1/log.jsonl' is damaged: written anew from",
        f"'{work}/widths/lwdna-seed1.json' is gone: written anew from the trial's record",
        f"'{work}/records/uniform-seed0.json' is damaged (",
    ):
        assert (earlier + told.err).count(f"note: {line}") == 1
    assert "4 of 8 trials are done already\n" in told.out
    assert "baseline, seed 0: resnet20 is trained already\n" in told.out
    assert "training resnet20" not in told.out
    for name in ("result.json", "runs/baseline-seed0/log.jsonl", "runs/random-seed1/log.jsonl",
                 "widths/lwdna-seed1.json", "runs/uniform-seed0/model.safetensors"):  # fmt: skip
        assert (work / name).read_bytes() == (experiment / name).read_bytes(), name
    assert main([*command, "--resume", "--stages", "baseline", "shrink", "train"]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert "8 of 8 trials are done already\n" in told.out


def test_a_resume_of_a_finished_run_trains_nothing_and_ends_with_what_to_type_next(
    experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (experiment / "result.json").read_text()
    weights = experiment / "runs" / "baseline-seed0" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    plan = ["--controls", "random", "uniform", "--seeds", "2"]
    assert main(["--resume", "--work-dir", str(experiment), *plan, "--no-progress"]) == 0
    assert (experiment / "result.json").read_text() == before
    assert weights.stat().st_mtime_ns == written
    lines = capsys.readouterr().out.partition("next:\n")[2].splitlines()
    typed = [shlex.split(line.partition("    (")[0]) for line in lines]
    assert [words[2] for words in typed if words[2] != "classification.export"] == [
        "classification.predict", "classification.eval", "core.inspect", "classification.run"
    ]  # fmt: skip
    for words in typed:
        assert words[:2] == ["python", "-m"]
        module = importlib.import_module(words[2])
        if words[2] == "classification.export":
            parser = export_parser(words[2], None)  # all tasks' exports share it
        else:
            parser = module.build_parser()
        parser.parse_args(words[3:])  # the command exists, and takes this
    assert typed[-1][3:] == ["--resume", "--work-dir", str(experiment), "--seeds", "5"]


def test_help_has_examples_that_can_be_typed_and_all_scores_and_methods() -> None:
    for name in ("classification", "super_resolution", "tracking"):
        command = importlib.import_module(f"{name}.run")
        text = command.build_parser().format_help()
        assert len(command.EXAMPLES) > 2
        for line in command.EXAMPLES:
            assert f"\n  python -m {line}\n" in text
            module, *words = shlex.split(line)
            assert module == f"{name}.run"
            command.build_parser().parse_args(words)
        for key, entry in [*METHODS.items(), *SCORES.items()]:
            assert re.search(rf"^  {re.escape(key)} +{re.escape(entry.summary)}$", text, re.MULTILINE), key


@pytest.mark.parametrize(
    "name",
    [
        *("classification.predict", "classification.eval", "super_resolution.upscale"),
        *("super_resolution.eval", "super_resolution.convert", "tracking.train", "tracking.track"),
        *("tracking.eval", "tracking.check_dataset", "tracking.convert", "core.channels", "core.inspect"),
        *("lwdna.store", "lwdna.doctor"),
    ],
)
def test_every_other_command_has_examples_too(name: str) -> None:
    command = importlib.import_module(name)
    text = command.build_parser().format_help()
    assert command.EXAMPLES
    program, called = ("lwdna", name[6:]) if name.startswith("lwdna.") else ("python -m", name)
    for line in command.EXAMPLES:
        assert f"\n  {program} {line}\n" in text
        module, *words = shlex.split(line)
        assert module == called
        command.build_parser().parse_args(words)


def test_a_folders_evaluation_names_the_folder(tmp_path: Path) -> None:
    (tmp_path / "my photos").mkdir()
    config = RunConfig(dataset=str(tmp_path / "my photos"))
    predict, evaluate = uses(config, " --data-root D")
    assert shlex.split(evaluate)[1:] == ["--dataset", str(tmp_path / "my photos"), "--data-root", "D"]
    assert predict == "classification.predict IMAGES"
    assert uses(RunConfig(), "")[1] == "classification.eval"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole") / "work"
    assert main([*FAST, "--work-dir", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGINT"])
def test_one_command_is_stopped_and_goes_on_to_the_same_bits(
    name: str,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    steps = 0

    def stopping(*arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 8:  # of 6 + 6: in the found network's first epoch
            signal.raise_signal(signal.Signals[name])
        return train_step(*arguments)

    command = [*FAST, "--resume", "--work-dir"]
    with monkeypatch.context() as patch:
        patch.setattr("core.training.train.train_step", stopping)
        assert main([*command, str(tmp_path / "stopped")]) == (130 if name == "SIGINT" else 75)
    told = capsys.readouterr()
    assert f"there is no run in '{tmp_path / 'stopped'}' to resume: starting one" in told.out
    assert not (tmp_path / "stopped/claim.json").exists()
    assert main([*command, str(tmp_path / "stopped")]) == 0
    told = capsys.readouterr()
    assert "1 of 2 trials are done already\n" in told.out
    assert "lwdna, seed 0: going on with the training of resnet20 for 2 epochs\n" in told.out
    for file in ("baseline.safetensors", "lwdna.safetensors", "result.json", "widths.json", "config.py"):
        assert (tmp_path / "stopped" / file).read_bytes() == (whole / file).read_bytes(), file


def test_few_seeds_are_called_few(experiment: Path) -> None:
    report = (experiment / "report.md").read_text()
    assert (
        "over 2 seeds. 2 seeds say little: their interval is 9.0 standard deviations to either side" in report
    )


def test_a_used_work_directory_is_not_overwritten(
    experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*FAST, "--work-dir", str(experiment)]) == 2
    assert "already holds a run" in capsys.readouterr().err


def test_resuming_with_another_protocol_is_refused(
    experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--resume", "--work-dir", str(experiment), "--epochs", "1"]) == 2
    assert "another protocol (train.epochs is 2 there and 1 here)" in capsys.readouterr().err


def test_stages_run_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = [*FAST[:4], "--no-progress", "--work-dir", str(tmp_path / "work")]
    options = ["--cfg-options", "train.batch_size=50"]
    assert main([*common, "--stages", "train", *options]) == 2
    assert "run the stage shrink first" in capsys.readouterr().err
    for stage in ("shrink", "train", "baseline", "compare"):
        assert main([*common, "--stages", stage, *options]) == 0, stage
        exists = (tmp_path / "work" / "result.json").exists()
        assert exists == (stage == "compare")


def test_a_run_without_distillation_is_not_resumed_with_it(
    experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for how in (["--resume"], ["--stages", "train"]):
        assert main([*how, "--work-dir", str(experiment), "--distillation", "--no-progress"]) == 2
        assert "another protocol (distillation is None there and {" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "resnet21"], "resnet20"),
        (["--model", "missing.py:net"], "does not exist"),
        (["--budget", "flops=0.1"], "cannot be reached"),
        (["--budget", "speed=0.9"], "speed"),
        (["--score", "luck"], "unknown score 'luck'"),
        (["--cfg-options", "train.epoch=3"], "unknown key 'train.epoch', did you mean 'epochs'"),
        (["--controls", "gradient"], "is the score of the found network itself"),
        (["--config", "nowhere.py"], "nowhere.py"),
        (["--dataset", "cifar10", "--data-root", "/nonexistent"], "not found"),
    ],
)
def test_user_errors_are_one_line_and_exit_with_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main([*FAST[:5], *arguments, "--work-dir", str(tmp_path / "work")])
    captured = capsys.readouterr()
    assert status == 2, captured.err
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert not (tmp_path / "work").exists()
