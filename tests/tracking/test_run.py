"""`python -m tracking.run`: the comparison of two backbones, end to end on a few crops and one short video."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch

import core
from classification.models import build
from core.command_line.config import load_config
from core.errors import UserError
from core.experiments.experiment import Outcome
from core.experiments.given import at_given_budget
from core.storage.checkpoint import save_weights
from core.storage.description import read_contents
from core.surgery.architecture import describe_inputs
from core.training.run_files import read_history
from tests.tracking.dimp.own_backbones import SOURCE
from tracking.datasets.demo_rendering import SCENES
from tracking.dimp.backbones import RESNETS, trunk_architecture
from tracking.dimp.checkpoint import load_network
from tracking.evaluation.plots import save_plots
from tracking.experiment.config import RunConfig, given_architecture
from tracking.run import CONFIGS, DEFAULT_CONFIG, main

pytestmark = pytest.mark.usefixtures("unarranged")
SHORT = [
    "--device", "cpu", "--epochs", "1", "--no-progress", "--cfg-options", "data.sequences_per_epoch=4",
    "data.views.crop=64", "data.workers=0", "train.batch_size=2", "shrink.batch_size=2", "shrink.batches=1",
    "network.classification_channels=8", "network.iou_channels=8", "network.optimizer_iterations=1",
]  # fmt: skip
NO_AVERAGE = "train.ema_decay=None"  # nothing but the weights is tried


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The demonstration's frames are rendered once for all tests here."""
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def one_video(shared_cache: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Options that try trackers on one sequence alone; of `demo` only a few scenes are there."""
    for split, count in (("random_test", 1), ("train", 3), ("random", 3)):
        monkeypatch.setitem(SCENES, split, SCENES[split][:count])
    monkeypatch.setenv("LWDNA_CACHE", shared_cache)
    monkeypatch.setattr("tracking.experiment.report.save_plots", partial(save_plots, formats=("png",)))
    monkeypatch.chdir(tmp_path)
    from tracking.datasets import list_entries

    return [*SHORT, f"evaluation.sequences=('{list_entries('demo', split='random_test')[0].name}',)"]


@pytest.fixture(scope="module")
def widths() -> core.Architecture:
    """Widths of a whole ResNet, as classification finds them."""
    return core.shrink(
        RESNETS["resnet18-small"](),
        torch.zeros(1, 3, 224, 224),
        [],
        torch.nn.functional.cross_entropy,
        budget=core.Budget(flops=0.85),
        score="random",
    )


def test_code_that_a_protocol_names_is_announced_once(
    one_video: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.py").write_text(SOURCE)
    monkeypatch.setattr("core.experiments.commands.run_experiment", lambda *rest, **more: Outcome(None))
    command = ["--work-dir", "w", *one_video, "shrink.round_to=1"]
    assert main([*command, "--backbone", "own.py:Stages"]) == 0
    assert "names code" not in capsys.readouterr().out
    assert main(["--work-dir", "w", "--resume", "--no-progress", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.count("the protocol names code: 'own.py:Stages' is imported") == 1


def test_found_on_the_task_itself(
    one_video: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    command = ["--work-dir", str(folder), "--controls", "shallow-uniform", *one_video]
    assert main(command) == 0
    result = json.loads((folder / "result.json").read_text())
    assert result["task"] == "tracking"
    assert list(result["methods"]) == ["baseline", "lwdna", "shallow-uniform"]
    assert set(result["references"]) == {"still", "ncc"}
    for method in result["methods"].values():
        assert set(method["metrics"]) == {"success_auc", "precision", "norm_precision"}
        assert 0 <= method["metrics"]["success_auc"]["mean"] <= 100
        assert method["flops_ratio"] <= 1
    report = (folder / "report.md").read_text()
    assert "parameters are the backbone's" in report
    assert "## Cost and speed of a frame" in report
    for picture in ("success.png", "precision.png", "norm_precision.png", "channels.png", "curves.png"):
        assert (folder / picture).is_file()
    page = (folder / "report.html").read_text()
    for title in ("Success", "Frames", "Cost and speed of a frame"):
        assert f">{title}</h2>" in page
    network, description = load_network(folder / "lwdna.safetensors")
    assert description.settings["crop_size"] == 64
    contents = read_contents(folder / "lwdna.safetensors")
    assert contents == read_contents(folder / "runs/lwdna-seed0/model.safetensors")
    assert (contents.task, contents.checked, contents.origin["method"]) == ("dimp", True, "lwdna")
    assert contents.origin["recipe"]["data"]["views"]["crop"] == 64
    found = result["methods"]["lwdna"]["widths"]
    assert network.feature_extractor.channels["layer3"] == found["layer3.0.conv2"]

    capsys.readouterr()
    tracks = {path: path.stat().st_mtime_ns for path in (folder / "tracks").rglob("*.txt")}
    assert tracks
    assert main([*command, "--resume"]) == 0  # nothing is trained or tracked again
    assert {path: path.stat().st_mtime_ns for path in (folder / "tracks").rglob("*.txt")} == tracks
    assert json.loads((folder / "result.json").read_text())["methods"] == result["methods"]


def test_given_by_classification(one_video: list[str], tmp_path: Path, widths: core.Architecture) -> None:
    widths.save(tmp_path / "widths.json")
    save_weights(RESNETS["resnet18-small"](), tmp_path / "regular.safetensors")
    save_weights(widths.build(RESNETS["resnet18-small"]()), tmp_path / "found.safetensors")
    files = ["--widths", "widths.json", "--backbone-weights", "regular.safetensors"]
    files += ["--found-weights", "found.safetensors"]
    assert main(["--work-dir", "run", *files, *one_video, NO_AVERAGE]) == 0
    result = json.loads((tmp_path / "run/result.json").read_text())
    wanted = trunk_architecture("resnet18-small", widths, 64)
    assert result["methods"]["lwdna"]["widths"] == wanted.widths
    assert result["methods"]["lwdna"]["flops"] == wanted.costs[0].paper

    # More epochs: both trackers go on, and are tried anew.
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("records/*.json")}
    command = ["--resume", "--epochs", "2", "--no-progress", "--device", "cpu", "--work-dir", "run"]
    assert main(command) == 0
    for path, content in before.items():
        assert (tmp_path / "run/epochs-1/records" / path.name).read_bytes() == content
        assert json.loads(path.read_text())["recipe"]["train"]["extended"] == [[1, 1]]
        one, two = (read_history(tmp_path / place / path.stem) for place in ("run/epochs-1/runs", "run/runs"))
        assert (len(two), two[:1]) == (2, one)
    assert len(list((tmp_path / "run/epochs-1/tracks").iterdir())) == 4  # two references, two networks
    assert len(list((tmp_path / "run/tracks").iterdir())) == 6
    longer = json.loads((tmp_path / "run/result.json").read_text())
    assert (longer["epochs"], longer["methods"]["lwdna"]["widths"]) == (2, wanted.widths)


def test_a_trained_backbone_is_fine_tuned(one_video: list[str], tmp_path: Path) -> None:
    classifier = RESNETS["resnet18-small"]()
    torch.save(
        {"model": {f"module.{n}": v for n, v in classifier.state_dict().items()}}, tmp_path / "best.pth"
    )
    command = ["--work-dir", "run", "--pretrained", "best.pth", "--start", "pretrained", *one_video]
    assert main([*command, NO_AVERAGE, "train.optimizer.lr=0"]) == 0  # what is trained is what it began with
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert list(result["methods"]) == ["baseline", "lwdna", "lwdna-scratch"]
    regular, found, scratch = (
        load_network(tmp_path / "run" / f"{name}.safetensors")[0].feature_extractor
        for name in result["methods"]
    )
    assert torch.equal(regular.layer3[1].conv2.weight, classifier.layer3[1].conv2.weight)
    kept = core.Architecture.load(tmp_path / "run/widths.json").kept
    rows = list(kept["conv1"])
    assert 0 < len(rows) <= 16
    assert torch.equal(found.conv1.weight, classifier.conv1.weight[rows])
    assert not torch.equal(scratch.conv1.weight, found.conv1.weight)
    assert "Trained weights '" in (tmp_path / "run/report.md").read_text()
    origin = read_contents(tmp_path / "run/lwdna.safetensors").origin
    assert origin["recipe"]["weights"]["start"] == "pretrained"


def test_controls_cost_what_given_widths_cost(tmp_path: Path, widths: core.Architecture) -> None:
    widths.save(tmp_path / "widths.json")
    config = load_config(CONFIGS / DEFAULT_CONFIG, RunConfig, [f"found_widths={tmp_path / 'widths.json'}"])
    given = given_architecture(config)
    assert at_given_budget(config.shrink, given).budget.flops == given.costs[0].paper


def test_widths_of_classifications_resnet50_fit_the_published_protocol(tmp_path: Path) -> None:
    resnet, images = build("resnet50", dataset="imagenet"), torch.zeros(1, 3, 224, 224)
    widths = core.trace_channels(resnet, images).widths
    core.Architecture("resnet50", widths, describe_inputs(images)).save(tmp_path / "widths.json")
    given = [f"found_widths={tmp_path / 'widths.json'}"]
    found = given_architecture(load_config(CONFIGS / "dimp50.py", RunConfig, given))
    assert found.widths["layer3.0.conv3"] == 1024
    with pytest.raises(UserError, match="is not a channel group of ResNet"):
        given_architecture(load_config(CONFIGS / DEFAULT_CONFIG, RunConfig, given))


def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, widths: core.Architecture, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="starts from regular widths"):
        load_config(CONFIGS / DEFAULT_CONFIG, RunConfig, ["init=tracker.safetensors"])
    folder = ["--work-dir", str(tmp_path / "run")]
    some = ["--widths", "w.json", "--found-weights", "f.pth", "--backbone-weights", "r.pth"]
    for options, message in (
        (
            some[4:],
            "--backbone-weights without --found-weights: one backbone would start from trained weights",
        ),
        (some[:4], "--found-weights without --backbone-weights"),
        (some[2:], "--found-weights are of given widths: name these with --widths"),
        ([*some, "--pretrained", "a.pth", "--start", "pretrained"], "leave out --backbone-weights"),
        ([*some, "--controls", "uniform"], "uniform would start at random beside them"),
        (["--pretrained", "none.pth"], "there is no such file"),
    ):
        assert main([*folder, *options]) == 2
        assert message in capsys.readouterr().err
    assert main([*folder, "--dataset", "lasott"]) == 2
    assert "lasott" in capsys.readouterr().err
    widths.save(tmp_path / "widths.json")
    assert main([*folder, "--found-widths", str(tmp_path / "widths.json"), "--cfg-options",
                 "backbone.name='resnet50'"]) == 2  # fmt: skip
    assert "error: " in capsys.readouterr().err


def test_methods_that_need_the_whole_network_are_refused_by_name(
    one_video: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("dhp", "accumulated", "zico-search"):
        assert main(["--work-dir", str(tmp_path / "run"), "--controls", "random", name, *one_video]) == 2
        error = capsys.readouterr().err
        assert (
            f"method '{name}' runs the whole network and cannot search a part of it, such as the backbone"
            in error
        )
        assert not (tmp_path / "run" / "runs").exists()
