"""Others' checkpoints of EDSR and MSRResNet as weights of the networks here: BasicSR's and EDSR-PyTorch's."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import UserError
from core.storage.weights import find_weights
from core.surgery.architecture import Architecture
from super_resolution.models import build
from super_resolution.models.basicsr_options import Constants, NetworkOptions
from super_resolution.models.edsr import DIV2K_MEAN

# Present in our EDSR alone: BasicSR adds the mean colour without a layer.
OURS_ALONE = ("sub_mean.", "add_mean.")
# EDSR-PyTorch's names (Lim et al.'s own code), layer by layer.
_EDSR_PYTORCH = (
    (re.compile(r"head\.0\.(\w+)"), r"conv_first.\1"),
    (re.compile(r"body\.(\d+)\.body\.0\.(\w+)"), r"body.\1.conv1.\2"),
    (re.compile(r"body\.(\d+)\.body\.2\.(\w+)"), r"body.\1.conv2.\2"),
    (re.compile(r"body\.\d+\.(weight|bias)"), r"conv_after_body.\1"),
    (re.compile(r"tail\.0\.(\d+)\.(\w+)"), r"upsample.\1.\2"),
    (re.compile(r"tail\.1\.(\w+)"), r"conv_last.\1"),
)


@dataclass(frozen=True)
class Converted:
    """Weights that fit `build(model, scale, **options)`, at the widths of `architecture`, strictly.

    Attributes:
        model: `"edsr"` or `"msrresnet"`.
        scale: 2, 3 or 4.
        options: sizes, and EDSR's `res_scale`; its range and mean colour if they are not BasicSR's defaults.
        weights: the state dict.
        assumed: EDSR's constants that neither the weights nor the caller gave, with their values.
        architecture: found widths; None for the network's own.
    """

    model: str
    scale: int
    options: dict[str, Any]
    weights: dict[str, Tensor]
    assumed: tuple[str, ...] = ()
    architecture: Architecture | None = None

    def build(self) -> nn.Module:
        """The network with these weights, in evaluation mode."""
        network = _build(self.model, self.scale, self.options, self.architecture)
        network.load_state_dict(self.weights)
        return network.eval()


def convert_weights(
    checkpoint: Mapping[str, Any],
    constants: Constants = Constants(),  # noqa: B008  # frozen
    trained: NetworkOptions | None = None,
) -> Converted:
    """Find out which network a checkpoint belongs to, and name its weights as that network does.

    Args:
        checkpoint: what `core.storage.checkpoint.read_weights(path)` or `torch.load(path, weights_only=True)` gives:
            weights by name, alone or under `"params_ema"` (preferred) or `"params"`; BasicSR's or EDSR-PyTorch's.
        constants: values that are not in the weights. The default is `trained`'s; else a `res_scale` of 0.1 for 256
            channels and 1 for others, the range 255 and DIV2K's mean colour, as in all published checkpoints of both.
            EDSR-PyTorch's weights hold the product of range and mean colour.
        trained: the options that BasicSR trained it with; without them sizes are read off the weights.

    Raises:
        UserError: names without a counterpart, or tensors of another shape; all are listed. Constants for MSRResNet,
            which has none, or that contradict the weights.
    """
    weights = find_weights(checkpoint, "checkpoint")
    whose = "BasicSR"
    if "head.0.weight" in weights:
        whose = "EDSR-PyTorch"
        if trained is not None:
            raise UserError("an option file is BasicSR's, but the checkpoint has EDSR-PyTorch's names")
        weights, constants = _from_edsr_pytorch(weights, constants)
    found = _sizes(weights) if trained is None else trained
    options: dict[str, Any] = {"n_blocks": found.n_blocks, "n_feats": found.n_feats}
    assumed: tuple[str, ...] = ()
    if found.model == "edsr":
        options, assumed = _edsr_options(options, constants.over(found.constants))
    elif constants != Constants():
        raise UserError(
            "the checkpoint is MSRResNet's, which has no res_scale, range or mean colour: leave them out"
        )
    architecture = None if found.widths is None else Architecture.load(found.widths)
    own = _build(found.model, found.scale, options, architecture).state_dict()
    what = f"{whose} checkpoint, read as {found.model} x{found.scale}"
    _check_partners(
        what if architecture is None else f"{what} at the widths of '{found.widths}'", own, weights
    )
    named = {name: weights.get(name, tensor) for name, tensor in own.items()}
    return Converted(found.model, found.scale, options, named, assumed, architecture)


def _build(
    model: str, scale: int, options: Mapping[str, Any], architecture: Architecture | None
) -> nn.Module:
    network = build(model, scale, **options)
    return network if architecture is None else architecture.reshape(network)


def _edsr_options(options: dict[str, Any], constants: Constants) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Sizes and constants as options of `build`, and which constants are assumed."""
    usual = Constants(0.1 if options["n_feats"] == 256 else 1.0, 255.0, DIV2K_MEAN)
    full = constants.over(usual)
    assert full.mean is not None
    options = {**options, "res_scale": full.res_scale}
    if full.image_range != usual.image_range:
        options["image_range"] = full.image_range
    if full.mean != usual.mean:
        options["mean"] = list(full.mean)
    texts = {
        "res_scale": f"res_scale={full.res_scale}",
        "image_range": f"img_range={full.image_range:g}",
        "mean": f"rgb_mean={','.join(map(str, full.mean))}",
    }
    return options, tuple(text for name, text in texts.items() if getattr(constants, name) is None)


