"""BasicSR's checkpoints of EDSR and MSRResNet as weights of the networks here."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from core.errors import UserError
from core.storage.weights import find_weights
from super_resolution.models import build

# Present in our EDSR alone: BasicSR adds the mean colour without a layer.
OURS_ALONE = ("sub_mean.", "add_mean.")


@dataclass(frozen=True)
class Converted:
    """Weights that fit `build(model, scale, **options)` strictly.

    Attributes:
        model: `"edsr"` or `"msrresnet"`.
        scale: 2, 3 or 4.
        options: sizes that were read off the weights, and EDSR's `res_scale`.
        weights: the state dict.
    """

    model: str
    scale: int
    options: dict[str, Any]
    weights: dict[str, Tensor]

    def build(self) -> nn.Module:
        """The network with these weights, in evaluation mode."""
        network = build(self.model, self.scale, **self.options)
        network.load_state_dict(self.weights)
        return network.eval()


def convert_basicsr(checkpoint: Mapping[str, Any], res_scale: float | None = None) -> Converted:
    """Find out which network a checkpoint of BasicSR belongs to, and name its weights as that network does.

    Args:
        checkpoint: what `core.storage.checkpoint.read_weights(path)` or `torch.load(path, weights_only=True)` gives:
            weights by name, alone or under `"params_ema"` (preferred) or `"params"`.
        res_scale: EDSR's branch factor, which the weights do not tell. None: 0.1 for 256 channels, else 1, as
            in all of BasicSR's published checkpoints.

    Raises:
        UserError: names without a partner on the other side, or tensors of another shape; all are listed.
    """
    weights = find_weights(checkpoint, "checkpoint")
    first = weights.get("conv_first.weight")
    if first is None or first.dim() != 4 or 0 in first.shape:
        raise UserError(
            "the checkpoint is not BasicSR's EDSR or MSRResNet: it has no convolution 'conv_first.weight'; "
            f"its tensors are {', '.join(sorted(weights)[:5]) or 'none'}."
        )
    n_feats = first.shape[0]
    model = "msrresnet" if "conv_hr.weight" in weights else "edsr"
    blocks = {match[1] for name in weights if (match := re.match(r"body\.(\d+)\.", name))}
    options: dict[str, Any] = {"n_blocks": len(blocks), "n_feats": n_feats}
    if model == "edsr":
        options["res_scale"] = (0.1 if n_feats == 256 else 1.0) if res_scale is None else res_scale
    scale = _scale(model, weights, n_feats)
    own = build(model, scale, **options).state_dict()
    _check_partners(f"BasicSR checkpoint, read as {model} x{scale}", own, weights)
    return Converted(model, scale, options, {name: weights.get(name, tensor) for name, tensor in own.items()})


def _scale(model: str, weights: Mapping[str, Tensor], n_feats: int) -> int:
    """The scale that the first upsampling convolution has channels for; a second one doubles it."""
    first, second = ("upsample.0", "upsample.2") if model == "edsr" else ("upconv1", "upconv2")
    if f"{first}.weight" not in weights:
        raise UserError(f"the checkpoint is not BasicSR's {model}: it has no '{first}.weight'.")
    factor = math.isqrt(weights[f"{first}.weight"].shape[0] // n_feats)
    return 2 * factor if f"{second}.weight" in weights else factor


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
