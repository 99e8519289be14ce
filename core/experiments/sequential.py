"""Experiments without a fixed number of seeds: what may be tested when, and which differences a run can detect.

If one looks at a table, adds seeds and looks again, one finds differences where there are none. Planned looks keep the
error rate. At each look a difference counts only if its p-value is below the level that O'Brien and Fleming's bounds
(Biometrics, 1979) give that look. All looks together then err with probability α, nearly: the bounds are those of
normal deviates, and p is from Student's t. In simulations the looks 4, 8 and 12 err with 5.2 % instead of 5, and looks
that begin at 2 pairs with up to 5.7 %. Several contrasts share α by Holm's rule, look by look (Maurer and Bretz,
Statistics in Biopharmaceutical Research, 2013).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from scipy.integrate import simpson
from scipy.optimize import brentq

from core.errors import UserError
from core.experiments.statistics import half_interval, paired_p
from core.storage.files import read_json
from core.storage.schema import lower

_POINTS = 201  # of the grid on which densities are carried from look to look: 1e-8 in the levels


@cache
def look_levels(looks: tuple[int, ...], alpha: float = 0.05) -> tuple[float, ...]:
    """The two-sided level of each look, by O'Brien and Fleming: |z_k| >= c / sqrt(n_k / n_K) counts.

    Args:
        looks: pairs at each look, rising; one look is the ordinary test.
        alpha: the probability that any of them errs where there is no difference.
    """
    shares = np.array(looks) / looks[-1]

    def excess(bound: float) -> float:
        return _crossing(shares, bound / np.sqrt(shares)) - alpha

    # At the last look the bound lies between a single test's and that of as many tests by Bonferroni.
    lowest, highest = (float(stats.norm.isf(alpha / 2 / tests)) for tests in (1, len(looks)))
    bound = brentq(excess, lowest - 0.01, highest + 0.01, xtol=1e-10) if len(looks) > 1 else lowest
    return tuple(float(2 * stats.norm.sf(bound / math.sqrt(share))) for share in shares)


def _crossing(shares: np.ndarray, bounds: np.ndarray) -> float:
    """The probability that a standard Brownian motion at times `shares`, over their root, leaves the bounds.

    It carries the density of paths that have not left from look to look (Armitage, McPherson and Rowe, 1969).
    """
    inside = bounds[0] * math.sqrt(shares[0])
    grid = np.linspace(-inside, inside, _POINTS)
    density = stats.norm.pdf(grid, scale=math.sqrt(shares[0]))
    for before, share, bound in zip(shares[:-1], shares[1:], bounds[1:], strict=True):
        inside = bound * math.sqrt(share)
        following = np.linspace(-inside, inside, _POINTS)
        step = stats.norm.pdf(following[:, None] - grid[None], scale=math.sqrt(share - before))
        density = simpson(step * density, grid, axis=1)
        grid = following
    return float(1 - simpson(density, grid))


def pairs_needed(difference: float, deviation: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """Pairs of trainings that find a difference with the given power, by the two-sided paired t-test.

    Args:
        difference: the true one.
        deviation: standard deviation of a pair's difference, in the same unit.
        alpha: level of the test; the first of m contrasts has α / m by Holm's rule.
        power: probability of finding the difference.

    Raises:
        ValueError: the difference is zero, which no number of pairs finds.
    """
    if not difference:
        raise ValueError("no number of pairs finds a difference of zero")
    pairs = 2
    while _power(pairs, difference / deviation, alpha) < power:
        pairs += 1
    return pairs


def smallest_seen(pairs: int, deviation: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The true difference that this many pairs find with the given power; see `pairs_needed`."""
    if pairs < 2:
        return math.inf
    highest = 1.0
    while _power(pairs, highest, alpha) < power:
        highest *= 2
    return deviation * float(brentq(lambda ratio: _power(pairs, ratio, alpha) - power, 1e-6, highest))


def _power(pairs: int, ratio: float, alpha: float) -> float:
    freedom, shift = pairs - 1, ratio * math.sqrt(pairs)
    bound = stats.t.isf(alpha / 2, freedom)
    # Far out the other tail is zero, but scipy's noncentral t gives NaN for it.
    tails = [stats.nct.sf(bound, freedom, shift), stats.nct.cdf(-bound, freedom, shift)]
    return float(np.nansum(tails)) if math.isfinite(tails[0]) else 1.0


@dataclass(frozen=True)
class Contrast:
    """One question: whether a method's metric differs from another's.

    Attributes:
        method: of the registry, or "baseline".
        against: likewise.
    """

    method: str
    against: str

    def __str__(self) -> str:
        return f"{self.method} against {self.against}"


