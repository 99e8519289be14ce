"""The whole network of DiMP: a backbone, the target classifier and the box regressor, on images cut around targets.

Module names are those of the published checkpoints. Only five convolutions read the backbone's widths, so any backbone
with stages of stride 8 and 16 fits (`tracking.dimp.backbones`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from core.errors import UserError
from tracking.dimp.features import classification_features
from tracking.dimp.filter_optimizer import FilterOptimizer
from tracking.dimp.filters import apply_filter
from tracking.dimp.initializer import FilterInitializer
from tracking.dimp.iou_net import COARSE_STRIDE, FINE_STRIDE, IoUNet
from tracking.dimp.precision import full_precision

STRIDES = {"layer2": FINE_STRIDE, "layer3": COARSE_STRIDE}


class Backbone(Protocol):
    """The interface of a backbone for DiMP; it is an `nn.Module` as well.

    Attributes:
        channels: of its stages `layer2` and `layer3`.
        strides: image pixels per cell of these stages; 8 and 16.
    """

    channels: dict[str, int]
    strides: dict[str, int]

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images (N, 3, H, W) to `layer2` (N, C2, H/8, W/8) and `layer3` (N, C3, H/16, W/16)."""


@dataclass(frozen=True)
class DiMPConfig:
    """Sizes of the heads; the defaults are DiMP-50's.

    Attributes:
        classification_channels: channels that the target filter sees.
        feature_blocks: residual blocks in the classification features.
        filter_size: side of the target filter, in cells of stride 16.
        optimizer_iterations: steepest-descent steps in training.
        iou_channels: width of the box regressor.
    """

    classification_channels: int = 512
    feature_blocks: int = 0
    filter_size: int = 4
    optimizer_iterations: int = 5
    iou_channels: int = 256

    def __post_init__(self) -> None:
        for name in ("classification_channels", "filter_size", "iou_channels"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: has to be at least 1")
        if min(self.feature_blocks, self.optimizer_iterations) < 0 or self.iou_channels % 2:
            raise UserError(
                "feature_blocks and optimizer_iterations cannot be negative, and iou_channels has to be even"
            )


class DiMPOutput(NamedTuple):
    """The outputs that a training step compares with its targets.

    Attributes:
        scores: (I + 1, S, M, h', w'), of every iterate of the filter on the test images.
        iou: (S, M, P), predictions of 2 IoU - 1 of the proposals.
    """

    scores: Tensor
    iou: Tensor


class Classifier(nn.Module):
    """Finds the target by a filter that is learned on the training images of one sequence.

    Args:
        inputs: channels of the backbone's stage of stride 16.
        config: sizes.
    """

    def __init__(self, inputs: int, config: DiMPConfig) -> None:
        super().__init__()
        self.filter_initializer = FilterInitializer(
            config.classification_channels, config.filter_size, COARSE_STRIDE
        )
        self.filter_optimizer = FilterOptimizer(
            config.filter_size, COARSE_STRIDE, config.optimizer_iterations
        )
        self.feature_extractor = classification_features(
            inputs, config.classification_channels, config.filter_size, config.feature_blocks
        )

    def features(self, stages: dict[str, Tensor]) -> Tensor:
        """Classification features (N, C, h, w) of the backbone's stages on N images."""
        return self.feature_extractor(stages["layer3"])

    def scores(self, weight: Tensor, features: Tensor) -> Tensor:
        """Score maps: filters (S, C, k, k) on features (S, M, C, h, w) to (S, M, h', w'), h' = h + 1 for even k.

        Cell j lies at pixel 16 j of the crop, plus 8 for odd k.
        """
        with full_precision(features):
            return apply_filter(weight, features)


class DiMPNet(nn.Module):
    """The tracker's network.

    Args:
        backbone: see `Backbone`; `tracking.dimp.backbones.backbone_trunk` makes them.
        config: sizes of the heads.

    Raises:
        UserError: the backbone's strides are not 8 and 16.
    """

    def __init__(self, backbone: nn.Module, config: DiMPConfig | None = None) -> None:
        super().__init__()
        self.config = config or DiMPConfig()
        channels: Mapping[str, int] = cast(Any, backbone).channels
        strides: Mapping[str, int] = cast(Any, backbone).strides
        if dict(strides) != STRIDES:
            raise UserError(f"DiMP needs a backbone with the strides {STRIDES}, this one has {dict(strides)}")
        self.feature_extractor = backbone
        self.classifier = Classifier(channels["layer3"], self.config)
        self.bb_regressor = IoUNet((channels["layer2"], channels["layer3"]), self.config.iou_channels)

    def extract(self, images: Tensor) -> dict[str, Tensor]:
        """The backbone's stages on normalised images (N, 3, H, W), whose sides are multiples of 16."""
        return self.feature_extractor(images)

    def forward(
        self, train_images: Tensor, test_images: Tensor, train_boxes: Tensor, test_proposals: Tensor
    ) -> DiMPOutput:
        """Learn each sequence's filter on its training images, and apply it to its test images.

        Args:
            train_images: (S, N, 3, H, W), normalised.
            test_images: (S, M, 3, H, W), normalised.
            train_boxes: (S, N, 4), x, y, w, h of the target in pixels; the first image is the regressor's reference.
            test_proposals: (S, M, P, 4), boxes to judge.
        """
        # Two passes: batch statistics of training and test frames stay apart, as in the published recipe.
        train = self.extract(train_images.flatten(0, 1))
        test = self.extract(test_images.flatten(0, 1))
        return self.from_stages(train, test, train_boxes, test_proposals)

    def from_stages(
        self, train: dict[str, Tensor], test: dict[str, Tensor], train_boxes: Tensor, test_proposals: Tensor
    ) -> DiMPOutput:
        """`forward` from the backbone's stages on.

        Args:
            train: the stages on the training images, (S * N, C, h, w) each, a sequence's images in a row.
            test: the stages on the test images, (S * M, C, h, w) each.
            train_boxes: (S, N, 4).
            test_proposals: (S, M, P, 4).
        """
        sequences, train_count = train_boxes.shape[:2]
        test_count = test_proposals.shape[1]
        train_features = self.classifier.features(train).unflatten(0, (sequences, train_count))
        test_features = self.classifier.features(test).unflatten(0, (sequences, test_count))
        with full_precision(train_boxes):
            initial = self.classifier.filter_initializer(train_features, train_boxes)
        iterates, _ = self.classifier.filter_optimizer(initial, train_features, train_boxes)
        scores = torch.stack([self.classifier.scores(weight, test_features) for weight in iterates])

        reference = {
            name: stage.unflatten(0, (sequences, train_count))[:, 0] for name, stage in train.items()
        }
        modulation = self.bb_regressor.modulation(reference, train_boxes[:, 0])
        fine, coarse = (vector.repeat_interleave(test_count, dim=0) for vector in modulation)
        iou = self.bb_regressor.predict_iou(
            (fine, coarse), self.bb_regressor.iou_features(test), test_proposals.flatten(0, 1)
        )
        return DiMPOutput(scores, iou.reshape(test_proposals.shape[:3]))
