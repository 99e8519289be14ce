"""Channel-Bench-Macro's table of trained networks, and accuracies for widths between its points.

Each space has 4^7 networks, each trained three times on CIFAR-10. Two ways lead from the table to other widths:

    surface     a cubic polynomial in the logarithms of the relative widths, fitted to log(100 - mean accuracy)
    neighbours  the same logarithms interpolated, linearly in the logarithms of the widths, between the 2^7 points of
                the table around the widths; on a point of the table it is the table
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import combinations_with_replacement, product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

from benchmarks.channel_bench_networks import BASELINE, QUARTERS
from core.errors import UserError
from core.graph.channels import ChannelGraph
from core.methods.candidates import IntArray, Limits, exchange, scale_to_budget
from core.storage.data import require

ADDRESS = "https://github.com/xiusu/Channel-Bench-Macro"
LAYERS = len(BASELINE)
DEGREE = 3
PARENTS, ROUNDS = 64, 60  # options of the search for the surface's best

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """Trained networks.

    Attributes:
        digits: widths in quarters of the full ones, (N, 7).
        accuracy: test accuracy in percent of every training, (N, T).
        flops: multiply-accumulates per image, (N,), as the table has them.
        params: parameters, (N,), likewise.
    """

    digits: IntArray
    accuracy: FloatArray
    flops: IntArray
    params: IntArray

    @property
    def mean(self) -> FloatArray:
        """Mean accuracy over the trainings, (N,)."""
        return self.accuracy.mean(axis=1)

    @property
    def noise(self) -> float:
        """Standard deviation of one training, pooled over the networks, in points."""
        return math.sqrt(self.accuracy.var(axis=1, ddof=1).mean())

    def row(self, digits: str) -> int:
        """The row of a network."""
        return int(np.flatnonzero((self.digits == [int(digit) for digit in digits]).all(axis=1))[0])


def read_table(root: Path, space: str) -> Table:
    """The table of a space, "MobileNet" or "ResNet", under a data root.

    Raises:
        MissingData: the file is not there.
        UserError: it is no such table, or incomplete.
    """
    folder = root / "channel-bench-macro"
    path = require(folder / f"Results_{space}.json", f"Channel-Bench-Macro's {space} table", ADDRESS)
    again = f"get it from {ADDRESS}"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        names = ["".join(name) for name in product("1234", repeat=LAYERS)]
        if sorted(entries) != names:
            raise UserError(f"'{path}' has {len(entries):,} networks that are not all {len(names):,} of the space; "
                            f"{again}")  # fmt: skip
        found = Table(
            np.array([[int(digit) for digit in name] for name in names], dtype=np.int64),
            np.array([entries[name]["acc"] for name in names], dtype=np.float64),
            np.array([entries[name]["flops"] for name in names], dtype=np.int64),
            np.array([entries[name]["params"] for name in names], dtype=np.int64),
        )
    except (ValueError, TypeError, KeyError) as error:  # a JSON error is a ValueError
        raise UserError(f"'{path}' is no table of Channel-Bench-Macro ({error}); {again}") from error
    inside = (found.accuracy > 0) & (found.accuracy < 100)  # also false for NaN
    if found.accuracy.ndim != 2 or found.accuracy.shape[1] < 2 or not inside.all():
        raise UserError(
            f"'{path}' needs two accuracies or more, between 0 and 100, for every network; {again}"
        )
    return found


@dataclass(frozen=True)
class Surface:
    """A polynomial in the logarithms of relative widths, for the logarithm of the error.

    Attributes:
        powers: variables of each monomial, padded with the constant's place 7, (P, degree).
        coefficients: (P,).
    """

    powers: IntArray
    coefficients: FloatArray

    def __call__(self, relative: FloatArray) -> FloatArray:
        """Accuracy in percent at widths relative to the full ones, (..., 7) -> (...)."""
        return 100 - np.exp(_monomials(relative, self.powers) @ self.coefficients)


@dataclass(frozen=True)
class Fit:
    """How well a surface fits, in points of accuracy.

    Attributes:
        residual: standard deviation of the table's means around it, corrected for the number of coefficients.
        noise: standard deviation of such a mean by the scatter of the trainings alone.
        lack: the rest of the residual beyond this noise; 0 if the residual is smaller.
        ratio: F of the test for lack of fit: residual over noise, both squared.
    """

    residual: float
    noise: float
    lack: float
    ratio: float


def _monomials(relative: FloatArray, powers: IntArray) -> FloatArray:
    logarithms = np.log(relative)
    extended = np.concatenate([logarithms, np.ones((*logarithms.shape[:-1], 1))], axis=-1)
    return extended[..., powers].prod(axis=-1)


def fit_surface(table: Table, accuracy: FloatArray | None = None, degree: int = DEGREE) -> Surface:
    """Least squares of log(100 - accuracy).

    Args:
        table: the networks.
        accuracy: (N,); the mean over the trainings by default.
        degree: of the polynomial.
    """
    # Every multiset of the variables and the constant is a monomial, such as x0·x3·1.
    powers = np.array(list(combinations_with_replacement(range(LAYERS + 1), degree)), dtype=np.int64)
    terms = _monomials(table.digits / QUARTERS, powers)
    target = np.log(100 - (table.mean if accuracy is None else accuracy))
    return Surface(powers, np.linalg.lstsq(terms, target, rcond=None)[0].astype(np.float64))


def judge(table: Table, surface: Surface) -> Fit:
    """The surface's lack of fit beyond the scatter of the trainings."""
    number, trainings = table.accuracy.shape
    away = table.mean - surface(table.digits / QUARTERS)
    residual = float((away**2).sum() / max(1, number - len(surface.coefficients)))
    noise = table.noise**2 / trainings
    return Fit(
        math.sqrt(residual),
        math.sqrt(noise),
        math.sqrt(max(0.0, residual - noise)),
        residual / noise if noise else math.inf,
    )


