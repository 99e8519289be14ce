"""Which attributes of modules the code of a forward pass mentions.

A layer that no run calls may be called one day, on a branch that no run took. One that no code mentions cannot be: a
head that was replaced and left behind, say. Code is what `forward` of any module of the network refers to, directly or
through methods, functions, hooks and closures; torch's own is left out. Where such code looks up names as it runs
(`getattr`, `children()`), any name may be meant.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

# With one of these in it, code may reach a module whose name it does not mention.
_ANY = frozenset(
    """getattr attrgetter vars __dict__ __getattr__ __getattribute__ _modules _parameters _buffers modules children
    named_modules named_children parameters named_parameters buffers named_buffers get_submodule get_parameter
    get_buffer state_dict eval exec""".split()
)
_IN_CLASSES = (types.FunctionType, property, staticmethod, classmethod, functools.cached_property)
_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def mentioned(model: nn.Module) -> frozenset[str] | None:
    """Names that the code of a network's forward pass mentions; None where it may mean any name."""
    modules = list(model.modules())
    owners = _owners(modules)
    if any(isinstance(module, torch.fx.GraphModule) for module in modules) or any(
        "__getattr__" in vars(owner) for owner in owners
    ):
        return None
    waiting: list[Any] = []
    for module in modules:
        if not _is_torchs(type(module)):
            waiting.append(type(module).forward)
            waiting += [value for value in vars(module).values() if callable(value)]
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            waiting += hooks.values()
    names: set[str] = set()
    done: set[int] = set()
    while waiting:
        for function in _functions(waiting.pop()):
            code = function.__code__
            if id(code) in done or str(function.__module__).partition(".")[0] == "torch":
                continue
            done.add(id(code))
            found = set(_names(code))
            if found & _ANY:
                return None
            for name in found - names:
                waiting += [vars(owner)[name] for owner in owners if name in vars(owner)]
            waiting += [function.__globals__[name] for name in found if name in function.__globals__]
            waiting += [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
            waiting += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
            names |= found
    return frozenset(names)


def is_mentioned(model: nn.Module, target: Any, names: frozenset[str]) -> bool:
    """Does one of the names stand for a module or parameter, under any of its paths in the network?

    An item of a list goes by the name of the list; a part of a module by its name within that module.
    """
    for module in model.modules():
        held = {**module._modules, **module._parameters, **module._buffers}
        for name, value in held.items():
            if value is not target:
                continue
            if name in names or (_is_torchs(type(module)) and not isinstance(module, _LISTS)):
                return True
            if isinstance(module, _LISTS) and (module is model or is_mentioned(model, module, names)):
                return True
    return False


def _owners(modules: list[nn.Module]) -> list[Any]:
    """Whatever has attributes that code may call: modules, objects that they hold, and the classes of all."""
    found: dict[int, Any] = {}
    for module in modules:
        for item in (module, *vars(module).values()):
            kind = type(item)
            if _is_torchs(kind) or not hasattr(item, "__dict__") or isinstance(item, types.ModuleType):
                continue
            found[id(item)] = item
            for parent in kind.__mro__:
                if not _is_torchs(parent):
                    found[id(parent)] = parent
    return list(found.values())


def _is_torchs(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in ("torch", "builtins")


def _functions(value: Any) -> Iterator[types.FunctionType]:
    """The Python functions behind a method, a property, a partial, a class, or a callable object."""
    if isinstance(value, types.FunctionType):
        yield value
        if hasattr(value, "__wrapped__"):
            yield from _functions(value.__wrapped__)
    elif isinstance(value, (types.MethodType, staticmethod, classmethod)):
        yield from _functions(value.__func__)
    elif isinstance(value, functools.partial):
        for item in (value.func, *value.args, *value.keywords.values()):
            yield from _functions(item)
    elif isinstance(value, property):
        for item in (value.fget, value.fset):
            yield from _functions(item)
    elif isinstance(value, functools.cached_property):
        yield from _functions(value.func)
    elif isinstance(value, type):
        if not _is_torchs(value) and not issubclass(value, nn.Module):
            for item in vars(value).values():
                if isinstance(item, _IN_CLASSES):
                    yield from _functions(item)
    elif not isinstance(value, nn.Module) and callable(value) and not _is_torchs(type(value)):
        yield from _functions(type(value))


def _names(code: types.CodeType) -> Iterator[str]:
    """Names of attributes, globals and string constants, also in nested functions."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
        elif isinstance(constant, str):
            yield constant


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
