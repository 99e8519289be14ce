"""Runs of a user's own network, and of networks that have a teacher."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from classification.checkpoint import load_network, read_description
from classification.config import RunConfig, with_distillation
from classification.run import main
from core.command_line.config import load_config
from core.errors import UserError
from core.storage.description import read_contents
from core.surgery.architecture import Architecture
from core.training.distillation import DistillationConfig

pytestmark = pytest.mark.usefixtures("unarranged")
FAST = ["--train-limit", "150", "--epochs", "2", "--no-progress", "--cfg-options", "train.batch_size=50"]


def test_a_users_own_model(tmp_path: Path) -> None:
    file = tmp_path / "own_network.py"
    file.write_text(
        "from torch import nn\n"
        "def net():\n"
        "    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),\n"
        "                         nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),\n"
        "                         nn.Flatten(), nn.Linear(16, 10))\n"
    )
    folder = tmp_path / "work"
    assert main(["--model", f"{file}:net", "--work-dir", str(folder), *FAST]) == 0
    assert set(Architecture.load(folder / "widths.json").widths) == {"0", "3"}
    described = read_description(folder / "lwdna.safetensors")
    assert described.model == f"{file}:net"
    with pytest.raises(UserError, match="is not imported because a file names it"):
        load_network(folder / "lwdna.safetensors")
    network, _ = load_network(folder / "lwdna.safetensors", f"{file}:net")
    assert network[0].out_channels == described.architecture["widths"]["0"]
    assert "own_network-net" in (folder / "report.md").read_text().splitlines()[0]


@pytest.mark.parametrize(
    ("channels", "outputs", "message"),
    [
        (3, 10, "fails on an image of 'digits', input shape (1, 1, 8, 8): Given groups=1"),
        (1, 9, "has 9 outputs, but 'digits' has 10 classes"),
    ],
)
def test_an_own_model_that_does_not_fit_the_data_set_is_told_so(
    channels: int, outputs: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "misfit.py"
    file.write_text(
        "from torch import nn\n"
        f"def net():\n    return nn.Sequential(nn.Conv2d({channels}, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),\n"
        f"                         nn.Flatten(), nn.Linear(8, {outputs}))\n"
    )
    assert main(["--model", f"{file}:net", "--work-dir", str(tmp_path / "work"), *FAST]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "--dataset" in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "work").exists()


def test_a_start_that_is_not_known_is_refused_unless_it_is_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "unclear_network.py"
    file.write_text(
        "from torch import nn\n"
        "def net(width=16):\n"
        "    second = nn.Conv2d(width, 8, 1)\n"
        "    nn.init.normal_(second.weight, std=width ** -0.5)\n"
        "    return nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), second, nn.ReLU(), nn.AdaptiveAvgPool2d(1),\n"
        "                         nn.Flatten(), nn.Linear(8, 10))\n"
    )
    folder = tmp_path / "work"
    command = ["--model", f"{file}:net", "--work-dir", str(folder), *FAST]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "'2.weight': 0.25 in line 4 of" in said
    assert "--allow-unknown-start" in said
    assert not folder.exists()
    assert main([*command, "--allow-unknown-start"]) == 0
    (line,) = json.loads((folder / "result.json").read_text())["unknown_start"]
    assert line == "lwdna, seed 0: 1 tensors may start otherwise than the baseline's: 2.weight."
    assert line in (folder / "report.md").read_text()


def test_distillation_trains_a_widened_teacher_first(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    options = ["--cfg-options", "train.batch_size=50", "distillation.temperature=4.0"]
    assert main([*FAST[:4], "--no-progress", "--work-dir", str(folder), *options]) == 0
    weights = folder / "runs" / "teacher-seed0" / "model.safetensors"
    contents = read_contents(weights)
    assert (contents.task, contents.origin["method"]) == ("classification", "teacher")
    assert "distillation" not in contents.origin["recipe"]
    student, _ = load_network(folder / "baseline.safetensors")
    teacher, _ = load_network(weights)  # built from what the file says of itself
    assert teacher.conv1.out_channels == 2 * student.conv1.out_channels


def test_the_flag_adds_distillation_to_a_protocol_that_has_none(tmp_path: Path) -> None:
    """The protocol of the digits, and one that --config names, have no such section."""
    own = "shared_configs/classification/resnet20_digits.py"
    for number, more in enumerate(([], ["--config", own])):
        folder = tmp_path / str(number)
        quick = ["--stages", "shrink", "--no-progress", "--work-dir", str(folder)]
        assert main([*quick, "--distillation", *more]) == 0
        assert load_config(folder / "config.py", RunConfig).distillation == DistillationConfig()


def test_a_protocols_own_distillation_stays_as_it_is() -> None:
    own = RunConfig(distillation=DistillationConfig(temperature=2.0))
    assert with_distillation(own, True) == own
    assert with_distillation(RunConfig(), False).distillation is None
