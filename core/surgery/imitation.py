"""How a network starts where there is no factory, only the network: its values show the rules.

The model's own code is tried first: the `reset_parameters()` of its layers, and its `init_weights()` on top. It is the
rule of a tensor if it gives values of the same mean, spread and kind of distribution as the network has. For all other
tensors, a rule has to explain the values of the layers of one class together: a usual distribution whose spread is
gain / √fan or constant. Where several such rules agree with the values, the one that more tensors follow is taken.
"""

from __future__ import annotations

import inspect
import math
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core.modules import FORWARD_FAILURES, copy_model, named_tensors
from core.surgery.computed_weights import lengths
from core.surgery.distributions import TOLERANCE, TRUNCATED, Look, agree, draw_, look
from core.surgery.fans import FANS, Formula, quantities, short, weight_of
from core.surgery.recording import alike, repeat_rows

# Relative error, over all tensors of a rule together, up to which their spreads show it.
PRECISION = 0.05
# Largest probability that values agree by chance with a formula whose gain nobody would write.
CHANCE = 0.15
REPEATED = "its rows are repeated or cut off, as nothing says what they are at another width"
_SEED = 0x57A27  # nobody uses it: values that equal those drawn with it are stored, not drawn
# Squared gains of the spreads in use: torch's own, LeCun's, He's and Glorot's, tanh's, SELU's; and a tenth of each,
# as networks for super-resolution have it.
_GAINS = (1 / 3, 1.0, 2.0, 25 / 9, 9 / 16)


@dataclass(frozen=True)
class Rule:
    """How a tensor starts.

    Attributes:
        how: "init" or "reset": by the model's own `init_weights()` or its layers' `reset_parameters()`; "constant";
            "kept": as it is, row after row; "length": of the rows of a weight, as weight norm keeps it; "drawn" from
            `kind`; "unknown".
        value: of a constant; of a draw its mean.
        kind: see `Look`.
        formulas: of the spread; all that are equally likely.
        why: the rule is not known.
    """

    how: str
    value: float = 0.0
    kind: str = ""
    formulas: tuple[Formula, ...] = ()
    why: str = ""


@dataclass
class _Member:
    """A tensor whose rule is looked for together with others of its kind."""

    name: str
    look: Look
    sizes: Mapping[str, float]
    found: list[tuple[Formula, bool, str]] = field(default_factory=list)


_KNOWN: weakref.WeakKeyDictionary[nn.Module, tuple[Any, dict[str, Rule]]] = weakref.WeakKeyDictionary()


def rules_of(model: nn.Module) -> dict[str, Rule]:
    """Parameter -> how it starts, read off its values; kept for a model that does not change."""
    stamp = tuple(
        (id(tensor), tensor._version, tensor.data_ptr(), tensor.requires_grad)
        for _, tensor in named_tensors(model)
    )
    known = _KNOWN.get(model)
    if known is None or known[0] != stamp:
        known = (stamp, _rules(model))
        _KNOWN[model] = known
    return known[1]


def imitate_(module: nn.Module, like: nn.Module) -> dict[str, str]:
    """Give every parameter of `module` a fresh value by the rules of `like`; draws from torch's global generator.

    Args:
        module: the network to start, of the same class as `like` but at other widths.
        like: the network whose rules are used; its values are looked at, and copied only where they are not trained.

    Returns:
        Parameter -> why its rule is not known.
    """
    rules = rules_of(like)
    after_reset, after_init = own_start_(module)
    old, new = dict(like.named_parameters()), dict(module.named_parameters())
    shapes = {
        name: (tuple(tensor.shape), tuple(old[name].shape)) for name, tensor in module.named_parameters()
    }
    unknown = {}
    for name, tensor in new.items():
        rule, source = rules[name], old[name].detach()
        own = {"reset": after_reset, "init": after_init}.get(rule.how)
        if own is not None and not source.is_meta and bool(own[name].isnan().any()):
            rule = Rule("unknown", why="the code that starts it refuses this size")
        if rule.how == "reset":
            tensor.copy_(after_reset[name])
        elif rule.how == "constant":
            tensor.fill_(rule.value)
        elif rule.how == "kept":
            tensor.copy_(repeat_rows(source, tensor.shape))
        elif rule.how == "drawn":
            weight = weight_of(name, {other: pair[0] for other, pair in shapes.items()})
            groups = _groups(module, name)
            sizes = _sizes(shapes[weight][0], groups)
            spreads = [formula.at(sizes) for formula in rule.formulas]
            draw_(tensor, rule.kind, rule.value, spreads[0])
            if any(
                abs(math.log(other / spreads[0])) > TOLERANCE / math.sqrt(2 * tensor.numel())
                for other in spreads
            ):
                unknown[name] = f"its spread fits {_names(rule.formulas)}"
        elif rule.how == "unknown":
            unknown[name] = rule.why
            if bool(tensor.isnan().any()):
                seen = look(source)
                draw_(tensor, (seen.kinds or ("normal",))[0], seen.mean, seen.std)
            elif not bool(after_init[name].isnan().any()):
                tensor.copy_(after_init[name])
    for name, (weight, dim) in lengths(module).items():
        if rules[name].how == "length":
            new[name].copy_(torch.norm_except_dim(new[weight], 2, dim))
    return unknown | _repeated(module, like)


