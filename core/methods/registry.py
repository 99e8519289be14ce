"""Every way of finding widths under one name: scores, allocations, proxies, DHP, hand-made controls.

A method turns a task, a protocol and a seed into an `Architecture` within the budget; how its network is trained is
the same for all (`core.experiments.trials.train_network`). `METHODS` is what `python -m benchmarks.hypothesis
--methods` knows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from lightning_fabric import Fabric
from torch import Tensor

from core.errors import MissingData, UserError
from core.methods.accumulated import accumulate_scores, stretch
from core.methods.candidates import ProxyConfig, best_by_proxy, limits_of
from core.methods.depth_and_width import deepen_or_widen
from core.methods.dhp import DhpConfig, dhp_search
from core.methods.subject import Subject, find_architecture, first_batches, fresh_baseline, only_loss
from core.methods.tilts import tilted_widths
from core.surgery.architecture import Architecture
from core.surgery.initialise import seeded
from core.training.train import TrainConfig
from core.widths.config import ShrinkConfig
from core.widths.proxies import PROXIES
from core.widths.scores import SCORES
from core.widths.selection import SearchResult, check_reachable, exact_limits
from core.widths.shrinkage import priced_baseline, search_space
from core.widths.space import Space, open_space

BASELINE = "baseline"
YOUNG: dict[str, Any] = {
    "vanish": 0.0,
    "taps": (),
    "outputs": "single",
}  # of `ShrinkConfig`; see `without_young`


@dataclass(frozen=True)
class SearchConfig:
    """What methods need beyond `ShrinkConfig`.

    Args:
        dhp: DHP's proximal gradient.
        proxy: candidates for the training-free proxies.
        accumulate_epochs: epochs of the baseline's training that `accumulated` looks at.
        tilt: logarithm of the ratio of widths between the ends of a hand-made tilt.
        depth: what depth is worth beside widths; see `core.methods.depth_and_width`.
    """

    dhp: DhpConfig = field(default_factory=DhpConfig)
    proxy: ProxyConfig = field(default_factory=ProxyConfig)
    accumulate_epochs: int = 3
    tilt: float = 0.5
    depth: float = 1.0


@dataclass(frozen=True)
class Request:
    """One search for widths.

    Attributes:
        subject: what is trained.
        shrink: space, floors, budget, batches.
        train: the recipe, for methods that train while they search; its seed is the repetition's.
        search: see `SearchConfig`.
        fabric: device and processes.
        work_dir: for the checkpoints of methods that train.
        progress: show bars.
    """

    subject: Subject
    shrink: ShrinkConfig
    train: TrainConfig
    search: SearchConfig
    fabric: Fabric
    work_dir: Path
    progress: bool = False

    @property
    def seed(self) -> int:
        """Of the repetition."""
        return self.train.seed


@dataclass(frozen=True)
class Found:
    """Widths and what they cost to find.

    Attributes:
        architecture: the widths.
        epochs: images that went forward and backward through some network, in epochs of the training set.
        baseline_epochs: the same, weighed by that network's FLOPs over the baseline's.
    """

    architecture: Architecture
    epochs: float = 0.0
    baseline_epochs: float = 0.0


@dataclass(frozen=True)
class Method:
    """A way of finding widths; docs/methods.md lists them all.

    Attributes:
        summary: one line for tables.
        find: the search.
        change: entries of `ShrinkConfig` that make the method what it is.
        refuses: of "allocation", "vanish" and "latency" (of the budget) what means nothing to it. All else it obeys.
        whole: it runs the whole network while it searches, so that no part can be searched alone.
        uses: entries of `SearchConfig` that its result depends on.
        trains: whether its result depends on the training recipe.
        package: an optional package that it needs, as it is imported, and the extra that brings it.
    """

    summary: str
    find: Callable[[Request], Found]
    change: Mapping[str, Any] = field(default_factory=dict)
    refuses: frozenset[str] = frozenset()
    whole: bool = False
    uses: tuple[str, ...] = ()
    trains: bool = False
    package: tuple[str, str] | None = None

    def settings(self, shrink: ShrinkConfig) -> ShrinkConfig:
        """The configuration with the method's own entries in it; widths are multiples of both round_to."""
        change = dict(self.change)
        if "round_to" in change and isinstance(shrink.round_to, int):
            change["round_to"] = math.lcm(change["round_to"], max(1, shrink.round_to))
        return replace(shrink, **change)

    def check_config(self, name: str, shrink: ShrinkConfig, subject: Subject | None = None) -> None:
        """Find out beforehand which settings of a protocol the search cannot honour.

        Args:
            name: the method's, for the message.
            shrink: the protocol's.
            subject: whose widths are searched, where that is known.

        Raises:
            UserError: a setting that means nothing to the method, or that is not allowed, or a part of a network for
                one that runs the whole.
        """
        try:
            shrink = self.settings(shrink)
        except UserError as error:
            raise UserError(f"method '{name}': {error}") from error
        if shrink.vanish and "vanish" in self.refuses:
            raise UserError(f"method '{name}' cannot leave blocks out: set shrink.vanish to 0")
        if shrink.allocation != "threshold" and "allocation" in self.refuses:
            raise UserError(
                f"method '{name}' allocates no channels by their scores, so that shrink.allocation="
                f"'{shrink.allocation}' says nothing to it: set it to 'threshold'"
            )
        if shrink.budget.latency is not None and "latency" in self.refuses:
            raise UserError(f"method '{name}' knows no clock: leave latency out of shrink.budget")
        if self.whole and subject is not None and subject.part is not None:
            raise UserError(
                f"method '{name}' runs the whole network and cannot search a part of it, such as the backbone of "
                f"{subject.model_name}: use a score, a control or a tilt"
            )

    def check(self, name: str, shrink: ShrinkConfig, subject: Subject) -> None:
        """Find out beforehand all that would stop the search for a subject, but whether the budget can be reached.

        Raises:
            UserError: see `check_config`; or the budget lacks the limit that the search goes by.
            MissingData: see `check_installed`.
        """
        self.check_installed()
        self.check_config(name, shrink, subject)
        if self.find is _by_dhp and shrink.budget.flops is None:
            raise UserError(f"method '{name}' needs a budget of FLOPs: add flops=... to the budget")

    def check_installed(self) -> None:
        """Find out beforehand what would stop the search after hours of other methods' trainings.

        Raises:
            MissingData: the package is not there.
        """
        if self.package is not None and find_spec(self.package[0]) is None:
            name, extra = self.package[0].replace("_", "-"), self.package[1]
            raise MissingData(
                f"{name} is not installed: install the extra, pip install -e '.[{extra}]', or leave the method out"
            )

    def request(self, request: Request) -> Request:
        """The request with the method's own entries in it."""
        return replace(request, shrink=self.settings(request.shrink))

    def config(self, shrink: ShrinkConfig) -> ShrinkConfig:
        """The settings that its search goes by."""
        own = self.settings(shrink)
        return _leaving_blocks_out(own) if self.find is _by_depth else own

    def decided_by(self, request: Request) -> dict[str, Any]:
        """Everything in the configuration that decides the widths, as plain data."""
        own = self.request(request)
        parts = asdict(own.search)
        recipe = asdict(own.train)
        del recipe["checkpoint_every_steps"], recipe["seed"]
        return {
            "shrink": {
                # The order of patterns counts.
                key: list(value.items())
                if key in ("floor", "ceiling") and isinstance(value, Mapping)
                else value
                for key, value in without_young(asdict(own.shrink), YOUNG).items()
            },
            "search": {name: parts[name] for name in self.uses},
            "train": recipe if self.trains else None,
            "seed": own.seed,
        }


