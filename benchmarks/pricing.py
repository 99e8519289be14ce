"""How many allocations of width are priced in a second: the closed form, and building and counting each of them.

    python -m benchmarks.pricing --output docs/results/pricing

A search over allocations (`core.methods.candidates`) is free to look at thousands only if a price costs nothing. The
closed form is held against what gives a price without it: the network at those widths, run through a counter, whether
building it is timed too or not.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.measure import (
    NOTHING_KEPT,
    Outcome,
    add_output_arguments,
    command_text,
    machine,
    publish,
    time_in_turns,
)
from benchmarks.networks import NETWORKS, Network
from core.command_line.exits import run_command
from core.errors import UserError, did_you_mean
from core.graph.complexity import count
from core.methods.candidates import IntArray, built, draw, limits_of
from core.tables import markdown_table
from core.widths.budget import Budget
from core.widths.config import ShrinkConfig
from core.widths.space import Space, open_space

USUAL = ("resnet50", "mobilenetv2", "regnety_200mf", "densenet40", "edsr")
BUDGET = 0.9
SPREAD = 0.35  # of random allocations, as in `core.methods.candidates.ProxyConfig`
CLOSED, DRAWN = "closed form", "drawn under the budget"
BUILT, COUNTED, PEER = "built and counted", "counted alone", "counted by Torch-Pruning"


def random_sizes(space: Space, number: int, seed: int) -> IntArray:
    """Allocations between one element of a group and all of the widened network's, (number, G)."""
    generator = np.random.default_rng(seed)
    return generator.integers(1, space.graph.sizes + 1, (number, len(space.graph.sizes)))


def peer_counter(model: nn.Module, inputs: Any) -> int:
    """Multiply-accumulates by Torch-Pruning."""
    import torch_pruning

    return int(torch_pruning.utils.count_ops_and_params(model, inputs)[0])


def measure(network: Network, arguments: Namespace) -> dict[str, Any]:
    """Time all ways on one network.

    Raises:
        UserError: the closed form and the counter disagree on a network.
    """
    inputs = network.inputs()
    space = open_space(network.make(), inputs, ShrinkConfig(), seed=0)
    cost = int(BUDGET * space.base_graph.flops())
    limits = limits_of(space, ShrinkConfig(budget=Budget(flops=BUDGET, convention="macs"), floor=0.2))
    many, few = (random_sizes(space, number, 0) for number in (arguments.candidates, arguments.built))

    def networks() -> list[nn.Module]:
        return [built(space, row, 0).eval() for row in few]

    def counting(counter: Callable[[nn.Module, Any], int], models: Sequence[nn.Module]) -> Callable[[], Any]:
        return lambda: [counter(model, inputs) for model in models]

    beforehand = networks()
    ways: dict[str, Callable[[], Callable[[], Any]]] = {
        CLOSED: lambda: lambda: space.graph.cost("macs", many),
        DRAWN: lambda: (
            lambda: draw(space.graph, limits, arguments.candidates, SPREAD, np.random.default_rng(0))
        ),
        BUILT: lambda: lambda: [count(model, inputs) for model in networks()],
        COUNTED: lambda: counting(count, beforehand),
    }
    if find_spec("torch_pruning") is not None:
        ways[PEER] = lambda: counting(peer_counter, beforehand)
    outcomes: dict[str, Outcome[Any]] = time_in_turns(ways, turns=arguments.turns, warmup=1)
    expected = space.graph.cost("macs", few).tolist()
    for way in (BUILT, COUNTED):
        if outcomes[way].result != expected:
            raise UserError(
                f"{network.title}: the closed form prices {expected}, {way} are {outcomes[way].result}"
            )
    drawn = outcomes[DRAWN].result
    assert drawn is not None
    under = space.graph.cost("macs", drawn)
    numbers = {CLOSED: arguments.candidates, DRAWN: arguments.candidates}
    rates = {}
    for way, outcome in outcomes.items():
        assert outcome.timing is not None  # no failure is allowed for
        rates[way] = numbers.get(way, arguments.built) / outcome.timing.cpu_median
    return {
        "title": network.title,
        "groups": len(space.graph.groups),
        "timings": {way: outcome.timing.to_json() for way, outcome in outcomes.items() if outcome.timing},
        "per_second": rates,
        "drawn_over_budget": int((under > cost).sum()),
        "drawn_least": float(under.min() / cost),
    }


def report(results: Sequence[dict[str, Any]], arguments: Namespace) -> str:
    """The table and what it says, in Markdown."""
    ways = list(results[0]["per_second"])
    rows = []
    for result in results:
        rates = result["per_second"]
        quicker = max(rate for way, rate in rates.items() if way in (COUNTED, PEER))
        rows.append(
            [result["title"], str(result["groups"]), *(f"{rates[way]:,.4g}" for way in ways),
             f"{rates[CLOSED] / quicker:,.0f}", f"{rates[DRAWN] / quicker:,.0f}"]
        )  # fmt: skip
    header = ["network", "groups", *ways, "closed form over the quicker counter", "drawn over it"]
    least = min(result["drawn_least"] for result in results)
    over = sum(result["drawn_over_budget"] for result in results)
    return (
        f"Allocations per second of processor time, medians of {arguments.turns} turns: {arguments.candidates:,} at a "
        f"time in closed form, {arguments.built} one after the other through a counter. *{DRAWN.capitalize()}* are "
        f"random proportions, each scaled to {BUDGET:.0%} of the baseline's MACs and filled up to the last channel "
        f"that fits; {over} of them are above it, and the smallest has {100 * least:.2f} % of it. The prices counted "
        f"by ours equal the closed form's; Torch-Pruning counts by conventions of its own. The ratios are taken "
        f"against the quicker counter, on networks that are there already.\n\n"
        f"{markdown_table(header, rows)}"
    )


def run(arguments: Namespace, argv: Sequence[str] | None) -> int:
    """Measure, print, write; returns the exit status."""
    for name in arguments.networks:
        if name not in NETWORKS:
            raise UserError(f"unknown network '{name}': {did_you_mean(name, NETWORKS)}")
    if min(arguments.candidates, arguments.built, arguments.turns) < 1:
        raise UserError("--candidates, --built and --turns: use at least 1")
    torch.set_num_threads(1)
    facts = machine("torch-pruning")
    results = []
    for name in arguments.networks:
        print(f"{name} ...", file=sys.stderr)
        results.append(measure(NETWORKS[name], arguments))
    text = report(results, arguments)
    print(text)
    if arguments.output:
        publish(arguments.output, "What a price costs", command_text("benchmarks.pricing", argv), facts, text,
                {"networks": results})  # fmt: skip
    return 0


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog="python -m benchmarks.pricing", description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(USUAL), help=f"some of {', '.join(NETWORKS)}")
    parser.add_argument("--candidates", type=int, default=2000, help="priced in closed form (default: 2000)")
    parser.add_argument("--built", type=int, default=5, help="built and counted (default: 5)")
    parser.add_argument("--turns", type=int, default=5, help="counted runs of each way (default: 5)")
    add_output_arguments(parser, "pricing")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = build_parser().parse_args(argv)
    return run_command(lambda: run(arguments, argv), arguments.debug, NOTHING_KEPT)


if __name__ == "__main__":
    sys.exit(main())
