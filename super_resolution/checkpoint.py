"""Super-resolution checkpoints that say what they are (`core.storage.description`, key "super_resolution")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from core.command_line.factories import is_factory, trusted_model
from core.errors import UserError
from core.storage.description import Origin, load_described, read_described, save_described
from core.storage.files import from_words
from core.storage.schema import lower
from core.surgery.architecture import Architecture
from super_resolution.models import build
from super_resolution.models.own import check_own_network

KEY = "super_resolution"


@dataclass(frozen=True)
class Description:
    """Everything that is needed to build a checkpoint's network.

    Attributes:
        model: the network's name, as for `super_resolution.models.build`, or a factory of the user's own, which is
            never imported just because a file names it.
        scale: its up-sampling factor.
        options: its further options.
        architecture: the content of a widths file (`core.Architecture.to_json`), None for the network's own
            widths.
        input_shape: channels, height and width, None for any; a network of the user's own may take grey images alone.
        mean: per channel, in pixel values: inputs are (pixel - mean) / std. All networks here take [0, 1]; anything
            else that they subtract is part of them.
        std: the same.
    """

    model: str
    scale: int
    options: Mapping[str, Any]
    architecture: Mapping[str, Any] | None = None
    input_shape: tuple[int | None, ...] = (3, None, None)
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (255.0, 255.0, 255.0)


def describe(
    model: str,
    scale: int,
    options: Mapping[str, Any],
    channels: int,
    architecture: Architecture | None = None,
) -> Description:
    """The description of a network for images of `channels` channels."""
    return Description(
        model,
        scale,
        dict(options),
        None if architecture is None else architecture.to_json(),
        (channels, None, None),
        (0.0,) * channels,
        (255.0,) * channels,
    )


def save_network(
    path: str | Path, network: nn.Module, description: Description, origin: Origin | None = None
) -> None:
    """Write a network's weights and description as one file, atomically.

    Args:
        path: the file, by custom `*.safetensors`.
        network: what `build_network(description)` builds, trained.
        description: see `Description`; its values must be plain JSON.
        origin: how the network was made, if that is known.
    """
    save_described(path, network, KEY, description, origin)


def read_description(path: str | Path) -> Description:
    """Read a checkpoint's description without its weights.

    Raises:
        MissingData: there is no such file.
        UserError: it is broken, or was not written by `save_network`.
    """
    writers = "super_resolution.run, super_resolution.convert or super_resolution.checkpoint.save_network"
    return read_described(path, KEY, lambda fields: lower(from_words(fields), Description), writers)


def build_network(description: Description, model: str | None = None) -> nn.Module:
    """Build the network that a description names; its weights have still to be loaded.

    Args:
        description: see `Description`.
        model: for a network of the user's own, its factory, which the user names again: its code is run.

    Raises:
        UserError: no such network or option, the widths do not fit it, or it is a network of the user's own and `model`
            is not given.
    """
    chosen = trusted_model("the checkpoint", description.model, model, "--model")
    network = build(chosen, description.scale, **description.options)
    if is_factory(chosen):
        check_own_network(network, chosen, description.scale)
    if description.architecture is None:
        return network
    return Architecture.from_json(description.architecture, "the checkpoint's widths").reshape(network)


def load_network(
    path: str | Path, scale: int | None = None, model: str | None = None
) -> tuple[nn.Module, Description]:
    """Build a checkpoint's network and load its weights; it comes in evaluation mode, on the CPU.

    Args:
        path: a file that `save_network` wrote.
        scale: the wanted scale; None takes the checkpoint's.
        model: see `build_network`.

    Raises:
        MissingData: there is no such file.
        UserError: the file is broken or not of this kind, it is for another scale, or see `build_network`.
    """
    description = read_description(path)
    if scale is not None and scale != description.scale:
        raise UserError(
            f"checkpoint '{path}' enlarges by {description.scale}, not by {scale}; leave --scale out, "
            f"or name a checkpoint that was trained with --scale {scale}."
        )
    return load_described(path, lambda: build_network(description, model)), description
