"""Matrix products of activations, as in attention: `@`, matmul, bmm, mm, einsum, scaled_dot_product_attention.

One rule for all of them, in the terms of einsum. Along every index of a product:

    summed over, channels on both sides   they are tied; inexact, since biases of channels that go are in the sum
    summed over, no channels              nothing happens; the channels of all other indices pass
    in the result                         channels pass; where both sides have them (a batch axis), they are tied
    channels on one side, a fixed size    both keep their sizes
    on the other

A parameter follows the channels that it meets. What it alone brings into the result (the rows of a matrix that is no
layer's weight) keeps its size.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from core.graph.labels import LabelMode, Labels
from core.graph.rules.axes import Operand, meet, operand, put
from core.graph.rules.calls import argument, canonical, execute, unknown
from core.modules import tensors_in

_BATCH = string.ascii_uppercase


def contract(
    mode: LabelMode, name: str, operands: Sequence[Operand], indices: Sequence[str], result: str
) -> tuple[Operand, int, list[Labels]]:
    """Contract index by index: (the result, multiply-accumulates per row of the factors, factors of that cost)."""
    found: dict[str, Labels | None] = {}
    sizes: dict[str, int] = {}
    factors: list[Labels] = []
    for index in dict.fromkeys("".join(indices)):
        here = [
            (item.vectors[at], item.sizes[at], item)
            for item, letters in zip(operands, indices, strict=True)
            if (at := letters.find(index)) >= 0
        ]
        sizes[index] = max(size for _, size, _ in here)
        vector = meet(mode, name, [(labels, size, item.own) for labels, size, item in here])
        if len(here) == 1 and here[0][2].own and here[0][0] is not None and index in result:
            mode.freeze_and_warn(
                [here[0][0]], f"'{name}' with a parameter as a matrix (a linear layer's is free)"
            )
        if vector is not None and len(factors) == 2:
            mode.freeze_and_warn(
                [vector], f"'{name}' with channels along three indices (a cost has two at most)"
            )
            vector = None
        if vector is not None:
            factors.append(vector)
            if index not in result and not any(item.zero for _, _, item in here):
                mode.inexact(vector)
        found[index] = vector
    cost = math.prod(sizes.values()) // math.prod(factor.size for factor in factors)
    shape = [sizes[index] for index in result]
    return Operand(shape, [found[index] for index in result]), cost, factors


def product(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`@`, matmul, bmm and mm of tensors with at least two axes."""
    tensors = tensors_in((args, kwargs))
    if len(tensors) != 2 or min(tensor.dim() for tensor in tensors) < 2 or "out" in kwargs:
        return unknown(mode, func, args, kwargs)
    operands = [operand(mode, tensor) for tensor in tensors]
    result = execute(mode, func, args, kwargs)
    batch = [_BATCH[: tensor.dim() - 2][::-1] for tensor in tensors]
    indices = [f"{batch[0]}ns", f"{batch[1]}sm"]
    found, cost, factors = contract(mode, canonical(func), operands, indices, f"{max(batch, key=len)}nm")
    mode.count("macs", cost, *factors)
    return put(mode, result, found.vectors)


def attention(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """scaled_dot_product_attention: softmax(q kᵀ · scale + mask) v.

    torch computes the scale from the width of q, so a cut changes it: the inexact sum over that width covers this.
    """
    query, key, value = (
        argument(args, kwargs, at, name) for at, name in enumerate(("query", "key", "value"))
    )
    mask = argument(args, kwargs, 3, "attn_mask")
    if min(tensor.dim() for tensor in (query, key, value)) < 2 or kwargs.get("enable_gqa"):
        return unknown(mode, func, args, kwargs)
    name = canonical(func)
    batch = [_BATCH[: tensor.dim() - 2][::-1] for tensor in (query, key, value)]
    longest = max(batch, key=len)
    q, k, v = (operand(mode, tensor) for tensor in (query, key, value))
    result = execute(mode, func, args, kwargs)
    scores, cost, factors = contract(mode, name, [q, k], [f"{batch[0]}ns", f"{batch[1]}ms"], f"{longest}nm")
    mode.count("macs", cost, *factors)
    if isinstance(mask, Tensor):
        rank = mask.dim()
        indices = [f"{longest}nm", f"{longest}nm"[-rank:]]
        scores, _, _ = contract(mode, name, [scores, operand(mode, mask)], indices, indices[0])
    if scores.vectors[-1] is not None:
        mode.inexact(scores.vectors[-1])  # softmax over them
    found, cost, factors = contract(
        mode, name, [scores, v], [f"{longest}nm", f"{batch[2]}ms"], f"{longest}ns"
    )
    mode.count("macs", cost, *factors)
    return put(mode, result, found.vectors)


def einsum(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """einsum of one or two tensors, each of whose indices stands once in it."""
    tensors = tensors_in(args)
    spelled = _indices(args[0], tensors) if isinstance(args[0], str) and len(tensors) in (1, 2) else None
    if spelled is None:
        return unknown(mode, func, args, kwargs)
    indices, output = spelled
    from torch.utils.flop_counter import FlopCounterMode  # slow to import, and seldom needed

    operands = [operand(mode, tensor) for tensor in tensors]
    with FlopCounterMode(display=False) as counter:
        result = execute(mode, func, args, kwargs)
    found, cost, factors = contract(mode, canonical(func), operands, indices, output)
    counted, rows = counter.get_total_flops() // 2, math.prod(factor.size for factor in factors)
    if counted == cost * rows:
        mode.count("macs", cost, *factors)
    elif counted:
        mode.freeze_and_warn(factors, "'einsum' whose cost is no product of all its sizes")
        mode.count("macs", counted)
    return put(mode, result, found.vectors)


def _indices(equation: str, tensors: Sequence[Tensor]) -> tuple[list[str], str] | None:
    """(the indices of each tensor, of the result), with letters for an ellipsis; None where one stands twice."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    sides = left.split(",")
    if not arrow:
        letters = sorted(letter for letter in set(left) if left.count(letter) == 1 and letter.isalpha())
        right = ("..." if "..." in left else "") + "".join(letters)
    unused = [letter for letter in string.ascii_letters if letter not in equation]
    spread = ""
    indices = []
    if len(sides) != len(tensors):
        return None
    for side, tensor in zip(sides, tensors, strict=True):
        hidden = "".join(unused[: tensor.dim() - len(side.replace("...", ""))])[::-1]
        spread = max(spread, hidden, key=len)
        indices.append(side.replace("...", hidden))
    output = right.replace("...", spread)
    if any(len(set(side)) < len(side) for side in (*indices, output)):
        return None
    return indices, output


def sliding_windows(mode: LabelMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`tensor.unfold(dim, size, step)`, which adds an axis behind all others: windows over space move no channel."""
    if func is not torch.Tensor.unfold:
        return unknown(mode, func, args, kwargs)
    source = args[0]
    labels = mode.labels_of(source)
    axis = argument(args, kwargs, 1, "dimension") % source.dim()
    if labels is not None and labels.shape[axis] > 1:
        return unknown(mode, func, args, kwargs)
    result = execute(mode, func, args, kwargs)
    return mode.mark(result, None if labels is None else labels[..., None])
