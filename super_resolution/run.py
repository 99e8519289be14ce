"""`python -m super_resolution.run --scale 4`: baseline → shrink → train → compare for single-image super-resolution."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from core.errors import UserError
from core.experiments.commands import add_experiment_arguments, execute, run_command
from core.experiments.experiment import Metric, Run, Settings, Task
from core.graph.channels import trace_channels
from core.storage.checkpoint import load_weights
from core.training.train import TrainConfig
from core.widths.config import ShrinkConfig
from super_resolution.checkpoint import Description, build_network, save_network
from super_resolution.data import PAPER_SETS, DataConfig, ImageSet, open_benchmarks, open_training_loader
from super_resolution.evaluation import bicubic, by_network, evaluate, metrics
from super_resolution.figures import save_comparison
from super_resolution.models import MODELS, UPSCALERS, build

CONFIGS = Path(__file__).resolve().parent.parent / "shared_configs" / "super_resolution"
DEFAULT_CONFIG = "edsr_reduced_skimage.py"  # runs on images that scikit-image carries
EXAMPLE_SIDE = 128  # LR pixels; the published FLOPs are counted there
COMPARED_IMAGES = 4


@dataclass(frozen=True)
class RunConfig:
    """A protocol of `shared_configs/super_resolution`.

    Args:
        model: a name of `super_resolution.models`.
        scale: up-sampling factor.
        options: further options of the model.
        dataset: a name of `super_resolution.data.TRAINING_SETS`, or a folder of images.
        data: crops, and the sets to score on.
        train: the recipe of every network.
        shrink: how widths are found.
        tie_upsampler: give the upsamplers the trunk's width, as the paper does; else each has its own.
    """

    model: str = "edsr"
    scale: int = 4
    options: dict[str, Any] = field(default_factory=dict)
    dataset: str = "skimage"
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    shrink: ShrinkConfig = field(default_factory=ShrinkConfig)
    tie_upsampler: bool = False


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog="python -m super_resolution.run", description=__doc__)
    parser.add_argument(
        "--scale", type=int, choices=(2, 3, 4), help="up-sampling factor (default: the protocol's, 4)"
    )
    parser.add_argument("--model", choices=UPSCALERS, help="the network (default: the protocol's, edsr)")
    parser.add_argument(
        "--dataset",
        help="skimage, bsds500, div2k, flickr2k, df2k, or a folder (default: skimage, or that of --config)",
    )
    parser.add_argument("--tile", type=int, help="score images in tiles of that many LR pixels a side")
    parser.add_argument(
        "--tie-upsampler",
        action=BooleanOptionalAction,
        help="upsamplers as wide as the trunk, or of their own widths (default: the protocol's)",
    )
    add_experiment_arguments(parser)
    return parser


def find_config(model: str | None, dataset: str | None) -> Path:
    """The protocol for a model and a data set; reduced ones for small data, the paper's elsewhere."""
    stem = {"bsds500": "bsds500", None: "skimage", "skimage": "skimage"}.get(dataset, "div2k")
    for name in (f"{model}_{stem}.py", f"{model}_reduced_{stem}.py", f"{model}_div2k.py"):
        if model is not None and (CONFIGS / name).exists():
            return CONFIGS / name
    return CONFIGS / {"bsds500": "edsr_reduced_bsds500.py", "div2k": "edsr_div2k.py"}.get(
        stem, DEFAULT_CONFIG
    )


def make_task(config: RunConfig, root: Path, device: torch.device) -> Task:
    """Super-resolution as `core.experiments.experiment` sees it.

    Raises:
        UserError: no benchmark set is there to score on.
    """
    present, missing = open_benchmarks(config.data.benchmarks, root, config.scale)
    if not present:
        raise UserError(f"no set to score on: {next(iter(missing.values()))}")

    def build_model() -> nn.Module:
        return build(config.model, config.scale, **config.options)

    def train_loader(batch_size: int, seed: int) -> Any:
        return open_training_loader(
            config.dataset, root, config.scale, config.data, batch_size=batch_size, seed=seed
        )

    tables = [
        Metric(f"{images.name}_{kind}", f"{images.name} {label}", higher_is_better=True, digits=digits)
        for images in present
        for kind, label, digits in (("psnr", "PSNR", 2), ("ssim", "SSIM", 4))
    ]
    by_bicubic = {images.name: evaluate(bicubic(config.scale), images) for images in present}
    reference = {f"{name}_psnr": score.psnr for name, score in by_bicubic.items()}
    reference |= {f"{name}_ssim": score.ssim for name, score in by_bicubic.items()}
    first = present[0].name
    return Task(
        name="super_resolution",
        dataset=f"{config.dataset} x{config.scale}",
        model_name=config.model,
        build=build_model,
        example_inputs=torch.zeros(1, 3, EXAMPLE_SIDE, EXAMPLE_SIDE),
        train_loader=train_loader,
        loss_fn=l1_and_psnr,
        evaluate=lambda model: metrics(model, present, config.data.tile),
        metrics=tuple(tables),
        curves=("psnr", f"{first}_psnr", f"PSNR in dB\n(training: crops in RGB; test: {first})"),
        references={"Bicubic": reference},
        notes=not_scored(config.data.benchmarks, missing),
        finish=lambda settings, runs: finish(config, present, device, settings, runs),
    )


