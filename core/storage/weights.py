"""Finding weights in any checkpoint, and matching them with a network by name and shape.

A checkpoint is any nesting of mappings. Every mapping of names to tensors in it is a set of weights, and the set that
fits the network is taken. A running average comes before the weights that it averages: authors evaluate the average.
Names may carry the prefixes of wrappers: "module." (data parallel, averaged models), "_orig_mod." (compiled modules),
those of sharded and recomputed modules, and a leading "model.", in any order and number.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from core.errors import UserError, first_names
from core.tables import grouped

# Keys under which training codes keep running averages, and weights. The first of several counts if there is no network
# to tell which one is meant. "ema" is the key in our own training states.
AVERAGES = (
    "params_ema",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema",
    "ema_model",
    "swa_state_dict",
    "swa_model",
)
PLAIN = ("params", "state_dict", "model_state_dict", "model", "net")
# Wrappers' names within names of tensors: removed wherever they stand, as a part of a network can be wrapped.
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_LEADING = "model"
_COUNTER = "n_averaged"  # of torch's AveragedModel
_BATCHES = "num_batches_tracked"  # of BatchNorm, which old files lack
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.\w+$")  # names that Hugging Face's libraries give to shards
_DEEPEST = 4  # levels of nesting; a hostile file may hold itself


class KeyDifference(NamedTuple):
    """Which names `load_weights(strict=False)` left out."""

    missing: list[str]
    unexpected: list[str]


@dataclass(frozen=True)
class WeightSet:
    """One mapping of names to tensors within a checkpoint.

    Attributes:
        entry: where it lies, such as "model/state_dict"; "" for the checkpoint itself.
        weights: the tensors.
        whole: whether it is all that lies there, and not a part whose names share a prefix.
    """

    entry: str
    weights: dict[str, Tensor]
    whole: bool = True

    @property
    def average(self) -> bool:
        """Whether it is a running average."""
        return any(part in AVERAGES for part in self.entry.replace(".", "/").split("/"))

    @property
    def rank(self) -> int:
        """The rank among sets if nothing else tells which one is meant; the lowest counts."""
        parts = self.entry.split("/")
        known = (*AVERAGES, *PLAIN)
        return min((known.index(part) for part in parts if part in known), default=len(known))


@dataclass(frozen=True)
class Fitted:
    """Weights that fit a network.

    Attributes:
        weights: by the network's own names.
        missing: names of the network that have no weights.
        unexpected: names of the file that the network does not have.
        heads: layers whose number of outputs differs, so that they start fresh -> (outputs there, outputs here).
        notes: sentences about what was taken and what was not.
    """

    weights: dict[str, Tensor]
    missing: list[str]
    unexpected: list[str]
    heads: dict[str, tuple[int, int]]
    notes: tuple[str, ...]


def weight_sets(content: Any, source: str | Path) -> list[WeightSet]:
    """All sets of weights in a checkpoint, in their order there.

    Raises:
        UserError: there are none.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"'{source}' holds a {type(content).__name__}, not weights by name")
    found = list(_sets_in(content, (), set()))
    if not found:
        raise UserError(
            f"'{source}' holds no weights: its keys are {first_names([str(key) for key in content]) or 'none'}"
        )
    return found


def find_weights(content: Any, source: str | Path) -> dict[str, Tensor]:
    """The weights in a checkpoint, if no network tells which of several sets is meant.

    Args:
        content: what a checkpoint holds: weights by name, alone or under one of `AVERAGES` (which come first: authors
            evaluate the running average) or `PLAIN`. The wrappers' "module." and "_orig_mod." are removed if all
            names begin with them.
        source: where it comes from, for messages.

    Raises:
        UserError: there are no weights in it, or several sets under names that say nothing.
    """
    found = weight_sets(content, source)
    best = min(found, key=lambda item: (item.rank, -len(item.weights)))
    alike = [item.entry for item in found if item.rank == best.rank]
    if best.entry and len(alike) > 1:
        raise UserError(
            f"'{source}' is ambiguous: it holds {len(alike)} sets of weights ({first_names(alike)}); save only the one "
            f"that is meant"
        )
    weights = {name: value for name, value in best.weights.items() if _plain(name) != _COUNTER}
    while prefix := next(
        (f"{word}." for word in _WRAPPERS if all(n.startswith(f"{word}.") for n in weights)), ""
    ):
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def fit_weights(
    module: nn.Module, found: Mapping[str, Tensor], source: str | Path, strict: bool = True
) -> KeyDifference:
    """Load weights that are in memory into `module`; `source` names them in messages.

    Raises:
        UserError: they do not fit the module.
    """
    return load_content(module, dict(found), source, strict)


