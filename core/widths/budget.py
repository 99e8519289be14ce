"""Budgets: upper limits on FLOPs, parameters and latency, as fractions of the baseline or absolute."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any, Literal

from core.errors import UserError, check_known
from core.graph.complexity import WEIGHT, Convention, Cost

SUFFIX = {
    "": Fraction(1),
    "K": Fraction(10**3),
    "M": Fraction(10**6),
    "G": Fraction(10**9),
    "T": Fraction(10**12),
}
SECONDS = {"s": Fraction(1), "ms": Fraction(1, 10**3), "us": Fraction(1, 10**6)}
LARGEST_FRACTION = 10  # no baseline costs ten FLOPs or has ten parameters, so larger numbers are absolute
LARGEST_PERCENTAGE = 100  # whoever writes 90 means percent


class BudgetError(UserError):
    """A budget that no choice of channels can meet; the message gives the reachable range."""


@dataclass(frozen=True)
class Budget:
    """Upper limits on a network's cost; every limit that is set has to hold.

    Numbers up to 10 are fractions of the *baseline*, those above 100 absolute FLOPs or parameters. Texts say which:
    "90%", "3.7G", "25.5M", and for latency "12ms" (a bare number is a fraction there).

    Attributes:
        flops: per sample, in `convention`.
        params: parameters.
        latency: seconds of one forward pass of the example inputs, measured (`core.graph.complexity.latency`) on the
            device that the model's parameters are on.
        convention: in which the FLOPs are counted (`core.graph.complexity`): "both", so that the limit holds whichever
            way a reader counts, or "macs" or "paper" alone; the fractions of published tables use "paper".

    Raises:
        UserError: no limit, one that is not a positive number, or one from 10 to 100 that looks like a percentage.

    Example:
        >>> Budget(flops=0.9, params="25M").limits(Cost(macs=950, paper=1000, params=30_000_000))
        {'macs': 855, 'paper': 900, 'params': 25000000}
    """

    flops: float | str | None = None
    params: float | str | None = None
    latency: float | str | None = None
    convention: Convention | Literal["both"] = "both"

    def __post_init__(self) -> None:
        check_known("budget: unknown convention", [self.convention], ("both", *WEIGHT))
        if self.flops is None and self.params is None and self.latency is None:
            raise UserError("budget: set at least one of flops, params and latency")
        for kind in ("flops", "params", "latency"):
            value = getattr(self, kind)
            if value is not None:
                _parse(kind, value)

    def limits(self, baseline: Cost) -> dict[str, float]:
        """Absolute limits by the names that `Cost` gives its numbers: the convention of the FLOPs, "params", "latency".

        FLOPs and parameters are rounded down to whole numbers.

        Args:
            baseline: cost of the baseline, with its latency if that is limited.

        Raises:
            UserError: the latency is limited, but the baseline's is not known.
        """
        limits: dict[str, float] = {}
        asked = [(convention, "flops") for convention in self.conventions]
        for kind, setting in (*asked, ("params", "params"), ("latency", "latency")):
            value = getattr(self, setting)
            if value is None:
                continue
            # In exact arithmetic: 0.9 means nine tenths, and 0.9 * 10 is 9.
            number, fraction = _parse(setting, value)
            base = getattr(baseline, kind)
            if base is None:
                raise UserError("a budget of latency needs the measured latency of the baseline")
            limit = number * Fraction(base) if fraction else number
            limits[kind] = float(limit) if kind == "latency" else math.floor(limit)
        return limits

    @property
    def conventions(self) -> tuple[Convention, ...]:
        """The conventions in which a limit on FLOPs has to hold."""
        return ("macs", "paper") if self.convention == "both" else (self.convention,)

    @property
    def priced(self) -> str:
        """The cost that allocations divide by: "params" if only they are limited, else FLOPs ("paper" for both)."""
        return "params" if self.flops is None and self.latency is None else self.conventions[-1]

    @classmethod
    def parse(cls, text: str, convention: Convention | Literal["both"] = "both") -> Budget:
        """From a command line: '0.9' (a fraction of the FLOPs) or 'flops=0.9,params=20M,latency=12ms,convention=paper'.

        Args:
            text: what was written.
            convention: for a text that names none.

        Raises:
            UserError: a kind is unknown or there twice, or a value is not a number.
        """
        if "=" not in text:
            return cls(flops=number_or_word(text), convention=convention)
        values: dict[str, Any] = {}
        allowed = [item.name for item in fields(cls)]
        for part in text.split(","):
            kind, _, value = part.strip().partition("=")
            check_known(f"budget '{text}': unknown", [kind], allowed)
            if kind in values:
                raise UserError(f"budget '{text}': '{kind}' is there twice")
            values[kind] = value if kind == "convention" else number_or_word(value)
        return cls(**{"convention": convention, **values})

    def to_json(self) -> dict[str, Any]:
        """The limits that are set, as given, and the convention."""
        return {
            item.name: getattr(self, item.name)
            for item in fields(self)
            if getattr(self, item.name) is not None
        }


def number_or_word(text: str) -> float | str:
    """The number that a text is, or the text."""
    try:
        return float(text)
    except ValueError:
        return text


def _parse(kind: str, value: float | str) -> tuple[Fraction, bool]:
    """(number, is it a fraction)."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*((?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([%A-Za-z]*)\s*", value)
        units = SECONDS if kind == "latency" else SUFFIX
        if match and match[2] == "%":
            number, fraction = Fraction(match[1]) / 100, True
        elif match and match[2] in units:
            number, fraction = Fraction(match[1]) * units[match[2]], False
        else:
            raise UserError(
                f"budget: {kind}='{value}' is not a number with one of %, {', '.join(filter(None, units))}"
            )
    else:
        if not math.isfinite(value):
            raise UserError(f"budget: {kind}={value!r} has to be a positive number")
        number = Fraction(repr(float(value)))
        fraction = number <= LARGEST_FRACTION
        if not fraction and kind == "latency":  # a time needs a unit
            raise UserError(f"budget: latency={value:g}: did you mean '{value:g}ms', or '{value:g}%'?")
        if not fraction and number <= LARGEST_PERCENTAGE:
            raise UserError(
                f"budget: {kind}={value:g}: did you mean {float(number / 100):g}, or '{value:g}%'?"
            )
    if number <= 0:
        raise UserError(f"budget: {kind}={value!r} has to be a positive number")
    return number, fraction
