"""Planned looks: published bounds, the error they keep, the power of pairs, contrasts that are written down."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from core.errors import UserError
from core.experiments.sequential import (
    Contrast,
    Registered,
    becomes_default,
    decide,
    look_levels,
    pairs_needed,
    read_registered,
    smallest_seen,
)

FIRST, SECOND, THIRD = Contrast("a", "b"), Contrast("a", "c"), Contrast("d", "b")


@pytest.mark.parametrize(
    ("looks", "bounds"),
    [
        ((1, 2), (2.797, 1.977)),
        ((1, 2, 3, 4), (4.049, 2.863, 2.337, 2.024)),
        ((1, 2, 3, 4, 5), (4.562, 3.226, 2.634, 2.281, 2.040)),
    ],
)
def test_bounds_are_those_of_jennison_and_turnbull(looks: tuple[int, ...], bounds: tuple[float, ...]) -> None:
    """Group Sequential Methods (2000), Table 2.3: O'Brien and Fleming at 5 %."""
    found = [stats.norm.isf(level / 2) for level in look_levels(looks)]
    np.testing.assert_allclose(found, bounds, atol=1e-3)


def test_one_look_is_the_ordinary_test() -> None:
    assert look_levels((7,), 0.05) == pytest.approx((0.05,))


def test_all_looks_together_err_with_probability_alpha() -> None:
    """200,000 random walks without drift, looked at after 8, 12, 16 and 24 steps."""
    looks = (8, 12, 16, 24)
    steps = np.random.default_rng(0).standard_normal((200_000, 24)).cumsum(1)
    bounds = stats.norm.isf(np.array(look_levels(looks)) / 2)
    crossed = np.abs(steps[:, np.array(looks) - 1]) / np.sqrt(looks) >= bounds
    assert crossed.any(1).mean() == pytest.approx(0.05, abs=0.002)


