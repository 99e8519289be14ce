"""Which rule a number of an initialisation obeys: a constant at all widths, or one that shrinks with a layer's fan.

The formula gain · quantity^-power has to fit all tensors that one rule has filled. The quantity is a fan or another
size of the weight; the power is 0 (a constant), 1/2 (a standard deviation) or 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

EXACT = 1e-6  # relative difference up to which one formula may have given two numbers of a program
# Squared gains that initialisations in use have: LeCun's 1, He's 2, Glorot's 2 over the sum of fans, torch's 1/3, and
# three times as much where the number is the bound of a uniform distribution.
FANS = ("fan in", "fan out", "fan in and out", "fan out of a group")  # what initialisations in use depend on
_GAINS = tuple(
    Fraction(n, d)
    for n, d in ((1, 1), (2, 1), (3, 1), (4, 1), (6, 1), (1, 2), (1, 3), (2, 3), (1, 6), (3, 2))
)


@dataclass(frozen=True)
class Formula:
    """`gain` · quantity^-`power`; `quantity` names the quantity of a tensor."""

    quantity: str
    power: float
    gain: float

    def at(self, sizes: Mapping[str, float]) -> float:
        """The number for a tensor of these `quantities`."""
        return self.gain if not self.power else self.gain * sizes[self.quantity] ** -self.power

    @property
    def usual(self) -> bool:
        """Whether somebody would write this gain: a decimal of two digits, or that of an initialisation in use."""
        if not self.power:
            return any(short(self.gain / unit) for unit in (1.0, math.sqrt(2.0), math.sqrt(3.0)))
        square = self.gain ** (1 / self.power)
        return any(math.isclose(abs(square), float(gain), rel_tol=EXACT) for gain in _GAINS)


def short(number: float, digits: int = 2) -> bool:
    """Whether a number has at most `digits` significant decimal digits."""
    return math.isclose(number, float(f"{number:.{digits - 1}e}"), rel_tol=EXACT)


def quantities(shape: Sequence[int], groups: int = 1) -> dict[str, float]:
    """The sizes of a tensor that an initialisation may depend on, by name.

    Args:
        shape: of the weight, (rows, columns, kernel ...); of a vector or a scalar only the rows count.
        groups: of the convolution.
    """
    if len(shape) < 2:
        return {"rows": float(shape[0] if shape else 1)}
    kernel = math.prod(shape[2:])
    rows, columns = shape[0], shape[1]
    fan_in, fan_out = columns * kernel, rows * kernel
    return {
        "fan in": fan_in,
        "fan out": fan_out,
        "fan in and out": fan_in + fan_out,
        "fan out of a group": fan_out / groups,
        "fan in of all groups": fan_in * groups,
        "rows": rows,
        "columns": columns,
        "rows and columns": rows + columns,
    }


def fitting(values: Sequence[float], sizes: Sequence[Mapping[str, float]]) -> list[Formula]:
    """The formulas that give all numbers of one rule, exactly but for rounding.

    Args:
        values: one or more numbers.
        sizes: `quantities` of the tensor that each was used for.
    """
    found = []
    names = [name for name in sizes[0] if all(name in each for each in sizes)]
    for quantity, power in [("", 0.0), *((name, power) for power in (0.5, 1.0) for name in names)]:
        gains = [
            value * (each[quantity] ** power if power else 1.0)
            for value, each in zip(values, sizes, strict=True)
        ]
        if all(math.isclose(gain, gains[0], rel_tol=EXACT) for gain in gains[1:]):
            found.append(Formula(quantity, power, gains[0]))
    return found


def settled(
    formulas: Iterable[Formula],
    sizes: Mapping[str, float],
    constant: bool,
    votes: Mapping[tuple[str, float], int] | None = None,
) -> float | None:
    """The number that the formulas give for a tensor of these `quantities`; None where they contradict each other.

    Args:
        formulas: all that fit.
        sizes: of the tensor at its new shape.
        constant: whether the number is a value, not a spread: it is then taken as a constant, unless a usual formula
            fits and no usual constant does.
        votes: (quantity, power) -> how many numbers of the network it explains. Votes decide between fans, but not
            whether a number is a constant.
    """
    votes = votes or {}
    candidates = list(formulas)
    usual = [formula for formula in candidates if formula.usual]
    fans = [name for name in FANS if name in sizes] or list(sizes)  # a vector has only rows
    common = [formula for formula in usual if not formula.power or formula.quantity in fans]
    fixed = [formula for formula in candidates if not formula.power]
    value = constant and (not usual or any(formula in fixed for formula in usual))
    elected = []
    if all(formula.power for formula in common):
        counts = [votes.get((formula.quantity, formula.power), 0) for formula in common]
        elected = [formula for formula, count in zip(common, counts, strict=True) if count == max(counts)]
    for some in (candidates, usual, common, fixed if value else [], elected):
        numbers = [formula.at(sizes) for formula in some]
        if numbers and all(math.isclose(number, numbers[0], rel_tol=EXACT) for number in numbers):
            return numbers[0]
    return None


def weight_of(name: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The tensor whose fans count for a tensor: for a bias, the weight of its layer.

    Args:
        name: of the tensor.
        shapes: of all tensors of the network, by name.
    """
    if len(shapes[name]) > 1:
        return name
    owner = name.rpartition(".")[0]
    weight = f"{owner}.weight" if owner else "weight"
    return weight if len(shapes.get(weight, ())) > 1 else name
