"""Every shipped protocol fits the schema, names things that exist, and holds the published recipe."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

import shared_configs
from classification.config import RunConfig
from classification.data import DATASETS
from classification.models import build
from core.command_line.config import load_config
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
    assert stem == f"{config.model}_{config.dataset.replace('-', '_')}"
    assert path.stem.endswith("_distillation") == (config.distillation is not None)
    assert config.dataset in DATASETS
    # Written down, not left to defaults that may change.
    written = Config.fromfile(path)
    assert {"epochs", "batch_size", "optimizer", "schedule"} <= set(written.train)
    assert {"widen", "budget", "score", "floor", "batches", "batch_size"} <= set(written.shrink)
    assert {"crop_padding", "flip", "bad_images", "workers"} <= set(written.data)
    with torch.device("meta"):
        assert isinstance(build(config.model, dataset=config.form or config.dataset), torch.nn.Module)


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
    explore, confirm = (load(f"mobilenetv2_small_tiny_imagenet_{name}") for name in ("explore", "confirm"))
    assert (explore.data.first_class, explore.data.classes, explore.data.test_per_class) == (0, 100, 250)
    assert confirm == replace(explore, data=replace(explore.data, first_class=100))


def test_a_form_is_one_of_the_suites_networks():
    assert RunConfig(form="cifar").form == "cifar"
    with pytest.raises(UserError, match=r"form is 'cifra': did you mean 'cifar'"):
        RunConfig(form="cifra")
    with pytest.raises(
        UserError, match=r"form='cifar' is for networks of the suite; 'net\.py:make' has its own"
    ):
        RunConfig(form="cifar", model="net.py:make")