def test_pairs_and_power_of_the_paired_test() -> None:
    assert [pairs_needed(size, 0.55) for size in (0.3, 0.5, 1.0)] == [29, 12, 5]
    assert [pairs_needed(size, 1.44) for size in (0.3, 0.5, 1.0)] == [183, 68, 19]
    assert smallest_seen(12, 0.55) == pytest.approx(0.489, abs=0.001)
    assert smallest_seen(1, 0.55) == math.inf
    # By trying: so many experiments of 12 pairs find what 12 pairs are said to see.
    rng = np.random.default_rng(1)
    drawn = rng.normal(smallest_seen(12, 0.55), 0.55, (20_000, 12))
    assert (stats.ttest_1samp(drawn, 0.0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.01)


def test_decisions_wait_for_looks_and_share_alpha_by_holms_rule() -> None:
    registered = Registered((FIRST, SECOND, THIRD), (4, 8), "error")
    rng = np.random.default_rng(2)
    clear = (rng.normal(-5, 0.2, 8)).tolist()
    weak = (np.array([1.0, -1.0] * 4) + 0.02).tolist()
    now = decide(registered, {FIRST: clear[:3], SECOND: weak[:3], THIRD: []})
    assert [(item.look, item.differs, item.final) for item in now] == [(0, False, False)] * 3
    now = decide(registered, {FIRST: clear[:7], SECOND: weak[:7], THIRD: clear[:2]})
    assert [(item.look, item.differs, item.final) for item in now] == [
        (4, True, True), (4, False, False), (0, False, False),
    ]  # fmt: skip
    # The first was found at a third of alpha; the others then have half of it.
    assert now[0].level == look_levels((4, 8), 0.05 / 3)[0]
    assert now[1].level == look_levels((4, 8), 0.05 / 2)[0]
    now = decide(registered, {FIRST: clear, SECOND: weak, THIRD: clear})
    assert [(item.look, item.differs, item.final) for item in now] == [
        (4, True, True), (8, False, True), (4, True, True),
    ]  # fmt: skip


def test_experiments_without_any_difference_find_one_no_more_often_than_alpha() -> None:
    """Three contrasts without any difference, with looks at 8, 16 and 24 pairs."""
    registered = Registered((FIRST, SECOND, THIRD), (8, 16, 24), "error", alpha=0.2)
    rng = np.random.default_rng(3)
    wrong = 0
    for _ in range(400):
        drawn = rng.standard_normal((3, 24))
        answers = decide(registered, dict(zip(registered.contrasts, drawn.tolist(), strict=True)))
        wrong += any(answer.differs for answer in answers)
    assert wrong / 400 < 0.2 + 0.04


def test_contrasts_are_read_from_a_file_and_mistakes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "contrasts.json"
    content: dict[str, Any] = {
        "contrasts": [{"method": "a", "against": "b"}, {"method": "a", "against": "baseline"}],
        "looks": [8, 12], "metric": "top1_error", "deviation": 0.55, "written": "2026-11-29",
    }  # fmt: skip
    path.write_text(json.dumps(content))
    registered = read_registered(path)
    assert registered.methods == ("b", "a", "baseline")
    assert (registered.last, registered.alpha) == (12, 0.05)
    assert "12 pairs see a difference of" in registered.power()[0]
    assert "not known beforehand" in Registered((FIRST,), (4,), "error").power()[0]
    for change, message in [
        ({"looks": [12, 8]}, r"\[12, 8\] are no rising numbers"),
        ({"looks": [1, 8]}, "from 2 on"),
        ({"contrasts": []}, "at least one"),
        ({"contrasts": content["contrasts"][:1] * 2}, "none twice"),
        ({"contrasts": [{"method": "a"}]}, "'contrasts\\[0\\].against' is required"),
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"deviation": 0}, "deviation is 0"),
        ({"power": 0.8}, "unknown key 'power'"),
    ]:
        path.write_text(json.dumps({**content, **change}))
        with pytest.raises(UserError, match=message):
            read_registered(path)
    path.write_text("{")
    with pytest.raises(UserError, match="are no JSON"):
        read_registered(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_registered(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("against_uniform", "against_baseline", "higher", "answer"),
    [
        ([-1.0, -1.1, -0.9, -1.2], [0.0, 0.05, -0.05, 0.1], False, True),
        ([-1.0, -1.1, -0.9, -1.2], [0.3, 0.35, 0.25, 0.4], False, False),  # worse than the baseline by more
        ([1.0, 1.1, 0.9, 1.2], [0.0, 0.05, -0.05, 0.1], False, False),  # found to differ, but worse
        ([1.0, 1.1, 0.9, 1.2], [0.0, 0.05, -0.05, 0.1], True, True),
        ([-1.0, 1.1, -0.9, 1.2], [0.0, 0.05, -0.05, 0.1], False, False),  # not told from zero
        ([-1.0, -1.1], [0.0, 0.05], False, None),
    ],
)
def test_the_rule_for_the_default(
    against_uniform: list[float], against_baseline: list[float], higher: bool, answer: bool | None
) -> None:
    uniform, baseline = Contrast("m", "uniform"), Contrast("m", "baseline")
    registered = Registered((uniform, baseline), (4,), "top1_error", margin=0.2)
    pairs = {uniform: against_uniform, baseline: against_baseline}
    assert becomes_default(registered, decide(registered, pairs), pairs, higher_is_better=higher) == {
        "m": answer
    }
    without = Registered((uniform, baseline), (4,), "top1_error")
    assert becomes_default(without, decide(without, pairs), pairs, higher_is_better=higher) == {}
    with pytest.raises(UserError, match="margin is -1"):
        Registered((uniform,), (4,), "top1_error", margin=-1)


@pytest.mark.parametrize(("looks", "error"), [((4, 8, 12), 0.052), ((2, 3), 0.0565)])
def test_students_t_errs_a_little_more_often_than_alpha(looks: tuple[int, ...], error: float) -> None:
    """The bounds are normal deviates': what the module says of its looks, in 100,000 experiments."""
    drawn = np.random.default_rng(0).standard_normal((100_000, looks[-1]))
    crossed = np.zeros(len(drawn), dtype=bool)
    for look, level in zip(looks, look_levels(looks), strict=True):
        crossed |= stats.ttest_1samp(drawn[:, :look], 0.0, axis=1).pvalue <= level
    assert crossed.mean() == pytest.approx(error, abs=0.002)  # three standard errors


def test_levels_and_powers_far_out() -> None:
    assert look_levels((2, 500))[-1] == pytest.approx(0.05, abs=1e-6)
    assert look_levels((4, 8), 0.9)[0] < 0.9
    few = smallest_seen(2, 1.0, alpha=1e-4)
    assert pairs_needed(1.001 * few, 1.0, alpha=1e-4) == 2
    with pytest.raises(ValueError, match="zero"):
        pairs_needed(0.0, 1.0)
