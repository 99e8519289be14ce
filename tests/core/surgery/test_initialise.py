"""A found network starts as its baseline did: the rule of every layer at the new widths, and nothing of its weights."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from core.graph.channels import trace_channels
from core.surgery.initialise import UnknownStartWarning, initialise_, seeded
from core.surgery.resize import resize
from tests.toys import Net, channels, conv

IMAGE = torch.randn(1, 3, 8, 8)

# What a network's author may call on every convolution, and the spread that it has to have for fan in / fan out.
RULES: dict[str, tuple[Callable[[Tensor], object], Callable[[int, int], float]]] = {
    "torch default": (
        lambda w: nn.init.kaiming_uniform_(w, a=math.sqrt(5)),
        lambda i, o: 1 / math.sqrt(3 * i),
    ),
    "He fan out": (lambda w: nn.init.kaiming_normal_(w, mode="fan_out"), lambda i, o: math.sqrt(2 / o)),
    "He fan in": (nn.init.kaiming_normal_, lambda i, o: math.sqrt(2 / i)),
    "He uniform fan in": (nn.init.kaiming_uniform_, lambda i, o: math.sqrt(2 / i)),
    "Glorot uniform": (nn.init.xavier_uniform_, lambda i, o: math.sqrt(2 / (i + o))),
    "Glorot normal": (nn.init.xavier_normal_, lambda i, o: math.sqrt(2 / (i + o))),
    "normal 0.01": (lambda w: nn.init.normal_(w, std=0.01), lambda i, o: 0.01),
    "truncated normal 0.02": (lambda w: nn.init.trunc_normal_(w, std=0.02), lambda i, o: 0.02),
    "normal 0.05": (lambda w: nn.init.normal_(w, std=0.05), lambda i, o: 0.05),
    "an unheard-of spread": (lambda w: nn.init.normal_(w, std=0.37), lambda i, o: 0.37),
    "Glorot with an unheard-of gain": (
        lambda w: nn.init.xavier_normal_(w, gain=0.43),
        lambda i, o: 0.43 * math.sqrt(2 / (i + o)),
    ),
    "a tenth of He's": (lambda w: nn.init.kaiming_normal_(w).mul_(0.1), lambda i, o: 0.1 * math.sqrt(2 / i)),
    "LeCun, cut at two deviations": (
        lambda w: nn.init.trunc_normal_(w, 0, s := _lecun(w), -2 * s, 2 * s),
        lambda i, o: 1 / math.sqrt(i),
    ),
    "orthogonal": (lambda w: nn.init.orthogonal_(w, 1.3), lambda i, o: 1.3 / math.sqrt(max(i, o / 9))),
}


def _lecun(weight: Tensor) -> float:
    return 1 / math.sqrt(weight[0].numel()) / 0.87962566103423978


def network(own_rule: bool = False) -> Net:
    class WithRule(Net):
        def init_weights(self) -> None:
            for layer in (self.a, self.b, self.c):
                nn.init.constant_(layer.weight, 7.0)

    parts = {
        "a": conv(3, 24),
        "norm": nn.BatchNorm2d(24),
        "b": conv(24, 48),
        "last": nn.BatchNorm2d(48),
        "c": conv(48, 16),
    }
    torch.manual_seed(0)
    kind = WithRule if own_rule else Net
    return kind(parts, lambda n, x: n.c(n.last(n.b(n.norm(n.a(x)).relu()))))


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_of_the_model_is_followed_at_new_widths(rule: str) -> None:
    fill, spread = RULES[rule]
    net = network()
    with torch.no_grad():
        for layer in (net.a, net.b, net.c):
            fill(layer.weight)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wide = resize(net, trace_channels(net, IMAGE), {"a": 72, "b": 96}, seed=1)
    for layer in (wide.a, wide.b, wide.c):
        out, inside = layer.weight.shape[:2]
        within = 5 / math.sqrt(2 * layer.weight.numel())
        assert layer.weight.std().item() == pytest.approx(spread(9 * inside, 9 * out), rel=within)
        assert abs(layer.weight.mean().item()) < 4 * layer.weight.std().item() / math.sqrt(
            layer.weight.numel()
        )


def test_constants_stay_constants() -> None:
    net = network()
    nn.init.zeros_(net.last.weight)  # a residual branch that starts as zero
    nn.init.constant_(net.norm.weight, 0.5)
    nn.init.zeros_(net.a.bias)
    other = resize(net, trace_channels(net, IMAGE), {"a": 31, "b": 7}, seed=1)
    assert torch.equal(other.last.weight, torch.zeros(7))
    assert torch.equal(other.norm.weight, torch.full((31,), 0.5))
    assert torch.equal(other.a.bias, torch.zeros(31))
    assert other.b.bias.std() > 0


def test_trained_values_and_statistics_are_not_carried_over() -> None:
    net = network().train()
    for _ in range(3):
        net(torch.randn(4, 3, 8, 8) * 5 + 3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape))
    with pytest.warns(UnknownStartWarning, match=r"norm\.weight, norm\.bias"):
        other = resize(net, trace_channels(net, IMAGE), {"b": 40}, seed=1)
    assert torch.equal(other.norm.running_mean, torch.zeros(24))
    assert torch.equal(other.norm.running_var, torch.ones(24))
    assert other.norm.num_batches_tracked == 0
    assert torch.equal(other.norm.weight, torch.ones(24))
    same_shape = {name: p for name, p in other.named_parameters() if p.shape == net.get_parameter(name).shape}
    assert not any(torch.equal(p, net.get_parameter(name)) for name, p in same_shape.items())


def test_a_models_own_rule_is_used_where_the_model_has_used_it() -> None:
    net = network(own_rule=True)
    plain = resize(net, trace_channels(net, IMAGE), {"a": 5}, seed=1)
    assert all(layer.weight.std() > 0 for layer in (plain.a, plain.b, plain.c))
    net.init_weights()
    other = resize(net, trace_channels(net, IMAGE), {"a": 5}, seed=1)
    assert all(bool((layer.weight == 7.0).all()) for layer in (other.a, other.b, other.c))
    assert torch.equal(other.norm.weight, torch.ones(5))  # what it leaves out starts as torch starts it


@pytest.mark.parametrize("width", [8, 12])
def test_parameters_that_nobody_initialises_are_drawn_anew_with_their_own_spread(width: int) -> None:
    torch.manual_seed(0)
    parts = {
        "a": conv(3, 8),
        "kernel": nn.Parameter(torch.randn(8, 8, 3, 3) * 0.2 + 0.1),
        "shift": nn.Parameter(torch.rand(8) * 2 + 5),
        "scale": nn.Parameter(torch.full((8, 1, 1), 1e-6)),
        "c": conv(8, 4),
    }
    net = Net(
        parts, lambda n, x: n.c(nn.functional.conv2d(n.a(x), n.kernel).add(n.shift[:, None, None]) * n.scale)
    )
    graph = trace_channels(net, IMAGE)
    with pytest.warns(UnknownStartWarning, match="shift: its values follow no rule"):
        other = resize(net, graph, {"a": width, "kernel": width}, seed=1)
    assert other.kernel.shape == (width, width, 3, 3)
    assert other.kernel.std().item() == pytest.approx(0.2, rel=0.2)
    assert other.kernel.mean().item() == pytest.approx(0.1, abs=0.05)
    assert 4 < other.shift.min() < other.shift.max() < 8.5
    assert torch.equal(other.scale, torch.full((width, 1, 1), 1e-6))
    if width == 8:
        assert not torch.equal(other.kernel, net.kernel)
        assert not torch.equal(other.shift, net.shift)


def test_every_parameter_is_finite_and_filled() -> None:
    net = Net(
        {"a": conv(3, 8), "attend": nn.MultiheadAttention(8, 2, batch_first=True), "c": nn.Linear(8, 4)},
        lambda n, x: n.c(n.attend(*[n.a(x).flatten(2).mT] * 3)[0].mean(1)),
    )
    initialise_(net, like=network_copy(net), seed=0)
    assert all(bool(parameter.isfinite().all()) for parameter in net.parameters())
    assert net.attend.in_proj_weight.std() > 0.05


def network_copy(net: Net) -> Net:
    import copy

    return copy.deepcopy(net)


def test_seeded_restores_the_generator() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    with seeded(3):
        first = torch.rand(4)
    with seeded(3):
        assert torch.equal(torch.rand(4), first)
    assert torch.equal(torch.random.get_rng_state(), before)
    with seeded(None):
        torch.rand(1)
    assert not torch.equal(torch.random.get_rng_state(), before)


def test_layer_scale_keeps_its_constant() -> None:
    net = Net(
        {
            "a": conv(3, 8),
            "gamma": nn.Parameter(torch.full((8, 1, 1), 1e-6)),
            "bias": channels(8),
            "c": conv(8, 4),
        },
        lambda n, x: n.c(n.a(x) * n.gamma + n.bias[:, None, None]),
    )
    with pytest.warns(UnknownStartWarning, match="bias: its values follow no rule"):
        other = resize(net, trace_channels(net, IMAGE), {"a": 20}, seed=0)
    assert torch.equal(other.gamma, torch.full((20, 1, 1), 1e-6))
    assert other.bias.min() > 0.2


def test_what_does_not_learn_keeps_its_values() -> None:
    """The mean shift of the original EDSR is a convolution whose parameters take no gradient."""
    shift, blur = nn.Conv2d(3, 3, 1), conv(8, 8, groups=8, bias=False)
    with torch.no_grad():
        shift.weight.copy_(torch.eye(3)[:, :, None, None])
        shift.bias.copy_(torch.tensor([-0.4488, -0.4371, -0.4040]))
        blur.weight.copy_(torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16)
    for fixed in (shift, blur):
        fixed.requires_grad_(False)
    net = Net(
        {"shift": shift, "a": conv(3, 8), "blur": blur, "c": conv(8, 4)},
        lambda n, x: n.c(n.blur(n.a(n.shift(x)))),
    )
    other = resize(net, trace_channels(net, IMAGE), {"a": 13}, seed=1)
    assert torch.equal(other.shift.weight, shift.weight)
    assert torch.equal(other.shift.bias, shift.bias)
    assert torch.equal(other.blur.weight, blur.weight[:1].expand(13, 1, 3, 3))
    assert not torch.equal(other.c.bias, net.c.bias)
    assert not other.blur.weight.requires_grad
    # A network that was frozen as a whole, for evaluation say, starts afresh.
    with pytest.warns(UnknownStartWarning, match=r"shift\.weight"):
        frozen = resize(net.requires_grad_(False), trace_channels(net, IMAGE), {"a": 13}, seed=1)
    assert not torch.equal(frozen.shift.bias, shift.bias)
