"""A small checkpoint whose header describes an absurd network ends in one line, in no time and in no memory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import classification.checkpoint
import super_resolution.checkpoint
import tracking.dimp.checkpoint
from core.errors import UserError
from core.storage.checkpoint import read_metadata, read_shapes, save_weights
from tracking.dimp.settings import TrackerSettings

Loader = Callable[[Path], object]
WIDE = {
    "model": "resnet20",
    "inputs": {"shape": [1, 1, 16, 16], "dtype": "float32"},
    "widths": dict.fromkeys(("layer1.0.conv1", "layer2.0.conv1"), 2**24),
}
CLASSIFIER: dict[str, Any] = {
    "model": "resnet20",
    "dataset": "digits",
    "classes": ["a", "b"],
    "input_shape": [1, 16, 16],
    "mean": [0.0],
    "std": [1.0],
}
UPSCALER: dict[str, Any] = {"model": "edsr", "scale": 2, "options": {"n_blocks": 1, "n_feats": 4}}
TRACKER: dict[str, Any] = {"backbone": "resnet18-small", "config": {}}
LOADERS: dict[str, Loader] = {
    "classification": classification.checkpoint.load_network,
    "super_resolution": super_resolution.checkpoint.load_network,
    "dimp": tracking.dimp.checkpoint.load_network,
}


@pytest.mark.parametrize(
    ("task", "header", "reason"),
    [
        ("super_resolution", UPSCALER | {"options": {"n_blocks": 10**9}}, "more than 67,108,864 numbers"),
        ("super_resolution", UPSCALER | {"options": {"n_blocks": 10**9, "n_feats": 4}}, "more than 4,096 layers"),
        ("super_resolution", UPSCALER | {"options": {"n_feats": 10**9}}, "the network that it describes"),
        ("super_resolution", UPSCALER | {"options": {"n_feats": 10**5}}, "the network that it describes"),
        ("super_resolution", UPSCALER | {"options": {"n_feats": 10**30}}, "cannot be built"),
        ("super_resolution", UPSCALER | {"scale": 10**9}, "scale"),
        ("dimp", TRACKER | {"config": {"feature_blocks": 10**6}}, "more than 4,096 layers and tensors"),
        ("dimp", TRACKER | {"config": {"iou_channels": 10**9}}, "the network that it describes"),
        ("dimp", TRACKER | {"config": {"classification_channels": 10**30}}, "cannot be built"),
        ("classification", CLASSIFIER | {"input_shape": [1, 10**5, 10**5]}, "larger than 16,777,216 numbers"),
        ("classification", CLASSIFIER | {"downsample": 10**4}, "larger than 16,777,216 numbers"),
        ("classification", CLASSIFIER | {"downsample": "two"}, "does not say which network"),
        ("classification", CLASSIFIER | {"input_shape": [16]}, "does not say which network"),
        ("classification", CLASSIFIER | {"input_shape": [3, 16, 16]}, "inputs of 3 channels with means"),
        ("classification", CLASSIFIER | {"std": [0.0]}, "deviations \\(0.0,\\)"),
        ("classification", CLASSIFIER | {"white": -5}, "white at -5 are none"),
        ("classification", CLASSIFIER | {"architecture": WIDE}, "widths"),
    ],
)  # fmt: skip
def test_an_absurd_header_is_refused_at_once(
    task: str, header: Mapping[str, Any], reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "small.safetensors"
    save_weights(nn.Linear(2, 2), path, {task: json.dumps(header)})
    assert path.stat().st_size < 2000
    start = time.process_time()
    with pytest.raises(UserError, match=reason) as caught:
        LOADERS[task](path)
    assert time.process_time() - start < 5
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_header_nested_beyond_reason_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.safetensors"
    save_weights(nn.Linear(2, 2), path, {"super_resolution": "[" * 10**5 + "]" * 10**5})
    with pytest.raises(UserError, match="does not say which network"):
        LOADERS["super_resolution"](path)


def test_shapes_are_read_from_the_header_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_weights(nn.Linear(3, 2), path, {"note": "kept"})
    assert read_shapes(path) == {"weight": (2, 3), "bias": (2,)}
    assert read_metadata(path)["note"] == "kept"


@pytest.mark.parametrize(
    "name", ["crop_size", "memory_size", "first_iterations", "random_boxes", "search_area"]
)
def test_settings_of_a_tracker_that_a_file_may_name_are_bounded(name: str) -> None:
    with pytest.raises(UserError, match=f"{name}=1000000000: has to be (in|a whole number of at least) "):
        TrackerSettings().replaced({name: 10**9})


def test_honest_files_load_as_before(tmp_path: Path) -> None:
    torch.manual_seed(0)
    description = super_resolution.checkpoint.Description(**UPSCALER)
    network = super_resolution.checkpoint.build_network(description)
    super_resolution.checkpoint.save_network(tmp_path / "sr.safetensors", network, description)
    loaded, _ = super_resolution.checkpoint.load_network(tmp_path / "sr.safetensors")
    image = torch.from_numpy(np.linspace(0, 1, 192, dtype=np.float32).reshape(1, 3, 8, 8))
    assert torch.equal(loaded(image), network.eval()(image))
