"""Every way of finding widths under one name: scores, allocations, proxies, DHP, hand-made controls.

A method turns a task, a protocol and a seed into an `Architecture` within the budget; how its network is trained is
the same for all (`core.experiments.trials.train_network`). `METHODS` is what `python -m benchmarks.hypothesis
--methods` knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from core.errors import MissingData, UserError
from core.methods.accumulated import accumulate_scores, stretch
from core.methods.candidates import Limits, ProxyConfig, best_by_proxy, limits_of
from core.methods.dhp import DhpConfig, dhp_search
from core.methods.subject import Subject, find_architecture, first_batches, fresh_baseline, only_loss
from core.methods.tilts import tilted_widths
from core.surgery.architecture import Architecture
from core.surgery.initialise import seeded
from core.training.train import TrainConfig
from core.widths.config import ShrinkConfig
from core.widths.proxies import PROXIES
from core.widths.scores import NAMES
from core.widths.selection import group_fractions, search
from core.widths.space import Space, open_space

BASELINE = "baseline"


@dataclass(frozen=True)
class SearchConfig:
    """What methods need beyond `ShrinkConfig`.

    Args:
        dhp: DHP's proximal gradient.
        proxy: candidates for the training-free proxies.
        accumulate_epochs: epochs of the baseline's training that `accumulated` looks at.
        tilt: logarithm of the ratio of widths between the ends of a hand-made tilt.
    """

    dhp: DhpConfig = field(default_factory=DhpConfig)
    proxy: ProxyConfig = field(default_factory=ProxyConfig)
    accumulate_epochs: int = 3
    tilt: float = 0.5


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
    """A way of finding widths.

    Attributes:
        summary: one line for tables.
        find: the search.
        change: entries of `ShrinkConfig` that make the method what it is.
        uses: entries of `SearchConfig` that its result depends on.
        trains: whether its result depends on the training recipe.
        package: an optional package that it needs, as it is imported, and the extra that brings it.
        one_floor: it makes something of its own of the floor, which has to be one number for that.
    """

    summary: str
    find: Callable[[Request], Found]
    change: dict[str, Any] = field(default_factory=dict)
    uses: tuple[str, ...] = ()
    trains: bool = False
    package: tuple[str, str] | None = None
    one_floor: bool = False

    def check_config(self, name: str, shrink: ShrinkConfig) -> None:
        """Find out beforehand which settings of a protocol the search cannot honour.

        Raises:
            UserError: it can leave no blocks out, or it takes one floor for all groups.
        """
        try:
            shrink = replace(shrink, **self.change)
        except UserError as error:
            raise UserError(f"method '{name}': {error}") from error
        if shrink.vanish and self.find not in (_by_score, _by_depth):
            raise UserError(f"method '{name}' cannot leave blocks out: set shrink.vanish to 0")
        if self.one_floor and isinstance(shrink.floor, Mapping) and not shrink.vanish:
            instead = ", or set shrink.vanish" if self.find is _by_depth else ""
            raise UserError(f"method '{name}' takes no patterns as shrink.floor: use one number{instead}")

    def check(self, name: str, shrink: ShrinkConfig, subject: Subject) -> None:
        """Find out beforehand all that would stop the search for a subject, but whether the budget can be reached.

        Raises:
            UserError: see `check_config`; it searches whole networks alone, or cannot keep a limit of the budget.
            MissingData: see `check_installed`.
        """
        self.check_installed()
        self.check_config(name, shrink)
        how, budget = getattr(self.find, "func", self.find), shrink.budget
        if subject.part is not None and how in (_by_dhp, _by_accumulation, _by_proxy):
            able = ", ".join(key for key, method in METHODS.items() if method.find in (_by_score, _by_depth))
            raise UserError(
                f"method '{name}' runs the whole network and cannot search a part of it, such as the "
                f"{subject.part.name} of {subject.model_name}: use one of {able}, or a tilt"
            )
        beside = [kind for kind in ("params", "latency") if getattr(budget, kind) is not None]
        if how in (_by_proxy, _by_tilt) and (budget.flops is None or beside):
            raise UserError(f"method '{name}' needs a budget of FLOPs alone: leave params and latency out")
        if how is _by_dhp and budget.flops is None:
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
        return replace(request, shrink=replace(request.shrink, **self.change))

    def config(self, shrink: ShrinkConfig) -> ShrinkConfig:
        """The settings that its search goes by."""
        own = replace(shrink, **self.change)
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
                for key, value in without_young(asdict(own.shrink), {"vanish": 0.0}).items()
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
    method.check_config(name, request.shrink)
    return method.find(method.request(request))


def open_request(request: Request, *, whole: bool = True) -> Space:
    """The space that a request searches in.

    Args:
        request: the search.
        whole: the method runs the subject's whole network while it searches.

    Raises:
        UserError: it does, and the subject searches a part of its network.
    """
    config, subject = request.shrink, request.subject
    if subject.part is not None and whole:
        raise UserError(
            f"this method cannot search a part of {subject.model_name}: use a score, a control or a tilt"
        )
    with seeded(request.seed):
        baseline, inputs, outputs = subject.searched()
    return open_space(baseline.to(request.fabric.device), inputs, config.widen, seed=request.seed,
                      freeze=config.freeze, ties=config.ties, outputs=outputs)  # fmt: skip


def limits_in(space: Space, config: ShrinkConfig) -> Limits:
    """The budget of FLOPs of a configuration in a space.

    Raises:
        UserError: the budget limits something else.
    """
    limits = config.budget.limits(space.baseline)
    if set(limits) != {config.budget.convention}:
        raise UserError("this method needs a budget of FLOPs alone: leave params and latency out")
    kind, limit = limits.popitem()
    return limits_of(space, kind, int(limit), config.floor, config.ceiling)


def _found_by(request: Request, **more: Any) -> dict[str, Any]:
    config = request.shrink
    return {"seed": request.seed, "budget": config.budget.to_json(), "widen": config.widen, "floor": config.floor,
            "ceiling": config.ceiling, **more}  # fmt: skip


def _images(request: Request, batches: int) -> float:
    """So many scoring batches in epochs."""
    loader = request.subject.train_loader(request.train.batch_size, request.seed)
    return batches * request.shrink.batch_size / (len(loader) * request.train.batch_size)


def _by_score(request: Request) -> Found:
    architecture = find_architecture(
        request.subject, request.shrink, request.shrink.score, request.seed, request.fabric.device
    )
    if request.shrink.score in ("random", "uniform") or not architecture.found_by["batches"]:
        return Found(architecture)
    epochs = _images(request, architecture.found_by["batches"])
    growth = [request.shrink.widen**2]
    if architecture.removed:  # scored once more without these blocks
        with seeded(request.seed):
            baseline = request.subject.searched().model
        short = architecture.graph(baseline).price().paper
        growth.append(growth[0] * short / architecture.costs[1].paper)
    return Found(architecture, epochs * len(growth), epochs * sum(growth))


def _by_depth(request: Request) -> Found:
    return _by_score(replace(request, shrink=_leaving_blocks_out(request.shrink)))


def _leaving_blocks_out(config: ShrinkConfig) -> ShrinkConfig:
    """Blocks go that would have to be held up by their floor, unless the protocol sets another limit."""
    floor = config.floor if isinstance(config.floor, (int, float)) else 0.0  # `one_floor`, or vanish is set
    return replace(config, vanish=config.vanish or floor)


def _by_dhp(request: Request) -> Found:
    space, config = open_request(request), request.shrink
    subject, train = request.subject, request.train
    found = dhp_search(
        space,
        subject.train_loader(train.batch_size, request.seed),
        subject.loss_fn,
        train,
        request.search.dhp,
        config.budget,
        floor=config.floor,
        ceiling=config.ceiling,
        round_to=config.round_to,
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
    group_fractions(space.graph.groups, config.floor, "floor")  # refuses mistakes before epochs of training
    group_fractions(space.graph.groups, config.ceiling, "ceiling")
    epochs = min(request.search.accumulate_epochs, request.train.epochs)
    loader = subject.train_loader(request.train.batch_size, request.seed)
    baseline = fresh_baseline(subject, request.seed)
    scores = accumulate_scores(baseline, space.base_graph, loader, subject.loss_fn, request.train, epochs=epochs,
                               work_dir=request.work_dir, fabric=request.fabric, progress=request.progress)  # fmt: skip
    budget = config.budget
    found = search(
        space.graph, stretch(scores, space.graph), budget, space.baseline, floor=config.floor,
        ceiling=config.ceiling, round_to=config.round_to, allocation=config.allocation,
    )  # fmt: skip
    facts = _found_by(request, score="accumulated", epochs=epochs, allocation=config.allocation,
                      at_floor=found.at_floor, at_ceiling=found.at_ceiling)  # fmt: skip
    return Found(space.architecture(found.widths, subject.model_name, facts), epochs, epochs)


def _by_proxy(request: Request, *, proxy: str) -> Found:
    space, config, subject = open_request(request), request.shrink, request.subject
    # Two batches at least: ZiCo compares gradients.
    batches = list(first_batches(subject, replace(config, batches=max(2, config.batches)), request.seed))
    own = request.search.proxy
    limits = limits_in(space, config)
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
    facts = _found_by(request, score=f"{proxy} of candidates", candidates=own.candidates, rounds=own.rounds,
                      proxy=[ranked[0][0], ranked[-1][0]])  # fmt: skip
    used = {"synflow": 0, "naswot": 1, "zico": len(batches)}[proxy]
    epochs = own.candidates * _images(request, used)
    ratio = limits.cost / space.baseline.flops(config.budget.convention)
    return Found(space.architecture(widths, subject.model_name, facts), epochs, epochs * ratio)


def _by_tilt(request: Request, *, depth: float, trunk: float) -> Found:
    space, size = open_request(request, whole=False), request.search.tilt
    tilts = {"depth": depth * size, "trunk": trunk * size}
    widths = tilted_widths(space, limits_in(space, request.shrink), **tilts)
    return Found(
        space.architecture(widths, request.subject.model_name, _found_by(request, score="tilt", **tilts))
    )


_SUMMARIES = {
    "gradient": "|dL/dz| of plain gates",
    "sensitivity": "|z · dL/dz| of plain gates: equals gradient, trained once for both",
    "magnitude": "mean |W| of fresh weights",
    "random": "control: random scores; nearly uniform widths",
    "uniform": "control: every group keeps the same fraction",
    "fisher": "Σ over samples of (z · dL/dz)²",
    "fisher-readers": "the same, readers' share alone",
    "synflow": "z · dR/dz of SynFlow",
}


def _score(name: str, summary: str, **change: Any) -> tuple[str, Method]:
    return name, Method(summary, _by_score, change)


METHODS: dict[str, Method] = dict(
    [
        *(_score(name, _SUMMARIES[name], score=name) for name in NAMES),
        _score("hypernetwork-gradient", "|dL/dz| behind DHP's hypernetworks (LW-DNA as published)",
               score="gradient", latents="hypernetwork"),
        _score("hypernetwork-magnitude", "|z| of random latents (what the published ResNet50 command selects by)",
               score="magnitude", latents="hypernetwork"),
        *(_score(f"{score}-{rule}", f"{score}, {rule}", score=score, allocation=rule)
          for score in ("gradient", "fisher") for rule in ("per-flop", "equalised")),
        _score("gradient-rounded", "gradient, widths in multiples of 8", score="gradient", round_to=8),
        *((f"{score}-depth{ending}", Method(f"{score}, {rule}; blocks that would fall under the floor are left out",
                                            _by_depth, {"score": score, "allocation": rule}, one_floor=True))
          for score in ("gradient", "fisher") for rule, ending in (("threshold", ""), ("per-flop", "-per-flop"))),
        ("shallow-uniform", Method("control: as many blocks left out as the budget allows, then uniform", _by_score,
                                   {"score": "uniform", "vanish": 1.0})),
        ("accumulated", Method("|W · dL/dW| over the baseline's first epochs", _by_accumulation,
                               {"allocation": "threshold"}, ("accumulate_epochs",), True)),
        ("accumulated-per-flop", Method("the same, per FLOP", _by_accumulation,
                                        {"allocation": "per-flop"}, ("accumulate_epochs",), True)),
        *((f"{name}-search", Method(f"candidates ranked by {name}", partial(_by_proxy, proxy=name), {}, ("proxy",)))
          for name in PROXIES),
        *((name, Method(summary, partial(_by_tilt, depth=depth, trunk=trunk), {}, ("tilt",)))
          for name, summary, depth, trunk in (
              ("early-wide", "width moved to early layers", -1.0, 0.0),
              ("late-wide", "width moved to late layers", 1.0, 0.0),
              ("trunk-wide", "width moved from blocks to the trunk", 0.0, 1.0),
              ("inner-wide", "width moved from the trunk to blocks", 0.0, -1.0))),
        ("dhp", Method("proximal gradient on the hypernetworks' latents", _by_dhp, {}, ("dhp",), True)),
    ]
)  # fmt: skip
PROTOCOL = Method("as the protocol's section shrink says", _by_score)
