"""`python -m tracking.train`: what it leaves, how it goes on, and several processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from core.command_line.config import dump_config, load_config
from core.errors import UserError
from core.graph.channels import trace_channels
from core.storage.checkpoint import read_weights, save_weights
from core.storage.description import read_contents
from core.surgery.architecture import Architecture, describe_inputs
from core.training.optim import build_optimizer
from core.training.run_files import read_history
from tests.tracking.dimp.own_backbones import SOURCE as OWN_BACKBONE
from tests.tracking.training.trees import sequence_folder, shared_config, small_config
from tracking import track, train
from tracking.dimp.backbones import RESNETS
from tracking.dimp.checkpoint import load_network, read_description
from tracking.experiment.config import RunConfig
from tracking.training import TrackingConfig, build_network, make_validation
from tracking.training.loader import SequenceLoader

CONFIGS = Path(train.CONFIGS)


@pytest.fixture(scope="module")
def protocol(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A protocol file; its sequences lie beside it."""
    folder = tmp_path_factory.mktemp("train")
    for target in ("face", "badge"):
        sequence_folder(folder / "sequences", target)
    dump_config(small_config(folder / "sequences"), folder / "tiny.py")
    return folder / "tiny.py"


def run(protocol: Path, work_dir: Path, *options: str) -> int:
    common = ["--work-dir", str(work_dir), "--device", "cpu", "--no-progress"]
    return train.main(["--config", str(protocol), *common, *options])


