"""Checkpoints that say what they are: weights, and a header with what is needed to build their network.

Each is one safetensors file. Under a key that names the task, its metadata hold JSON with the fields of that task's
description, a dataclass of plain values: the network's name and options, the content of a widths file (or null for the
network's own widths), size and normalisation of its inputs, and whatever else is needed to use it. The entry "origin"
says how it was made, for readers only. Nothing that a file names is ever run or imported. `python -m core.inspect`
prints all entries. Exported programs carry the same ones, and "program": inputs and outputs (`core.export.exported`).
"""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from core.errors import UserError, one_line
from core.storage.checkpoint import (
    CHECKSUM,
    LIBRARY,
    load_weights,
    read_metadata,
    read_shapes,
    read_verified,
    release,
    require_file,
    save_weights,
)
from core.storage.files import json_text
from core.storage.kinds import is_safetensors
from core.storage.limits import network_of_a_file

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)

_ORIGIN, _PROGRAM = "origin", "program"
_OF_THE_FILE = ("format", "skeleton", LIBRARY, CHECKSUM)  # entries that are made anew for every file


# What torch raises if sizes are beyond reason.
_IMPOSSIBLE = (RuntimeError, MemoryError, OverflowError, TypeError)


@dataclass(frozen=True)
class Origin:
    """How a network was made, for readers: no program uses it.

    Attributes:
        dataset: what it was trained on.
        method: how its widths were found; "baseline" for the regular network.
        seed: of the training.
        recipe: the training, sections of a protocol as plain data.
        notes: sentences about departures from the recipe, such as a lowered learning rate.
    """

    dataset: str
    method: str
    seed: int
    recipe: Mapping[str, Any]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contents:
    """What a trained network's file says of itself.

    Attributes:
        task: key of the task; "" where nothing describes the network.
        description: fields of the task's description.
        origin: fields of `Origin`; empty in files of older releases and of converted weights.
        library: the release that wrote it; "" if the file does not say.
        checked: whether a checksum was there (and fits).
        tensors: number of tensors.
        values: number of values in them, parameters and buffers.
        program: inputs and outputs of an exported program: names of tensors -> sentences; empty in checkpoints.
    """

    task: str
    description: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, Any] = field(default_factory=dict)
    library: str = ""
    checked: bool = False
    tensors: int = 0
    values: int = 0
    program: dict[str, Any] = field(default_factory=dict)


def save_described(
    path: str | Path, network: nn.Module, key: str, description: Any, origin: Origin | None = None
) -> None:
    """Write a network's weights and description as one file, atomically.

    Args:
        path: the file, by custom `*.safetensors`.
        network: the network that the description builds, trained.
        key: of the task, under which the description lies.
        description: a dataclass whose values JSON can hold.
        origin: how the network was made, if that is known.
    """
    save_weights(network, path, header_of(key, description, origin))


def header_of(key: str, description: Any, origin: Origin | None = None) -> dict[str, str]:
    """The entries of the header of a file that describes itself; arguments as in `save_described`."""
    header = {key: json_text(dataclasses.asdict(description))}
    if origin is not None:
        header[_ORIGIN] = json_text(dataclasses.asdict(origin))
    return header


def read_contents(path: str | Path) -> Contents:
    """What any safetensors file says of itself; verifies its checksum.

    Raises:
        MissingData: there is no such file.
        UserError: the file is truncated, damaged or no safetensors file.
    """
    metadata, tensors = read_verified(path)
    return contents_of(metadata, {name: tuple(tensor.shape) for name, tensor in tensors.items()})


def contents_of(
    metadata: Mapping[str, str], shapes: Mapping[str, Sequence[int]], checked: bool | None = None
) -> Contents:
    """`read_contents` for a header that is in memory.

    Args:
        metadata: the header.
        shapes: of the tensors.
        checked: whether a checksum fits; None if the header itself holds one.
    """
    described = {
        key: _object(text) for key, text in descriptive(metadata).items() if key not in (_ORIGIN, _PROGRAM)
    }
    task = next((key for key, fields in described.items() if fields is not None), "")
    return Contents(
        task,
        described.get(task) or {},
        _object(metadata.get(_ORIGIN, "")) or {},
        metadata.get(LIBRARY, ""),
        CHECKSUM in metadata if checked is None else checked,
        len(shapes),
        sum(map(math.prod, shapes.values())),
        _object(metadata.get(_PROGRAM, "")) or {},
    )


def header_of_program(metadata: Mapping[str, str], about: Mapping[str, str]) -> dict[str, str]:
    """The entries of an exported program that say what it is.

    Args:
        metadata: the header of the checkpoint that it comes from.
        about: its inputs and outputs: names of tensors -> sentences.
    """
    return {**descriptive(metadata), **release(), _PROGRAM: json_text(dict(about))}


def descriptive(metadata: Mapping[str, str]) -> dict[str, str]:
    """The entries of a header that say what the network is and how it was made; copies keep these."""
    return {key: text for key, text in metadata.items() if key not in _OF_THE_FILE}


def read_origin(path: str | Path) -> dict[str, Any]:
    """The fields of a checkpoint's `Origin`, without its weights; empty if it has none.

    Raises:
        MissingData: there is no such file.
        UserError: the file is truncated, damaged or no safetensors file.
    """
    return _object(read_metadata(path).get(_ORIGIN, "")) or {}


def read_described(path: str | Path, key: str, decode: Callable[[dict[str, Any]], T], writers: str) -> T:
    """Read a checkpoint's description without its weights.

    Args:
        path: a file that `save_described` wrote.
        key: of the task.
        decode: makes the task's dataclass from the fields; raises ValueError (UserError) if they do not fit.
        writers: the commands that write such files, for the message.

    Raises:
        MissingData: there is no such file.
        UserError: the file is broken, of another task, or describes nothing.
    """
    fields = _object(read_metadata(path).get(key, ""))
    problem: ValueError | None = None
    if fields is not None:
        try:
            return decode(fields)
        except ValueError as error:
            problem = error
    why = f" ({problem})" if problem else ""
    raise UserError(
        f"checkpoint '{path}' does not say which network of {key} it is for{why}: use one that {writers} has written"
    ) from problem


def load_described(
    path: str | Path, build: Callable[[], M], load: Callable[[M, str | Path], object] = load_weights
) -> M:
    """Build the network that a checkpoint describes and load its weights; the network is in evaluation mode.

    A warning names a safetensors file without a checksum (of an older release): damage to it would not be noticed.

    Args:
        path: of the checkpoint.
        build: makes the network from the description.
        load: reads the weights into it.

    Raises:
        UserError: `build` raises one (the message then names the file); the network cannot be made, or is much larger
            than the content of the file; or the weights do not fit, see `load_weights`.
    """
    require_file(path)
    described = Path(path).suffix == ".safetensors" or is_safetensors(path)
    bound: AbstractContextManager[None] = nullcontext()
    if described:
        shapes = read_shapes(path).values()
        bound = network_of_a_file(len(shapes), sum(map(math.prod, shapes)))
    try:
        with bound:
            network = build()
    except UserError as error:
        raise UserError(f"'{path}': {error}") from error
    except _IMPOSSIBLE as error:
        reason = one_line(error) or type(error).__name__
        raise UserError(f"'{path}': the network that it describes cannot be built: {reason}") from error
    load(network, path)
    if described and CHECKSUM not in read_metadata(path):
        warnings.warn(f"'{path}' has no checksum: damaged weights would not be noticed", stacklevel=3)
    return network.eval()


def _object(text: str) -> dict[str, Any] | None:
    """The JSON object in an entry of a header; None if it holds anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
