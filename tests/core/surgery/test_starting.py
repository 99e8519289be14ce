"""With its factory a found network starts as the factory would start it there, bit for bit where draws are alike."""

from __future__ import annotations

import copy
import math
import types
import warnings
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import classification.models
import super_resolution.models
from core.errors import UserError
from core.graph.channels import trace_channels
from core.modules import named_tensors
from core.surgery.architecture import Architecture, describe_inputs
from core.surgery.initialise import UnknownStartWarning, same_start, seeded, unknown_start
from core.surgery.resize import resize, widen
from core.surgery.starting import Start, differing, start

Factory = Callable[[], nn.Module]


def conv(inputs: int, outputs: int, kernel: int = 3, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, groups=groups)


def drawn(factory: Callable[[int], nn.Module], width: int, seed: int = 3) -> nn.Module:
    with seeded(seed):
        return factory(width)


def started(factory: Callable[[int], nn.Module], width: int, wanted: int) -> tuple[Start, nn.Module]:
    """(what the factory of one width gives at another one, what it gives there itself)."""
    own, other = drawn(factory, width), drawn(factory, wanted)
    with seeded(3):
        return start(lambda: factory(width), own, other), other


def check_bit_for_bit(factory: Callable[[int], nn.Module], width: int = 24, wanted: int = 36) -> None:
    for aim in (width, wanted, width // 2):
        found, other = started(factory, width, aim)
        assert (found.unknown, found.missing) == ({}, {})
        assert differing(named_tensors(other), found.values.items()) == []


def by_argument(width: int) -> nn.Module:
    """The spread comes from the block's arguments, not from its tensors."""

    def block(inputs: int, outputs: int, kernel: int = 3) -> nn.Conv2d:
        layer = conv(inputs, outputs, kernel)
        nn.init.normal_(layer.weight, std=math.sqrt(2 / (kernel * kernel * outputs)))
        bound = 1 / math.sqrt(kernel * kernel * inputs)
        assert layer.bias is not None
        layer.bias.data.uniform_(-bound, bound)
        return layer

    return nn.Sequential(block(3, width), block(width, 2 * width), block(2 * width, 2 * width, 1))


def by_attribute(width: int) -> nn.Module:
    """The spread comes from the layer's attributes, as in timm's and torchvision's MobileNets."""
    net = nn.Sequential(conv(3, width), conv(width, width, groups=width), conv(width, 2 * width, 1))
    for layer in net:
        fan_out = layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels // layer.groups
        layer.weight.data.normal_(0, math.sqrt(2 / fan_out))
        nn.init.constant_(layer.bias, 0.1)
    return net


class Late(nn.Module):
    """A layer that learns its sizes after its tensors."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, 3))
        self.outputs = self.out_channels = outputs


def late(width: int) -> nn.Module:
    net = nn.Sequential(Late(3, width), Late(width, 2 * width))
    for layer in net:
        layer.weight.data.normal_(0, math.sqrt(2 / (9 * layer.out_channels)))
    return net


class Scale(nn.Module):
    """Parameters that are computed, and buffers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(1e-6 * torch.ones((width, 1, 1)))
        self.full = nn.Parameter(torch.full((1, width, 1), 0.5))
        self.random = nn.Parameter(torch.randn(width) * width**-0.5)
        self.view = nn.Parameter(torch.ones(width).view(1, -1, 1, 1))
        self.sum = nn.Parameter(torch.zeros(width)[:, None] + 0.3)
        self.register_buffer("index", torch.arange(width))
        self.register_buffer("blur", torch.ones(3, 3)[None, None].repeat(width, 1, 1, 1) / 9)


def scales(width: int) -> nn.Module:
    return nn.Sequential(conv(3, width), Scale(width), conv(width, 2 * width), Scale(2 * width))


def with_a_look(width: int) -> nn.Module:
    """A forward pass tells how many features there are, as many authors write it."""
    features = nn.Sequential(conv(3, width), nn.BatchNorm2d(width), nn.ReLU(), conv(width, 2 * width))
    return nn.Sequential(features, nn.Linear(features(torch.zeros(2, 3, 8, 8)).flatten(1).shape[1], 5))


def copies(width: int) -> nn.Module:
    block = nn.Sequential(conv(width, width), nn.BatchNorm2d(width))
    return nn.Sequential(conv(3, width), *(copy.deepcopy(block) for _ in range(3)))


def many_rules(width: int) -> nn.Module:
    net = nn.Sequential(conv(3, width), nn.Linear(width, 3 * width), nn.Linear(3 * width, width), conv(width, width),
                        nn.Linear(width, 2 * width), nn.Linear(2 * width, width), nn.Linear(width, width),
                        conv(width, width), nn.BatchNorm2d(width))  # fmt: skip
    nn.init.normal_(net[0].weight, std=0.05)
    nn.init.orthogonal_(net[1].weight, 1.3)
    nn.init.orthogonal_(net[2].weight)
    nn.init.dirac_(net[3].weight)
    nn.init.sparse_(net[4].weight, 0.2)
    nn.init.trunc_normal_(net[5].weight, std=0.7, a=-1, b=1)
    nn.init.eye_(net[6].weight)
    nn.init.xavier_normal_(net[7].weight, gain=0.37)
    nn.init.zeros_(net[8].weight)
    return net


def parametrised(width: int) -> nn.Module:
    return nn.Sequential(
        nn.utils.parametrizations.weight_norm(conv(3, width)),
        nn.utils.parametrizations.spectral_norm(conv(width, 2 * width)),
        nn.utils.spectral_norm(conv(2 * width, width)),
    )


def assigned(width: int) -> nn.Module:
    net = nn.Sequential(conv(3, width), conv(width, 2 * width))
    net[0].weight.data.copy_(torch.randn(width, 3, 3, 3).mul(0.03))
    nn.init.constant_(net[1].bias, -4.6)
    net[1].weight.data.mul_(0.1)
    return net


def attention(width: int) -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True), 2)


