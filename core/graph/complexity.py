"""What a network costs, in closed form over its group widths, by counting, and by the clock.

Two conventions for FLOPs:

    macs    multiply-accumulates of convolutions, linear layers and matrix products: half of torch's FlopCounterMode
    paper   macs + 2 per BatchNorm output element + 1 per output element of a ReLU, ReLU6 or PReLU *module*;
            functional activations, swish, sigmoid, pooling, additions and biases count nothing. A module that is used
            twice counts once, at its last shape. All published numbers of LW-DNA and DHP use it.

Both are per sample: the first axis of the example inputs is the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.overrides import TorchFunctionMode

from core.errors import UserError, check_known
from core.modules import (
    RELU_MODULES,
    bare,
    call,
    copy_model,
    map_constants_,
    map_tensors,
    meta_copy,
    tensors_in,
)
from core.timing import Work, time_in_turns, wait

Convention = Literal["macs", "paper"]
WEIGHT = {"macs": {"macs": 1}, "paper": {"macs": 1, "norm": 2, "relu": 1}}
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Cost:
    """What one network costs.

    Attributes:
        macs: FLOPs per sample in the convention "macs".
        paper: FLOPs per sample in the convention "paper".
        params: parameters.
        latency: seconds of one forward pass of the example inputs, where that was measured.
    """

    macs: int
    paper: int
    params: int
    latency: float | None = None

    def flops(self, convention: Convention) -> int:
        """FLOPs per sample.

        Raises:
            UserError: unknown convention.
        """
        return {"macs": self.macs, "paper": self.paper}[_known(convention)]

    def to_json(self) -> dict[str, Any]:
        """{"flops": {"macs", "paper"}, "params"}, and "latency" where it was measured."""
        measured = {} if self.latency is None else {"latency": self.latency}
        return {"flops": {"macs": self.macs, "paper": self.paper}, "params": self.params, **measured}

    @classmethod
    def from_json(cls, value: Any) -> Cost:
        """From what `to_json` gives; other entries are ignored.

        Raises:
            UserError: a number is missing or not whole.
        """
        try:
            flops = value["flops"]
            cost = cls(flops["macs"], flops["paper"], value["params"], value.get("latency"))
        except (TypeError, KeyError, AttributeError):
            cost = None
        if cost is None or not all(isinstance(n, int) for n in (cost.macs, cost.paper, cost.params)):
            raise UserError(f"a cost holds whole numbers under 'flops' ({', '.join(WEIGHT)}) and 'params'")
        return cost


def _known(convention: str) -> str:
    check_known("unknown convention", [convention], WEIGHT)
    return convention


@dataclass(frozen=True)
class CostModel:
    """Sums of products of row counts: cost(n) = Σ_t coefficient_t · r_a(t)(n) · r_b(t)(n), r(n) = c + M n.

    Attributes:
        constant: c, (R,); row 0 is the constant 1, which stands in where a term has fewer factors.
        multiplicity: M, (R, G).
        terms: convention or "params" -> (coefficient, a, b), each (T,), coefficient per `batch` samples.
        batch: samples in the example inputs.
    """

    constant: IntArray
    multiplicity: IntArray
    terms: dict[str, tuple[IntArray, IntArray, IntArray]]
    batch: int

    def __call__(self, kind: str, sizes: NDArray[Any]) -> IntArray:
        """The cost for group sizes in elements, (..., G) -> (...), exact integers.

        Args:
            kind: "macs", "paper" or "params".
            sizes: elements kept in each group; any number of leading axes prices many networks in one call.
        """
        check_known("unknown convention", [kind], self.terms)
        coefficient, a, b = self.terms[kind]
        rows = self.constant + np.asarray(sizes, dtype=np.int64) @ self.multiplicity.T
        total = (rows[..., a] * rows[..., b]) @ coefficient
        return total if kind == "params" else total // self.batch

    def marginal(self, kind: str, sizes: NDArray[Any]) -> IntArray:
        """What one more element of each group would cost, (G,), at sizes (G,): cost(n + e_g) - cost(n), exactly.

        Args:
            kind: as above.
            sizes: elements kept in each group.
        """
        sizes = np.asarray(sizes, dtype=np.int64)
        return self(kind, sizes + np.eye(len(sizes), dtype=np.int64)) - self(kind, sizes)

    def curvature(self, kind: str) -> IntArray:
        """How one more element of one group changes the cost of one more of another, (G, G), symmetric.

        Costs are quadratic in the sizes, so marginal(n + e_h) = marginal(n) + curvature[h] at any sizes n.
        """
        start = np.zeros(self.multiplicity.shape[1], dtype=np.int64)
        first = self.marginal(kind, start)
        steps = np.eye(len(start), dtype=np.int64)
        return np.stack([self.marginal(kind, step) for step in steps]) - first


class _ConstantsOnMeta(TorchFunctionMode):
    """Moves constants, which are neither parameters nor buffers, to the meta device of all other tensors."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if len({tensor.device for tensor in tensors_in((args, kwargs))}) > 1:
            args, kwargs = (map_tensors(item, lambda tensor: tensor.to("meta")) for item in (args, kwargs))
        return func(*args, **kwargs)


