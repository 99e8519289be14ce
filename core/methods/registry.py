"""Every way of finding widths under one name: scores, allocations, proxies, DHP, hand-made controls.

A method (`core.methods.method`) turns a task, a protocol and a seed into an `Architecture` within the budget; the
networks of all methods are trained alike (`core.experiments.trainings.train_network`). `METHODS` lists the names for
`--controls`, `--method` and `python -m benchmarks.hypothesis --methods`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from torch import Tensor

from core.errors import check_known
from core.methods.accumulated import accumulate_scores, stretch
from core.methods.candidates import best_by_proxy, limits_of
from core.methods.depth_and_width import deepen_or_widen
from core.methods.dhp import dhp_search
from core.methods.method import NO_SCORES, Found, Method, Request, open_request
from core.methods.peers import PEERS
from core.methods.subject import find_architecture, first_batches, fresh_baseline, only_loss
from core.methods.tilts import tilted_widths
from core.surgery.initialise import seeded
from core.widths.config import ShrinkConfig
from core.widths.proxies import PROXIES
from core.widths.scores import SCORES
from core.widths.selection import SearchResult, check_reachable, exact_limits
from core.widths.shrinkage import priced_baseline, search_space
from core.widths.space import Space, open_space

BASELINE = "baseline"


def find(name: str, request: Request, methods: dict[str, Method] | None = None) -> Found:
    """Widths by the method called `name`.

    Raises:
        UserError: there is no such method, or it cannot search with these settings (see `Method.check_config`); the
            message says what to change.
        MissingData: see `Method.check_installed`.
    """
    methods = METHODS if methods is None else methods
    check_known("unknown method", [name], methods)
    method = methods[name]
    method.check_installed()
    method.check_config(name, request.shrink, request.subject)
    return method.find(replace(request, shrink=method.config(request.shrink)))


def _by_score(request: Request) -> Found:
    architecture = find_architecture(request.subject, request.shrink, request.seed, request.fabric.device)
    if not architecture.found_by["batches"]:
        return Found(architecture)
    epochs = request.epochs(architecture.found_by["batches"])
    growth = [request.shrink.widen**2]
    if architecture.removed:
        with seeded(request.seed):
            baseline = request.subject.searched().model
        short = growth[0] * architecture.graph(baseline).price().paper / architecture.costs[1].paper
        # If scores decide which blocks go, the network without these blocks is scored as well.
        growth = [*growth, short] if request.shrink.by_scores else [short]
    return Found(architecture, epochs * len(growth), epochs * sum(growth))


def _leaving_blocks_out(config: ShrinkConfig) -> ShrinkConfig:
    """Leave out blocks that only their floor would keep, unless the protocol sets another limit."""
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
    growth = space.graph.flops(convention="paper") / space.base_graph.flops(convention="paper")
    return Found(found.architecture, found.epochs, found.epochs * growth)


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
    found = search_space(space, stretch(scores, space.graph), config, baseline)
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
    epochs = own.candidates * request.epochs(used)
    kind = config.budget.priced
    ratio = limits.costs[kind] / getattr(space.baseline, kind)
    return Found(space.architecture(widths, subject.model_name, facts), epochs, epochs * ratio)


def _by_depth_and_width(request: Request) -> Found:
    full, config, subject = open_request(request), request.shrink, request.subject
    baseline = priced_baseline(full, config.budget)

    def opened(removed: Sequence[str]) -> Space:
        return open_space(full.model, full.inputs, subject.traced(config), seed=request.seed, removed=removed)

    def found(space: Space, scores: Mapping[str, Tensor]) -> SearchResult:
        return search_space(space, scores, config, baseline)

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


def _methods() -> Iterator[tuple[str, Method]]:
    for name, score in SCORES.items():
        allocation = {"allocation": score.allocations[0]} if score.allocations else {}
        yield name, Method(score.summary, _by_score, {"score": name, **allocation})
    hypernetwork = {"latents": "hypernetwork"}
    yield "lw-dna-paper", Method("LW-DNA as published, whatever the protocol's allocation: hypernetwork-gradient, "
                                 "one threshold", _by_score,
                                 {"score": "gradient", "allocation": "threshold", **hypernetwork},
                                 frozenset({"weights"}))  # fmt: skip
    yield "hypernetwork-gradient", Method("|dL/dz| behind DHP's hypernetworks", _by_score,
                                          {"score": "gradient", **hypernetwork}, frozenset({"weights"}))  # fmt: skip
    yield (
        "hypernetwork-magnitude",
        Method("|z| of random latents (what the published ResNet50 command selects by)", _by_score,
               {"score": "magnitude", **hypernetwork}, frozenset({"weights"})),
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
        yield (
            f"{name}-depth",
            Method(f"{name}; {summary}", _by_score, {"score": name}, adapt=_leaving_blocks_out),
        )
        yield f"{name}-depth-per-flop", Method(f"{name}, per-flop; {summary}", _by_score,
                                               {"score": name, "allocation": "per-flop"},
                                               adapt=_leaving_blocks_out)  # fmt: skip
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
        ("accumulated-per-flop", "accumulated, per FLOP", {"allocation": "per-flop"}),
    )
    for name, summary, change in accumulated:
        yield name, Method(summary, _by_accumulation, change, frozenset({"vanish", "weights"}), whole=True,
                           uses=("accumulate_epochs",), trains=True)  # fmt: skip
    for name in PROXIES:
        yield f"{name}-search", Method(f"candidates ranked by {name}", partial(_by_proxy, proxy=name),
                                       refuses=NO_SCORES | {"weights"}, whole=True, uses=("proxy",))  # fmt: skip
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
                        refuses=frozenset({"vanish", "latency", "weights"}), whole=True, uses=("dhp",), trains=True,
                        needs=("flops",))  # fmt: skip


METHODS: dict[str, Method] = {**dict(_methods()), **PEERS}
PROTOCOL = Method("as the protocol's section shrink says", _by_score)
