"""Both modes are traced and united; what no run calls keeps its widths, with what may feed it, and is named."""

from __future__ import annotations

import importlib
import importlib.util
import random
import types
import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import core
from core.graph.channels import ChannelGraph, trace_channels
from core.graph.labels import FrozenChannelsWarning, TraceError
from core.surgery.resize import resize
from tests.toys import Net, conv

IMAGE = torch.randn(2, 3, 8, 8)
BOTH = {"evaluation", "training"}


def quiet(net: nn.Module, inputs: Any = IMAGE, **options: Any) -> ChannelGraph:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FrozenChannelsWarning)
        return trace_channels(net, inputs, **options)


def silent(net: nn.Module, inputs: Any = IMAGE, **options: Any) -> ChannelGraph:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return trace_channels(net, inputs, **options)


def halved(net: nn.Module, graph: ChannelGraph) -> nn.Module:
    """A fresh network at half of all widths, in training mode."""
    return resize(net, graph, {group.name: group.size // 2 * group.step for group in graph.groups}, seed=0)


def with_an_auxiliary_head() -> Net:
    def forward(n: Any, x: Tensor) -> Any:
        y = F.relu(n.a(x))
        return (n.head(y), n.aux(y)) if n.training else n.head(y)

    aux = nn.Sequential(conv(16, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 5))
    return Net({"a": conv(3, 16), "head": conv(16, 4), "aux": aux}, forward)


def test_an_auxiliary_head_is_tied_and_its_own_widths_are_free() -> None:
    net = with_an_auxiliary_head()
    graph = silent(net)
    assert graph.widths == {"a": 16, "aux.0": 8}
    assert ("aux.0.weight", 1) in graph.group("a").slots
    assert [len(output.table) for output in graph.outputs] == [4]
    assert [len(output.table) for output in graph.train_outputs] == [4, 5]
    main, aux = halved(net, graph)(IMAGE)
    assert (main.shape, aux.shape) == ((2, 4, 8, 8), (2, 5, 8, 8))
    assert set(graph.verify(net, IMAGE).modes) == BOTH


def test_costs_are_those_of_evaluation_and_parameters_are_all() -> None:
    net = with_an_auxiliary_head()
    graph = silent(net)
    positions = 8 * 8
    assert graph.flops() == positions * (16 * 3 * 9 + 4 * 16 * 9)
    assert graph.flops(convention="paper") == graph.flops()
    assert graph.params() == sum(parameter.numel() for parameter in net.parameters())
    assert graph.flops() == core.graph.complexity.count(net, IMAGE)


def test_the_whole_method_finds_a_network_that_trains() -> None:
    net = with_an_auxiliary_head()
    arch = core.shrink(net, IMAGE, [], None, score="uniform")  # type: ignore[arg-type]
    built = arch.build(net, seed=0)
    main, aux = built(IMAGE)
    (main.square().mean() + aux.square().mean()).backward()
    assert all(parameter.grad is not None for parameter in built.parameters())


def test_a_branch_of_evaluation_alone_is_tied_too() -> None:
    def forward(n: Any, x: Tensor) -> Tensor:
        y = n.a(x)
        return n.c(y) if n.training else n.c(n.b(y))

    graph = silent(Net({"a": conv(3, 8), "b": conv(8, 8), "c": conv(8, 4)}, forward))
    assert graph.widths == {"a": 8}  # in training `c` reads `a`, so that `a` and `b` are one
    assert ("b.weight", 0) in graph.group("a").slots


def test_outputs_may_change_in_both_modes() -> None:
    net = with_an_auxiliary_head()
    graph = silent(net, outputs="free")
    assert graph.widths == {"a": 16, "head": 4, "aux.0": 8, "aux.3": 5}
    assert graph.verify(net, IMAGE) <= 1e-10


def test_taps_and_ties_of_what_only_training_runs() -> None:
    graph = silent(with_an_auxiliary_head(), taps=("aux",), ties=(("a", "a"),))
    assert graph.width_of("aux") == 5
    tied = silent(
        Net({"a": conv(3, 8), "b": conv(3, 8), "c": conv(8, 4)},
            lambda n, x: n.c(n.b(x)) + n.c(n.a(x)) if n.training else n.c(n.a(x))),
        ties=(("a", "b"),),
    )  # fmt: skip
    assert tied.widths == {"a": 8}


def test_gradients_are_on_in_training_as_they_will_be() -> None:
    inner = nn.Sequential(conv(8, 6), nn.ReLU(), conv(6, 8))
    parts = {"a": conv(3, 8), "b": inner, "c": conv(8, 4)}
    asks = Net(parts, lambda n, x: n.c(n.b(n.a(x)) if torch.is_grad_enabled() else n.a(x)))
    saves = Net(
        parts, lambda n, x: n.c(checkpoint(n.b, n.a(x), use_reentrant=False) if n.training else n.a(x))
    )
    for net in (asks, saves):
        graph = silent(net)
        assert graph.widths == {"a": 8, "b.0": 6}
        assert set(graph.verify(net, IMAGE).modes) == BOTH
        assert all(parameter.grad is None for parameter in net.parameters())


def test_deep_supervision_returns_a_list_in_training() -> None:
    def forward(n: Any, x: Tensor) -> Any:
        found = []
        for stage, head in zip(n.stages, n.heads, strict=True):
            x = F.relu(stage(x))
            found.append(head(x))
        return found if n.training else found[-1]

    stages = nn.ModuleList([conv(3, 8), conv(8, 10), conv(10, 12)])
    net = Net({"stages": stages, "heads": nn.ModuleList(conv(width, 2) for width in (8, 10, 12))}, forward)
    graph = silent(net)
    assert graph.widths == {"stages.0": 8, "stages.1": 10, "stages.2": 12}
    assert [len(output.table) for output in graph.train_outputs] == [2, 2, 2]
    assert graph.verify(net, IMAGE) <= 1e-10
    assert len(halved(net, graph)(IMAGE)) == 3


# ---- chance -------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """Skipped in training as `skipped` says."""

    def __init__(self, skipped: Any) -> None:
        super().__init__()
        self.a = conv(8, 6)
        self.b = conv(6, 8)
        self.skipped = skipped

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.skipped():
            return x
        return x + self.b(F.relu(self.a(x)))


SKIPPED = {
    "always": lambda: True,
    "random": lambda: random.random() < 0.5,
    "torch": lambda: bool(torch.rand(1) < 0.5),
    "item": lambda: torch.rand(1).item() < 0.5,
    "numpy": lambda: np.random.rand() < 0.5,  # noqa: NPY002
}


@pytest.mark.parametrize("skipped", SKIPPED)
def test_stochastic_depth_is_seen_whole_and_draws_nothing_from_the_caller(skipped: str) -> None:
    net = nn.Sequential(conv(3, 8), Residual(SKIPPED[skipped]), Residual(SKIPPED[skipped]), conv(8, 4))
    before = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    graph = silent(net)
    assert graph.widths == {"0": 8, "1.a": 6, "2.a": 6}
    assert set(graph.verify(net, IMAGE).modes) == BOTH
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]  # noqa: NPY002


def test_one_of_several_operations_drawn_at_random_is_found_in_further_runs() -> None:
    parts = {"a": conv(3, 8), "one": conv(8, 8), "two": conv(8, 8, 1), "c": conv(8, 4)}
    net = Net(parts, lambda n, x: n.c(random.choice((n.one, n.two))(n.a(x))))
    graph = silent(net)
    assert list(graph.widths.values()) == [8, 8]
    assert {("one.weight", 0), ("two.weight", 0)} <= set(graph.groups[1].slots)


def test_batch_statistics_and_counters_of_the_model_stay() -> None:
    net = nn.Sequential(
        conv(3, 8), nn.BatchNorm2d(8), nn.Dropout(), nn.BatchNorm2d(8, momentum=None), conv(8, 4)
    )
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.eval()
    graph = silent(net)  # momentum=None reads the counter's value, so that the run is made on real tensors
    assert graph.verify(net, IMAGE) <= 1e-10
    assert graph.widths == {"0": 8}
    assert not net.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


def test_a_single_sample_behind_a_global_pooling_is_traced_and_verified_in_training() -> None:
    net = nn.Sequential(conv(3, 8), nn.AdaptiveAvgPool2d(1), conv(8, 6, 1), nn.BatchNorm2d(6), conv(6, 4, 1))
    graph = silent(net, IMAGE[:1])
    assert graph.untrained == ""
    assert set(graph.verify(net, IMAGE[:1]).modes) == BOTH
    looks = Net({"net": net}, lambda n, x: n.net(x) if x.sum() > -1e9 else x)  # on real tensors
    assert quiet(looks, IMAGE[:1]).untrained == ""


def test_synchronised_batch_norm_is_traced_without_a_gpu() -> None:
    net = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), conv(8, 4)))
    graph = silent(net)
    assert graph.widths == {"0": 8}
    assert set(graph.verify(net, IMAGE).modes) == BOTH


