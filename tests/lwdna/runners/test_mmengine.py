"""mmengine's own Runner trains networks at found widths."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseModel, BaseModule
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import core
from core.errors import UserError
from core.experiments.given import shipped_names, widths_file
from lwdna.runners.mmengine import LWDNANet, ShrinkHook, targets_of
from tests.lwdna.runners import launched, page


class Net(BaseModule):
    """mmengine starts it by its configuration."""

    def __init__(self, width: int = 8, init_cfg: Any = None) -> None:
        super().__init__(init_cfg or {"type": "Constant", "layer": "BatchNorm2d", "val": 0.5, "bias": 0.25})
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.block = Block(width)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x)).mean((2, 3)))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, 1, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Complete(BaseModel):
    """A model with a loss and predictions of its own, as OpenMMLab's are."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Net()

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        outputs = self.backbone(inputs)
        if mode == "loss":
            return {
                "loss_class": nn.functional.cross_entropy(outputs, data_samples),
                "mean": outputs.detach().mean(),
            }
        return outputs if mode == "tensor" else list(outputs.argmax(1))


class Tutorial(BaseModel):
    """As mmengine's first page has it: no defaults, and two modes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, imgs: Tensor, labels: Tensor, mode: str) -> Any:
        x = self.net(imgs)
        if mode == "loss":
            return {"loss": nn.functional.cross_entropy(x, labels)}
        if mode == "predict":
            return x, labels
        return None


class Silent(Tutorial):
    def forward(self, imgs: Tensor, labels: Tensor, mode: str) -> Any:
        found = super().forward(imgs, labels, mode)
        return found if mode == "loss" else None


def photos() -> tuple[Tensor, Tensor]:
    images = torch.stack([torch.from_numpy(image.copy()) for image in page.photographs()[:12]])
    return images.permute(0, 3, 1, 2)[:, :, ::4, ::4] / 255, torch.arange(12) % page.CLASSES


@pytest.fixture
def runner(tmp_path: Path) -> Callable[..., Runner]:
    """Makes a Runner over 12 photographs in 3 batches an epoch."""

    def make(model: Any, hooks: list[Any] | None = None, **options: Any) -> Runner:
        loader = DataLoader(TensorDataset(*photos()), batch_size=4, shuffle=False)
        settings: dict[str, Any] = {
            "work_dir": str(tmp_path / "work"),
            "train_dataloader": loader,
            "train_cfg": {"by_epoch": True, "max_epochs": 1},
            "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9}},
            "param_scheduler": {"type": "MultiStepLR", "milestones": [1], "gamma": 0.1},
            "custom_hooks": [ShrinkHook({"budget": {"flops": 0.8}})] if hooks is None else hooks,
            "default_hooks": {"checkpoint": {"type": "CheckpointHook", "interval": 1}},
            "log_level": "ERROR",
            "randomness": {"seed": 3},
            "experiment_name": f"{tmp_path.name}-{len(made)}",
        }
        made.append(Runner(model=model, **(settings | options)))
        return made[-1]

    made: list[Runner] = []
    return make


def plain(base: Any = Net, **options: Any) -> LWDNANet:
    return LWDNANet(base, loss=nn.CrossEntropyLoss(), **options)


class Watch(Hook):
    """What the Runner has when the training starts, and after its first step."""

    def before_train(self, runner: Runner) -> None:
        self.before = {name: value.clone() for name, value in runner.model.state_dict().items()}
        self.groups = [list(group["params"]) for group in runner.optim_wrapper.optimizer.param_groups]

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.batches = [*getattr(self, "batches", []), data_batch]


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page.write_files("mmengine", tmp_path)
    page.write_classes(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for line in page.commands("mmengine"):
        assert page.type_command(line, monkeypatch) == 0
    widths = core.Architecture.load("search/widths.json")
    assert widths.found_by["batches"] == 2
    macs = [cost.macs for cost in widths.costs]
    assert 0.8 * macs[1] < macs[0] <= 0.9 * macs[1]
    for run in ("search", "found"):
        shapes = torch.load(f"{run}/epoch_2.pth", weights_only=False)["state_dict"]
        assert shapes["network.stem.0.weight"].shape[0] == widths.widths["stem.0"]
        assert shapes["network.body.0.weight"].shape[:2] == (widths.widths["body.0"], widths.widths["stem.0"])
        [log] = Path(run).glob("*/vis_data/scalars.json")
        scores = [json.loads(line) for line in log.read_text().splitlines()]
        assert len([score for score in scores if "photos/accuracy" in score]) == 2


def test_the_optimiser_steps_the_found_network(runner: Callable[..., Runner]) -> None:
    watch = Watch()
    custom = {"paramwise_cfg": {"norm_decay_mult": 0.0, "custom_keys": {"head": {"lr_mult": 10}}}}
    optimizer = {"optimizer": {"type": "SGD", "lr": 0.1, "weight_decay": 0.01}, **custom}
    made = runner(plain(), [ShrinkHook({"budget": {"flops": 0.6}}), watch], optim_wrapper=optimizer)
    made.train()
    net = made.model.network
    found = core.Architecture.load(Path(made.work_dir) / "widths.json")
    assert found.widths == {
        "stem.0": net.stem[0].out_channels,
        "block.layers.0": net.block.layers[0].out_channels,
    }
    assert found.widths != found.baseline_widths
    names = {id(parameter): name for name, parameter in made.model.named_parameters()}
    groups = made.optim_wrapper.optimizer.param_groups
    assert sorted(names[id(p)] for group in groups for p in group["params"]) == sorted(names.values())
    for group in groups:  # as if it had been built for this network
        [name] = [names[id(parameter)] for parameter in group["params"]]
        assert group["weight_decay"] == (0.0 if ".stem.1." in name else 0.01)
        assert group["initial_lr"] == pytest.approx(1.0 if ".head." in name else 0.1)
    after = made.model.state_dict()
    assert all(not torch.equal(after[name], watch.before[name]) for name in names.values())
    # The loader was read for the scores, and starts from its beginning again.
    assert [len(watch.batches), *watch.batches[0][1].tolist()] == [3, 0, 1, 2, 0]


def test_the_network_starts_as_mmengine_would_start_it(runner: Callable[..., Runner]) -> None:
    watch = Watch()
    made = runner(plain(), [ShrinkHook({"budget": {"flops": 0.8}}), watch])
    made.train()
    assert torch.all(watch.before["network.stem.1.weight"] == 0.5)
    assert torch.all(watch.before["network.stem.1.bias"] == 0.25)


def test_the_seed_draws_the_batches(runner: Callable[..., Runner], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def shrink(
        model: nn.Module, example: Any, batches: Any, *others: Any, **options: Any
    ) -> core.Architecture:
        seen.append(batches[0][1])
        return core.shrink(model, example, batches, *others, **options)

    monkeypatch.setattr("lwdna.runners.mmengine.shrink", shrink)
    loader = DataLoader(TensorDataset(photos()[0], torch.arange(12) % 3), batch_size=8, shuffle=True)
    for hook, run in ((1, 5), (1, 6), (2, 6)):
        hooks = [ShrinkHook({"budget": {"flops": 0.8}}, seed=hook)]
        runner(plain(), hooks, train_dataloader=loader, randomness={"seed": run}).train()
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])


def test_endless_batches_go_on_after_those_that_were_scored_on(runner: Callable[..., Runner]) -> None:
    watch = Watch()
    made = runner(
        plain(),
        [ShrinkHook({"budget": {"flops": 0.8}, "batches": 2}), watch],
        train_dataloader=DataLoader(
            TensorDataset(photos()[0], torch.arange(12) % 3),
            4,
            sampler=InfiniteSampler(range(12), shuffle=False),
        ),
        train_cfg={"by_epoch": False, "max_iters": 2},
    )
    made.train()
    assert torch.equal(watch.batches[0][0], photos()[0][8:])
    assert torch.equal(watch.batches[1][0], photos()[0][:4])


def test_averages_see_the_found_network(runner: Callable[..., Runner]) -> None:
    average = EMAHook(momentum=0.5)
    made = runner(plain(), [average, ShrinkHook({"budget": {"flops": 0.8}})])
    made.train()
    assert average.ema_model.module.network.stem[0].weight.shape == made.model.network.stem[0].weight.shape


def test_blocks_may_vanish(runner: Callable[..., Runner]) -> None:
    made = runner(plain(), [ShrinkHook({"budget": {"flops": 0.3}, "vanish": 1.0})])
    made.train()
    assert json.loads((Path(made.work_dir) / "widths.json").read_text())["removed"] == ["block"]
    count = sum(len(group["params"]) for group in made.optim_wrapper.optimizer.param_groups)
    assert count == len(list(made.model.parameters())) == 6


def test_a_complete_model_keeps_its_steps(runner: Callable[..., Runner]) -> None:
    made = runner(LWDNANet(Complete), train_cfg={"by_epoch": True, "max_epochs": 2})
    made.train()
    found = core.Architecture.load(Path(made.work_dir) / "widths.json")
    assert found.widths.keys() == {"backbone.stem.0", "backbone.block.layers.0"}
    assert made.model.network.backbone.stem[0].out_channels == found.widths["backbone.stem.0"]
    images, _ = photos()
    assert [int(label) in range(3) for label in made.model.test_step({"inputs": images[:2]})] == [True, True]
    losses = made.model.train_step(photos(), made.optim_wrapper)
    assert {"loss", "loss_class", "mean"} <= losses.keys()


def test_a_model_of_the_tutorials(runner: Callable[..., Runner], tmp_path: Path) -> None:
    made = runner(LWDNANet(Tutorial))
    made.train()
    found = core.Architecture.load(Path(made.work_dir) / "widths.json")
    assert found.widths.keys() == {"net.stem.0", "net.block.layers.0"}
    again = LWDNANet(Tutorial, widths=Path(made.work_dir) / "widths.json")
    shapes = [
        {name: value.shape for name, value in model.state_dict().items()} for model in (again, made.model)
    ]
    assert shapes[0] == shapes[1]
    with pytest.raises(UserError, match="Silent returns no tensor in its modes"):
        runner(LWDNANet(Silent)).train()


def test_resumed_and_tested_with_the_widths_of_the_training(
    runner: Callable[..., Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1"
    )  # mmengine's checkpoints hold more than weights
    first = runner(plain())
    first.train()
    file = Path(first.work_dir) / "widths.json"
    written = file.read_bytes()
    watch = Watch()
    hooks = [ShrinkHook({"budget": {"flops": 0.5}}), watch]
    again = runner(plain(), hooks, resume=True, train_cfg={"by_epoch": True, "max_epochs": 2})
    again.train()
    assert file.read_bytes() == written
    for name, value in first.model.state_dict().items():
        assert torch.equal(watch.before[name], value), name
    again.train()  # the same Runner once more: nothing is left to do, and nothing is found anew
    file.unlink()
    with pytest.raises(UserError, match=r"there is no widths file .*, which the training writes"):
        runner(plain(), resume=True).train()


def loaded(made: Runner) -> Runner:
    made._load_from = "weights.pth"
    return made


def several(made: Runner) -> Runner:
    made._distributed = True
    return made


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda runner: runner(Complete()), r"put yours into model=dict\(type='LWDNANet', base=...\)"),
        (lambda runner: loaded(runner(plain())), "load_from='weights.pth' has the baseline's widths"),
        (lambda runner: several(runner(plain())), "finds widths in one process, and this run has several"),
        (lambda runner: runner(LWDNANet(Net)), "a plain network is trained with a loss"),
        (
            lambda runner: runner(plain(), [ShrinkHook({"budget": {"flops": 0.01}})]),
            "0.01",
        ),
    ],
)
def test_where_widths_cannot_be_found(
    runner: Callable[..., Runner], make: Callable[[Any], Runner], message: str
) -> None:
    made = make(runner)
    with pytest.raises(UserError, match=message) as caught:
        made.train()
    assert "\n" not in str(caught.value)
    assert not (Path(made.work_dir) / "widths.json").exists()


def test_too_late(runner: Callable[..., Runner]) -> None:
    model = plain()
    trained = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(*photos(), "loss")["loss"].backward()
    trained.step()
    with pytest.raises(UserError, match="comes too late: the model has been trained"):
        runner(model, optim_wrapper=OptimWrapper(trained), param_scheduler=None).train()
    made = runner(plain(), [ShrinkHook()])
    made.register_hook(EMAHook(), priority=0)
    made.hooks.reverse()
    with pytest.raises(UserError, match=r"comes too late: .*Hook has seen the model before it"):
        made.train()


def test_found_widths_and_the_hook_are_one_too_many(runner: Callable[..., Runner], tmp_path: Path) -> None:
    found = core.shrink(Net(), torch.zeros(1, 3, 16, 16), [], nn.L1Loss(), score="uniform")
    found.save(tmp_path / "widths.json")
    with pytest.raises(UserError, match="the model has found ones: leave out the hook or widths"):
        runner(plain(widths=tmp_path / "widths.json")).train()
    pretrained = {"type": "Pretrained", "checkpoint": "a.pth"}
    with pytest.raises(UserError, match=r"init_cfg of 'base' loads 'a.pth', whose widths are the baseline's"):
        plain(lambda: Unstarted(init_cfg=pretrained), widths=tmp_path / "widths.json")


class Unstarted(Net):
    def init_weights(self) -> None:
        """No file is read."""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shrink": {"budgte": {"flops": 0.9}}}, "unknown key 'shrink.budgte', did you mean 'budget'"),
        ({"shrink": {"batch_size": 8}}, "shrink.batch_size is the loader's own"),
        ({"shrink": {"score": "gradeint"}}, "gradient"),
    ],
)
def test_entries_of_the_hook(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ShrinkHook(**options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LWDNANet(Net()), "give what builds a network"),
        (lambda: LWDNANet(lambda: 3), "base builds a int, not a torch.nn.Module"),
        (lambda: LWDNANet("torch.nn:nothing"), "has no function or class called 'nothing'"),
        (lambda: LWDNANet(Complete, loss=nn.L1Loss()), "Complete is a complete model with a loss of its own"),
        (lambda: LWDNANet(Net, widths="none.json"), "widths file 'none.json' does not exist"),
        (lambda: plain()([torch.zeros(3, 8, 8)] * 2), "2 images came as a list: give the loader collate_fn"),
        (lambda: targets_of([{}]), "targets are a list of dict"),
        (lambda: targets_of(None), "a batch is a pair of inputs and targets"),
    ],
)
def test_models_that_cannot_be(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        make()


def test_bases_by_name_and_by_configuration() -> None:
    from mmengine.registry import MODELS

    by_name = MODELS.build({"type": "LWDNANet", "base": "classification.models:resnet20"})
    by_configuration = MODELS.build(
        {"type": "LWDNANet", "base": {"type": "classification.models.resnet20", "num_classes": 7}}
    )
    outputs = [net(torch.zeros(1, 3, 32, 32)).shape[1] for net in (by_name, by_configuration)]
    assert outputs == [10, 7]


def test_widths_that_ship_are_known_by_name() -> None:
    base = {"type": "classification.models.mobilenetv3_small", "dataset": "tiny-imagenet"}
    names = [name for name in shipped_names() if name.startswith("mobilenetv3_small-")]
    found = core.Architecture.load(widths_file(names[0]))
    network = LWDNANet(base, widths=names[0]).network
    assert {name: len(network.get_submodule(name).weight) for name in found.widths} == found.widths


def test_targets() -> None:
    assert torch.equal(targets_of([1, 2]), torch.tensor([1, 2]))
    assert torch.equal(targets_of([torch.ones(2), torch.zeros(2)]), torch.tensor([[1.0, 1.0], [0.0, 0.0]]))


def test_several_processes_train_found_widths_as_one_does(tmp_path: Path) -> None:
    launched.write_widths(tmp_path)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
            *(launched.__file__, str(tmp_path / "two")),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(page.ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    for base in (launched.Bare, launched.Weighed):
        launched.train(tmp_path / "one", base, 4)
        one, two = (torch.load(tmp_path / run / base.__name__ / "weights.pth") for run in ("one", "two"))
        widths = core.Architecture.load(tmp_path / f"{base.__name__}.json").widths
        assert one[
            "network.body.0.weight" if base is launched.Bare else "network.backbone.body.0.weight"
        ].shape[0] == next(iter(widths.values()))
        for name, value in one.items():
            torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6)


def test_mixed_precision(runner: Callable[..., Runner], monkeypatch: pytest.MonkeyPatch) -> None:
    """`AmpOptimWrapper` asks for a GPU; with bfloat16, which needs no scaling, the CPU does the same."""
    monkeypatch.setattr("mmengine.optim.optimizer.amp_optimizer_wrapper.is_cuda_available", lambda: True)
    seen: list[torch.dtype] = []

    class Seeing(Net):
        def forward(self, x: Tensor) -> Tensor:
            outputs = super().forward(x)
            if self.training and torch.is_autocast_enabled("cpu"):
                seen.append(outputs.dtype)
            return outputs

    found = []
    for kind in ("OptimWrapper", "AmpOptimWrapper"):
        wrapper = {"type": kind, "optimizer": {"type": "SGD", "lr": 0.1}}
        if kind == "AmpOptimWrapper":
            wrapper["dtype"] = "bfloat16"
        made = runner(plain(Seeing), optim_wrapper=wrapper)
        made.train()
        found.append((Path(made.work_dir) / "widths.json").read_bytes())
        assert len(seen) == (3 if kind == "AmpOptimWrapper" else 0)  # a step for each batch
    assert set(seen) == {torch.bfloat16}
    assert found[0] == found[1]  # widths are found in float32
    assert all(value.dtype != torch.bfloat16 for value in made.model.state_dict().values())
