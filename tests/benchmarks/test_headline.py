"""README's results are what the pages' figures say."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks import headline
from benchmarks.headline import (
    BEGIN,
    END,
    ERROR,
    EXPLORED,
    FEWEST_DRAWN,
    RESULTS,
    Beaten,
    allowed_flops,
    beaten,
    confirmation_sentences,
    early_sentences,
    explored_table,
    is_deep,
    main,
    methods_in_short,
    reduced_sentences,
    table_in_short,
    table_sentences,
    with_paragraphs,
)
from core.errors import UserError
from core.experiments.task import Metric
from core.methods.registry import METHODS


def records(**errors: list[float]) -> list[dict[str, Any]]:
    return [
        {
            "method": name.replace("_", "-"),
            "seed": seed,
            "metrics": {"top1_error": error},
            "cost": {"params": cost},
        }
        for name, values in errors.items()
        for cost in [100 if name == "baseline" else 90]
        for seed, error in enumerate(values)
    ]


def test_readme_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0
    assert "say what the figures say" in capsys.readouterr().out


def test_only_what_is_significant_is_called_better() -> None:
    base, better = [60.0, 61.0, 62.0, 63.0], [50.0, 51.1, 52.0, 53.2]
    page = {"records": records(baseline=base, gradient=better, uniform=[60.5, 60.4, 62.9, 62.0])}
    (line,) = reduced_sentences(page, "page", 7)
    assert "7 epochs, 4 seeds" in line
    assert "1 of 1 search and 0 of 1 control beat the regular network: `gradient` -9.92" in line
    assert "with fewer blocks" not in line
    assert beaten(page["records"]) == [Beaten("by widths alone", ["gradient"], ["uniform"], ["gradient"])]
    worse = {"records": records(baseline=better, gradient=base, fisher=base)}
    assert "by widths alone, 0 of 2 searches beat" in reduced_sentences(worse, "page", 7)[0]
    only = {"records": records(baseline=base, uniform=better, shallow_uniform=better)}
    (line,) = reduced_sentences(only, "page", 7)
    assert "by widths alone, 1 of 1 control (no search was tried) beat the regular network: `uniform`" in line
    assert "with fewer blocks, 1 of 1 control (no search was tried) beat" in line


def test_other_tasks_say_what_is_better_and_what_is_worse() -> None:
    base = [30.0, 31.0, 32.0, 33.0]
    found = records(baseline=base, gradient=[29.0, 30.1, 31.0, 32.0], uniform=[29.0, 32.5, 31.5, 34.0])
    found = [{**record, "cost": {"flops": {"paper": record["cost"]["params"]}}} for record in found]
    line = methods_in_short(found, Metric("top1_error", "PSNR", higher_is_better=True))
    assert line.startswith(
        "at 90 % of the FLOPs, PSNR minus its regular network's, 4 seeds: `gradient` -0.975"
    )
    assert "(worse), `uniform`" in line
    assert line.endswith("the others cannot be told from chance after Holm's correction")
    assert "(better)" in methods_in_short(found, Metric("top1_error", "error", higher_is_better=False))


def test_the_best_of_the_table_and_the_default_are_named() -> None:
    rows = [
        {"method": name, "budget": 0.9, "floor": 0.25, "surface": surface}
        for name, surface in (("uniform", 90.0), ("gradient", 89.5), ("inner-wide", 90.2))
    ]
    rows.append({"method": "gradient", "budget": 0.5, "floor": 0.25, "surface": 99.0})
    space = {"title": "chains", "rows": rows, "baseline": {"surface": 90.1}, "noise": 0.1, "networks": 1000}
    (line,) = table_sentences({"spaces": [space]})
    assert "`inner-wide` is +0.20 points of accuracy from uniform widths and +0.10" in line
    assert "the default `gradient` -0.50 and -0.60" in line
    (short,) = table_in_short({"spaces": [{**space, "noise": 0.2}]})
    assert "no way gains more than one training scatters (0.20; best: `inner-wide` +0.10)" in short
    (short,) = table_in_short({"spaces": [{**space, "noise": 0.05}]})
    assert "on chains `inner-wide` gains 0.10 points, the default `gradient` is at -0.60" in short


def test_registered_contrasts_are_told_as_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "confirmation.json"
    contrasts = [
        {"method": "gradient", "against": "uniform", "pairs": 2, "differs": True, "final": True},
        {"method": "gradient", "against": "random", "pairs": 2, "differs": False, "final": False},
        {"method": "gradient", "against": "baseline", "pairs": 0, "differs": False, "final": False},
    ]
    found = records(
        gradient=[50.0, 50.2, 9.0], uniform=[51.0, 51.3, 8.0], random=[50.0, 50.1, 7.0], baseline=[]
    )
    found += [{**record, "method": "baseline", "cost": {"params": 180}} for record in found[:1]]
    page = {"contrasts": contrasts, "records": found, "becomes_default": {"gradient": None},
            "trained": "chains, 3 epochs", "budget": 0.9, "metric": asdict(ERROR)}  # fmt: skip
    path.write_text(json.dumps(page))
    (line,) = confirmation_sentences(path)
    start = "**Registered beforehand**, chains, 3 epochs: top-1 error % of `gradient` at 90 % of the FLOPs, against "
    assert line.startswith(f"{start}`uniform` -1.05")
    assert "after 2 pairs: better; against `random`" in line
    assert "after 2 pairs: still open" in line
    assert "against the regular network it has not been looked at yet" in line
    assert "Parameters, of the regular network's: `gradient` 50 %, `uniform` 50 %, `random` 50 %." in line
    assert "default" not in line
    path.write_text(json.dumps({**page, "becomes_default": {"gradient": True}}))
    assert "`gradient` becomes the default" in confirmation_sentences(path)[0]


def test_contrasts_of_several_methods_and_without_the_regular_network(tmp_path: Path) -> None:
    path = tmp_path / "confirmation.json"
    contrasts = [
        {"method": method, "against": "uniform", "pairs": 2, "differs": True, "final": True}
        for method in ("gradient", "fisher")
    ]
    found = records(gradient=[50.0, 50.2], fisher=[52.0, 52.5], uniform=[51.0, 51.3])
    page = {"contrasts": contrasts, "records": found, "becomes_default": {}, "trained": "chains, 3 epochs",
            "budget": "params=0.5", "metric": asdict(ERROR)}  # fmt: skip
    path.write_text(json.dumps(page))
    (line,) = confirmation_sentences(path)
    assert "of `gradient`, `fisher` at a budget of params=0.5" in line
    assert "`gradient` against `uniform` -1.05" in line
    assert "pairs: better; `fisher` against `uniform` 1.1" in line
    assert "Parameters" not in line


def test_ways_that_leave_blocks_out_are_known_by_what_they_do() -> None:
    deep = [name for name in METHODS if is_deep(name)]
    assert "receptive-field-uniform" in deep
    assert "gradient" not in deep


def test_every_folder_of_an_exploration_has_its_table() -> None:
    folders = {path.name for path in (RESULTS / "records").glob("exploration*")}
    assert folders == {*EXPLORED}
    for name in folders:
        rows = explored_table(RESULTS / "records" / name, "here").splitlines()[2:]
        records = map(read, (RESULTS / "records" / name).iterdir())
        assert len(rows) == len({(record["method"], allowed_flops(record)) for record in records})


def test_an_exploration_keeps_budgets_apart(tmp_path: Path) -> None:
    for number, (method, budget, error) in enumerate(
        [("uniform", 0.5, 40.0), ("uniform", 0.9, 30.0), ("uniform", 0.9, 32.0), ("baseline", None, 33.0)]
    ):
        record = {
            "method": method,
            "shrink": None if budget is None else {"budget": {"flops": budget}},
            "metrics": {"top1_error": error, "loss": 1.0},
            "train_loss": 0.5,
            "losses": [1.0, 0.5],
        }
        (tmp_path / f"{number}.json").write_text(json.dumps(record))
    head, _, *rows = explored_table(tmp_path, "here").splitlines()
    assert head.startswith("| here, 2 epochs | FLOPs % | seeds |")
    assert [row.split(" | ")[:4] for row in rows] == [
        ["| `baseline`", "100", "1", "33.00"],
        ["| `uniform`", "90", "2", "31.00"],
        ["| `uniform`", "50", "1", "40.00"],
    ]


def test_first_epochs_are_compared_with_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headline, "RESULTS", tmp_path)
    drawn = [
        {"method": "random", "losses": [5.0 - seed, 1.0, float(seed)], "metrics": {"psnr": 30.0 + seed}}
        for seed in range(FEWEST_DRAWN)
    ]
    page = {
        "records": drawn,
        "metric": asdict(Metric("psnr", "PSNR", higher_is_better=True)),
        "trained": "chains",
    }
    (tmp_path / "confirmation_chains.json").write_text(json.dumps(page))
    few = {**page, "records": drawn[1:]}
    (tmp_path / "confirmation_few.json").write_text(json.dumps(few))
    _, table = early_sentences()
    assert table.splitlines()[2:] == ["| chains | 5 | -1.00 | 1.00 | PSNR |"]


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def test_marks_that_are_missing() -> None:
    assert with_paragraphs(f"a\n{BEGIN}\nold\n{END}\nb").startswith(f"a\n{BEGIN}\n± is a 95 % interval")
    with pytest.raises(UserError, match="once each"):
        with_paragraphs("nothing")