def count(model: nn.Module, example_inputs: Any, convention: Convention = "macs") -> int:
    """FLOPs per sample by running `model` on the meta device and counting, independent of the closed form.

    Args:
        model: any module; it is not changed.
        example_inputs: a tensor, a tuple of positional or a dictionary of named arguments; only shapes matter.
        convention: "macs" or "paper".

    Raises:
        UserError: unknown convention.
    """
    return sum(_counted(model, example_inputs, convention).values())


def _counted(model: nn.Module, example_inputs: Any, convention: Convention) -> dict[str, int]:
    from torch.utils.flop_counter import FlopCounterMode

    _known(convention)
    copied = meta_copy(bare(model)).eval()
    names = {id(module): name for name, module in copied.named_modules()}
    running: list[str] = [""]
    total: dict[str, int] = dict.fromkeys(names.values(), 0)
    extra: dict[str, int] = {}
    before: list[int] = []
    counter = FlopCounterMode(display=False)

    def enter(module: nn.Module, inputs: Any) -> None:
        before.append(counter.get_total_flops())
        running.append(names[id(module)])

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        name = running.pop()
        own = counter.get_total_flops() - before.pop()
        total[name] += own
        if before:  # what a child did is not its parent's
            total[running[-1]] -= own
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            extra[name] = WEIGHT[convention].get("norm", 0) * output.numel()
        elif isinstance(module, RELU_MODULES):
            extra[name] = WEIGHT[convention].get("relu", 0) * output.numel()

    for module in copied.modules():
        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)
    inputs = map_tensors(example_inputs, lambda tensor: torch.empty_like(tensor, device="meta"))
    with torch.no_grad(), counter, _ConstantsOnMeta():
        call(copied, inputs)
    batch = tensors_in(inputs)[0].shape[0]
    return {name: (value // 2 + extra.get(name, 0)) // batch for name, value in total.items()}


def count_each(model: nn.Module, example_inputs: Any, convention: Convention = "macs") -> dict[str, int]:
    """`count`, module by module: name -> FLOPs per sample of what the module computes without its children.

    The sum is `count`'s. Modules that compute nothing that counts are missing; "" is the model itself.

    Args:
        model: see `count`.
        example_inputs: likewise.
        convention: likewise.
    """
    counted = _counted(model, example_inputs, convention)
    return {name: value for name, value in counted.items() if value}


def count_params(model: nn.Module) -> int:
    """Parameters, shared ones once; buffers such as running means are not parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def latency(
    models: Sequence[nn.Module] | nn.Module,
    example_inputs: Any,
    *,
    repeats: int = 15,
    warmup: int = 3,
    device: str | torch.device = "cpu",
) -> list[float]:
    """Seconds of one forward pass in eval mode: the median of `repeats`, several models measured in turns.

    Args:
        models: one or several; copies of them are measured.
        example_inputs: a tensor, a tuple of positional or a dictionary of named arguments; moved to the device.
        repeats: rounds that are counted.
        warmup: rounds before them that are not.
        device: where it is measured, whatever device the models are on.
    """
    models = [models] if isinstance(models, nn.Module) else list(models)
    place = torch.device(device)
    inputs = map_tensors(example_inputs, lambda tensor: tensor.to(place))

    def way(model: nn.Module) -> Callable[[], Work[None]]:
        copied = copy_model(model).to(place).eval()
        map_constants_(copied, lambda tensor: tensor.to(place))

        def work() -> None:
            call(copied, inputs)
            wait(place)

        return lambda: work

    ways = {str(number): way(model) for number, model in enumerate(models)}
    with torch.inference_mode():
        outcomes = time_in_turns(ways, turns=repeats, warmup=warmup, before=lambda: wait(place))
    return [outcome.timing.median for outcome in outcomes.values() if outcome.timing]
