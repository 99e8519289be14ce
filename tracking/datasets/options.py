"""Options that the tracking commands share: those that name data and trackers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tracking.datasets import DATASETS

STORED = (
    "finished sequences are stored, the same command goes on from there"  # printed by an interrupted command
)


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add `--dataset`, `--data-root`, `--split`, `--annotations` and `--sequences`."""
    splits = "; ".join(f"{name}: {', '.join(splits[:3])}" for name, (_, splits) in DATASETS.items())
    parser.add_argument("--dataset", required=True, metavar="NAME", type=_full_name, help=", ".join(DATASETS))
    parser.add_argument("--data-root", type=Path, help="default: $LWDNA_DATA, else data/")
    parser.add_argument("--split", help=f"part of the data set, the first is the default ({splits})")
    parser.add_argument(
        "--annotations", type=Path, help="other ground truth: a folder or zip in the data set's layout"
    )
    parser.add_argument(
        "--sequences", nargs="+", default=(), metavar="PATTERN", help="names or patterns such as 'car-*'"
    )


def add_tracker_options(group: Any) -> None:
    """Add `--checkpoint`, `--backbone`, `--device` and `--seed` of DiMP trackers to a parser or a group of one."""
    group.add_argument("--checkpoint", metavar="FILE", help="the network of a DiMP tracker")
    group.add_argument(
        "--backbone",
        metavar="FILE.py:FACTORY",
        help="the code of your own backbone, if the checkpoint has one; it is run",
    )
    group.add_argument("--device", default="auto", help="where DiMP runs: auto, cpu, cuda, mps (auto)")
    group.add_argument("--seed", type=int, default=0, help="of DiMP's random choices (0)")


def tracker_name(arguments: argparse.Namespace) -> str:
    """`--tracker`; without it DiMP if there is a network, else the simple tracker that needs none."""
    return arguments.tracker or ("ncc" if arguments.checkpoint is None else "dimp50")


def _full_name(dataset: str) -> str:
    return "uav123" if dataset == "uav" else dataset
