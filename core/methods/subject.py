"""Where methods search: a network that trains on some data, or a part of it; and its widths, found by scores."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from core.errors import UserError
from core.surgery.architecture import Architecture
from core.surgery.initialise import seeded
from core.training.train import Loader
from core.widths.config import ShrinkConfig
from core.widths.shrinkage import shrink


@dataclass(frozen=True)
class Part:
    """A part of a task's network whose widths are searched while the rest keeps its own: a tracker's backbone.

    Attributes:
        name: its name in reports: "backbone".
        build: the part at its regular widths, freshly initialised from torch's global generator.
        example_inputs: of the part; only shapes matter.
        batch: a training batch's (inputs, targets) -> (inputs of the part, what the loss needs besides its outputs).
        loss_fn: (outputs of the part at any widths, the rest) -> loss.
        insert: (widths of the part, seed) -> the whole network around it, freshly initialised.
        around: the part at any widths, which is taken over -> the whole network around it, the rest freshly
            initialised from torch's global generator.
    """

    name: str
    build: Callable[[], nn.Module]
    example_inputs: Any
    batch: Callable[[Any, Any], tuple[Any, Any]]
    loss_fn: Callable[[Any, Any], Tensor]
    insert: Callable[[Architecture, int], nn.Module]
    around: Callable[[nn.Module], nn.Module]


@dataclass(frozen=True)
class Pretrained:
    """Trained weights of the network that is searched: the baseline, or a part of it.

    Attributes:
        source: what the user calls them: a file, `timm:NAME`, `torchvision:NAME`.
        checksum: of the weights as they are used.
        build: the baseline, or the part of it that is searched, with these weights; what they do not cover, a head of
            another size, is freshly initialised from torch's global generator.
        notes: sentences about the weights, for reports.
    """

    source: str
    checksum: str
    build: Callable[[], nn.Module]
    notes: tuple[str, ...] = ()


class Searched(NamedTuple):
    """What a task hands to `core.shrink` and `core.trace_channels`.

    Attributes:
        model: freshly initialised.
        example_inputs: of the model.
    """

    model: nn.Module
    example_inputs: Any


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network and how it is trained, as far as a search for widths needs to know.

    Attributes:
        model_name: name of the baseline, for the report and the widths file.
        build: a freshly initialised baseline, from torch's global generator.
        example_inputs: what one sample looks like to the network; only shapes matter.
        train_loader: (batch size, seed) -> training batches.
        loss_fn: (outputs, targets) -> loss, or (loss, metrics by name).
        part: the part that is searched, where that is not the whole network; FLOPs and parameters are then the part's.
        pretrained: trained weights of the network or part that is searched; None where there are none.
    """

    model_name: str
    build: Callable[[], nn.Module]
    example_inputs: Any
    train_loader: Callable[[int, int], Loader]
    loss_fn: Callable[[Any, Any], Any]
    part: Part | None = None
    pretrained: Pretrained | None = None

    def searched(self, keep_weights: bool = False) -> Searched:
        """The network whose widths are searched, or its part, freshly initialised.

        Args:
            keep_weights: whether to give it the trained weights instead (`ShrinkConfig.keep_weights`).

        Raises:
            UserError: there are no trained weights.
        """
        example_inputs = self.example_inputs if self.part is None else self.part.example_inputs
        if keep_weights:
            if self.pretrained is None:
                raise UserError(
                    "shrink.keep_weights needs trained weights, which nothing names here (--pretrained FILE)"
                )
            return Searched(self.pretrained.build(), example_inputs)
        return Searched(self.searched_factory(), example_inputs)

    @property
    def searched_factory(self) -> Callable[[], nn.Module]:
        """Builds the network or part whose widths are searched."""
        return self.build if self.part is None else self.part.build

    def traced(self, config: ShrinkConfig) -> ShrinkConfig:
        """The configuration with which the subject is traced: the outputs of a part may change unless frozen."""
        free = self.part is not None and config.outputs == "single"
        return replace(config, outputs="free") if free else config


def fresh_baseline(subject: Subject, seed: int) -> nn.Module:
    """The subject's network, its weights a function of `seed`."""
    with seeded(seed):
        return subject.build()


def only_loss(subject: Subject) -> Callable[[Any, Any], Tensor]:
    """The subject's loss function without the metrics that it may return beside the loss."""

    def loss_fn(outputs: Any, targets: Any) -> Tensor:
        loss = subject.loss_fn(outputs, targets)
        return loss[0] if isinstance(loss, tuple) else loss

    return loss_fn


def find_architecture(
    subject: Subject, config: ShrinkConfig, seed: int, device: torch.device | str = "cpu"
) -> Architecture:
    """Shrink the subject's baseline, or the part of it that is searched, once.

    Raises:
        UserError: see `core.widths.shrinkage.shrink`.
    """
    with seeded(seed):
        model, inputs = subject.searched(config.keep_weights)
    batches = first_batches(subject, config, seed)
    part = subject.part
    return shrink(
        model.to(device),
        inputs,
        batches if part is None else (part.batch(*batch) for batch in batches),
        only_loss(subject) if part is None else part.loss_fn,
        subject.traced(config),
        seed=seed,
        name=subject.model_name,
        factory=subject.searched_factory,
    )


def first_batches(subject: Subject, config: ShrinkConfig, seed: int) -> Iterable[tuple[Any, Any]]:
    """The first `config.batches` batches of the data set; if the first epoch has fewer, those of the next follow."""
    loader = subject.train_loader(config.batch_size, seed)
    endless = (batch for epoch in itertools.count() for batch in loader.epoch(epoch))
    return itertools.islice(endless, config.batches if len(loader) else 0)
