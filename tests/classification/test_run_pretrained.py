"""`--pretrained` and `--start` on the command line of classification."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from classification.models import build
from classification.run import main
from core.command_line.config import load_config
from core.storage.checkpoint import read_weights
from core.storage.description import read_contents
from core.surgery.architecture import Architecture

pytestmark = pytest.mark.usefixtures("unarranged")
FAST = ["--train-limit", "60", "--epochs", "1", "--no-progress", "--cfg-options", "train.batch_size=30",
        "shrink.batch_size=8", "shrink.batches=1"]  # fmt: skip


def network(seed: int, classes: int = 10) -> nn.Module:
    torch.manual_seed(seed)
    return build("resnet20", classes, dataset="digits")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another trainer's checkpoint, of twelve classes."""
    path = tmp_path_factory.mktemp("weights") / "model_best.pth.tar"
    state = {f"module.{name}": value for name, value in network(3, 12).state_dict().items()}
    torch.save({"state_dict": state, "best_acc1": torch.tensor(71.0), "epoch": 12}, path)
    return path


@pytest.fixture(scope="module")
def experiment(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "work"
    here = Path.cwd()
    os.chdir(weights.parent)  # the file is found again from elsewhere
    try:
        status = main([*FAST, "--pretrained", weights.name, "--start", "pretrained", "--budget", "0.6", "--work-dir",
                       str(folder)])  # fmt: skip
    finally:
        os.chdir(here)
    assert status == 0
    return folder


def test_a_run_from_trained_weights(experiment: Path, weights: Path) -> None:
    result = json.loads((experiment / "result.json").read_text())
    assert list(result["methods"]) == ["baseline", "lwdna", "lwdna-scratch"]
    assert result["methods"]["lwdna"]["flops_ratio"] <= 0.6
    assert result["weights"]["start"] == "pretrained"
    assert result["weights"]["pretrained"] == str(weights)
    assert any(
        "its head 'fc' has 12 outputs, this network's 10: the head starts fresh" in n
        for n in result["weights"]["notes"]
    )
    report = (experiment / "report.md").read_text()
    assert "its head 'fc' has 12 outputs" in report
    assert "LW-DNA from scratch" in report
    arch = Architecture.load(experiment / "widths.json")
    assert arch.found_by["widen"] == 1
    assert all(len(kept) == arch.widths[name] for name, kept in arch.kept.items())
    config = load_config(experiment / "config.py", _schema(), dumped=True)
    assert (config.pretrained, config.start, config.shrink.widen) == (str(weights), "pretrained", 1.0)
    assert json.loads((experiment / "plan.json").read_text())["pretrained"] == result["weights"]["checksum"]


def _schema() -> type:
    from classification.config import RunConfig

    return RunConfig


def test_files_say_what_they_started_from(experiment: Path) -> None:
    for method, start in (("baseline", "pretrained"), ("lwdna", "pretrained"), ("lwdna-scratch", "scratch")):
        for path in (
            experiment / f"{method}.safetensors",
            experiment / f"runs/{method}-seed0/model.safetensors",
        ):
            assert read_contents(path).origin["recipe"]["weights"]["start"] == start


def test_one_step_from_trained_weights_stays_close_to_them(experiment: Path) -> None:
    kept = read_weights(experiment / "runs/lwdna-seed0/model.safetensors")["conv1.weight"]
    fresh = read_weights(experiment / "runs/lwdna-scratch-seed0/model.safetensors")["conv1.weight"]
    start = network(3, 12).conv1.weight[list(Architecture.load(experiment / "widths.json").kept["conv1"])]
    assert (kept - start).norm() < 0.5 * (fresh - start).norm()


def test_a_resume_goes_on_and_does_nothing_twice(
    experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--resume", "--work-dir", str(experiment), "--no-progress"]) == 0
    assert "training resnet20" not in capsys.readouterr().out


def test_a_resume_with_other_weights_is_refused(
    experiment: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = weights.read_bytes()
    other = weights.with_name("other.pth")
    try:
        torch.save(network(4).state_dict(), weights)
        assert main(["--resume", "--work-dir", str(experiment), "--no-progress"]) == 2
        assert "are others than those that the run" in capsys.readouterr().err
        other.write_bytes(before)
        assert (
            main(["--resume", "--work-dir", str(experiment), "--no-progress", "--pretrained", str(other)])
            == 2
        )
        assert "another protocol (pretrained is" in capsys.readouterr().err
        weights.unlink()
        assert main(["--resume", "--work-dir", str(experiment), "--no-progress"]) == 2
        assert "there is no such file" in capsys.readouterr().err
    finally:
        weights.write_bytes(before)


def test_scores_of_trained_weights_and_fresh_starts(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*FAST, "--pretrained", str(weights), "--stages", "shrink", "--work-dir", str(tmp_path / "w")]
    assert main(command) == 0
    assert "channels are scored with them; all networks start from scratch" in capsys.readouterr().out
    assert Architecture.load(tmp_path / "w" / "widths.json").kept


def test_given_widths_have_to_say_which_channels_are_kept(
    experiment: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*FAST, "--pretrained", str(weights), "--start", "pretrained", "--stages", "shrink"]
    widths = experiment / "widths.json"
    assert main([*command, "--widths", str(widths), "--work-dir", str(tmp_path / "kept")]) == 0
    assert Architecture.load(tmp_path / "kept" / "widths.json").kept == Architecture.load(widths).kept
    content = json.loads(widths.read_text())
    del content["kept"]
    (tmp_path / "bare.json").write_text(json.dumps(content))
    command += ["--widths", str(tmp_path / "bare.json"), "--work-dir", str(tmp_path / "bare")]
    assert main(command) == 2
    assert (
        "the file of --widths does not say which channels of the weights are kept" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--start", "pretrained"], "error: the command line: --start pretrained needs weights"),
        (
            ["--pretrained", "FILE", "--widen", "2"],
            "widening by 2.0: trained weights have no channels beyond",
        ),
        (["--pretrained", "none.pth"], "none.pth': there is no such file"),
        (
            ["--pretrained", "FILE", "--model", "resnet56"],
            "does not fit CifarResNet with 345 tensors; the closest is its entry 'state_dict'",
        ),
        (
            ["--pretrained", "FILE", "--controls", "dhp"],
            "method 'dhp' makes networks with weights of its own",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_trains(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], problem: str
) -> None:
    told = [str(weights) if option == "FILE" else option for option in options]
    assert main([*FAST, *told, "--work-dir", str(tmp_path / "w")]) == 2
    error = capsys.readouterr().err
    assert problem in error
    assert error.count("\n") == 1
    assert not (tmp_path / "w").exists()
