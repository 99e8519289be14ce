"""Channel-Bench-Macro: every method judged by a table of 32,768 trained networks, without a training.

    python -m benchmarks.channel_bench --output docs/results/channel_bench

finds widths by every method of the registry in both spaces of the table, at several budgets and floors, and looks up
what such networks reach on CIFAR-10 (`benchmarks.channel_bench_table`). Images are needed for scores alone; CIFAR-10's
own or, by default, those of ten classes of Tiny-ImageNet at 32x32 pixels. Budgets count FLOPs in the convention of the
paper, as everywhere; `--convention macs` counts multiply-accumulates, as the table does.
"""

from __future__ import annotations

import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.channel_bench_networks import BASELINE, IMAGE, QUARTERS, SPACES, MacroSpace, image
from benchmarks.channel_bench_table import (
    Fit,
    FloatArray,
    Oracle,
    Surface,
    Table,
    find_oracle,
    fit_surface,
    judge,
    neighbours,
    read_table,
)
from benchmarks.measure import NOTHING_KEPT, command_text, machine, publish
from classification.data import ClassificationData, DataConfig, open_dataset
from core.command_line.exits import run_command
from core.errors import UserError, did_you_mean
from core.experiments.plots import new_figure, save_figure
from core.graph.complexity import Convention
from core.methods.candidates import IntArray, Limits, ProxyConfig, draw, limits_of
from core.methods.registry import METHODS, Method, Request, SearchConfig, find, open_request
from core.methods.subject import Subject, first_batches
from core.methods.tilts import tilted_widths
from core.storage.data import data_root
from core.tables import markdown_table
from core.training.train import TrainConfig, make_fabric
from core.widths.budget import Budget, BudgetError
from core.widths.config import ShrinkConfig
from core.widths.scores import score_channels
from core.widths.selection import search
from core.widths.space import Space

BUDGETS = (0.5, 0.75, 0.9, 1.0)
FLOORS = (0.4, 0.25)
LEAST_FLOOR = 1 / QUARTERS  # where the table ends
CIFAR_IMAGES = 50_000  # an epoch of the trainings in the table
DATASETS = {"tiny-imagenet": DataConfig(classes=10, downsample=2), "cifar10": DataConfig()}
DRAWS = 100
DRAWN, DIMINISHING, STEEP = "drawn widths", "diminishing returns", "inner-wide, tilt 1"
OWN = {
    DRAWN: f"control: {DRAWS} networks of widths drawn per group, for every seed",
    DIMINISHING: "the j-th channel of every group is worth 1/j, per FLOP: maximises the sum of log widths",
    STEEP: "width moved from the trunk to blocks, twice as far as `inner-wide`",
}
# Drawn in colour, with labels; everything else is a thin line of grey.
SHOWN = {DIMINISHING: "#0072b2", STEEP: "#56b4e9", "gradient-per-flop": "#009e73", "fisher-per-flop": "#cc79a7",
         DRAWN: "#e69f00", "gradient": "#d55e00"}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """One space of the bench, opened.

    Attributes:
        name: "MobileNet" or "ResNet".
        macro: its networks.
        table: its trained networks.
        surface: fitted to them.
        fit: how well.
        subject: the baseline as methods see it.
    """

    name: str
    macro: MacroSpace
    table: Table
    surface: Surface
    fit: Fit
    subject: Subject

    @property
    def baseline(self) -> float:
        """What the surface says of the regular network."""
        return float(self.surface(np.array([int(digit) / QUARTERS for digit in BASELINE])))

    def relative(self, widths: Mapping[str, int]) -> FloatArray:
        """Widths by group as shares of the full ones, (7,), in the order of the digits."""
        return np.array([widths[name] for name in self.macro.groups]) / np.array(self.macro.full)


class Setting(NamedTuple):
    """A budget, as a share of the baseline's FLOPs, and a floor, as a share of the widened widths."""

    budget: float
    floor: float


@dataclass(frozen=True)
class Answer:
    """What a method found in one setting.

    Attributes:
        relative: widths as shares of the full ones, (networks, 7).
        images: that went through some network for it.
        seconds: elapsed; what several settings share counts for each.
    """

    relative: FloatArray
    images: float
    seconds: float


