"""Where one tracker beats another: per-sequence differences and a paired bootstrap over sequences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap

from core.errors import UserError, check_known
from tracking.evaluation.evaluation import Evaluation, as_dict


@dataclass(frozen=True)
class Comparison:
    """Tracker A against tracker B on the sequences that both have.

    Attributes:
        first: name of A.
        second: name of B.
        measure: the score compared.
        names: sequences, A's largest gain first.
        first_scores: A's score on each, `(sequences,)`.
        second_scores: B's.
        mean: mean difference A - B.
        low: lower end of the bootstrap interval of the mean difference.
        high: upper end.
        confidence: of the interval.
        left_out: number of sequences for which the other tracker of the two, or some further one, has no result.
    """

    first: str
    second: str
    measure: str
    names: tuple[str, ...]
    first_scores: np.ndarray
    second_scores: np.ndarray
    mean: float
    low: float
    high: float
    confidence: float
    left_out: int = 0

    @property
    def differences(self) -> np.ndarray:
        """A - B per sequence."""
        return self.first_scores - self.second_scores


def paired_bootstrap(
    differences: np.ndarray, resamples: int = 10_000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean of paired differences (Efron and Tibshirani 1993, chapter 13).

    Sequences are drawn with replacement, each with both trackers' scores, so the difficulty of a sequence cancels.

    Args:
        differences: one per sequence.
        resamples: number of draws.
        confidence: coverage of the interval.
        seed: of the draws.
    """
    if differences.size < 2:
        return float(differences[0]), float(differences[0])
    found = bootstrap(
        (differences,),
        np.mean,
        n_resamples=resamples,
        batch=1000,  # draws at a time, to bound memory
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = found.confidence_interval
    return float(low), float(high)


def compare(
    first: Evaluation, second: Evaluation, measure: str = "success_auc", confidence: float = 0.95
) -> Comparison:
    """Compare two trackers that were scored by the same protocol.

    Args:
        first: tracker A.
        second: tracker B.
        measure: a key of the scores of a sequence.
        confidence: coverage of the interval.

    Raises:
        UserError: no sequence in common, or the protocol does not define the measure.
    """
    one, two = as_dict(first)["sequences"], as_dict(second)["sequences"]
    names = [name for name in one if name in two]
    if not names:
        raise UserError(f"{first.name} and {second.name} have no sequence in common")
    known = [key for key, value in one[names[0]].items() if value is not None and key != "frames"]
    check_known("no score per sequence", [measure], known)
    scores_one = np.array([one[name][measure] for name in names])
    scores_two = np.array([two[name][measure] for name in names])
    order = np.argsort(scores_two - scores_one, kind="stable")
    low, high = paired_bootstrap(scores_one - scores_two, confidence=confidence)
    return Comparison(
        first.name,
        second.name,
        measure,
        tuple(names[index] for index in order),
        scores_one[order],
        scores_two[order],
        float((scores_one - scores_two).mean()),
        low,
        high,
        confidence,
        len({*one, *two, *first.left_out, *second.left_out}) - len(names),
    )