def not_scored(asked: Sequence[str], missing: Mapping[str, str]) -> tuple[str, ...]:
    """Lines for the report: sets that are not there, and the paper's that the protocol leaves out.

    Args:
        asked: the protocol's `data.benchmarks`.
        missing: from `super_resolution.data.open_benchmarks`.
    """
    left_out = [name for name in PAPER_SETS if name not in asked]
    lines = [*missing.values()]
    if left_out:
        lines.append(f"{', '.join(left_out)} of the paper's sets, which data.benchmarks does not ask for.")
    return tuple(f"Not scored: {line}" for line in lines)


def with_own_options(config: RunConfig, arguments: Namespace) -> RunConfig:
    """The protocol without those options that are another network's, where `--model` names one that lacks them.

    Options from the command line stay, so that a misspelt one is refused.
    """
    said = any(option.startswith("options") for option in arguments.cfg_options)
    if arguments.model not in MODELS or said:
        return config
    known = signature(MODELS[arguments.model]).parameters
    return replace(config, options={key: value for key, value in config.options.items() if key in known})


def with_ties(config: RunConfig) -> RunConfig:
    """The protocol with the upsamplers' outputs tied to the trunk's where it asks for that, as in LW-DNA's code.

    Raises:
        UserError: `shrink.ties` has other ties already.
    """
    if not config.tie_upsampler:
        return config
    model = build(config.model, config.scale, **config.options)
    trunk = trace_channels(model, torch.zeros(1, 3, 16, 16)).groups[0].name
    shuffles = [name for name, module in model.named_modules() if isinstance(module, nn.PixelShuffle)]
    ties = tuple((trunk, name) for name in shuffles)
    if config.shrink.ties not in ((), ties):  # a stored protocol already has those that follow from it
        raise UserError(
            f"shrink.ties={config.shrink.ties} and --tie-upsampler exclude each other: give --no-tie-upsampler, "
            f"or leave shrink.ties out, which then becomes {ties}"
        )
    return replace(config, shrink=replace(config.shrink, ties=ties))


def l1_and_psnr(sr: Tensor, hr: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """L1 loss and RGB PSNR in dB of a batch of crops, (N, 3, H, W) in [0, 1]."""
    with torch.no_grad():
        mse = (sr.clamp(0, 1) - hr).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
        psnr_db = (-10 * torch.log10(mse)).mean()
    return functional.l1_loss(sr, hr), {"psnr": psnr_db}


def finish(
    config: RunConfig,
    present: Sequence[ImageSet],
    device: torch.device,
    settings: Settings,
    runs: Sequence[Run],
) -> list[str]:
    """Write a checkpoint for `super_resolution.upscale` per method, and the side-by-side crops."""
    upscalers: dict[str, Callable[..., Any]] = {"Bicubic": bicubic(config.scale)}
    names = {"baseline": "Baseline", "lwdna": "LW-DNA"}
    files = []
    for run in runs:
        if run.seed != runs[0].seed:
            continue
        found = None if run.architecture is None else run.architecture.to_json()
        description = Description(config.model, config.scale, dict(config.options), found)
        network = build_network(description)
        load_weights(network, settings.run_dir(run.method, run.seed) / "model.safetensors")
        path = settings.work_dir / f"{run.method}.safetensors"
        save_network(path, network, description)
        files.append(f"- `{path.name}`: {names.get(run.method, run.method)}, seed {run.seed}")
        if run.method in names:
            upscalers[names[run.method]] = by_network(
                network.to(device).eval(), config.scale, config.data.tile
            )
    pairs = [pair for images in present for pair in images.pairs][:COMPARED_IMAGES]
    save_comparison(pairs, config.scale, upscalers, settings.work_dir / "comparison.png")
    return [
        "## Side by side",
        "Each crop is the one where bicubic is furthest from the truth.",
        "![HR, bicubic, baseline, LW-DNA](comparison.png)",
        "Checkpoints for `python -m super_resolution.upscale IN OUT --checkpoint FILE`:\n\n"
        + "\n".join(files),
    ]


def run(arguments: Namespace) -> int:
    """One experiment from parsed arguments; returns the exit status."""

    def open_task(config: RunConfig, fabric: Fabric, folder: Path, root: Path) -> Task:
        return make_task(config, root, fabric.device)

    given = {"scale": arguments.scale, "model": arguments.model, "dataset": arguments.dataset}
    given |= {"data.tile": arguments.tile, "tie_upsampler": arguments.tie_upsampler}
    return execute(
        arguments,
        "super_resolution",
        RunConfig,
        lambda: find_config(arguments.model, arguments.dataset),
        given,
        lambda config: f"super_resolution-{config.model}-x{config.scale}-{Path(config.dataset).name}",
        open_task,
        complete=lambda config: with_ties(with_own_options(config, arguments)),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; exit statuses as in `core.experiments.commands`."""
    arguments = build_parser().parse_args(argv)
    return run_command(lambda: run(arguments), arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
