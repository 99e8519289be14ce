"""The shrinkage benchmark's machinery on networks that take seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.networks import NETWORKS, Network
from benchmarks.shrinkage import channels_to_spare, main, measure_network
from benchmarks.shrinkage_report import (
    CUT,
    WIDTHS,
    Row,
    comparison_table,
    our_table,
    page,
    peer_table,
    to_json,
)
from benchmarks.shrinking import Shrunk, peer_ways, shrink_ours
from core.graph.channels import trace_channels
from core.timing import Outcome, Timing, time_in_turns

PLAIN = Network(
    "plain",
    lambda: nn.Sequential(
        nn.Conv2d(3, 200, 3), nn.BatchNorm2d(200), nn.ReLU(), nn.Conv2d(200, 300, 3), nn.Conv2d(300, 5, 1)
    ),
    (3, 12, 12),
    ("4",),
)
UPSCALING = Network(
    "upscaling",
    lambda: nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 64, 3), nn.PixelShuffle(2), nn.Conv2d(16, 3, 3)),
    (3, 12, 12),
    ("3",),
)


def _row(peer: dict[str, tuple[float, float, bool]]) -> Row:
    """A row with ours at 0.1 s and the peer's ways as (seconds, share of MACs, runs)."""
    net = nn.Identity()
    seconds = {WIDTHS: 0.08, CUT: 0.1} | {name: value[0] for name, value in peer.items()}
    outcomes = {name: Outcome(Timing((s,), (s / 2,)), Shrunk(net)) for name, s in seconds.items()}
    shares = {CUT: 0.8999} | {name: value[1] for name, value in peer.items()}
    runs = {CUT: True} | {name: value[2] for name, value in peer.items()}
    return Row(PLAIN, 3, outcomes, shares, runs, 0, 1e-15, {"ours": 1.0, "peer": 2.0})


def test_ways_run_in_turns_and_only_counted_runs_are_kept() -> None:
    calls: list[str] = []

    def way(name: str):
        def prepare():
            calls.append(f"prepare {name}")
            return lambda: calls.append(name) or len(calls)

        return prepare

    outcomes = time_in_turns({"a": way("a"), "b": way("b")}, turns=2, warmup=1)
    a, b = ["prepare a", "a"], ["prepare b", "b"]
    assert calls == [*a, *b, *b, *a, *a, *b]
    assert [len(outcome.timing.wall) for outcome in outcomes.values()] == [2, 2]
    assert outcomes["b"].result == 12


def test_a_slow_way_sits_out_once_its_patience_is_used_up() -> None:
    runs = {"slow": 0, "quick": 0}

    def work(name: str, size: int):
        def run() -> None:
            runs[name] += 1
            sum(range(size))

        return lambda: run

    time_in_turns({"slow": work("slow", 300_000), "quick": work("quick", 1)}, turns=3, patience=1e-3)
    assert runs == {"slow": 1, "quick": 3}


def test_listed_failures_are_recorded_and_others_end_the_benchmark() -> None:
    def fail() -> None:
        raise IndexError("index 64 is out of bounds\nsecond line")

    outcome = time_in_turns({"a": lambda: fail}, turns=2, failures=(LookupError,))["a"]
    assert outcome == Outcome(None, None, "IndexError: index 64 is out of bounds")
    with pytest.raises(IndexError):
        time_in_turns({"a": lambda: fail}, turns=2, failures=(ZeroDivisionError,))


def test_median_and_spread_are_shown() -> None:
    assert str(Timing((0.2, 0.5, 0.3), (0.1, 0.1, 0.1))) == "0.300 s (0.200–0.500)"
    assert str(Timing((12.34,), (1.0,))) == "12.3 s"


def test_channels_to_spare_counts_single_channels_under_the_limit() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1))
    graph = trace_channels(net, torch.zeros(1, 3, 1, 1))  # (3 + 4) · n MACs for n channels
    assert channels_to_spare(graph, {"0": 5}, 7 * 5 + 6) == 0
    assert channels_to_spare(graph, {"0": 5}, 7 * 7) == 2
    assert channels_to_spare(graph, {"0": 5}, 7 * 100) == 3


