"""The paper's comparison in tracking: DiMP with the regular backbone and with one of found widths, both trained alike.

To `core.experiments.experiment`, the whole tracker is the network that is trained, the searched (or given) widths are
the backbone's, and the score is the trained tracker's on a data set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.command_line.factories import title
from core.errors import UserError
from core.experiments.pretrained import open_pretrained
from core.experiments.task import Metric, Task
from core.methods.subject import Part
from core.storage.hubs import weights_file
from core.surgery.architecture import Architecture
from core.surgery.initialise import seeded
from tracking.datasets import TITLES, load, split_title
from tracking.dimp.backbones import backbone_trunk, fitted_backbone_weights
from tracking.dimp.crops import normalise
from tracking.dimp.net import STRIDES, DiMPConfig, DiMPNet
from tracking.evaluation.protocols import PROTOCOL_OF, get_protocol
from tracking.experiment.config import RunConfig, given_architecture
from tracking.experiment.report import describe, finish
from tracking.experiment.tryout import Tryout, percentages, success_curve
from tracking.training import make_loader, make_loss
from tracking.training.network import BackboneConfig, make_network, network_around

METRICS = (
    Metric("success_auc", "AUC", higher_is_better=True),
    Metric("precision", "P", higher_is_better=True),
    Metric("norm_precision", "NP", higher_is_better=True),
)
REFERENCES = ("still", "ncc")  # trackers without training, shown beside the trained ones


def make_task(
    config: RunConfig, root: Path, folder: Path, device: torch.device, say: Callable[[str], None]
) -> Task:
    """Tracking as `core.experiments.experiment` sees it.

    Args:
        config: the protocol.
        root: the data root.
        folder: the work directory; tracks are stored below it.
        device: where trackers run.
        say: is told of each sequence that was tracked.

    Raises:
        MissingData: the data for the evaluation is not there.
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
    tryout = Tryout(dataset, protocol, folder / "tracks", tracker_changes(config), REFERENCES, device, say)
    missing = f"{TITLES[dataset.name]}: {len(dataset.missing)} sequences are not there and not scored."
    side = config.data.views.crop
    pretrained = open_pretrained(
        config.pretrained, lambda: backbone_trunk(config.backbone.name), fitted_backbone_weights
    )
    return Task(
        name="tracking",
        dataset=split_title(dataset.name, dataset.split),
        model_name=f"{config.name} on {title(config.backbone.name)}",
        build=lambda: make_network(config.backbone, config.network, matched_filter=config.matched_filter),
        example_inputs=torch.zeros(1, 3, side, side),
        train_loader=lambda batch_size, seed: make_loader(config, root, batch_size, seed),
        loss_fn=_found_in_percent(make_loss(config)),
        evaluate=lambda network: percentages(tryout.network(network, in_all=True)),
        detail=lambda network: {"success": success_curve(tryout.network(network, in_all=True))},
        metrics=METRICS,
        curves=("found", "success_auc", "%: peaks within a cell (training), AUC (test)"),
        references={name: percentages(tryout.built_in(name, in_all=True)) for name in REFERENCES},
        notes=(missing,) if dataset.missing else (),
        finish=lambda settings, runs: finish(config, tryout, settings, runs, pretrained),
        part=backbone_part(config, device),
        pretrained=pretrained,
        given=given_architecture(config),
        subject=subject(config),
        described=partial(describe, config, tryout.changes),
    )


def subject(config: RunConfig) -> dict[str, Any]:
    """What of network and data determines a result: of `core.experiments.task.Task`; files count by their content."""
    parts = asdict(config)
    for name in ("name", "train", "shrink", "found_widths", "pretrained", "start"):
        del parts[name]
    for name in ("workers", "cache", "bad_images"):
        del parts["data"][name]
    given = given_architecture(config)
    parts["backbone"]["weights"] = _checksum(config.backbone.weights)
    parts["found_weights"] = _checksum(config.found_weights)
    return {**parts, "given": None if given is None else given.to_json()}


def _checksum(path: Path | None) -> str | None:
    return None if path is None else sha256(weights_file(str(path)).read_bytes()).hexdigest()


def _found_in_percent(loss_fn: Callable[..., tuple[Tensor, dict[str, Tensor]]]) -> Callable[..., Any]:
    """The same loss; `found` is drawn beside the AUC, which is in percent."""

    def loss(outputs: Any, targets: Any) -> tuple[Tensor, dict[str, Tensor]]:
        value, parts = loss_fn(outputs, targets)
        return value, {**parts, "found": 100 * parts["found"]}

    return loss


def tracker_changes(config: RunConfig) -> dict[str, Any]:
    """The tracker's settings that follow from its training, and those that the protocol sets."""
    views = config.data.views
    return {"crop_size": views.crop, "search_area": views.area_factor, **config.tracker}


def backbone_part(config: RunConfig, device: torch.device) -> Part:
    """The backbone as the part of the tracker whose widths are searched.

    The tracker's own loss judges its outputs: heads of fitting widths are made on demand.
    """
    side = config.data.views.crop
    given = given_architecture(config)
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
        if config.found_weights is not None and (given is None or found.widths != given.widths):
            raise UserError(
                "--found-weights are of the widths of --widths, and a control of other widths has none: leave "
                "--controls out"
            )
        with seeded(seed):
            return make_network(BackboneConfig(config.backbone.name, weights=config.found_weights), config.network,
                                found=found, matched_filter=config.matched_filter)  # fmt: skip

    return Part(
        name="backbone",
        build=lambda: backbone_trunk(config.backbone.name),
        example_inputs=torch.zeros(1, 3, side, side),
        batch=batch,
        loss_fn=loss,
        insert=insert,
        around=lambda trunk: network_around(trunk, config.network, config.matched_filter),
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
    """Takes a backbone's place; its stages come from elsewhere."""

    strides = STRIDES

    def __init__(self, channels: Mapping[str, int]) -> None:
        super().__init__()
        self.channels = dict(channels)
