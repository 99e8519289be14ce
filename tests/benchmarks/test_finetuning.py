"""The comparison of fine-tuned networks: what is trained once, what starts from what, what the page says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.finetuning import beside_the_peer, main
from core.experiments.series import Series
from core.experiments.task import Metric

FAST = ["--train-limit", "40", "--epochs", "1", "--finetune-epochs", "1", "--cfg-options", "train.batch_size=20",
        "data.classes=3",
        "shrink.batch_size=8", "shrink.batches=1", "--budget", "0.6", "--floor", "0.2", "--seeds", "2", "--turns", "1",
        "--methods", "gradient", "uniform", "--no-progress", "--device", "cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finetuning")
    assert main([*FAST, "--work-dir", str(folder / "store"), "--output", str(folder / "page")]) == 0
    return folder


def test_every_network_starts_from_its_seeds_own(compared: Path) -> None:
    records = json.loads((compared / "page.json").read_text())["records"]
    rows = ["pretrained", "baseline", "gradient", "uniform", "gradient-scratch"]
    rows.append("gradient-scratch, the protocol's recipe")
    assert [(record["seed"], record["row"]) for record in records] == [
        (s, row) for s in (0, 1) for row in rows
    ]
    by_row = {(record["row"], record["seed"]): record for record in records}
    sums = {seed: by_row["baseline", seed]["weights"]["checksum"] for seed in (0, 1)}
    assert sums[0] != sums[1]
    for (row, seed), record in by_row.items():
        fresh = row == "pretrained" or "scratch" in row
        assert (record["metrics_after_cut"] is None) == fresh
        assert (
            record["weights"] is None if row == "pretrained" else record["weights"]["checksum"] == sums[seed]
        )
    whole, before = (by_row["baseline", 0]["metrics_after_cut"], by_row["pretrained", 0]["metrics"])
    assert whole["top1_error"] == pytest.approx(before["top1_error"], abs=1e-9)


def test_the_page_has_the_tables_and_the_seconds(compared: Path) -> None:
    page = (compared / "page.md").read_text()
    for text in (
        "minus baseline",
        "minus uniform",
        "CPU seconds",
        "Made by `python -m benchmarks.finetuning",
    ):
        assert text in page
    value = json.loads((compared / "page.json").read_text())
    assert value["search_seconds"].keys() == {"gradient", "uniform"}
    assert (compared / "page.png").read_bytes()[:4] == b"\x89PNG"


def test_nothing_is_trained_twice(compared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FAST, "--work-dir", str(compared / "store"), "--no-report"]) == 0
    assert "training resnet20" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--control", "fisher"], "--control is none of --methods: 'fisher': allowed: gradient, uniform"),
        (["--finetune-epochs", "0"], "--finetune-epochs 0: use at least 1"),
        (["--report-only"], "holds no trained network of seed 0"),
        (["--widen", "2"], "trained weights have no channels beyond"),
    ],
)
def test_what_cannot_be_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], problem: str
) -> None:
    assert main([*FAST, "--work-dir", str(tmp_path), *options]) == 2
    assert problem in capsys.readouterr().err


def test_ways_that_chance_explains_are_neither_better_nor_worse() -> None:
    metric = Metric("top1_error", "error %", higher_is_better=False)
    peer = [50.0, 51.0, 52.0, 53.0]

    def series(errors: list[float]) -> Series:
        return Series("", {seed: {"metrics": {"top1_error": error}} for seed, error in enumerate(errors)})

    own = {
        "torch-pruning": series(peer),
        "gradient": series([value - 2 + 0.01 * value for value in peer]),
        "fisher": series([value + 2 + 0.01 * value for value in peer]),
        "uniform": series([49.0, 53.0, 50.0, 54.0]),
    }
    text = beside_the_peer(own, [*own], metric)
    assert text.index("Better than") < text.index("`gradient` (-1.4") < text.index("Worse than")
    assert text.index("Worse than") < text.index("`fisher` (2.5") < text.index("Not to be told from")
    assert text.index("Not to be told from") < text.index("`uniform` (0.00")
    assert "`torch-pruning`" not in text
    assert beside_the_peer({"gradient": own["gradient"]}, ["gradient"], metric) == ""
