"""What values look like (mean, spread and kind of distribution, with errors), and drawing values that look alike."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

TOLERANCE = 5.0  # standard errors within which a spread agrees with another
TRUNCATED = 0.87962566103423978  # standard deviation of a standard normal distribution that is cut at ±2
RARE = 1e-6  # anything less likely is taken not to have happened
# `trunc_normal_` inverts a distribution function; with bounds far out, one value in some millions ends on a bound.
# Among fewer values than these that is taken not to have happened.
_STRAYS_FROM, _STRAYS_PER = 2**13, 2**20
_SQUARES = {
    "uniform": 0.2,
    "truncated": 0.35,
    "normal": 0.5,
}  # n · squared relative error of the spread of n values


@dataclass(frozen=True)
class Look:
    """What values look like.

    Attributes:
        mean: 0.0 where it differs from zero by chance alone.
        std: standard deviation, without strays; 0.0 for a constant.
        error: relative standard error of `std`.
        kinds: distributions that may have given the values: "uniform", "truncated" at two standard deviations,
            "normal", "orthogonal"; none for values of another kind.
        count: number of values.
    """

    mean: float
    std: float
    error: float
    kinds: tuple[str, ...]
    count: int


def look(tensor: Tensor) -> Look:
    """Mean, spread and kind of distribution of a tensor's values."""
    values = tensor.detach().float().reshape(-1)
    everything = values.numel()
    values = _without_strays(values)
    count = values.numel()
    if count < 2 or bool((values == values[0]).all()):
        return Look(float(values[0]) if count else 0.0, 0.0, 0.0, (), count)
    variance, mean = (float(value) for value in torch.var_mean(values, correction=0))
    std = math.sqrt(variance)
    if abs(mean) < TOLERANCE * std / math.sqrt(count):
        mean, std = 0.0, math.sqrt(variance + mean**2)
    deviations = (values - mean).abs() / std
    if _is_orthogonal(tensor):
        return Look(0.0, std, 1e-4, ("orthogonal",), count)
    # Equal rows, or zeros among other values, as in a sparse matrix or an identity, are not drawn value by value.
    drawn = not _has_equal_rows(tensor) and float((values == 0).float().mean()) <= max(0.01, 2 / count)
    possible = _SQUARES if count == everything else ("normal",)
    kinds = tuple(kind for kind in possible if drawn and _may_be(kind, deviations))
    if kinds == ("uniform",):  # its bound is estimated better than its spread
        bound = float(deviations.max()) * std * (1 + 1 / count)
        if abs(math.log(bound / math.sqrt(3) / std)) > TOLERANCE * math.sqrt(_SQUARES["uniform"] / count):
            return Look(mean, std, 0.5, (), count)
        return Look(mean, bound / math.sqrt(3), 3 / count, kinds, count)
    square = max((_SQUARES[kind] for kind in kinds), default=0.5)
    return Look(mean, std, math.sqrt(square / count), kinds, count)


def _without_strays(values: Tensor) -> Tensor:
    """Values of a normal distribution without the few that were clamped to a bound far out; all others as they are."""
    count = values.numel()
    if count < _STRAYS_FROM:
        return values
    lowest, highest = torch.aminmax(values)
    if float(highest - lowest) < 8 * float(values.std()):
        return values
    distance = (values - values.median()).abs()
    if int((12 * distance < distance.max()).sum()) <= (count - 1) // 2:
        return values  # a twelfth of the largest is no more than their median, which takes longer to find
    strays = distance > 12 * distance.median()  # eight standard deviations
    few = 0 < int(strays.sum()) <= 2 + count // _STRAYS_PER
    on_bounds = few and bool(((values[strays] == lowest) | (values[strays] == highest)).all())
    return values[~strays] if on_bounds else values


def _may_be(kind: str, deviations: Tensor) -> bool:
    """Whether a distribution may have given values, judged by their maximum and by how many lie within one deviation.

    Args:
        kind: see `Look`.
        deviations: of the values from their mean, in estimated standard deviations.
    """
    count = deviations.numel()
    slack = 1 + TOLERANCE * math.sqrt(_SQUARES[kind] / count)

    def share(limit: float) -> float:  # of the values that lie within the limit
        if kind == "uniform":
            return min(1.0, limit / math.sqrt(3))
        if kind == "truncated":
            return min(1.0, math.erf(limit * TRUNCATED / math.sqrt(2)) / math.erf(math.sqrt(2)))
        return math.erf(limit / math.sqrt(2))

    largest = float(deviations.max())
    if share(largest * slack) ** count < RARE or (kind != "normal" and share(largest / slack) == 1):
        return False
    inside = float((deviations < 1).float().mean())
    chance = TOLERANCE * math.sqrt(0.25 / count)
    return share(1 / slack) - chance < inside < share(slack) + chance


def _is_orthogonal(tensor: Tensor) -> bool:
    if tensor.dim() < 2 or tensor.numel() < 16 or not bool((tensor != 0).all()):
        return False  # an identity's rows are orthogonal as well
    matrix = tensor.detach().reshape(len(tensor), -1).float()
    if len(matrix) > matrix.shape[1]:
        matrix = matrix.T
    if len(matrix) < 2:
        return False
    norms = matrix.norm(dim=1)
    if not torch.allclose(norms, norms[:1], rtol=1e-4):
        return False
    products = matrix @ matrix.T / norms[0] ** 2
    return bool((products - torch.eye(len(matrix), device=products.device)).abs().max() < 1e-3)


def _has_equal_rows(tensor: Tensor) -> bool:
    if tensor.dim() < 2 or tensor[0].numel() < 2:
        return False
    rows = tensor.detach().reshape(len(tensor), -1)[:, :8]
    if len(torch.unique(rows[:, 0])) == len(rows):
        return False  # as most are; to compare rows takes much longer
    return len(torch.unique(rows, dim=0)) < len(rows)


def agree(one: Look, other: Look) -> bool:
    """Whether one rule may have drawn two tensors of equally many values."""
    if not one.std or not other.std:
        return one.std == other.std and one.mean == other.mean
    few = 10 / one.count  # the spread of two or three values may be next to nothing by chance
    error = math.hypot(one.error, other.error)
    spread = max(one.std, other.std) * (1 + few)
    return (
        bool(set(one.kinds) & set(other.kinds))
        and abs(math.log(one.std / other.std)) < TOLERANCE * error + few
        and abs(one.mean - other.mean) < TOLERANCE * spread * math.sqrt(2 / one.count)
    )


def draw_(tensor: Tensor, kind: str, mean: float, std: float) -> None:
    """Fill with fresh values of a kind (see `Look`), mean and standard deviation, in place."""
    if kind == "uniform":
        nn.init.uniform_(tensor, mean - math.sqrt(3) * std, mean + math.sqrt(3) * std)
    elif kind == "truncated":
        wide = std / TRUNCATED
        nn.init.trunc_normal_(tensor, mean, wide, mean - 2 * wide, mean + 2 * wide)
    elif kind == "orthogonal":
        nn.init.orthogonal_(tensor)
        tensor.mul_(std / float(tensor.square().mean().sqrt()))
    else:
        nn.init.normal_(tensor, mean, std)
