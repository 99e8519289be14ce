"""Trained weights to begin with: the file, whether it fits, and how a search for widths uses them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor, nn

from core.errors import UserError, check_known
from core.experiments.plan import Start
from core.methods.subject import Pretrained
from core.storage.checkpoint import read_checkpoint
from core.storage.hubs import is_file_name, weights_file
from core.storage.weights import Fitted, fitted_weights
from core.surgery.initialise import seeded
from core.widths.config import ShrinkConfig

T = TypeVar("T", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class PretrainedConfig:
    """The entries of a protocol on the weights with which networks begin.

    Args:
        pretrained: trained weights of the baseline: a file, `timm:NAME` or `torchvision:NAME`; channels are then scored
            with these weights. None for fresh weights.
        start: what trainings begin with: "scratch", or "pretrained" for these weights.

    Raises:
        UserError: `start` is neither, or asks for weights although none are named.
    """

    pretrained: str | None = None
    start: Start = "scratch"

    def __post_init__(self) -> None:
        check_known("unknown start", [self.start], get_args(Start))
        if self.start == "pretrained" and self.pretrained is None:
            raise UserError(
                "--start pretrained needs weights: add --pretrained FILE (or timm:NAME, torchvision:NAME)"
            )
        if self.pretrained is not None and is_file_name(self.pretrained):
            # Absolute, so that a run can be resumed from any folder.
            object.__setattr__(self, "pretrained", str(Path(self.pretrained).expanduser().absolute()))


def shrink_of(
    pretrained: str | None, shrink: ShrinkConfig, widen: float | None, options: Mapping[str, str]
) -> ShrinkConfig:
    """How widths are found if channels are scored with trained weights: there are no other channels.

    Args:
        pretrained: the protocol's.
        shrink: the protocol's.
        widen: `--widen`; None if it was not given.
        options: `--cfg-options`.

    Raises:
        UserError: the user asks for a wider network, or for kept weights although there are none.
    """
    if pretrained is None:
        if shrink.keep_weights:
            raise UserError("shrink.keep_weights needs trained weights: add --pretrained FILE")
        return shrink
    asked = widen if widen is not None else options.get("shrink.widen")
    if asked is not None and float(asked) != 1:
        raise UserError(
            f"widening by {asked}: trained weights have no channels beyond the network's own; leave it out, widths are "
            f"then found within the network"
        )
    return replace(shrink, widen=1.0, keep_weights=True)


def fit_network(model: nn.Module, source: str) -> Fitted:
    """The weights that `--pretrained` names, fitted to a whole network.

    Raises:
        MissingData: the weights are not there.
        UserError: they cannot be read or do not fit.
    """
    return fitted_weights(model, read_checkpoint(weights_file(source)), source, foreign=True)


def open_pretrained(
    source: str | None,
    build: Callable[[], T],
    fit: Callable[[T, str], Fitted] = fit_network,
) -> Pretrained | None:
    """Read trained weights and check whether they fit a network.

    Args:
        source: see `PretrainedConfig`; None without weights.
        build: makes the freshly initialised network, or the part of it that is searched.
        fit: reads those weights of the source that fit the network of `build`.

    Raises:
        MissingData: the weights are not there.
        UserError: they cannot be read, do not fit, or are not finite.
    """
    if source is None:
        return None
    with seeded(0):
        model = build()
    fitted = fit(model, source)
    own = model.state_dict()
    for name, value in fitted.weights.items():
        # Some networks have buffers that are infinite by design: masks.
        if not _is_finite(value) and _is_finite(own[name]):
            raise UserError(
                f"'{source}': '{name}' holds values that are not finite: its training had diverged"
            )

    def built() -> nn.Module:
        network = build()
        network.load_state_dict(fitted.weights, strict=False)
        return network

    return Pretrained(source, weights_checksum(fitted.weights), built, fitted.notes)


def _is_finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value.float()).all())  # types of 8 bits have no test of their own


def weights_checksum(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values of the weights that are used, whatever else is in the file."""
    value = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        value.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        value.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return value.hexdigest()


def weights_told(pretrained: Pretrained, start: Start, shrink: ShrinkConfig) -> list[str]:
    """Sentences about trained weights, to print before anything begins."""
    used = (
        "all networks start from them but for the control"
        if start == "pretrained"
        else (
            "channels are scored with them; all networks start from scratch (--start pretrained fine-tunes them)"
        )
    )
    lines = [
        f"Trained weights '{pretrained.source}' (SHA-256 of what is used: {pretrained.checksum[:12]}): {used}.",
        *pretrained.notes,
        "Widths are found within the network: shrink.widen is 1; floors and ceilings are fractions of its own widths.",
    ]
    if shrink.inexact:
        lines.append("Groups that are not exact are cut as well, as shrink.inexact asks for.")
    return lines


def as_json(pretrained: Pretrained | None, start: Start) -> dict[str, Any] | None:
    """Trained weights for result.json and records; None if none are used."""
    if pretrained is None:
        return None
    return {
        "start": start,
        "pretrained": pretrained.source,
        "checksum": pretrained.checksum,
        "notes": list(pretrained.notes),
    }
