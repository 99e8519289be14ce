"""mmengine: `LWDNANet` in `MODELS` and `ShrinkHook` in `HOOKS`.

    custom_imports = dict(imports=["lwdna.runners.mmengine"])
    model = dict(type="LWDNANet", base=dict(type="MyNet", depth=18), loss=dict(type="torch.nn.CrossEntropyLoss"))
    custom_hooks = [dict(type="ShrinkHook", shrink=dict(budget=dict(flops=0.9)))]

The hook finds widths when the training starts and writes `widths.json` into the work directory; with `widths=` instead
of the hook, `LWDNANet` trains at the widths of a file.
"""

from __future__ import annotations

import copy
import importlib.util
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from numbers import Number
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.command_line.factories import call_factory, load_factory
from core.errors import UserError
from core.modules import call, generators, tensors_in
from core.storage.schema import lower
from core.surgery.architecture import Architecture
from core.surgery.initialise import Factory
from core.widths.config import ShrinkConfig
from core.widths.shrinkage import shrink
from lwdna.runners.found import found_network
from super_resolution.torchvision_shim import make_importable

if importlib.util.find_spec("torchvision") is not None:
    make_importable()  # an installed but broken one stops mmengine's Runner

from mmengine.hooks import Hook
from mmengine.model import BaseModel, BaseModule, revert_sync_batchnorm
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner, find_latest_checkpoint


@MODELS.register_module()
class LWDNANet(BaseModel):
    """A network at found widths, as a model that mmengine's Runner trains, or as a part of one.

    A plain network needs `loss`: batches are then (inputs, targets), by their order or by mmengine's names `inputs` and
    `data_samples`, and predictions are pairs of outputs and targets, as in mmengine's tutorials. A complete model (a
    `BaseModel`) keeps its own steps, losses and predictions; the search covers what its mode "tensor" runs.

    Args:
        base: the network at its own widths: a configuration as `MODELS` builds it, `package.module:factory`,
            `path/to/file.py:factory`, or a function that builds it. If it has mmengine's `init_weights`, this is called
            here.
        widths: a widths file, or the name of one that ships; None for the base's own widths.
        loss: (outputs, targets) -> loss, or its configuration; for a plain network.
        data_preprocessor: as in every `BaseModel`; by default a complete model's own.

    Attributes:
        network: the network, of the base's class; checkpoints hold it under this name.

    Raises:
        UserError: the base is no network or cannot be built anew, a complete model is given a loss, or found widths
            would start from a checkpoint of the base.
        ArchitectureError: the widths file cannot be read, or does not fit the base.
    """

    def __init__(
        self,
        base: Mapping[str, Any] | str | Factory,
        widths: str | Path | None = None,
        loss: Mapping[str, Any] | Callable[[Any, Any], Tensor] | None = None,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
    ) -> None:
        factory = _factory(base)
        network: Any = found_network(factory, widths)
        if widths is not None:
            _refuse_checkpoints(network)
        complete = isinstance(network, BaseModel)
        if complete and loss is not None:
            raise UserError(
                f"LWDNANet: {type(network).__name__} is a complete model with a loss of its own: leave loss out"
            )
        if complete and data_preprocessor is None:
            data_preprocessor = network.data_preprocessor
        super().__init__(data_preprocessor)
        self.make = factory
        self.found = widths is not None
        self.loss = MODELS.build(dict(loss)) if isinstance(loss, Mapping) else loss
        self.network = network
        self._share_preprocessor()

    def become(self, architecture: Architecture, factory: Factory) -> None:
        """Replace the network by a fresh one at other widths, on the same device."""
        fresh = architecture.build(factory(), factory=factory)
        _refuse_checkpoints(fresh)
        self.network = fresh.to(_device(self.network)).train(self.network.training)
        self.found = True
        self._share_preprocessor()

    def init_weights(self) -> None:
        """Does nothing: the network was initialised, at its widths, when it was made."""

    def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """A complete model's own step, else `BaseModel`'s."""
        return self._stepping(BaseModel.train_step)(data, optim_wrapper)

    def val_step(self, data: Any) -> Any:
        """Likewise."""
        return self._stepping(BaseModel.val_step)(data)

    def test_step(self, data: Any) -> Any:
        """Likewise."""
        return self._stepping(BaseModel.test_step)(data)

    def parse_losses(self, losses: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Likewise; if several processes train, mmengine's wrapper calls this and `forward` itself."""
        parse = self.network.parse_losses if isinstance(self.network, BaseModel) else super().parse_losses
        return parse(losses)

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "tensor") -> Any:
        """Outputs ("tensor"), losses by name ("loss"), or predictions ("predict").

        Raises:
            UserError: a list of images that was not stacked, targets that do not form a tensor, or no loss.
        """
        if isinstance(self.network, BaseModel):
            return self.network(inputs, data_samples, mode)
        outputs = self.network(stacked_inputs(inputs))
        if mode == "tensor":
            return outputs
        if mode == "predict":
            return outputs, data_samples
        return {"loss": self.loss_of(outputs, targets_of(data_samples))}

    def loss_of(self, outputs: Any, targets: Any) -> Tensor:
        """The loss of a plain network.

        Raises:
            UserError: there is none.
        """
        if self.loss is None:
            raise UserError(
                'LWDNANet: a plain network is trained with a loss: loss=dict(type="torch.nn.CrossEntropyLoss")'
            )
        return self.loss(outputs, targets)

    def _stepping(self, step: Callable[..., Any]) -> Callable[..., Any]:
        if isinstance(self.network, BaseModel):
            return getattr(self.network, step.__name__)
        return partial(step, self)

    def _share_preprocessor(self) -> None:
        if isinstance(self.network, BaseModel):
            self.network.data_preprocessor = self.data_preprocessor