@pytest.mark.parametrize(
    "factory",
    [
        by_argument,
        by_attribute,
        late,
        scales,
        with_a_look,
        copies,
        many_rules,
        parametrised,
        assigned,
        attention,
    ],
)
def test_at_every_width_it_is_what_the_factory_gives_there(factory: Callable[[int], nn.Module]) -> None:
    check_bit_for_bit(factory)


PAIRS = {
    "mobilenetv2_100": "mobilenetv2_050",
    "mnasnet_100": "mnasnet_050",
    "mobilenetv3_small_100": "mobilenetv3_small_050",
    "repvgg_a0": "repvgg_a1",
}


@pytest.mark.parametrize("name", PAIRS)
def test_timms_other_widths(name: str, timm: types.ModuleType) -> None:
    check_pair(partial(timm.create_model, name), partial(timm.create_model, PAIRS[name]))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mobilenet_v2", {"width_mult": 0.5}),
        ("mnasnet1_0", {"alpha": 0.5}),
        ("shufflenet_v2_x1_0", {"stages_out_channels": [24, 48, 96, 192, 1024]}),
        ("resnet18", {}),
    ],
)
def test_torchvisions_other_widths(name: str, options: dict[str, object], timm: types.ModuleType) -> None:
    from torchvision import models

    kinds = {"mnasnet1_0": models.MNASNet, "shufflenet_v2_x1_0": partial(models.ShuffleNetV2, [4, 8, 4])}
    check_pair(getattr(models, name), partial(kinds.get(name, getattr(models, name)), **options))


def check_pair(factory: Factory, other: Factory) -> None:
    with seeded(3):
        own = factory()
    with seeded(3):
        wanted = other()
    with seeded(3):
        found = start(factory, own, wanted)
    assert (found.unknown, found.missing) == ({}, {})
    assert differing(named_tensors(wanted), found.values.items()) == []


@pytest.mark.parametrize(
    "name",
    ["mobilenetv2_100", "efficientnet_lite0", "mnasnet_100", "repvgg_a0", "inception_v3", "edgenext_xx_small",
     "levit_128s", "convnext_atto"],
)  # fmt: skip
def test_timms_networks_start_alike(name: str, timm: types.ModuleType) -> None:
    assert same_start(partial(timm.create_model, name, num_classes=10)) == []


@pytest.mark.parametrize(
    "name", ["googlenet", "mobilenet_v3_small", "mnasnet0_5", "densenet121", "regnet_y_400mf"]
)
def test_torchvisions_networks_start_alike(name: str, timm: types.ModuleType) -> None:
    from torchvision import models

    assert same_start(partial(getattr(models, name), num_classes=10)) == []


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "resnext50_32x4d", "regnety_200mf", "mobilenetv1",
                                  "mobilenetv2", "mobilenetv3_small", "efficientnet_b0", "shufflenetv2_x1_0",
                                  "densenet40"])  # fmt: skip
def test_our_classifiers_start_alike(name: str) -> None:
    assert same_start(partial(classification.models.build, name, dataset="cifar10")) == []


@pytest.mark.parametrize("name", [name for name in super_resolution.models.MODELS if name != "edsr_large"])
def test_our_networks_for_images_start_alike(name: str) -> None:
    scale = 1 if name in ("dncnn", "unet") else 4
    assert same_start(partial(super_resolution.models.build, name, scale)) == []


