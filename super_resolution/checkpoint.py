"""Super-resolution checkpoints that say what they are: weights plus network, scale, options and widths.

One safetensors file. Its metadata holds, under the key "super_resolution", JSON with the keys `model` and
`scale` and `options` (the arguments of `super_resolution.models.build`) and `architecture` (the content of a
widths file, or null for the network's own widths).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from torch import nn

from core.errors import UserError
from core.storage.checkpoint import load_weights, read_metadata, save_weights
from core.storage.files import from_words, json_text
from core.surgery.architecture import Architecture
from super_resolution.models import build

_KEY = "super_resolution"


@dataclass(frozen=True)
class Description:
    """What it takes to build a checkpoint's network.

    Attributes:
        model: the network's name, as for `super_resolution.models.build`.
        scale: its up-sampling factor.
        options: its further options.
        architecture: the content of a widths file (`core.Architecture.to_json`), None for the network's own
            widths.
    """

    model: str
    scale: int
    options: Mapping[str, Any]
    architecture: Mapping[str, Any] | None = None


def save_network(path: str | Path, network: nn.Module, description: Description) -> None:
    """Write a network's weights and description as one file, atomically.

    Args:
        path: the file, by custom `*.safetensors`.
        network: what `build_network(description)` builds, trained.
        description: see `Description`; its values must be plain JSON.
    """
    save_weights(network, path, {_KEY: json_text(asdict(description))})


def read_description(path: str | Path) -> Description:
    """Read a checkpoint's description without its weights.

    Raises:
        MissingData: there is no such file.
        UserError: it is broken, or was not written by `save_network`.
    """
    try:
        content = json.loads(read_metadata(path).get(_KEY, "null"))
    except json.JSONDecodeError:
        content = None
    names = {field.name for field in fields(Description)}
    if not isinstance(content, dict) or content.keys() != names:
        raise UserError(
            f"checkpoint '{path}' does not say which network it is for; use one that super_resolution.run "
            f"or super_resolution.convert has written, or write yours with "
            f"super_resolution.checkpoint.save_network."
        )
    return Description(**{**content, "options": from_words(content["options"])})


def build_network(description: Description) -> nn.Module:
    """Build the network that a description names, with fresh weights.

    Raises:
        UserError: no such network or option, or the widths do not fit it.
    """
    network = build(description.model, description.scale, **description.options)
    if description.architecture is None:
        return network
    return Architecture.from_json(description.architecture, "the checkpoint's widths").build(network)


def load_network(path: str | Path, scale: int | None = None) -> tuple[nn.Module, Description]:
    """Build a checkpoint's network and load its weights; it comes in evaluation mode, on the CPU.

    Args:
        path: a file that `save_network` wrote.
        scale: the scale that is wanted; None takes the checkpoint's.

    Raises:
        MissingData: there is no such file.
        UserError: the file is broken or not of this kind, or it is for another scale.
    """
    description = read_description(path)
    if scale is not None and scale != description.scale:
        raise UserError(
            f"checkpoint '{path}' enlarges by {description.scale}, not by {scale}; leave --scale out, "
            f"or name a checkpoint that was trained with --scale {scale}."
        )
    network = build_network(description)
    load_weights(network, path)
    return network.eval(), description
