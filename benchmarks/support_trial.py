"""One network of the support table: its stages, and the findings of each.

The findings are sent after every stage, so that a process that runs out of time or memory leaves those so far.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.shrinking import FAILURES, no_loss
from benchmarks.support_networks import Network
from core.graph.channels import ChannelGraph, trace_channels
from core.graph.complexity import count
from core.modules import call, tensors_in
from core.surgery.architecture import Architecture, describe_inputs
from core.surgery.initialise import same_start
from core.widths.budget import Budget
from core.widths.shrinkage import shrink
from core.workers import end_with_parent

BUDGET = 0.8
SEED = 1
UNFINISHED = "did not end"  # the problem of a stage that is running
STRAY = 30.0  # median deviations from the median
ERRORS = 5.0  # standard errors by which two draws of one initialisation may differ


@dataclass(frozen=True)
class Outcome:
    """The findings about a network. Numbers and texts are None, and tuples empty, for stages that it did not reach.

    Attributes:
        groups: free channel groups.
        untested: those of them for which no masked form equals the cut one.
        share: the share of multiply-accumulates that depend on a free group: each multiplies one output row by one
            input row of a layer, and counts if a free group owns either. 1 - cost(0) / cost in closed form, since
            without any free row exactly the others remain.
        half: multiply-accumulates with every free group at half its channels, as a share of all: .25 if both sides of
            every product are free, .5 if one is.
        notes: channels that an operation without a rule froze.
        modes: in which masked was proved to equal cut, "evaluation" and "training".
        difference: the largest difference found there, relative to the largest output.
        reached: the multiply-accumulates of widths under a budget of .8, as a share of the baseline's.
        trained: whether one step of the network of these widths went well: finite loss and gradients, and a gradient
            for every parameter that has one in the original.
        start: how tensors at the baseline's widths start with the factory at hand: "equal" to the factory's, bit for
            bit at one seed.
        alone: how they start without the factory: "equal", or "alike" within the error of two draws.
        exported: "yes" if torch.export gives a program with the network's outputs, "nor the original" if it fails on
            the original too.
        onnx: whether ONNX export works; None if it was not requested.
        peer_groups: of Torch-Pruning.
        peer_reached: its multiply-accumulates with half of the channels pruned, if that network runs.
        problems: stage -> what went wrong, one line.
        seconds: stage -> elapsed.
    """

    groups: int | None = None
    untested: int = 0
    share: float | None = None
    half: float | None = None
    notes: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    difference: float | None = None
    reached: float | None = None
    trained: bool = False
    start: str | None = None
    alone: str | None = None
    exported: str | None = None
    onnx: bool | None = None
    peer_groups: int | None = None
    peer_reached: float | None = None
    problems: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def one_line(error: BaseException) -> str:
    """The first line of an exception, with its type unless the type is ours."""
    text = str(error).strip().splitlines() or [""]
    kind = type(error).__name__
    return (
        text[0]
        if kind in ("TraceError", "UserError", "BudgetError", "VerificationError")
        else f"{kind}: {text[0]}"
    )


class Trial:
    """The stages, one after the other; a failed one is noted, and those that need its result are left out."""

    def __init__(self, network: Network, tell: Callable[[Outcome], object]) -> None:
        self.network, self.tell, self.outcome = network, tell, Outcome()

    def note(self, **found: Any) -> None:
        """Add to the outcome."""
        self.outcome = replace(self.outcome, **found)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage, note why it failed, and send the findings so far."""
        start = time.perf_counter()
        self.note(problems={**self.outcome.problems, name: UNFINISHED})
        self.tell(self.outcome)
        problems = {key: text for key, text in self.outcome.problems.items() if key != name}
        try:
            yield
        except (*FAILURES, MemoryError) as error:
            problems[name] = one_line(error)
        seconds = {**self.outcome.seconds, name: round(time.perf_counter() - start, 2)}
        self.note(problems=problems, seconds=seconds)
        self.tell(self.outcome)

    def run(self, *, onnx: bool) -> Outcome:
        """All stages."""
        inputs = self.network.inputs()
        graph: ChannelGraph | None = None
        found: Architecture | None = None
        cut: nn.Module | None = None
        with self.stage("build"):
            model = self.network.make()
        if self.outcome.problems:
            return self.outcome
        with self.stage("trace"):
            graph = trace_channels(model, inputs, outputs="freeze")
            self.note(**covered(graph))
            if not graph.groups:
                raise ValueError("no free channel group")
            if (counted := count(model, inputs)) != graph.flops():
                raise ValueError(f"the closed form says {graph.flops()} MACs, counting {counted}")
        if graph is not None and graph.groups:
            with self.stage("verify"):
                self.note(**proved(graph, model, inputs))
            with self.stage("shrink"):
                budget = Budget(flops=BUDGET)
                found = shrink(model, inputs, (), no_loss, score="random-scores", budget=budget, outputs="freeze",
                               factory=self.network.build)  # fmt: skip
                self.note(reached=found.costs[0].macs / found.costs[1].macs)
            with self.stage("start"):
                if differing := same_start(self.network.build, seed=SEED):
                    raise ValueError(f"{len(differing)} tensors start differently: {differing[0]}")
                self.note(start="equal")
            with self.stage("alone"):
                self.note(alone=start_alone(self.network, model, graph, inputs))
        if found is not None:
            with self.stage("train"):
                cut = found.build(model, seed=SEED, factory=self.network.build)
                train(cut, copy.deepcopy(model), inputs)
                self.note(trained=True)
        if cut is not None:
            with self.stage("export"):
                self.note(exported=export(cut, model, inputs))
            if onnx:
                with self.stage("onnx"):
                    self.note(onnx=False)
                    torch.onnx.export(cut.eval(), (inputs,), dynamo=True, verbose=False)
                    self.note(onnx=True)
        del graph, cut
        with self.stage("peer"):
            groups, reached = halve(model, inputs)
            self.note(peer_groups=groups, peer_reached=reached)
        return self.outcome


