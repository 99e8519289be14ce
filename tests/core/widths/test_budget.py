"""Budgets as users write them: fractions, absolute numbers, suffixes, units."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import core
from core.errors import UserError
from core.graph.complexity import Cost
from core.widths.budget import Budget

BASELINE = Cost(macs=4_089_184_256, paper=4_117_734_400, params=25_557_032, latency=0.08)


@pytest.mark.parametrize(
    ("options", "limits"),
    [
        ({"flops": 0.9}, {"macs": 3_680_265_830, "paper": 3_705_960_960}),
        ({"flops": "90%", "convention": "paper"}, {"paper": 3_705_960_960}),
        ({"flops": "3.7G"}, {"macs": 3_700_000_000, "paper": 3_700_000_000}),
        ({"flops": 3.7e9, "convention": "macs"}, {"macs": 3_700_000_000}),
        ({"params": "25.5M"}, {"params": 25_500_000}),
        ({"params": 1}, {"params": 25_557_032}),
        ({"params": 2.0}, {"params": 51_114_064}),
        ({"latency": 0.5}, {"latency": 0.04}),
        ({"latency": "12ms"}, {"latency": 0.012}),
        ({"latency": "1.5s"}, {"latency": 1.5}),
        (
            {"flops": 0.5, "params": "10M", "latency": "50%"},
            {"macs": 2_044_592_128, "paper": 2_058_867_200, "params": 10_000_000, "latency": 0.04},
        ),
    ],
)
def test_limits(options: dict[str, Any], limits: dict[str, float]) -> None:
    assert Budget(**options).limits(BASELINE) == pytest.approx(limits, rel=1e-15, abs=0)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("0.9", Budget(flops=0.9)),
        ("90%", Budget(flops="90%")),
        ("flops=0.9,params=20M", Budget(flops=0.9, params="20M")),
        ("params=0.5, latency=12ms", Budget(params=0.5, latency="12ms")),
        ("flops=0.9,convention=macs", Budget(flops=0.9, convention="macs")),
    ],
)
def test_from_a_command_line(text: str, budget: Budget) -> None:
    assert Budget.parse(text) == budget


@pytest.mark.parametrize(
    "make",
    [
        Budget,
        lambda: Budget(flops=0),
        lambda: Budget(flops=-0.5),
        lambda: Budget(flops=float("nan")),
        lambda: Budget(flops=float("inf")),
        lambda: Budget(flops="lots"),
        lambda: Budget(flops="3.7ms"),
        lambda: Budget(latency="3.7G"),
        lambda: Budget(flops="1.2.3"),
        lambda: Budget(flops=0.9, convention="flops"),  # type: ignore[arg-type]
        lambda: Budget.parse("memory=3"),
        lambda: Budget.parse("flops"),
        lambda: Budget.parse("flops=0.9,flops=0.8"),
        lambda: Budget.parse("flops="),
        lambda: Budget.parse(""),
    ],
)
def test_what_is_no_budget_is_refused_in_one_line(make: Any) -> None:
    with pytest.raises(UserError, match="budget") as error:
        make()
    assert "\n" not in str(error.value)


@given(st.integers(1, 10**12), st.integers(1, 1000))
def test_a_limit_is_never_above_the_fraction_and_never_a_whole_unit_below(
    base: int, thousandths: int
) -> None:
    limit = Budget(flops=thousandths / 1000).limits(Cost(0, base, 0))["paper"]
    exact = base * thousandths // 1000
    assert limit == exact


def test_a_number_that_looks_like_a_percentage_is_asked_about() -> None:
    for make in (lambda: Budget(flops=90), lambda: Budget.parse("90"), lambda: Budget.parse("params=90")):
        with pytest.raises(UserError, match=r"=90: did you mean 0\.9, or '90%'\?"):
            make()
    with pytest.raises(UserError, match=r"latency=90: did you mean '90ms', or '90%'\?"):
        Budget.parse("latency=90")
    assert Budget(flops="90").limits(Cost(macs=950, paper=1000, params=3)) == {"macs": 90, "paper": 90}


def test_what_a_file_keeps_of_a_budget() -> None:
    budget = Budget(flops="90%", params=0.5)
    assert budget.to_json() == {"flops": "90%", "params": 0.5, "convention": "both"}
    assert Budget(**budget.to_json()) == budget
    assert core.Budget is Budget
    assert issubclass(core.BudgetError, UserError)
