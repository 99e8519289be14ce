"""Videos come in frame by frame under their own numbers and times, whatever is wrong with the file."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from core.errors import UserError
from core.storage.containers import Structure, read_structure
from core.storage.video import VideoFile, _plan, list_frames, missing_numbers, open_video_file
from tests.core.storage.video_files import (
    cut,
    destroy_frames,
    number_of,
    packets,
    picture,
    put_index_first,
    trim,
    vary_rate,
    write_video,
)

KINDS = [("a.mp4", "mp4v"), ("a.avi", "MJPG"), ("a.mkv", "MJPG"), ("a.mov", "mp4v"), ("a.mkv", "mp4v")]


def numbers(path: Path) -> tuple[list[int], list[int], list[int], str | None]:
    """Numbers by the pictures, numbers and slots by the reader, and its complaint."""
    video = open_video_file(path)
    frames = list(video.frames())
    return (
        [number_of(frame.image) for frame in frames],
        [frame.number for frame in frames],
        [frame.slot for frame in frames],
        video.complaint(),
    )


@pytest.mark.parametrize(("name", "codec"), KINDS)
def test_a_whole_video(tmp_path: Path, name: str, codec: str) -> None:
    path = write_video(tmp_path / name, 30, 29.97, codec)
    video = open_video_file(path)
    assert (video.count, video.live, video.notes) == (30, False, ())
    assert video.speed == pytest.approx(29.97, abs=0.01)
    everything = list(range(1, 31))
    assert numbers(path) == (everything, everything, list(range(30)), None)


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "MJPG"), ("a.mkv", "MJPG"), ("a.mp4", "mp4v")])
def test_a_video_cut_short_says_which_frames(tmp_path: Path, name: str, codec: str) -> None:
    path = write_video(tmp_path / name, 30, 25, codec)
    if name.endswith("mp4"):
        put_index_first(path)
        assert numbers(path)[3] is None
    cut(path, 0.7)
    seen, counted, _, complaint = numbers(path)
    last = counted[-1]
    assert 10 < last < 29
    assert seen[:-1] == counted[:-1] == list(range(1, last))  # of the last one a part may be grey
    assert complaint is not None
    assert f"frames {last + 1}–30 of 30 could not be read: the file is cut short" in complaint


@pytest.mark.parametrize("lost", [[7], [1], [30], [1, 2, 9, 10, 11, 30]])
def test_frames_that_cannot_be_decoded_keep_the_others_numbers(tmp_path: Path, lost: list[int]) -> None:
    path = destroy_frames(write_video(tmp_path / "a.mkv", 30, 25, "MJPG"), lost)
    rest = [number for number in range(1, 31) if number not in lost]
    seen, counted, slots, complaint = numbers(path)
    assert seen == counted == rest
    assert slots == [number - 1 for number in rest]
    assert complaint == f"'{path}': {list_frames(lost)} of 30 could not be read"


def test_a_variable_rate_keeps_every_frames_time(tmp_path: Path) -> None:
    path = vary_rate(write_video(tmp_path / "a.mp4"), [(10, 40), (10, 20), (9, 80), (1, 40)])
    video = open_video_file(path)
    frames = list(video.frames())
    starts = np.cumsum([0] + [40] * 10 + [20] * 10 + [80] * 9)
    assert video.speed == pytest.approx(50)
    assert [frame.slot for frame in frames] == (starts / 20).tolist()
    assert [number_of(frame.image) for frame in frames] == [frame.number for frame in frames]
    assert video.complaint() is None
    assert video.notes == (f"'{path}': its frame rate varies, 12.5 to 50 frames/s",)


def test_a_trimmed_video_lacks_nothing(tmp_path: Path) -> None:
    path = trim(write_video(tmp_path / "a.mp4"), 5)
    assert read_structure(path) == Structure(None, True)
    assert numbers(path) == (list(range(6, 31)), list(range(1, 26)), list(range(25)), None)


@pytest.mark.parametrize("codec", ["MPG1", "MPG2"])
@pytest.mark.parametrize("name", ["a.avi", "a.mp4", "a.mkv"])
def test_frames_stored_in_another_order_than_shown(tmp_path: Path, name: str, codec: str) -> None:
    """MPEG-1 and MPEG-2 with B-frames; AVI stores no times for them."""
    path = write_video(tmp_path / name, 30, 25, codec)
    everything = list(range(1, 31))
    assert numbers(path) == (everything, everything, list(range(30)), None)


def test_a_picture_that_is_not_to_be_shown_is_not_missing(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.webm", 30, 25, "VP80")
    content = bytearray(path.read_bytes())
    place = content.index(packets(path)[19])
    content[place] &= 0xFF ^ 0x10  # show_frame of RFC 6386
    path.write_bytes(content)
    _, counted, slots, complaint = numbers(path)
    assert counted == list(range(1, 30))
    assert slots == [slot for slot in range(30) if slot != 19]
    assert complaint is None


def test_a_matroska_file_that_has_lost_a_part(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", 30, 2, "MJPG")  # a cluster holds five seconds
    content = bytearray(path.read_bytes())
    first = content.index(b"\x1f\x43\xb6\x75")
    second = content.index(b"\x1f\x43\xb6\x75", first + 4)
    content[second : second + 4] = bytes(4)
    path.write_bytes(content)
    seen, counted, slots, complaint = numbers(path)
    lost = sorted({*range(1, 31)} - set(counted))
    assert lost
    assert seen == counted
    assert slots == [number - 1 for number in counted]
    assert complaint is not None
    assert f"{list_frames(lost)} of 30 could not be read: the file is damaged at byte {second:,}" in complaint


def test_what_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no video")
    cut(write_video(tmp_path / "cut.mp4"), 0.6)
    no_frame = write_video(tmp_path / "none.avi", 5, 25, "MJPG")
    destroy_frames(write_video(tmp_path / "none.mkv", 5, 25, "MJPG"), [1, 2, 3, 4, 5])
    no_frame.write_bytes(no_frame.read_bytes()[: no_frame.read_bytes().index(b"movi") + 4])
    for name, why in (
        ("empty.mp4", "the file is empty"),
        ("text.mp4", "cannot be opened"),
        ("cut.mp4", "the file is cut short"),
        ("none.avi", "the file is cut short"),
        ("none.mkv", "has no frame that can be read"),
    ):
        with pytest.raises(UserError, match=rf"{name}.*{why}"):
            open_video_file(tmp_path / name)


def test_rates_that_a_container_does_not_say() -> None:
    times = [40.0 * k for k in range(10)]
    for speed in (0.0, float("nan"), -1.0, 90000.0):
        plan = _plan(times, speed, 10, Structure())
        assert (plan.speed, plan.slots, plan.notes) == (pytest.approx(25), list(range(10)), ())
    unknown = _plan([0.0] * 10, 0.0, 10, Structure())
    assert (unknown.speed, unknown.slots) == (30, list(range(10)))
    assert "30 frames/s taken" in unknown.notes[0]


def test_rounded_times_are_a_constant_rate() -> None:
    """Matroska counts whole milliseconds."""
    plan = _plan([float(round(1000 * k / 60)) for k in range(600)], 60.0, 600, Structure())
    assert (plan.speed, plan.slots, plan.notes) == (60.0, list(range(600)), ())


def test_wild_times_do_not_fill_the_disk() -> None:
    times = [0.0, 40.0, 80.0, 1e8, 1e8 + 40]
    plan = _plan(times, 25.0, 5, Structure())
    assert plan.slots[-1] <= 100 * 5 + 1001
    assert plan.slots == sorted(set(plan.slots))


def test_a_cut_file_that_does_not_say_its_length() -> None:
    damaged = Structure("the file is cut short")
    assert _plan([0.0, 40.0], 25.0, -1, damaged).open_end
    assert not _plan([0.0, 40.0], 25.0, 2, damaged).open_end


def test_written_frames_are_shown_when_they_were(tmp_path: Path) -> None:
    with VideoFile(tmp_path / "a.avi", 10) as file:
        for number, slot in ((1, 1), (2, 2), (3, 5)):
            file.write(picture(number), slot)
    assert file.repeated == 3
    assert file.note() == "written at 10 frames/s with 3 repeats, so that times hold"
    assert numbers(tmp_path / "a.avi")[0] == [1, 1, 2, 2, 2, 3]


def test_lists_of_frames() -> None:
    assert list_frames([7]) == "frame 7"
    assert list_frames([12, 7, 13, 14]) == "frames 7, 12–14"
    assert list_frames(range(1, 100, 2)).endswith("37, 39, … (50 in all)")


def test_numbers_left_out_of_a_series() -> None:
    assert missing_numbers([1, 2, 3, 5, 6, 9]) == [4, 7, 8]
    assert missing_numbers([0, 5, 10, 20, 25]) == [15]
    assert missing_numbers([3]) == missing_numbers([]) == missing_numbers([4, 6, 8]) == []


def test_a_turned_telephones_video_comes_upright(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 3)
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 44  # the matrix, ISO/IEC 14496-12, 8.3.2
    struct.pack_into(">9i", content, place, 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    assert [frame.image.shape for frame in open_video_file(path).frames()] == [(64, 48, 3)] * 3


@pytest.mark.parametrize("codec", ["MJPG", "XVID"])
def test_an_overwritten_piece_of_an_avi_keeps_the_others_numbers(tmp_path: Path, codec: str) -> None:
    """Headers of chunks are gone with it: a reader looks for the next one, and counts on as if nothing had been."""
    path = write_video(tmp_path / "a.avi", 30, 25, codec)
    content, encoded = bytearray(path.read_bytes()), packets(path)
    place = content.index(b"movi")
    starts = [place := content.index(b"00dc", place + 1) for _ in encoded]
    content[starts[6] : starts[8]] = bytes(starts[8] - starts[6])
    path.write_bytes(content)
    rest = [number for number in range(1, 31) if number not in (7, 8)]
    _, counted, slots, complaint = numbers(path)
    assert counted == rest
    assert slots == [number - 1 for number in rest]
    where = f"the file is damaged at byte {starts[6]:,}"
    assert complaint == f"'{path}': frames 7–8 of 30 could not be read: {where}"


def test_a_chunk_of_an_avi_that_swallows_the_next(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", 30, 25, "MJPG")
    content = bytearray(path.read_bytes())
    place = content.index(b"movi")
    starts = [place := content.index(b"00dc", place + 1) for _ in range(30)]
    struct.pack_into("<I", content, starts[6] + 4, starts[8] - starts[6] - 8)
    path.write_bytes(content)
    _, counted, _, complaint = numbers(path)
    assert len(counted) == 29
    assert counted[-1] == 30
    assert complaint is not None
    assert f"the file is damaged at byte {starts[6]:,}" in complaint


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0, 0xA7),  # of a block that is called a number, the block's frame is lost
        (2, 0x83),  # another track
        (0, 0xF1),  # no element that lies there
    ],
)
def test_blocks_of_a_matroska_that_cannot_be(tmp_path: Path, offset: int, value: int) -> None:
    path = write_video(tmp_path / "a.mkv", 30, 25, "MJPG")
    assert read_structure(path) == Structure()
    content, encoded = bytearray(path.read_bytes()), packets(path)
    block = content.index(encoded[14]) - 4  # track, time, flags
    header = content.rindex(b"\xa3", 0, block)
    content[header if offset == 0 else block] = value
    path.write_bytes(content)
    _, counted, slots, complaint = numbers(path)
    assert 15 not in counted
    assert slots == [number - 1 for number in counted]
    assert complaint is not None
    assert f"the file is damaged at byte {header:,}" in complaint


def test_a_table_of_an_mp4_that_lists_more_than_there_is(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")
    content = bytearray(path.read_bytes())
    content[content.index(b"stsz") + 16 + 4 * 9] = 1  # the tenth frame has 16 million bytes
    path.write_bytes(content)
    _, counted, _, complaint = numbers(path)
    assert counted == list(range(1, counted[-1] + 1))
    assert complaint is not None
    assert f"frames {counted[-1] + 1}–30 of 30 could not be read: its table of frames lists" in complaint


def test_frames_beyond_the_limit_on_pixels_are_refused_undecoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "a.avi", 3, codec="MJPG")
    monkeypatch.setenv("LWDNA_MAX_PIXELS", "3071")
    with pytest.raises(
        UserError, match=r"a\.avi' cannot be read: its 64 x 48 pixels exceed .* 3071: .*--max-pixels"
    ):
        open_video_file(path)
    monkeypatch.setenv("LWDNA_MAX_PIXELS", "3072")
    assert open_video_file(path).count == 3


def test_a_damaged_file_cannot_claim_more_frames_than_it_has_bytes(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", 30, codec="MJPG")
    content = path.read_bytes()
    assert content.count(struct.pack("<I", 30)) >= 2  # in the main header, and in the stream's
    path.write_bytes(content.replace(struct.pack("<I", 30), struct.pack("<I", 2**31 - 1)))
    cut(path, 0.7)
    video = open_video_file(path)
    assert len(list(video.frames())) > 10
    assert video.count is not None
    assert 30 <= video.count <= path.stat().st_size
    assert len(video.lost) < video.count


def test_times_of_a_damaged_file_that_are_far_apart_count_no_missing_frames() -> None:
    plan = _plan([0.0, 40.0, 4e12], 25.0, 3, Structure("damaged"))
    assert (plan.numbers, plan.count) == ([1, 2, 3], 3)
    assert plan.slots[-1] < 2000
