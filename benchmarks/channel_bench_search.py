"""Channel-Bench-Macro's searches: widths by every method in one space of the table, at every budget and floor."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.nn import functional

from benchmarks.channel_bench_exponents import FITS, RECIPE, SMALL, TRAININGS, learned_widths
from benchmarks.channel_bench_networks import BASELINE, QUARTERS, SPACES, MacroSpace, image
from benchmarks.channel_bench_table import Fit, FloatArray, Surface, Table, fit_surface, judge
from classification.data import ClassificationData
from core.errors import UserError
from core.graph.complexity import Convention
from core.methods.candidates import Limits, ProxyConfig, draw, limits_of
from core.methods.method import Method, Request, SearchConfig, open_request
from core.methods.registry import METHODS, find
from core.methods.subject import Subject, first_batches
from core.methods.tilts import tilted_widths
from core.training.train import TrainConfig, make_fabric
from core.widths.budget import Budget, BudgetError
from core.widths.config import ShrinkConfig
from core.widths.scores import score_channels
from core.widths.selection import search
from core.widths.space import Space

LEAST_FLOOR = 1 / QUARTERS  # a quarter of the full widths, the table's least
DRAWS = 100
DRAWN, STEEP, LEARNED = f"random, {DRAWS} draws", "inner-wide, tilt 1", "learned exponents"
OWN = {
    DRAWN: f"`random` {DRAWS} times for every seed",
    STEEP: "width moved from the trunk to blocks, twice as far as `inner-wide`",
    LEARNED: f"Σ b log w, b fitted to one training each of {TRAININGS} networks of the table that have at most "
    f"{SMALL:.0%} of the baseline's FLOPs, {FITS} times for every seed",
}


@dataclass(frozen=True)
class Place:
    """One space of the bench, opened.

    Attributes:
        name: "MobileNet" or "ResNet".
        macro: its networks.
        table: its trained networks.
        surface: fitted to them.
        fit: how well it fits.
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
        """The surface's accuracy of the regular network."""
        return float(self.surface(np.array([int(digit) / QUARTERS for digit in BASELINE])))

    def relative(self, widths: Mapping[str, int]) -> FloatArray:
        """Widths by group as shares of the full ones, (7,), in the order of the digits."""
        return np.array([widths[name] for name in self.macro.groups]) / np.array(self.macro.full)


class Setting(NamedTuple):
    """A budget as a share of the baseline's FLOPs, and a floor as a share of the widened widths."""

    budget: float
    floor: float


@dataclass(frozen=True)
class Answer:
    """What a method found in one setting.

    Attributes:
        relative: widths as shares of the full ones, (networks, 7).
        images: number of images that went through a network for it.
        seconds: elapsed; work that several settings share counts for each.
    """

    relative: FloatArray
    images: float
    seconds: float


@dataclass
class Series:
    """A method's findings in one space: for every setting one answer per seed, or why there is none."""

    method: str
    answers: dict[Setting, list[Answer]] = field(default_factory=dict)
    refused: dict[Setting, str] = field(default_factory=dict)


def open_place(name: str, table: Table, data: ClassificationData) -> Place:
    """Fit a table's surface.

    Args:
        name: of the space.
        table: of its trained networks.
        data: the images on which channels are scored.
    """
    macro, surface = SPACES[name], fit_surface(table)
    subject = Subject(model_name=f"{name} {BASELINE}", build=lambda: macro.network(BASELINE), example_inputs=image(),
                      train_loader=data.train_loader, loss_fn=functional.cross_entropy)  # fmt: skip
    return Place(name, macro, table, surface, judge(table, surface), subject)


def unlike(place: Place, graph: Any) -> dict[str, int]:
    """Networks of the table whose FLOPs or parameters differ from the closed form's: kind -> number.

    Args:
        place: with the table.
        graph: of the widened network.
    """
    sizes = place.table.digits * np.array(place.macro.full) // QUARTERS
    theirs = {"macs": place.table.flops, "params": place.table.params}
    return {kind: int((graph.cost(kind, sizes) != costs).sum()) for kind, costs in theirs.items()}


def left_out(methods: Mapping[str, Method], images: int) -> dict[str, str]:
    """Methods that the bench leaves out unless they are named, and why.

    Args:
        methods: of the registry.
        images: of an epoch.
    """
    config, found = SearchConfig(), {}
    epochs = {"accumulate_epochs": f"{config.accumulate_epochs}", "dhp": f"up to {config.dhp.max_epochs}"}
    for name, method in methods.items():
        if method.leaves_blocks_out:
            found[name] = "leaves blocks out, and all networks of the table have all their blocks"
        elif method.package is not None:
            found[name] = (
                f"another library's way: name it to have it tried, with {method.package[0]} installed"
            )
        elif method.trains:
            how_many = ", ".join(epochs.get(part, "some") for part in method.uses)
            found[name] = (
                f"trains while it searches, {how_many} epochs of {images:,} images for every budget and floor"
            )
    return found


def without_draw(name: str) -> bool:
    """Whether a method finds the same widths for every seed."""
    if name in OWN:
        return name == STEEP
    return METHODS[name].uses == ("tilt",) or METHODS[name].change.get("score") == "uniform"


def by_score(method: Method) -> bool:
    """Whether a method only scores channels, once: its scores then serve every budget and floor."""
    return "score" in method.change and not method.leaves_blocks_out


class Counted:
    """Batches that count how many of their images were read."""

    def __init__(self, batches: Iterable[tuple[Any, Any]]) -> None:
        self.batches, self.images = batches, 0

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for batch in self.batches:
            self.images += len(batch[0])
            yield batch


class Scored(NamedTuple):
    """Scores of all channels, and their cost."""

    scores: dict[str, Tensor]
    images: int
    seconds: float


class Scores:
    """Scores of one widened network, each computed once, however many methods and settings ask for it."""

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
            # SynFlow reads a batch's shape and shows the network no image.
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


def limits_at(space: Space, budget: float, convention: Convention) -> Limits:
    """A budget of FLOPs, within the table's widths.

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
    start = time.perf_counter()
    if name == LEARNED:
        place = scores.place
        relative = learned_widths(place.table, space, place.macro.groups, config, seed)
        return Answer(relative, TRAININGS * RECIPE, time.perf_counter() - start + scores.opening)
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
    """Widths by any method of the bench.

    Raises:
        BudgetError: the budget cannot be met.
        UserError: any error of the method, or its network has fewer blocks than the table's.
    """
    if name in OWN:
        return own_answer(name, scores, config)
    method, request = METHODS[name], replace(scores.request, shrink=config)
    if by_score(method):
        own = method.config(config)
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
        UserError: the closed form and the table disagree on the cost of a network.
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