def test_same_start_names_what_differs() -> None:
    calls = iter(range(10))

    def restless() -> nn.Module:
        net = nn.Sequential(conv(3, 4), conv(4, 5))
        nn.init.constant_(net[1].weight, float(next(calls)))
        return net

    assert same_start(restless) == ["1.weight"]


def architecture(model: nn.Module, widths: dict[str, int]) -> Architecture:
    graph = trace_channels(model, torch.zeros(1, 3, 16, 16))
    return Architecture(model=type(model).__name__, widths={**graph.widths, **widths},
                        inputs=describe_inputs(torch.zeros(1, 3, 16, 16)))  # fmt: skip


def test_an_architecture_is_built_as_the_factory_builds() -> None:
    with seeded(5):
        own = by_attribute(8)
    torch.manual_seed(5)
    built = architecture(own, {}).build(own, factory=lambda: by_attribute(8))
    after = torch.rand(1)
    assert differing(named_tensors(own), named_tensors(built)) == []
    torch.manual_seed(5)
    by_attribute(8)
    assert torch.equal(after, torch.rand(1))  # the generator is left as one call of the factory leaves it
    narrow = architecture(own, {"0": 6}).build(own, factory=lambda: by_attribute(8), seed=5)
    with seeded(5):
        wanted = nn.Sequential(conv(3, 6), conv(6, 6, groups=6), conv(6, 16, 1))
        for layer, fan in zip(wanted, (54, 9, 16), strict=True):
            layer.weight.data.normal_(0, math.sqrt(2 / fan))
            nn.init.constant_(layer.bias, 0.1)
    assert differing(named_tensors(wanted), named_tensors(narrow)) == []


def test_widening_takes_a_factory_too() -> None:
    own = drawn(by_argument, 8)
    wide = widen(
        own, trace_channels(own, torch.zeros(1, 3, 16, 16)), 2.0, factory=lambda: by_argument(8), seed=3
    )
    assert wide[0].weight.shape[0] == 16
    assert torch.equal(wide[0].weight, drawn(by_argument, 16)[0].weight)


def test_a_block_that_is_left_out_changes_nothing_else() -> None:
    factory = partial(classification.models.build, "resnet20")
    with seeded(2):
        own = factory()
    short = classification_architecture(own, "layer1.1").build(own, factory=factory, seed=2)
    names = [name for name, _ in named_tensors(short)]
    assert not any(name.startswith("layer1.1.") for name in names)
    whole = dict(named_tensors(own))
    assert all(torch.equal(tensor, whole[name]) for name, tensor in named_tensors(short))


def classification_architecture(model: nn.Module, removed: str) -> Architecture:
    from core.surgery.depth import shorten

    inputs = torch.zeros(1, 3, 32, 32)
    graph = trace_channels(shorten(model, [removed]), inputs)
    return Architecture(
        model="resnet20", widths=graph.widths, inputs=describe_inputs(inputs), removed=(removed,)
    )


def test_another_network_than_the_factorys_is_refused() -> None:
    own = drawn(by_argument, 8)
    with pytest.raises(UserError, match=r"'0\.weight' has shape \(8, 3, 3, 3\): it gives shape \(9, 3"):
        start(lambda: by_argument(9), own, own)
    with pytest.raises(UserError, match=r"'0\.weight' has .* no such tensor"):
        start(lambda: nn.Linear(3, 4), own, own)


def test_a_number_that_fits_two_formulas_is_said_to_be_unknown() -> None:
    """1/√16 is also a constant of two digits, and there is no other layer to tell."""

    def factory(width: int) -> nn.Module:
        net = nn.Sequential(conv(3, width, 1), conv(width, 4, 1))
        nn.init.normal_(net[1].weight, std=1 / math.sqrt(width))
        return net

    own = drawn(factory, 16)
    graph = trace_channels(own, torch.zeros(1, 3, 8, 8))
    with pytest.warns(
        UnknownStartWarning, match=r"1 tensors of Sequential .*1\.weight: 0\.25 in line \d+ of"
    ):
        net = resize(own, graph, {"0": 12}, factory=lambda: factory(16), seed=0)
    assert list(unknown_start(net)) == ["1.weight"]
    assert list(unknown_start(nn.Sequential(net))) == ["0.1.weight"]  # layers take it along
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = resize(own, graph, {"0": 16}, factory=lambda: factory(16), seed=0)
    assert unknown_start(net) == {}