@dataclass
class Series:
    """What a method found in one space: one answer per seed, or why there is none, in every setting."""

    method: str
    answers: dict[Setting, list[Answer]] = field(default_factory=dict)
    refused: dict[Setting, str] = field(default_factory=dict)


def open_place(name: str, table: Table, data: ClassificationData) -> Place:
    """Fit a table's surface.

    Args:
        name: of the space.
        table: of its trained networks.
        data: what channels are scored on.
    """
    macro, surface = SPACES[name], fit_surface(table)

    def train_loader(batch_size: int, seed: int) -> Any:
        return data.train_loader(batch_size, seed, torch.device("cpu"))

    subject = Subject(model_name=f"{name} {BASELINE}", build=lambda: macro.network(BASELINE), example_inputs=image(),
                      train_loader=train_loader, loss_fn=functional.cross_entropy)  # fmt: skip
    return Place(name, macro, table, surface, judge(table, surface), subject)


def unlike(place: Place, graph: Any) -> dict[str, int]:
    """Networks of the table whose FLOPs or parameters are others than the closed form's: kind -> number.

    Args:
        place: with the table.
        graph: of the widened network.
    """
    sizes = place.table.digits * np.array(place.macro.full) // QUARTERS
    theirs = {"macs": place.table.flops, "params": place.table.params}
    return {kind: int((graph.cost(kind, sizes) != costs).sum()) for kind, costs in theirs.items()}


def left_out(methods: Mapping[str, Method], images: int) -> dict[str, str]:
    """Methods that the bench does not try unless they are named, and why.

    Args:
        methods: of the registry.
        images: of an epoch.
    """
    config, found = SearchConfig(), {}
    epochs = {"accumulate_epochs": f"{config.accumulate_epochs}", "dhp": f"up to {config.dhp.max_epochs}"}
    for name, method in methods.items():
        if leaves_blocks_out(method):
            found[name] = "leaves blocks out, and all networks of the table have all their blocks"
        elif method.trains:
            how_many = ", ".join(epochs.get(part, "some") for part in method.uses)
            found[name] = (
                f"trains while it searches, {how_many} epochs of {images:,} images for every budget and floor"
            )
    return found


def without_draw(name: str) -> bool:
    """Whether a method finds the same for every seed."""
    if name in OWN:
        return name != DRAWN
    return METHODS[name].uses == ("tilt",) or METHODS[name].change.get("score") == "uniform"


def by_score(method: Method) -> bool:
    """Whether all that a method does is to score channels once: its scores then serve every budget and floor."""
    return "score" in method.change and not leaves_blocks_out(method)


def leaves_blocks_out(method: Method) -> bool:
    """Whether a method changes depth, whatever the protocol says."""
    return bool(method.config(ShrinkConfig()).vanish)


class Counted:
    """Batches, and how many of their images were read."""

    def __init__(self, batches: Iterable[tuple[Any, Any]]) -> None:
        self.batches, self.images = batches, 0

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for batch in self.batches:
            self.images += len(batch[0])
            yield batch


class Scored(NamedTuple):
    """Scores of all channels, and what they cost."""

    scores: dict[str, Tensor]
    images: int
    seconds: float


class Scores:
    """Scores of one widened network, each computed once, whatever number of methods and settings ask for it."""

    def __init__(self, place: Place, request: Request) -> None:
        start = time.perf_counter()
        self.place, self.request, self.space = place, request, open_request(request)
        self.opening = time.perf_counter() - start
        self.known: dict[tuple[Any, str], Scored] = {}

    def of(self, config: ShrinkConfig) -> Scored:
        """By the configuration's score and latents."""
        key = config.score, config.latents
        if key not in self.known:
            start = time.perf_counter()
            batches = Counted(first_batches(self.place.subject, config, self.request.seed))
            scores = score_channels(self.space.wide, self.space.graph, batches, functional.cross_entropy,
                                    score=config.score, latents=config.latents, embedding=config.embedding,
                                    seed=self.request.seed)  # fmt: skip
            # SynFlow asks a batch for its shape and shows the network no image.
            images = 0 if config.score == "synflow" else batches.images
            self.known[key] = Scored(scores, images, time.perf_counter() - start)
        return self.known[key]