def load_content(module: nn.Module, content: Any, source: str | Path, strict: bool = True) -> KeyDifference:
    """Load the weights in a checkpoint's content into `module`, in place.

    Raises:
        UserError: there are none, or they do not fit the module, which then stays as it is.
    """
    module = unwrap_compiled(module)
    fitted = fitted_weights(module, content, source, strict=strict)
    module.load_state_dict(fitted.weights, strict=False)
    return KeyDifference(fitted.missing, fitted.unexpected)


def fitted_weights(
    module: nn.Module,
    content: Any,
    source: str | Path,
    *,
    strict: bool = True,
    foreign: bool = False,
    unused: Sequence[str] = (),
    stems: Sequence[str] = (),
) -> Fitted:
    """The set of weights in a checkpoint that fits a module, by the module's names; the module is not changed.

    Args:
        module: the network.
        content: what a checkpoint holds.
        source: where it comes from, for messages.
        strict: refuse missing and unexpected names; wrong shapes are always refused.
        foreign: whether the weights were trained for something else. Then heads may have another number of outputs:
            layers that differ only in their first dimension, all from one number to one other (for a layer within the
            network, its readers' second dimension would differ too). And the network may be a part of what was saved,
            under names with a common prefix.
        unused: prefixes of further names that the file may hold: those of the network that the module is a part of.
        stems: convolutions that start fresh if the file's kernels have another size.

    Raises:
        UserError: there are no weights in it; several sets fit and differ; or none fits: the message then names the
            closest set and counts the missing names, the unexpected ones and the other shapes.
    """
    wanted = {
        name: value
        for name, value in unwrap_compiled(module).state_dict().items()
        if isinstance(value, Tensor)
    }
    sets = weight_sets(content, source)
    whole = len(sets)
    if foreign:
        sets += [part for item in sets for part in _parts(item, wanted)]
    matches = [_match(item, wanted, foreign, tuple(unused), stems) for item in sets]
    fitting = [match for match in matches if match.fits(strict)]
    if not fitting:
        closest = max(matches, key=lambda match: (match.count, match.own.whole, -len(match.unexpected)))
        named = closest.own.entry and (whole > 1 or not closest.own.whole)
        where = f"; the closest is its entry '{closest.own.entry}'" if named else ""
        raise UserError(
            f"'{source}' does not fit {type(module).__name__} with {len(wanted)} tensors{where}: {closest.text(strict)}"
            + ("; it is one file of several: name their .index.json" if _SHARD.search(str(source)) else "")
        )
    best = _best(fitting, source)
    notes = [
        *best.told(source, whole),
        *_left_out(best, sets[:whole]),
        *_averages_that_do_not_fit(best, matches, source, strict),
    ]
    return Fitted(best.weights(wanted), best.missing, best.unexpected, best.heads, tuple(notes))


def unwrap_compiled(module: nn.Module) -> nn.Module:
    """The module that torch.compile wrapped, or `module` itself; the wrapper would prefix every name."""
    inner = getattr(module, "_orig_mod", module)
    return inner if isinstance(inner, nn.Module) else module