def test_our_way_meets_the_budget_on_the_cut_network() -> None:
    model, inputs = UPSCALING.make(), UPSCALING.inputs()
    found = shrink_ours(model, inputs, 0.9, cut=True)
    # MACs by hand: 10², 8² and 14² output positions, 3x3 kernels, a pixel shuffle between the last two.
    first, second = found.widths["0"], found.widths["1"]

    def macs(first: int, second: int) -> int:
        return 9 * (100 * 3 * first + 64 * first * second + 196 * second // 4 * 3)

    limit = 0.9 * macs(16, 64)
    assert macs(first, second) <= limit < min(macs(first + 1, second), macs(first, second + 4))
    assert found.model is not None
    assert found.model[0].out_channels == first
    assert found.model[1].out_channels == second
    assert set(found.phases) == {"trace", "score", "search", "cut"}
    assert shrink_ours(model, inputs, 0.9, cut=False).model is None


def test_ratio_is_taken_against_the_fastest_way_that_does_the_job() -> None:
    row = _row({
        "overshoots": (0.5, 0.85, True),
        "broken": (0.6, 0.899, False),
        "above": (0.7, 0.906, True),
        "loose": (2.0, 0.885, True),
        "close": (4.0, 0.903, True),
    })  # fmt: skip
    assert row.fastest_peer(0.9) == "loose"
    assert row.fastest_peer(0.9, 0.005) == "close"
    assert row.ratio(0.9) == pytest.approx(20)
    assert row.ratio(0.9, 0.005, cpu=True) == pytest.approx(40)
    assert row.ratio(0.9, ours=WIDTHS) == pytest.approx(25)
    assert row.times_ours("overshoots") == pytest.approx(5)
    assert _row({"overshoots": (0.5, 0.85, True)}).ratio(0.9) is None


def test_losses_are_named_in_the_first_paragraph() -> None:
    first = page([_row({"loose": (0.5, 0.885, True)})], 0.9).split("## Ours")[0]
    assert "at least 20 times faster on 0 of 1 networks; less on plain 5.0." in first


def test_networks_of_the_benchmark_name_layers_that_exist() -> None:
    for network in NETWORKS.values():
        modules = dict(network.make().named_modules())
        assert set(network.fixed) <= set(modules), network.title


def test_bad_usage_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--target", "2"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "--target" in captured.err
    assert len(captured.err.strip().splitlines()) == 1


class TestAgainstTorchPruning:
    """Needs the peer itself."""

    @pytest.fixture(autouse=True)
    def peer(self) -> None:
        pytest.importorskip("torch_pruning", reason="Torch-Pruning is not installed (extra 'peers')")

    def test_every_way_reaches_the_budget_on_a_plain_network(self) -> None:
        row = measure_network(PLAIN, target=0.9, turns=1, patience=0.0)
        assert {name for name in row.outcomes if name not in (WIDTHS, CUT)} == set(peer_ways(PLAIN))
        assert all(outcome.failure is None for outcome in row.outcomes.values())
        assert all(row.runs.values())
        assert row.spare == 0
        assert row.masked_equals_cut is not None
        assert row.masked_equals_cut < 1e-10
        assert 0.85 < row.shares[CUT] <= 0.9
        assert all(share <= 0.9 for name, share in row.shares.items() if "steps" in name)
        assert all(abs(share - 0.9) < 0.02 for name, share in row.shares.items() if "bisection" in name)

    def test_a_failure_of_the_peer_is_in_every_report(self, tmp_path: Path) -> None:
        row = measure_network(UPSCALING, target=0.9, turns=1, patience=0.0, ways=["40 steps, local"])
        failure = row.outcomes["40 steps, local"].failure
        assert failure is not None
        assert failure.startswith("IndexError")
        assert failure in peer_table([row])
        assert "every way fails" in comparison_table([row], 0.9)
        assert "upscaling" in our_table([row])
        text = page([row], 0.9)
        assert failure in text
        assert "does not reach the budget on upscaling" in text
        value = json.loads(json.dumps(to_json([row], 0.9)))
        assert value["networks"]["upscaling"]["ways"]["40 steps, local"] == {"failure": failure}
        assert value["networks"]["upscaling"]["comparison"]["loose"]["times_faster"] is None

    def test_models_handed_in_are_left_alone_by_bisection(self) -> None:
        model, inputs = PLAIN.make(), PLAIN.inputs()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        peer_ways(PLAIN)["bisection, local"](model, inputs, 0.9)
        after = model.state_dict()
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
