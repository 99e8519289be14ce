"""Ways of shrinking a network to a share of its MACs: ours in one shot, Torch-Pruning's in steps and by bisection.

Nothing is imported before it is used, so that `first_call` can time a first call with all its imports.
"""

from __future__ import annotations

import copy
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from benchmarks.networks import Network
    from core.graph.channels import ChannelGraph

Inputs = tuple[Tensor, ...]
OURS = "ours"
Scope = Literal["local", "global"]
SCOPES: tuple[Scope, ...] = ("local", "global")
BISECTION_TOLERANCE = 0.005
MOST_TRIALS = 16
# iterative_steps: 400 is the default of Torch-Pruning's reproduce/main.py, 40 is ten times coarser and quicker.
STEPS = (40, 400)
# Errors of such a library on a network that it cannot handle.
FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Shrunk:
    """The result of a way of shrinking.

    Attributes:
        model: the cut network; None if only widths were requested.
        trials: pruning steps or whole trials that it took.
        graph: our channel groups; None for the peer, which returns a network only.
        widths: our widths by group; empty for the peer.
        phases: seconds of our stages.
    """

    model: nn.Module | None
    trials: int = 1
    graph: ChannelGraph | None = None
    widths: dict[str, int] = field(default_factory=dict)
    phases: dict[str, float] = field(default_factory=dict)


def shrink_ours(model: nn.Module, inputs: Inputs, target: float, *, cut: bool) -> Shrunk:
    """Trace the groups, score by weight magnitude, search the widths; `cut` also builds the cut network.

    Args:
        model: the network; it is not changed.
        inputs: positional arguments of one forward pass.
        target: share of the MACs, in (0, 1).
        cut: whether the result is a network, as the peer's, or widths and masks.
    """
    import core

    marks = [time.perf_counter()]
    graph = core.trace_channels(model, inputs)
    marks.append(time.perf_counter())
    scores = core.score_channels(model, graph, (), no_loss, score="magnitude")
    marks.append(time.perf_counter())
    budget = core.Budget(flops=target, convention="macs")
    found = core.search(graph, scores, budget, graph.price())
    marks.append(time.perf_counter())
    result = core.keep_channels(model, graph, found.keep) if cut else None
    marks.append(time.perf_counter())
    stages = ("trace", "score", "search", "cut") if cut else ("trace", "score", "search")
    phases = {stage: end - start for stage, start, end in zip(stages, marks, marks[1:], strict=False)}
    return Shrunk(result, 1, graph, found.widths, phases)


def no_loss(outputs: Any, targets: Any) -> Tensor:
    """The loss for scores that need none."""
    raise AssertionError("this score reads no batch")


def shrink_in_steps(
    model: nn.Module, inputs: Inputs, target: float, *, network: Network, scope: Scope, steps: int
) -> Shrunk:
    """Torch-Pruning's progressive pruning: one step of its schedule at a time until its own count is under target.

    The loop of its reproduce/main.py: `pruning_ratio=1`, `iterative_steps` equal steps towards it, MACs counted by
    its `count_ops_and_params` after each.

    Args:
        model: the network; it is pruned in place.
        inputs: as above.
        target: as above.
        network: says which layers must stay.
        scope: "local" prunes every group alike, "global" ranks all channels together, as ours does.
        steps: length of the schedule.

    Raises:
        RuntimeError: the schedule ended above the target.
    """
    pruner, base = _pruner(model, inputs, network, scope, ratio=1.0, steps=steps), peer_macs(model, inputs)
    for step in range(1, steps + 1):
        pruner.step()
        if peer_macs(model, inputs) <= target * base:
            return Shrunk(model, step)
    raise RuntimeError(f"the schedule of {steps} steps ended above the target")


def shrink_by_bisection(
    model: nn.Module, inputs: Inputs, target: float, *, network: Network, scope: Scope
) -> Shrunk:
    """Bisect Torch-Pruning's channel ratio, a fresh copy per trial, until its own count is within 0.5 % of target.

    Args are those of `shrink_in_steps`; `model` is not changed.

    Raises:
        RuntimeError: no ratio came within 0.5 % of the baseline's MACs.
    """
    base = peer_macs(model, inputs)
    low, high = 0.0, 1.0
    for trial in range(1, MOST_TRIALS + 1):
        ratio = (low + high) / 2
        candidate = copy.deepcopy(model)
        _pruner(candidate, inputs, network, scope, ratio=ratio, steps=1).step()
        share = peer_macs(candidate, inputs) / base
        if abs(share - target) <= BISECTION_TOLERANCE:
            return Shrunk(candidate, trial)
        low, high = (ratio, high) if share > target else (low, ratio)
    raise RuntimeError(f"{MOST_TRIALS} trials did not come within {BISECTION_TOLERANCE:.1%} of the target")


def peer_ways(network: Network) -> Mapping[str, Callable[[nn.Module, Inputs, float], Shrunk]]:
    """Every way of Torch-Pruning by its name in the tables; each may change the model that it is given."""
    in_steps = {
        f"{steps} steps, {scope}": partial(shrink_in_steps, network=network, scope=scope, steps=steps)
        for steps in STEPS
        for scope in SCOPES
    }
    bisected = {
        f"bisection, {scope}": partial(shrink_by_bisection, network=network, scope=scope) for scope in SCOPES
    }
    return in_steps | bisected


def _pruner(
    model: nn.Module, inputs: Inputs, network: Network, scope: Scope, *, ratio: float, steps: int
) -> Any:
    import torch_pruning

    return torch_pruning.pruner.MetaPruner(
        model,
        inputs,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=1),
        global_pruning=scope == "global",
        pruning_ratio=ratio,
        iterative_steps=steps,
        ignored_layers=[model.get_submodule(name) for name in network.fixed],
        # The defaults are dictionaries that all pruners write into: entries of earlier models would stay.
        in_channel_groups={},
        out_channel_groups={},
        num_heads={},
    )


def peer_macs(model: nn.Module, inputs: Inputs) -> float:
    """Multiply-accumulates as Torch-Pruning counts them."""
    import torch_pruning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about modules that its counter ignores
        return float(torch_pruning.utils.count_ops_and_params(model, inputs)[0])


def first_call(network: str, way: str, target: float, threads: int) -> float:
    """Seconds that a fresh Python process needs for its first call.

    torch is imported and the network is built before the clock starts; the library that shrinks is imported after.

    Args:
        network: a key of `benchmarks.networks.NETWORKS`.
        way: `OURS` (with the cut network) or a name of `peer_ways`.
        target: share of the MACs.
        threads: torch's.

    Raises:
        subprocess.CalledProcessError: the process failed; its traceback is on standard error.
    """
    command = [sys.executable, "-m", "benchmarks.shrinking", network, way, str(target), str(threads)]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.splitlines()[-1])


def _call_once(network: str, way: str, target: float, threads: int) -> float:
    """The code that `first_call` runs in its process."""
    from benchmarks.networks import NETWORKS

    torch.set_num_threads(threads)
    model, inputs = NETWORKS[network].make(), NETWORKS[network].inputs()
    theirs = peer_ways(NETWORKS[network])
    start = time.perf_counter()
    if way == OURS:
        shrink_ours(model, inputs, target, cut=True)
    else:
        theirs[way](model, inputs, target)
    return time.perf_counter() - start


if __name__ == "__main__":
    print(_call_once(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])))
