"""What values look like: strays on a bound, identities, and what only looks like them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from core.surgery.distributions import look

SIZES = [(256, 128), (512, 512)]


def clamped(shape: tuple[int, ...], strays: int = 0, bound: float = 2.0) -> Tensor:
    """Normal values of spread .02; some were infinite, and were clamped to a bound."""
    tensor = torch.randn(shape) * 0.02
    tensor.view(-1)[:strays] = torch.tensor([bound, -bound] * strays)[:strays]
    return tensor


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("strays", [0, 1, 2])
def test_a_stray_does_not_count_in_a_spread(shape: tuple[int, ...], strays: int) -> None:
    tensor = clamped(shape, strays)
    seen = look(tensor)
    assert seen.kinds == ("normal",)
    assert seen.mean == 0.0
    assert seen.count == tensor.numel() - strays
    assert abs(seen.std / 0.02 - 1) < 5 / math.sqrt(2 * tensor.numel())


def test_a_stray_moves_a_spread_that_it_counts_in() -> None:
    tensor = clamped((256, 128), 1)
    assert tensor.std().item() / 0.02 - 1 > 5 / math.sqrt(2 * tensor.numel())


def test_many_far_values_and_those_of_few_are_no_strays() -> None:
    for tensor in (clamped((256, 128), 40), clamped((32, 32), 1)):
        seen = look(tensor)
        assert seen.kinds == ()
        assert seen.count == tensor.numel()
    spread = clamped((256, 128))
    spread.view(-1)[:3] = torch.tensor([1.0, 1.5, 2.0])  # no bound lies between others
    assert look(spread).kinds == ()


def test_a_truncated_distribution_has_none() -> None:
    tensor = nn.init.trunc_normal_(torch.empty(256, 128), std=0.02, a=-0.04, b=0.04)
    assert look(tensor).kinds == ("truncated",)
    assert look(tensor).count == tensor.numel()


def test_an_identity_is_not_drawn() -> None:
    assert look(torch.eye(16)).kinds == ()
    assert look(nn.init.dirac_(torch.empty(16, 8, 3, 3))).kinds == ()
    assert look(nn.init.orthogonal_(torch.empty(16, 8))).kinds == ("orthogonal",)
