"""Super-resolution as an experiment sees it: network, loss, scores, pictures side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from core.command_line.factories import is_factory, title
from core.errors import UserError
from core.experiments.checkpoints import save_checkpoints
from core.experiments.given import given_subject, given_widths
from core.experiments.pretrained import open_pretrained
from core.experiments.settings import FOUND, Run, Settings
from core.experiments.task import Described, Metric, Shown, Task, model_text
from core.methods.registry import BASELINE
from core.methods.subject import Pretrained
from core.report.style import title_of
from core.surgery.architecture import Architecture
from super_resolution.checkpoint import KEY, build_network, describe
from super_resolution.config import RunConfig
from super_resolution.data import PAPER_SETS, ImageSet, open_benchmarks, open_parts, open_training_loader
from super_resolution.evaluation import bicubic, by_network, mean_scores, metrics
from super_resolution.figures import compare_crops, save_comparison, slider_section
from super_resolution.models import build
from super_resolution.models.own import own_channels

EXAMPLE_SIDE = 128  # LR pixels; the published FLOPs are counted at this size

COMPARED_IMAGES = 4


def make_task(config: RunConfig, root: Path, device: torch.device) -> Task:
    """Super-resolution as `core.experiments.experiment` sees it.

    Raises:
        UserError: there is no benchmark set to score on, or a network of the user's own does not take images.
    """
    channels = own_channels(config.model, config.scale, config.options) if is_factory(config.model) else 3
    present, missing = open_benchmarks(config.data.benchmarks, root, config.scale)
    if config.data.held_out:
        _, held_out = open_parts(config.dataset, root, config.scale, config.data)
        present = (*present, held_out) if held_out else present
    if not present:
        why = next(iter(missing.values()), "data.benchmarks is empty: name a set or a folder")
        raise UserError(f"no set to score on: {why}")

    def build_model() -> nn.Module:
        return build(config.model, config.scale, **config.options)

    def train_loader(batch_size: int, seed: int) -> Any:
        return open_training_loader(
            config.dataset,
            root,
            config.scale,
            config.data,
            batch_size=batch_size,
            seed=seed,
            channels=channels,
        )

    tables = [
        Metric(f"{images.name}_{kind}", f"{images.name} {label}", higher_is_better=True, digits=digits)
        for images in present
        for kind, label, digits in (("psnr", "PSNR", 2), ("ssim", "SSIM", 4))
    ]

    first, colours = present[0].name, "RGB" if channels == 3 else "grey"
    inputs = torch.zeros(1, channels, EXAMPLE_SIDE, EXAMPLE_SIDE)
    given = given_widths(config.found_widths, build_model, inputs)
    pretrained = open_pretrained(config.pretrained, build_model)
    return Task(
        name="super_resolution",
        dataset=f"{config.dataset} x{config.scale}",
        model_name=title(config.model, config.name),
        build=build_model,
        example_inputs=inputs,
        train_loader=train_loader,
        loss_fn=l1_and_psnr,
        evaluate=lambda model: metrics(model, present, config.data.tile),
        metrics=tuple(tables),
        curves=("psnr", f"{first}_psnr", f"PSNR in dB\n(training: crops in {colours}; test: {first})"),
        references={"Bicubic": mean_scores(bicubic, present)},
        notes=not_scored(config.data.benchmarks, missing),
        finish=lambda settings, runs: finish(config, present, device, channels, settings, runs, pretrained),
        given=given,
        subject={**subject(config), **given_subject(given)},
        described=partial(describe_trained, config, channels),
        pretrained=pretrained,
    )


def subject(config: RunConfig) -> dict[str, Any]:
    """Everything of network and data that determines a result: of `core.experiments.task.Task`."""
    data = asdict(config.data)
    del data["cache"]
    if not config.data.held_out:  # results of earlier releases have no such part
        del data["held_out"]
    return {"model": config.model, "scale": config.scale, "options": dict(config.options), "dataset": config.dataset,
            "data": data, **model_text(config.model)}  # fmt: skip


def describe_trained(config: RunConfig, channels: int, found: Architecture | None) -> Described:
    """The description in checkpoints: of `core.experiments.task.Task`; images have `channels` channels."""
    description = describe(config.model, config.scale, config.options, channels, found)
    return Described(KEY, description, config.dataset, config.data)


def not_scored(asked: Sequence[str], missing: Mapping[str, str]) -> tuple[str, ...]:
    """Lines for the report: missing sets, and sets of the paper that the protocol leaves out.

    Args:
        asked: the protocol's `data.benchmarks`.
        missing: from `super_resolution.data.open_benchmarks`.
    """
    left_out = [name for name in PAPER_SETS if name not in asked]
    lines = [*missing.values()]
    if left_out:
        lines.append(f"{', '.join(left_out)} of the paper's sets, which data.benchmarks does not ask for.")
    return tuple(f"Not scored: {line}" for line in lines)


def l1_and_psnr(sr: Tensor, hr: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """L1 loss and PSNR in dB of a batch of crops, (N, C, H, W) in [0, 1]."""
    with torch.no_grad():
        mse = (sr.clamp(0, 1) - hr).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
        psnr_db = (-10 * torch.log10(mse)).mean()
    return functional.l1_loss(sr, hr), {"psnr": psnr_db}


def finish(
    config: RunConfig,
    present: Sequence[ImageSet],
    device: torch.device,
    channels: int,
    settings: Settings,
    runs: Sequence[Run],
    pretrained: Pretrained | None,
) -> Shown:
    """Write a checkpoint for `super_resolution.upscale` for each method, and the side-by-side crops."""
    upscalers: dict[str, Callable[..., Any]] = {"Bicubic": bicubic(config.scale)}
    files = []
    described = partial(describe_trained, config, channels)
    for run, network, line in save_checkpoints(
        settings, runs, described, lambda description: build_network(description, config.model), pretrained
    ):
        files.append(line)
        if run.method in (BASELINE, FOUND):
            upscalers[title_of(run.method)] = by_network(
                network.to(device).eval(), config.scale, config.data.tile
            )
    pairs = [pair for images in present for pair in images.pairs][:COMPARED_IMAGES]
    compared = compare_crops(pairs, config.scale, upscalers)
    save_comparison(compared, settings.work_dir / "comparison.png")
    markdown = (
        "## Side by side",
        "Each crop is the one where bicubic is furthest from the truth.",
        "![HR, bicubic, baseline, LW-DNA](comparison.png)",
        "Checkpoints for `python -m super_resolution.upscale IN OUT --checkpoint FILE`:\n\n"
        + "\n".join(files),
    )
    return Shown(markdown, (slider_section(compared),))
