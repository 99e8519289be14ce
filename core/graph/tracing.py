"""The labelled runs: copies of the module are called, and what their operations did to labels is written down.

There are two, in evaluation and in training mode, as an auxiliary head or a decoder may run in one of them alone; what
they find is united. They happen on the meta device (no arithmetic, no memory); a module whose `forward` looks at values
is run again on real tensors. A copy on the meta device shares its parameters and buffers with the model: no rule reads
or writes their values there.

A few more runs, with other random numbers, look for layers that neither run calls. A warning names those that no run
calls. They keep their widths, and so do all channels that may feed them: those in the forward pass of the module that
holds the layer.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import UserError, did_you_mean, quoted
from core.graph.attributes import mark_attributes, settle_attributes
from core.graph.labels import (
    LabelMode,
    Labels,
    Note,
    OriginInDoubt,
    Trace,
    TraceError,
    channel_axis,
    frozen_labels,
)
from core.graph.mentions import is_mentioned, mentioned
from core.graph.rules import apply_rule
from core.modules import (
    FORWARD_FAILURES,
    call,
    copy_model,
    copy_structure,
    generator_states,
    generators,
    map_constants_,
    map_tensors,
    named_constants,
    named_tensors,
    set_generator_states,
    tensors_in,
    train_,
)

MORE_RUNS = 3  # in each mode, where the first two did not call everything
MORE_DECISIONS = 4  # branches by values, in each mode, that are also tried the other way
# A copied model, its modules and its tensors.
_Copy = tuple[nn.Module, Sequence[tuple[str, nn.Module]], Sequence[tuple[str, Tensor]]]
_FAILURES = (*FORWARD_FAILURES, ArithmeticError, AssertionError)


@dataclass(frozen=True)
class Request:
    """What is traced, and how; see `core.graph.channels.trace_channels`."""

    module: nn.Module
    example_inputs: Any
    freeze: Sequence[str] = ()
    taps: Sequence[str] = ()
    ties: Sequence[tuple[str, str]] = ()
    outputs: str = "single"

    @property
    def watched(self) -> set[str]:
        """Modules whose outputs are remembered."""
        return {*self.taps, *(name for pair in self.ties for name in pair)}


def run_labelled(request: Request) -> Trace:
    """Run copies of a module on labelled tensors, in both modes."""
    module = request.module
    if request.freeze or request.watched:
        check_names(module, request.freeze, "freeze")
        check_names(module, request.watched, "taps and ties")
    named = named_tensors(module)
    parameters = {name: tensor.shape for name, tensor in named if isinstance(tensor, nn.Parameter)}
    runs = _Runs(request, named, Trace(parameters=parameters))
    with generators(0):
        runs.evaluate()
        runs.train()
    runs.decide_otherwise()
    if parameters.keys() - runs.trace.seen:
        runs.look_for_more()
    if runs.trace.untied:
        raise _untied(runs.trace.untied)
    settle_attributes(runs.trace)
    runs.trace.outputs.setdefault(True, [])
    _tie(runs.trace, request)
    return runs.trace


class _Runs:
    """The runs of one model: they write into one trace, and see the same labels for the same parameters."""

    def __init__(self, request: Request, named: Sequence[tuple[str, Tensor]], trace: Trace) -> None:
        self.request = request
        self.named = named
        self.modules = list(request.module.named_modules())
        # Most modules leave their modes to nn.Module: then a mode is one attribute.
        self.plain = all(
            type(child).train is nn.Module.train and type(child).eval is nn.Module.eval
            for _, child in self.modules
        )
        self.trace = trace
        self.trains = True
        self.decisions = {False: 0, True: 0}  # branches by values, in each mode
        self.for_real: set[bool] = set()  # the modes that do not run on the meta device
        self.open_places: frozenset[str] = frozenset()

    def evaluate(self) -> None:
        """The run in evaluation mode, whose costs are the network's."""
        self._run(False)

    def train(self) -> None:
        """The run in training mode; if it fails, the trace notes why."""
        kept = self.trace.copy()
        try:
            self._run(True)
        except TraceError:
            raise
        except _FAILURES as error:
            self.trace = kept
            self.trains = False
            reason = f"{type(error).__name__}: {(str(error) or 'no message').splitlines()[0]}"
            self.trace.untrained = reason
            note = Note(
                f"the network does not run in training mode on the example inputs ({reason}): what only training "
                f"calls is not known; pass example inputs that both modes take"
            )
            self.trace.notes.append(note)

    def decide_otherwise(self) -> None:
        """Take the branches that values have not chosen, one by one: an early exit, say."""
        for training, count in self.decisions.items():
            for number in range(min(count, MORE_DECISIONS)):
                self._try(training, 0, turned=number)
            if count > MORE_DECISIONS:
                mode = "training" if training else "evaluation"
                note = Note(
                    f"the forward pass chooses branches by values {count} times in {mode} mode: only "
                    f"the first {MORE_DECISIONS} have also been tried the other way"
                )
                self.trace.notes.append(note)

    def look_for_more(self) -> None:
        """Call what the first runs did not call, or freeze what may feed it, and say so."""
        unseen = self._unseen()
        left = self._left_over(unseen)
        if left:
            note = Note(
                f"no run called {quoted(left)}, and no code of the forward pass mentions it: it is left as it is, and "
                f"the channels that would feed it are free; remove it"
            )
            self.trace.notes.append(note)
        for seed in range(1, MORE_RUNS + 1):
            if unseen.keys() - set(left):
                self._again(seed, thorough=seed == 1)
                unseen = self._unseen()
        if unseen := {what: holder for what, holder in unseen.items() if what not in left}:
            self.open_places = frozenset(unseen.values())
            self._again(0)
            where = ", ".join(
                f"'{name}'" if name else "the model itself" for name in sorted(self.open_places)
            )
            note = Note(
                f"no run in evaluation or training mode called {quoted(list(unseen))}: their widths stay, and so do "
                f"all channels in the forward pass of what holds them ({where}), as they may feed them; remove what "
                f"is never called, or pass example inputs that reach it"
            )
            self.trace.notes.append(note)

    def _left_over(self, unseen: Iterable[str]) -> list[str]:
        """Those modules and parameters, among the unseen, that no code can mean."""
        model = self.request.module
        names = mentioned(model)
        if names is None:
            return []
        held = {**dict(model.named_modules()), **dict(model.named_parameters())}
        return [what for what in unseen if not is_mentioned(model, held[what], names)]

    def _again(self, seed: int, thorough: bool = False) -> None:
        """Both modes once more. Only what they tie and freeze counts, not what they cost or return."""
        for training in (False, True)[: 1 + self.trains]:
            self._try(training, seed, thorough)

    def _try(self, training: bool, seed: int, thorough: bool = False, turned: int = -1) -> None:
        kept = self.trace.copy()
        try:
            with generators(seed):
                self._run(training, more=True, thorough=thorough, turned=turned)
        except _FAILURES:
            self.trace = kept  # the first run of this mode went well; random inputs may lead astray

    def _unseen(self) -> dict[str, str]:
        """Outermost modules and parameters that no run has called -> the called module that holds them."""
        found: dict[str, str] = {}
        trace = self.trace
        compiled = {name for name, child in self.modules if isinstance(child, torch.jit.ScriptModule)}
        alive = {
            name[:at] for name in trace.ran for at in range(len(name) + 1) if name[at : at + 1] in ("", ".")
        }
        for parameter in trace.parameters:
            if parameter in trace.seen:
                continue
            holder, what = parameter.rpartition(".")[0], parameter
            while holder and holder not in trace.ran:
                what = (
                    what if holder in alive else holder
                )  # a list of experts is never called, some of its experts may be
                holder = holder.rpartition(".")[0]
            parents = [holder[:at] for at, sign in enumerate(holder + ".") if sign == "."]
            if not any(name in compiled or matches(name, self.request.freeze) for name in parents):
                found[what] = holder
        return found

    def _run(self, training: bool, more: bool = False, thorough: bool = False, turned: int = -1) -> None:
        how = (training, more, thorough, turned)
        if training not in self.for_real:
            kept = self.trace.copy()
            try:
                self._run_on(self._shared_copy, True, *how)
                return
            except TraceError:
                raise
            except _FAILURES:
                # The forward pass looks at values, or uses an operation without a meta kernel: run it for real. A true
                # mistake (a wrong input shape, say) fails again there, with torch's own message.
                self.trace = kept
        self._run_on(self._real_copy, False, *how)
        self.for_real.add(training)

    def _shared_copy(self) -> _Copy:
        """The structure copied; parameters and buffers are the model's own."""
        memo: dict[int, Any] = {id(tensor): tensor for _, tensor in self.named}
        copied = copy_structure(self.request.module, memo)
        return copied, [(name, memo[id(child)]) for name, child in self.modules], self.named

    def _real_copy(self) -> _Copy:
        """A copy with values, on the CPU."""
        copied = copy_model(self.request.module).cpu().requires_grad_(False)
        map_constants_(copied, lambda tensor: tensor.cpu())
        return copied, list(copied.named_modules()), named_tensors(copied)

    def _run_on(self, make: Callable[[], _Copy], on_meta: bool, *how: Any) -> None:
        """Run a copy; with all tensors that exist before the run known only where one of them may be met.

        They are looked for among all objects that there are, which takes ten times as long as a run.
        """
        if on_meta and not self._is_on_meta():
            self._label(*make(), on_meta, {}, True, *how)
            return
        kept, states = self.trace.copy(), generator_states()
        copied = make()
        known = _by_id(tensor for _, tensor in named_constants(copied[0]))
        try:
            self._label(*copied, on_meta, known, False, *how)
            return
        except OriginInDoubt:
            pass  # what that run made goes before the next one begins
        del copied, known
        self.trace = kept
        set_generator_states(states)
        self._label(*make(), on_meta, _by_id(_alive()), True, *how)

    def _is_on_meta(self) -> bool:
        given = (*(tensor for _, tensor in self.named), *tensors_in(self.request.example_inputs))
        return any(tensor.is_meta for tensor in given)

    def _label(
        self,
        module: nn.Module,
        modules: Sequence[tuple[str, nn.Module]],
        named: Sequence[tuple[str, Tensor]],
        on_meta: bool,
        before: dict[int, Tensor],
        complete: bool,
        training: bool,
        more: bool,
        thorough: bool,
        turned: int,
    ) -> None:
        request = self.request
        if not self.plain:
            train_(module) if training else module.eval()
        mark_attributes(module, self.trace)
        mode = LabelMode(module, named, on_meta, apply_rule, self.trace, before, complete, self.open_places)
        mode.frozen_names = frozenset(name for name, _ in named if matches(name, request.freeze))
        mode.thorough, mode.turned = thorough, turned
        for name, child in modules:
            if self.plain:
                child.training = training and not isinstance(child, nn.SyncBatchNorm)
            mode.watch(name, child, matches(name, request.freeze), matches(name, request.watched))
        if on_meta:
            inputs = map_tensors(
                request.example_inputs, lambda tensor: torch.empty_like(tensor, device="meta")
            )
        else:
            inputs = map_tensors(request.example_inputs, _random if more else _real)
        given = tensors_in(inputs)
        if not given:
            raise UserError("example_inputs holds no tensor")
        mode.trace.batch = given[0].shape[0] if given[0].dim() else 1
        for tensor in given:
            mode.mark(tensor, frozen_labels(tensor))
        try:
            with torch.set_grad_enabled(training), mode:  # as in use: a forward pass may ask
                result = call(module, inputs)
            returned = _returned(mode, tensors_in(result), request.outputs, training or more)
        finally:
            mode.place.clear()  # breaks the cycle with the copy's hooks, which know the mode
            if mode.in_doubt:
                raise OriginInDoubt
        trace = self.trace
        for name, labels in mode.taps.items():
            trace.taps.setdefault(name, labels)
        if not more:
            self.decisions[training] = mode.decisions
            trace.outputs[training] = returned
            if not training:
                trace.terms = [*mode.terms, *mode.counted.values()]


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Is a name one of those that patterns such as `layer1.*` describe?"""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _by_id(tensors: Iterable[Tensor]) -> dict[int, Tensor]:
    return {id(tensor): tensor for tensor in tensors}


def _alive() -> list[Tensor]:
    """All tensors that exist now."""
    kinds, beneath = (
        {Tensor},
        [Tensor],
    )  # there may be a million objects, and `issubclass` of each takes longer
    while beneath:
        beneath = [kind for parent in beneath for kind in type.__subclasses__(parent) if kind not in kinds]
        kinds.update(beneath)
    return [item for item in gc.get_objects() if type(item) in kinds]


def _real(tensor: Tensor) -> Tensor:
    """A CPU copy; where only the shape is known (a widths file), harmless values.

    Ones are safe to divide by, and numbers that grow along the last axis pass checks of boxes.
    """
    if not tensor.is_meta:
        return tensor.detach().cpu().clone()
    if not tensor.is_floating_point() or not tensor.dim():
        return torch.ones_like(tensor, device="cpu")
    return (
        torch.linspace(1, 2, tensor.shape[-1], dtype=tensor.dtype, device="cpu").expand(tensor.shape).clone()
    )


def _random(tensor: Tensor) -> Tensor:
    """A CPU tensor of the same shape and type: random floating-point values, all else as it is."""
    return torch.randn_like(tensor, device="cpu") if tensor.is_floating_point() else _real(tensor)


def _returned(
    mode: LabelMode, returned: Sequence[Tensor], outputs: str, any_number: bool
) -> list[tuple[Labels, int]]:
    """Channel labels and channel axis of what a run returned; frozen unless its widths may change."""
    if not returned and not any_number:
        raise TraceError("the model returns no tensor; trace the part of it that does")
    if outputs == "single" and len(returned) > 1 and not any_number:
        raise TraceError(
            f"the model returns {len(returned)} tensors, so it is not clear which widths others rely on; pass "
            f"outputs='freeze' to keep all of them as they are, or outputs='free' to let their widths change"
        )
    found = []
    for tensor in returned:
        labels = mode.labels_of(tensor)
        labels = frozen_labels(tensor) if labels is None else labels
        if outputs != "free":
            mode.freeze(labels)
        axis = channel_axis(labels)
        vector = mode.vector(labels, axis, labels.shape[axis]) if labels.ndim else labels[None]
        found.append((vector, axis))
    return found


def _tie(trace: Trace, request: Request) -> None:
    """Tie what the caller wants tied, and keep only the taps that were asked for."""
    found = trace.taps
    for first, second in request.ties:
        for name in (first, second):
            if name not in found:
                raise TraceError(f"ties: '{name}' returned no tensor with channels in any forward pass")
        if found[first].shape != found[second].shape:
            raise TraceError(
                f"ties: '{first}' has {found[first].size} channels and '{second}' {found[second].size}; only "
                f"equal widths can be tied"
            )
        trace.edges.append((found[first], found[second]))
    trace.taps = {name: labels for name, labels in found.items() if matches(name, request.taps)}


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
