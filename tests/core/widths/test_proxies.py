"""Training-free proxies against their definitions, and allocations under a budget."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from core.errors import UserError
from core.graph.channels import trace_channels
from core.methods.candidates import ProxyConfig, best_by_proxy, draw, exchange, limits_of, scale_to_budget
from core.methods.tilts import tilted_shares, tilted_widths, trunk_groups
from core.widths.budget import Budget, BudgetError
from core.widths.config import ShrinkConfig
from core.widths.proxies import PROXIES, naswot, synflow, synflow_products, zico
from core.widths.scores import score_channels
from core.widths.space import Space, open_space
from tests.properties import examples
from tests.toys import TOYS, Net, conv


def two_layers() -> Net:
    torch.manual_seed(0)
    return Net({"a": conv(3, 6), "relu": torch.nn.ReLU(), "c": conv(6, 4)}, lambda n, x: n.c(n.relu(n.a(x))))


def batches(count: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(5, 3, 6, 6, generator=generator), torch.randn(5, 4, 6, 6, generator=generator))
            for _ in range(count)]  # fmt: skip


def test_synflow_conserves_its_sum_in_every_layer() -> None:
    """Tanaka et al., theorem 1: every cut of the network without biases carries Σ W · dR/dW = R."""
    net = two_layers()
    with torch.no_grad():
        net.a.bias.zero_()
        net.c.bias.zero_()
    positive = copy.deepcopy(net).double()
    with torch.no_grad():
        for parameter in positive.parameters():
            parameter.abs_()
    total = float(positive(torch.ones(1, 3, 6, 6, dtype=torch.float64)).detach().sum())
    products = dict(synflow_products(copy.deepcopy(net), batches()[0][0]))
    assert [float(product.sum()) for product in products.values()] == pytest.approx([total, total])
    assert synflow(copy.deepcopy(net), batches(), F.mse_loss) == pytest.approx(math.log(2 * total))
    # A channel's governed sum counts what flows in and what flows out, which is the same.
    graph = trace_channels(net, batches()[0][0])
    scores = score_channels(net, graph, batches(), F.mse_loss, score="synflow")["a"].double()
    flow = products["a.weight"].sum((1, 2, 3))
    torch.testing.assert_close(scores, flow / flow.max(), rtol=1e-5, atol=1e-8)


def test_naswot_counts_agreeing_relus_pair_by_pair() -> None:
    net, (image, target) = two_layers(), batches()[0]
    codes = (net.a(image) > 0).flatten(1)
    kernel = torch.tensor([[float((x == y).sum()) for y in codes] for x in codes], dtype=torch.float64)
    expected = float(torch.linalg.slogdet(kernel).logabsdet)
    assert naswot(copy.deepcopy(net), [(image, target)], F.mse_loss) == pytest.approx(expected, rel=1e-9)


def test_zico_is_the_mean_over_the_deviation_of_gradients() -> None:
    net, given_batches = two_layers(), batches()
    expected = 0.0
    for weight in (net.a.weight, net.c.weight):
        gradients = torch.stack(
            [torch.autograd.grad(F.mse_loss(net(x), y), weight)[0].abs().double() for x, y in given_batches]
        )
        expected += math.log(float((gradients.mean(0) / gradients.std(0, correction=0)).sum()))
    assert zico(copy.deepcopy(net), given_batches, F.mse_loss) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(UserError, match="at least two batches, got 1"):
        zico(copy.deepcopy(net), given_batches[:1], F.mse_loss)
    more = copy.deepcopy(net)
    more.unread = torch.nn.Linear(2, 2)  # the loss does not read it: it counts nothing
    assert zico(more, given_batches, F.mse_loss) == pytest.approx(expected, rel=1e-4)


def space_of(name: str) -> Space:
    toy = TOYS[name]
    return open_space(toy.build(), toy.inputs(), ShrinkConfig(), seed=0)


SPACES = {name: space_of(name) for name in ("residual", "dense_block", "grouped_uneven", "u_net")}


def settings(fraction: float, floor: float = 0.2, **changes: Any) -> ShrinkConfig:
    return ShrinkConfig(budget=Budget(flops=fraction), floor=floor, **changes)


def limits(space: Space, fraction: float, floor: float = 0.2) -> Any:
    return limits_of(space, settings(fraction, floor))


@examples(40)
@given(
    name=st.sampled_from(sorted(SPACES)), seed=st.integers(0, 10**6), spread=st.sampled_from([0.0, 0.4, 1.5])
)
def test_drawn_and_exchanged_allocations_meet_the_budget_to_one_element(
    name: str, seed: int, spread: float
) -> None:
    space = SPACES[name]
    allowed = limits(space, 0.9)
    generator = np.random.default_rng(seed)
    parents = draw(space.graph, allowed, 7, spread, generator)
    for sizes in (parents, exchange(space.graph, allowed, parents, spread, generator)):
        assert (sizes >= allowed.bounds.low).all()
        assert (sizes <= allowed.bounds.high).all()
        assert allowed.fits(space.graph, sizes).all()
        for row in sizes:
            more = row + np.eye(len(row), dtype=np.int64)
            room = (more.diagonal() <= allowed.bounds.high) & allowed.fits(space.graph, more)
            assert not room.any()


def test_equal_shares_at_the_baselines_cost_are_the_baseline() -> None:
    space = SPACES["residual"]
    same = scale_to_budget(space.graph, np.ones((1, len(space.graph.groups))), limits(space, 1.0))[0]
    assert (
        dict(zip(space.base_graph.widths, same * [g.step for g in space.graph.groups]))
        == space.base_graph.widths
    )


def test_an_unreachable_budget_is_refused() -> None:
    with pytest.raises(BudgetError, match="cannot be reached"):
        limits(SPACES["residual"], 0.1, floor=0.9)


def test_the_search_finds_what_the_proxy_asks_for() -> None:
    """A proxy that likes one group wide: the search has to widen it beyond the proportional allocation."""
    space = SPACES["residual"]
    group = space.graph.groups[0].name

    def likes_first(model: Any, data: Any, loss: Any) -> float:
        return float(trace_channels(model, TOYS["residual"].inputs()).widths[group])

    widths, ranked = best_by_proxy(
        space, limits(space, 0.9), likes_first, [], F.mse_loss, ProxyConfig(24, 4, 0.5), seed=0
    )
    values = [value for value, _ in ranked]
    assert len(values) == 24
    assert values == sorted(values, reverse=True)
    assert widths[group] == values[0] > space.base_graph.widths[group]
    assert space.graph.flops(widths, "paper") <= 0.9 * space.base_graph.flops(convention="paper")
    single = best_by_proxy(space, limits(space, 0.9), likes_first, [], F.mse_loss, ProxyConfig(2, 2), seed=0)
    assert len(single[1]) == 2  # the proportional allocation alone, and one exchange


@pytest.mark.parametrize("name", sorted(PROXIES))
def test_every_proxy_ranks_candidates_repeatably(name: str) -> None:
    net = two_layers()
    space = open_space(net, batches()[0][0], ShrinkConfig(), seed=0)
    config = ProxyConfig(6, 2)
    first, again = (
        best_by_proxy(space, limits(space, 0.9), PROXIES[name], batches(), F.mse_loss, config, seed=3)
        for _ in range(2)
    )
    assert first[0] == again[0]
    assert [value for value, _ in first[1]] == [value for value, _ in again[1]]


def residual_net() -> tuple[Net, torch.Tensor]:
    torch.manual_seed(0)
    net = Net(
        {"stem": conv(3, 16), "in1": conv(16, 16), "out1": conv(16, 16), "in2": conv(16, 16), "out2": conv(16, 16),
         "head": conv(16, 4)},
        lambda n, x: n.head((y := n.stem(x)) + n.out1(n.in1(y).relu()) + n.out2(n.in2(y).relu())),
    )  # fmt: skip
    return net, torch.zeros(1, 3, 8, 8)


def test_trunk_and_inner_groups_are_told_apart_and_exchange_width() -> None:
    space = open_space(*residual_net(), ShrinkConfig(), seed=0)
    assert dict(zip(space.graph.widths, trunk_groups(space))) == {"stem": True, "in1": False, "in2": False}
    wide = tilted_widths(space, settings(0.9), trunk=0.5)
    narrow = tilted_widths(space, settings(0.9), trunk=-0.5)
    assert wide["stem"] > narrow["stem"]
    assert wide["in1"] < narrow["in1"]
    for widths in (wide, narrow):
        assert space.graph.flops(widths, "paper") == pytest.approx(0.9 * space.baseline.paper, rel=0.08)
    early, late = (tilted_shares(space, depth=sign) for sign in (-0.5, 0.5))
    assert late[-1] / late[0] == pytest.approx(math.exp(0.5))
    assert early == pytest.approx(late[::-1])
