"""Super-resolution on the CPU, in turns: inference of baselines, BasicSR's EDSR and found networks; training batches.

- Inference: one frame of 320 x 180 pixels, x4. The networks of the committed protocols, EDSR with 8 blocks of 128
  channels (the paper's) among them; the networks that these protocols find; BasicSR's EDSR with the same weights. A
  found network should save the time that its FLOPs promise: its limit is its ratio of FLOPs + 0.05. Every network has
  the memory layout of our commands (channels last); EDSR, BasicSR's, and its found network also have torch's default
  layout; and the protocol's search is run once more without its rule on multiples of widths.
- Convolutions: the first upsampling layer alone at some widths, in both layouts, shows the reason for that rule.
- Loading: ten training batches of 16 crops of 192 x 192 from the pixel cache and from BasicSR's PairedImageDataset,
  which decodes PNG files from the disk; both in one process.

Needs the extra `basicsr`. Images are BSDS500's if they lie under the data root, else scikit-image's.
"""

from __future__ import annotations

import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.measure import Page, benchmark
from benchmarks.super_resolution_report import (
    MARGIN,
    Contender,
    convolution_text,
    inference_text,
    loading_text,
    to_json,
    verdict,
)
from core import Architecture, MissingData, UserError
from core.command_line.config import load_config
from core.experiments.task import Task
from core.methods.subject import find_architecture
from core.storage.data import data_root
from core.timing import Timing, time_in_turns, timings
from super_resolution.config import CONFIGS, RunConfig, with_ties
from super_resolution.data import CropLoader, ImageSet, open_cache, open_training_set
from super_resolution.images import write_image
from super_resolution.models import build
from super_resolution.tiling import lay_out

SCALE = 4
PROTOCOLS = {
    "EDSR": "edsr_div2k.py",
    "SRResNet": "srresnet_div2k.py",
    "reduced EDSR": "edsr_reduced_bsds500.py",
}
COMPARED = "EDSR"  # timed with BasicSR's, in both layouts, and without the rule on multiples
FRAME = (1, 3, 180, 320)
WARMUP = (1, 3, 12, 16)
BATCH, PATCH, BATCHES = 16, 192, 10
SEARCH_PATCH = 96
CONVOLUTIONS = (480, 488, 496, 512)  # output channels of the first upsampling layer
CONVOLUTION_INPUTS = 128


def find_networks(
    name: str, config: RunConfig, images: ImageSet, folder: Path
) -> tuple[nn.Module, dict[str, Architecture]]:
    """A protocol's baseline, and the widths that its search finds by the gradients of one batch of our images."""

    def loader(batch_size: int, seed: int) -> CropLoader:
        return CropLoader(open_cache(images, folder), batch_size, SEARCH_PATCH, batch_size, seed)

    task = Task(
        name="super_resolution",
        dataset=images.name,
        model_name=name,
        build=lambda: build(config.model, SCALE, **config.options),
        example_inputs=torch.zeros(1, 3, 24, 24),
        train_loader=loader,
        loss_fn=functional.l1_loss,
        evaluate=lambda model: {},
        metrics=(),
        curves=("loss", "", ""),
    )
    shrink = replace(config.shrink, batches=1)
    ways = {f"LW-DNA of {name}": shrink}
    if name == COMPARED:
        ways[f"LW-DNA of {name}, any width"] = replace(shrink, round_to=1)
    torch.manual_seed(0)
    baseline = build(config.model, SCALE, **config.options).eval()
    return baseline, {way: find_architecture(task, settings, 0) for way, settings in ways.items()}


def contenders(images: ImageSet, folder: Path) -> list[Contender]:
    """All timed networks; those that are compared stand side by side."""
    found = []
    for name, file in PROTOCOLS.items():
        config = with_ties(load_config(CONFIGS / file, RunConfig, [f"scale={SCALE}"]))
        baseline, architectures = find_networks(name, config, images, folder)
        networks = {way: architecture.build(baseline).eval() for way, architecture in architectures.items()}
        found.append(Contender(name, baseline, name, True))
        found += [Contender(way, networks[way], name, True, architectures[way]) for way in networks]
        if name == COMPARED:
            rival = basicsr_edsr(baseline, config.options)
            way = f"LW-DNA of {name}"
            plain = f"{name}, default layout"
            found += [
                Contender("BasicSR's EDSR", rival, name, True),
                Contender("BasicSR's EDSR, default layout", rival, plain, False),
                Contender(plain, baseline, plain, False),
                Contender(f"{way}, default layout", networks[way], plain, False, architectures[way]),
            ]
    return found


def compare_inference(networks: Sequence[Contender], threads: int, turns: int) -> dict[str, Timing]:
    """Times of every network on one frame; BasicSR's output must be ours."""
    torch.set_num_threads(threads)
    frame, small = torch.rand(FRAME), torch.rand(WARMUP)

    def way(contender: Contender) -> Callable[[], Callable[[], Tensor]]:
        inputs = lay_out(frame) if contender.laid_out else frame
        return lambda: lambda: contender.network(inputs)

    with torch.inference_mode():
        outputs = {contender.name: contender.network(small) for contender in networks}
        rival = outputs.get("BasicSR's EDSR")
        difference = 0.0 if rival is None else float((outputs[COMPARED] - rival).abs().max())
        if difference > 1e-4:
            raise UserError(f"the two EDSRs differ by {difference:.1e}; they do not hold the same weights")
        ways = {contender.name: way(contender) for contender in networks}
        return timings(time_in_turns(ways, turns=turns))


