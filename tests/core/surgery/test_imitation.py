"""With a network alone, its code and its values show how networks of other widths start; real libraries' modules."""

from __future__ import annotations

import importlib
import logging
import math
import types
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from core.graph.channels import trace_channels
from core.surgery.distributions import look
from core.surgery.imitation import rules_of
from core.surgery.initialise import UnknownStartWarning, initialise_, seeded, unknown_start
from core.surgery.resize import resize

IMAGE = torch.zeros(1, 3, 32, 32)


def fresh(factory: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with seeded(seed):
        return factory()


def narrower(model: nn.Module, image: Tensor = IMAGE, *, known: bool = True) -> nn.Module:
    """The network at three quarters of its widths."""
    graph = trace_channels(model, image)
    widths = {group.name: group.step * max(1, 3 * group.size // 4) for group in graph.groups}
    with warnings.catch_warnings():
        warnings.simplefilter("error" if known else "ignore", UnknownStartWarning)
        return resize(model, graph, widths, seed=1)


def close(tensor: Tensor, std: float) -> bool:
    return abs(tensor.std().item() / std - 1) < 5 / math.sqrt(2 * tensor.numel())


def fan_in(weight: Tensor) -> int:
    return weight[0].numel()


@pytest.fixture
def _quiet_mmengine() -> Iterator[None]:
    """mmengine logs how every parameter was initialised."""
    logger = importlib.import_module("mmengine.logging").MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


def mmengine_network(init_cfg: list[dict[str, object]]) -> nn.Module:
    base = importlib.import_module("mmengine.model").BaseModule

    class Net(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__(init_cfg)
            self.a, self.norm, self.b = nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.Conv2d(32, 48, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.norm(self.a(x)).relu()).mean((2, 3))

    return Net()


CONFIGURATION: list[dict[str, object]] = [
    {"type": "Normal", "layer": "Conv2d", "std": 0.01, "bias": 0.3},
    {"type": "Constant", "layer": "BatchNorm2d", "val": 0.5},
]


@pytest.mark.usefixtures("_quiet_mmengine")
def test_mmengines_modules_start_a_second_time() -> None:
    net = fresh(lambda: mmengine_network(CONFIGURATION))
    net.init_weights()
    other = narrower(net)
    assert other.a.weight.shape == (24, 3, 3, 3)
    assert close(other.a.weight, 0.01)
    assert close(other.b.weight, 0.01)
    assert torch.equal(other.norm.weight, torch.full((24,), 0.5))
    assert torch.equal(other.a.bias, torch.full((24,), 0.3))
    assert other.is_init


@pytest.mark.usefixtures("_quiet_mmengine")
def test_mmengines_modules_that_have_not_started_still_can() -> None:
    net = fresh(lambda: mmengine_network(CONFIGURATION))
    other = narrower(net)
    assert close(
        other.b.weight, 1 / math.sqrt(3 * fan_in(other.b.weight))
    )  # as torch left it, like the instance
    assert torch.equal(other.norm.weight, torch.ones(24))
    assert not other.is_init
    other.init_weights()
    assert close(other.b.weight, 0.01)


@pytest.mark.usefixtures("basicsr")
def test_basicsrs_networks() -> None:
    edsr = importlib.import_module("basicsr.archs.edsr_arch").EDSR
    other = edsr(3, 3, num_feat=24, num_block=3, upscale=2)
    initialise_(other, like=fresh(lambda: edsr(3, 3, num_feat=32, num_block=3, upscale=2)), seed=1)
    assert unknown_start(other) == {}
    for block in other.body:
        for layer in (block.conv1, block.conv2):
            assert close(layer.weight, 1 / math.sqrt(3 * fan_in(layer.weight)))
    srresnet = importlib.import_module("basicsr.archs.srresnet_arch").MSRResNet
    other = narrower(
        fresh(lambda: srresnet(3, 3, num_feat=32, num_block=3, upscale=4)), torch.zeros(1, 3, 12, 12)
    )
    layers = [other.conv_first, *(conv for block in other.body for conv in (block.conv1, block.conv2))]
    for layer in layers:
        assert close(layer.weight, 0.1 * math.sqrt(2 / fan_in(layer.weight)))
        assert torch.equal(layer.bias, torch.zeros_like(layer.bias))


@pytest.mark.parametrize("zero", [True, False])
def test_a_constant_is_the_instances_own(zero: bool, timm: types.ModuleType) -> None:
    """timm's ResNets zero the last norm of every block when their `init_weights()` is called once more."""
    other = narrower(fresh(lambda: timm.create_model("resnet18", zero_init_last=zero, num_classes=10)))
    lasts = [module.weight for name, module in other.named_modules() if name.endswith("bn2")]
    assert len(lasts) == 8
    assert all(bool((weight == (0.0 if zero else 1.0)).all()) for weight in lasts)


STARTS: dict[str, Callable[[str, nn.Module], float | None]] = {
    "mobilenetv2_100": lambda name, layer: (
        1 / math.sqrt(3 * layer.weight.shape[0])
        if isinstance(layer, nn.Linear)
        else math.sqrt(2 * layer.groups / (layer.weight.shape[0] * layer.weight[0, 0].numel()))
    ),
    "efficientnet_lite0": lambda name, layer: (
        1 / math.sqrt(3 * layer.weight.shape[0])
        if isinstance(layer, nn.Linear)
        else math.sqrt(2 * layer.groups / (layer.weight.shape[0] * layer.weight[0, 0].numel()))
    ),
    "repvgg_a0": lambda name, layer: (
        0.01
        if isinstance(layer, nn.Linear)
        else math.sqrt(2 / (layer.weight.shape[0] * layer.weight[0, 0].numel()))
    ),
    "inception_v3": lambda name, layer: 0.1,
    "levit_128s": lambda name, layer: 0.02 if name.startswith("head.linear") else None,
}


@pytest.mark.parametrize("name", STARTS)
def test_timms_networks(name: str, timm: types.ModuleType) -> None:
    size = 224 if name == "levit_128s" else 128
    model = fresh(lambda: timm.create_model(name, num_classes=100))
    other = narrower(model, torch.zeros(1, 3, size, size))
    seen = 0
    for module_name, layer in other.named_modules():
        if (
            isinstance(layer, (nn.Conv2d, nn.Linear))
            and (std := STARTS[name](module_name, layer)) is not None
        ):
            seen += 1
            assert close(layer.weight, std), module_name
    assert seen
    constants = {key for key, value in model.named_parameters() if not look(value).std}
    assert constants
    for key in constants:
        value = model.get_parameter(key).flatten()[0]
        assert bool((other.get_parameter(key) == value).all()), key


def test_a_constructor_counts_more_than_init_weights() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.Conv2d(32, 48, 3)
            self.init_weights()
            nn.init.zeros_(self.norm.weight)
            nn.init.normal_(self.b.weight, std=0.05)

        def init_weights(self) -> None:
            for layer in (self.a, self.b):
                nn.init.kaiming_normal_(layer.weight)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.norm(self.a(x)).relu()).mean((2, 3))

    other = narrower(fresh(Net))
    assert close(other.a.weight, math.sqrt(2 / 27))
    assert close(other.b.weight, 0.05)
    assert torch.equal(other.norm.weight, torch.zeros(24))


def test_init_weights_that_needs_arguments_is_not_called() -> None:
    class Net(nn.Sequential):
        def init_weights(self, checkpoint: str) -> None:
            raise AssertionError("called")

    other = narrower(fresh(lambda: Net(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 8, 3))))
    assert close(other[0].weight, 1 / math.sqrt(3 * 27))


def test_the_rule_that_fits_all_layers_is_taken_where_one_fits_two() -> None:
    """Fan in equals fan out in the second layer: the others tell which it is."""
    net = fresh(lambda: nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.Conv2d(32, 64, 3)))
    for layer in net:
        nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    other = narrower(net)
    for layer in other:
        assert close(layer.weight, math.sqrt(2 / (9 * layer.weight.shape[0])))


def test_what_is_not_known_is_said_in_one_warning() -> None:
    net = fresh(lambda: nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.Conv2d(32, 8, 3)))
    with torch.no_grad():
        net[1].weight.copy_(torch.distributions.Gamma(0.2, 1.0).sample(net[1].weight.shape))
    graph = trace_channels(net, IMAGE)
    with pytest.warns(UnknownStartWarning) as caught:
        other = resize(net, graph, {"1": 20}, seed=1)
    assert len(caught) == 1
    assert str(caught[0].message).startswith(
        "1 tensors of Sequential may start otherwise than the baseline's (1.weight"
    )
    assert list(unknown_start(other)) == ["1.weight"]
    assert close(other[1].weight, 1 / math.sqrt(3 * 288))  # as the layer starts by itself


