"""The bench on Channel-Bench-Macro: exact on constructed tables, the known figures on the real one."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

import benchmarks.channel_bench
import benchmarks.channel_bench_table
from benchmarks.channel_bench import main
from benchmarks.channel_bench_exponents import (
    FITS,
    draw_trainings,
    fit_exponents,
    learned_widths,
    uniform_exponents,
)
from benchmarks.channel_bench_networks import BASELINE, IMAGE, SPACES, MacroSpace, image, mobilenet
from benchmarks.channel_bench_search import (
    STEEP,
    Answer,
    Place,
    Scores,
    answer,
    left_out,
    open_place,
    unlike,
)
from benchmarks.channel_bench_table import (
    Fit,
    Surface,
    Table,
    best_table_points,
    find_oracle,
    fit_surface,
    judge,
    neighbours,
    read_table,
)
from core.errors import UserError
from core.graph.complexity import count, count_params
from core.methods.candidates import limits_of
from core.methods.method import Request, SearchConfig
from core.methods.registry import METHODS, find
from core.surgery.initialise import seeded
from core.training.train import TrainConfig, make_fabric
from core.widths.budget import Budget
from core.widths.config import ShrinkConfig
from core.widths.scores import score_channels
from core.widths.selection import search
from core.widths.space import Space, open_space

NAMES = ["".join(name) for name in product("1234", repeat=7)]
DIGITS = np.array([[int(digit) for digit in name] for name in NAMES])
SLOPES = np.array([0.3, 0.05, 0.05, 0.1, 0.1, 0.02, 0.02])


def macs(number: int, floor: float) -> ShrinkConfig:
    """A budget of so many multiply-accumulates."""
    return ShrinkConfig(budget=Budget(flops=number, convention="macs"), floor=floor)


def law(relative: np.ndarray) -> np.ndarray:
    """Accuracy whose error is a product of powers of the relative widths."""
    return 100 - 8 * np.exp(-np.log(relative) @ SLOPES)


def table_of(mean: np.ndarray, apart: float = 0.0) -> Table:
    """Three trainings a network: the mean, and `apart` above and below it, which is their standard deviation."""
    zeros = np.zeros(len(mean), dtype=np.int64)
    return Table(DIGITS, mean[:, None] + np.array([-apart, 0, apart]), zeros, zeros)


@cache
def powers() -> tuple[Table, Surface]:
    """A table of the law and its surface, which is exact."""
    table = table_of(law(DIGITS / 4))
    return table, fit_surface(table)


@cache
def opened(name: str) -> Space:
    with seeded(0):
        baseline = SPACES[name].network(BASELINE)
    return open_space(baseline, image(), ShrinkConfig(), seed=0)


@dataclass(frozen=True)
class Images:
    """Two batches of random images, whatever is asked for."""

    size: int

    def __len__(self) -> int:
        return 2

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(epoch)
        for _ in range(start, 2):
            yield torch.randn(self.size, *IMAGE, generator=generator), torch.arange(self.size) % 10


@dataclass(frozen=True)
class Data:
    """As much of a data set as the bench looks at."""

    input_shape: tuple[int, int, int] = IMAGE
    num_classes: int = 10
    name: str = "noise"

    def train_loader(self, batch_size: int, seed: int) -> Any:
        return Images(batch_size)


@pytest.mark.parametrize(
    ("space", "digits", "macs", "params"),
    [("MobileNet", "4321234", 101_922_816, 767_882), ("ResNet", "4321234", 681_249_280, 6_208_394),
     ("MobileNet", "4432214", 122_923_008, 716_234), ("ResNet", "1111111", 90_096_896, 963_658)],
)  # fmt: skip
def test_networks_cost_what_the_table_says(space: str, digits: str, macs: int, params: int) -> None:
    network = SPACES[space].network(digits)
    assert (count(network, image()), count_params(network)) == (
        macs,
        params,
    )  # figures of the table's entries


@pytest.mark.parametrize("name", SPACES)
def test_every_digit_is_one_group_of_twice_the_baseline(name: str) -> None:
    found = opened(name).graph.widths
    # In this order, too: the oracle and the drawn rows take groups for digits by their places.
    assert list(found.items()) == list(zip(SPACES[name].groups, SPACES[name].full, strict=True))


def test_the_surface_is_exact_where_the_law_is_a_cubic() -> None:
    logarithms = np.log(DIGITS / 4)
    target = (
        2 + 0.1 * logarithms[:, 0] ** 3 - 0.2 * logarithms[:, 1] * logarithms[:, 5] - 0.05 * logarithms[:, 6]
    )
    table = table_of(100 - np.exp(target), 0.3)
    surface = fit_surface(table)
    assert len(surface.coefficients) == math.comb(10, 3)
    assert surface(DIGITS / 4) == pytest.approx(table.mean, abs=1e-8)
    fit = judge(table, surface)
    assert fit.noise == pytest.approx(0.3 / math.sqrt(3))
    assert fit.lack == 0
    between = np.array([[0.3, 0.8, 0.5, 0.9, 0.26, 0.7, 0.6]])
    at = np.log(between[0])
    assert surface(between)[0] == pytest.approx(
        100 - math.exp(2 + 0.1 * at[0] ** 3 - 0.2 * at[1] * at[5] - 0.05 * at[6])
    )


def test_the_lack_of_fit_is_what_no_cubic_can_follow() -> None:
    # The parity of all seven digits is orthogonal to every function of three of them.
    parity = 1.0 - 2 * (DIGITS.sum(axis=1) % 2)
    table = table_of(100 - 10 * np.exp(0.01 * parity), 0.05)
    fit = judge(table, fit_surface(table))
    squares = (
        100 * ((math.exp(0.01) - 1) ** 2 + (math.exp(-0.01) - 1) ** 2) / 2 * len(DIGITS) / (len(DIGITS) - 120)
    )
    noise = 0.05**2 / 3
    assert fit.lack == pytest.approx(math.sqrt(squares - noise), rel=1e-3)
    assert fit.ratio == pytest.approx(squares / noise, rel=1e-3)


def test_neighbours_are_the_table_on_its_points_and_exact_between_them_for_powers() -> None:
    table = table_of(law(DIGITS / 4))
    shuffled = np.random.default_rng(0).permutation(len(DIGITS))
    table = Table(DIGITS[shuffled], table.accuracy[shuffled], table.flops, table.params)
    assert neighbours(table, DIGITS[::97] / 4) == pytest.approx(law(DIGITS[::97] / 4))
    between = np.random.default_rng(1).uniform(0.25, 1, (20, 7))
    assert neighbours(table, between) == pytest.approx(law(between))
    with pytest.raises(UserError, match="the table has 1 to 4"):
        neighbours(table, np.full((1, 7), 0.2))


def test_the_best_point_is_read_off_a_training_that_did_not_choose_it() -> None:
    accuracy = np.array([[90.0, 90, 99], [92, 92, 92], [95, 95, 95]])
    table = Table(DIGITS[:3], accuracy, np.zeros(3), np.zeros(3))
    # The first looks best with its lucky training; without that it is the second's turn.
    assert best_table_points(table, np.array([True, True, False])) == (93, pytest.approx((90 + 90 + 92) / 3))


def test_the_oracle_gives_all_width_to_the_one_layer_that_counts() -> None:
    graph, full = opened("MobileNet").graph, np.array(SPACES["MobileNet"].full)
    table, surface = powers()
    of_head, constant = (surface.powers == [6, 7, 7]).all(axis=1), (surface.powers == 7).all(axis=1)
    only_head = Surface(surface.powers, -0.5 * of_head + 2 * constant)
    limits = limits_of(opened("MobileNet"), macs(25_000_000, 0.25))
    oracle = find_oracle(table, only_head, graph, limits, full)
    assert oracle.sizes[6] == full[6]
    assert oracle.surface == pytest.approx(100 - math.exp(2))
    assert graph.cost("macs", oracle.sizes) <= 25_000_000
    assert oracle.table == pytest.approx(
        table.mean[graph.cost("macs", DIGITS * full // 4) <= 25_000_000].max()
    )


def test_the_oracle_is_an_optimum_of_the_widths() -> None:
    space, full = opened("MobileNet"), np.array(SPACES["MobileNet"].full)
    limits = limits_of(space, macs(45_000_000, 0.25))
    oracle = find_oracle(*powers(), space.graph, limits, full)
    # Lagrange: one more FLOP gains the same in every layer that is free to change.
    free = (oracle.sizes > limits.bounds.low) & (oracle.sizes < limits.bounds.high)
    gain = SLOPES / oracle.sizes / space.graph.cost.marginal("macs", oracle.sizes)
    assert free.sum() >= 2
    assert gain[free].max() / gain[free].min() < 1.15


def toy_place() -> Place:
    macro = replace(SPACES["MobileNet"], full=(16, 32, 32, 32, 16, 32, 32))
    return Place("MobileNet", macro, *powers(), Fit(0, 0, 0, 0), open_subject(macro))


def open_subject(macro: MacroSpace) -> Any:
    from torch.nn import functional

    from core.methods.subject import Subject

    return Subject(model_name="toy", build=lambda: macro.network(BASELINE), example_inputs=image(),
                   train_loader=lambda size, seed: Images(size), loss_fn=functional.cross_entropy)  # fmt: skip


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Scores:
    place = toy_place()
    shrink = ShrinkConfig(floor=0.25, batch_size=4, budget=Budget(flops=0.8))
    request = Request(place.subject, shrink, TrainConfig(epochs=3, batch_size=4, seed=1), SearchConfig(),
                      make_fabric("cpu"), tmp_path_factory.mktemp("work"))  # fmt: skip
    return Scores(place, request)


@pytest.mark.parametrize(
    "name",
    ["gradient", "gradient-per-flop", "fisher-equalised", "hypernetwork-gradient", "gradient-rounded", "synflow",
     "random", "inner-wide"],
)  # fmt: skip
def test_shared_scores_find_what_the_registry_finds(toy: Scores, name: str) -> None:
    found = find(name, toy.request)
    ours: Answer = answer(toy.place, name, toy, toy.request.shrink)
    assert ours.relative.tolist() == [toy.place.relative(found.architecture.widths).tolist()]
    loader = toy.request.subject.train_loader(4, 1)
    # SynFlow shows the network no image, which the registry counts as a batch.
    assert ours.images == pytest.approx(0 if name == "synflow" else found.epochs * len(loader) * 4)


def test_diminishing_returns_maximise_the_sum_of_logarithms() -> None:
    space = opened("MobileNet")
    graph, budget = space.graph, Budget(flops=0.5, convention="macs")
    scores = score_channels(space.wide, graph, [], functional.cross_entropy, score="diminishing-returns")
    found = search(graph, scores, budget, space.baseline, floor=0.05, allocation="per-flop")
    sizes = graph.elements(found.widths)
    limits = limits_of(space, macs(int(0.5 * 54_260_736), 0.05))
    assert graph.cost("macs", sizes) <= limits.costs["macs"]
    # Karush, Kuhn and Tucker's conditions for the largest sum of log w: what a layer's channels cost at the margin,
    # times its width, is the same for all layers that are free to change, less at ceilings and more at floors.
    share = sizes * graph.cost.marginal("macs", sizes)
    at_low, at_high = sizes == limits.bounds.low, sizes == limits.bounds.high
    free = ~at_low & ~at_high
    assert free.sum() >= 2
    assert share[free].max() / share[free].min() < 1.1
    assert (share[at_high] <= 1.05 * share[free].min()).all()
    assert (share[at_low] >= 0.95 * share[free].max()).all()


def test_what_is_left_out_is_named_with_its_reason() -> None:
    out = left_out(METHODS, 5000)
    assert {"dhp", "accumulated", "shallow-uniform", "gradient-depth"} <= set(out)
    assert "up to 100 epochs of 5,000 images" in out["dhp"]
    assert "gradient" not in out


def write_table(root: Path, space: str) -> Path:
    graph = opened(space).graph
    sizes = DIGITS * np.array(SPACES[space].full) // 4
    columns = zip(NAMES, law(DIGITS / 4).tolist(), graph.cost("macs", sizes).tolist(),
                  graph.cost("params", sizes).tolist(), strict=True)  # fmt: skip
    entries = {
        name: {"acc": [mean - 0.1, mean, mean + 0.1], "flops": macs, "params": params}
        for name, mean, macs, params in columns
    }
    path = root / "channel-bench-macro" / f"Results_{space}.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(entries))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_table(root, "MobileNet")
    return root


def test_the_page_says_what_the_table_says(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmarks.channel_bench, "open_dataset", lambda *arguments: Data())
    monkeypatch.setattr(benchmarks.channel_bench_table, "ROUNDS", 8)
    arguments = ["--spaces", "MobileNet", "--methods", "random", "inner-wide", "diminishing-returns", "--budgets",
                 "0.5", "0.9", "--convention", "macs", "--seeds", "2", "--data-root", str(made)]  # fmt: skip
    assert main([*arguments, "--output", str(tmp_path / "page")]) == 0
    results = json.loads((tmp_path / "page.json").read_text())
    (space,) = results["spaces"]
    assert space["unlike"] == {"macs": 0, "params": 0}
    assert space["noise"] == pytest.approx(0.1)
    assert space["baseline"]["surface"] == pytest.approx(law(np.full(7, 0.5)))
    full = np.array(SPACES["MobileNet"].full)
    by_key = {(row["method"], row["budget"], row["floor"]): row for row in space["rows"]}
    for row in space["rows"]:
        expected = law(np.array(row["widths"]) / full).mean()
        assert row["surface"] == pytest.approx(expected, abs=1e-6)
        assert row["neighbours"] == pytest.approx(expected, abs=1e-6)
        uniform = by_key["uniform", row["budget"], row["floor"]]["surface"]
        assert row["over_uniform"] == pytest.approx(row["surface"] - uniform)
        assert row["surface"] <= space["oracles"][str(row["budget"])]["surface"]
        assert row["budget"] - 0.01 < row["flops"] <= row["budget"]
    assert by_key["random", 0.9, 0.25]["networks"] == 2
    assert by_key["inner-wide", 0.9, 0.25]["networks"] == 1
    # A floor of .4 keeps .8 of every width, more than half of the FLOPs.
    assert {(item["budget"], item["floor"]) for item in space["refused"]} == {(0.5, 0.4)}
    page = (tmp_path / "page.md").read_text()
    assert "Not reachable at 50% of the FLOPs with floor 0.4: 4 methods" in page
    assert "--budgets 0.5 0.9" in page
    assert f"{len(METHODS) - 4} methods of the registry are left out" in page
    assert results["left_out"]["gradient"] == "not asked for"
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
    assert "| diminishing-returns |" in capsys.readouterr().out


def test_rounded_widths_may_reach_what_uniform_ones_cannot(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmarks.channel_bench, "open_dataset", lambda *arguments: Data())
    monkeypatch.setattr(benchmarks.channel_bench_table, "ROUNDS", 2)
    space = opened("MobileNet")
    least = space.graph.cost("macs", (0.4 * space.graph.sizes).astype(np.int64)) / 54_260_736
    arguments = ["--spaces", "MobileNet", "--methods", "gradient-rounded", "--floors", "0.4", "--images", "2",
                 "--budgets", f"{least - 0.005:.4f}", "--convention", "macs", "--seeds", "1"]  # fmt: skip
    assert main([*arguments, "--data-root", str(made), "--output", str(tmp_path / "page")]) == 0
    (summary,) = json.loads((tmp_path / "page.json").read_text())["spaces"]
    (row,) = summary["rows"]
    assert row["method"] == "gradient-rounded"
    assert row["over_uniform"] is row["oracle_share"] is None
    assert {width % 8 for width in row["widths"][0]} == {0}
    assert [item["method"] for item in summary["refused"]] == ["uniform"]


def test_a_budget_below_the_table_is_refused_before_the_search(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmarks.channel_bench, "open_dataset", lambda *arguments: Data())
    assert main(["--spaces", "MobileNet", "--budgets", "0.1", "--data-root", str(made)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "cannot be reached" in error


def test_missing_data_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data-root", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "channel-bench-macro/Results_MobileNet.json" in error
    assert "https://github.com/xiusu/Channel-Bench-Macro" in error


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "is no table of Channel-Bench-Macro"),
        (lambda text: text.replace('"4444444"', '"4444445"'), "that are not all 16,384"),
        (lambda text: text.replace('"acc": [', '"acc": [NaN, ', 1), "is no table of Channel-Bench-Macro"),
        (lambda text: text.replace('"flops"', '"macs"', 1), "is no table of Channel-Bench-Macro"),
        (lambda text: "[1, 2]", "that are not all 16,384"),
    ],
    ids=["cut", "another name", "four accuracies", "no flops", "a list"],
)
def test_damaged_tables_are_named(made: Path, tmp_path: Path, damage: Any, message: str) -> None:
    text = (made / "channel-bench-macro" / "Results_MobileNet.json").read_text()
    path = tmp_path / "channel-bench-macro" / "Results_MobileNet.json"
    path.parent.mkdir()
    path.write_text(damage(text))
    with pytest.raises(UserError, match=message) as error:
        read_table(tmp_path, "MobileNet")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--floors", "0.2"],
        ["--methods", "gradientt"],
        ["--spaces", "VGG"],
        ["--budgets", "0"],
        ["--seeds", "0"],
    ],
    ids=str,
)
def test_wrong_usage_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_images_of_another_size_are_refused(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmarks.channel_bench, "open_dataset", lambda *arguments: Data((3, 64, 64)))
    assert main(["--spaces", "MobileNet", "--data-root", str(made)]) == 2
    assert "(3, 64, 64)" in capsys.readouterr().err


def test_a_block_keeps_its_identity_where_shapes_allow() -> None:
    blocks = mobilenet([16, 32, 32, 32, 16, 32, 32]).blocks
    assert [getattr(block, "residual", None) for block in blocks] == [True, True, False, True, None]


@pytest.fixture(scope="module")
def real() -> Path:
    root = os.environ.get("LWDNA_DATA")
    if not root or not (Path(root) / "channel-bench-macro").exists():
        pytest.skip("needs channel-bench-macro: set LWDNA_DATA to the root of real data")
    return Path(root)


@pytest.mark.parametrize("name", SPACES)
def test_the_closed_form_prices_all_networks_of_the_table(real: Path, name: str) -> None:
    place = Place(name, SPACES[name], read_table(real, name), None, None, None)  # type: ignore[arg-type]
    assert unlike(place, opened(name).graph) == {"macs": 0, "params": 0}


def test_the_known_figures_of_inverted_bottlenecks(real: Path, tmp_path: Path) -> None:
    place = open_place("MobileNet", read_table(real, "MobileNet"), Data())  # type: ignore[arg-type]
    assert place.fit.lack < 0.02
    assert place.baseline == pytest.approx(90.74, abs=0.02)
    request = Request(place.subject, ShrinkConfig(floor=0.25, budget=Budget(flops=0.9)), TrainConfig(seed=0),
                      SearchConfig(), make_fabric("cpu"), tmp_path)  # fmt: skip
    scores = Scores(place, request)
    known = {
        "uniform": 90.65,
        "random-scores": 90.64,
        "inner-wide": 90.83,
        STEEP: 90.96,
        "diminishing-returns": 91.00,
    }
    for name, accuracy in known.items():
        found = answer(place, name, scores, request.shrink)
        assert float(place.surface(found.relative)[0]) == pytest.approx(accuracy, abs=0.02), name


def test_exponents_of_a_law_are_learned_exactly_and_a_strong_ridge_leaves_those_of_uniform_widths() -> None:
    table, uniform = powers()[0], np.arange(1.0, 8.0)
    logarithms, errors = draw_trainings(table, np.random.default_rng(0))
    assert fit_exponents(logarithms, errors, uniform, ridge=0) == pytest.approx(SLOPES, abs=1e-9)
    strong = fit_exponents(logarithms, errors, uniform, ridge=1e9)
    assert strong / strong.sum() == pytest.approx(uniform / uniform.sum(), rel=1e-6)


@pytest.mark.parametrize("name", SPACES)
def test_widths_with_the_exponents_of_uniform_ones_cannot_be_bettered_to_first_order(name: str) -> None:
    graph = opened(name).graph
    sizes = graph.sizes // 2
    exponents = uniform_exponents(graph, "macs", sizes)
    # Where the gradient of Σ b log w is parallel to that of the cost, b_g / w_g over the marginal cost is constant.
    ratio = exponents / sizes / graph.cost.marginal("macs", sizes)
    assert exponents.sum() == pytest.approx(1)
    assert ratio == pytest.approx(ratio[0])


def test_widths_of_learned_exponents_are_those_of_the_laws_own() -> None:
    table, space, config = (
        powers()[0],
        opened("MobileNet"),
        ShrinkConfig(budget=Budget(flops=0.9), floor=0.25),
    )
    groups = SPACES["MobileNet"].groups
    learned = learned_widths(table, space, groups, config, seed=0, ridge=0)
    scores = {
        group.name: torch.from_numpy(SLOPES[groups.index(group.name)] / np.arange(1, group.size + 1)).float()
        for group in space.graph.groups
    }
    best = search(
        space.graph, scores, config.budget, space.baseline, floor=0.25, allocation="per-flop"
    ).widths
    wanted = np.array([best[name] for name in groups]) / SPACES["MobileNet"].full
    assert learned.shape == (FITS, 7)
    assert learned == pytest.approx(np.tile(wanted, (FITS, 1)), abs=0.004)  # three channels of 768
    assert np.ptp(wanted) > 0.5