def searched(scores: Scores, config: ShrinkConfig, scored: Scored) -> Answer:
    """Widths by scores.

    Raises:
        BudgetError: the budget cannot be met.
    """
    start, space = time.perf_counter(), scores.space
    found = search(space.graph, scored.scores, config.budget, space.baseline, floor=config.floor,
                   ceiling=config.ceiling, round_to=config.round_to, allocation=config.allocation)  # fmt: skip
    seconds = time.perf_counter() - start + scores.opening + scored.seconds
    return Answer(scores.place.relative(found.widths)[None], scored.images, seconds)


def harmonic(space: Space) -> dict[str, Tensor]:
    """The j-th channel of a group is worth 1/j: group -> (size,)."""
    return {
        group.name: 1 / torch.arange(1, group.size + 1, dtype=torch.float64) for group in space.graph.groups
    }


def limits_at(space: Space, budget: float, convention: Convention) -> Limits:
    """A budget of FLOPs and all widths that the table has.

    Raises:
        BudgetError: no such widths meet it.
    """
    return limits_of(
        space, ShrinkConfig(budget=Budget(flops=budget, convention=convention), floor=LEAST_FLOOR)
    )


def own_answer(name: str, scores: Scores, config: ShrinkConfig) -> Answer:
    """Widths by one of the bench's `OWN` rows.

    Raises:
        BudgetError: the budget cannot be met.
    """
    space, seed = scores.space, scores.request.seed
    if name == DIMINISHING:
        return searched(scores, replace(config, allocation="per-flop"), Scored(harmonic(space), 0, 0.0))
    start = time.perf_counter()
    if name == DRAWN:
        limits = limits_of(space, config)
        sizes = draw(
            space.graph, limits, DRAWS, scores.request.search.proxy.spread, np.random.default_rng(seed)
        )
    else:
        widths = tilted_widths(space, config, trunk=-2 * scores.request.search.tilt)
        sizes = np.array([list(widths.values())])
    seconds = time.perf_counter() - start + scores.opening
    return Answer(sizes / space.graph.sizes, 0, seconds)


def answer(place: Place, name: str, scores: Scores, config: ShrinkConfig) -> Answer:
    """Widths by any row of the bench.

    Raises:
        BudgetError: the budget cannot be met.
        UserError: whatever the method raises, or its network has fewer blocks than the table's.
    """
    if name in OWN:
        return own_answer(name, scores, config)
    method, request = METHODS[name], replace(scores.request, shrink=config)
    if by_score(method):
        own = method.request(request).shrink
        return searched(scores, own, scores.of(own))
    start = time.perf_counter()
    found = find(name, request)
    if found.architecture.removed:
        raise UserError(f"leaves out {', '.join(found.architecture.removed)}: the table has no such network")
    loader = place.subject.train_loader(request.train.batch_size, request.seed)
    images = found.epochs * len(loader) * request.train.batch_size
    return Answer(place.relative(found.architecture.widths)[None], images, time.perf_counter() - start)


