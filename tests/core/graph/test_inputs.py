"""What a network may be given and may return, the wrappers it may lie in, and the hooks that it may carry."""

from __future__ import annotations

import json
import types
import warnings
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.optim.swa_utils import AveragedModel

import core
from core.errors import UserError
from core.graph.channels import ChannelGraph, trace_channels
from core.graph.complexity import count
from core.modules import bare, map_tensors, tensors_in
from core.surgery.architecture import describe_inputs, example_inputs
from core.surgery.resize import resize
from tests.toys import Net, conv

IMAGE = torch.randn(2, 3, 8, 8)


def silent(net: nn.Module, inputs: Any = IMAGE, **options: Any) -> ChannelGraph:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return trace_channels(net, inputs, **options)


# ---- inputs -------------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    image: Tensor
    scale: Any


@dataclass(frozen=True)
class Batch:
    image: Tensor
    levels: list[Tensor]
    name: str = "batch"


def pair(forward: Any) -> Net:
    return Net({"a": conv(3, 8), "c": conv(8, 4)}, forward)


def emptied(n: Any, images: list[Tensor], extra: Any = None) -> Tensor:
    first = images.pop(0)
    images.append(first * 0)
    return n.c(n.a(first))


INPUTS: dict[str, tuple[Any, Any]] = {
    "tensor": (IMAGE, lambda n, x: n.c(n.a(x))),
    "none": ((IMAGE, None), lambda n, x, mask: n.c(n.a(x) if mask is None else mask)),
    "number": ((IMAGE, 16, 0.5, True, "name"), lambda n, x, s, f, flag, name: n.c(n.a(x) * s * f)),
    "list": (([IMAGE, IMAGE], None), emptied),
    "named": ({"x": IMAGE, "levels": [IMAGE], "size": (8, 8)},
              lambda n, x, levels, size: n.c(F.interpolate(n.a(x + levels[0]), size=size))),
    "dictionary": (({"image": IMAGE, "id": 3},), lambda n, batch: n.c(n.a(batch["image"]))),
    "named tuple": (Pair(IMAGE, 2.0), lambda n, batch: n.c(n.a(batch.image) * batch[1])),
    "named tuple among others": ((Pair(IMAGE, None), 1), lambda n, batch, one: n.c(n.a(batch.image))),
    "dataclass": ((Batch(IMAGE, [IMAGE]),), lambda n, batch: n.c(n.a(batch.image + batch.levels[0]))),
    "images of a detector": (([IMAGE[0], IMAGE[1]], [{"boxes": torch.rand(1, 4), "labels": torch.ones(1)}] * 2),
                             lambda n, images, targets: n.c(n.a(torch.stack(images)))),
}  # fmt: skip


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_of_any_structure(name: str) -> None:
    inputs, forward = INPUTS[name]
    net = pair(forward)
    lengths = [len(item) for item in inputs if isinstance(item, list)]
    values = [tensor.clone() for tensor in tensors_in(inputs)]
    graph = silent(net, inputs)
    assert graph.widths == {"a": 8}
    assert graph.verify(net, inputs) <= 1e-10
    batches = [(inputs, torch.rand(2, 4, 8, 8))]
    found = core.shrink(
        net, inputs, batches, F.mse_loss, score="gradient", widen=2.0, budget=core.Budget(flops=0.8)
    )
    loaded = core.Architecture.from_json(json.loads(json.dumps(found.to_json())))
    assert loaded.build(net, seed=0).a.weight.shape[0] == found.widths["a"]
    assert [len(item) for item in inputs if isinstance(item, list)] == lengths
    assert all(torch.equal(a, b) for a, b in zip(tensors_in(inputs), values, strict=True))