@HOOKS.register_module()
class ShrinkHook(Hook):
    """Finds widths for the Runner's `LWDNANet` before its first step, from the Runner's own training batches.

    The Runner builds model, training loop, optimiser and schedulers and then calls `before_run`, the first call of a
    hook in a training. No step has been taken by then. The hook scores the model's channels on the loader's first
    batches, writes the widths file, and puts a fresh network at these widths into the model. It hands the parameters to
    the optimiser: each takes the place and the settings of the one with its name. A loop that counts epochs then starts
    from the loader's beginning; one that counts iterations goes on after the scored batches.

    A run that resumes, evaluates or tests reads the file that the training wrote.

    Args:
        shrink: entries of `core.ShrinkConfig`: budget, score, floor, batches, ...; batches are the loader's.
        out: the widths file, in the work directory.
        seed: of the search and of the batches that it draws; None for the Runner's.

    Raises:
        UserError: an unknown entry, or a value that is not allowed. When the run starts: the model is no `LWDNANet` or
            already has found widths; steps have been taken; another hook comes before this one; there is a checkpoint
            to start from; several processes train; or a resumed run has no widths file.
    """

    priority = "HIGHEST"

    def __init__(
        self, shrink: Mapping[str, Any] | None = None, out: str = "widths.json", seed: int | None = None
    ) -> None:
        entries = dict(shrink or {})
        if "batch_size" in entries:
            raise UserError("ShrinkHook: shrink.batch_size is the loader's own; leave it out")
        self.config: ShrinkConfig = lower(entries, ShrinkConfig, "shrink")
        self.out = out
        self.seed = seed
        self.shrunk: nn.Module | None = None

    def before_run(self, runner: Runner) -> None:
        """See the class."""
        model = runner.model
        if model is self.shrunk:  # the same Runner tests the network that it has trained
            return
        self._check(runner, model)
        path = Path(runner.work_dir) / self.out
        training = isinstance(runner._train_loop, BaseLoop) and isinstance(
            runner.optim_wrapper, OptimWrapper | OptimWrapperDict
        )
        factory = partial(_without_sync, model.make)
        if training and not _resumed(runner):
            self._check_start(runner)
            found = self._find(runner, model, factory)
            found.save(path)
            runner.logger.info(f"ShrinkHook: widths found, written to {path}\n{found.describe()}")
        elif path.is_file():
            found = Architecture.load(path)
            runner.logger.info(f"ShrinkHook: widths read from {path}")
        else:
            raise UserError(
                f"ShrinkHook: there is no widths file '{path}', which the training writes: resume or test in its work "
                f"directory"
            )
        before = {id(parameter): name for name, parameter in model.named_parameters()}
        model.become(found, factory)
        if training:
            _hand_over(runner.optim_wrapper, before, dict(model.named_parameters()))
        self.shrunk = model

    def _check(self, runner: Runner, model: Any) -> None:
        if runner.distributed:
            raise UserError(
                "ShrinkHook finds widths in one process, and this run has several: run it with launcher='none' for a "
                "step, then train with LWDNANet(widths=...) and without the hook"
            )
        if not isinstance(model, LWDNANet):
            raise UserError(
                f"ShrinkHook needs a model that it can build anew: put yours into "
                f"model=dict(type='LWDNANet', base=...); this one is a {type(model).__name__}"
            )
        if model.found:
            raise UserError(
                "ShrinkHook finds widths, but the model has found ones: leave out the hook or widths"
            )
        earlier = [hook for hook in runner.hooks[: runner.hooks.index(self)] if _acts_before_run(hook)]
        if earlier:
            raise UserError(
                f"ShrinkHook comes too late: {type(earlier[0]).__name__} has seen the model before it; give no hook a "
                f"priority before HIGHEST"
            )

    def _check_start(self, runner: Runner) -> None:
        steps = [wrapper for wrapper in _optimizers(runner.optim_wrapper) if wrapper.state]
        if steps or runner.iter > 0:
            raise UserError(
                "ShrinkHook comes too late: the model has been trained. Widths are found before the first step; use a "
                "new Runner"
            )
        if runner._load_from is not None:
            raise UserError(
                f"ShrinkHook: load_from='{runner._load_from}' has the baseline's widths, and a found network starts "
                f"anew: leave it out"
            )

    def _find(self, runner: Runner, model: LWDNANet, factory: Factory) -> Architecture:
        network = factory().to(_device(model.network))
        seed = int(runner.seed or 0) if self.seed is None else self.seed
        config = self.config
        with generators(seed):  # the same batches, whatever random numbers were drawn before
            batches = list(islice(_scored(_batches(runner.train_loop), model), config.batches))
        if len(batches) < config.batches:
            runner.logger.warning(
                f"ShrinkHook: scored on {len(batches)} batches, all that the loader has, instead of {config.batches}"
            )
        if not batches:
            raise UserError("ShrinkHook: the training loader has no batch")
        inputs = _images(batches[0][0])
        if not isinstance(inputs, Tensor):
            raise UserError(
                f"ShrinkHook: a batch's inputs are a {type(inputs).__name__}: let data_preprocessor or collate_fn make "
                f"one tensor of them"
            )
        example = inputs[:1]
        loss: Callable[[Any, Any], Tensor] = model.loss_of
        if isinstance(network, BaseModel):
            example = _example(network, example)
            parse = network.parse_losses
            loss = lambda losses, _: parse(losses)[0]  # noqa: E731
        return shrink(network, example, batches, loss, config, seed=seed, factory=factory)


