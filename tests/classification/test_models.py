"""The classification networks: published counts, forms for every data set, fresh starts, deployment."""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import nn

from classification import models
from classification.models import DATASETS, INPUT_SHAPES, MODELS, build, resnet, resnet_cifar
from core.errors import UserError
from tests.counting import count

FAMILIES = (
    "resnet18",
    "resnext50_32x4d",
    "resnet20",
    "regnetx_200mf",
    "regnety_200mf",
    "mobilenetv1",
    "mobilenetv2",
    "mobilenetv2_small",
    "mobilenetv3_small",
    "mobilenetv3_small_torchvision",
    "efficientnet_b0",
    "shufflenetv2_x1_0",
    "densenet40",
)


# conv+fc G, convention G, parameters M: the published pairs, else the reference code's own counts.
COUNTS = [
    ("resnet50", "imagenet", {}, "4.0892 4.1177 25.557"),
    ("regnetx_200mf", "imagenet", {}, "0.1990 0.2054 2.685"),
    ("regnetx_400mf", "imagenet", {}, "0.3977 0.4069 5.158"),
    ("regnetx_600mf", "imagenet", {}, "0.6009 0.6125 6.196"),
    ("regnetx_800mf", "imagenet", {}, "0.7997 0.8148 7.260"),
    ("regnetx_4gf", "imagenet", {}, "3.9645 4.0005 22.118"),
    ("regnetx_8gf", "imagenet", {}, "7.9951 8.0366 39.57"),
    ("regnety_200mf", "imagenet", {}, "0.1995 0.2058 3.163"),
    ("regnety_400mf", "imagenet", {}, "0.4018 0.4132 4.344"),
    ("regnety_600mf", "imagenet", {}, "0.6012 0.6139 6.055"),
    ("regnety_800mf", "imagenet", {}, "0.7972 0.8125 6.263"),
    ("mobilenetv3_small", "imagenet", {}, "0.0571 0.0612 3.108"),
    ("mobilenetv1", "tiny-imagenet", {}, "0.0465 0.0478 3.412"),
    ("mobilenetv1", "imagenet", {}, "0.5687 0.5839 4.232"),
    ("mobilenetv2", "tiny-imagenet", {}, "0.0882 0.0930 2.480"),
    ("mobilenetv2", "imagenet", {}, "0.3008 0.3202 3.505"),
    ("efficientnet_b0", "imagenet", {}, "0.3858 0.3993 5.289"),
    ("efficientnet_b0", "tiny-imagenet", {}, "0.1262 0.1306 4.264"),
    ("resnet20", "cifar", {}, "0.0408 0.0414 0.2725"),
    ("resnet56", "cifar", {}, "0.1257 0.1274 0.8558"),
    ("resnet110", "cifar", {}, "0.2531 0.2563 1.731"),
    ("resnet110", "cifar", {"bottleneck": True}, "0.1674 0.1740 1.148"),
    ("resnet164", "cifar", {}, "0.2476 0.2573 1.704"),
    ("densenet40", "cifar", {}, "0.2829 0.2901 1.059"),
]


@pytest.mark.parametrize(("name", "dataset", "options", "expected"), COUNTS)
def test_counts_are_those_of_the_reference(
    name: str, dataset: str, options: dict[str, bool], expected: str
) -> None:
    with torch.device("meta"):
        network = build(name, dataset=dataset, **options)
    macs, flops, parameters = count(network, INPUT_SHAPES[dataset])
    digits = len(expected.rpartition(".")[2])
    assert f"{macs / 1e9:.4f} {flops / 1e9:.4f} {parameters / 1e6:.{digits}f}" == expected


def test_the_small_mobilenetv2_has_the_counts_that_it_says() -> None:
    with torch.device("meta"):
        network = build("mobilenetv2_small", 100)
    assert count(network, (3, 16, 16))[1:] == (3_103_232, 155_956)


def test_resnet50_has_the_published_counts_to_the_digit() -> None:
    with torch.device("meta"):
        network = models.resnet50()
    _, flops, parameters = count(network, (3, 224, 224))
    assert (flops, parameters) == (4_117_734_400, 25_557_032)


