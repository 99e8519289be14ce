from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from tracking.evaluation.metrics import overlap
from tracking.training.config import JitterConfig
from tracking.training.jitter import draw_proposals, jitter
from tracking.training.labels import gaussian_labels

SIGMAS = (0.01, 0.05, 0.1, 0.2, 0.3)


@pytest.mark.parametrize(("scale", "shift"), [(0.25, 3.0), (0.5, 4.5)])
def test_jitter_has_the_published_spread(scale: float, shift: float) -> None:
    box = np.array([30.0, 40.0, 20.0, 45.0])
    drawn = jitter(np.tile(box, (40_000, 1)), JitterConfig(scale, shift), np.random.default_rng(0))
    logs = np.log(drawn[:, 2:] / box[2:])
    assert logs.mean(axis=0) == pytest.approx([0, 0], abs=0.02 * scale)
    assert logs.std(axis=0) == pytest.approx([scale, scale], rel=0.02)
    assert abs(np.corrcoef(logs.T)[0, 1]) < 0.02
    moved = drawn[:, :2] + drawn[:, 2:] / 2 - (box[:2] + box[2:] / 2)
    relative = moved / np.sqrt(drawn[:, 2:].prod(axis=1, keepdims=True))
    assert np.abs(relative).max() <= shift / 2
    assert relative.mean(axis=0) == pytest.approx([0, 0], abs=0.02 * shift)
    assert relative.std(axis=0) == pytest.approx([shift / 12**0.5] * 2, rel=0.02)


def test_no_jitter_leaves_boxes_alone() -> None:
    boxes = np.array([[1.5, 2.5, 10.0, 20.0], [0.0, 0.0, 3.0, 3.0]])
    assert jitter(boxes, JitterConfig(0.0, 0.0), np.random.default_rng(0)) == pytest.approx(boxes)


@examples(60)
@given(
    x=st.floats(-50, 300),
    y=st.floats(-50, 300),
    width=st.floats(0.8, 200),
    height=st.floats(0.8, 200),
    seed=st.integers(0, 2**32),
)
def test_proposals_overlap_enough_and_overlaps_are_theirs(
    x: float, y: float, width: float, height: float, seed: int
) -> None:
    box = np.array([x, y, width, height])
    proposals, ious = draw_proposals(box, 16, SIGMAS, 0.1, np.random.default_rng(seed))
    assert proposals.shape == (16, 4)
    assert (proposals[:, 2:] > 0).all()
    assert ious == pytest.approx(overlap(proposals, np.tile(box, (16, 1))))
    assert (ious > 0.1).all()


def test_each_proposal_draws_a_spread_of_its_own() -> None:
    box = np.array([50.0, 50.0, 60.0, 30.0])
    proposals, _ = draw_proposals(box, 50_000, (0.01, 0.1), 0.1, np.random.default_rng(0))
    moved = (proposals[:, :2] + proposals[:, 2:] / 2 - box[:2] - box[2:] / 2) / np.sqrt(1800)
    # A mixture of two normals as likely: the variance is the mean of theirs.
    assert moved.std(axis=0) == pytest.approx([np.sqrt((0.01**2 + 0.1**2) / 2)] * 2, rel=0.02)
    grown = (proposals[:, 2:] - box[2:]) / np.sqrt(1800)
    assert grown.std(axis=0) == pytest.approx([np.sqrt((0.01**2 + 0.1**2) / 2)] * 2, rel=0.02)


def test_no_overlap_to_be_had_gives_the_target_itself() -> None:
    box = np.array([5.0, 5.0, 10.0, 10.0])
    proposals, ious = draw_proposals(box, 3, (0.3,), 1.0, np.random.default_rng(0))
    assert proposals.tolist() == [box.tolist()] * 3
    assert ious.tolist() == [1.0] * 3


def test_labels_peak_at_the_target() -> None:
    boxes = np.array([[144 - 20, 144 - 30, 40, 60], [16 * 3 - 8, 16 * 7 - 8, 16, 16]], float)
    even = gaussian_labels(boxes, 19, 4, 0.9)
    assert even.dtype == np.float32
    assert even[0, 9, 9] == 1
    assert np.unravel_index(even[1].argmax(), (19, 19)) == (7, 3)
    assert even[0, 9, 10] == pytest.approx(np.exp(-0.5 / 0.81))
    assert even[0, 8, 11] == pytest.approx(np.exp(-0.5 * 5 / 0.81))
    # A cell of a filter of odd size looks half a cell further.
    odd = gaussian_labels(np.array([[64.0, 32.0, 16.0, 16.0]]), 18, 3, 0.9)
    assert odd[0, 2, 4] == 1
