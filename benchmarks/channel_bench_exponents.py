"""Learned exponents, tried on Channel-Bench-Macro: what the widths of each group are worth, read off small networks.

Small networks of random widths w are trained, their errors fitted by log(error) = a - Σ b_g log w_g, and the sum
Σ b_g log w_g is maximised under the budget, as `diminishing-returns` does with all b_g alike. Here the table has
trained the networks. The registry has no such method: it would train networks to gain less
(docs/results/channel_bench.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.channel_bench_networks import BASELINE, QUARTERS
from benchmarks.channel_bench_table import FloatArray, Table
from core.graph.channels import ChannelGraph
from core.methods.candidates import IntArray
from core.widths.config import ShrinkConfig
from core.widths.selection import search
from core.widths.space import Space

TRAININGS = 12  # networks for one fit
SMALL = 0.5  # the most FLOPs that one of them may have, over the baseline's
RIDGE = 0.3  # with which exponents are drawn towards those of uniform widths
FITS = 10  # of other networks, for every seed
RECIPE = 60 * 50_000  # images of one training of the table
BASE = np.array([int(digit) for digit in BASELINE])


def uniform_exponents(graph: ChannelGraph, kind: str, sizes: IntArray) -> FloatArray:
    """The exponents for which these widths cannot be bettered at their cost: shares of the marginal cost, (G,).

    Args:
        graph: with the cost, a polynomial of the widths.
        kind: of the cost.
        sizes: elements of the groups, (G,).
    """
    shares = graph.cost.marginal(kind, sizes) * sizes
    return np.asarray(shares / shares.sum(), dtype=np.float64)


def fit_exponents(
    logarithms: FloatArray, errors: FloatArray, uniform: FloatArray, ridge: float = RIDGE
) -> FloatArray:
    """Exponents b of log(error) = a - Σ b_g log w_g by least squares, (G,).

    Args:
        logarithms: log w, (N, G).
        errors: (N,), positive.
        uniform: exponents u of uniform widths: b = c u + d with the penalty ridge · Σ d_g², a and c free.
        ridge: the penalty; 0 leaves b to the networks alone.
    """
    count, groups = logarithms.shape
    terms = np.concatenate([np.ones((count, 1)), -logarithms @ uniform[:, None], -logarithms], axis=1)
    penalty = np.concatenate([np.zeros((groups, 2)), np.sqrt(ridge) * np.eye(groups)], axis=1)
    known = np.concatenate([np.log(errors), np.zeros(groups)])
    found = np.linalg.lstsq(np.concatenate([terms, penalty]), known, rcond=None)[0]
    return np.asarray(found[1] * uniform + found[2:], dtype=np.float64)


def draw_trainings(table: Table, generator: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Small networks of the table: (log of widths over the baseline's, (N, 7), error of one training each, (N,))."""
    small = np.flatnonzero(table.flops <= SMALL * table.flops[table.row(BASELINE)])
    rows = generator.choice(small, TRAININGS, replace=False)
    trained = generator.integers(0, table.accuracy.shape[1], TRAININGS)
    return np.log(table.digits[rows] / BASE), 100 - table.accuracy[rows, trained]


def learned_widths(
    table: Table,
    space: Space,
    groups: Sequence[str],
    config: ShrinkConfig,
    seed: int,
    ridge: float = RIDGE,
) -> FloatArray:
    """Widths by `FITS` fits as shares of the full ones, (FITS, 7), in the order of the digits.

    Args:
        table: of trained networks.
        space: the widened network's.
        groups: names, in the order of the digits.
        config: budget, floor and ceiling.
        seed: of the choice of networks.
        ridge: of the fits.

    Raises:
        BudgetError: the budget cannot be met.
    """
    graph, generator = space.graph, np.random.default_rng(seed)
    places = [graph.names.index(name) for name in groups]
    sizes = np.empty(len(groups), dtype=np.int64)
    sizes[places] = BASE * graph.sizes[places] // QUARTERS
    uniform = uniform_exponents(graph, config.budget.priced, sizes)[places]
    found = []
    for _ in range(FITS):
        exponents = fit_exponents(*draw_trainings(table, generator), uniform, ridge)
        # A group that seems to do harm gets its least width.
        worth = dict(zip(groups, np.maximum(exponents, 1e-6), strict=True))
        scores = {
            group.name: torch.from_numpy(worth[group.name] / np.arange(1, group.size + 1)).float()
            for group in graph.groups
        }
        kept = search(graph, scores, config.budget, space.baseline, floor=config.floor, ceiling=config.ceiling,
                      round_to=config.round_to, allocation="per-flop")  # fmt: skip
        found.append([kept.widths[name] for name in groups])
    return np.array(found) / graph.sizes[places]