def covered(graph: ChannelGraph) -> dict[str, Any]:
    """The share of a network that its free groups govern: entries of `Outcome`."""
    base = int(graph.cost("macs", graph.sizes))
    rest, half = (int(graph.cost("macs", sizes)) for sizes in (graph.sizes * 0, graph.sizes // 2))
    return {"groups": len(graph.groups), "share": 1 - rest / base, "half": half / base,
            "notes": tuple(str(note) for note in graph.notes)}  # fmt: skip


def proved(graph: ChannelGraph, model: nn.Module, inputs: Any) -> dict[str, Any]:
    """Entries of `Outcome` from the proof that masked equals cut."""
    found = graph.verify(model, inputs)
    return {
        "modes": tuple(found.modes),
        "difference": float(found),
        "untested": len(found.untested) - len(found.over_kept),
    }


def total(outputs: Any) -> Tensor:
    """A loss that depends on everything that a network returns: the sum of mean squares of its tensors."""
    return torch.stack([tensor.float().square().mean() for tensor in tensors_in(outputs)]).sum()


def train(model: nn.Module, original: nn.Module, inputs: Tensor) -> None:
    """One step of SGD, in place.

    Args:
        model: the network at its found widths.
        original: the baseline, whose gradients are computed once.
        inputs: of both.

    Raises:
        ValueError: a loss or a gradient is not finite, or a parameter gets no gradient that gets one in the original.
    """
    wanted: set[str] = set()
    for network in (original, model):
        torch.manual_seed(SEED)
        loss = total(call(network.train(), inputs))
        loss.backward()
        found = {name: tensor.grad for name, tensor in network.named_parameters() if tensor.grad is not None}
        if network is original:
            wanted = set(found)
            if not all(math.isfinite(float(grad.sum())) for grad in found.values()):
                raise ValueError("the original has gradients that are not finite")
    strange = [name for name, grad in found.items() if not bool(grad.isfinite().all())]
    if strange or not math.isfinite(loss.item()):
        raise ValueError(f"the loss is {loss.item()}; {len(strange)} gradients are not finite {strange[:1]}")
    if missing := sorted(wanted - set(found)):
        raise ValueError(f"{len(missing)} parameters get no gradient, '{missing[0]}' among them")
    torch.optim.SGD(model.parameters(), lr=1e-3).step()
    with torch.no_grad():
        if not math.isfinite(float(total(call(model, inputs)))):
            raise ValueError("outputs after one step are not finite")


def start_alone(network: Network, model: nn.Module, graph: ChannelGraph, inputs: Tensor) -> str:
    """Compare the factory's network with that of `Architecture.build` without a factory, at the baseline's widths.

    For every parameter and buffer: constants and tensors that no seed changes have to be equal; means and standard
    deviations of all others have to lie within five errors of two draws.

    Raises:
        ValueError: a tensor starts differently; the message gives the number of them, and one.
    """
    architecture = Architecture(network.name, graph.widths, describe_inputs(inputs), options=graph.options)
    wanted, other = network.make(SEED).state_dict(), network.make(SEED + 1).state_dict()
    torch.manual_seed(SEED)
    built = architecture.build(model, seed=SEED).state_dict()
    if built.keys() != wanted.keys():
        raise ValueError(f"other tensors: {sorted(built.keys() ^ wanted.keys())[:3]}")
    if all(torch.equal(tensor, built[name]) for name, tensor in wanted.items()):
        return "equal"
    wrong = []
    for name, tensor in wanted.items():
        reason = differs(tensor, built[name], fixed=torch.equal(tensor, other[name]))
        if reason:
            wrong.append(f"'{name}' {reason}")
    if wrong:
        raise ValueError(f"{len(wrong)} of {len(wanted)} tensors start differently: {wrong[0]}")
    return "alike"


def differs(wanted: Tensor, found: Tensor, *, fixed: bool) -> str:
    """Why two tensors are not draws of one initialisation, or "".

    Args:
        wanted: of the factory.
        found: of our build.
        fixed: whether the factory gives these very values under any seed.
    """
    if wanted.shape != found.shape:
        return f"has shape {tuple(found.shape)}, not {tuple(wanted.shape)}"
    if fixed:
        return "" if torch.equal(wanted, found) else f"is {_moments(found)}, always {_moments(wanted)}"
    (mean, std), (own_mean, own_std) = _moments(wanted), _moments(found)
    error = std * math.sqrt(2 / wanted.numel())
    if abs(mean - own_mean) > ERRORS * error or abs(std - own_std) > ERRORS * error / math.sqrt(2):
        return f"has mean and std {_moments(found)}, not {_moments(wanted)}"
    return ""


def _moments(tensor: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of all but one stray value.

    `torch.nn.init.trunc_normal_` puts one value in some ten millions on its bound, 2.0 by default, a hundred standard
    deviations from the others.
    """
    values = tensor.detach().double().reshape(-1)
    far = (values - values.median()).abs()
    if far.max() > STRAY * far.median() and len(values) > 2:
        values = values[torch.arange(len(values)) != far.argmax()]
    return float(f"{values.mean():.3g}"), float(f"{values.std(correction=0):.4g}")


def export(cut: nn.Module, original: nn.Module, inputs: Tensor) -> str:
    """ "yes" if torch.export's program gives the cut network's outputs, else "nor the original".

    Raises:
        ValueError: the program's outputs differ.
        RuntimeError: the export fails, and that of the original does not.
    """
    with torch.no_grad():
        try:
            program = torch.export.export(cut.eval(), (inputs,))
        except FAILURES:
            try:
                torch.export.export(copy.deepcopy(original).eval(), (inputs,))
            except FAILURES:
                return "nor the original"
            raise
        pairs = zip(tensors_in(program.module()(inputs)), tensors_in(call(cut, inputs)), strict=True)
        if not all(torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4) for ours, theirs in pairs):
            raise ValueError("the exported program's outputs differ")
    return "yes"


def limit_memory(gibibytes: float) -> None:
    """A limit on this process's own data, where the system has one (Linux)."""
    if sys.platform == "linux":
        import resource

        size = int(gibibytes * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def try_there(network: Network, pipe: Connection, onnx: bool, memory: float, threads: int) -> None:
    """Try a network in this process, which `benchmarks.support` started, and send the findings after every stage.

    Args:
        network: see `Network`.
        pipe: where outcomes go, as JSON.
        onnx: whether it is exported to ONNX.
        memory: see `limit_memory`.
        threads: of torch.
    """
    end_with_parent()
    limit_memory(memory)
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):  # warnings of the libraries
        Trial(network, lambda outcome: pipe.send(json.loads(json.dumps(asdict(outcome))))).run(onnx=onnx)


def halve(model: nn.Module, inputs: Tensor) -> tuple[int, float]:
    """Prune half of the channels of every group but the outputs', by the library's defaults; `model` is changed.

    Args:
        model: any network.
        inputs: its example input.

    Returns:
        The number of the library's groups, and the multiply-accumulates that are left, as a part of all.

    Raises:
        ValueError: the pruned network returns other shapes. All other errors of the library or that network pass
            through.
    """
    import torch_pruning

    model.eval()
    with torch.no_grad():
        wanted = [tensor.shape for tensor in tensors_in(model(inputs))]
    classes = {shape[1] for shape in wanted if len(shape) > 1}
    layers = (nn.modules.conv._ConvNd, nn.Linear)
    last = [
        module for module in model.modules() if isinstance(module, layers) and len(module.weight) in classes
    ]
    base = count(model, inputs)
    pruner = torch_pruning.pruner.MetaPruner(
        model, inputs, importance=torch_pruning.importance.GroupMagnitudeImportance(p=1), pruning_ratio=0.5,
        ignored_layers=last, in_channel_groups={}, out_channel_groups={}, num_heads={},
    )  # fmt: skip
    kinds = pruner.root_module_types
    groups = sum(1 for _ in pruner.DG.get_all_groups(ignored_layers=last, root_module_types=kinds))
    pruner.step()
    with torch.no_grad():
        found = [tensor.shape for tensor in tensors_in(model(inputs))]
    if found != wanted:
        raise ValueError(f"the pruned network returns {found}, not {wanted}")
    return groups, count(model, inputs) / base
