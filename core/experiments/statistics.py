"""Numbers over seeds: means, intervals, paired tests, and the words for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

UNDEFINED = (
    "undefined"  # in the place of a number that does not exist, such as the interval around an infinite mean
)

_ROUNDING = 1e-9  # error of a difference of two percentages
FEW_SEEDS = 5  # with fewer, intervals are so wide that a note says so


def half_interval(values: Sequence[float]) -> float | None:
    """Half the width of the 95 % confidence interval of the mean (Student's t).

    None for a single value; NaN if values are infinite or NaN, as there is no interval then.
    """
    if len(values) < 2:
        return None
    if not np.isfinite(values).all():
        return math.nan
    return float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def interval_note(seeds: int) -> str:
    """The note on "mean ± 95 % confidence interval" over this many seeds; few seeds make it wide."""
    factor = float(stats.t.ppf(0.975, seeds - 1)) / math.sqrt(seeds)
    text = f"Mean ± 95 % confidence interval over {seeds} seeds."
    if seeds < FEW_SEEDS:
        text += (
            f" {seeds} seeds say little: their interval is {factor:.1f} standard deviations to either side, that of "
            f"{FEW_SEEDS} is {stats.t.ppf(0.975, FEW_SEEDS - 1) / math.sqrt(FEW_SEEDS):.1f} (use --seeds)."
        )
    return text


def with_interval(values: Sequence[float], digits: int = 2) -> str:
    """'23.00 ± 0.12', or '23.00' for a single value.

    For infinite values: 'inf ± undefined'; 'undefined' if the mean itself is NaN.
    """
    half, mean = half_interval(values), sum(values) / len(values)
    if half is None or math.isnan(mean):
        return number_text(mean, digits)
    return f"{number_text(mean, digits)} ± {number_text(half, digits)}"


def number_text(value: float | str, digits: int = 2) -> str:
    """'23.00', 'inf', or 'undefined' for NaN; takes the words of JSON files too (`core.storage.files`)."""
    value = float(value)
    return UNDEFINED if math.isnan(value) else f"{value:.{digits}f}"


def width_spread(widths: Mapping[str, int], base: Mapping[str, int]) -> float:
    """Standard deviation, over a network's groups, of log(width / the baseline's width): 0 for uniform widths.

    Args:
        widths: group -> channels; groups of blocks that were left out are missing.
        base: the baseline's widths.
    """
    return float(np.std([math.log(width / base[name]) for name, width in widths.items()])) if widths else 0.0


def paired_p(differences: Sequence[float]) -> float:
    """Two-sided p-value of the paired t-test, from the differences pair by pair.

    NaN, for lack of a test, if they are not all finite or vary only by rounding (errors of a small test set are
    multiples of one image's share).
    """
    if len(differences) < 2 or not np.isfinite(differences).all():
        return math.nan
    if _by_rounding_alone(differences):
        return math.nan
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def _by_rounding_alone(values: Sequence[float]) -> bool:
    return bool(np.ptp(values) <= _ROUNDING * np.max(np.abs(values)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (Scandinavian Journal of Statistics, 1979): the chance of one false finding among all.

    NaN means no test: it stays NaN and does not count.
    """
    order = sorted(
        (index for index, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i]
    )
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def difference_cells(differences: Sequence[tuple[Sequence[float], int]]) -> list[list[str]]:
    """For every row of a table: mean with interval, p of the paired t-test, and p by Holm over all rows.

    Args:
        differences: (pair by pair, digits) of every row; without pairs its cells are empty, with one pair p is empty.
    """
    p_values = [paired_p(values) for values, _ in differences]
    return [
        [
            with_interval(values, digits) if values else "",
            *([p_text(p), p_text(adjusted)] if len(values) > 1 else ["", ""]),
        ]
        for (values, digits), p, adjusted in zip(differences, p_values, holm(p_values), strict=True)
    ]


def fine_digits(values: Sequence[float], digits: int) -> int:
    """Decimals that show two digits of the spread, at least `digits`: differences may be finer than values."""
    if len(values) < 2 or not all(map(math.isfinite, values)) or _by_rounding_alone(values):
        return digits
    return max(digits, 1 - math.floor(math.log10(float(np.std(values, ddof=1)))))


def p_text(p: float, digits: int = 3) -> str:
    """'0.031', '<0.001' or 'n/a'."""
    if math.isnan(p):
        return "n/a"
    least = 10.0**-digits
    return f"<{least:.{digits}f}" if p < least / 2 else f"{p:.{digits}f}"


def statistics(values: Sequence[float]) -> dict[str, Any]:
    """Mean and standard deviation; for infinite values the mean is infinite (or NaN) and the deviation NaN."""
    std = math.nan
    if np.isfinite(values).all():
        std = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"mean": sum(values) / len(values), "std": std, "values": list(values)}
