"""Classifiers' checkpoints that say what they are (`core.storage.description`, key "classification")."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from classification.models import build
from classification.models.datasets import form_for
from core.command_line.factories import call_factory, is_factory, trusted_model
from core.errors import UserError
from core.storage.description import Origin, load_described, read_described, save_described
from core.storage.schema import lower
from core.surgery.architecture import Architecture

KEY = "classification"
LARGEST_INPUT = 2**24  # numbers: photographs of 2,300 pixels a side, which no classifier takes


@dataclass(frozen=True)
class Description:
    """Everything that is needed to build a checkpoint's network and to use it.

    Attributes:
        model: a name of `classification.models`, or a factory of the user's own, which is never imported just because a
            file names it.
        dataset: what it was trained on, a name of `classification.data.DATASETS` or the title of a folder of images.
        classes: names in the order of the outputs.
        input_shape: channels, height and width.
        mean: per channel, in pixel values: inputs are (pixel - mean) / std.
        std: the same.
        architecture: the content of a widths file (`core.Architecture.to_json`), removed blocks included; None for the
            network's own widths.
        view: how an image file is brought to the input's size, see `classification.inputs`: "crop", "photograph" or
            "fit"; None in older files, where it follows from the data set.
        white: the pixel value of white, 255 or, for digits, 16; None in older files, likewise.
        downsample: images were averaged over squares of so many pixels a side.
        form: see `classification.config.RunConfig`.
    """

    model: str
    dataset: str
    classes: tuple[str, ...]
    input_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    architecture: Mapping[str, Any] | None = None
    view: str | None = None
    white: int | None = None
    downsample: int = 1
    form: str | None = None


def save_network(
    path: str | Path, network: nn.Module, description: Description, origin: Origin | None = None
) -> None:
    """Write weights and description as one file, atomically; `network` is what `build_network(description)` builds."""
    save_described(path, network, KEY, description, origin)


def read_description(path: str | Path) -> Description:
    """Read a checkpoint's description without its weights.

    Raises:
        MissingData: there is no such file.
        UserError: it is broken, or was not written by `save_network`.
    """
    return read_described(path, KEY, _decode, "classification.run")


def _decode(fields: dict[str, Any]) -> Description:
    description = lower(fields, Description)
    shape, factor = description.input_shape, description.downsample
    if len(shape) != 3 or min(*shape, factor) < 1:
        raise UserError(
            f"input_shape {shape} with downsample {factor}: expected three sizes and a factor, all at least 1"
        )
    if math.prod(shape) * factor**2 > LARGEST_INPUT:
        raise UserError(
            f"inputs of shape {shape}, averaged over squares of {factor}, are larger than {LARGEST_INPUT:,} numbers"
        )
    means, deviations, white = description.mean, description.std, description.white
    if not (
        len(means) == len(deviations) == shape[0]
        and all(map(math.isfinite, (*means, *deviations)))
        and min(deviations) > 0
        and (white is None or 1 <= white <= 255)
    ):
        raise UserError(
            f"inputs of {shape[0]} channels with means {means}, deviations {deviations} and white at {white} are none"
        )
    return description


def build_network(description: Description, model: str | None = None) -> nn.Module:
    """Build the network that a description names; its weights have still to be loaded.

    Args:
        description: see `Description`.
        model: for a network of the user's own, its factory, which the user names again: its code is run.

    Raises:
        UserError: no such network, the widths do not fit it, or it is a network of the user's own and `model` is not
            given.
    """
    chosen = trusted_model("the checkpoint", description.model, model, "--model")
    if is_factory(chosen):
        network = call_factory(chosen)
    else:
        form = description.form or form_for(description.dataset, description.input_shape)
        network = build(chosen, len(description.classes), dataset=form)
    if description.architecture is None:
        return network
    return Architecture.from_json(description.architecture, "the checkpoint's widths").reshape(network)


def load_network(path: str | Path, model: str | None = None) -> tuple[nn.Module, Description]:
    """Build a checkpoint's network and load its weights; it comes in evaluation mode, on the CPU.

    Args:
        path: a file that `save_network` wrote.
        model: see `build_network`.

    Raises:
        MissingData: there is no such file.
        UserError: the file is broken or not of this kind, or see `build_network`.
    """
    description = read_description(path)
    return load_described(path, lambda: build_network(description, model)), description
