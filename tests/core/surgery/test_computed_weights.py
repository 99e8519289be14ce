"""Fresh starts of weights that are computed from parameters: spectral norm's vectors and scales by fan-in."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from core.graph.channels import trace_channels
from core.graph.labels import FrozenChannelsWarning
from core.modules import named_tensors
from core.surgery.computed_weights import scale_by_fan_
from core.surgery.initialise import seeded, unknown_start
from core.surgery.resize import resize, widen
from core.surgery.starting import differing
from tests.toys import Net, conv

IMAGE = torch.randn(2, 3, 8, 8)


def normed(norm: object, layer: nn.Module) -> Net:
    return Net({"a": conv(3, 8), "b": norm(layer), "c": conv(6, 4)}, lambda n, x: n.c(n.b(n.a(x))))  # type: ignore[operator]


NORMS = {"spectral_norm": spectral_norm, "old spectral_norm": nn.utils.spectral_norm}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("freeze", [(), ("b",)])
@pytest.mark.parametrize("name", NORMS)
def test_vectors_of_a_spectral_norm_start_anew(name: str, freeze: tuple[str, ...], training: bool) -> None:
    torch.manual_seed(0)
    net = normed(NORMS[name], conv(8, 6)).train(training)
    graph = trace_channels(net, IMAGE, freeze=freeze)
    other = resize(net, graph, {} if freeze else {"a": 5, "b": 7}, seed=0)
    assert all(bool(tensor.isfinite().all()) for tensor in (*other.parameters(), *other.buffers()))
    assert bool(other.eval()(IMAGE).isfinite().all())
    weight = other.b.weight.detach().flatten(1)
    # 15 steps of the power iteration, as torch takes: close to the largest singular value, and never above it.
    assert float(torch.linalg.matrix_norm(weight, 2)) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("name", NORMS)
def test_with_a_factory_vectors_are_those_that_it_gives_at_these_widths(name: str) -> None:
    def factory(a: int, b: int) -> Net:
        parts = {"a": conv(3, a), "b": NORMS[name](conv(a, b)), "c": conv(b, 4)}
        return Net(parts, lambda n, x: n.c(n.b(n.a(x))))

    with seeded(0):
        net = factory(8, 6)
    graph = trace_channels(net, IMAGE)
    other = resize(net, graph, {"a": 5, "b": 4}, factory=lambda: factory(8, 6), seed=3)
    with seeded(3):
        wanted = factory(5, 4)
    assert differing(named_tensors(wanted), named_tensors(other)) == []
    assert unknown_start(other) == {}
    assert unknown_start(resize(net, graph, {"a": 5, "b": 4}, seed=3)) == {}


def test_a_network_with_weight_norm_learns_at_other_widths() -> None:
    net = normed(weight_norm, conv(8, 6))
    other = resize(net, trace_channels(net, IMAGE), {"a": 5, "b": 3}, seed=0)
    assert other.b.weight.shape == (3, 5, 3, 3)
    other(IMAGE).square().mean().backward()
    assert all(
        parameter.grad is not None and bool(parameter.grad.isfinite().all())
        for parameter in other.parameters()
    )


class Equalised(nn.Module):
    """A convolution whose learning rate is equalised (Karras et al., 2018)."""

    def __init__(self, inside: int, out: int, gain: float = 2.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, out, 3, padding=1)
        self.scale = math.sqrt(gain / (inside * 9))
        self.slope = 0.2

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.leaky_relu(self.conv(x * self.scale), self.slope)


@pytest.mark.parametrize("gain", [1.0, 2.0, 1.7])
def test_scales_by_fan_in_follow_it(gain: float) -> None:
    net = nn.Sequential(Equalised(3, 8, gain), Equalised(8, 6, gain), conv(6, 4))
    other = resize(net, trace_channels(net, IMAGE), {"0.conv": 5, "1.conv": 9}, seed=0)
    made = Equalised(5, 9, gain)
    assert other[1].scale == pytest.approx(made.scale)
    assert other[0].scale == net[0].scale  # three input channels as before
    assert other[1].slope == made.slope


@pytest.mark.parametrize(("gain", "follows"), [(1.0, True), (2.0, True), (1.7, False)])
def test_where_all_fan_ins_are_one_only_the_known_scales_count(gain: float, follows: bool) -> None:
    net = nn.Sequential(conv(3, 8), Equalised(8, 8, gain), Equalised(8, 8, gain), conv(8, 4))
    other = resize(net, trace_channels(net, IMAGE), {"0": 5}, seed=0)
    assert (other[1].scale == pytest.approx(Equalised(5, 5, gain).scale)) == follows


def test_numbers_that_no_fan_in_explains_stay() -> None:
    net = nn.Sequential(Equalised(3, 8, 2.0), Equalised(8, 6, 2.1), conv(6, 4))
    scales = [layer.scale for layer in net[:2]]
    scale_by_fan_(net, net)
    assert [layer.scale for layer in net[:2]] == scales


@pytest.mark.parametrize("name", ["nf_resnet26", "resnetv2_50x1_bit", "eca_nfnet_l0"])
def test_timms_standardised_networks_are_found_whole(name: str, timm: object) -> None:
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=5)  # type: ignore[attr-defined]
    image = torch.rand(1, 3, 64, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FrozenChannelsWarning)
        graph = trace_channels(net, image)
    assert graph.frozen_share() == 0
    wide = widen(net, graph, 1.25, seed=0)
    wide(torch.rand(2, 3, 64, 64)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in wide.parameters())
    again = trace_channels(wide, image)
    assert again.flops() == graph.flops(again.widths)