def test_a_description_gives_the_structure_back() -> None:
    inputs = (
        IMAGE,
        None,
        3,
        0.5,
        True,
        "a",
        [IMAGE, (IMAGE,)],
        {"b": [1]},
        Pair(IMAGE, None),
        Batch(IMAGE, [], "c"),
    )
    found = example_inputs(json.loads(json.dumps(describe_inputs(inputs))))
    assert isinstance(found, tuple)
    assert found[1:6] == (None, 3, 0.5, True, "a")
    assert type(found[4]) is bool
    assert (type(found[6]), type(found[6][1]), found[7]) == (list, tuple, {"b": [1]})
    assert found[8]._fields == Pair._fields
    assert found[8].scale is None
    assert found[9].name == "c"
    assert [tensor.shape for tensor in tensors_in(found)] == [tensor.shape for tensor in tensors_in(inputs)]
    assert all(tensor.is_meta for tensor in tensors_in(found))


def test_what_no_file_can_hold_is_named() -> None:
    with pytest.raises(UserError, match="hold a set"):
        describe_inputs((IMAGE, {1}))
    with pytest.raises(UserError, match="key 1: use strings"):
        describe_inputs({"x": {1: IMAGE}})
    with pytest.raises(UserError, match="'inputs' is damaged"):
        core.Architecture.from_json(
            {"model": "m", "widths": {}, "inputs": {"tuple": {"import os": {"value": 1}}}}
        )


def test_containers_keep_their_types_and_are_new() -> None:
    class Output(OrderedDict):  # type: ignore[type-arg]
        """As in transformers: items are attributes, too."""

        def __setitem__(self, key: str, value: Any) -> None:
            super().__setitem__(key, value)
            super().__setattr__(key, value)

    output = Output(logits=IMAGE, hidden=(IMAGE, [IMAGE]), loss=None)
    value = [
        output,
        Batch(IMAGE, [IMAGE]),
        Pair(IMAGE, 3),
        {"n": 4},
        torch.Size([2, 3]),
        namedtuple("Empty", "")(),
    ]
    mapped = map_tensors(value, lambda tensor: tensor + 1)
    assert [type(item) for item in mapped] == [type(item) for item in value]
    assert len(tensors_in(mapped)) == len(tensors_in(value)) == 6
    assert torch.equal(mapped[0].logits, IMAGE + 1)
    assert torch.equal(mapped[1].levels[0], IMAGE + 1)
    assert mapped[1].name == "batch"
    assert mapped[4] == torch.Size([2, 3])
    assert torch.equal(output.logits, value[1].image)
    assert mapped[0] is not output


