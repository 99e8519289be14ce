"""Every shipped protocol fits the schema, names things that exist, and holds the published recipe."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

import shared_configs
from classification.config import FOLDER_PROTOCOL, RunConfig, find_config
from classification.data import DATASETS
from classification.models import build
from classification.models.datasets import form_for
from core.command_line.config import load_config
from core.command_line.factories import call_factory, is_factory
from core.errors import UserError
from core.training.distillation import DistillationConfig

FOLDER = Path(shared_configs.__file__).parent / "classification"
FILES = sorted(FOLDER.glob("*.py"))


def load(name: str) -> RunConfig:
    return load_config(FOLDER / f"{name}.py", RunConfig)


def test_the_promised_protocols_are_there():
    promised = {
        "resnet50_imagenet",
        "regnetx_4gf_imagenet",
        "mobilenetv3_small_imagenet",
        "mobilenetv1_tiny_imagenet",
        "mobilenetv1_tiny_imagenet_distillation",
        "mobilenetv2_tiny_imagenet",
        "mobilenetv2_tiny_imagenet_distillation",
        "resnet20_cifar10",
        "resnet56_cifar10",
        "densenet40_cifar10",
        "resnet20_digits",
        "resnet20_tiny_imagenet_reduced",
    }
    assert promised <= {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_protocol_is_whole_and_its_names_exist(path):
    config = load_config(path, RunConfig)
    stem = re.sub("_(distillation|reduced|explore|confirm)$", "", path.stem)
    if path != FOLDER_PROTOCOL:
        assert stem == f"{config.model.rpartition(':')[2]}_{config.dataset.replace('-', '_')}"
        assert config.dataset in DATASETS
    assert path.stem.endswith("_distillation") == (config.distillation is not None)
    # Written down, not left to defaults that may change.
    written = Config.fromfile(path)
    assert {"epochs", "batch_size", "optimizer", "schedule"} <= set(written.train)
    assert {"widen", "budget", "score", "floor", "batches", "batch_size"} <= set(written.shrink)
    assert {"crop_padding", "flip", "bad_images", "workers"} <= set(written.data)
    with torch.device("meta"):
        form = config.form or form_for(config.dataset, (3, config.data.size or 0, config.data.size or 0))
        own = is_factory(config.model)
        built = call_factory(config.model) if own else build(config.model, dataset=form)
        assert isinstance(built, torch.nn.Module)


def test_a_folder_of_images_has_a_protocol_of_its_own(tmp_path, monkeypatch):
    """A folder's path is found wherever the command is typed; a name that is neither is refused with what was meant."""
    assert find_config("resnet50", str(tmp_path), False) == find_config(None, ".", True) == FOLDER_PROTOCOL
    config = load_config(FOLDER_PROTOCOL, RunConfig)
    assert (config.shrink.budget.flops, config.data.size) == (0.9, 128)
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    assert replace(config, dataset="photos").dataset == f"{tmp_path}/photos"
    with pytest.raises(UserError, match=r"did you mean 'cifar10'.*, or the path of a folder of images"):
        find_config(None, "cifar11", False)


@pytest.mark.parametrize(
    ("side", "form"), [(32, "cifar"), (64, "tiny-imagenet"), (128, "imagenet"), (224, "imagenet")]
)
def test_the_form_of_a_network_for_a_folder_follows_from_the_size(side, form):
    assert form_for("photos", (3, side, side)) == form
    assert form_for("digits", (1, 8, 8)) == "digits"


def test_imagenet_is_the_references_recipe():
    train = load("resnet50_imagenet").train
    assert (train.epochs, train.batch_size) == (150, 256)
    optimizer = train.optimizer
    assert (optimizer.name, optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (
        "sgd",
        0.1,
        0.9,
        1e-4,
    )
    assert (train.schedule.name, train.schedule.warmup_epochs) == ("cosine", 0)
    assert load("regnetx_4gf_imagenet").train == load("mobilenetv3_small_imagenet").train == train


def test_tiny_imagenet_is_the_references_recipe():
    config = load("mobilenetv2_tiny_imagenet")
    assert (config.train.epochs, config.train.batch_size) == (220, 64)
    assert (config.train.schedule.name, config.train.schedule.gamma) == ("step", 0.1)
    assert config.train.schedule.milestones == (200, 205, 210, 215)
    assert (config.data.crop_padding, config.data.flip) == (0, False)


def test_cifar_is_the_references_recipe():
    config = load("resnet56_cifar10")
    assert (config.train.epochs, config.train.batch_size) == (300, 64)
    assert config.train.schedule.milestones == (150, 225)
    assert (config.data.crop_padding, config.data.flip) == (4, True)
    assert not config.train.optimizer.nesterov
    assert load("densenet40_cifar10").train.optimizer.nesterov


@pytest.mark.parametrize("network", ["mobilenetv1", "mobilenetv2"])
def test_distillation_twins_differ_by_distillation_alone(network):
    plain, taught = load(f"{network}_tiny_imagenet"), load(f"{network}_tiny_imagenet_distillation")
    assert taught.distillation == DistillationConfig(temperature=4.0, hard_weight=0.6, soft_weight=0.4)
    assert (taught.train, taught.data, taught.shrink) == (plain.train, plain.data, plain.shrink)


def test_the_confirmation_is_the_exploration_on_other_classes():
    explore, confirm = (load(f"half_mobilenet_tiny_imagenet_{name}") for name in ("explore", "confirm"))
    assert (explore.data.first_class, explore.data.classes, explore.data.test_per_class) == (0, 100, 250)
    assert confirm == replace(explore, data=replace(explore.data, first_class=100))


def test_a_form_is_one_of_the_suites_networks():
    assert RunConfig(form="cifar").form == "cifar"
    with pytest.raises(UserError, match=r"unknown form 'cifra': did you mean 'cifar'"):
        RunConfig(form="cifra")
    with pytest.raises(
        UserError, match=r"form='cifar' is for networks of the suite; 'net\.py:make' has its own"
    ):
        RunConfig(form="cifar", model="net.py:make")
