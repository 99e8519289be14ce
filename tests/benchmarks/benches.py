"""A benchmark of trials as small as it can be."""

from __future__ import annotations

from pathlib import Path

from benchmarks.bench import Bench, open_bench
from benchmarks.hypothesis import build_parser

FAST = ["--train-limit", "100", "--epochs", "1", "--cfg-options", "train.batch_size=25", "shrink.batch_size=25",
        "--no-progress", "--device", "cpu"]  # fmt: skip


def bench_in(folder: Path, *arguments: str) -> Bench:
    return open_bench(build_parser().parse_args([*FAST, "--work-dir", str(folder), *arguments]))
