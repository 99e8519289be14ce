"""Protocols of super-resolution, and the choice of one by a command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.command_line.factories import is_factory, unknown_network
from core.errors import UserError
from core.experiments.pretrained import PretrainedConfig
from core.graph.channels import trace_channels
from core.methods.method import SearchConfig
from core.training.train import TrainConfig
from core.widths.config import ShrinkConfig
from super_resolution.data import DataConfig
from super_resolution.models import MODELS, UPSCALERS, build
from super_resolution.tiling import input_channels

CONFIGS = Path(__file__).resolve().parent.parent / "shared_configs" / "super_resolution"

DEFAULT_CONFIG = "edsr_reduced_skimage.py"  # runs on images that come with scikit-image


@dataclass(frozen=True)
class RunConfig(PretrainedConfig):
    """A protocol of `shared_configs/super_resolution`; see `PretrainedConfig` for its entries `pretrained` and `start`.

    Args:
        model: a name of `super_resolution.models`, `package.module:factory` or `path/to/file.py:factory`.
        name: what reports and folders call the network; None for its own name.
        scale: up-sampling factor.
        options: further options of the model.
        dataset: a name of `super_resolution.data.TRAINING_SETS`, or a folder of images.
        data: crops, and the sets to score on.
        train: the recipe of every network.
        shrink: how widths are found.
        found_widths: widths of the found network instead of a search, a file or a name that ships
            (`core.experiments.given`); controls then cost the same. None searches.
        search: options of single methods of finding widths.
        tie_upsampler: give the upsamplers the trunk's width, as the paper does; else each has its own.

    Raises:
        UserError: no such network.
    """

    model: str = "edsr"
    name: str | None = None
    scale: int = 4
    options: dict[str, Any] = field(default_factory=dict)
    dataset: str = "skimage"
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    shrink: ShrinkConfig = field(default_factory=ShrinkConfig)
    found_widths: Path | None = None
    search: SearchConfig = field(default_factory=SearchConfig)
    tie_upsampler: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_factory(self.model) and self.model not in UPSCALERS:
            problem = "keeps the size of images" if self.model in MODELS else "is an unknown network"
            raise unknown_network(f"'{self.model}' {problem}", self.model, UPSCALERS)


def find_config(model: str | None, dataset: str | None) -> Path:
    """The protocol for a model and a data set: a reduced one for small data, else the paper's."""
    stem = {"bsds500": "bsds500", None: "skimage", "skimage": "skimage"}.get(dataset, "div2k")
    for name in (f"{model}_{stem}.py", f"{model}_reduced_{stem}.py", f"{model}_div2k.py"):
        if model is not None and not is_factory(model) and (CONFIGS / name).exists():
            return CONFIGS / name
    return CONFIGS / {"bsds500": "edsr_reduced_bsds500.py", "div2k": "edsr_div2k.py"}.get(
        stem, DEFAULT_CONFIG
    )


def with_own_options(
    config: RunConfig, model: str | None, overrides: Sequence[str], tie: bool | None = None
) -> RunConfig:
    """The protocol without options of another network, if `--model` names one that lacks them.

    Args:
        config: the protocol.
        model: `--model`; None where it was not given.
        overrides: `--cfg-options`; options that they set stay, so that a misspelt one is refused. A network of the
            user's own gets no others, and no other tie of its upsampler: the protocol's are EDSR's.
        tie: `--tie-upsampler`; None where it was not given.
    """
    said = {option.partition("=")[0] for option in overrides}
    if model is not None and is_factory(model):
        whole = "options" in said
        options = {key: value for key, value in config.options.items() if whole or f"options.{key}" in said}
        tied = config.tie_upsampler and (tie is not None or "tie_upsampler" in said)
        return replace(config, options=options, tie_upsampler=tied)
    if model not in MODELS or any(option.startswith("options") for option in said):
        return config
    known = signature(MODELS[model]).parameters
    return replace(config, options={key: value for key, value in config.options.items() if key in known})


def completed(
    config: RunConfig,
    model: str | None,
    overrides: Sequence[str],
    *,
    tie: bool | None = None,
    named: bool = False,
) -> RunConfig:
    """The protocol that a command line means: without another network's options, and with its ties.

    Args:
        config: the protocol.
        model: `--model`; None where it was not given.
        overrides: `--cfg-options`.
        tie: `--tie-upsampler`; None where it was not given.
        named: the protocol was named or stored, so it was written for the user's own network.

    Raises:
        UserError: see `with_ties`.
    """
    keeps = named and model is not None and is_factory(model)
    return with_ties(with_own_options(config, None if keeps else model, overrides, tie))


def with_ties(config: RunConfig) -> RunConfig:
    """The protocol with the upsamplers' outputs tied to the trunk's if it asks for that, as in LW-DNA's code.

    Raises:
        UserError: `shrink.ties` has other ties already.
    """
    if not config.tie_upsampler:
        return config
    model = build(config.model, config.scale, **config.options)
    groups = trace_channels(model, torch.zeros(1, input_channels(model), 16, 16)).groups
    if not groups:
        raise UserError(f"model '{config.model}' has no widths to tie: leave --tie-upsampler out")
    trunk = groups[0].name
    shuffles = [name for name, module in model.named_modules() if isinstance(module, nn.PixelShuffle)]
    ties = tuple((trunk, name) for name in shuffles)
    if config.shrink.ties not in ((), ties):  # a stored protocol already holds the ties that follow from it
        raise UserError(
            f"shrink.ties={config.shrink.ties} and --tie-upsampler exclude each other: give --no-tie-upsampler, "
            f"or leave shrink.ties out, which then becomes {ties}"
        )
    return replace(config, shrink=replace(config.shrink, ties=ties))
