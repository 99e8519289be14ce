"""The target filter's steepest descent (Bhat et al., ICCV 2019, section 3.1 and 3.2, equations 1 to 7).

The loss of a filter is the squared weighted residual between its scores and a label map, plus a ridge term. Every step
minimises the Gauss-Newton quadratic along the gradient. Label, mask and weight of a residual depend on the distance to
the target alone and are learned as piecewise linear functions of it.

The scores of the next filter follow from those of this one and of the gradient, which the step length needs anyway: two
applications of the filter operator per step instead of three.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.errors import UserError
from tracking.dimp.filters import apply_adjoint, apply_filter, score_size
from tracking.dimp.precision import full_precision

SMALLEST_REGULARISATION = 1e-3
SMALLEST_CURVATURE = 1e-8


@dataclass(frozen=True)
class ResidualMaps:
    """The maps with which the loss compares scores, each (S, N, h', w').

    Attributes:
        label: the wanted scores y.
        mask: m in [0, 1], the weight of negative scores: 1 on the target, 0 far away from it.
        weight: v of a residual, without the images' weights.
    """

    label: Tensor
    mask: Tensor
    weight: Tensor


class FilterOptimizer(nn.Module):
    """A few steps of Gauss-Newton steepest descent on the filter's loss.

    Args:
        filter_size: the filter's side k.
        stride: image pixels per feature cell.
        iterations: steps, unless `forward` is given another number.
        bins: knots of the radial functions.
        bin_step: distance between knots, in score cells.
        sigma: spread of the label's initial Gaussian, in score cells.
        step_length: initial factor of the exact step.
        regularisation: initial square root of the ridge term's weight.
    """

    def __init__(
        self,
        filter_size: int,
        stride: int,
        iterations: int = 5,
        *,
        bins: int = 100,
        bin_step: float = 0.1,
        sigma: float = 0.9,
        step_length: float = 0.9,
        regularisation: float = 0.1,
    ) -> None:
        super().__init__()
        self.filter_size = filter_size
        self.stride = stride
        self.iterations = iterations
        self.bin_step = bin_step
        self.log_step_length = nn.Parameter(torch.full((1,), math.log(step_length)))
        self.filter_reg = nn.Parameter(torch.full((1,), regularisation))
        distance = torch.arange(bins, dtype=torch.float32) * bin_step
        gauss = torch.exp(-(distance**2) / (2 * sigma**2))
        self.label_map_predictor = _radial(gauss - gauss.min())
        self.target_mask_predictor = nn.Sequential(_radial(3 * torch.tanh(2 - distance)), nn.Sigmoid())
        self.spatial_weight_predictor = _radial(torch.ones(bins))

    def residual_maps(self, boxes: Tensor, height: int, width: int) -> ResidualMaps:
        """Label, mask and weight around targets.

        Args:
            boxes: (S, N, 4), x, y, w, h in crop pixels.
            height, width: of the score map.
        """
        offset = (self.filter_size % 2) / 2
        centre = (boxes[..., :2] + boxes[..., 2:] / 2) / self.stride - offset
        columns = torch.arange(width, dtype=boxes.dtype, device=boxes.device)
        rows = torch.arange(height, dtype=boxes.dtype, device=boxes.device)
        across = (columns - centre[..., 0, None]).square()
        down = (rows - centre[..., 1, None]).square()
        distance = (down[..., :, None] + across[..., None, :]).sqrt()
        label, mask, weight = (
            self._interpolate(knots.flatten(), distance)
            for knots in (
                self.label_map_predictor.weight,
                self.target_mask_predictor.get_parameter("0.weight"),
                self.spatial_weight_predictor.weight,
            )
        )
        return ResidualMaps(label, torch.sigmoid(mask), weight)

    def _interpolate(self, knots: Tensor, distance: Tensor) -> Tensor:
        """The piecewise linear function with these values at 0, bin_step, ...; constant beyond the last knot.

        It is the paper's 1x1 convolution on triangular basis functions, of which no more than two differ from zero.
        """
        position = (distance / self.bin_step).clamp(max=len(knots) - 1)
        left = position.floor().clamp(max=len(knots) - 2)
        index = left.long()
        return torch.lerp(knots[index], knots[index + 1], (position - left).to(knots.dtype))

    def forward(
        self,
        weight: Tensor,
        features: Tensor,
        boxes: Tensor,
        sample_weight: Tensor | None = None,
        iterations: int | None = None,
    ) -> tuple[list[Tensor], Tensor]:
        """Improve filters; gradients flow through every step.

        Args:
            weight: (S, C, k, k), the filters to start from.
            features: (S, N, C, h, w), classification features of the training images.
            boxes: (S, N, 4), x, y, w, h of the targets in crop pixels.
            sample_weight: (S, N), how much each image counts; None for 1 / N each.
            iterations: number of steps; None for the module's own.

        Returns:
            All iterates, the start included; and the loss of each, (iterations + 1,), divided by S.

        Raises:
            UserError: shapes that do not match.
        """
        _check_shapes(weight, features, boxes, sample_weight, self.filter_size)
        with full_precision(features):
            return self._descend(
                weight, features, boxes, sample_weight, self.iterations if iterations is None else iterations
            )

    def _descend(
        self, weight: Tensor, features: Tensor, boxes: Tensor, sample_weight: Tensor | None, iterations: int
    ) -> tuple[list[Tensor], Tensor]:
        sequences, images = boxes.shape[:2]
        size = (
            score_size(features.shape[-2], self.filter_size),
            score_size(features.shape[-1], self.filter_size),
        )
        maps = self.residual_maps(boxes, *size)
        share = boxes.new_tensor(1 / images) if sample_weight is None else sample_weight[..., None, None]
        strength = share.sqrt() * maps.weight
        ridge = self.filter_reg.square().clamp_min(SMALLEST_REGULARISATION**2)
        step = self.log_step_length.exp()
        below, above = (1 - maps.mask) / 2, (1 + maps.mask) / 2

        scores = apply_filter(weight, features)
        iterates, losses = [weight], []
        for number in range(iterations + 1):
            residual = strength * (below * scores.abs() + above * scores - maps.label)
            losses.append(residual.square().sum() + ridge * weight.square().sum())
            if number == iterations:
                break
            slope = strength * (below * scores.detach().sign() + above)
            gradient = apply_adjoint(slope * residual, features, self.filter_size) + ridge * weight
            change = apply_filter(gradient, features)
            energy = gradient.square().sum(dim=(1, 2, 3))
            curvature = (slope * change).square().sum(dim=(1, 2, 3)) + ridge * energy
            length = step * energy / curvature.clamp_min(SMALLEST_CURVATURE)
            weight = weight - length[:, None, None, None] * gradient
            scores = scores - length[:, None, None, None] * change
            iterates.append(weight)
        return iterates, torch.stack(losses).flatten() / sequences


def _radial(values: Tensor) -> nn.Conv2d:
    conv = nn.Conv2d(len(values), 1, 1, bias=False)
    with torch.no_grad():
        conv.weight.copy_(values[None, :, None, None])
    return conv


def _check_shapes(
    weight: Tensor, features: Tensor, boxes: Tensor, sample_weight: Tensor | None, kernel: int
) -> None:
    sequences, images, channels = features.shape[:3]
    expected = {
        "filter": (weight.shape, (sequences, channels, kernel, kernel)),
        "boxes": (boxes.shape, (sequences, images, 4)),
    }
    if sample_weight is not None:
        expected["sample_weight"] = (sample_weight.shape, (sequences, images))
    for name, (found, wanted) in expected.items():
        if tuple(found) != wanted:
            raise UserError(
                f"{name} of shape {tuple(found)} for features {tuple(features.shape)}: expected {wanted}"
            )