OUTPUTS = {
    "dictionary": lambda n, x: {"out": n.c(y := n.a(x)), "features": [y], "size": 3},
    "nested": lambda n, x: [(n.c(y := n.a(x)), None), {"a": {"b": y}}],
    "named tuple": lambda n, x: Pair(n.c(y := n.a(x)), y),
    "dataclass": lambda n, x: Batch(n.c(y := n.a(x)), [y]),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_of_any_structure(name: str) -> None:
    net = pair(OUTPUTS[name])
    assert silent(net, outputs="freeze").widths == {}
    graph = silent(net, outputs="free")
    assert graph.widths == {"a": 8, "c": 4}
    assert graph.verify(net, IMAGE) <= 1e-10


def test_integer_outputs_are_compared_exactly() -> None:
    net = pair(lambda n, x: (n.c(y := n.a(x)), y.mean((1, 2, 3)) > 0, x.argmax(1)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = trace_channels(net, IMAGE, outputs="freeze")
    assert graph.verify(net, IMAGE) <= 1e-10


def test_a_network_may_write_into_its_input() -> None:
    net = nn.Sequential(nn.ReLU(inplace=True), conv(3, 8), nn.ReLU(inplace=True), conv(8, 4))
    image = IMAGE.clone()
    assert silent(net, image).verify(net, image) <= 1e-10
    assert torch.equal(image, IMAGE)


# ---- wrappers -----------------------------------------------------------------------------------------------------


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 4))


WRAPPERS = {"compiled": torch.compile, "DataParallel": nn.DataParallel, "averaged": AveragedModel,
            "twice": lambda net: nn.DataParallel(torch.compile(net))}  # fmt: skip


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_is_taken_off(name: str) -> None:
    net = plain()
    wrapped: Any = WRAPPERS[name](net)
    graph = silent(wrapped)
    assert graph.widths == {"0": 8}
    assert graph.verify(wrapped, IMAGE) <= 1e-10
    arch = core.shrink(wrapped, IMAGE, [], None, score="uniform", widen=1.0, budget=core.Budget(flops=0.8))  # type: ignore[arg-type]
    for given in (net, wrapped):
        built = arch.build(given, seed=0)
        assert type(built) is nn.Sequential
        assert built[0].out_channels == arch.widths["0"] < 8


def test_wrappers_of_several_processes_are_taken_off(tmp_path: Path) -> None:
    from lightning_fabric import Fabric

    net = plain()
    assert bare(Fabric(accelerator="cpu").setup(net)) is net
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(net)
        graph = silent(wrapped)
        assert graph.widths == {"0": 8}
        assert graph.verify(wrapped, IMAGE) <= 1e-10
        assert type(core.widen(wrapped, graph, 1.5)) is nn.Sequential
        assert count(wrapped, IMAGE) == graph.flops()
    finally:
        distributed.destroy_process_group()


def test_a_module_that_was_compiled_in_place_is_traced_and_its_copies_are_not_compiled() -> None:
    net = plain()
    net.compile()
    graph = silent(net)
    assert graph.widths == {"0": 8}
    built = resize(net, graph, {"0": 5}, seed=0)
    assert built._compiled_call_impl is None
    assert built(IMAGE).shape == (2, 4, 8, 8)


def test_what_has_no_bare_module_is_refused_in_one_line_before_anything_is_scored() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is going out of fashion
        scripted = torch.jit.script(plain())
        traced = torch.jit.trace(plain().eval(), IMAGE)
    exported = torch.export.export(plain().eval(), (IMAGE,))
    lazy = nn.Sequential(nn.LazyConv2d(8, 3), conv(8, 4))
    part = nn.Sequential(torch.compile(conv(3, 8)), conv(8, 4))
    cases = [
        (scripted, "TorchScript"), (traced, "TorchScript"), (exported, "ExportedProgram"),
        (exported.module(), "exported program"), (part, "'0' is wrapped by OptimizedModule"), (lazy, "'0' is lazy"),
        (lambda x: x, "function"), (plain().state_dict(), "OrderedDict"),
    ]  # fmt: skip
    for model, words in cases:

        def batches() -> Any:
            pytest.fail("a batch was read")
            yield

        with pytest.raises(UserError, match=words) as error:
            core.shrink(model, IMAGE, batches(), F.mse_loss)  # type: ignore[arg-type]
        assert "\n" not in str(error.value)
        assert "bare module" in str(error.value) or "call the model once" in str(error.value)
    lazy(IMAGE)
    assert silent(lazy).widths == {"0": 8}


def test_a_symbolically_traced_network_is_one_as_any() -> None:
    net = torch.fx.symbolic_trace(plain())
    graph = silent(net)
    assert graph.widths == {"0": 8}
    assert graph.verify(net, IMAGE) <= 1e-10
    assert resize(net, graph, {"0": 5}, seed=0)(IMAGE).shape == (2, 4, 8, 8)
    assert bare(net) is net


# ---- hooks --------------------------------------------------------------------------------------------------------


class Features(nn.Module):
    """Reads features that hooks left behind, in one of the ways in which people write it."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 6))
        self.head, self.side = conv(6, 4), conv(8, 4)
        self.kept: dict[str, Tensor] = {}
        kept = self.kept
        layer = self.body[0]
        if way == "closure over a dictionary":
            layer.register_forward_hook(lambda module, inputs, output: kept.__setitem__("x", output))
        elif way == "closure over the model":

            def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
                self.kept["x"] = output

            layer.register_forward_hook(hook)
        elif way == "method":
            layer.register_forward_hook(self.keep)
        elif way == "partial":
            layer.register_forward_hook(partial(self.keep_as, "x"))
        else:
            self.body[1].register_forward_pre_hook(lambda module, inputs: kept.update(x=inputs[0]))

    def keep(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.kept["x"] = output

    def keep_as(self, name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.kept[name] = output

    def forward(self, x: Tensor) -> Tensor:
        self.kept.clear()
        y = self.head(self.body(x))
        return y + self.side(self.kept["x"])


WAYS = ["closure over a dictionary", "closure over the model", "method", "partial", "before"]


@pytest.mark.parametrize("way", WAYS)
def test_hooks_that_store_features_belong_to_the_copy(way: str) -> None:
    net = Features(way)
    graph = silent(net)
    assert graph.widths == {"body.0": 8, "body.2": 6}
    assert not net.kept
    assert graph.verify(net, IMAGE) <= 1e-10
    batches = [(IMAGE, torch.rand(2, 4, 8, 8))]
    arch = core.shrink(net, IMAGE, batches, F.mse_loss, budget=core.Budget(flops=0.8))
    built = arch.build(net, seed=0)
    assert built(IMAGE).shape == (2, 4, 8, 8)
    assert built.kept["x"].shape[1] == arch.widths["body.0"]
    assert not net.kept


def test_hooks_that_replace_an_output() -> None:
    net = plain()
    other = conv(8, 8)
    net.other = other
    net[0].register_forward_hook(lambda module, inputs, output: other(output) * 2)
    net.forward = lambda x: net[3](net[2](net[1](net[0](x))))  # type: ignore[method-assign]
    graph = silent(net)
    assert graph.widths == {"0": 8, "other": 8}
    assert graph.verify(net, IMAGE) <= 1e-10
    built = resize(net, graph, {"0": 5, "other": 3}, seed=0)
    assert built(IMAGE).shape == (2, 4, 8, 8)
    built.other.weight.data.zero_()
    assert not torch.equal(net(IMAGE), built(IMAGE))


def test_hooks_of_others_stay_with_the_model() -> None:
    seen: list[torch.Size] = []
    net = plain()
    net[0].register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    assert silent(net).widths == {"0": 8}
    assert seen


# ---- warnings -----------------------------------------------------------------------------------------------------


def test_shrinking_a_network_of_timm_warns_a_handful_of_times_at_most(timm: types.ModuleType) -> None:
    net = timm.create_model("convnextv2_atto", num_classes=10)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        core.shrink(net, torch.zeros(1, 3, 32, 32), [], None, score="uniform", widen=1.0,
                    budget=core.Budget(flops=0.99))  # type: ignore[arg-type]  # fmt: skip
    assert len(caught) <= 2
    assert all(item.filename == __file__ for item in caught)


class Mean(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return torch.cdist(y.flatten(2), y.flatten(2)).mean(2)[:, :, None, None] * y


def test_one_warning_for_every_cause_at_the_callers_line() -> None:
    net = nn.Sequential(conv(3, 8), *(Mean(8) for _ in range(5)), conv(8, 8, groups=2), nn.Conv2d(8, 4, 1))
    with pytest.warns(core.FrozenChannelsWarning) as caught:
        graph = trace_channels(net, IMAGE)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "'cdist' in '1', '2', '3' and 2 more places" in message
    assert caught[0].filename == __file__
    assert sum("cdist" in note for note in graph.notes) == 5


def test_shrink_and_build_tell_once_what_stays() -> None:
    net = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 6), *(Mean(6) for _ in range(3)), nn.Conv2d(6, 4, 1))
    with pytest.warns(core.FrozenChannelsWarning) as caught:
        arch = core.shrink(net, IMAGE, [], None, score="uniform", budget=core.Budget(flops=0.95))  # type: ignore[arg-type]
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert arch.build(net)(IMAGE).shape[1] == 4