@dataclass(frozen=True)
class _Match:
    """A set of weights beside a network."""

    own: WeightSet
    names: dict[str, str]  # of the network -> of the file, shapes aside
    missing: list[str]
    unexpected: list[str]
    shapes: list[str]  # tensors of another shape, with both shapes
    kinds: list[str]  # tensors that hold no values which the network's could have
    heads: dict[str, tuple[int, int]]
    stems: list[str]
    counters: int  # of batches, which are missing and start at 0

    @property
    def count(self) -> int:
        """Tensors that fit."""
        return len(self.names) - len(self.shapes) - len(self.kinds)

    def fits(self, strict: bool) -> bool:
        """Whether they can be loaded."""
        return not (self.shapes or self.kinds) and (
            self.own.whole if not strict else not self.missing and not self.unexpected
        )

    def text(self, strict: bool) -> str:
        """What does not fit."""
        problems = [("of another shape", self.shapes), ("of another kind", self.kinds)]
        if strict:
            problems += [("missing", self.missing), ("unexpected", self.unexpected)]
        text = "; ".join(f"{len(names)} {what} ({first_names(names)})" for what, names in problems if names)
        # Most misfits are renamed or prefixed modules.
        close = difflib.get_close_matches(self.missing[0], self.unexpected, n=1) if self.missing else []
        return text + (f"; is '{self.missing[0]}' called '{close[0]}' there?" if close else "")

    def weights(self, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights by the network's names, without the heads and with counters that start at 0."""
        loaded = {
            name: self.own.weights[theirs]
            for name, theirs in self.names.items()
            if name.rpartition(".")[0] not in self.heads and name not in self.stems
        }
        zeros = {
            name: torch.zeros_like(value)
            for name, value in wanted.items()
            if name not in self.names and name not in self.missing
        }
        return {**loaded, **zeros}

    def told(self, source: str | Path, sets: int) -> Iterator[str]:
        """Sentences on what was taken, and what was not."""
        if self.own.average:
            yield f"'{source}': the running average is taken, its entry '{self.own.entry}'."
        elif self.own.entry and (sets > 1 or not self.own.whole):
            yield f"'{source}': its entry '{self.own.entry}' is taken."
        for name, (there, here) in self.heads.items():
            yield f"'{source}': its head '{name}' has {there} outputs, this network's {here}: the head starts fresh."
        for name in self.stems:
            yield f"'{source}' is of a network with another stem: '{name}' starts fresh."
        if self.counters:
            yield f"'{source}': {_BATCHES} is not in it; {self.counters} of them start at 0."


def _sets_in(content: Mapping[Any, Any], place: tuple[str, ...], seen: set[int]) -> Iterator[WeightSet]:
    """Every mapping is looked into once: a damaged file may hold itself, or one thing under very many names."""
    seen.add(id(content))
    own = {
        name: value for name, value in content.items() if isinstance(value, Tensor) and isinstance(name, str)
    }
    if own.keys() - {_COUNTER}:
        yield WeightSet("/".join(place), own)
    if len(place) < _DEEPEST:
        for key, value in content.items():
            # Numbers are the keys of an optimiser's state.
            if isinstance(value, Mapping) and isinstance(key, str) and id(value) not in seen:
                yield from _sets_in(value, (*place, key), seen)


def _parts(whole: WeightSet, wanted: Mapping[str, Tensor]) -> Iterator[WeightSet]:
    """The parts of a set whose names share a prefix: "model_ema.", "criterion.", "module.encoder.".

    Prefixes are the first words of names, and what stands before the name of the network's first tensor.
    """
    first = _plain(next(iter(wanted), ""))
    cuts = {name: _cuts(name) for name in whole.weights}
    starts = {start for found in cuts.values() for start, rest in found if _plain(rest) == first}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, found in cuts.items():
        for place, (start, rest) in enumerate(found):
            if place == 0 or start in starts:
                parts.setdefault(start, {})[rest] = whole.weights[name]
    for start, weights in parts.items():
        if len(weights) < len(whole.weights) or start in starts:
            yield WeightSet("/".join(filter(None, (whole.entry, start))), weights, whole=False)


def _cuts(name: str) -> list[tuple[str, str]]:
    """A name in two, at each of its first dots: "a.b.c" -> ("a.", "b.c"), ("a.b.", "c")."""
    words = name.split(".", _DEEPEST + 1)
    return [(".".join(words[:count]) + ".", ".".join(words[count:])) for count in range(1, len(words))]


def _plain(name: str) -> str:
    """A name without the prefixes of wrappers."""
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    while len(parts) > 1 and parts[0] == _LEADING:
        parts = parts[1:]
    return ".".join(parts)


def _names(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, str]:
    """Name in the network -> name in the file: as they are, or without wrappers if that finds more."""
    exact = {name: name for name in wanted if name in found}
    if len(exact) == len(wanted):
        return exact
    theirs = grouped((_plain(name), name) for name in found)
    repeated = Counter(map(_plain, wanted))
    loose = {
        name: theirs[plain][0]
        for name in wanted
        if len(theirs.get(plain := _plain(name), ())) == 1 and repeated[plain] == 1
    }
    return loose if len(loose) > len(exact) else exact


def _match(
    own: WeightSet, wanted: Mapping[str, Tensor], foreign: bool, unused: tuple[str, ...], stems: Sequence[str]
) -> _Match:
    names = _names(wanted, own.weights)
    taken = set(names.values())
    absent = [name for name in wanted if name not in names]
    counters = [name for name in absent if name.rpartition(".")[2] == _BATCHES]
    other = {
        name: (tuple(own.weights[theirs].shape), tuple(wanted[name].shape))
        for name, theirs in names.items()
        if own.weights[theirs].shape != wanted[name].shape
    }
    other_stems = [name for name in stems if name in other and other[name][0][:2] == other[name][1][:2]]
    for name in other_stems:
        del other[name]
    heads = _heads(other) if foreign else {}
    return _Match(
        own,
        names,
        [name for name in absent if name not in counters],
        [
            name
            for name in own.weights
            if name not in taken and (plain := _plain(name)) != _COUNTER and not plain.startswith(unused)
        ],
        [] if heads else [f"{name} {there} instead of {here}" for name, (there, here) in other.items()],
        [
            f"{name}: {kind}"
            for name, theirs in names.items()
            if name not in other and (kind := _other_kind(own.weights[theirs], wanted[name]))
        ],
        heads,
        other_stems,
        len(counters),
    )


def _other_kind(there: Tensor, here: Tensor) -> str:
    """What a tensor holds that is not copied into `here` as it is: scaled integers, say; "" for values."""
    if there.is_quantized or (here.is_floating_point() and not there.is_floating_point()):
        return str(there.dtype).removeprefix("torch.")
    if there.layout != torch.strided:
        return str(there.layout).removeprefix("torch.")
    return "no values, a shape alone" if there.is_meta else ""


def _heads(other: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> dict[str, tuple[int, int]]:
    """Layers that differ only in their number of outputs, if nothing else differs."""
    sizes = {(there[:1], here[:1]) for there, here in other.values()}
    if len(sizes) != 1 or any(
        there[1:] != here[1:] or not there or not here for there, here in other.values()
    ):
        return {}
    [((there,), (here,))] = sizes
    return {name.rpartition(".")[0]: (there, here) for name in other}


def _best(fitting: Sequence[_Match], source: str | Path) -> _Match:
    """The average if there is one, else the only set."""
    count = max(match.count for match in fitting)
    fullest = [match for match in fitting if match.count == count]
    chosen = [match for match in fullest if match.own.average] or fullest
    best = chosen[0]
    others = [match.own.entry for match in chosen[1:] if not _equal(best, match)]
    if others:
        raise UserError(
            f"'{source}' is ambiguous: it holds {1 + len(others)} different sets of weights that fit, "
            f"'{best.own.entry}' and '{first_names(others)}'; save only the one that is meant"
        )
    return best


def _averages_that_do_not_fit(
    best: _Match, matches: Sequence[_Match], source: str | Path, strict: bool
) -> Iterator[str]:
    """Where weights are taken as they are: running averages of them that lack something, such as buffers."""
    if not best.own.average:
        for match in matches:
            if match.own.average and 2 * match.count >= best.count - best.counters and not match.fits(strict):
                yield (
                    f"'{source}': its running average '{match.own.entry}' does not fit and is not taken: "
                    f"{match.text(strict)}."
                )


def _equal(one: _Match, other: _Match) -> bool:
    return one.names.keys() == other.names.keys() and all(
        torch.equal(one.own.weights[name], other.own.weights[other.names[key]])
        for key, name in one.names.items()
    )


def _left_out(best: _Match, sets: Sequence[WeightSet]) -> Iterator[str]:
    """If the network is a part of what was saved: what else was there."""
    if not best.own.whole:
        entry, _, start = best.own.entry.rpartition("/")
        rest = [
            name
            for item in sets
            if item.entry == entry
            for name in item.weights
            if not name.startswith(start) and _plain(name) != _COUNTER
        ]
        if rest:
            yield f"{len(rest)} other tensors there are left out ({first_names(rest)})."
