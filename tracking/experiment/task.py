"""The paper's comparison in tracking: DiMP with the regular backbone and with one of found widths, both trained alike.

As `core.experiments.experiment` sees it: the whole tracker is trained, the widths that are searched (or given) are
the backbone's, and the score is how well the trained tracker tracks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import UserError
from core.experiments.task import Metric, Task
from core.methods.subject import Part
from core.surgery.architecture import Architecture
from core.surgery.initialise import seeded
from core.widths.budget import Budget
from core.widths.config import ShrinkConfig
from tracking.datasets import TITLES, load
from tracking.dimp.backbones import resnet_trunk, trunk_architecture
from tracking.dimp.crops import normalise
from tracking.dimp.net import STRIDES, DiMPConfig, DiMPNet
from tracking.evaluation.protocols import PROTOCOL_OF, get_protocol
from tracking.experiment.report import finish
from tracking.experiment.trials import Trials, percentages
from tracking.training import TrackingConfig, make_loader, make_loss
from tracking.training.network import BackboneConfig, make_network


@dataclass(frozen=True)
class EvaluationConfig:
    """The section `evaluation` of a configuration: what trained trackers are tried on.

    Args:
        dataset: a name of `tracking.datasets.DATASETS`.
        split: part of it; None for its default.
        sequences: patterns of the sequences used; none for all.
        partial: use what is there of a benchmark that is not complete.
    """

    dataset: str = "demo"
    split: str | None = None
    sequences: tuple[str, ...] = ()
    partial: bool = False


@dataclass(frozen=True)
class ExperimentConfig(TrackingConfig):
    """A protocol of the comparison: a training's, and how widths are found and trackers compared.

    Args:
        shrink: how the backbone's widths are found where `found_widths` does not give them.
        found_widths: a widths file of the backbone, of the whole ResNet as classification finds it or of the trunk.
        found_weights: weights of a classifier of these widths to start from; the regular one's are `backbone.weights`.
        evaluation: what trained trackers are tried on.

    Raises:
        UserError: the section `backbone` names widths: the regular backbone is what found ones are compared with; or
            see `TrackingConfig`.
    """

    shrink: ShrinkConfig = field(default_factory=ShrinkConfig)
    found_widths: Path | None = None
    found_weights: Path | None = None
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backbone.widths is not None or self.init is not None:
            raise UserError(
                "the comparison starts from regular widths and fresh heads: name widths with found_widths, and "
                "leave out backbone.widths and init"
            )


METRICS = (
    Metric("success_auc", "AUC", higher_is_better=True),
    Metric("precision", "P", higher_is_better=True),
    Metric("norm_precision", "NP", higher_is_better=True),
)
REFERENCES = ("still", "ncc")  # trackers without training, beside which the trained ones are shown


def make_task(
    config: ExperimentConfig, root: Path, folder: Path, device: torch.device, say: Callable[[str], None]
) -> Task:
    """Tracking as `core.experiments.experiment` sees it.

    Args:
        config: the protocol.
        root: the data root.
        folder: the work directory; tracks are stored below it.
        device: where trackers run.
        say: is told of each sequence that was tracked.

    Raises:
        MissingData: what trackers are tried on is not there.
        UserError: the protocol names no such data set, sequences or settings.
    """
    wanted = config.evaluation
    protocol = get_protocol(PROTOCOL_OF.get(wanted.dataset, "lasot"), wanted.dataset)
    dataset = load(
        wanted.dataset,
        root,
        wanted.split,
        patterns=wanted.sequences,
        partial=wanted.partial,
        frames=True,
        absence=protocol.absent != "ignore",
    )
    trials = Trials(dataset, protocol, folder / "tracks", tracker_changes(config), REFERENCES, device, say)
    missing = f"{TITLES[dataset.name]}: {len(dataset.missing)} sequences are not there and not scored."
    side = config.data.views.crop
    return Task(
        name="tracking",
        dataset=f"{TITLES[dataset.name]} {dataset.split}",
        model_name=f"{config.name} on {config.backbone.name}",
        build=lambda: make_network(config.backbone, config.network, matched_filter=config.matched_filter),
        example_inputs=torch.zeros(1, 3, side, side),
        train_loader=lambda batch_size, seed: make_loader(config, root, batch_size, seed),
        loss_fn=_found_in_percent(make_loss(config)),
        evaluate=lambda network: percentages(trials.network(network)),
        metrics=METRICS,
        curves=("found", "success_auc", "%: peaks within a cell (training), AUC (test)"),
        references={name: percentages(trials.built_in(name)) for name in REFERENCES},
        notes=(missing,) if dataset.missing else (),
        finish=lambda settings, runs: finish(config, trials, settings, runs),
        part=backbone_part(config, device),
        given=given_architecture(config),
    )


def _found_in_percent(loss_fn: Callable[..., tuple[Tensor, dict[str, Tensor]]]) -> Callable[..., Any]:
    """The same loss; `found` is drawn beside the AUC, which is in percent."""

    def loss(outputs: Any, targets: Any) -> tuple[Tensor, dict[str, Tensor]]:
        value, parts = loss_fn(outputs, targets)
        return value, {**parts, "found": 100 * parts["found"]}

    return loss


def tracker_changes(config: ExperimentConfig) -> dict[str, Any]:
    """Entries of the tracker's settings that follow from how it is trained, and those that the protocol sets."""
    views = config.data.views
    return {"crop_size": views.crop, "search_area": views.area_factor, **config.tracker}