def stacked_inputs(inputs: Any) -> Any:
    """A batch of images as a plain network's input.

    Raises:
        UserError: it is a list.
    """
    if isinstance(inputs, list):
        raise UserError(
            f"LWDNANet: {len(inputs)} images came as a list: give the loader collate_fn=dict(type='default_collate'), "
            f"or the model data_preprocessor=dict(type='ImgDataPreprocessor')"
        )
    return inputs


def targets_of(data_samples: Any) -> Any:
    """Targets for a loss: lists of numbers and tensors become one tensor.

    Raises:
        UserError: there are none, or they are a list of something else, which only a complete model understands.
    """
    if isinstance(data_samples, Sequence) and not isinstance(data_samples, str):
        if all(isinstance(item, Tensor) for item in data_samples):
            return torch.stack(list(data_samples))
        if all(isinstance(item, Number) for item in data_samples):
            return torch.tensor(data_samples)
        raise UserError(
            f"LWDNANet: targets are a list of {type(data_samples[0]).__name__}: give base the complete model that "
            f"reads them"
        )
    if data_samples is None:
        raise UserError(
            "LWDNANet: a batch is a pair of inputs and targets, or a dict of inputs and data_samples"
        )
    return data_samples


def _batches(loop: BaseLoop) -> Iterable[Any]:
    """A training loop's batches; for a loop that counts iterations, those that it would take next.

    A second iterator over such a loader would end `InfiniteSampler`'s only stream when it is dropped.
    """
    return loop.dataloader_iterator if isinstance(loop, IterBasedTrainLoop) else loop.dataloader


