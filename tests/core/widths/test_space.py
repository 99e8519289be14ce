"""The space of widths: its widened network starts by what the model shows, and by a factory where that is not all."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from core.modules import named_tensors
from core.surgery.initialise import UnknownStartWarning, seeded, unknown_start
from core.surgery.starting import differing
from core.widths.config import ShrinkConfig
from core.widths.space import open_space

IMAGE = torch.zeros(1, 3, 8, 8)


class Scaled(nn.Module):
    """Its scale is drawn from (0, 1): eight values do not tell."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
        self.scale = nn.Parameter(torch.rand(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x) * self.scale)


def test_a_factory_helps_where_the_model_does_not_show_its_start() -> None:
    with seeded(0):
        model = Scaled()
    with pytest.warns(UnknownStartWarning, match="scale"):
        alone = open_space(model, IMAGE, ShrinkConfig(), seed=1)
    assert list(unknown_start(alone.wide)) == ["scale"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        space = open_space(model, IMAGE, ShrinkConfig(), seed=1, factory=Scaled)
    assert unknown_start(space.wide) == {}
    assert space.wide.scale.shape == (16, 1, 1)
    assert 0 <= space.wide.scale.min() < space.wide.scale.max() < 1


def test_the_order_in_which_a_factory_draws_does_not_move_widths_of_others() -> None:
    def factory() -> nn.Module:
        torch.rand(5)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))

    with seeded(0):
        model = factory()
    alone, helped = (
        open_space(model, IMAGE, ShrinkConfig(), seed=1, factory=f).wide for f in (None, factory)
    )
    assert differing(named_tensors(alone), named_tensors(helped)) == []
