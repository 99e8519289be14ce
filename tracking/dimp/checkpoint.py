"""Checkpoints of trackers: our own, which describe themselves, and the published `dimp50.pth`, read as data alone.

Ours (`core.storage.description`) hold the fields of `Description` under the key "dimp". The published ones are pickles
that name classes of their training code. Each of these is replaced by an empty class, and `torch.load` reads the file
with `weights_only=True`: nothing in it is run, and that code is not needed.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor, nn

from core.command_line.factories import trusted_model
from core.errors import UserError
from core.storage.checkpoint import load_weights, read_torch
from core.storage.description import Origin, load_described, read_described, save_described
from core.storage.files import from_words
from core.storage.schema import lower
from core.storage.weights import fit_weights
from core.surgery.architecture import Architecture
from tracking.dimp.backbones import UNUSED, backbone_trunk
from tracking.dimp.crops import MEAN, STD
from tracking.dimp.net import DiMPConfig, DiMPNet

KEY = "dimp"
# Packages of the published training code, in 2019 and later. Classes of any other package are refused.
FOREIGN_PACKAGES = ("ltr.", "dlframework.", "pytracking.")
_LEGACY_PICKLES = 5  # magic number, protocol, system, the object, names of storages


@dataclass(frozen=True)
class Description:
    """Everything that is needed to build a checkpoint's network and to track with it.

    Attributes:
        backbone: see `tracking.dimp.backbones.make_backbone`; a factory of the user's own is never imported just
            because a file names it.
        architecture: the content of a widths file of that backbone; None for the regular one.
        config: sizes of the heads.
        settings: entries of the tracker's settings in which it differs from DiMP-50's, such as the size of its crops.
        input_shape: channels, height and width of the backbone's input, None for any: `settings` gives the side of
            crops.
        mean: per channel, in pixel values: inputs are (pixel - mean) / std.
        std: the same.
    """

    backbone: str = "resnet50"
    architecture: Mapping[str, Any] | None = None
    config: DiMPConfig = field(default_factory=DiMPConfig)
    settings: Mapping[str, Any] = field(default_factory=dict)
    input_shape: tuple[int | None, ...] = (3, None, None)
    mean: tuple[float, ...] = tuple(255 * value for value in MEAN)
    std: tuple[float, ...] = tuple(255 * value for value in STD)

    def build(self, backbone: str | None = None) -> DiMPNet:
        """The network, freshly initialised.

        Args:
            backbone: for a backbone of the user's own, its factory, which the user names again: its code is run.

        Raises:
            UserError: an unknown backbone, widths that do not fit it, or a backbone of the user's own without
                `backbone`.
        """
        widths = None
        if self.architecture is not None:
            widths = Architecture.from_json(self.architecture, "the checkpoint's widths")
        chosen = trusted_model("the checkpoint", self.backbone, backbone, "--backbone")
        return DiMPNet(backbone_trunk(chosen, widths), self.config)


# The published networks were trained and are run with box centres half a crop pixel off (see `TrackerSettings`).
PUBLISHED = Description(settings={"legacy_coordinates": True})


def save_network(
    path: str | Path, network: DiMPNet, description: Description, origin: Origin | None = None
) -> None:
    """Write weights and description as one file, atomically.

    Args:
        path: the file, by custom `*.safetensors`.
        network: what `description.build()` builds, trained.
        description: see `Description`.
        origin: how the network was made, if that is known.
    """
    save_described(path, network, KEY, description, origin)


def read_description(path: str | Path) -> Description:
    """Read a checkpoint's description without its weights.

    Raises:
        MissingData: there is no such file.
        UserError: it is broken, or was not written by `save_network`.
    """
    writers = "tracking.train, tracking.run or tracking.convert"
    return read_described(path, KEY, lambda fields: lower(from_words(fields), Description), writers)


def load_network(path: str | Path, backbone: str | None = None) -> tuple[DiMPNet, Description]:
    """Build a checkpoint's network and load its weights; it comes in evaluation mode, on the CPU.

    Args:
        path: a file that `save_network` wrote, or a published `dimp50.pth`.
        backbone: see `Description.build`.

    Raises:
        MissingData: there is no such file.
        UserError: the file is broken, of another kind, or would run code; or see `Description.build`.
    """
    path = Path(path)
    ours = path.suffix == ".safetensors"
    description = read_description(path) if ours else PUBLISHED
    load = load_weights if ours else _load_published
    return load_described(path, lambda: description.build(backbone), load), description


def _load_published(network: nn.Module, path: str | Path) -> None:
    fit_weights(network, read_published(path), path)


def read_published(path: str | Path) -> dict[str, Tensor]:
    """The weights in a published checkpoint, without the parts of the backbone that the tracker leaves out.

    Raises:
        MissingData: there is no such file.
        UserError: it is broken, holds no tracker, or names classes of other packages than the published code's.
    """
    path = Path(path)

    def stand_ins() -> list[tuple[type, str]]:
        names = {name for name in pickled_classes(path) if name.startswith(FOREIGN_PACKAGES)}
        return [(_inert(name), name) for name in sorted(names)]

    content = read_torch(path, stand_ins)
    weights = content.get("net") if isinstance(content, Mapping) else None
    if not isinstance(weights, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    ):
        raise UserError(f"'{path}' is no published tracker: it has no weights under 'net'")
    unused = tuple(f"feature_extractor.{name}" for name in UNUSED)
    return {name: value for name, value in weights.items() if not name.startswith(unused)}


def pickled_classes(path: Path) -> set[str]:
    """Every class or function that a torch checkpoint names, as `module.name`; nothing is loaded.

    Raises:
        ValueError: it holds no pickle.
    """
    with path.open("rb") as file:
        return {
            str(argument).replace(" ", ".")
            for stream in _pickles(file)
            for opcode, argument, _ in pickletools.genops(stream)
            if opcode.name == "GLOBAL"
        }


def _pickles(file: BinaryIO) -> Iterator[BinaryIO]:
    """The pickles of a checkpoint: one in a zip archive; several in sequence in files from before 2020."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                if entry.filename.rpartition("/")[2] != "data.pkl":
                    continue
                if entry.compress_type != zipfile.ZIP_STORED:  # torch compresses nothing; a zip bomb would
                    raise ValueError("its archive is compressed")
                yield BytesIO(archive.read(entry))
        return
    file.seek(0)
    for _ in range(_LEGACY_PICKLES):
        yield file  # each is read to its end before the next is requested


def _inert(name: str) -> type:
    """An empty class that stands in for `name`; it takes whatever state a pickle gives it, and does nothing."""

    def take(self: object, *arguments: object, **options: object) -> None:
        """Nothing."""

    return type(name.rpartition(".")[2], (), {"__init__": take, "__setstate__": take})