def test_a_vectors_number_may_be_unknown_too() -> None:
    def factory(width: int) -> nn.Module:
        return nn.Sequential(Scale(width))

    found, _ = started(factory, 16, 24)
    assert list(found.unknown) == ["0.random"]
    found, other = started(factory, 24, 12)
    assert (found.unknown, found.missing) == ({}, {})
    assert differing(named_tensors(other), found.values.items()) == []


def test_other_layers_tell_which_of_two_formulas_a_line_means() -> None:
    """Fan in equals fan out in the second layer; the first one, of another line, knows fan out alone."""

    def factory(width: int) -> nn.Module:
        net = nn.Sequential(conv(3, width), conv(width, width), conv(width, 8))
        nn.init.normal_(net[0].weight, std=math.sqrt(2 / (9 * width)))
        nn.init.normal_(net[1].weight, std=math.sqrt(2 / (9 * width)))
        return net

    own = drawn(factory, 16)
    graph = trace_channels(own, torch.zeros(1, 3, 16, 16))
    net = resize(own, graph, {"0": 40, "1": 90}, factory=lambda: factory(16), seed=0)
    assert unknown_start(net) == {}
    for layer in net[:2]:
        wanted = math.sqrt(2 / (9 * layer.weight.shape[0]))
        assert layer.weight.std().item() == pytest.approx(wanted, rel=5 / math.sqrt(2 * layer.weight.numel()))


def test_where_a_factory_refuses_other_widths_its_values_show_the_rules() -> None:
    def factory() -> nn.Module:
        net = nn.Sequential(conv(3, 24), conv(24, 48), conv(48, 8))
        assert net[0].weight.shape == (24, 3, 3, 3)
        for layer in net:
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        return net

    with seeded(0):
        own = factory()
    net = resize(
        own, trace_channels(own, torch.zeros(1, 3, 16, 16)), {"0": 16, "1": 60}, factory=factory, seed=1
    )
    assert unknown_start(net) == {}
    for layer in net:
        assert layer.weight.std().item() == pytest.approx(0.02, rel=5 / math.sqrt(2 * layer.weight.numel()))
        assert torch.equal(layer.bias, torch.zeros_like(layer.bias))


def test_values_from_elsewhere_are_said_to_be_unknown() -> None:
    table = np.random.default_rng(0).gamma(2.0, size=(12, 5, 3, 3)).astype(np.float32)

    def factory() -> nn.Module:
        net = nn.Sequential(conv(3, 5), conv(5, 12), conv(12, 4))
        net[1].weight.data = torch.from_numpy(table.copy())
        return net

    own = factory()
    with pytest.warns(UnknownStartWarning, match=r"1\.weight"):
        net = resize(own, trace_channels(own, torch.zeros(1, 3, 16, 16)), {"1": 7}, factory=factory, seed=1)
    assert list(unknown_start(net)) == ["1.weight"]
    assert bool(net[1].weight.isfinite().all())


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_a_number_that_counts_the_layers_stays(power: float) -> None:
    """As in the start of deep transformers, whose n-th layer is divided by √(2 n)."""

    def factory(width: int) -> nn.Module:
        sizes = [3, width, 2 * width, width, 2 * width, 8]
        net = nn.Sequential(*(conv(a, b) for a, b in pairwise(sizes)))
        for number, layer in enumerate(net, start=1):
            with torch.no_grad():
                layer.weight.div_((2 * number) ** power)
        return net

    check_bit_for_bit(factory)


def test_a_layer_that_checks_a_size_that_does_not_follow_leaves_the_others_as_the_factory_starts_them() -> (
    None
):
    class Mixed(nn.Module):
        """Weights of several kernels, as many as were asked for when it was made."""

        def __init__(self, inside: int, number: int) -> None:
            super().__init__()
            self.number, self.gate = number, nn.Linear(inside, number)
            self.weight = nn.Parameter(torch.empty(number, inside))
            if self.weight.shape != (number, inside):
                raise ValueError(f"{number} kernels")
            nn.init.normal_(self.weight, std=0.1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.gate(x).softmax(-1) @ self.weight

    def factory() -> nn.Module:
        pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
        first = conv(3, 24)
        nn.init.normal_(first.weight, std=0.03)
        return nn.Sequential(first, *pool, Mixed(24, 6), nn.Linear(24, 4))

    with seeded(0):
        net = factory()
    graph = trace_channels(net, torch.zeros(2, 3, 8, 8))
    widths = {group.name: group.size // 2 for group in graph.groups}
    with pytest.warns(UnknownStartWarning, match="3.weight"):
        other = resize(net, graph, widths, factory=factory, seed=0)
    assert list(unknown_start(other)) == ["3.weight"]
    assert other[0].weight.std().item() == pytest.approx(0.03, rel=0.2)
