"""The network of one of BasicSR's option files: what is not in a checkpoint of its training.

BasicSR keeps its network's constants (`res_scale`, `img_range`, `rgb_mean`) out of the checkpoint, and copies the
option file beside it: `experiments/NAME/x.yml`, `experiments/NAME/models/net_g_latest.pth`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.command_line.config_files import read_values
from core.errors import MissingData, UserError, check_known
from super_resolution.models.edsr import DIV2K_MEAN

_MODELS = {"EDSR": "edsr", "MSRResNet": "msrresnet"}
_SIZES = {
    "num_in_ch": 3,
    "num_out_ch": 3,
    "num_feat": 64,
    "num_block": 16,
    "upscale": 4,
}  # BasicSR's own defaults
_CONSTANTS = ("res_scale", "img_range", "rgb_mean")


@dataclass(frozen=True)
class Constants:
    """Constants of an EDSR's training that are not in its weights; None for unknown ones.

    Attributes:
        res_scale: the factor of each block's convolved branch.
        image_range: the inner range of images; BasicSR's `img_range`, EDSR-PyTorch's `rgb_range`.
        mean: the mean colour, in [0, 1]; BasicSR's `rgb_mean`.

    Raises:
        UserError: a value that no training can have.
    """

    res_scale: float | None = None
    image_range: float | None = None
    mean: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.image_range is not None and not self.image_range > 0:
            raise UserError(f"the range of images is {self.image_range}: it is above 0, as a rule 1 or 255")
        if self.mean is not None and (len(self.mean) != 3 or not all(0 <= value <= 1 for value in self.mean)):
            raise UserError(f"the mean colour is {self.mean}: it has three values between 0 and 1")

    def over(self, other: Constants) -> Constants:
        """These constants, with those of `other` in place of unknown ones."""
        return Constants(
            other.res_scale if self.res_scale is None else self.res_scale,
            other.image_range if self.image_range is None else self.image_range,
            other.mean if self.mean is None else self.mean,
        )


@dataclass(frozen=True)
class NetworkOptions:
    """The section `network_g` of an option file.

    Attributes:
        model: the name in `super_resolution.models.MODELS`.
        scale: its up-sampling factor.
        n_blocks: residual blocks.
        n_feats: channels; for a network with found widths, the baseline's.
        constants: all known for EDSR, none for MSRResNet, which has none.
        widths: the widths file of a network that was trained with found widths (`lwdna.runners.basicsr`).
    """

    model: str
    scale: int
    n_blocks: int
    n_feats: int
    constants: Constants
    widths: Path | None = None


def read_options(path: Path) -> NetworkOptions:
    """Read an option file as data.

    Raises:
        MissingData: there is no such file, or the widths file that it names is not there.
        UserError: it is no option file, or its network is neither EDSR nor MSRResNet.
    """
    content = read_values(path, "option file")
    section = content.get("network_g") if isinstance(content, Mapping) else None
    if not isinstance(section, Mapping):
        raise UserError(f"'{path}' has no section network_g: it is no option file of BasicSR")
    options = dict(section)
    widths = None
    if options.get("type") == "LWDNANet":
        widths = options.get("widths")
        options = dict(options["base"]) if isinstance(options.get("base"), Mapping) else {}
    kind = options.pop("type", None)
    if kind not in _MODELS:
        raise UserError(f"'{path}': its network_g is '{kind}'; {' and '.join(_MODELS)} can be converted")
    known = [*_SIZES, *(_CONSTANTS if kind == "EDSR" else ())]
    check_known(f"'{path}': {kind} of network_g has no option", map(str, options), known)
    sizes = {name: options.get(name, default) for name, default in _SIZES.items()}
    strange = [f"{name}: {value!r}" for name, value in sizes.items() if type(value) is not int]
    strange += [f"{name}: {sizes[name]}" for name in ("num_in_ch", "num_out_ch") if sizes[name] != 3]
    if strange:
        raise UserError(
            f"'{path}': {', '.join(strange)} of network_g: expected whole numbers, and 3 channels"
        )
    return NetworkOptions(
        _MODELS[kind], sizes["upscale"], sizes["num_block"], sizes["num_feat"],
        _constants(path, options) if kind == "EDSR" else Constants(),
        None if widths is None else _widths_file(path, str(widths)),
    )  # fmt: skip


def options_beside(checkpoint: Path) -> Path | None:
    """The option file that BasicSR copied beside a checkpoint; None if there is none.

    Raises:
        UserError: there are several, of different networks.
    """
    if checkpoint.parent.name != "models":
        return None
    files = sorted(checkpoint.parent.parent.glob("*.yml"))
    if len({read_options(file) for file in files}) > 1:
        raise UserError(
            f"'{checkpoint}' has several option files beside it, of different networks "
            f"({', '.join(file.name for file in files)}): name one with --opt"
        )
    return files[0] if files else None


def _constants(path: Path, options: Mapping[str, Any]) -> Constants:
    """The file's constants, else BasicSR's own defaults: `res_scale` is 1 there whatever the width."""
    try:
        mean = tuple(float(value) for value in options.get("rgb_mean", DIV2K_MEAN))
        return Constants(float(options.get("res_scale", 1)), float(options.get("img_range", 255)), mean)
    except (TypeError, ValueError) as error:
        raise UserError(f"'{path}': res_scale, img_range or rgb_mean of network_g: {error}") from error


def _widths_file(path: Path, named: str) -> Path:
    """The widths file; a relative path refers to the folder of the training's start, which is not recorded."""
    for place in (Path(named), path.parent / named):
        if place.is_file():
            return place
    raise MissingData(
        f"'{path}' names the widths file '{named}', which is neither here nor beside it: start in the folder in which "
        f"the training was started"
    )