def test_stored_weights_are_no_rule() -> None:
    stored = torch.randn(32, 3, 3, 3, generator=torch.Generator().manual_seed(5))

    class Net(nn.Sequential):
        def init_weights(self) -> None:
            if self[0].weight.shape == stored.shape:
                self[0].weight.data.copy_(stored)

    net = fresh(lambda: Net(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 8, 3)))
    net.init_weights()
    other = narrower(net, known=False)
    assert unknown_start(other) == {"0.weight": "init_weights() gives the very same values: they are stored"}


def test_a_table_in_a_buffer_is_not_known_at_another_width() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 4, 3)
            self.register_buffer("slope", torch.linspace(0.1, 1.0, 12).view(-1, 1, 1))
            self.register_buffer("shift", torch.full((12, 1, 1), 0.5))

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x) * self.slope + self.shift)

    net = fresh(Net)
    graph = trace_channels(net, IMAGE)
    with pytest.warns(UnknownStartWarning, match="slope"):
        other = resize(net, graph, {"a": 9}, seed=1)
    assert list(unknown_start(other)) == ["slope"]
    other = resize(net, graph, {"a": 9}, factory=Net, seed=1)  # the factory makes one of nine values
    assert unknown_start(other) == {}
    assert torch.equal(other.slope, torch.linspace(0.1, 1.0, 9).view(-1, 1, 1))


