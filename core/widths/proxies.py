"""Training-free proxies: numbers read off a freshly initialised network that are meant to rank trained ones.

    synflow   Tanaka et al., NeurIPS 2020: R = Σ outputs of |W| on an image of ones; the proxy is Σ W · dR/dW
    naswot    Mellor et al., ICML 2021: log |det K|, K = number of ReLUs on which two images of a batch agree
    zico      Li et al., ICLR 2023: Σ over layers of log Σ over weights of mean |g| / std |g| over batches

Each takes a network that it may change. Higher is said to be better; `python -m benchmarks.hypothesis` tests that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import UserError
from core.modules import RELU_MODULES, call, hooked, map_constants_, map_tensors, tensors_in

Batches = Iterable[tuple[Any, Any]]
Proxy = Callable[[nn.Module, Batches, Callable[..., Any]], float]


def synflow_products(model: nn.Module, inputs: Any) -> Iterator[tuple[str, Tensor]]:
    """W · dR/dW of every parameter of two or more dimensions, (name, float64 tensor of its shape).

    In evaluation mode, where fresh norms only multiply by a constant; in double precision, since R is a product over
    all layers.

    Args:
        model: changed in place.
        inputs: example inputs; only their shapes matter.
    """
    model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    device = next(model.parameters()).device

    def of_ones(tensor: Tensor) -> Tensor:
        kind = torch.float64 if tensor.is_floating_point() else tensor.dtype
        return torch.ones(tensor[:1].shape if tensor.dim() else (), dtype=kind, device=device)

    map_constants_(model, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
    ones = map_tensors(inputs, of_ones)
    weights = [(name, weight) for name, weight in model.named_parameters() if weight.dim() > 1]
    for weight in model.parameters():
        weight.requires_grad_(weight.dim() > 1)
    outputs = [tensor for tensor in tensors_in(call(model, ones)) if tensor.is_floating_point()]
    total = torch.stack([tensor.sum() for tensor in outputs]).sum()
    gradients = torch.autograd.grad(total, [weight for _, weight in weights], allow_unused=True)
    for (name, weight), gradient in zip(weights, gradients, strict=True):
        if gradient is not None:
            yield name, weight.detach() * gradient


def synflow(model: nn.Module, batches: Batches, loss_fn: Callable[..., Any]) -> float:
    """log Σ W · dR/dW over all weights; reads one batch for its shape, and no labels.

    Raises:
        UserError: there is no batch.
    """
    for inputs, _ in batches:
        return math.log(sum(float(product.sum()) for _, product in synflow_products(model, inputs)))
    raise UserError("synflow needs one batch for the shape of the inputs")


def naswot(model: nn.Module, batches: Batches, loss_fn: Callable[..., Any]) -> float:
    """log |det K| of the first batch, K[i, j] = number of ReLU outputs that are on in both or off in both images.

    In training mode, as the authors do, so that BatchNorm centres the inputs of the ReLUs. Modules of the classes ReLU,
    ReLU6 and PReLU count; a function (`F.relu`) is not seen.

    Raises:
        UserError: there is no batch, or no such module.
    """
    model.train()
    kernel: Tensor | None = None

    def read(module: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal kernel
        on = (output.detach().flatten(1) > 0).double()
        agree = on @ on.T + (1 - on) @ (1 - on).T
        kernel = agree if kernel is None else kernel + agree

    handles = [
        module.register_forward_hook(read) for module in model.modules() if isinstance(module, RELU_MODULES)
    ]
    with hooked(handles):
        for inputs, _ in batches:
            with torch.no_grad():
                call(model, _on_device(model, inputs))
            break
    if kernel is None:
        raise UserError("naswot needs one batch, and a network with ReLU modules")
    return float(torch.linalg.slogdet(kernel).logabsdet)


def zico(model: nn.Module, batches: Batches, loss_fn: Callable[..., Any]) -> float:
    """Σ over convolutions and linear layers of log Σ over weights of mean |g| / std |g|, g a batch's gradient.

    Weights whose gradient does not vary (a dead channel) are left out, and so are layers with no others.

    Raises:
        UserError: there are fewer than two batches.
    """
    model.train()
    layers = (nn.modules.conv._ConvNd, nn.Linear)
    weights = [module.weight for module in model.modules() if isinstance(module, layers)]
    first = [torch.zeros_like(weight, dtype=torch.float64) for weight in weights]
    second = [torch.zeros_like(weight, dtype=torch.float64) for weight in weights]
    count = 0
    for inputs, targets in batches:
        loss = loss_fn(call(model, _on_device(model, inputs)), _on_device(model, targets))
        loss = loss[0] if isinstance(loss, tuple) else loss
        for index, gradient in enumerate(torch.autograd.grad(loss, weights, allow_unused=True)):
            if gradient is not None:  # of a layer that the loss does not read: it does not vary
                first[index] += gradient.abs().double()
                second[index] += gradient.double().square()
        count += 1
    if count < 2:
        raise UserError(
            f"zico needs the gradients of at least two batches, got {count}: raise shrink.batches"
        )
    total = 0.0
    for sums, squares in zip(first, second, strict=True):
        mean = sums / count
        variance = squares / count - mean.square()
        varies = variance > 1e-12 * mean.square()
        if bool(varies.any()):
            total += math.log(float((mean[varies] / variance[varies].sqrt()).sum()))
    return total


def _on_device(model: nn.Module, value: Any) -> Any:
    device = next(model.parameters()).device
    return map_tensors(value, lambda tensor: tensor.to(device))


PROXIES: dict[str, Proxy] = {"synflow": synflow, "naswot": naswot, "zico": zico}
