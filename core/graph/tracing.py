"""The labelled run: a copy of the module is called once, and what its operations did to labels is written down.

It happens on the meta device (no arithmetic, no memory); a module whose `forward` looks at values is run again on real
tensors. The copy of the first run shares its parameters and buffers with the model: no rule reads or writes their
values there.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import UserError, did_you_mean
from core.graph.attributes import mark_attributes
from core.graph.labels import FrozenChannelsWarning, LabelMode, Trace, TraceError, channel_axis, frozen_labels
from core.graph.rules import apply_rule
from core.modules import call, copy_structure, map_tensors, named_tensors, tensors_in


def run_labelled(
    module: nn.Module,
    example_inputs: Any,
    *,
    freeze: Sequence[str] = (),
    taps: Sequence[str] = (),
    ties: Sequence[tuple[str, str]] = (),
    outputs: str = "single",
) -> Trace:
    """Run a copy of `module` once on labelled tensors; see `core.graph.channels.trace_channels` for the arguments."""
    if freeze or taps or ties:
        check_names(module, freeze, "freeze")
        check_names(module, [*taps, *(name for pair in ties for name in pair)], "taps and ties")
    named = named_tensors(module)
    try:
        copied = copy_structure(module, {id(tensor): tensor for _, tensor in named})
        trace = _run(copied, named, example_inputs, True, freeze, taps, ties, outputs)
    except TraceError:
        raise
    except (RuntimeError, NotImplementedError, TypeError, ValueError, ArithmeticError):
        # The forward pass looks at values, or uses an operation without a meta kernel: run it for real. A true
        # mistake (a wrong input shape, say) fails again there, with torch's own message.
        copied = copy.deepcopy(module).cpu()
        for parameter in copied.parameters():
            parameter.requires_grad_(False)
        trace = _run(copied, named_tensors(copied), example_inputs, False, freeze, taps, ties, outputs)
    for note in trace.notes:
        warnings.warn(note, FrozenChannelsWarning, stacklevel=3)
    return trace


def check_names(module: nn.Module, patterns: Iterable[str], argument: str) -> None:
    """Refuse a pattern that no module's name matches."""
    names = [name for name, _ in module.named_modules() if name]
    if argument == "freeze":
        names += [name for name, _ in named_tensors(module)]
    within = [f"{name}.*" for name in names]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in ("", *names)):
            raise UserError(
                f"{argument}: no module of the model is called '{pattern}', {did_you_mean(pattern, names, within)}"
            )


def _run(
    module: nn.Module,
    named: Sequence[tuple[str, Tensor]],
    example_inputs: Any,
    on_meta: bool,
    freeze: Sequence[str],
    taps: Sequence[str],
    ties: Sequence[tuple[str, str]],
    outputs: str,
) -> Trace:
    module.eval()
    mark_attributes(module)
    mode = LabelMode(module, named, on_meta, apply_rule)
    mode.frozen_names = frozenset(
        name for name, _ in named if any(fnmatchcase(name, pattern) for pattern in freeze)
    )
    tapped = {*taps, *(name for pair in ties for name in pair)}
    for name, child in list(module.named_modules()):
        frozen = any(fnmatchcase(name, pattern) for pattern in freeze)
        mode.watch(name, child, frozen, any(fnmatchcase(name, pattern) for pattern in tapped))
    if on_meta:
        inputs = map_tensors(example_inputs, lambda tensor: torch.empty_like(tensor, device="meta"))
    else:
        inputs = map_tensors(example_inputs, _real)
    given = tensors_in(inputs)
    if not given:
        raise UserError("example_inputs holds no tensor")
    mode.trace.batch = given[0].shape[0] if given[0].dim() else 1
    for tensor in given:
        mode.mark(tensor, frozen_labels(tensor))
    try:
        with torch.no_grad(), mode:
            result = call(module, inputs)
        if mode.trace.untied:
            raise _untied(mode.trace.untied)
        _finish(mode, result, taps, ties, outputs)
    finally:
        mode.place.clear()  # the copy's hooks know the mode: without this, the two would wait for the garbage collector
    return mode.trace


def _untied(found: Mapping[str, tuple[torch.Size, str]]) -> TraceError:
    """All the parameters that no rule could tie, and the one `freeze=` that leaves them as they are."""
    items = [
        f"parameter '{name}' of shape {tuple(shape)} is used in '{place or 'the model itself'}'"
        for name, (shape, place) in found.items()
    ]
    frozen = dict.fromkeys(place or name for name, (_, place) in found.items())
    names = "".join(f"'{name}'," if len(frozen) == 1 else f"'{name}', " for name in frozen).removesuffix(", ")
    return TraceError(
        f"{'; '.join(items)}: in a way that ties it to no channel dimension; pass freeze=({names}) to leave "
        f"{'that as it is' if len(frozen) == 1 else 'these as they are'}"
    )


def _real(tensor: Tensor) -> Tensor:
    """A CPU copy; where only the shape is known (a widths file), ones: values that no division trips over."""
    return torch.ones_like(tensor, device="cpu") if tensor.is_meta else tensor.detach().cpu().clone()


def _finish(
    mode: LabelMode, result: Any, taps: Sequence[str], ties: Sequence[tuple[str, str]], outputs: str
) -> None:
    returned = tensors_in(result)
    if not returned:
        raise TraceError("the model returns no tensor; trace the part of it that does")
    if outputs == "single" and len(returned) > 1:
        raise TraceError(
            f"the model returns {len(returned)} tensors, so it is not clear which widths others rely on; pass "
            f"outputs='freeze' to keep all of them as they are, or outputs='free' to let their widths change"
        )
    for tensor in returned:
        labels = mode.labels_of(tensor)
        labels = frozen_labels(tensor) if labels is None else labels
        if outputs != "free":
            mode.freeze(labels)
        axis = channel_axis(labels)
        mode.trace.outputs.append(
            mode.vector(labels, axis, labels.shape[axis]) if labels.ndim else labels[None]
        )
        mode.trace.output_axes.append(axis)
    mode.trace.terms.extend(mode.counted.values())
    found = mode.trace.taps
    for first, second in ties:
        for name in (first, second):
            if name not in found:
                raise TraceError(f"ties: '{name}' returned no tensor with channels in this forward pass")
        if found[first].shape != found[second].shape:
            raise TraceError(
                f"ties: '{first}' has {found[first].size} channels and '{second}' {found[second].size}; only "
                f"equal widths can be tied"
            )
        mode.tie(found[first], found[second])
    mode.trace.taps = {
        name: labels for name, labels in found.items() if any(fnmatchcase(name, pattern) for pattern in taps)
    }