def run_place(
    place: Place, names: Sequence[str], settings: Sequence[Setting], arguments: Namespace, work_dir: Path
) -> tuple[list[Series], Space]:
    """Find widths by all methods in one space; also returns the space.

    Raises:
        UserError: the closed form prices a network of the table otherwise than the table does.
    """
    fabric = make_fabric("cpu")
    series = {name: Series(name) for name in names}
    spaces = []
    for seed in range(arguments.seeds):
        shrink = ShrinkConfig(batch_size=arguments.images)
        searching = SearchConfig(proxy=ProxyConfig(arguments.candidates))
        train = TrainConfig(epochs=searching.accumulate_epochs, batch_size=64, seed=seed)
        request = Request(place.subject, shrink, train, searching, fabric, work_dir)
        scores = Scores(place, request)
        spaces.append(scores.space)
        different = unlike(place, scores.space.graph)
        if any(different.values()):
            raise UserError(f"{place.name}: networks whose cost differs from the table's: {different}")
        for budget in arguments.budgets:  # refused before anything is searched
            limits_at(scores.space, budget, arguments.convention)
        for name in names:
            if seed and (without_draw(name) or _by_proxy(name)):
                continue
            print(f"{place.name}, seed {seed}: {name} ...", file=sys.stderr)
            for setting in settings:
                if _by_proxy(name) and setting.floor != min(arguments.floors):
                    continue
                config = replace(shrink, floor=setting.floor,
                                 budget=Budget(flops=setting.budget, convention=arguments.convention))  # fmt: skip
                if _by_proxy(name):
                    config = replace(config, batch_size=arguments.proxy_images)
                try:
                    found = answer(place, name, scores, config)
                except BudgetError as error:
                    series[name].refused[setting] = str(error)
                else:
                    series[name].answers.setdefault(setting, []).append(found)
    return list(series.values()), spaces[0]


def _by_proxy(name: str) -> bool:
    return name in METHODS and METHODS[name].uses == ("proxy",)


def looked_up(place: Place, graph: Any, answers: Sequence[Answer], convention: str) -> dict[str, Any]:
    """What the table says of a method's networks: one value per network, and the means."""
    relative = np.concatenate([found.relative for found in answers])
    order = [place.macro.groups.index(group.name) for group in graph.groups]
    sizes: IntArray = np.rint(relative * np.array(place.macro.full)).astype(np.int64)[:, order]
    half = (graph.sizes / 2).astype(np.int64)
    shares = {kind: graph.cost(kind, sizes) / graph.cost(kind, half) for kind in (convention, "params")}
    surface = place.surface(relative)
    return {
        "networks": len(relative),
        "widths": sizes.tolist() if len(relative) < DRAWS else f"{len(relative)} drawn networks",
        "surface": float(surface.mean()),
        "surface_sd": float(surface.std(ddof=1)) if len(relative) > 1 else None,
        "neighbours": float(neighbours(place.table, relative).mean()),
        "sd_log_width": float(np.log(relative).std(axis=1).mean()),
        "flops": float(shares[convention].mean()),
        "params": float(shares["params"].mean()),
        "images": float(np.mean([found.images for found in answers])),
        "epochs": float(np.mean([found.images for found in answers])) / CIFAR_IMAGES,
        "seconds": float(np.mean([found.seconds for found in answers])),
    }  # fmt: skip


def summarise(
    place: Place, series: Sequence[Series], space: Space, arguments: Namespace, settings: Sequence[Setting]
) -> dict[str, Any]:
    """One space's figures as plain data."""
    convention, graph = arguments.convention, space.graph
    full = np.array(place.macro.full)
    oracles: dict[str, dict[str, Any]] = {}
    for budget in arguments.budgets:
        limits = limits_at(space, budget, convention)
        oracle: Oracle = find_oracle(place.table, place.surface, graph, limits, full)
        oracles[str(budget)] = {"widths": oracle.sizes.tolist(), "surface": oracle.surface, "table": oracle.table,
                                "table_unbiased": oracle.unbiased}  # fmt: skip
    rows = []
    for one in series:
        for setting, answers in one.answers.items():
            rows.append({"method": one.method, **setting._asdict(),
                         **looked_up(place, graph, answers, convention)})  # fmt: skip
    uniform = {(row["budget"], row["floor"]): row["surface"] for row in rows if row["method"] == "uniform"}
    for row in rows:
        # Uniform widths may be out of reach where widths that are rounded down are not.
        base, best = uniform.get((row["budget"], row["floor"])), oracles[str(row["budget"])]["surface"]
        row["over_uniform"] = None if base is None else row["surface"] - base
        row["over_baseline"] = row["surface"] - place.baseline
        row["oracle_share"] = (
            None if base is None or best <= base else (row["surface"] - base) / (best - base)
        )
    refused = [{"method": one.method, **setting._asdict(), "reason": reason}
               for one in series for setting, reason in one.refused.items()]  # fmt: skip
    return {
        "space": place.name,
        "title": place.macro.title,
        "networks": len(place.table.digits),
        "trainings_each": place.table.accuracy.shape[1],
        "noise": place.table.noise,
        "unlike": unlike(place, graph),
        "fit": {**vars(place.fit), "coefficients": len(place.surface.coefficients)},
        "baseline": {"surface": place.baseline, "table": float(place.table.mean[place.table.row(BASELINE)])},
        "oracles": oracles,
        "rows": rows,
        "refused": refused,
    }


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


