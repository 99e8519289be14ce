"""Walking, copying and calling modules, and nested structures of tensors."""

from __future__ import annotations

import copy
import gc
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

RELU_MODULES = (nn.ReLU, nn.ReLU6, nn.PReLU)
_ATOMIC = (int, float, str, bool, type(None), torch.dtype)


@contextmanager
def collection_paused() -> Iterator[None]:
    """Keep Python's garbage collector from running meanwhile.

    Copying a network makes thousands of small containers, which sets off full collections; each of them walks through
    every object of torch and costs more than the whole copy.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and dictionaries, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in tensors_in(item)]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []


def call(module: nn.Module, inputs: Any) -> Any:
    """`module(inputs)`: a tensor is one argument, a tuple or list the positional ones, a dictionary the named ones."""
    if isinstance(inputs, Mapping):
        return module(**inputs)
    if isinstance(inputs, (tuple, list)):
        return module(*inputs)
    return module(inputs)


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply `function` to every tensor in nested tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: map_tensors(item, function) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(map_tensors(item, function) for item in value)
    return value


def named_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers with qualified names, in one walk; one that is shared appears under its first name."""
    found: dict[int, tuple[str, Tensor]] = {}
    for prefix, child in module.named_modules():
        for leaf, tensor in (*child._parameters.items(), *child._buffers.items()):
            if tensor is not None:
                found.setdefault(id(tensor), (f"{prefix}.{leaf}" if prefix else leaf, tensor))
    return list(found.values())


def meta_copy(module: nn.Module) -> nn.Module:
    """A copy of `module` whose parameters and buffers are on the meta device; no weight is copied."""
    memo: dict[int, Any] = {}
    for _, tensor in named_tensors(module):
        value = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(value, False) if isinstance(tensor, nn.Parameter) else value
    return copy_structure(module, memo)


def copy_structure(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """`copy.deepcopy(module, memo)`, several times faster where a module is as nn.Module left it.

    Args:
        module: what to copy.
        memo: id of an object -> its copy, as for `copy.deepcopy`; every parameter and buffer is in it.
    """
    if id(module) in memo:
        return memo[id(module)]
    if hasattr(type(module), "__deepcopy__") or type(module).__reduce_ex__ is not object.__reduce_ex__:
        return copy.deepcopy(module, memo)
    result = type(module).__new__(type(module))
    memo[id(module)] = result
    state = result.__dict__
    for key, value in module.__dict__.items():
        if key == "_modules":
            state[key] = {
                name: None if child is None else copy_structure(child, memo) for name, child in value.items()
            }
        elif type(value) in _ATOMIC or (type(value) in (dict, OrderedDict, set, tuple) and not value):
            state[key] = value if type(value) in _ATOMIC or type(value) is tuple else type(value)()
        else:
            state[key] = copy.deepcopy(value, memo)
    return result
