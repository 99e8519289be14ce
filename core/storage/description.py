"""Checkpoints that say what they are: weights, and in the file's header what it takes to build their network.

One safetensors file. Under a key that names the task its metadata hold JSON with the fields of that task's description,
a dataclass of plain values: the network's name and options, the content of a widths file (or null for the network's own
widths), and whatever else its use needs. Nothing that a description names is ever run or imported.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from core.errors import UserError
from core.storage.checkpoint import load_weights, read_metadata, save_weights
from core.storage.files import json_text

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)


def save_described(path: str | Path, network: nn.Module, key: str, description: Any) -> None:
    """Write a network's weights and description as one file, atomically.

    Args:
        path: the file, by custom `*.safetensors`.
        network: what the description builds, trained.
        key: of the task, under which the description lies.
        description: a dataclass whose values JSON can hold.
    """
    save_weights(network, path, {key: json_text(dataclasses.asdict(description))})


def read_described(
    path: str | Path,
    key: str,
    schema: type[T],
    writers: str,
    decode: Mapping[str, Callable[[Any], Any]] | None = None,
) -> T:
    """Read a checkpoint's description without its weights.

    Args:
        path: a file that `save_described` wrote.
        key: of the task.
        schema: the dataclass; fields that have a default may be missing in an older file.
        writers: the commands that write such files, for the message.
        decode: by field, what makes its value of the JSON value where the two differ.

    Raises:
        MissingData: there is no such file.
        UserError: it is broken, of another task, or describes nothing.
    """
    fields: dict[str, Any] = {field.name: field for field in dataclasses.fields(schema)}  # type: ignore[arg-type]
    needed = {
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    metadata = read_metadata(path)
    problem = None
    try:
        content = json.loads(metadata.get(key, "null"))
        if isinstance(content, dict) and needed <= content.keys() <= fields.keys():
            return schema(
                **{name: (decode or {}).get(name, _as_is)(value) for name, value in content.items()}
            )
    except (ValueError, AttributeError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        problem = error
    raise UserError(
        f"checkpoint '{path}' does not say which network of {key} it is for: use one that {writers} has written"
    ) from problem


def load_described(
    path: str | Path, build: Callable[[], M], load: Callable[[M, str | Path], object] = load_weights
) -> M:
    """Build the network that a checkpoint describes and load its weights; it comes in evaluation mode.

    Args:
        path: of the checkpoint.
        build: makes the network from the description.
        load: reads the weights into it.

    Raises:
        UserError: `build` raises one, which then names the file; or the weights do not fit, see `load_weights`.
    """
    try:
        network = build()
    except UserError as error:
        raise UserError(f"'{path}': {error}") from error
    load(network, path)
    return network.eval()


def _as_is(value: Any) -> Any:
    return value