def space_text(summary: Mapping[str, Any], floors: Sequence[float]) -> str:
    """One space's tables, in Markdown."""
    fit, baseline = summary["fit"], summary["baseline"]
    parts = [
        f"## {summary['space']} space: {summary['title']}\n\n"
        f"{summary['networks']:,} networks, {summary['trainings_each']} trainings each; one training scatters by "
        f"{summary['noise']:.2f} points. Multiply-accumulates and parameters of our closed form differ from the "
        f"table's in {summary['unlike']['macs']} and {summary['unlike']['params']} of them. The surface has "
        f"{fit['coefficients']} coefficients; the table's means lie {fit['residual']:.3f} points around it, of which "
        f"their own noise explains {fit['noise']:.3f}: a lack of fit of {fit['lack']:.3f} beyond it "
        f"(F = {fit['ratio']:.3f}). The baseline {BASELINE} is at {baseline['surface']:.2f} on "
        f"the surface, {baseline['table']:.2f} in its own trainings."
    ]
    least = min(floors)
    for budget, oracle in summary["oracles"].items():
        rows = [row for row in summary["rows"] if row["budget"] == float(budget)]
        by_floor = {(row["method"], row["floor"]): row for row in rows}
        methods = dict.fromkeys(row["method"] for row in rows)
        uniform = by_floor.get(("uniform", least))
        worth_sharing = uniform is not None and oracle["surface"] - uniform["surface"] >= summary["noise"]
        chosen = [by_floor.get((name, least)) or by_floor[name, max(floors)] for name in methods]
        lines = []
        for row in sorted(chosen, key=lambda row: -row["surface"]):
            name = row["method"]
            spread = f" ± {row['surface_sd']:.2f}" if row["surface_sd"] is not None else ""
            others = [by_floor.get((name, floor)) for floor in floors if floor != least]
            lines.append([
                name, str(row["networks"]), f"{row['surface']:.2f}{spread}", f"{row['neighbours']:.2f}",
                _signed(row["over_uniform"]), _signed(row["over_baseline"]),
                f"{100 * row['oracle_share']:.0f} %" if worth_sharing else "–",
                f"{row['sd_log_width']:.2f}", f"{100 * row['params']:.0f} %",
                *(f"{other['surface']:.2f} ({_signed(other['over_uniform'])})" if other else "–" for other in others),
                f"{row['images']:,.0f}", f"{row['epochs']:.4f}", f"{row['seconds']:.1f}",
            ])  # fmt: skip
        header = ["method", "networks", f"accuracy %, floor {least:g}", "neighbours", "over uniform",
                  "over the baseline", "oracle's share", "sd of log widths", "parameters",
                  *(f"floor {floor:g} (over uniform)" for floor in floors if floor != least), "images", "epochs",
                  "seconds"]  # fmt: skip
        parts.append(
            f"### {float(budget):.0%} of the FLOPs\n\nOracle: {oracle['surface']:.2f} on the surface, at widths "
            f"{', '.join(map(str, oracle['widths']))}; best network of the table {oracle['table']:.2f}, "
            f"{oracle['table_unbiased']:.2f} read off a training that did not choose it.\n\n"
            f"{markdown_table(header, lines)}"
        )
    for budget, floor in dict.fromkeys((item["budget"], item["floor"]) for item in summary["refused"]):
        those = [item for item in summary["refused"] if (item["budget"], item["floor"]) == (budget, floor)]
        parts.append(
            f"Not reachable at {budget:.0%} of the FLOPs with floor {floor:g}: {len(those)} methods, "
            f"such as {those[0]['method']} ({those[0]['reason']})."
        )
    return "\n\n".join(parts)


