"""Time to a FLOPs budget, ours against Torch-Pruning: `python -m benchmarks.shrinkage`.

Per network, in turns: ours to widths, ours to the cut network, and every way of Torch-Pruning; then the first call of
each side in a fresh process. `benchmarks/README.md` says what is measured, and how.
"""

from __future__ import annotations

import copy
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import torch
from torch import nn

from benchmarks.measure import Page, benchmark
from benchmarks.networks import NETWORKS, Network
from benchmarks.shrinkage_report import CUT, WIDTHS, Row, page, to_json
from benchmarks.shrinking import FAILURES, OURS, Inputs, Shrunk, first_call, peer_ways, shrink_ours
from core.errors import MissingData, UserError
from core.graph.channels import ChannelGraph
from core.graph.complexity import count
from core.methods.candidates import Limits, fill
from core.timing import seconds_text, time_in_turns
from core.widths.bounds import Bounds


def channels_to_spare(graph: ChannelGraph, widths: Mapping[str, int], limit: int) -> int:
    """Number of channels that could still be added, one by one, within `limit` MACs; 0: no single one fits."""
    counts = graph.elements(widths)
    one = np.ones_like(counts)
    bounds = Bounds(low=one, high=np.asarray(graph.sizes), block=one)
    filled = fill(graph, counts[None], Limits({"macs": limit}, bounds, base=one.astype(np.float64)))
    return int((filled - counts).sum())


def measure_network(
    network: Network,
    *,
    target: float,
    turns: int,
    patience: float,
    ways: Sequence[str] | None = None,
    on_run: Callable[[str, float | None], None] | None = None,
) -> Row:
    """Time all ways on one network, without first calls.

    Args:
        network: see `benchmarks.networks`.
        target: share of the MACs to reach.
        turns: counted runs of each way.
        patience: see `time_in_turns`.
        ways: names of `peer_ways` to run; None: all.
        on_run: see `time_in_turns`.
    """
    model, inputs = network.make(), network.inputs()
    peer = {name: way for name, way in peer_ways(network).items() if ways is None or name in ways}

    def ours(cut: bool) -> Callable[[], Callable[[], Shrunk]]:
        return lambda: lambda: shrink_ours(model, inputs, target, cut=cut)

    def theirs(way: Callable[[nn.Module, Inputs, float], Shrunk]) -> Callable[[], Callable[[], Shrunk]]:
        def prepare() -> Callable[[], Shrunk]:
            fresh = copy.deepcopy(model)
            return lambda: way(fresh, inputs, target)

        return prepare

    jobs = {WIDTHS: ours(False), CUT: ours(True)} | {name: theirs(way) for name, way in peer.items()}
    outcomes = time_in_turns(jobs, turns=turns, patience=patience, failures=FAILURES, on_run=on_run)
    baseline = count(model, inputs, "macs")
    shares, runs = {}, {}
    for name, outcome in outcomes.items():
        if outcome.result is not None and outcome.result.model is not None:
            shares[name] = count(outcome.result.model, inputs, "macs") / baseline
            runs[name] = _same_output_shape(model, outcome.result.model, inputs)
    found = outcomes[CUT].result
    graph = found.graph if found is not None else None
    return Row(
        network=network,
        groups=len(graph.groups) if graph else 0,
        outcomes=outcomes,
        shares=shares,
        runs=runs,
        spare=channels_to_spare(graph, found.widths, int(target * baseline)) if graph and found else None,
        masked_equals_cut=graph.verify(model, inputs) if graph else None,
        first_call={},
    )


def _same_output_shape(model: nn.Module, cut: nn.Module, inputs: Inputs) -> bool:
    batch = tuple(tensor.expand(2, *tensor.shape[1:]).contiguous() for tensor in inputs)
    with torch.inference_mode():
        try:
            return bool(model.eval()(*batch).shape == cut.eval()(*batch).shape)
        except FAILURES:
            return False


def warm_up(target: float) -> None:
    """Run every way once on a tiny network, so that imports and first uses of torch are not timed."""
    tiny = Network(
        "tiny", lambda: nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3)), (3, 8, 8), ("1",)
    )
    measure_network(tiny, target=target, turns=1, patience=0.0)


def measured(key: str, options: Namespace) -> Row:
    """One network, first calls too, with a line of progress per run."""
    network = NETWORKS[key]

    def tell(way: str, seconds: float | None) -> None:
        print(
            f"{network.title}: {way}: {'failed' if seconds is None else seconds_text(seconds)}",
            file=sys.stderr,
        )

    row = measure_network(
        network, target=options.target, turns=options.turns, patience=options.patience, on_run=tell
    )
    calls = {"ours": OURS, "peer": row.fastest_peer(options.target)}
    first = {
        side: first_call(key, way, options.target, options.threads)
        for side, way in calls.items()
        if way and (side == "peer" or row.outcomes[CUT].timing)
    }
    return replace(row, first_call=first)


def measure(options: Namespace) -> Page:
    """Measure every requested network.

    Raises:
        UserError: the target is not a share; MissingData: Torch-Pruning is not installed.
    """
    target = options.target
    if not 0 < target < 1:
        raise UserError(f"--target {target:g}: expected a fraction between 0 and 1")
    if find_spec("torch_pruning") is None:
        raise MissingData("Torch-Pruning is not installed: pip install 'lwdna[peers]'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warm_up(target)
        rows = [measured(key, options) for key in options.networks]
    failed = not all(row.outcomes[CUT].timing for row in rows)
    return Page(f"Time to {target:.0%} of the MACs", page(rows, target), to_json(rows, target), failed)


main = benchmark(
    "shrinkage",
    __doc__,
    measure,
    numbers={"turns": (5, "counted runs of each way")},
    options={
        "--networks": {
            "nargs": "+",
            "choices": NETWORKS,
            "default": list(NETWORKS),
            "metavar": "NETWORK",
            "help": "all",
        },
        "--target": {"type": float, "default": 0.9, "help": "share of the MACs (default: 0.9)"},
        "--patience": {
            "type": float,
            "default": 10.0,
            "help": "seconds after which a way sits out the other turns (default: 10)",
        },
    },
    packages=("torch-pruning",),
)

if __name__ == "__main__":
    sys.exit(main(None))