# Side of the last map, before the mean, on Tiny-ImageNet, CIFAR and digits; the counts above fix ImageNet's.
MAP_SIDES = {
    "resnet18": (4, 4, 2),
    "resnext50_32x4d": (4, 4, 2),
    "resnet20": (8, 8, 2),
    "regnetx_200mf": (4, 8, 2),
    "regnety_200mf": (4, 8, 2),
    "mobilenetv1": (2, 2, 2),
    "mobilenetv2": (4, 4, 2),
    "mobilenetv2_small": (16, 8, 2),
    "mobilenetv3_small": (4, 2, 2),
    "mobilenetv3_small_torchvision": (4, 2, 2),
    "efficientnet_b0": (4, 8, 2),
    "shufflenetv2_x1_0": (4, 4, 2),
    "densenet40": (8, 8, 2),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_data_set_fixes_input_and_last_map(name: str) -> None:
    sides = []
    for classes, dataset in enumerate(("tiny-imagenet", "cifar", "digits"), start=3):
        with torch.device("meta"):
            network = build(name, classes, dataset).eval()
        last = network.conv5 if name.startswith("shufflenet") else network.avgpool
        last.register_forward_pre_hook(lambda _, inputs: sides.append(inputs[0].shape[2:]))
        output = network(torch.empty(2, *INPUT_SHAPES[dataset], device="meta"))
        assert output.shape == (2, classes)
    assert sides == [(side, side) for side in MAP_SIDES[name]]


def test_a_data_set_brings_its_number_of_classes() -> None:
    expected = {
        "imagenet": 1000,
        "tiny-imagenet": 200,
        "cifar": 10,
        "cifar10": 10,
        "cifar100": 100,
        "digits": 10,
    }
    for dataset, classes in expected.items():
        with torch.device("meta"):
            assert build("resnet20", dataset=dataset).fc.out_features == classes


@pytest.mark.parametrize("name", FAMILIES)
def test_every_parameter_is_trained(name: str) -> None:
    torch.manual_seed(0)
    network = build(name, dataset="digits")
    nn.functional.cross_entropy(network(torch.rand(16, 1, 8, 8)), torch.arange(16) % 10).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_the_factories_are_importable_by_name() -> None:
    for name, factory in MODELS.items():
        assert getattr(models, name) is factory
        assert factory.__doc__


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build("resnet5O"), "unknown network 'resnet5O': did you mean 'resnet56' or 'resnet50'"),
        (lambda: build("vgg"), "unknown network 'vgg': allowed: resnet18, "),
        (lambda: build("resnet50", dataset="tiny_imagenet"), "did you mean 'tiny-imagenet'"),
        (lambda: build("resnet50", 0), "num_classes=0: a classifier needs at least 1 class"),
        (lambda: build("resnet50", dropout=0.1), "'resnet50' has no option 'dropout': allowed: none"),
        (lambda: build("mobilenetv2", drop=0.1), "has no option 'drop': did you mean 'dropout'"),
    ],
)
def test_wrong_usage_is_one_line_that_helps(call: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(UserError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_dropout_option_reaches_the_network() -> None:
    def rates(network: nn.Module) -> list[float]:
        return [module.p for module in network.modules() if isinstance(module, nn.Dropout)]

    with torch.device("meta"):
        assert rates(build("mobilenetv1")) == rates(build("mobilenetv2")) == [0.2]
        assert rates(build("mobilenetv3_small")) == rates(build("efficientnet_b0")) == [0.0]
        assert rates(build("mobilenetv1", dropout=0.5)) == [0.5]


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("regnet")])
def test_regnet_keeps_its_group_width(name: str) -> None:
    with torch.device("meta"):
        network = build(name)
    grouped = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)][1:]
    group_widths = {conv.in_channels // conv.groups for conv in grouped}
    published = {"200mf": {8}, "400mf": {16}, "600mf": {24}, "800mf": {16}, "4gf": {40}, "8gf": {80, 120}}
    if name.startswith("regnety"):
        published |= {"400mf": {8}, "600mf": {16}}
    assert group_widths == published[name.split("_")[1]]


@pytest.mark.parametrize("name", ["mobilenetv1", "mobilenetv2", "mobilenetv3_small", "efficientnet_b0"])
def test_spatial_convolutions_of_mobile_networks_are_depthwise(name: str) -> None:
    with torch.device("meta"):
        network = build(name)
    spatial = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)][1:]
    assert len(spatial) >= 11
    assert all(conv.groups == conv.in_channels == conv.out_channels for conv in spatial)