def headline(
    summaries: Sequence[Mapping[str, Any]], floors: Sequence[float], budgets: Sequence[float]
) -> str:
    """What the figures say, at the budget next to 90 %."""
    budget = min(budgets, key=lambda value: abs(value - 0.9))
    sentences = []
    for summary in summaries:
        rows = [row for row in summary["rows"] if row["budget"] == budget]
        at_least = sorted(
            (row for row in rows if row["floor"] == min(floors)), key=lambda row: -row["surface"]
        )
        oracle = summary["oracles"][str(budget)]["surface"]
        uniform = next((row["surface"] for row in at_least if row["method"] == "uniform"), None)
        if uniform is None:
            continue
        worse = sum(row["over_uniform"] < 0 for row in at_least)
        listed = ", ".join(f"{row['method']} {_signed(row['over_uniform'])}" for row in at_least[:4])
        sentences.append(
            f"**{summary['title'].capitalize()}**, {budget:.0%} of the FLOPs, floor {min(floors):g}: uniform widths "
            f"reach {uniform:.2f} %, the oracle {_signed(oracle - uniform)} points more. Best: {listed}; worst: "
            f"{at_least[-1]['method']} {_signed(at_least[-1]['over_uniform'])}. {worse} of {len(at_least)} rows are "
            f"below uniform, {sum(row['over_baseline'] > 0 for row in at_least)} above the baseline with all its FLOPs."
        )
    return "\n\n".join(sentences)


def report(results: Mapping[str, Any], arguments: Namespace, figure: str | None) -> str:
    """The page, in Markdown."""
    floors, left = arguments.floors, results["left_out"]
    kinds: dict[str, list[str]] = {}
    for name, reason in left.items():
        kinds.setdefault(reason, []).append(name)
    convention = {"macs": "multiply-accumulates, as in the table", "paper": "in the convention of the paper"}
    notes = [
        f"*Accuracy* is what the surface says of the networks found, mean ± sd over {arguments.seeds} seeds where a "
        f"method draws anything (for *{DRAWN}* over all its networks, {DRAWS} a seed); *neighbours* is "
        "interpolated between the points of the table around them. Differences are taken on the surface. "
        "*Oracle's share*: gain over uniform by the gain of the surface's best network; a dash where that gain is "
        "smaller than the scatter of a single training. The oracle may go down to a quarter of the full widths. "
        "*sd of log widths*: within a network, relative to the regular one, mean over networks. *Epochs* are images "
        "seen over CIFAR-10's 50,000; seconds are elapsed, on one thread, from the baseline to the widths; the "
        f"whole page took {results['seconds']:,.0f} of them. Floors are "
        f"shares of the doubled widths. FLOPs: {convention[arguments.convention]}.",
        f"Scores see {arguments.images} images of {results['dataset']} (the table's networks were trained on "
        f"CIFAR-10). The searches by proxies see {arguments.proxy_images} images, rank {arguments.candidates} "
        f"candidates, and run once, at floor {min(floors):g}, since they run that many networks for every row.",
        f"{len(left)} methods of the registry are left out: "
        + "; ".join(f"{len(names)} ({', '.join(names)}): {reason}" for reason, names in kinds.items()) + "."
        if left else "No method of the registry is left out.",
        "Rows that are no methods of the registry: "
        + "; ".join(f"*{name}*: {text}" for name, text in OWN.items()) + ".",
    ]  # fmt: skip
    parts = [headline(results["spaces"], floors, arguments.budgets)]
    if figure:
        parts.append(f"![Accuracy over uniform widths against the budget]({figure})")
    parts += ["\n".join(f"- {note}" for note in notes)]
    parts += [space_text(summary, floors) for summary in results["spaces"]]
    return "\n\n".join(parts)


