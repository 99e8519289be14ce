"""The pricing benchmark: a page of rates, on prices that two ways agree about."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import benchmarks.pricing
from benchmarks.pricing import CLOSED, COUNTED, DRAWN, main

FEW = ["--networks", "srresnet", "--candidates", "50", "--built", "2", "--turns", "1"]


def test_the_page_holds_rates_of_every_way(tmp_path: Path) -> None:
    assert main([*FEW, "--output", str(tmp_path / "page")]) == 0
    (network,) = json.loads((tmp_path / "page.json").read_text())["networks"]
    assert network["drawn_over_budget"] == 0
    assert 0.99 < network["drawn_least"] <= 1
    rates = network["per_second"]
    assert rates[CLOSED] > rates[DRAWN] > rates[COUNTED] > 0
    text = (tmp_path / "page.md").read_text()
    assert "| SRResNet x4 |" in text
    assert "--candidates 50" in text


def test_prices_that_differ_are_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmarks.pricing, "count", lambda model, inputs: 1)
    assert main(FEW) == 2
    assert "SRResNet x4: the closed form prices" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--networks", "srresnett"], ["--built", "0"]], ids=str)
def test_wrong_usage_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FEW, *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1