def test_rules_are_read_anew_once_values_have_changed() -> None:
    net = fresh(lambda: nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 8, 3)))
    assert rules_of(net)["0.weight"].how == "init"
    assert rules_of(net) is rules_of(net)
    nn.init.normal_(net[0].weight, std=0.02)
    assert rules_of(net)["0.weight"].how == "drawn"


def test_networks_without_values_need_no_rule() -> None:
    with torch.device("meta"):
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3))
    initialise_(net, like=net)
    assert unknown_start(net) == {}


class Attention(nn.Module):
    """A map of one channel, and one number."""

    def __init__(self, number: float | None) -> None:
        super().__init__()
        self.a, self.map, self.b = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 1, 1), nn.Conv2d(32, 8, 3)
        self.number = nn.Parameter(torch.randn(1) if number is None else torch.tensor([number]))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b(y * self.map(y).sigmoid() * self.number)


def test_a_single_value_starts_as_its_layer_does() -> None:
    net = fresh(lambda: Attention(0.125))
    biases = {
        resize(net, trace_channels(net, IMAGE), {"a": 24}, seed=seed).map.bias.item() for seed in range(4)
    }
    assert len(biases) == 4  # drawn, and not the baseline's own
    assert net.map.bias.item() not in biases
    assert max(map(abs, biases)) <= 1 / math.sqrt(24)
    other = narrower(net)
    assert unknown_start(other) == {}
    assert other.number.item() == 0.125


def test_a_single_value_that_nothing_explains_is_not_known() -> None:
    net = fresh(lambda: Attention(None))
    other = narrower(net, known=False)
    assert unknown_start(other) == {"number": "one value does not show whether it is drawn or fixed"}
    assert torch.equal(other.number, net.number)
    pair = fresh(lambda: nn.Sequential(Attention(math.log(7)), nn.Conv2d(8, 3, 1), Attention(math.log(7))))
    other = narrower(pair)  # two of one value are not drawn
    assert unknown_start(other) == {}
    assert torch.equal(other[0].number, pair[0].number)


@pytest.mark.parametrize("form", ["parametrization", "hook"])
def test_lengths_of_weight_norm_are_those_of_the_new_rows(form: str) -> None:
    def factory() -> nn.Module:
        put_on = parametrizations.weight_norm if form == "parametrization" else nn.utils.weight_norm
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return nn.Sequential(*(put_on(layer) for layer in (nn.Conv2d(3, 32, 3), nn.Conv2d(32, 8, 3))))

    net = fresh(factory)
    other = narrower(net)
    assert unknown_start(other) == {}
    for layer in other:
        fan = layer.weight[0].numel()
        assert close(layer.weight, 1 / math.sqrt(3 * fan))  # as torch starts a convolution


def test_a_layer_whose_own_code_refuses_its_sizes_is_named() -> None:
    class Picky(nn.Linear):
        def reset_parameters(self) -> None:
            if self.weight.shape != (8, 32):
                raise ValueError("eight rows")
            nn.init.normal_(self.weight, std=0.3)
            nn.init.zeros_(self.bias)

    def factory() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 32, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), Picky(32, 8))

    net = fresh(factory)
    other = narrower(net, known=False)
    assert "3.weight" in unknown_start(other)
    assert bool(other[3].weight.isfinite().all())
