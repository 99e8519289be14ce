"""`python -m super_resolution.eval --checkpoint C`: PSNR and SSIM of a trained network on benchmark sets.

The scores are those of the run's own table; bicubic resizing stands beside them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from core.command_line.exits import run_parsed
from core.command_line.parsers import add_checkpoint_arguments, add_data_root, command_parser
from core.command_line.pixels import add_max_pixels, limited
from core.errors import MissingData, UserError
from core.experiments.statistics import number_text
from core.storage.data import data_root
from core.storage.description import read_origin
from core.storage.files import refuse_overwriting, write_json
from core.tables import text_table
from core.training.devices import pick_device
from super_resolution.checkpoint import load_network
from super_resolution.data import DataConfig, open_benchmarks
from super_resolution.evaluation import SetScore, bicubic, by_network, score_set

BICUBIC = "Bicubic"


def result_of(scores: Mapping[str, Sequence[SetScore]]) -> dict[str, Any]:
    """By set: the number of images, and by method the mean scores and those of every image.

    Args:
        scores: method -> scores of the same sets in the same order.
    """
    sets: dict[str, Any] = {}
    for method, found in scores.items():
        for score in found:
            entry = sets.setdefault(score.name, {"images": len(score.images), "methods": {}})
            each = {name: asdict(image) for name, image in score.images.items()}
            entry["methods"][method] = {"psnr": score.psnr, "ssim": score.ssim, "images": each}
    return sets


def table(sets: Mapping[str, Any]) -> str:
    """The result for a terminal."""
    rows = [
        [f"{name}, {method}", str(entry["images"]), number_text(of["psnr"], 2), number_text(of["ssim"], 4)]
        for name, entry in sets.items()
        for method, of in entry["methods"].items()
    ]
    return text_table(["set", "images", "PSNR", "SSIM"], rows)


EXAMPLES = (
    "super_resolution.eval --checkpoint WORK/lwdna.safetensors",
    "super_resolution.eval --checkpoint WORK/lwdna.safetensors --dataset Set5 path/to/images --out scores.json",
)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("super_resolution.eval", __doc__, EXAMPLES)
    add_checkpoint_arguments(parser, "super_resolution.run")
    parser.add_argument(
        "--dataset",
        nargs="+",
        metavar="SET",
        help="benchmark sets, or folders of HR images (default: those of the run that wrote the checkpoint)",
    )
    add_data_root(parser)
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="also write the scores of every image")
    parser.add_argument(
        "--tile", type=int, help="side of tiles in LR pixels, 0 for whole images (default: the run's)"
    )
    add_max_pixels(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Score and print; returns the exit status."""
    if options.out is not None and options.out.suffix.lower() != ".json":
        raise UserError(f"--out '{options.out}': scores are written as .json; change the ending")
    if options.tile is not None and options.tile < 0:
        raise UserError(f"--tile is {options.tile}; give a positive number of pixels, or 0 for whole images")
    refuse_overwriting([("--out", options.out)], [("the checkpoint that is read", options.checkpoint)])
    network, described = load_network(options.checkpoint, model=options.model)
    network.to(pick_device(options.device))
    trained = read_origin(options.checkpoint).get("recipe", {}).get("data", {})
    wanted = tuple(options.dataset or trained.get("benchmarks") or DataConfig.benchmarks)
    present, missing = open_benchmarks(wanted, data_root(options.data_root), described.scale)
    named = set(options.dataset or ()) & missing.keys()
    if named or not present:
        reasons = [reason for name, reason in missing.items() if name in named or not present]
        raise MissingData(f"no set to score on: {reasons[0]}")
    tile = trained.get("tile") if options.tile is None else options.tile or None
    method = options.checkpoint.stem
    sets = result_of(
        {
            BICUBIC: [score_set(bicubic(described.scale), images) for images in present],
            method: [score_set(by_network(network, described.scale, tile), images) for images in present],
        }
    )
    print(table(sets))
    for reason in missing.values():
        print(f"note: not scored: {reason}")
    if trained.get("held_out") and not options.dataset:
        print(
            f"note: not scored: the {trained['held_out']} images that its training held out; name their folder"
        )
    if options.out is not None:
        about = {"task": "super_resolution", "checkpoint": str(options.checkpoint), "scale": described.scale}
        write_json(options.out, {**about, "sets": sets, "not_scored": dict(missing)})
        print(f"written: {options.out}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; exit status 0 done, 1 failed, 2 wrong usage or bad input."""
    return run_parsed(build_parser(), limited(run), argv, "start it again")


if __name__ == "__main__":
    sys.exit(main())
