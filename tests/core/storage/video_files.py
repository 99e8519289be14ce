"""Small videos whose pictures tell their number, and the ways in which real ones are broken."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np

SIZE = (64, 48)  # width, height
DARKEST, STEP = 20, 7  # grey level of a frame 0, and levels between neighbouring frames


def picture(number: int) -> np.ndarray:
    """Frame `number` (from 1): its grey level says which, under a pattern that keeps packets from being empty."""
    image = np.full((SIZE[1], SIZE[0], 3), DARKEST + STEP * number, np.uint8)
    image[::4, ::4] += np.uint8(3)
    return image


def number_of(image: np.ndarray) -> int:
    """Which frame a decoded picture is; codecs make it darker by up to 4 levels."""
    return round((float(np.median(image)) - DARKEST + 2) / STEP)


def write_video(path: Path, frames: int = 30, speed: float = 25.0, codec: str = "mp4v") -> Path:
    """A video of constant rate."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), speed, SIZE)
    assert writer.isOpened()
    for number in range(1, frames + 1):
        writer.write(picture(number))
    writer.release()
    return path


def cut(path: Path, fraction: float) -> Path:
    """Only the file's beginning is left."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    return path


def packets(path: Path) -> list[bytes]:
    """The encoded frames."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
    found = []
    while capture.grab():
        found.append(capture.retrieve()[1].tobytes())
    capture.release()
    return found


def destroy_frames(path: Path, numbers: list[int]) -> Path:
    """Zeros in place of some frames' data."""
    content, encoded = bytearray(path.read_bytes()), packets(path)
    position = 0
    for number, packet in enumerate(encoded, start=1):
        position = content.index(packet, position)
        if number in numbers:
            content[position : position + len(packet)] = bytes(len(packet))
        position += len(packet)
    path.write_bytes(content)
    return path


def _replace_box(content: bytes, parents: tuple[bytes, ...], kind: bytes, body: bytes) -> bytes:
    """An MP4 with one box's body replaced; the boxes around it grow with it. `moov` has to be the last box."""
    found = bytearray(content)
    place = found.index(kind) - 4
    old = struct.unpack_from(">I", found, place)[0]
    found[place : place + old] = struct.pack(">I", 8 + len(body)) + kind + body
    for parent in parents:
        at = found.index(parent) - 4
        size = struct.unpack_from(">I", found, at)[0]
        struct.pack_into(">I", found, at, size + 8 + len(body) - old)
    return bytes(found)


def vary_rate(path: Path, runs: list[tuple[int, float]]) -> Path:
    """Give an MP4's frames other durations: runs of (frames, milliseconds each)."""
    content = path.read_bytes()
    scale = struct.unpack_from(">I", content, content.index(b"mdhd") + 16)[0]
    ticks = [(frames, round(each * scale / 1000)) for frames, each in runs]
    body = struct.pack(">II", 0, len(ticks)) + b"".join(struct.pack(">II", *run) for run in ticks)
    content = _replace_box(content, (b"moov", b"trak", b"mdia", b"minf", b"stbl"), b"stts", body)
    edited = bytearray(content)
    total = round(sum(frames * each for frames, each in runs))
    struct.pack_into(">I", edited, edited.index(b"elst") + 12, total)  # OpenCV's movies count milliseconds
    path.write_bytes(edited)
    return path


def trim(path: Path, frames: int, speed: float = 25.0) -> Path:
    """Let an MP4's edit list skip its first frames, as telephones do."""
    content = bytearray(path.read_bytes())
    scale = struct.unpack_from(">I", content, content.index(b"mdhd") + 16)[0]
    place = content.index(b"elst")
    duration = struct.unpack_from(">I", content, place + 12)[0]
    struct.pack_into(
        ">Ii", content, place + 12, duration - round(1000 * frames / speed), round(scale * frames / speed)
    )
    path.write_bytes(content)
    return path


def put_index_first(path: Path) -> Path:
    """Move an MP4's `moov` before its pictures, as for the web."""
    content = path.read_bytes()
    place = content.index(b"moov") - 4
    moov = bytearray(content[place:])
    at = moov.index(b"stco")
    for entry in range(struct.unpack_from(">I", moov, at + 8)[0]):
        offset = struct.unpack_from(">I", moov, at + 12 + 4 * entry)[0]
        struct.pack_into(">I", moov, at + 12 + 4 * entry, offset + len(moov))
    start = struct.unpack_from(">I", content, 0)[0]  # after ftyp
    path.write_bytes(content[:start] + bytes(moov) + content[start:place])
    return path