class Dimension(NamedTuple):
    """One channel dimension: who makes it, its norms and depthwise convolutions, who reads it."""

    makers: tuple[str, ...]
    norms: tuple[str, ...]
    depthwise: tuple[str, ...]
    readers: tuple[str, ...]


DIMENSIONS = {
    "resnet18": Dimension(("layer1.0.conv1",), ("layer1.0.bn1",), (), ("layer1.0.conv2",)),
    "resnet20": Dimension(("layer1.0.conv1",), ("layer1.0.bn1",), (), ("layer1.0.conv2",)),
    "resnext": Dimension(("conv1",), ("bn1",), (), ("layer1.0.conv1", "layer1.0.downsample.0")),
    "bottleneck": Dimension(("layer1.0.conv2",), ("layer1.0.bn2",), (), ("layer1.0.conv3",)),
    "regnetx_200mf": Dimension(
        ("stem.0",),
        ("stem.1",),
        (),
        ("trunk_output.block1.block1-0.proj.0", "trunk_output.block1.block1-0.f.a.0"),
    ),
    "regnety_200mf": Dimension(
        ("trunk_output.block1.block1-0.f.se.fc1",),
        (),
        (),
        ("trunk_output.block1.block1-0.f.se.fc2",),
    ),
    "mobilenetv1": Dimension(
        ("features.0.0",),
        ("features.0.1", "features.1.depthwise.1"),
        ("features.1.depthwise.0",),
        ("features.1.pointwise.0",),
    ),
    "mobilenetv2": Dimension(
        ("features.2.conv.0.0",),
        ("features.2.conv.0.1", "features.2.conv.1.1"),
        ("features.2.conv.1.0",),
        ("features.2.conv.2",),
    ),
    "mobilenetv3_small": Dimension(("classifier.0",), (), (), ("classifier.3",)),
    "efficientnet_b0": Dimension(("features.8.0",), ("features.8.1",), (), ("classifier.1",)),
    "shufflenetv2_x1_0": Dimension(
        ("stage2.1.branch2.0",),
        ("stage2.1.branch2.1", "stage2.1.branch2.4"),
        ("stage2.1.branch2.3",),
        ("stage2.1.branch2.5",),
    ),
    "densenet40": Dimension(("features.38.conv",), ("norm",), (), ("fc",)),
}


# Blocks that only deep networks have, in shallow ones.
SHALLOW: dict[str, Callable[[], nn.Module]] = {
    "resnext": lambda: resnet.ResNet(
        resnet.Bottleneck, (1, 1, 1, 1), resnet.STEMS["digits"], 1, 10, groups=32, base_width=4
    ),
    "bottleneck": lambda: resnet_cifar.CifarResNet(resnet_cifar.Bottleneck, 1, DATASETS["digits"], 10),
}


def cut(network: nn.Module, dimension: Dimension, drop: int) -> None:
    """Remove the last `drop` channels of one dimension by hand, as code that changes widths would."""
    for name in (*dimension.makers, *dimension.norms, *dimension.depthwise):
        module = network.get_submodule(name)
        for key, tensor in list(module.named_parameters()):
            setattr(module, key, nn.Parameter(tensor.detach()[:-drop].clone()))
        for key, tensor in list(module.named_buffers()):
            if tensor.dim() > 0:
                setattr(module, key, tensor[:-drop].clone())
        for attribute in ("out_channels", "out_features", "num_features"):
            if hasattr(module, attribute):
                setattr(module, attribute, getattr(module, attribute) - drop)
    for name in dimension.depthwise:
        module = network.get_submodule(name)
        module.in_channels = module.groups = module.out_channels
    for name in dimension.readers:
        module = network.get_submodule(name)
        module.weight = nn.Parameter(module.weight.detach()[:, :-drop].clone())
        attribute = "in_features" if isinstance(module, nn.Linear) else "in_channels"
        setattr(module, attribute, getattr(module, attribute) - drop)