def _sizes(weights: Mapping[str, Tensor]) -> NetworkOptions:
    """Network, scale and sizes, read off weights under BasicSR's names."""
    first = weights.get("conv_first.weight")
    if first is None or first.dim() != 4 or 0 in first.shape:
        raise UserError(
            "the checkpoint is not BasicSR's EDSR or MSRResNet: it has no convolution 'conv_first.weight'; nor "
            f"EDSR-PyTorch's, with 'head.0.weight'; its tensors are {', '.join(sorted(weights)[:5]) or 'none'}."
        )
    n_feats = first.shape[0]
    model = "msrresnet" if "conv_hr.weight" in weights else "edsr"
    blocks = {match[1] for name in weights if (match := re.match(r"body\.(\d+)\.", name))}
    return NetworkOptions(model, _scale(model, weights, n_feats), len(blocks), n_feats, Constants())


def _scale(model: str, weights: Mapping[str, Tensor], n_feats: int) -> int:
    """The scale, from the channels of the first upsampling convolution; a second one doubles it."""
    first, second = ("upsample.0", "upsample.2") if model == "edsr" else ("upconv1", "upconv2")
    if f"{first}.weight" not in weights:
        raise UserError(f"the checkpoint is not BasicSR's {model}: it has no '{first}.weight'.")
    factor = math.isqrt(weights[f"{first}.weight"].shape[0] // n_feats)
    return 2 * factor if f"{second}.weight" in weights else factor


def _from_edsr_pytorch(
    weights: Mapping[str, Tensor], constants: Constants
) -> tuple[dict[str, Tensor], Constants]:
    """EDSR-PyTorch's weights under BasicSR's names, and its two shifts: the product of range and mean colour.

    Its `sub_mean` and `add_mean` are 1x1 convolutions: an identity, and minus or plus range times mean colour.
    """
    named: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if not name.startswith(OURS_ALONE):
            new = next((rule.sub(to, name) for rule, to in _EDSR_PYTORCH if rule.fullmatch(name)), name)
            named[new] = tensor
    shifts = [weights.get(f"{layer}{kind}") for layer in OURS_ALONE for kind in ("weight", "bias")]
    given = [shift for shift in shifts if shift is not None]
    if not given:
        return named, constants
    if [tuple(shift.shape) for shift in given] != [(3, 3, 1, 1), (3,)] * 2 or not (
        all(torch.equal(given[index][:, :, 0, 0], torch.eye(3)) for index in (0, 2))
        and torch.equal(given[1], -given[3])
    ):
        raise UserError("the checkpoint's sub_mean and add_mean are not those of EDSR-PyTorch's EDSR")
    return named, _with_shift(constants, given[3].double())


def _with_shift(constants: Constants, shift: Tensor) -> Constants:
    """Range and mean colour whose product is `shift`, (3,): with DIV2K's colour if neither is given."""
    colour = torch.tensor(constants.mean or DIV2K_MEAN, dtype=torch.float64)
    image_range = constants.image_range
    if image_range is None:
        image_range = round(float(shift.sum() / colour.sum()), 4)
    fits = torch.allclose(shift, image_range * colour, rtol=1e-4, atol=1e-6) and image_range > 0
    if not fits and (constants.mean is not None or constants.image_range is None):
        given = "those that were given" if constants.mean else "DIV2K's colour at any range: give --img-range"
        raise UserError(
            f"the checkpoint adds {', '.join(f'{value:g}' for value in shift.tolist())}, range times mean colour, "
            f"which are not {given}"
        )
    mean = colour if fits else shift / image_range
    return replace(constants, image_range=image_range, mean=tuple(mean.tolist()))


def _check_partners(what: str, own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    expected = {name: tensor for name, tensor in own.items() if not name.startswith(OURS_ALONE)}
    problems = [f"'{name}' is missing" for name in expected if name not in weights]
    problems += [f"'{name}' has no partner" for name in weights if name not in expected]
    problems += [
        f"'{name}' is {tuple(weights[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if problems:
        raise UserError(f"{what}: {'; '.join(problems)}.")