def without_young(parts: dict[str, Any], young: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data without the entries that stand at their defaults and are younger than the first stores.

    Keys of stored results are made of such data, so results from before an entry existed are found after it.

    Args:
        parts: the data.
        young: entry -> its default.
    """
    return {key: value for key, value in parts.items() if key not in young or value != young[key]}


def find(name: str, request: Request, methods: dict[str, Method] | None = None) -> Found:
    """Widths by the method called `name`.

    Raises:
        UserError: there is no such method, or its search cannot be done (see `Method.check_config`); the message says
            what to change.
        MissingData: see `Method.check_installed`.
    """
    methods = METHODS if methods is None else methods
    if name not in methods:
        raise UserError(f"unknown method '{name}'; use some of {', '.join([BASELINE, *methods])}")
    method = methods[name]
    method.check_installed()
    method.check_config(name, request.shrink, request.subject)
    return method.find(method.request(request))


def open_request(request: Request) -> Space:
    """The space that a request searches in; its limits are looked at before anything is trained.

    Raises:
        UserError: see `core.widths.bounds.group_bounds`.
    """
    with seeded(request.seed):
        baseline, inputs = request.subject.searched()
    config = request.subject.traced(request.shrink)
    space = open_space(baseline.to(request.fabric.device), inputs, config, seed=request.seed)
    config.bounds(space.graph)
    return space


def _images(request: Request, batches: int) -> float:
    """So many scoring batches in epochs."""
    loader = request.subject.train_loader(request.train.batch_size, request.seed)
    return batches * request.shrink.batch_size / (len(loader) * request.train.batch_size)


def _by_score(request: Request) -> Found:
    architecture = find_architecture(request.subject, request.shrink, request.seed, request.fabric.device)
    if not architecture.found_by["batches"]:
        return Found(architecture)
    epochs = _images(request, architecture.found_by["batches"])
    growth = [request.shrink.widen**2]
    if architecture.removed:
        with seeded(request.seed):
            baseline = request.subject.searched().model
        short = growth[0] * architecture.graph(baseline).price().paper / architecture.costs[1].paper
        # Scores that say which blocks go are followed by those of the network without them.
        growth = [*growth, short] if request.shrink.by_scores else [short]
    return Found(architecture, epochs * len(growth), epochs * sum(growth))


def _by_depth(request: Request) -> Found:
    return _by_score(replace(request, shrink=_leaving_blocks_out(request.shrink)))


def _leaving_blocks_out(config: ShrinkConfig) -> ShrinkConfig:
    """Blocks go that would have to be held up by their floor, unless the protocol sets another limit."""
    own: float | Literal["floor"] = "floor" if isinstance(config.floor, Mapping) else config.floor
    return replace(config, vanish=config.vanish or own)


def _by_dhp(request: Request) -> Found:
    space = open_request(request)
    subject, train = request.subject, request.train
    found = dhp_search(
        space,
        subject.train_loader(train.batch_size, request.seed),
        subject.loss_fn,
        train,
        request.search.dhp,
        request.shrink,
        seed=request.seed,
        work_dir=request.work_dir,
        fabric=request.fabric,
        name=subject.model_name,
        progress=request.progress,
    )
    return Found(found.architecture, found.epochs, found.epochs * _growth(space))


def _growth(space: Space) -> float:
    return space.graph.flops(convention="paper") / space.base_graph.flops(convention="paper")


def _by_accumulation(request: Request) -> Found:
    space, config, subject = open_request(request), request.shrink, request.subject
    check_reachable(space.graph, config.bounds(space.graph), exact_limits(config.budget, space.baseline),
                    space.baseline, binding=config.budget.latency is None)  # fmt: skip
    epochs = min(request.search.accumulate_epochs, request.train.epochs)
    loader = subject.train_loader(request.train.batch_size, request.seed)
    network = fresh_baseline(subject, request.seed)
    scores = accumulate_scores(network, space.base_graph, loader, subject.loss_fn, request.train, epochs=epochs,
                               work_dir=request.work_dir, fabric=request.fabric, progress=request.progress)  # fmt: skip
    baseline = priced_baseline(space, config.budget)
    found = search_space(space, stretch(scores, space.graph), config, baseline, seed=request.seed)
    facts = config.found_by(score="accumulated", seed=request.seed, epochs=epochs, allocation=config.allocation,
                            at_floor=found.at_floor, at_ceiling=found.at_ceiling)  # fmt: skip
    return Found(space.architecture(found.widths, subject.model_name, facts), epochs, epochs)


def _by_proxy(request: Request, *, proxy: str) -> Found:
    space, config, subject = open_request(request), request.shrink, request.subject
    # Two batches at least: ZiCo compares gradients.
    batches = list(first_batches(subject, replace(config, batches=max(2, config.batches)), request.seed))
    own = request.search.proxy
    limits = limits_of(space, config)
    widths, ranked = best_by_proxy(
        space,
        limits,
        PROXIES[proxy],
        batches,
        only_loss(subject),
        own,
        seed=request.seed,
        device=request.fabric.device,
    )
    facts = config.found_by(score=f"{proxy} of candidates", seed=request.seed, candidates=own.candidates,
                            rounds=own.rounds, proxy=[ranked[0][0], ranked[-1][0]])  # fmt: skip
    used = {"synflow": 0, "naswot": 1, "zico": len(batches)}[proxy]
    epochs = own.candidates * _images(request, used)
    kind = config.budget.priced
    ratio = limits.costs[kind] / getattr(space.baseline, kind)
    return Found(space.architecture(widths, subject.model_name, facts), epochs, epochs * ratio)


def _by_depth_and_width(request: Request) -> Found:
    full, config, subject = open_request(request), request.shrink, request.subject
    baseline = priced_baseline(full, config.budget)

    def opened(removed: Sequence[str]) -> Space:
        return open_space(full.model, full.inputs, subject.traced(config), seed=request.seed, removed=removed)

    def found(space: Space, scores: Mapping[str, Tensor]) -> SearchResult:
        return search_space(space, scores, config, baseline, seed=request.seed)

    space, result, value = deepen_or_widen(full, request.search.depth, opened, found)
    facts = config.found_by(score="depth and width", seed=request.seed, depth=request.search.depth, objective=value,
                            allocation=config.allocation, at_floor=result.at_floor,
                            at_ceiling=result.at_ceiling)  # fmt: skip
    return Found(space.architecture(result.widths, subject.model_name, facts))


def _by_tilt(request: Request, *, depth: float, trunk: float) -> Found:
    space, size = open_request(request), request.search.tilt
    tilts = {"depth": depth * size, "trunk": trunk * size}
    facts = request.shrink.found_by(score="tilt", seed=request.seed, **tilts)
    widths = tilted_widths(space, request.shrink, **tilts)
    return Found(space.architecture(widths, request.subject.model_name, facts))


NO_SCORES = frozenset({"allocation", "vanish", "latency"})


def _methods() -> Iterator[tuple[str, Method]]:
    for name, score in SCORES.items():
        allocation = {"allocation": score.allocations[0]} if score.allocations else {}
        yield name, Method(score.summary, _by_score, {"score": name, **allocation})
    hypernetwork = {"latents": "hypernetwork"}
    yield "hypernetwork-gradient", Method("|dL/dz| behind DHP's hypernetworks (LW-DNA as published)", _by_score,
                                          {"score": "gradient", **hypernetwork})  # fmt: skip
    yield (
        "hypernetwork-magnitude",
        Method("|z| of random latents (what the published ResNet50 command selects by)", _by_score,
               {"score": "magnitude", **hypernetwork}),
    )  # fmt: skip
    for name in ("gradient", "fisher"):
        for rule in ("per-flop", "equalised"):
            yield f"{name}-{rule}", Method(f"{name}, {rule}", _by_score, {"score": name, "allocation": rule})
    yield (
        "gradient-rounded",
        Method("gradient, widths in multiples of 8", _by_score, {"score": "gradient", "round_to": 8}),
    )
    for name in ("gradient", "fisher"):
        summary = "blocks that would fall under the floor are left out"
        yield f"{name}-depth", Method(f"{name}; {summary}", _by_depth, {"score": name})
        yield f"{name}-depth-per-flop", Method(f"{name}, per-flop; {summary}", _by_depth,
                                               {"score": name, "allocation": "per-flop"})  # fmt: skip
    yield "shallow-uniform", Method("control: as many blocks left out as the budget allows, then uniform", _by_score,
                                    {"score": "uniform", "allocation": "threshold", "vanish": 1.0})  # fmt: skip
    for name, summary, change in (
        ("receptive-field-uniform", "uniform", {"score": "uniform", "allocation": "threshold"}),
        ("receptive-field-diminishing-returns", "diminishing returns",
         {"score": "diminishing-returns", "allocation": "per-flop"}),
    ):  # fmt: skip
        yield name, Method(f"blocks whose input sees the whole image are left out, the last first; {summary}",
                           _by_score, {**change, "vanish": "receptive-field"})  # fmt: skip
    yield "depth-and-width", Method("Σ a log w + c Σ log blocks: blocks go where the width they pay for is worth more",
                                    _by_depth_and_width, {"allocation": "per-flop"}, frozenset({"vanish"}),
                                    uses=("depth",))  # fmt: skip
    accumulated: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("accumulated", "|W · dL/dW| over the baseline's first epochs", {}),
        ("accumulated-per-flop", "the same, per FLOP", {"allocation": "per-flop"}),
    )
    for name, summary, change in accumulated:
        yield name, Method(summary, _by_accumulation, change, frozenset({"vanish"}), whole=True,
                           uses=("accumulate_epochs",), trains=True)  # fmt: skip
    for name in PROXIES:
        yield f"{name}-search", Method(f"candidates ranked by {name}", partial(_by_proxy, proxy=name),
                                       refuses=NO_SCORES, whole=True, uses=("proxy",))  # fmt: skip
    for name, summary, depth, trunk in (
        ("early-wide", "width moved to early layers", -1.0, 0.0),
        ("late-wide", "width moved to late layers", 1.0, 0.0),
        ("trunk-wide", "width moved from blocks to the trunk", 0.0, 1.0),
        ("inner-wide", "width moved from the trunk to blocks", 0.0, -1.0),
    ):
        yield (
            name,
            Method(summary, partial(_by_tilt, depth=depth, trunk=trunk), refuses=NO_SCORES, uses=("tilt",)),
        )
    yield "dhp", Method("proximal gradient on the hypernetworks' latents", _by_dhp,
                        refuses=frozenset({"vanish", "latency"}), whole=True, uses=("dhp",), trains=True)  # fmt: skip


METHODS: dict[str, Method] = dict(_methods())
PROTOCOL = Method("as the protocol's section shrink says", _by_score)
