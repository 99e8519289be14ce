"""Seconds of the very first call in a process: `python -m benchmarks.first_call NETWORK WAY --target 0.9`.

torch is imported and the network is built before the clock starts; the library that shrinks is imported after.
Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.networks import NETWORKS
from benchmarks.shrinking import peer_ways, shrink_ours

OURS = "ours"


def first_call(network: str, way: str, target: float, threads: int) -> float:
    """Seconds that a fresh Python process needs for its first call.

    Args:
        network: a key of `NETWORKS`.
        way: "ours" (with the cut network) or a name of `peer_ways`.
        target: share of the MACs.
        threads: torch's.

    Raises:
        subprocess.CalledProcessError: the process failed; its traceback is on standard error.
    """
    command = [sys.executable, "-m", "benchmarks.first_call", network, way]
    options = ["--target", str(target), "--threads", str(threads)]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([*command, *options], cwd=root, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def main() -> int:
    """Run one way once and print its seconds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_call", description=__doc__)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("way")
    parser.add_argument("--target", type=float, default=0.9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network = NETWORKS[options.network]
    ways = peer_ways(network)
    if options.way != OURS and options.way not in ways:
        parser.error(f"way '{options.way}': use one of {OURS}, {', '.join(ways)}")
    model, inputs = network.make(), network.inputs()
    start = time.perf_counter()
    if options.way == OURS:
        shrink_ours(model, inputs, options.target, cut=True)
    else:
        ways[options.way](model, inputs, options.target)
    print(json.dumps({"seconds": time.perf_counter() - start}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