def neighbours(table: Table, relative: FloatArray) -> FloatArray:
    """Accuracy interpolated between the table's points around the widths, (..., 7) -> (...), widths in [1/4, 1].

    Raises:
        UserError: a width is outside the table.
    """
    quarters = np.asarray(relative) * QUARTERS
    if ((quarters < 1) | (quarters > QUARTERS)).any():
        raise UserError(
            f"widths of {quarters.min():.3f} to {quarters.max():.3f} quarters: the table has 1 to 4"
        )
    ordered = np.empty((QUARTERS,) * LAYERS)
    ordered[tuple((table.digits - 1).T)] = np.log(100 - table.mean)
    grid = [np.log(np.arange(1, QUARTERS + 1))] * LAYERS
    return 100 - np.exp(RegularGridInterpolator(grid, ordered)(np.log(quarters)))


@dataclass(frozen=True)
class Oracle:
    """The best networks that a budget allows.

    Attributes:
        sizes: elements of the surface's best network, (G,).
        surface: the surface's accuracy of it.
        table: the largest mean accuracy of a network of the table; it is the largest of thousands of noisy ones.
        unbiased: the network is chosen by all trainings but one, and its accuracy read off this one; the mean over all
            choices.
    """

    sizes: IntArray
    surface: float
    table: float
    unbiased: float


def best_table_points(table: Table, affordable: NDArray[np.bool_]) -> tuple[float, float]:
    """(largest mean among the networks of a mask (N,), its unbiased estimate); see `Oracle`."""
    accuracy = table.accuracy[affordable]
    trainings = range(accuracy.shape[1])
    best = [int(np.delete(accuracy, left_out, axis=1).mean(axis=1).argmax()) for left_out in trainings]
    read = accuracy[best, trainings]
    return float(accuracy.mean(axis=1).max()), float(np.mean(read))


def find_oracle(
    table: Table, surface: Surface, graph: ChannelGraph, limits: Limits, full: IntArray, seed: int = 0
) -> Oracle:
    """The best network within the limits, by exchanges of width that start from the surface's best points of the table.

    Args:
        table: gives the starting points, and the best of its own points.
        surface: the function that is maximised.
        graph: the groups of the widest network, in the order of the table's digits.
        limits: of FLOPs, and the table's least widths.
        full: elements of the widest network, (G,).
        seed: of the exchanges.
    """
    generator = np.random.default_rng(seed)
    affordable = limits.fits(graph, table.digits * full // QUARTERS)
    points = table.digits[affordable] / QUARTERS
    start = points[np.argsort(-surface(points))[:PARENTS]]
    sizes = scale_to_budget(graph, start * full / limits.base, limits)
    for round_ in range(ROUNDS):
        spread = 0.4 * (0.02 / 0.4) ** (round_ / (ROUNDS - 1))
        children = exchange(graph, limits, sizes, spread, generator)
        both = np.unique(np.concatenate([sizes, children]), axis=0)
        sizes = both[np.argsort(-surface(both / full), kind="stable")[:PARENTS]]
    best, unbiased = best_table_points(table, affordable)
    return Oracle(sizes[0], float(surface(sizes[0] / full)), best, unbiased)