def _scored(loader: Iterable[Any], model: LWDNANet) -> Iterator[tuple[Any, Any]]:
    """A loader's batches as `core.shrink` takes them: the model's inputs, and the targets of its loss."""
    for data in loader:
        ready = model.data_preprocessor(data, True)
        if isinstance(model.network, BaseModel):
            yield ({**ready, "mode": "loss"} if isinstance(ready, Mapping) else (*ready, "loss")), None
        elif isinstance(ready, Mapping):
            yield stacked_inputs(ready["inputs"]), targets_of(ready["data_samples"])
        else:
            inputs, targets = ready
            yield stacked_inputs(inputs), targets_of(targets)


def _images(inputs: Any) -> Any:
    """The part of `inputs` of `_scored` for a network's mode "tensor"."""
    if isinstance(inputs, Mapping):
        return inputs["inputs"]
    return inputs[0] if isinstance(inputs, tuple) else inputs


def _example(network: BaseModel, images: Tensor) -> Any:
    """Inputs with which a complete model runs its network: the images, with a mode if it needs one.

    Models of mmengine's tutorials have only the modes "loss" and "predict".

    Raises:
        UserError: it returns nothing.
    """
    asks = [
        item
        for item in inspect.signature(network.forward).parameters.values()
        if item.default is item.empty and item.kind is item.POSITIONAL_OR_KEYWORD
    ]
    plain: list[Any] = [images] if len(asks) < 2 else []
    with torch.no_grad():
        network.eval()
        for inputs in (*plain, (images, None, "tensor"), (images, None, "predict")):
            if tensors_in(call(network, inputs)):
                network.train()
                return inputs
    raise UserError(
        f"ShrinkHook: {type(network).__name__} returns no tensor in its modes 'tensor' and 'predict', by which its "
        f"channels are found"
    )


def _factory(base: Mapping[str, Any] | str | Factory) -> Factory:
    """A factory of the base, which starts as mmengine would start it."""
    if isinstance(base, nn.Module) or not (isinstance(base, Mapping | str) or callable(base)):
        raise UserError(
            f"LWDNANet: base is a {type(base).__name__}: give what builds a network, a configuration or a function"
        )
    if isinstance(base, str):
        load_factory(base)  # a wrong name is reported before anything is built
    return partial(_made, base)


def _made(base: Mapping[str, Any] | str | Factory) -> nn.Module:
    if isinstance(base, str):
        network: Any = call_factory(base)
    else:
        network = MODELS.build(copy.deepcopy(dict(base))) if isinstance(base, Mapping) else base()
    if not isinstance(network, nn.Module):
        raise UserError(f"LWDNANet: base builds a {type(network).__name__}, not a torch.nn.Module")
    if isinstance(network, BaseModule):
        network.init_weights()
    return network


def _without_sync(make: Factory) -> nn.Module:
    """The model without synchronised norms, as the Runner changes every model if there is one process."""
    return revert_sync_batchnorm(make())


def _refuse_checkpoints(network: nn.Module) -> None:
    for name, module in network.named_modules():
        given = getattr(module, "init_cfg", None)
        for entry in given if isinstance(given, list) else [given]:
            if isinstance(entry, Mapping) and entry.get("type") in ("Pretrained", "PretrainedInit"):
                raise UserError(
                    f"LWDNANet: init_cfg of '{name or 'base'}' loads '{entry.get('checkpoint')}', whose widths are the "
                    f"baseline's, and a found network starts anew: leave it out"
                )


def _resumed(runner: Runner) -> bool:
    return bool(runner._resume and (runner._load_from or find_latest_checkpoint(runner.work_dir)))


def _acts_before_run(hook: Hook) -> bool:
    return type(hook).before_run is not Hook.before_run


def _device(network: nn.Module) -> torch.device:
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def _optimizers(wrapper: OptimWrapper | OptimWrapperDict) -> list[torch.optim.Optimizer]:
    wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    return [item.optimizer for item in wrappers]


def _hand_over(
    wrapper: OptimWrapper | OptimWrapperDict, before: Mapping[int, str], after: Mapping[str, nn.Parameter]
) -> None:
    """Let optimisers step the new parameters, each in the place of the old one with its name.

    Groups, learning rates and decays stay, and so do the schedulers, which refer to groups alone. Parameters of blocks
    that were left out are dropped.
    """
    for optimizer in _optimizers(wrapper):
        for group in optimizer.param_groups:
            names = [before.get(id(parameter)) for parameter in group["params"]]
            kept = [
                parameter if name is None else after[name]
                for name, parameter in zip(names, group["params"], strict=True)
                if name is None or name in after
            ]
            group["params"][:] = kept