@dataclass(frozen=True)
class Registered:
    """What was registered before a confirmation ran.

    Attributes:
        contrasts: the questions; no other row is tested.
        looks: numbers of pairs at which they are tested, rising; the last ends the experiment.
        metric: key of the metric that is compared.
        alpha: the probability of any false answer.
        deviation: expected standard deviation of a pair's difference, for the power that is printed beforehand.
        written: date of the registration, as text for the reader.
        margin: a method becomes the default if it beats all but the baseline, and the upper end of its 95 % interval
            against the baseline is below this (`becomes_default`); None if no default is decided.
    """

    contrasts: tuple[Contrast, ...]
    looks: tuple[int, ...]
    metric: str
    alpha: float = 0.05
    deviation: float | None = None
    written: str = ""
    margin: float | None = None

    def __post_init__(self) -> None:
        if not self.contrasts or len(set(self.contrasts)) < len(self.contrasts):
            raise UserError("contrasts: name at least one, and none twice")
        if not self.looks or self.looks[0] < 2 or any(a >= b for a, b in zip(self.looks, self.looks[1:])):
            raise UserError(f"looks: {list(self.looks)} are no rising numbers of pairs from 2 on")
        if not 0 < self.alpha < 1:
            raise UserError(f"alpha is {self.alpha}: use a probability such as 0.05")
        if self.deviation is not None and not 0 < self.deviation < math.inf:
            raise UserError(f"deviation is {self.deviation}: use a positive number, or leave it out")
        if self.margin is not None and not 0 <= self.margin < math.inf:
            raise UserError(
                f"margin is {self.margin}: use the largest acceptable loss, 0 or more, or leave it out"
            )

    @property
    def methods(self) -> tuple[str, ...]:
        """All methods that have to be trained, each once."""
        return tuple(dict.fromkeys(name for item in self.contrasts for name in (item.against, item.method)))

    @property
    def last(self) -> int:
        """Number of pairs at the end."""
        return self.looks[-1]

    def power(self) -> list[str]:
        """Which differences the looks can detect, in sentences: printed before a run starts."""
        if self.deviation is None:
            return ["No expected deviation is registered: what the looks can see is not known beforehand."]
        level = self.alpha / len(self.contrasts)
        seen = smallest_seen(self.last, self.deviation, alpha=level)
        return [
            f"{self.last} pairs see a difference of {seen:.2f} with 80 % if pairs differ by {self.deviation:g} "
            f"(standard deviation), with {len(self.contrasts)} contrasts at {self.alpha:g} by Holm's rule."
        ]


@dataclass(frozen=True)
class Decision:
    """The state of a contrast.

    Attributes:
        contrast: the question.
        look: number of pairs at which it was answered or last tested; 0 before the first look.
        p: of the paired t-test at that look.
        level: the level with which p is compared there.
        differs: whether a difference was found.
        final: whether no look is left that could find one.
    """

    contrast: Contrast
    look: int
    p: float
    level: float
    differs: bool
    final: bool


def decide(registered: Registered, differences: Mapping[Contrast, Sequence[float]]) -> list[Decision]:
    """The decisions of the looks reached so far on each contrast.

    A contrast takes part in a look once it has as many pairs; further pairs wait for the next look.

    Args:
        registered: contrasts and looks.
        differences: contrast -> differences of its pairs, in the order of the seeds.
    """
    count = len(registered.contrasts)
    found: dict[Contrast, Decision] = {}
    latest = {item: Decision(item, 0, math.nan, math.nan, False, False) for item in registered.contrasts}
    for index, look in enumerate(registered.looks):
        open_now = [item for item in registered.contrasts if item not in found]
        p_values = {
            item: paired_p(differences[item][:look])
            for item in open_now
            if len(differences.get(item, ())) >= look
        }
        again = True
        while again:
            level = look_levels(registered.looks, registered.alpha / max(1, count - len(found)))[index]
            again = False
            for item, p in p_values.items():
                if item in found:
                    continue
                differs = p <= level
                latest[item] = Decision(item, look, p, level, differs, differs or look == registered.last)
                if differs:
                    found[item] = latest[item]
                    again = True
    return [latest[item] for item in registered.contrasts]


def becomes_default(
    registered: Registered,
    decisions: Sequence[Decision],
    differences: Mapping[Contrast, Sequence[float]],
    *,
    higher_is_better: bool,
) -> dict[str, bool | None]:
    """Which methods become the default by the registered rule; None while a question is open.

    A method becomes the default under two conditions. It is found to be better than every method with which it is
    compared, except the baseline. And the worse end of its 95 % interval against the baseline, at the look that
    answered, is below `Registered.margin`. A method is not decided on unless it is compared with both the baseline and
    another method.
    """
    sign = -1.0 if higher_is_better else 1.0
    found: dict[str, bool | None] = {}
    for method in dict.fromkeys(item.contrast.method for item in decisions):
        own = {item.contrast.against: item for item in decisions if item.contrast.method == method}
        base = own.pop("baseline", None)
        if base is None or not own or registered.margin is None:
            continue
        if not all(item.final for item in (base, *own.values())):
            found[method] = None
            continue
        worse = {
            item: sign * np.array(differences[item.contrast][: item.look]) for item in (base, *own.values())
        }
        beats = all(item.differs and worse[item].mean() < 0 for item in own.values())
        half = half_interval(worse[base].tolist())
        found[method] = beats and half is not None and bool(worse[base].mean() + half < registered.margin)
    return found


def read_registered(path: Path) -> Registered:
    """The contrasts of a small JSON file.

    Raises:
        UserError: the file cannot be read, or holds anything but the entries of `Registered`.
    """
    try:
        content: Any = read_json(path)
    except OSError as error:
        raise UserError(f"contrasts '{path}' cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"contrasts '{path}' are no JSON: {error}") from error
    try:
        found: Registered = lower(content, Registered)
        return found
    except UserError as error:
        raise UserError(
            f"contrasts '{path}' need 'contrasts' (each with 'method' and 'against'), 'looks' and 'metric', and may "
            f"have 'alpha', 'deviation', 'margin' and 'written': {error}"
        ) from error
