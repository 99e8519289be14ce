"""The network in training: DiMP that takes crops as bytes and normalises them on its device."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from core.storage.checkpoint import load_weights
from core.surgery.architecture import Architecture
from tracking.dimp.backbones import backbone_trunk, load_backbone_weights
from tracking.dimp.crops import normalise
from tracking.dimp.net import DiMPConfig, DiMPNet, DiMPOutput


@dataclass(frozen=True)
class BackboneConfig:
    """The section `backbone` of a configuration.

    Args:
        name: see `tracking.dimp.backbones.make_backbone`.
        widths: a file of found widths (`core.Architecture`); None for the regular network.
        weights: a trained classifier's weights to start from, a file, `timm:NAME` or `torchvision:NAME`; None for a
            fresh start.
    """

    name: str = "resnet50"
    widths: Path | None = None
    weights: Path | None = None

    def architecture(self) -> Architecture | None:
        """The found widths.

        Raises:
            MissingData: there is no such file.
            ArchitectureError: it is damaged.
        """
        return None if self.widths is None else Architecture.load(self.widths)


class TrainedDiMP(DiMPNet):
    """DiMP on uint8 images: only a quarter of float32's bytes go to the device."""

    def forward(
        self, train_images: Tensor, test_images: Tensor, train_boxes: Tensor, test_proposals: Tensor
    ) -> DiMPOutput:
        """As `DiMPNet.forward`, with (S, N, 3, H, W) and (S, M, 3, H, W) uint8 RGB images."""
        return super().forward(normalise(train_images), normalise(test_images), train_boxes, test_proposals)


def make_network(
    backbone: BackboneConfig,
    config: DiMPConfig,
    init: Path | None = None,
    found: Architecture | None = None,
    matched_filter: float | None = None,
) -> TrainedDiMP:
    """A network to be trained.

    Args:
        backbone: its trunk.
        config: sizes of the heads.
        init: weights of a whole network of the same sizes to start from; None for fresh heads.
        found: widths of the trunk in place of the section's own.
        matched_filter: see `start_matched`; None for the published random start.

    Warns: UserWarning: not all of the classifier's weights were used as they are (a running average was, or the stem
        stays fresh); it says which.

    Raises:
        MissingData: a file is not there.
        UserError: widths or weights do not fit.
    """
    trunk = backbone_trunk(backbone.name, found or backbone.architecture())
    if backbone.weights is not None:
        for note in load_backbone_weights(trunk, backbone.weights):
            warnings.warn(note, stacklevel=2)
    network = network_around(trunk, config, matched_filter)
    if init is not None:
        load_weights(network, init)
    return network


def network_around(trunk: nn.Module, config: DiMPConfig, matched_filter: float | None = None) -> TrainedDiMP:
    """A network to be trained, with fresh heads on the given trunk itself; arguments as in `make_network`."""
    network = TrainedDiMP(trunk, config)
    if matched_filter is not None:
        start_matched(network.classifier.filter_initializer.filter_conv, matched_filter)
    return network


def start_matched(filter_conv: nn.Conv2d, gain: float) -> None:
    """Let the first filter be the target's own features, times `gain`: a matched filter.

    The published start is random, and so is the first filter's response to the target. With fresh features as well, it
    takes long to learn a better response.
    """
    with torch.no_grad():
        nn.init.dirac_(filter_conv.weight).mul_(gain)