def assert_same_weights(first: Path, second: Path) -> None:
    ours, theirs = read_weights(first), read_weights(second)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_checkpoint_says_what_it_is(protocol: Path, tmp_path: Path) -> None:
    assert run(protocol, tmp_path / "run", "--cfg-options", "tracker.memory_size=30") == 0
    network, description = load_network(tmp_path / "run/tracker.safetensors")
    assert not network.training
    contents = read_contents(tmp_path / "run/tracker.safetensors")
    assert contents == read_contents(tmp_path / "run/model.safetensors")
    assert (contents.task, contents.checked, contents.origin["method"]) == ("dimp", True, "baseline")
    assert description.backbone == "resnet18-small"
    assert network.config.classification_channels == 16
    assert description.settings == {"crop_size": 64, "search_area": 5.0, "memory_size": 30}
    records = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [record["images"] for record in records] == [8, 8]  # sequences
    assert {"scores", "initial_scores", "iou", "found"} <= records[0]["train_metrics"].keys()
    assert load_config(tmp_path / "run/config.py", TrackingConfig).tracker == {"memory_size": 30}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("tracker.memory_sise=30", "no tracker setting 'memory_sise': did you mean 'memory_size'"),
        ("tracker.random_boxes=-1", "random_boxes=-1: has to be a whole number of at least 0"),
    ],
)
@pytest.mark.parametrize("schema", [TrackingConfig, RunConfig])
def test_a_tracker_that_cannot_be_is_refused_before_training(
    protocol: Path, entry: str, message: str, schema: type[TrackingConfig]
) -> None:
    with pytest.raises(UserError, match=message):
        load_config(protocol, schema, [entry])


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(
    protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(protocol, tmp_path / "whole") == 0
    original = SequenceLoader.batch

    def batch(self: SequenceLoader, epoch: int, number: int) -> object:
        if (epoch, number) == (1, 0):
            signal.raise_signal(signal.SIGINT)
        return original(self, epoch, number)

    with monkeypatch.context() as patch:
        patch.setattr(SequenceLoader, "batch", batch)
        assert run(protocol, tmp_path / "stopped") == 130
    assert not (tmp_path / "stopped/tracker.safetensors").exists()
    assert run(protocol, tmp_path / "stopped") == 2  # not without --resume
    assert "add --resume to go on" in capsys.readouterr().err
    assert run(protocol, tmp_path / "stopped", "--resume") == 0
    assert_same_weights(tmp_path / "whole/tracker.safetensors", tmp_path / "stopped/tracker.safetensors")


def test_a_training_is_given_more_epochs(
    protocol: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "run"
    assert run(protocol, work) == 0
    files = ("tracker.safetensors", "model.safetensors", "last.safetensors", "log.jsonl", "config.py")
    before = {name: (work / name).read_bytes() for name in files}
    capsys.readouterr()
    assert run(protocol, work, "--resume", "--epochs", "3") == 0
    said = capsys.readouterr().out
    assert f"'{work}' gets 3 epochs instead of 2; what it holds is kept in '{work / 'epochs-2'}'" in said
    assert (
        said.count("extended from 2 to 3 epochs: up to epoch 2 the learning rates are those of 2 epochs") == 2
    )
    assert {name: (work / "epochs-2" / name).read_bytes() for name in files} == before
    planned = ["--epochs", "3", "--cfg-options", "train.extended=((2, 2),)"]
    assert run(protocol, tmp_path / "planned", *planned) == 0
    assert_same_weights(work / "tracker.safetensors", tmp_path / "planned/tracker.safetensors")
    assert read_contents(work / "tracker.safetensors").origin["recipe"]["train"]["extended"] == [[2, 2]]
    assert len((work / "log.jsonl").read_text().splitlines()) == 3
    assert run(protocol, work, "--resume", "--epochs", "3") == 0
    assert run(protocol, work, "--resume", "--epochs", "2") == 2
    assert "train.epochs is 3 there and 2 here" in capsys.readouterr().err


def test_seeds_and_epochs_from_the_command_line(protocol: Path, tmp_path: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert run(protocol, tmp_path / name, "--epochs", "1", "--seed", seed) == 0
    assert_same_weights(tmp_path / "a/tracker.safetensors", tmp_path / "b/tracker.safetensors")
    first, other = (read_weights(tmp_path / name / "tracker.safetensors") for name in "ac")
    assert not torch.equal(first["feature_extractor.conv1.weight"], other["feature_extractor.conv1.weight"])


def test_a_backbone_of_found_widths_and_its_weights(protocol: Path, tmp_path: Path) -> None:
    resnet = RESNETS["resnet18-small"]()
    example = torch.zeros(1, 3, 64, 64)
    widths = {
        name: width - number % 3
        for number, (name, width) in enumerate(trace_channels(resnet, example).widths.items())
    }
    found = Architecture("resnet18", widths, describe_inputs(example))
    found.save(tmp_path / "widths.json")
    pretrained = found.build(resnet)
    save_weights(pretrained, tmp_path / "classifier.safetensors")
    options = ["--backbone-widths", str(tmp_path / "widths.json"), "--epochs", "1"]
    weights = ["--backbone-weights", str(tmp_path / "classifier.safetensors")]
    # Rates of zero: what is trained is what was loaded.
    assert run(protocol, tmp_path / "run", *options, *weights, "--cfg-options", "train.optimizer.lr=0") == 0
    network, description = load_network(tmp_path / "run/tracker.safetensors")
    assert description.architecture is not None
    loaded = network.feature_extractor.state_dict()
    for name, value in pretrained.named_parameters():
        if not name.startswith(("layer4", "fc")):
            assert torch.equal(loaded[name], value), name

    start = ["--init", str(tmp_path / "run/tracker.safetensors"), "--cfg-options", "train.optimizer.lr=0"]
    assert run(protocol, tmp_path / "again", *options, *start) == 0
    again, _ = load_network(tmp_path / "again/tracker.safetensors")
    for (name, value), other in zip(network.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(value, other), name
    assert run(protocol, tmp_path / "misfit", "--init", str(tmp_path / "run/tracker.safetensors")) == 2


def test_a_backbone_of_ones_own_and_its_checkpoint(
    protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_trunk.py").write_text(OWN_BACKBONE)
    monkeypatch.chdir(tmp_path)
    command = ["--config", str(protocol), "--device", "cpu", "--no-progress", "--epochs", "1"]
    assert train.main([*command, "--backbone", "own_trunk.py:Stages"]) == 0
    checkpoint = "work_dirs/tracking-tiny-own_trunk-Stages/tracker.safetensors"
    described = read_description(checkpoint)
    assert (described.backbone, described.architecture) == ("own_trunk.py:Stages", None)
    source, box = str(protocol.parent / "sequences/face/img"), ["--box", "20,20,20,20", "--frames", "3"]
    track_it = [
        source,
        *box,
        "--save",
        "boxes.txt",
        "--checkpoint",
        checkpoint,
        "--device",
        "cpu",
        "--tracker",
        "small",
    ]
    capsys.readouterr()
    assert track.main(track_it) == 2
    assert "repeat it with --backbone own_trunk.py:Stages" in capsys.readouterr().err
    assert track.main([*track_it, "--backbone", "own_trunk.py:Stages"]) == 0
    assert len(Path("boxes.txt").read_text().splitlines()) == 3


def test_a_stem_for_small_images_is_named_as_fresh(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    classifier = RESNETS["resnet18-small"]()
    for name, warned in (("7x7", False), ("3x3", True)):
        if warned:
            classifier.conv1 = nn.Conv2d(3, 16, 3, 2, 1, bias=False)
        save_weights(classifier, tmp_path / f"{name}.safetensors")
        backbone = replace(config.backbone, weights=tmp_path / f"{name}.safetensors")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            network = build_network(replace(config, backbone=backbone))
        wanted = [
            f"'{tmp_path / name}.safetensors' is of a network with another stem: 'conv1.weight' starts fresh."
        ]
        assert [str(warning.message) for warning in caught] == (wanted if warned else [])
        assert torch.equal(
            network.feature_extractor.layer3[1].conv2.weight, classifier.layer3[1].conv2.weight
        )


@pytest.mark.parametrize("name", ["dimp50.py", "dimp18_small.py"])
def test_shipped_protocols_are_read(name: str) -> None:
    config = load_config(CONFIGS / name, TrackingConfig)
    rates = {
        prefix: round(config.train.optimizer.lr * factor, 8)
        for prefix, factor in config.train.optimizer.groups
    }
    if name == "dimp50.py":  # the published rates
        assert config.train.optimizer.lr == 2e-5
        assert rates == {
            "classifier.feature_extractor": 5e-5,
            "classifier.filter_initializer": 5e-5,
            "classifier.filter_optimizer": 5e-4,
            "bb_regressor": 2e-4,
        }
        trackingnet = [source.weight for source in config.data.sources if source.dataset == "trackingnet"]
        assert sum(trackingnet) == 1
        return
    network = build_network(config)
    build_optimizer(network, config.train.optimizer)  # every group has members


def test_two_processes(protocol: Path) -> None:
    """Batches of five are parted into three and two; of three they cannot be, which both processes say."""
    folder = protocol.parent
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, str(Path(__file__).with_name("training") / "trees.py"), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    # Not line by line: two processes that print at once share lines.
    assert sorted(re.findall(r"(?:enough|too-few): \d", done.stdout)) == [
        "enough: 0",
        "enough: 0",
        "too-few: 2",
        "too-few: 2",
    ]
    assert done.stderr.count("error: a batch of 3 sequences for 2 process(es): each needs at least 2") == 2
    network, _ = load_network(folder / "enough/tracker.safetensors")
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())
    config = shared_config(folder / "sequences", 5)
    judge, trained = make_validation(config, folder), build_network(config)
    trained.load_state_dict(read_weights(folder / "enough/model.safetensors"))
    assert judge is not None
    with torch.no_grad():  # each batch was judged once, and as one process does
        scores = judge(trained.eval())
    assert read_history(folder / "enough")[0].eval_metrics == pytest.approx(scores, rel=1e-6)


def test_a_work_directory_is_data_and_one_commands(
    protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders: list[Path] = []

    def look(*arguments: object, work_dir: Path, **more: object) -> None:
        folders.append(work_dir)
        if len(folders) == 1:  # a second command without a name of its own, while the first is at work
            assert train.main(["--config", str(protocol), "--device", "cpu", "--no-progress"]) == 1
            assert run(protocol, work_dir, "--resume") == 2
        raise RuntimeError("far enough")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "fit", look)
    assert train.main(["--config", str(protocol), "--device", "cpu", "--no-progress"]) == 1
    first, second = (Path("work_dirs") / name for name in ("tracking-tiny", "tracking-tiny-2"))
    assert folders == [first, second]
    assert f"'{first}' is in use by process {os.getpid()}" in capsys.readouterr().err
    # Started anew from the directory alone, whatever the default protocol is.
    assert train.main(["--work-dir", str(first), "--resume", "--device", "cpu", "--no-progress"]) == 1
    assert folders[-1] == first
    with (first / "config.py").open("a") as file:
        file.write("import pathlib; pathlib.Path('run').touch()\n")
    capsys.readouterr()
    assert train.main(["--work-dir", str(first), "--resume"]) == 2
    assert "is not 'name = value'" in capsys.readouterr().err
    assert not Path("run").exists()
    assert not (first / "claim.json").exists()
