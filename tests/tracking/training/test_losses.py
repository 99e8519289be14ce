from __future__ import annotations

import pytest
import torch

from core.errors import UserError
from tracking.training.losses import LossConfig, dimp_loss, found_rate, hinge_errors


def test_hinge_errors_by_hand() -> None:
    labels = torch.tensor([[1.0, 0.05], [0.049, 0.0]])
    scores = torch.tensor([[0.7, -0.2], [-3.0, 0.4]])
    # On the target the difference, on the background what is above zero.
    expected = torch.tensor([[-0.3, -0.25], [0.0, 0.4]])
    torch.testing.assert_close(hinge_errors(scores, labels, 0.05), expected)


def batch(iterates: int) -> tuple[tuple[torch.Tensor, torch.Tensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(iterates)
    scores = torch.rand(iterates, 2, 3, 5, 5, generator=generator) - 0.5
    labels = torch.rand(2, 3, 5, 5, generator=generator).pow(3)
    return (scores, torch.rand(2, 3, 4, generator=generator)), {
        "labels": labels,
        "ious": torch.rand(2, 3, 4, generator=generator),
    }


@pytest.mark.parametrize("iterates", [1, 2, 3, 6])
def test_loss_is_the_published_sum(iterates: int) -> None:
    (scores, predicted), targets = batch(iterates)
    loss, parts = dimp_loss((scores, predicted), targets)
    of_each = []
    for score in scores:
        total = 0.0
        for value, label in zip(score.flatten().tolist(), targets["labels"].flatten().tolist(), strict=True):
            total += (value - label if label >= 0.05 else max(value, 0.0)) ** 2
        of_each.append(total / targets["labels"].numel())
    expected = float(((predicted - (2 * targets["ious"] - 1)) ** 2).mean()) + 100 * of_each[0]
    if iterates > 1:
        expected += 100 * of_each[-1]
    if iterates > 2:  # 400 / 4 for each of the four in between, which DiMP-50 has
        expected += 400 / (iterates - 2) * sum(of_each[1:-1])
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(parts["scores"]) == pytest.approx(of_each[-1], rel=1e-5)
    assert float(parts["initial_scores"]) == pytest.approx(of_each[0], rel=1e-5)


def test_weights_of_the_parts() -> None:
    outputs, targets = batch(4)
    parts = dimp_loss(outputs, targets)[1]
    only_iou = LossConfig(iou=2.0, final=0, initial=0, iterates=0)
    assert float(dimp_loss(outputs, targets, only_iou)[0]) == pytest.approx(2 * float(parts["iou"]))
    only_final = LossConfig(iou=0, final=3.0, initial=0, iterates=0)
    assert float(dimp_loss(outputs, targets, only_final)[0]) == pytest.approx(3 * float(parts["scores"]))
    with pytest.raises(UserError, match="threshold must be >= 0"):
        LossConfig(threshold=-1)


def test_found_counts_peaks_within_a_cell() -> None:
    labels, scores = torch.zeros(4, 6, 6), torch.zeros(4, 6, 6)
    labels[:, 2, 5] = 1
    for index, place in enumerate([(2, 5), (3, 4), (2, 3), (3, 0)]):  # the last one is next in memory only
        scores[(index, *place)] = 1
    assert float(found_rate(scores, labels)) == 0.5
