"""Widths that ship, and the program that finds them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.published_widths import FLOORS, NETWORKS, SUPER_RESOLUTION, main
from classification.config import RunConfig as ClassificationConfig
from classification.models import INPUT_SHAPES
from classification.models import build as build_classifier
from core.command_line.config import load_config
from core.experiments.given import SHIPPED, shipped_names
from core.graph.channels import find_groups
from core.storage.data import data_root
from core.surgery.architecture import Architecture
from core.surgery.initialise import seeded
from super_resolution.config import RunConfig as SuperResolutionConfig
from super_resolution.config import with_ties
from super_resolution.models import build as build_upscaler

CLASSES = {"imagenet": 1000, "tiny-imagenet": 200}


@pytest.mark.parametrize("network", NETWORKS)
def test_what_ships_fits_its_network_and_its_budget(network: str) -> None:
    path = NETWORKS[network]
    with seeded(0):
        if path.parent == SUPER_RESOLUTION:
            upscaling = with_ties(load_config(path, SuperResolutionConfig))
            model, shrink = build_upscaler(upscaling.model, 4, **upscaling.options), upscaling.shrink
            inputs = torch.zeros(1, 3, 128, 128)
        else:
            config = load_config(path, ClassificationConfig)
            model = build_classifier(config.model, CLASSES[config.dataset], dataset=config.dataset)
            shrink, inputs = config.shrink, torch.zeros(1, *INPUT_SHAPES[config.dataset])
    files = [name for name in shipped_names() if name.startswith(f"{network}-")]
    assert len(files) >= 4
    for name in files:
        found = Architecture.load(SHIPPED / f"{name}.json")
        regular = find_groups(model, inputs, found.options)
        assert found.costs[1] == regular.price()
        assert found.costs[0].paper <= shrink.budget.flops * found.costs[1].paper
        allowed = shrink.budget.flops * found.costs[1].paper
        least = FLOORS.get(name.removeprefix(f"{network}-"), shrink.floor) * shrink.widen
        block = max(8, shrink.round_to)
        for group, width in found.widths.items():
            assert width >= max(
                block, int(least * regular.widths[group] / block) * block
            )  # rounded down to blocks
            assert width % block == 0
        built = find_groups(found.reshape(model), inputs, found.options)
        assert built.price() == found.costs[0]
        if found.costs[0].paper < 0.99 * allowed:  # only where no group has room for one more block
            for group, width in found.widths.items():
                ceiling = int(shrink.widen * regular.widths[group])
                wider = {**found.widths, group: width + block}
                assert width + block > ceiling or regular.price(wider).paper > allowed, (name, group)


@pytest.mark.skipif(
    not (data_root() / "tiny-imagenet-200").is_dir(), reason="Tiny-ImageNet is not under $LWDNA_DATA"
)
def test_the_program_finds_them_again(tmp_path: Path) -> None:
    command = [
        "--networks",
        "mobilenetv1",
        "--methods",
        "gradient",
        "uniform",
        "--turns",
        "1",
        "--keep-files",
    ]
    assert main([*command, "--output", str(tmp_path / "page")]) == 0
    page = json.loads((tmp_path / "page.json").read_text())["networks"]["mobilenetv1"]["methods"]
    shipped = Architecture.load(SHIPPED / "mobilenetv1-uniform.json")
    assert page["uniform"]["flops"] == shipped.costs[0].paper
    # Another processor may round a score otherwise: a channel here or there.
    gradient = Architecture.load(SHIPPED / "mobilenetv1-gradient.json")
    assert page["gradient"]["flops"] == pytest.approx(gradient.costs[0].paper, rel=0.01)
    assert "| mobilenetv1 | gradient |" in (tmp_path / "page.md").read_text()
    assert main(["--networks", "resnet5"]) == 2
