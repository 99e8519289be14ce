"""timm: `timm.create_model("lwdna_resnet18", widths="widths.json", num_classes=10)`.

`import lwdna.runners.timm` registers a network `lwdna_NAME` beside every network that timm knows at that time;
`register(name)` adds networks that are registered later. They take the options of NAME, and `widths`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.errors import UserError, did_you_mean
from core.modules import copy_model, map_tensors, tensors_in
from core.surgery.architecture import ArchitectureError, example_inputs
from core.surgery.initialise import Factory
from lwdna.runners.found import found_network, load_widths
from super_resolution.torchvision_shim import make_importable

make_importable()

# timm imports torchvision, which may have to be repaired first.
from timm.models import (  # noqa: E402
    FeatureInfo,
    generate_default_cfgs,
    get_pretrained_cfg,
    is_model,
    list_models,
    model_entrypoint,
    register_model,
)

PREFIX = "lwdna_"

# Input size, mean and the like of the registered networks, where timm looks for them: the base's, without weights.
default_cfgs: dict[str, Any] = {}


def register(name: str) -> None:
    """Let `timm.create_model` know `lwdna_NAME`: NAME at found widths.

    Raises:
        UserError: timm has no network of this name.
    """
    if not is_model(name):
        raise UserError(f"timm has no network '{name}', {did_you_mean(name, (), list_models())}")
    if is_model(PREFIX + name):
        return

    def found(pretrained: bool = False, widths: str | Path | None = None, **options: Any) -> nn.Module:
        return _found(name, pretrained, widths, options)

    config = get_pretrained_cfg(name)
    if config is not None:
        plain = config.to_dict(remove_source=True)
        own = {
            key: value for key, value in plain.items() if key not in ("architecture", "tag", "custom_load")
        }
        default_cfgs.update(generate_default_cfgs({PREFIX + name: own}))
    found.__name__ = found.__qualname__ = PREFIX + name
    found.__doc__ = f"{name} at the widths of a file; at its own without one."
    register_model(found)


def _found(name: str, pretrained: bool, widths: str | Path | None, options: dict[str, Any]) -> nn.Module:
    """The network at the widths of a file, or its own.

    Raises:
        UserError: pretrained weights are requested, which fit the baseline's widths alone; or see `found_network`.
    """
    if pretrained and widths is not None:
        raise UserError(
            f"{PREFIX}{name} with found widths starts anew, for the pretrained weights of {name} have other widths: "
            f"leave pretrained out"
        )
    entry = partial(model_entrypoint(name), pretrained=pretrained)
    try:
        return _at_widths(partial(entry, **options), widths)
    except ArchitectureError:
        if options.get("num_classes") != 0:
            raise
    # The last channels are outputs here, which do not shrink: the widths are those of a network with a classifier.
    head = {key: options[key] for key in ("num_classes", "global_pool") if key in options}
    rest = {key: value for key, value in options.items() if key not in head}
    network = _at_widths(partial(entry, **rest), widths)
    network.reset_classifier(**head)
    return network


def _at_widths(factory: Factory, widths: str | Path | None) -> Any:
    network = found_network(factory, widths)
    if widths is not None:
        _retell_sizes(factory(), network, example_inputs(load_widths(widths).inputs))
    return network


def _retell_sizes(baseline: Any, network: Any, inputs: Any) -> None:
    """Correct the sizes that timm's networks repeat as plain numbers, which `reset_classifier` and others read.

    `num_features` is the width of `forward_features`' output, `head_hidden_size` that of the classifier's input; a head
    with a norm keeps the former, too. `feature_info` of a feature network names its channels.
    """
    heads = [net.get_classifier() if hasattr(net, "get_classifier") else None for net in (baseline, network)]
    before, after = (head.in_features if isinstance(head, nn.Linear) else 0 for head in heads)
    _retell(network, "head_hidden_size", before, after)
    if hasattr(baseline, "forward_features"):
        shapes = [_shapes(net, "forward_features", inputs)[0] for net in (baseline, network)]
        before = getattr(baseline, "num_features", 0)
        after = _changed(before, *shapes) or before
        for module in network.modules():
            if module is network or type(module).__module__ == "timm.layers.classifier":
                _retell(module, "num_features", before, after)
                _retell(module, "in_features", before, after)
    info = getattr(network, "feature_info", None)
    if isinstance(info, FeatureInfo):
        maps = [_shapes(net, "forward", inputs) for net in (baseline, network)]
        for index, old, new in zip(info.out_indices, *maps, strict=True):
            channels = info.info[index]["num_chs"]
            info.info[index]["num_chs"] = _changed(channels, old, new) or channels


def _retell(module: nn.Module, name: str, old: int, new: int) -> None:
    if getattr(module, name, None) == old:
        setattr(module, name, new)


def _changed(size: int, before: Sequence[int], after: Sequence[int]) -> int | None:
    """The new size of the axis with that size, if one has changed; else None."""
    found = [new for old, new in zip(before, after, strict=True) if old == size != new]
    return found[0] if len(found) == 1 else None


def _shapes(network: nn.Module, method: str, inputs: Any) -> list[tuple[int, ...]]:
    """The shapes of a method's outputs for inputs of these shapes."""
    zeros = map_tensors(inputs, lambda tensor: torch.zeros_like(tensor, device="cpu"))
    with torch.no_grad():
        found = getattr(copy_model(network).eval(), method)(
            *(zeros if isinstance(zeros, tuple) else (zeros,))
        )
    return [tuple(tensor.shape) for tensor in tensors_in(found)]


for _name in list_models():
    register(_name)