def spread_labels(wanted: Sequence[float], least: float) -> list[float]:
    """Places for labels near those wanted, no two nearer than `least`, in the order given."""
    order = np.argsort(wanted, kind="stable")
    places = np.array(wanted, dtype=float)[order]
    gap = np.arange(len(places)) * least
    # Isotonic regression of the places less their least distances: pools of neighbours take their mean.
    pools: list[list[float]] = []
    for value in places - gap:
        pools.append([value])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    moved = np.concatenate([np.full(len(pool), np.mean(pool)) for pool in pools]) + gap
    found = np.empty(len(places))
    found[order] = moved
    return found.tolist()


def plot(path: Path, summaries: Sequence[Mapping[str, Any]], floor: float, budgets: Sequence[float]) -> None:
    """Gain over uniform widths against the budget, one panel per space."""
    figure, axes = new_figure(9.5, 4.6 * len(summaries), len(summaries), squeeze=False, sharex=True)
    budgets = sorted(budgets)
    where = [100 * budget for budget in budgets]
    for axis, summary in zip(np.ravel(axes), summaries, strict=True):
        rows = [row for row in summary["rows"] if row["floor"] == floor and row["over_uniform"] is not None]
        at = {(row["method"], row["budget"]): row["over_uniform"] for row in rows}
        uniform = {row["budget"]: row["surface"] for row in rows if row["method"] == "uniform"}
        room = [
            summary["oracles"][str(budget)]["surface"] - uniform.get(budget, np.nan) for budget in budgets
        ]
        axis.fill_between(where, 0, room, color="0.88", linewidth=0)
        axis.plot([min(where), max(where)], [0, 0], color="0.25", linewidth=1.2)
        aside = min(where) - 0.04 * (max(where) - min(where) or 1)
        axis.errorbar([aside], [0], summary["noise"], color="0.25", elinewidth=1, capsize=3)
        labels = [("uniform widths", 0.0, "0.25"), ("oracle (band)", room[-1], "0.5")]
        methods = dict.fromkeys(name for name, _ in at)
        others = 0
        for name in methods:
            values = [at.get((name, budget), np.nan) for budget in budgets]
            if name in SHOWN:
                axis.plot(where, values, "o-", color=SHOWN[name], linewidth=1.8, markersize=4)
                labels.append((name, values[-1], SHOWN[name]))
            elif name != "uniform":
                others += 1
                axis.plot(where, values, color="0.7", linewidth=0.7, zorder=1.5)
        labels = [label for label in labels if np.isfinite(label[1])]
        low, high = axis.get_ylim()
        places = spread_labels([value for _, value, _ in labels], 0.052 * (high - low))
        right = max(where) + 0.02 * (max(where) - min(where) or 1)
        for (name, value, colour), place in zip(labels, places, strict=True):
            axis.annotate(f"{name} {_signed(value)}", (max(where), value), (right, place), color=colour, fontsize=8.5,
                          va="center", annotation_clip=False)  # fmt: skip
        axis.set_title(f"{summary['space']} space ({summary['title']}), floor {floor:g}. Thin lines: {others} other "
                       f"methods; bar at the left: ± sd of one training", loc="left", fontsize=9)  # fmt: skip
        axis.set_ylabel("points of accuracy over uniform widths")
        axis.set_xticks(where, [f"{value:g} %" for value in where])
    np.ravel(axes)[-1].set_xlabel("FLOPs over the regular network's")
    save_figure(figure, path)


def check(arguments: Namespace) -> None:
    """Refuse what cannot be run, before anything is read.

    Raises:
        UserError: an unknown method or space, or a number out of range.
    """
    for name in arguments.methods or []:
        if name not in METHODS and name not in OWN:
            raise UserError(f"unknown method '{name}': {did_you_mean(name, [*METHODS, *OWN])}")
    for name in arguments.spaces:
        if name not in SPACES:
            raise UserError(f"unknown space '{name}': {did_you_mean(name, SPACES)}")
    for floor in arguments.floors:
        if not LEAST_FLOOR <= floor <= 1:
            raise UserError(
                f"--floors {floor:g}: use {LEAST_FLOOR} to 1, the table ends at a quarter of the full widths"
            )
    for budget in arguments.budgets:
        if not 0 < budget <= 4:
            raise UserError(f"--budgets {budget:g}: use shares of the baseline's FLOPs, above 0 and up to 4")
    if min(arguments.seeds, arguments.images, arguments.proxy_images) < 1:
        raise UserError("--seeds, --images and --proxy-images: use at least 1")