@pytest.fixture(scope="module", params=DIMENSIONS)
def odd_network(request: pytest.FixtureRequest) -> tuple[str, nn.Module]:
    """A network for digits that three channels were cut from, which leaves an odd width."""
    torch.manual_seed(0)
    network = SHALLOW[request.param]() if request.param in SHALLOW else build(request.param, dataset="digits")
    cut(network, DIMENSIONS[request.param], drop=3)
    network.init_weights()
    return request.param, network.eval()


@torch.no_grad()
def test_scripts_and_pickles_at_odd_widths(odd_network: tuple[str, nn.Module]) -> None:
    _, network = odd_network
    images = torch.rand(2, 1, 8, 8)
    expected = network(images)
    assert expected.shape == (2, 10)
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(network), buffer)
    buffer.seek(0)
    torch.testing.assert_close(torch.jit.load(buffer)(images), expected)
    assert torch.equal(pickle.loads(pickle.dumps(network))(images), expected)


# Exporting takes seconds: two networks that have every kind of operation between them.
@pytest.mark.parametrize("name", ["regnety_200mf", "shufflenetv2_x1_0"])
@torch.no_grad()
def test_exports_at_odd_widths(name: str) -> None:
    torch.manual_seed(0)
    network = build(name, dataset="digits").eval()
    cut(network, DIMENSIONS[name], drop=3)
    images = torch.rand(2, 1, 8, 8)
    exported = torch.export.export(network, (images,), strict=False).module()
    torch.testing.assert_close(exported(images), network(images))


def test_init_weights_renews_everything_at_odd_widths(odd_network: tuple[str, nn.Module]) -> None:
    name, network = odd_network
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.fill_(7)
    network.init_weights()
    for key, tensor in network.state_dict().items():
        assert not (tensor == 7).any(), key
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.weight.numel() >= 4000]
    assert convs
    for conv in convs:
        out_channels, in_channels, *kernel = conv.weight.shape
        if name == "shufflenetv2_x1_0":  # uniform within 1 / sqrt(fan-in)
            expected = 1 / math.sqrt(3 * in_channels * math.prod(kernel))
        else:
            expected = math.sqrt(2 / (out_channels * math.prod(kernel)))
        assert conv.weight.std().item() == pytest.approx(expected, rel=0.08)
        assert conv.bias is None or not conv.bias.any()
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        ones, zeros = torch.ones(norm.num_features), torch.zeros(norm.num_features)
        assert torch.equal(norm.weight, ones)
        assert torch.equal(norm.running_var, ones)
        assert torch.equal(norm.bias, zeros)
        assert torch.equal(norm.running_mean, zeros)
        assert norm.num_batches_tracked == 0


def test_init_weights_is_a_function_of_the_seed() -> None:
    network = build("resnet20", dataset="digits")
    torch.manual_seed(3)
    network.init_weights()
    first = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    network.init_weights()
    assert not torch.equal(network.conv1.weight, first["conv1.weight"])
    torch.manual_seed(3)
    network.init_weights()
    assert all(torch.equal(tensor, first[key]) for key, tensor in network.state_dict().items())


def test_a_layer_without_an_initialisation_rule_is_named() -> None:
    network = build("resnet20", dataset="digits")
    network.layer1[0].relu1 = nn.PReLU()
    with pytest.raises(TypeError, match=r"layer1\.0\.relu1.*PReLU"):
        network.init_weights()


def test_reference_hard_swish_is_the_hard_swish() -> None:
    from classification.models.mobilenet_v3 import ReLU6HardSwish

    x = torch.linspace(-6, 6, 101)
    torch.testing.assert_close(ReLU6HardSwish()(x), nn.functional.hardswish(x))


def test_channel_shuffle_interleaves() -> None:
    from classification.models.shufflenet import channel_shuffle

    x = torch.arange(6.0).view(1, 6, 1, 1)
    assert channel_shuffle(x, 2).flatten().tolist() == [0, 3, 1, 4, 2, 5]
