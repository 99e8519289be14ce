"""DiMP's training losses (Bhat et al., ICCV 2019, sections 3.5 and 4.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from core.training.recipe import require_range


@dataclass(frozen=True)
class LossConfig:
    """Weights of the parts of the loss; the defaults are DiMP-50's.

    Args:
        iou: of the mean squared error of the predicted overlaps.
        final: of the classification loss of the last filter.
        initial: of the same loss of the filter before the first optimiser step.
        iterates: of the losses in between, shared equally among them.
        threshold: labels below it count as background, where only positive scores are errors.
    """

    iou: float = 1.0
    final: float = 100.0
    initial: float = 100.0
    iterates: float = 400.0
    threshold: float = 0.05

    def __post_init__(self) -> None:
        for name in ("iou", "final", "initial", "iterates", "threshold"):
            require_range(name, getattr(self, name), 0, math.inf)


def hinge_errors(scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Residuals of scores: `score - label` on the target, `max(0, score)` on the background (equation 9).

    Args:
        scores: (..., K, K).
        labels: (..., K, K), broadcast against the scores.
        threshold: labels below it are background.
    """
    return torch.where(labels >= threshold, scores - labels, scores.clamp_min(0))


def dimp_loss(
    outputs: tuple[Tensor, Tensor], targets: Mapping[str, Tensor], config: LossConfig | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch, and its parts.

    Args:
        outputs: score maps of all filter iterates, (I + 1, S, M, K, K), and predicted overlaps as 2 IoU - 1, (S, M, P).
        targets: `labels` (S, M, K, K) and `ious` (S, M, P).
        config: the weights; None for DiMP-50's.

    Returns:
        the loss, and `scores`, `initial_scores` (classification losses of the last and the first filter), `iou` (mean
        squared error) and `found` (the share of test frames whose highest score is at most one cell from the
        label's).
    """
    config = config or LossConfig()
    scores, predicted = outputs
    labels = targets["labels"]
    of_iterates = hinge_errors(scores, labels, config.threshold).square().mean(dim=(1, 2, 3, 4))
    iou = functional.mse_loss(predicted, 2 * targets["ious"] - 1)
    loss = config.iou * iou + config.initial * of_iterates[0]
    if len(of_iterates) > 1:
        loss = loss + config.final * of_iterates[-1]
    if len(of_iterates) > 2:
        loss = loss + config.iterates * of_iterates[1:-1].mean()
    parts = {"scores": of_iterates[-1], "initial_scores": of_iterates[0], "iou": iou}
    return loss, {
        **{name: value.detach() for name, value in parts.items()},
        "found": found_rate(scores[-1], labels),
    }


def found_rate(scores: Tensor, labels: Tensor) -> Tensor:
    """The share of maps whose highest score is at most one cell, also diagonally, from the label's peak.

    Args:
        scores, labels: (..., K, K).
    """
    width = scores.shape[-1]
    here, there = scores.flatten(-2).argmax(-1), labels.flatten(-2).argmax(-1)
    rows = (here // width - there // width).abs()
    columns = (here % width - there % width).abs()
    return (torch.maximum(rows, columns) <= 1).float().mean()
