from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import UserError
from tracking.datasets.sequence import FrameFolder
from tracking.training.config import SamplingConfig
from tracking.training.sampling import draw_frames, draw_sequence
from tracking.training.sequences import TrainingSet, VideoFiles

PUBLISHED = SamplingConfig()


def training_set(counts: list[int], boxes: np.ndarray | None = None, still: bool = False) -> TrainingSet:
    rows = sum(counts)
    table = np.tile(np.array([10, 10, 20, 20], np.float32), (rows, 1)) if boxes is None else boxes
    folders = [FrameFolder(Path(f"/none/{index}")) for index in range(len(counts))]
    return TrainingSet(
        "set",
        Path("/none"),
        np.cumsum([0, *counts]),
        table,
        np.ones(rows, bool),
        VideoFiles(folders, counts),
        still,
    )


@given(
    usable=st.sets(st.integers(0, 400), min_size=3, max_size=80),
    seed=st.integers(0, 2**32),
    train=st.integers(1, 4),
    test=st.integers(1, 4),
)
def test_frames_are_causal_and_near(usable: set[int], seed: int, train: int, test: int) -> None:
    config = SamplingConfig(train_frames=train, test_frames=test)
    frames = draw_frames(np.array(sorted(usable)), config, np.random.default_rng(seed))
    base, earlier, later = frames[0], frames[1:train], frames[train:]
    assert set(frames.tolist()) <= usable
    assert len(frames) == train + test
    assert (earlier < base).all()
    assert (later > base).all()
    # The window is the published 30 frames, grown by the fewest fives with which both sides hold a frame.
    needed = min(frame for frame in usable if frame > base) - base
    if train > 1:
        needed = max(needed, base - max(frame for frame in usable if frame < base))
    gap = next(gap for gap in range(30, 500, 5) if gap >= needed)
    assert np.abs(frames - base).max() <= gap


def test_every_frame_of_the_window_is_as_likely() -> None:
    config = SamplingConfig(train_frames=2, test_frames=1, max_gap=3)
    random = np.random.default_rng(0)
    drawn = np.array([draw_frames(np.arange(20), config, random) for _ in range(20_000)])
    middle = drawn[(drawn[:, 0] >= 3) & (drawn[:, 0] <= 16)]
    for column in (1, 2):
        distances = np.abs(middle[:, column] - middle[:, 0])
        share = np.bincount(distances, minlength=4)[1:] / len(distances)
        assert np.allclose(share, 1 / 3, atol=0.02)
    assert set(drawn[:, 0]) == set(range(1, 19))  # a frame before it and one after it


def test_only_sequences_with_enough_visible_frames() -> None:
    source = training_set([19, 20, 40, 40])
    source.visible[39 + 12 :] = False
    source.visible[79 : 79 + 13] = True
    usable = source.confined_to(PUBLISHED)
    assert usable.sequences.tolist() == [1, 3]  # 19 frames, 20 frames, 12 visible, 13 visible
    assert usable.frames(3).tolist() == list(range(13))
    assert usable.rows.tolist() == [*range(19, 39), *range(79, 92)]


def test_boxes_too_small_or_undefined_are_left_out_of_the_index() -> None:
    boxes = np.tile(np.array([10, 10, 20, 20], np.float32), (30, 1))
    boxes[0, 2:] = (1, 100)  # one side of a pixel
    boxes[1, 2:] = (3, 5)  # sqrt(15) < 4
    boxes[2, 2:] = (4, 4)
    boxes[3, 0] = np.nan
    boxes[4, 2:] = 0
    boxes[5, 2:] = -5
    usable = training_set([30], boxes).usable(PUBLISHED)
    assert np.flatnonzero(~usable).tolist() == [0, 1, 3, 4, 5]


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(
        UserError, match=r"none of 2 sequences has at least 20 frames, 13 of them with a target"
    ):
        training_set([10, 19]).confined_to(PUBLISHED)
    stills = training_set([1, 1], np.zeros((2, 4), np.float32), still=True)
    with pytest.raises(UserError, match="none of 2 sequences has a target of at least 4 pixels"):
        stills.confined_to(PUBLISHED)


def test_sources_are_drawn_by_weight_and_their_sequences_alike() -> None:
    sets = [training_set([20] * count).confined_to(PUBLISHED) for count in (2, 10, 1)]
    random = np.random.default_rng(1)
    drawn = np.array([draw_sequence(sets, [1.0, 2.0, 0.0], random) for _ in range(12_000)])
    chosen = np.bincount(drawn[:, 0], minlength=3) / len(drawn)
    assert chosen == pytest.approx([1 / 3, 2 / 3, 0], abs=0.02)
    within = np.bincount(drawn[drawn[:, 0] == 1, 1], minlength=10)
    assert within / within.sum() == pytest.approx([0.1] * 10, abs=0.02)


def test_frames_that_cannot_be_read_are_taken_out() -> None:
    usable = training_set([20, 20]).confined_to(PUBLISHED)
    fewer = usable.without([3, 25], PUBLISHED)
    assert 3 not in fewer.frames(0)
    assert 5 not in fewer.frames(1)
    assert usable.without(list(range(8)), PUBLISHED).sequences.tolist() == [1]
