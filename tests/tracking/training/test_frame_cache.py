from __future__ import annotations

import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage import data

from core.errors import UserError
from tests.properties import examples
from tests.tracking.training.trees import HEIGHT, WIDTH, sequence_folder
from tracking.training.config import CacheConfig, SamplingConfig, SourceConfig
from tracking.training.frame_cache import open_frame_cache, reduce_frame
from tracking.training.frames import AnnotatedFrame, BadFrame, DecodedFrames
from tracking.training.sequences import UsableSet
from tracking.training.sources import open_source

PHOTO = data.astronaut()


def usable_set(folder: Path) -> UsableSet:
    return open_source(SourceConfig("folder", folder=folder), folder.parent).confined_to(SamplingConfig())


@examples(40)
@given(
    x=st.floats(-40, 520),
    y=st.floats(-40, 520),
    width=st.floats(2, 300),
    height=st.floats(2, 300),
)
def test_reduced_frames_show_the_target_where_they_say(
    x: float, y: float, width: float, height: float
) -> None:
    config = CacheConfig(target=32, reach=2.0)
    box = np.array([x, y, width, height], np.float32)
    image, reduced = reduce_frame(AnnotatedFrame(PHOTO, box), config)
    size = np.sqrt(width * height)
    assert np.sqrt(reduced[2] * reduced[3]) <= max(32 * 1.2, 0)
    if size <= 32:  # nothing is resized: the very pixels, moved
        left, top = np.rint(box[:2] - reduced[:2]).astype(int)
        assert reduced[2:] == pytest.approx(box[2:])
        assert (image == PHOTO[top : top + image.shape[0], left : left + image.shape[1]]).all()
    assert max(image.shape[:2]) <= 4 * min(size, 32) * 1.3 + 4


def test_a_reduced_ramp_keeps_its_coordinates() -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (256, 1, 3))
    box = np.array(
        [99.5, 99.5, 60, 60], np.float32
    )  # centre at pixel centre 129.5, that is between 129 and 130
    image, reduced = reduce_frame(AnnotatedFrame(ramp, box), CacheConfig(target=15, reach=1.0))
    centre = reduced[0] + reduced[2] / 2
    row = image[image.shape[0] // 2, :, 0].astype(float)
    assert np.interp(centre, np.arange(len(row)), row) == pytest.approx(129.5, abs=0.6)
    assert reduced[2] == pytest.approx(15, rel=0.05)


def test_frames_from_the_cache_are_those_of_the_files(tmp_path: Path) -> None:
    boxes = sequence_folder(tmp_path / "set", "face")
    sequence_folder(tmp_path / "set", "badge")
    usable = usable_set(tmp_path / "set")
    cached = open_frame_cache(usable, CacheConfig(target=64, reach=8, folder=tmp_path / "cache"), threads=2)
    decoded = DecodedFrames(usable.source)
    for sequence, frame in ((0, 3), (1, 0), (1, 23)):
        there, here = decoded.read(sequence, frame), cached.read(sequence, frame)
        assert there.image.shape == (HEIGHT, WIDTH, 3)
        assert (there.image == here.image).all()  # small enough to be kept whole
        assert here.box == pytest.approx(there.box)
    assert decoded.read(1, 5).box == pytest.approx(boxes[5] - (0.5, 0.5, 0, 0))
    again = pickle.loads(pickle.dumps(cached))
    assert (again.read(0, 3).image == cached.read(0, 3).image).all()


def test_the_cache_is_made_once_and_anew_for_changed_frames(tmp_path: Path) -> None:
    sequence_folder(tmp_path / "set", "face")
    config = CacheConfig(target=16, folder=tmp_path / "cache")
    first = open_frame_cache(usable_set(tmp_path / "set"), config)
    made = first.path.stat().st_mtime_ns
    assert open_frame_cache(usable_set(tmp_path / "set"), config).path.stat().st_mtime_ns == made
    other = open_frame_cache(usable_set(tmp_path / "set"), CacheConfig(target=12, folder=tmp_path / "cache"))
    assert other.path != first.path
    frame = tmp_path / "set/face/img/0003.png"
    cv2.imwrite(str(frame), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    os.utime(frame, ns=(1, 1))
    changed = open_frame_cache(usable_set(tmp_path / "set"), config)
    assert changed.path != first.path
    assert changed.read(0, 3).image.max() == 0
    assert len(list((tmp_path / "cache").glob("*.frames"))) == 1  # outdated ones go


def test_two_selections_of_one_set_do_not_displace_each_other(tmp_path: Path) -> None:
    sequence_folder(tmp_path / "set", "face")
    sequence_folder(tmp_path / "set", "badge")
    config = CacheConfig(folder=tmp_path / "cache")
    paths = []
    for name in ("face", "badge"):
        source = SourceConfig("folder", folder=tmp_path / "set", sequences=(name,))
        usable = open_source(source, tmp_path).confined_to(SamplingConfig())
        paths.append(open_frame_cache(usable, config).path)
    assert all(path.is_file() for path in paths)


def test_frames_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    sequence_folder(tmp_path / "set", "face")
    bad = tmp_path / "set/face/img/0004.png"
    bad.write_bytes(b"no image")
    usable = usable_set(tmp_path / "set")
    with pytest.raises(BadFrame, match=r"0004.png' cannot be read: no decoder knows it") as caught:
        DecodedFrames(usable.source).read(0, 4)
    assert caught.value.path == str(bad)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.path, str(copy)) == (str(bad), str(caught.value))
    cached = open_frame_cache(usable, CacheConfig(folder=tmp_path / "cache"))
    assert list(cached.bad) == [str(bad)]
    assert cached.bad_rows(usable.rows).tolist() == [4]
    assert cached.read(0, 5).image.shape == (HEIGHT, WIDTH, 3)


def test_a_cache_that_is_removed_meanwhile(tmp_path: Path) -> None:
    sequence_folder(tmp_path / "set", "face")
    cached = open_frame_cache(usable_set(tmp_path / "set"), CacheConfig(folder=tmp_path / "cache"))
    cached.path.unlink()
    with pytest.raises(UserError, match="was removed during training"):
        cached.read(0, 0)
    with pytest.raises(UserError, match="reach must be >= 1"):
        CacheConfig(reach=0.5)