def _repeated(module: nn.Module, like: nn.Module) -> dict[str, str]:
    """Buffers that no layer has filled and whose rows differ: for want of a rule, their rows are repeated."""
    old = dict(like.named_buffers())
    return {
        name: REPEATED
        for name, tensor in module.named_buffers()
        if not tensor.is_meta
        and tensor.shape != old[name].shape
        and not alike(old[name], tensor.shape)
        and torch.equal(tensor, repeat_rows(old[name], tensor.shape))
    }


def _names(formulas: Sequence[Formula]) -> str:
    return " and ".join(
        f"{f.gain:.3g} / √({f.quantity})" if f.power else f"a constant {f.gain:.3g}" for f in formulas
    )


def own_start_(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Start a module by its own code, in place: (values after `reset_parameters()`, values after `init_weights()`).

    A parameter that neither fills is NaN; so are all parameters of a module whose code refuses their sizes.
    """
    for parameter in module.parameters():
        if parameter.is_floating_point():
            parameter.fill_(math.nan)  # so that what nobody fills shows
    for child in module.modules():
        reset = getattr(child, "reset_parameters", getattr(child, "_reset_parameters", None))
        if callable(reset) and _without_arguments(reset):
            _filled_by(reset, child)
    reset_to = {name: tensor.detach().clone() for name, tensor in module.named_parameters()}
    # mmengine's modules start only once.
    done = [child for child in module.modules() if getattr(child, "_is_init", False) is True]
    for child in done:
        child._is_init = False  # type: ignore[assignment]
    waiting = [module]
    while waiting:
        child = waiting.pop(0)
        own = getattr(child, "init_weights", None)
        if callable(own) and _without_arguments(own):
            _filled_by(own, child)
        else:
            waiting[:0] = child.children()
    for child in module.modules():
        if "_is_init" in vars(child):
            child._is_init = child in done  # type: ignore[assignment]
    return reset_to, {name: tensor.detach() for name, tensor in module.named_parameters()}


def _filled_by(code: Callable[..., Any], module: nn.Module) -> None:
    """Run a module's own initialisation; where it fails, its parameters are NaN."""
    try:
        code()
    except FORWARD_FAILURES:
        for parameter in module.parameters():
            if parameter.is_floating_point():
                parameter.fill_(math.nan)


def _without_arguments(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError):
        return False
    return True


def _rules(model: nn.Module) -> dict[str, Rule]:
    values = {name: tensor.detach() for name, tensor in model.named_parameters()}
    learns = {name: tensor.requires_grad for name, tensor in model.named_parameters()}
    probe = copy_model(model)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(_SEED)
        after_reset, after_init = own_start_(probe)
    rules: dict[str, Rule] = {}
    agreeing: dict[Any, list[_Member]] = defaultdict(list)
    members: dict[Any, list[_Member]] = defaultdict(list)
    single: dict[Any, list[str]] = defaultdict(list)
    shapes = {name: tuple(tensor.shape) for name, tensor in values.items()}
    normed = {
        name
        for name, (weight, dim) in lengths(model).items()
        if torch.allclose(values[name], torch.norm_except_dim(values[weight], 2, dim), rtol=1e-4)
    }
    for name, tensor in values.items():
        if name in normed:
            rules[name] = Rule("length")
            continue
        if tensor.is_meta:  # without values there is nothing to start
            rules[name] = Rule("init")
            continue
        seen = look(tensor)
        owner, _, leaf = name.rpartition(".")
        like = type(model.get_submodule(owner)).__name__, leaf, tensor.dim() > 1
        sizes = _sizes(shapes[weight_of(name, shapes)], _groups(model, name))
        if any(learns.values()) and not learns[name]:
            rules[name] = Rule("kept")  # not learned but fixed, as a mean shift is
        elif not seen.std:
            owns = {"init": after_init[name], "reset": after_reset[name]}
            same = [how for how, own in owns.items() if torch.equal(own, tensor)]
            rules[name] = Rule(same[0]) if same else Rule("constant", seen.mean)
            if not same and tensor.numel() == 1 and not short(seen.mean, 3):
                single[like].append(name)
        elif torch.equal(after_init[name], tensor):
            rules[name] = Rule("unknown", why="init_weights() gives the very same values: they are stored")
        elif own := [
            how
            for how, drawn in (("init", after_init), ("reset", after_reset))
            if agree(look(drawn[name]), seen)
        ]:
            rules[name] = Rule(own[0])
            agreeing[like].append(_Member(name, seen, sizes))
        elif tensor.dim() > 1 and len(tensor) > 1 and bool((tensor == tensor[:1]).all()):
            rules[name] = Rule("kept")  # one kernel for all channels
        else:
            members[like].append(_Member(name, seen, sizes))
    _explain(list(members.values()), rules)
    for names in single.values():
        if len(names) == 1 or len({float(values[name]) for name in names}) > 1:
            _explain_single(names, shapes, (after_init, after_reset), rules)
    for key, some in agreeing.items():
        _outvote(some, [rules[member.name] for member in members[key]], rules)
    return rules


def _explain_single(
    names: Sequence[str],
    shapes: Mapping[str, tuple[int, ...]],
    own: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
    rules: dict[str, Rule],
) -> None:
    """One value shows no spread: it starts as the weight of its layer does, if the layer has another value for it."""
    for name in names:
        how = rules[weight_of(name, shapes)].how
        values = own[0] if how == "init" else own[1]
        if how in ("init", "reset") and weight_of(name, shapes) != name and not bool(values[name].isnan()):
            rules[name] = Rule(how)
        else:
            rules[name] = Rule("unknown", why="one value does not show whether it is drawn or fixed")


def _outvote(members: Sequence[_Member], others: Sequence[Rule], rules: dict[str, Rule]) -> None:
    """Tensors of few values, which may agree with the model's own code by chance, follow their like."""
    for rule, count in Counter(rule for rule in others if rule.how == "drawn").most_common():
        for member in members if count > len(members) else ():
            distance = abs(math.log(member.look.std / rule.formulas[0].at(member.sizes)))
            if rule.kind in member.look.kinds and distance < TOLERANCE * member.look.error:
                rules[member.name] = rule


def _sizes(shape: Sequence[int], groups: int) -> dict[str, float]:
    """`quantities`, and the size on which the spread of an orthogonal matrix depends."""
    longer = max(shape[0], math.prod(shape[1:])) if shape else 1
    return {**quantities(shape, groups), "longer side": longer}


def _groups(model: nn.Module, name: str) -> int:
    groups = getattr(model.get_submodule(name.rpartition(".")[0]), "groups", 1)
    return groups if isinstance(groups, int) else 1


def _explain(groups: Sequence[list[_Member]], rules: dict[str, Rule]) -> None:
    """Find the fewest rules that explain all members of each group, and say which members none explains."""
    for members in groups:
        left = []
        for member in members:
            if member.look.kinds == ("orthogonal",):
                gain = member.look.std * member.sizes["longer side"] ** 0.5
                member.found = [(Formula("longer side", 0.5, gain), True, "orthogonal")]
            elif member.look.kinds:
                left.append(member)
        while left:
            found = _best(left)
            if not found:
                break
            covered = found[0][3]
            for member in covered:
                member.found = [(formula, usual, kind) for formula, usual, kind, _ in found]
            left = [member for member in left if member not in covered]
    votes: Counter[tuple[str, float]] = Counter()
    everybody = [member for members in groups for member in members]
    for member in everybody:
        if len(member.found) == 1:
            formula = member.found[0][0]
            votes[formula.quantity, formula.power] += 1
    for member in everybody:
        if not member.found:
            rules[member.name] = Rule("unknown", why="its values follow no rule that is in use")
            continue
        most = max(votes[formula.quantity, formula.power] for formula, _, _ in member.found)
        formulas = tuple(f for f, _, _ in member.found if votes[f.quantity, f.power] == most)
        rules[member.name] = Rule("drawn", _round(member.look), member.found[0][2], formulas)


def _round(seen: Look) -> float:
    """The mean of a draw; the shortest decimal within its error."""
    if not seen.mean:
        return 0.0
    error = 2 * seen.std / math.sqrt(seen.count)
    for digits in range(6):
        value = float(f"{seen.mean:.{digits}e}")
        if abs(value - seen.mean) < error:
            return value
    return seen.mean


def _best(members: Sequence[_Member]) -> list[tuple[Formula, bool, str, list[_Member]]]:
    """(formula, is it usual, distribution, members that it explains): the best one, and all that are as good."""
    names = ["", *(name for name in FANS if all(name in member.sizes for member in members))]
    errors = np.array([member.look.error for member in members])
    information = -np.log(np.minimum(errors, 0.5))
    found = []
    for name in names:
        power = 0.5 if name else 0.0
        gains = np.array([m.look.std * (m.sizes[name] ** 0.5 if name else 1.0) for m in members])
        guesses = {(float(gain), False) for gain in gains}
        for gain, member in zip(gains, members, strict=True):
            guesses |= {(usual, True) for usual in _usual(float(gain), member.look, power)}
        for guess, usual in guesses:
            within = np.abs(np.log(gains / guess)) < TOLERANCE * errors
            kinds = _common([member.look for member, is_in in zip(members, within, strict=True) if is_in])
            precise = errors[within] ** -2
            if not kinds or precise.sum() < PRECISION**-2:
                continue
            # Values may agree by chance with a formula whose gain nobody would write.
            chance = len(names) * np.prod(np.minimum(2 * TOLERANCE * np.sort(errors[within])[1:], 1.0))
            if not usual and (within.sum() < 2 or (chance > CHANCE and not within.all())):
                continue
            weight = float(information[within].sum()) * (1.25 if usual else 1.0)
            mean = float(np.exp((precise * np.log(gains[within])).sum() / precise.sum()))
            estimate = mean if name else _short(mean, float(precise.sum() ** -0.5))
            formula = Formula(name, power, guess if usual else estimate)
            found.append((weight, tuple(within.tolist()), formula, usual, kinds))
    if not found:
        return []
    weight, best_within, _, usual, _ = max(found, key=lambda entry: entry[0])
    best: dict[str, tuple[Formula, bool, str, list[_Member]]] = {}
    for other, its, formula, its_usual, kinds in found:
        if math.isclose(other, weight, rel_tol=1e-9) and its == best_within and its_usual == usual:
            covered = [member for member, is_in in zip(members, best_within, strict=True) if is_in]
            best.setdefault(formula.quantity, (formula, usual, kinds[0], covered))
    return list(best.values())


def _short(gain: float, error: float) -> float:
    """The constant of two decimal digits that the estimate cannot be told from, else the estimate."""
    value = float(f"{gain:.1e}")
    step = 10.0 ** (math.floor(math.log10(gain)) - 1) / gain
    return value if abs(math.log(value / gain)) < 2.5 * error and step > 4 * error else gain


def _common(looks: Sequence[Look]) -> tuple[str, ...]:
    """The distributions that may have given all the values, the likeliest first."""
    return tuple(
        k
        for k in ("orthogonal", "normal", "uniform", "truncated")
        if looks and all(k in one.kinds for one in looks)
    )


def _usual(gain: float, seen: Look, power: float) -> list[float]:
    """The gains of initialisations in use that agree with an estimated gain."""
    scales = [
        1.0,
        *([TRUNCATED] if "truncated" in seen.kinds else []),
        *([1 / math.sqrt(3)] if "uniform" in seen.kinds else []),
    ]
    found = []
    for scale in scales:
        if power:
            ladder = sorted(
                [0.01, 10.0, *(small * math.sqrt(square) for square in _GAINS for small in (0.1, 1.0))]
            )
        else:
            unit = 10.0 ** math.floor(math.log10(gain / scale))
            ladder = [unit * step for step in (0.9, 1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9, 10, 11)]
        for below, step, above in zip(ladder, ladder[1:], ladder[2:]):
            room = min(math.log(step / below), math.log(above / step))
            if abs(math.log(gain / scale / step)) < min(3.5 * seen.error, room / 2):
                found.append(step * scale)
    return found