def test_a_module_that_defines_its_own_training_mode_is_asked() -> None:
    class Frozen(nn.BatchNorm2d):
        def train(self, mode: bool = True) -> Frozen:
            return super().train(False)

    class Deploying(nn.Module):
        """Runs `aux` in a mode of its own."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.c, self.aux = conv(3, 8), Frozen(8), conv(8, 4), conv(8, 4)
            self.deployed = False

        def train(self, mode: bool = True) -> Deploying:
            self.deployed = not mode
            return super().train(mode)

        def forward(self, x: Tensor) -> Any:
            y = self.norm(self.a(x))
            return self.c(y) if self.deployed else (self.c(y), self.aux(y))

    net = Deploying()
    graph = silent(net)
    assert ("aux.weight", 1) in graph.group("a").slots
    assert not net.deployed
    assert set(graph.verify(net, IMAGE).modes) == BOTH


# ---- what no run calls --------------------------------------------------------------------------------------------


class Block(nn.Module):
    """A convolution, and another one that a switch would call."""

    def __init__(self, switched: bool = False) -> None:
        super().__init__()
        self.a, self.inner, self.b = conv(8, 8), nn.Sequential(conv(8, 6), nn.ReLU(), conv(6, 8)), conv(8, 8)
        self.extra = nn.Sequential(conv(8, 5), nn.ReLU(), conv(5, 8))
        self.switched = switched

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(F.relu(self.a(x)))
        return self.b(self.extra(y) if self.switched else y)


def test_a_branch_that_is_never_taken_keeps_its_widths_and_runs_when_it_is() -> None:
    net = nn.Sequential(conv(3, 7), conv(7, 8), Block(), conv(8, 9), conv(9, 4))
    with pytest.warns(FrozenChannelsWarning) as caught:
        graph = trace_channels(net, IMAGE)
    (warning,) = caught
    assert "no run in evaluation or training mode called '2.extra'" in str(warning.message)
    assert "('2')" in str(warning.message)
    assert warning.filename == __file__
    assert graph.widths == {"0": 7, "2.inner.0": 6, "3": 9}
    built = halved(net, graph)
    built[2].switched = True
    assert built(IMAGE).shape == (2, 4, 8, 8)


def test_all_that_is_never_called_is_named_at_once_and_can_be_taken_away() -> None:
    net = nn.Sequential(conv(3, 8), Block(), Block(), conv(8, 4))
    net.register_parameter("spare", nn.Parameter(torch.zeros(8)))
    with pytest.warns(
        FrozenChannelsWarning, match=r"called 'spare', '1.extra', '2.extra': .*'1', '2'"
    ) as caught:
        assert trace_channels(net, IMAGE).widths == {"1.inner.0": 6, "2.inner.0": 6}
    assert len(caught) == 1
    del net.spare
    net[1].extra = net[2].extra = nn.Identity()
    assert silent(net).widths == {"0": 8, "1.a": 8, "1.inner.0": 6, "1.inner.2": 8, "1.b": 8,
                                  "2.a": 8, "2.inner.0": 6, "2.inner.2": 8, "2.b": 8}  # fmt: skip


def test_parameters_that_are_used_and_tie_nothing_have_been_called() -> None:
    parts = {"a": conv(3, 8), "act": nn.PReLU(), "scale": nn.Parameter(torch.ones(1)), "c": conv(8, 4)}
    parts |= {"power": nn.Parameter(torch.ones(()))}
    net = Net(parts, lambda n, x: n.c(n.act(n.a(x)) * n.scale.exp() + n.power))
    assert silent(net).widths == {"a": 8}


class Experts(nn.Module):
    """Sends every sample to the expert that its gate prefers."""

    def __init__(self, width: int, number: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, number)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 6), nn.ReLU(), nn.Linear(6, width)) for _ in range(number)
        )

    def forward(self, x: Tensor) -> Tensor:
        chosen = self.gate(x).argmax(-1).tolist()
        return torch.stack([self.experts[at](row) for at, row in zip(chosen, x, strict=True)])


def with_experts(number: int) -> nn.Module:
    return nn.Sequential(
        conv(3, 8), nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(), Experts(8, number), nn.Linear(8, 4)
    )


def test_experts_that_were_never_chosen_keep_their_widths() -> None:
    net = with_experts(4)
    with torch.no_grad():
        net[4].gate.bias[3] = -1e9  # the last one never is
    with pytest.warns(FrozenChannelsWarning, match=r"called '4.experts.*3': .*'4'"):
        graph = trace_channels(net, torch.randn(16, 3, 8, 8))
    built = halved(net, graph)
    with torch.no_grad():
        built[4].gate.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 1e9]))
    assert built(IMAGE).shape == (2, 4)


def test_an_early_exit_that_is_taken_leaves_the_rest_as_it_is() -> None:
    def forward(n: Any, x: Tensor) -> Tensor:
        y = n.a(x)
        early = n.early(y)
        return early if early.mean() < 1e9 or n.waits else n.late(n.b(y))

    net = Net({"a": conv(3, 8), "early": conv(8, 4), "b": conv(8, 8), "late": conv(8, 4)}, forward)
    net.waits = False
    graph = silent(net)  # the branch that no value chooses is taken as well
    assert graph.widths == {"a": 8, "b": 8}


def test_an_early_exit_that_is_not_taken_keeps_what_it_would_return() -> None:
    def forward(n: Any, x: Tensor) -> Tensor:
        y = n.a(x)
        for number, (exit, block) in enumerate(zip(n.exits, n.blocks, strict=True)):
            early = exit(y.mean((2, 3)))
            if not n.training and early.softmax(-1).max() > 0.99 + number:
                return early
            y = block(y)
        return n.late(y.mean((2, 3)))

    exits = nn.ModuleList([nn.Linear(8, 5), nn.Linear(6, 5)])
    blocks = nn.ModuleList([conv(8, 6), conv(6, 7)])
    net = Net({"a": conv(3, 8), "exits": exits, "blocks": blocks, "late": nn.Linear(7, 5)}, forward)
    graph = silent(net)
    assert graph.widths == {"a": 8, "blocks.0": 6, "blocks.1": 7}


def test_a_number_that_is_read_off_an_activation_is_said() -> None:
    net = Net(
        {"a": conv(3, 8), "c": conv(8, 4)}, lambda n, x: n.c(y if float((y := n.a(x)).mean()) < 1e9 else -y)
    )
    with pytest.warns(FrozenChannelsWarning, match="'__float__' reads a number off an activation") as caught:
        assert trace_channels(net, IMAGE).widths == {"a": 8}
    assert len(caught) == 1
    drawn = Net({"a": conv(3, 8), "c": conv(8, 4)}, lambda n, x: n.c(n.a(x) * (torch.rand(()).item() < 0.5)))
    assert silent(drawn).widths == {"a": 8}


def test_more_decisions_than_are_tried_are_said() -> None:
    def forward(n: Any, x: Tensor) -> Tensor:
        y = n.a(x)
        for _ in range(9):
            y = y / 2 if y.abs().max() > 1e9 else y
        return n.c(y)

    with pytest.warns(FrozenChannelsWarning, match="chooses branches by values 9 times in evaluation mode"):
        trace_channels(Net({"a": conv(3, 8), "c": conv(8, 4)}, forward), IMAGE)


def test_a_network_that_does_not_train_on_the_inputs_says_so_once_and_is_safe() -> None:
    def forward(n: Any, x: Tensor, target: Tensor | None = None) -> Any:
        y = n.a(x)
        if not n.training:
            return n.c(y)
        assert target is not None, "targets are needed in training"
        return {"loss": (n.aux(y) - target).square().mean()}

    net = Net({"a": conv(3, 8), "c": conv(8, 4), "aux": conv(8, 5)}, forward)
    with pytest.warns(FrozenChannelsWarning) as caught:
        graph = trace_channels(net, IMAGE)
    told = [str(item.message) for item in caught]
    assert any("does not run in training mode" in one and "targets are needed" in one for one in told)
    assert any("called 'aux'" in one for one in told)
    assert len(told) == 2
    assert graph.widths == {}
    assert "targets are needed" in graph.untrained
    assert set(graph.verify(net, IMAGE).unchecked) == {"training"}
    inputs = IMAGE, torch.randn(2, 5, 8, 8)
    graph = quiet(net, inputs)  # which keeps as many channels as the targets have
    assert graph.widths == {"a": 8}
    assert graph.verify(net, inputs) <= 1e-10


def test_what_cannot_be_tied_in_training_alone_is_an_error_with_its_remedy() -> None:
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, x: Tensor) -> Tensor:
            return torch.from_numpy(x.numpy() * 2)

    class Head(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Twice.apply(x)

    parts = {"a": conv(3, 8), "c": conv(8, 4), "aux": Head()}
    net = Net(parts, lambda n, x: (n.c(y := n.a(x)), n.aux(y)) if n.training else n.c(n.a(x)))
    with pytest.raises(TraceError, match="unknown origin"):
        quiet(net)
    assert quiet(net, freeze=("aux",)).widths == {}


def test_what_a_frozen_module_is_given_by_name_stays_too() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(8, 6)

        def forward(self, *, image: Tensor) -> Tensor:
            return self.conv(image)

    net = Net({"a": conv(3, 8), "m": Named(), "c": conv(6, 4)}, lambda n, x: n.c(n.m(image=n.a(x))))
    assert silent(net, freeze=("m",)).widths == {}


# ---- networks of others -------------------------------------------------------------------------------------------


def torchvision_models() -> types.ModuleType:
    from super_resolution.torchvision_shim import make_importable

    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    make_importable()
    return importlib.import_module("torchvision").models


@pytest.mark.parametrize(("name", "size"), [("googlenet", 64), ("inception_v3", 96)])
def test_auxiliary_classifiers_of_torchvision(name: str, size: int) -> None:
    models = torchvision_models()
    torch.manual_seed(0)
    net = getattr(models, name)(weights=None, aux_logits=True, init_weights=False, num_classes=10)
    image = torch.rand(2, 3, size, size)
    if name == "inception_v3":  # its auxiliary classifier needs 299 pixels
        image = torch.rand(2, 3, 299, 299)
    graph = silent(net, image)
    assert any("aux" in group.name.lower() for group in graph.groups)
    with torch.no_grad():
        outputs = halved(net, graph)(image)
    assert len(outputs) >= 2


@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_resnet50"])
def test_segmentation_with_an_auxiliary_head(name: str) -> None:
    models = torchvision_models()
    torch.manual_seed(0)
    net = getattr(models.segmentation, name)(
        weights=None, weights_backbone=None, aux_loss=True, num_classes=3
    )
    image = torch.rand(1, 3, 32, 32)
    graph = quiet(net, image, outputs="freeze")
    assert graph.untrained == ""
    assert "aux_classifier.0" in graph.widths
    proof = graph.verify(net, image)
    assert proof <= 1e-10
    assert set(proof.modes) == BOTH


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_stochastic_depth_of_timm(name: str, timm: types.ModuleType) -> None:
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=10, drop_path_rate=0.5, drop_rate=0.2)
    image = torch.rand(2, 3, 32, 32)
    graph = silent(net, image)
    assert set(graph.verify(net, image).modes) == BOTH


class Backbone(nn.Module):
    """Two levels, as torchvision's detectors want them."""

    def __init__(self) -> None:
        super().__init__()
        self.out_channels = 8
        self.stem = nn.Sequential(conv(3, 10), nn.BatchNorm2d(10), nn.ReLU(), nn.MaxPool2d(4))
        self.fine, self.coarse = conv(10, 8), conv(8, 8)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        fine = self.fine(self.stem(x))
        return {"0": fine, "1": self.coarse(F.max_pool2d(fine, 2))}