def given_architecture(config: ExperimentConfig) -> Architecture | None:
    """The widths that the protocol gives, priced on the tracker's crops; None where they are to be found.

    Raises:
        ArchitectureError: a damaged file, or widths of another network.
    """
    if config.found_widths is None:
        return None
    return trunk_architecture(
        config.backbone.name, Architecture.load(config.found_widths), config.data.views.crop
    )


def with_given_budget(config: ExperimentConfig) -> ExperimentConfig:
    """The protocol with the budget of given widths, so that controls cost the same."""
    given = given_architecture(config)
    if given is None:
        return config
    budget = Budget(flops=given.costs[0].paper, convention="paper")
    return replace(config, shrink=replace(config.shrink, budget=budget))


def backbone_part(config: ExperimentConfig, device: torch.device) -> Part:
    """The backbone as the part of the tracker whose widths are searched.

    Its outputs are judged by the tracker's own loss: heads of fitting widths are made on the spot.
    """
    side = config.data.views.crop
    heads = _Heads(config.network, config.train.seed, device)
    loss_fn = make_loss(config)

    def batch(inputs: tuple[Tensor, ...], targets: Mapping[str, Tensor]) -> tuple[Tensor, Any]:
        train, test, boxes, proposals = inputs
        images = torch.cat([train.flatten(0, 1), test.flatten(0, 1)])
        return normalise(images), (boxes, proposals, dict(targets))

    def loss(stages: dict[str, Tensor], rest: Any) -> Tensor:
        boxes, proposals, targets = rest
        count = boxes.shape[0] * boxes.shape[1]
        train = {name: stage[:count] for name, stage in stages.items()}
        test = {name: stage[count:] for name, stage in stages.items()}
        outputs = heads.around(stages).from_stages(train, test, boxes, proposals)
        return loss_fn(outputs, targets)[0]

    def insert(found: Architecture, seed: int) -> nn.Module:
        with seeded(seed):
            return make_network(BackboneConfig(config.backbone.name, weights=config.found_weights), config.network,
                                found=found, matched_filter=config.matched_filter)  # fmt: skip

    return Part(
        name="backbone",
        build=lambda: resnet_trunk(config.backbone.name),
        example_inputs=torch.zeros(1, 3, side, side),
        batch=batch,
        loss_fn=loss,
        insert=insert,
    )


class _Heads:
    """The tracker's heads for stages of any width, freshly initialised once per width and kept."""

    def __init__(self, config: DiMPConfig, seed: int, device: torch.device) -> None:
        self._config, self._seed, self._device = config, seed, device
        self._made: dict[tuple[int, ...], DiMPNet] = {}

    def around(self, stages: Mapping[str, Tensor]) -> DiMPNet:
        """Heads that fit the stages."""
        channels = {name: stage.shape[1] for name, stage in stages.items()}
        key = tuple(channels.values())
        if key not in self._made:
            with seeded(self._seed):
                self._made[key] = DiMPNet(_Stages(channels), self._config).to(self._device)
        return self._made[key]


class _Stages(nn.Module):
    """Stands where a backbone would: its stages come from elsewhere."""

    strides = STRIDES

    def __init__(self, channels: Mapping[str, int]) -> None:
        super().__init__()
        self.channels = dict(channels)
