"""Time to a FLOPs budget, ours against Torch-Pruning: `python -m benchmarks.shrinkage`.

Per network, in turns: ours to widths, ours to the cut network, and every way of Torch-Pruning; then the first call of
each side in a fresh process. What is measured and how: `benchmarks/README.md`.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from rich.console import Console
from torch import nn

from benchmarks.measure import command_text, machine, write_results
from benchmarks.networks import NETWORKS, Network
from benchmarks.shrinkage_report import (
    CUT,
    WIDTHS,
    Row,
    comparison_table,
    our_table,
    peer_table,
    to_json,
    to_markdown,
)
from benchmarks.shrinking import FAILURES, OURS, Inputs, Shrunk, first_call, peer_ways, shrink_ours
from core.errors import UserError
from core.graph.channels import ChannelGraph
from core.graph.complexity import count
from core.tables import text_table
from core.timing import time_in_turns


def channels_to_spare(graph: ChannelGraph, widths: Mapping[str, int], limit: int) -> int:
    """Choices that could still be added one by one, cheapest first, within `limit` MACs; 0: no single one fits."""
    counts, added = graph.elements(widths), 0
    while True:
        free = [index for index, size in enumerate(graph.sizes) if counts[index] < size]
        candidates = [counts.copy() for _ in free]
        for candidate, index in zip(candidates, free, strict=True):
            candidate[index] += 1
        costs = [int(graph.cost("macs", candidate)) for candidate in candidates]
        if not costs or min(costs) > limit:
            return added
        counts, added = candidates[costs.index(min(costs))], added + 1


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
    """Run every way once on a tiny network, so that imports and first uses of torch are nobody's seconds."""
    tiny = Network(
        "tiny", lambda: nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3)), (3, 8, 8), ("1",)
    )
    measure_network(tiny, target=target, turns=1, patience=0.0)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shrinkage", description=__doc__)
    parser.add_argument(
        "--networks",
        nargs="+",
        choices=NETWORKS,
        default=list(NETWORKS),
        metavar="NETWORK",
        help="default: all",
    )
    parser.add_argument("--target", type=float, default=0.9, help="share of the MACs (default: 0.9)")
    parser.add_argument("--turns", type=int, default=5, help="counted runs of each way (default: 5)")
    parser.add_argument(
        "--patience",
        type=float,
        default=10.0,
        help="seconds after which a way sits out the other turns (default: 10)",
    )
    parser.add_argument("--threads", type=int, default=1, help="torch's threads, for all ways (default: 1)")
    parser.add_argument("--output", help="write OUTPUT.json and OUTPUT.md (docs/results/shrinkage)")
    options = parser.parse_args(argv)
    if not 0 < options.target < 1 or options.turns < 1 or options.threads < 1:
        raise UserError("--target is a fraction between 0 and 1; --turns and --threads are at least 1")
    if importlib.util.find_spec("torch_pruning") is None:
        raise UserError("Torch-Pruning is not installed: pip install 'lwdna[peers]'")
    return options


def run(options: argparse.Namespace, console: Console) -> list[Row]:
    """Measure every network that was asked for, with a line of progress per run."""
    warm_up(options.target)
    rows = []
    for key in options.networks:
        title = NETWORKS[key].title

        def tell(way: str, seconds: float | None, title: str = title) -> None:
            text = "failed" if seconds is None else f"{seconds:.3f} s"
            console.print(f"{title}: {way}: {text}", highlight=False)

        row = measure_network(
            NETWORKS[key],
            target=options.target,
            turns=options.turns,
            patience=options.patience,
            on_run=tell,
        )
        calls = {"ours": OURS, "peer": row.fastest_peer(options.target)}
        first = {
            side: first_call(key, way, options.target, options.threads)
            for side, way in calls.items()
            if way and (side == "peer" or row.outcomes[CUT].timing)
        }
        rows.append(replace(row, first_call=first))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the tables, write them if asked; exit status 1 if one of our own runs failed, 2 for bad usage."""
    console = Console(stderr=True)
    try:
        options = _arguments(argv)
    except UserError as error:
        console.print(str(error), highlight=False, soft_wrap=True)
        return 2
    torch.set_num_threads(options.threads)
    facts = machine("torch-pruning")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        rows = run(options, console)
    tables = [our_table(rows), comparison_table(rows, options.target), peer_table(rows)]
    print("\n\n".join(text_table(*table) for table in tables))
    if options.output:
        command = command_text("benchmarks.shrinkage", argv)
        page = to_markdown(rows, options.target, facts, command)
        for path in write_results(options.output, to_json(rows, options.target, facts), page):
            console.print(f"written: {path}", highlight=False)
    return 0 if all(row.outcomes[CUT].timing for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