def a_retinanet() -> nn.Module:
    models = torchvision_models()
    anchors = models.detection.anchor_utils.AnchorGenerator(((16,), (32,)), ((1.0,),) * 2)
    torch.manual_seed(0)
    return models.detection.RetinaNet(Backbone(), 3, anchor_generator=anchors, min_size=64, max_size=96)


def test_a_detector_of_torchvision_with_targets_and_the_loss_dictionary() -> None:
    net = a_retinanet()
    images = [torch.rand(3, 64, 64), torch.rand(3, 64, 80)]
    targets = [{"boxes": torch.tensor([[5.0, 5.0, 40.0, 30.0]]), "labels": torch.tensor([1])} for _ in images]
    inputs = images, targets
    arch = None
    with pytest.warns(FrozenChannelsWarning):
        arch = core.shrink(
            net, inputs, [(inputs, None)], lambda losses, _: sum(losses.values()), outputs="freeze",
            score="gradient", budget=core.Budget(flops=0.7),
        )  # fmt: skip
    assert set(arch.widths) >= {"backbone.stem.0", "backbone.fine"}
    built = core.Architecture.from_json(arch.to_json()).build(net, seed=0)
    losses = built(*inputs)
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in built.parameters())
    graph = quiet(net, inputs, outputs="freeze")
    proof = graph.verify(net, inputs)
    assert proof <= 1e-10
    assert "training" in proof.modes


def test_the_raw_head_outputs_of_a_detector() -> None:
    """The documented way where torchvision's own operators are missing."""

    class Raw(nn.Module):
        def __init__(self, detector: nn.Module) -> None:
            super().__init__()
            self.backbone, self.head = detector.backbone, detector.head

        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return self.head(list(self.backbone(images).values()))  # type: ignore[operator]

    net, image = Raw(a_retinanet()), torch.rand(1, 3, 64, 64)
    graph = quiet(net, image, outputs="freeze")
    assert set(graph.widths) >= {"backbone.stem.0", "backbone.fine"}
    assert graph.verify(net, image) <= 1e-10
