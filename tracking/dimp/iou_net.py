"""The box regressor of ATOM (Danelljan et al., CVPR 2019, section 3.1): how well does a box overlap this target?

A reference branch turns the target in the first frame into two vectors; these modulate the features of a later frame,
in which any box can then be judged. A sequence has one modulation and one frame here; several frames of one sequence
lie along the batch, with the modulation repeated.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tracking.dimp.roi import pool_boxes

Maps = tuple[Tensor, Tensor]
FINE_STRIDE, COARSE_STRIDE = 8, 16


def conv_block(inputs: int, outputs: int, kernel: int = 3, padding: int = 1) -> nn.Sequential:
    """Convolution with bias, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=padding), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class LinearBlock(nn.Module):
    """A fully connected layer on a pooled region, batch norm and ReLU.

    Args:
        inputs: channels of the region.
        outputs: size of the output.
        size: the region's side.
    """

    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs * size * size, outputs)
        self.bn = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, regions: Tensor) -> Tensor:
        """(R, C, size, size) to (R, outputs)."""
        return self.relu(self.bn(self.linear(regions.flatten(1))[..., None, None]))[..., 0, 0]


class IoUNet(nn.Module):
    """Predicts 2 IoU - 1 of boxes with the target.

    Args:
        channels: of the backbone's stages of stride 8 and 16.
        width: channels of the modulated features and of the fully connected layers; 256 in ATOM and DiMP.
    """

    def __init__(self, channels: tuple[int, int], width: int = 256) -> None:
        super().__init__()
        fine, coarse = channels
        self.conv3_1r = conv_block(fine, width // 2)
        self.conv3_1t = conv_block(fine, width)
        self.conv3_2t = conv_block(width, width)
        self.fc3_1r = conv_block(width // 2, width, padding=0)
        self.conv4_1r = conv_block(coarse, width)
        self.conv4_1t = conv_block(coarse, width)
        self.conv4_2t = conv_block(width, width)
        self.fc34_3r = conv_block(2 * width, width, kernel=1, padding=0)
        self.fc34_4r = conv_block(2 * width, width, kernel=1, padding=0)
        self.fc3_rt = LinearBlock(width, width, 5)
        self.fc4_rt = LinearBlock(width, width, 3)
        self.iou_predictor = nn.Linear(2 * width, 1)
        self.init_weights()

    def init_weights(self) -> None:
        """He's normal rule, zero biases; batch norms scale by U(0, 1), as torch did when ATOM was published."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_in")
                assert module.bias is not None
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
                nn.init.uniform_(module.weight)

    def modulation(self, features: dict[str, Tensor], boxes: Tensor) -> Maps:
        """Describe targets.

        Args:
            features: the backbone's stages on S reference images, `layer2` (S, C2, h, w), `layer3` (S, C3, h/2, w/2).
            boxes: (S, 4), x, y, w, h of the targets in crop pixels.

        Returns:
            Two non-negative vectors per sequence, (S, width) each, for the features of stride 8 and 16.
        """
        boxes = boxes[:, None]
        fine = pool_boxes(self.conv3_1r(features["layer2"]), boxes, 3, 1 / FINE_STRIDE)[:, 0]
        coarse = pool_boxes(self.conv4_1r(features["layer3"]), boxes, 1, 1 / COARSE_STRIDE)[:, 0]
        both = torch.cat([self.fc3_1r(fine), coarse], dim=1)
        return self.fc34_3r(both).flatten(1), self.fc34_4r(both).flatten(1)

    def iou_features(self, features: dict[str, Tensor]) -> Maps:
        """The maps of frames in which boxes are judged: (N, width, h, w) and (N, width, h/2, w/2)."""
        return (
            self.conv3_2t(self.conv3_1t(features["layer2"])),
            self.conv4_2t(self.conv4_1t(features["layer3"])),
        )

    def predict_iou(self, modulation: Maps, maps: Maps, boxes: Tensor) -> Tensor:
        """Judge boxes; differentiable in them.

        Args:
            modulation: of S sequences, from `modulation`.
            maps: of one frame for each, from `iou_features`.
            boxes: (S, P, 4), x, y, w, h in crop pixels.

        Returns:
            (S, P), about 2 IoU - 1.
        """
        sequences, count = boxes.shape[:2]
        vectors = []
        for scale, map_, size, stride, layer in zip(
            modulation, maps, (5, 3), (FINE_STRIDE, COARSE_STRIDE), (self.fc3_rt, self.fc4_rt), strict=True
        ):
            # Scaling channels and pooling commute: the pooled regions are far smaller than the maps.
            regions = pool_boxes(map_, boxes, size, 1 / stride) * scale[:, None, :, None, None]
            vectors.append(layer(regions.flatten(0, 1)))
        return self.iou_predictor(torch.cat(vectors, dim=1)).reshape(sequences, count)
