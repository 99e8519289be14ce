"""FLOPs and parameters: published counts to the digit, both conventions against counting by hand, and the clock."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import classification.models
import super_resolution.models
from core.errors import UserError
from core.graph.channels import trace_channels
from core.graph.complexity import Cost, count, count_each, count_params, latency
from tests.toys import Net, conv

# FLOPs of the convention "paper" and parameters, as published for LW-DNA and DHP; to the digits that were printed.
PUBLISHED = [
    ("resnet50", {}, (3, 224, 224), 1e9, "4.1177", "25.557"),
    ("regnetx_4gf", {}, (3, 224, 224), 1e9, "4.0005", "22.118"),
    ("mobilenetv3_small", {}, (3, 224, 224), 1e9, "0.0612", "3.108"),
    ("mobilenetv1", {"dataset": "tiny-imagenet"}, (3, 64, 64), 1e9, "0.0478", "3.412"),
    ("mobilenetv2", {"dataset": "tiny-imagenet"}, (3, 64, 64), 1e9, "0.0930", "2.480"),
    ("resnet20", {}, (3, 32, 32), 1e9, "0.0414", "0.272"),
    ("resnet56", {}, (3, 32, 32), 1e9, "0.1274", "0.856"),
    ("densenet40", {}, (3, 32, 32), 1e9, "0.2901", "1.059"),
    ("efficientnet_b0", {}, (3, 224, 224), 1e9, "0.3993", "5.289"),
    ("edsr", {"scale": 4}, (3, 128, 128), 1e9, "90.37", "3.697"),
    ("srresnet", {"scale": 4}, (3, 128, 128), 1e9, "32.83", "1.536"),
    ("dncnn", {}, (1, 128, 128), 1e9, "9.13", "0.557"),
]


@pytest.mark.parametrize(("name", "options", "shape", "unit", "flops", "params"), PUBLISHED)
def test_published_costs(
    name: str, options: dict, shape: tuple[int, ...], unit: float, flops: str, params: str
) -> None:
    package = super_resolution.models if name in super_resolution.models.MODELS else classification.models
    with torch.device("meta"):
        model = package.build(name, **options)
    graph = trace_channels(model, torch.empty(1, *shape, device="meta"))
    digits = len(flops.partition(".")[2])
    assert f"{graph.flops(convention='paper') / unit:.{digits}f}" == flops
    assert f"{graph.params() / 1e6:.3f}" == params


def test_resnet50_to_the_last_digit() -> None:
    with torch.device("meta"):
        model = classification.models.build("resnet50")
    graph = trace_channels(model, torch.empty(1, 3, 224, 224, device="meta"))
    assert graph.flops(convention="paper") == 4_117_734_400
    assert graph.params() == 25_557_032


def test_u_net_counts_each_pixel_that_a_transposed_convolution_reads_once() -> None:
    """DHP prints 3.41 G: it counts the pixels that a transposed convolution writes, four times as many."""
    with torch.device("meta"):
        model = super_resolution.models.build("unet")
    graph = trace_channels(model, torch.empty(1, 1, 128, 128, device="meta"))
    transposed = sum(4 * (2 * c) * c * (2048 // c) ** 2 for c in (32, 64, 128, 256))
    assert f"{(graph.flops(convention='paper') + 3 * transposed) / 1e9:.3f}" == "3.411"
    assert f"{graph.params() / 1e6:.3f}" == "7.760"


def by_hand() -> Net:
    parts = {
        "a": conv(3, 8, bias=False),
        "norm": nn.BatchNorm2d(8),
        "relu": nn.ReLU6(),
        "b": nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=4),
        "slope": nn.PReLU(8),
        "up": nn.ConvTranspose2d(8, 6, 2, stride=2),
        "c": nn.Linear(6, 5),
    }

    def forward(n: Net, x: torch.Tensor) -> torch.Tensor:
        y = n.slope(n.b(n.relu(n.norm(n.a(x)))))
        return n.c(F.relu(n.up(y)).sigmoid().mean((2, 3)))

    return Net(parts, forward)


def test_both_conventions_against_a_count_on_paper() -> None:
    graph = trace_channels(by_hand(), torch.zeros(3, 3, 8, 8))
    macs = 3 * 8 * 9 * 64 + 8 * 2 * 9 * 16 + 8 * 6 * 4 * 16 + 6 * 5
    assert graph.flops() == macs
    # BatchNorm: 2 per element; ReLU6 and PReLU modules: 1 per element; functional ReLU and sigmoid: nothing.
    assert graph.flops(convention="paper") == macs + 2 * 8 * 64 + 8 * 64 + 8 * 16
    assert graph.params() == 3 * 8 * 9 + 2 * 8 + (8 * 2 * 9 + 8) + 8 + (8 * 6 * 4 + 6) + (6 * 5 + 5)
    assert count(by_hand(), torch.zeros(3, 3, 8, 8), "paper") == graph.flops(convention="paper")
    assert count_params(by_hand()) == graph.params()


def test_an_activation_module_that_is_used_twice_counts_once_at_its_last_shape() -> None:
    net = Net({"a": conv(3, 8), "b": nn.Conv2d(8, 6, 3, stride=2, padding=1), "relu": nn.ReLU(), "c": conv(6, 2)},
              lambda n, x: n.c(n.relu(n.b(n.relu(n.a(x))))))  # fmt: skip
    image = torch.zeros(1, 3, 8, 8)
    graph = trace_channels(net, image)
    extra = graph.flops(convention="paper") - graph.flops()
    assert extra == 6 * 4 * 4
    assert count(net, image, "paper") - count(net, image) == extra


def test_a_layer_that_is_used_twice_costs_twice_and_has_its_parameters_once() -> None:
    net = Net({"a": conv(3, 8), "b": conv(8, 8), "c": conv(8, 4)}, lambda n, x: n.c(n.b(n.b(n.a(x)))))
    image = torch.zeros(1, 3, 8, 8)
    graph = trace_channels(net, image)
    assert graph.flops() == 64 * 9 * (3 * 8 + 2 * 8 * 8 + 8 * 4) == count(net, image)
    assert graph.params() == count_params(net) == 9 * (3 * 8 + 8 * 8 + 8 * 4) + 8 + 8 + 4
    assert graph.flops({"a": 3}) == 64 * 9 * (3 * 3 + 2 * 3 * 3 + 3 * 4)


@pytest.mark.parametrize("batch", [1, 4])
def test_costs_are_per_sample(batch: int) -> None:
    image = torch.zeros(batch, 3, 8, 8)
    assert trace_channels(by_hand(), image).flops(convention="paper") == 19_230 + 1024 + 512 + 128
    assert count(by_hand(), image, "paper") == 19_230 + 1024 + 512 + 128


def test_many_networks_are_priced_in_one_call() -> None:
    graph = trace_channels(by_hand(), torch.zeros(1, 3, 8, 8))
    sizes = np.stack([[group.size for group in graph.groups], [1] * len(graph.groups)])
    both = graph.cost("paper", sizes)
    least = {group.name: group.step for group in graph.groups}
    assert both.tolist() == [graph.flops(convention="paper"), graph.flops(least, "paper")]


def test_large_networks_do_not_overflow() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4096, 3), nn.Conv2d(4096, 4096, 3), nn.Conv2d(4096, 3, 3)).to("meta")
    graph = trace_channels(net, torch.empty(1, 3, 4096, 4096, device="meta"))
    sizes = [4094, 4092, 4090]
    expected = sum(9 * a * b * s * s for a, b, s in zip([3, 4096, 4096], [4096, 4096, 3], sizes, strict=True))
    assert graph.flops() == expected
    assert expected > 2**50


@pytest.mark.parametrize("call", [lambda g: g.flops(convention="flops"), lambda g: g.cost("bytes", g.sizes)])
def test_unknown_conventions_are_refused(call: object) -> None:
    graph = trace_channels(by_hand(), torch.zeros(1, 3, 8, 8))
    with pytest.raises(UserError, match="unknown convention"):
        call(graph)  # type: ignore[operator]
    with pytest.raises(UserError, match="unknown convention"):
        count(by_hand(), torch.zeros(1, 3, 8, 8), "flops")  # type: ignore[arg-type]


def test_counting_does_not_touch_the_model() -> None:
    net = by_hand().train()
    count(net, torch.zeros(1, 3, 8, 8))
    assert net.training
    assert all(not parameter.is_meta for parameter in net.parameters())
    assert not any(module._forward_hooks for module in net.modules())


def test_latency_tells_a_slow_network_from_a_fast_one_and_touches_neither() -> None:
    fast, slow = nn.Conv2d(3, 4, 1), nn.Sequential(*[nn.Conv2d(3, 3, 9, padding=4) for _ in range(6)])
    seconds = latency([fast, slow], torch.zeros(1, 3, 48, 48), repeats=5, warmup=1)
    assert 0 < seconds[0] < seconds[1]
    assert fast.training
    assert slow.training
    assert len(latency(fast, torch.zeros(1, 3, 8, 8), repeats=1, warmup=0)) == 1


def test_latency_measures_models_in_turns() -> None:
    order: list[str] = []

    class Told(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            order.append(self.name)
            return x

    latency([Told("a"), Told("b")], torch.zeros(1), repeats=2, warmup=1)
    assert order == ["a", "b", "b", "a", "a", "b"]  # every second turn backwards


def test_a_cost_keeps_its_form_in_files() -> None:
    cost = trace_channels(by_hand(), torch.zeros(3, 3, 8, 8)).price()
    content = {"flops": {"macs": cost.flops("macs"), "paper": cost.flops("paper")}, "params": cost.params}
    assert cost.to_json() == content
    assert Cost.from_json({**content, "widths": {"a": 3}}) == cost
    assert Cost.from_json(Cost(1, 2, 3, 0.5).to_json()) == Cost(1, 2, 3, 0.5)
    for damaged in (
        {},
        [],
        {"flops": 3, "params": 1},
        {"flops": {"macs": 1}, "params": 1},
        {**content, "params": 0.5},
    ):
        with pytest.raises(UserError, match=r"whole numbers under 'flops' \(macs, paper\) and 'params'"):
            Cost.from_json(damaged)
    with pytest.raises(UserError, match="unknown convention"):
        cost.flops("flops")  # type: ignore[arg-type]


@pytest.mark.parametrize("convention", ["macs", "paper"])
def test_what_modules_cost_adds_up(convention: Literal["macs", "paper"]) -> None:
    net, image = classification.models.build("resnet20", 10, dataset="cifar10"), torch.zeros(2, 3, 32, 32)
    each = count_each(net, image, convention)
    assert sum(each.values()) == count(net, image, convention)
    assert each["conv1"] == 32 * 32 * 9 * 3 * 16
    assert ("relu" in " ".join(each)) == (convention == "paper")
    assert "layer1" not in each  # what its blocks compute is theirs


def test_what_a_forward_computes_itself_is_its_own() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) @ torch.ones(4, 2)

    assert count_each(Attends(), torch.zeros(3, 4)) == {"": 8, "inner": 16}