def compare_convolutions(turns: int) -> dict[str, dict[str, Timing]]:
    """Times of an upsampling layer on the frame by layout and width, one thread."""
    torch.set_num_threads(1)
    features = torch.rand(1, CONVOLUTION_INPUTS, *FRAME[2:])
    layouts = {"channels last": lay_out(features), "default": features}

    def way(inputs: Tensor, width: int) -> Callable[[], Callable[[], Tensor]]:
        layer = nn.Conv2d(CONVOLUTION_INPUTS, width, 3, padding=1)
        layer(inputs[..., :8, :8])
        return lambda: lambda: layer(inputs)

    ways = {(layout, width): (inputs, width) for layout, inputs in layouts.items() for width in CONVOLUTIONS}
    with torch.inference_mode():
        named = {f"{layout} {width}": way(*ways[layout, width]) for layout, width in ways}
        measured = timings(time_in_turns(named, turns=turns))
    return {
        layout: {str(width): measured[f"{layout} {width}"] for width in CONVOLUTIONS} for layout in layouts
    }


def compare_loading(images: ImageSet, folder: Path, turns: int) -> dict[str, Timing]:
    """Times of ten batches from our cache and from BasicSR's data set over the same images as PNG files."""
    from basicsr.data.paired_image_dataset import PairedImageDataset

    cached = open_cache(images, folder)
    for index, name in enumerate(cached.names):
        for kind, planes in (("hr", cached.hr(index)), ("lr", cached.lr(index))):
            write_image(folder / kind / f"{name}.png", np.ascontiguousarray(planes.transpose(1, 2, 0)))
    loader = CropLoader(cached, BATCH, PATCH, crops_per_epoch=BATCH * BATCHES)
    options = {
        "dataroot_gt": str(folder / "hr"),
        "dataroot_lq": str(folder / "lr"),
        "io_backend": {"type": "disk"},
        "gt_size": PATCH,
        "scale": SCALE,
        "use_hflip": True,
        "use_rot": True,
        "phase": "train",
    }
    rival = PairedImageDataset(options)
    order = np.random.default_rng(0).integers(0, len(rival), (BATCHES, BATCH))

    def our_epoch() -> None:
        # A whole epoch, so that the batches that our thread prepares ahead are timed, too.
        for _ in loader.epoch(0):
            pass

    def rival_epoch() -> None:
        for batch in order:
            pairs = [rival[int(index)] for index in batch]
            torch.stack([pair["gt"] for pair in pairs])
            torch.stack([pair["lq"] for pair in pairs])

    for epoch in (our_epoch, rival_epoch):
        epoch()
    return timings(
        time_in_turns({"pixel cache": lambda: our_epoch, "BasicSR": lambda: rival_epoch}, turns=turns)
    )


def measure(options: Namespace) -> Page:
    """Time everything.

    Raises:
        UserError: the two EDSRs are not one network; MissingData: BasicSR is not installed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, images = Path(name), training_images(data_root(options.data_root))
        networks = contenders(images, folder)
        if options.found_only:
            wanted = {text for name in PROTOCOLS for text in (name, f"LW-DNA of {name}")}
            networks = [one for one in networks if one.name in wanted]
        inference = {
            threads: compare_inference(networks, threads, options.turns) for threads in options.threads
        }
        convolutions = {} if options.found_only else compare_convolutions(options.turns)
        loading = {} if options.found_only else compare_loading(images, folder, options.turns)
    frame = f"one frame of {FRAME[3]} x {FRAME[2]}, x{SCALE}"
    batches = f"{BATCHES} batches of {BATCH} crops of {PATCH} x {PATCH} from {images.name}, x{SCALE}"
    parts = [
        f"{options.turns} turns after a warm-up on a tiny image.\n\nA found network should take no larger part of the "
        f"baseline's time than its ratio of FLOPs + {MARGIN}:\n",
        verdict(networks, inference),
        *inference_text(frame, networks, inference),
        *(convolution_text(convolutions) if convolutions else []),
        *(loading_text(batches, loading) if loading else []),
    ]
    value = to_json(networks, inference, convolutions, loading) | {"turns": options.turns}
    return Page("Super-resolution: speed", "\n".join(parts), value)


def basicsr_edsr(network: nn.Module, options: Mapping[str, Any]) -> nn.Module:
    """BasicSR's EDSR with the weights of ours."""
    from super_resolution.torchvision_shim import make_importable

    try:
        make_importable()
        from basicsr.archs.edsr_arch import EDSR
    except ImportError as error:
        raise MissingData(f"basicsr can't be imported ({error}); pip install 'lwdna[basicsr]'.") from error
    rival = EDSR(3, 3, num_feat=options["n_feats"], num_block=options["n_blocks"], upscale=SCALE).eval()
    weights = {k: v for k, v in network.state_dict().items() if not k.startswith(("sub_mean", "add_mean"))}
    rival.load_state_dict(weights)
    return rival


def training_images(root: Path) -> ImageSet:
    """BSDS500 if it is there, else scikit-image's photographs."""
    try:
        return open_training_set("bsds500", root, SCALE)
    except MissingData:
        return open_training_set("skimage", root, SCALE)


main = benchmark(
    "super_resolution",
    __doc__,
    measure,
    numbers={"turns": (5, "counted runs of each way"), "threads": ((1,), "of torch, one or several")},
    options={
        "--found-only": {
            "action": "store_true",
            "help": "time the baselines and their found networks only: more turns in the same time",
        }
    },
    data="BSDS500",
    packages=("basicsr",),
)

if __name__ == "__main__":
    sys.exit(main(None))