def run(arguments: Namespace, argv: Sequence[str] | None) -> int:
    """Search, look up, print, write; returns the exit status."""
    check(arguments)
    torch.set_num_threads(1)
    facts = machine()
    root = data_root(arguments.data_root)
    tables = {name: read_table(root, name) for name in arguments.spaces}
    data = open_dataset(arguments.dataset, root, DATASETS[arguments.dataset])
    if data.input_shape != IMAGE:
        raise UserError(f"images of {data.name} are {data.input_shape}, the networks take {IMAGE}")
    out = left_out(METHODS, len(data.train_loader(1, 0, torch.device("cpu"))))
    usual = ["uniform", *OWN, *(name for name in METHODS if name not in out and name != "uniform")]
    # Uniform widths are what the others are held against.
    names = list(dict.fromkeys(["uniform", *arguments.methods])) if arguments.methods else usual
    settings = [Setting(budget, floor) for budget in arguments.budgets for floor in arguments.floors]
    summaries = []
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as work_dir:
        for name, table in tables.items():
            place = open_place(name, table, data)
            series, space = run_place(place, names, settings, arguments, Path(work_dir))
            summaries.append(summarise(place, series, space, arguments, settings))
    not_asked = {name: "not asked for" for name in METHODS if name not in names and name not in out}
    results = {
        "convention": arguments.convention, "dataset": f"{data.num_classes} classes of {data.name}",
        "seeds": arguments.seeds, "images": arguments.images, "proxy_images": arguments.proxy_images,
        "candidates": arguments.candidates, "spaces": summaries, "seconds": time.perf_counter() - start,
        "left_out": {**{name: reason for name, reason in out.items() if name not in names}, **not_asked},
    }  # fmt: skip
    figure = arguments.output.with_name(arguments.output.name + ".png") if arguments.output else None
    text = report(results, arguments, figure.name if figure else None)
    print(text)
    if figure is not None:
        plot(figure, summaries, min(arguments.floors), arguments.budgets)
        publish(arguments.output, "Methods judged by 32,768 trained networks",
                command_text("benchmarks.channel_bench", argv), facts, text, results)  # fmt: skip
        print(f"written: {figure}")
    return 0


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog="python -m benchmarks.channel_bench", description=__doc__)
    parser.add_argument("--spaces", nargs="+", default=list(SPACES), help=f"some of {', '.join(SPACES)}")
    parser.add_argument("--methods", nargs="+", help="default: those that neither train nor leave blocks out")
    parser.add_argument("--budgets", nargs="+", type=float, default=list(BUDGETS), help="shares of the FLOPs")
    parser.add_argument(
        "--floors", nargs="+", type=float, default=list(FLOORS), help="shares of the widened widths"
    )
    parser.add_argument(
        "--convention", choices=("macs", "paper"), default="paper", help="of FLOPs (default: paper)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="of methods that draw (default: 3)")
    parser.add_argument(
        "--dataset", choices=list(DATASETS), default="tiny-imagenet", help="of the scoring images"
    )
    parser.add_argument("--images", type=int, default=16, help="that channels are scored on (default: 16)")
    parser.add_argument("--proxy-images", type=int, default=4, help="that a proxy sees (default: 4)")
    parser.add_argument("--candidates", type=int, default=8, help="that a proxy ranks (default: 8)")
    parser.add_argument("--data-root", help="holds channel-bench-macro (default: $LWDNA_DATA, else data/)")
    parser.add_argument(
        "--output", type=Path, help="write OUTPUT.json, .md and .png (docs/results/channel_bench)"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = build_parser().parse_args(argv)
    return run_command(lambda: run(arguments, argv), arguments.debug, NOTHING_KEPT)


if __name__ == "__main__":
    sys.exit(main())
