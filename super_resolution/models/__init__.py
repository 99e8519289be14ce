"""Networks for super-resolution and denoising: plain `nn.Module`s, without a trace of the search in them.

Every name in `MODELS` is a function with defaults, importable from here (`super_resolution.models.edsr()`, or
`super_resolution.models:edsr` on a command line). All take and give images in [0, 1]. Each can be traced, scripted,
exported and pickled at any widths; its `init_weights()` draws new weights in place.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import get_type_hints

from torch import nn

from core.command_line.factories import call_factory, is_factory, takes, unknown_network
from core.errors import UserError, check_known
from core.storage.schema import lower
from super_resolution.models.dncnn import dncnn
from super_resolution.models.edsr import edsr, edsr_baseline, edsr_large
from super_resolution.models.msrresnet import msrresnet
from super_resolution.models.srresnet import srresnet
from super_resolution.models.unet import unet

MODELS: dict[str, Callable[..., nn.Module]] = {
    "edsr": edsr,
    "edsr_baseline": edsr_baseline,
    "edsr_large": edsr_large,
    "srresnet": srresnet,
    "msrresnet": msrresnet,
    "dncnn": dncnn,
    "unet": unet,
}

UPSCALERS = tuple(name for name, make in MODELS.items() if "scale" in inspect.signature(make).parameters)
"""The networks that enlarge images; the others keep their size."""


def build(name: str, scale: int | None = None, **options: object) -> nn.Module:
    """A freshly initialised network.

    Args:
        name: a key of `MODELS`; or `package.module:factory` or `path/to/file.py:factory`, whose code is run.
        scale: 2, 3 or 4, by default 4; the denoisers (`dncnn`, `unet`) keep the size, so theirs is 1. A factory gets it
            if it has such a parameter.
        options: the network's own, such as `n_blocks` and `n_feats`.

    Raises:
        UserError: an unknown name, scale or option, or an option of another type.
    """
    if is_factory(name):
        given = {"scale": scale} if scale is not None and takes(name, "scale") else {}
        return call_factory(name, **given, **options)
    if name not in MODELS:
        raise unknown_network(f"unknown network '{name}'", name, MODELS)
    parameters = inspect.signature(MODELS[name]).parameters
    allowed = [parameter for parameter in parameters if parameter != "scale"]
    check_known(f"network '{name}' has no option", options, allowed)
    if "scale" in parameters:
        options["scale"] = 4 if scale is None else scale
    elif scale not in (None, 1):
        raise UserError(f"network '{name}' keeps the size of images: its scale is 1, not {scale}.")
    types = get_type_hints(MODELS[name])
    given = {
        key: lower(value, types[key], f"option {key} of network '{name}'") for key, value in options.items()
    }
    return MODELS[name](**given)
