"""Checkpoints whose descriptions hold something else than they should, in all tasks: one line that names the file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import classification.checkpoint
import super_resolution.checkpoint
import tracking.dimp.checkpoint
from core.errors import UserError
from core.storage.checkpoint import save_weights

DESCRIBED: dict[Any, Any] = {
    classification.checkpoint: classification.checkpoint.Description(
        "resnet20", "digits", tuple("0123456789"), (1, 8, 8), (0.0,), (16.0,)
    ),
    super_resolution.checkpoint: super_resolution.checkpoint.describe(
        "edsr", 2, {"n_blocks": 1, "n_feats": 8}, 3
    ),
    tracking.dimp.checkpoint: tracking.dimp.checkpoint.Description(),
}
VALUES: dict[str, Any] = {"null": None, "object": {"a": []}, "list": [[{}]], "true": True}
CASES = [
    (module, field.name, kind)
    for module, described in DESCRIBED.items()
    for field in dataclasses.fields(described)
    if "None" not in str(field.type) or "tuple" in str(field.type)
    for kind in VALUES
    if kind != "object" or field.name not in ("options", "settings")  # which are objects
]


@pytest.mark.parametrize(
    ("module", "name", "kind"), CASES, ids=[f"{m.KEY}-{name}-{kind}" for m, name, kind in CASES]
)
def test_a_field_of_another_kind_is_refused(module: Any, name: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    fields = dataclasses.asdict(DESCRIBED[module]) | {name: VALUES[kind]}
    save_weights(nn.Linear(1, 1), path, {module.KEY: json.dumps(fields)})
    with pytest.raises(UserError, match=rf"net\.safetensors' does not say .* of {module.KEY} .*\(.*{name}"):
        module.load_network(path)


@pytest.mark.parametrize("module", DESCRIBED, ids=lambda module: module.KEY)
def test_missing_and_unknown_fields_are_named(module: Any, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    fields = dataclasses.asdict(DESCRIBED[module])
    save_weights(nn.Linear(1, 1), path, {module.KEY: json.dumps(fields | {"color": 1})})
    with pytest.raises(UserError, match="unknown key 'color'"):
        module.read_description(path)
    needed = next(
        (item.name for item in dataclasses.fields(DESCRIBED[module]) if item.default is dataclasses.MISSING
         and item.default_factory is dataclasses.MISSING), None)  # fmt: skip
    if needed is not None:  # a tracker's description has defaults for everything
        del fields[needed]
        save_weights(nn.Linear(1, 1), path, {module.KEY: json.dumps(fields)})
        with pytest.raises(UserError, match=f"'{needed}' is required"):
            module.read_description(path)
    save_weights(nn.Linear(1, 1), path, {module.KEY: json.dumps(dataclasses.asdict(DESCRIBED[module]))})
    assert module.read_description(path) == DESCRIBED[module]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"n_blocks": "x"}, "option n_blocks of network 'edsr' must be int, got str 'x'"),
        ({"n_blocks": None}, "option n_blocks of network 'edsr' must be int, got NoneType None"),
        ({"n_feats": [8]}, "option n_feats of network 'edsr' must be int, got list"),
        ({"res_scale": {}}, "option res_scale of network 'edsr' must be float, got dict"),
        ({"mean": ["a", 0, 0]}, "option mean of network 'edsr'.0. must be float, got str 'a'"),
        ({"image_range": 10**400}, "option image_range of network 'edsr' must be float, got int 1000"),
        ({"depth": 1}, "network 'edsr' has no option 'depth'"),
    ],
)
def test_an_option_of_another_kind_is_refused(options: dict[str, Any], problem: str, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    fields = dataclasses.asdict(DESCRIBED[super_resolution.checkpoint]) | {"options": options}
    save_weights(nn.Linear(1, 1), path, {"super_resolution": json.dumps(fields)})
    with pytest.raises(UserError, match=rf"net\.safetensors'.*{problem}"):
        super_resolution.checkpoint.load_network(path)
