"""`python -m super_resolution.upscale IN OUT --checkpoint C`: enlarge an image, a folder, or a video.

Grey stays grey, alpha stays alpha (enlarged by bicubic), 16 bits stay 16 bits. The network takes images in
tiles, so that its memory is bounded whatever their size; input and output are held whole.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from core.errors import MissingData, UserError
from core.exits import run_command
from core.files import write_with
from super_resolution.checkpoint import load_network
from super_resolution.images import (
    SUFFIXES,
    find_images,
    join_alpha,
    read_image,
    require_format,
    split_alpha,
    write_image,
)
from super_resolution.resize import matlab_bicubic
from super_resolution.tiling import receptive_radius, super_resolve

VIDEO_CODECS = {".mp4": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}
"""The codec that a video's ending chooses."""

Advance = Callable[[int, int], None]
"""Told of progress as (done, in all)."""


@dataclass(frozen=True)
class ImageUpscaler:
    """A network with what it takes to enlarge images by it.

    Attributes:
        network: in evaluation mode, on its device.
        scale: its factor.
        tile: the largest side of a tile in LR pixels, None for whole images.
        overlap: context that a tile needs, in LR pixels.
    """

    network: nn.Module
    scale: int
    tile: int | None
    overlap: int

    def __call__(self, image: np.ndarray, on_tile: Advance | None = None) -> np.ndarray:
        """Enlarge an image as `super_resolution.images` describes them, alpha included."""
        colour, alpha = split_alpha(image)
        enlarged = super_resolve(
            self.network, colour, self.scale, tile=self.tile, overlap=self.overlap, on_tile=on_tile
        )
        return join_alpha(enlarged, None if alpha is None else matlab_bicubic(alpha, self.scale))


def open_upscaler(
    checkpoint: str | Path, *, scale: int | None = None, tile: int | None = 256, device: str = "auto"
) -> ImageUpscaler:
    """Load a checkpoint for upscaling.

    Args:
        checkpoint: a file that `super_resolution.checkpoint.save_network` wrote.
        scale: refuse a checkpoint of another scale; None takes what it has.
        tile: the largest side of a tile in LR pixels, None for whole images.
        device: `"auto"` (CUDA where there is one), or any name that torch knows.

    Raises:
        UserError: the checkpoint is missing, broken or of another scale, or the device is not there.
    """
    network, description = load_network(checkpoint, scale)
    overlap = 0 if tile is None else receptive_radius(network, description.scale)
    return ImageUpscaler(network.to(_device(device)), description.scale, tile, overlap)


def upscale_image(
    upscaler: ImageUpscaler, source: Path, target: Path, on_tile: Advance | None = None
) -> None:
    """Enlarge one image file.

    Raises:
        UserError: the source can't be read, or the target's format can't hold the result.
    """
    image = read_image(source)
    require_format(target, image)  # before the work, not after it
    write_image(target, upscaler(image, on_tile))


def upscale_folder(
    upscaler: ImageUpscaler, source: Path, target: Path, on_image: Advance | None = None
) -> None:
    """Enlarge every image of a folder into `<target>/<name>.png`; those that fail do not stop the others.

    Raises:
        UserError: no images, two with one name, the two folders are one, or some images failed (the first is
            named).
    """
    sources = find_images(source, "images to enlarge", "your own collection")
    if target.is_file():
        raise UserError(f"'{target}' is a file, but '{source}' is a folder; name a folder to write to.")
    if target.resolve() == source.resolve():
        raise UserError(f"'{target}' is the folder that is read; name another one to write to.")
    name, count = Counter(path.stem for path in sources).most_common(1)[0]
    if count > 1:
        raise UserError(
            f"'{source}' has {count} images called '{name}', which would become one file; rename one."
        )
    failures = []
    for done, path in enumerate(sources, 1):
        try:
            upscale_image(upscaler, path, target / f"{path.stem}.png")
        except UserError as error:
            failures.append(str(error))
        if on_image is not None:
            on_image(done, len(sources))
    if failures:
        raise UserError(
            f"{len(failures)} of {len(sources)} images failed, the others are done. First: {failures[0]}"
        )


def upscale_video(
    upscaler: ImageUpscaler, source: Path, target: Path, on_frame: Advance | None = None
) -> None:
    """Enlarge a video frame by frame, at its frame rate, without its sound.

    Raises:
        UserError: no frame can be read, or the target's ending or size suits no codec at hand.
    """
    if target.suffix.lower() not in VIDEO_CODECS:
        raise UserError(f"'{target}': a video is written as {', '.join(VIDEO_CODECS)}; change the ending.")
    capture = cv2.VideoCapture(str(source))
    try:
        found, first = capture.read()
        if not found:
            raise UserError(f"'{source}' has no frame that can be read; is it a video, and whole?")
        write_with(target, lambda temporary: _write_frames(upscaler, capture, first, temporary, on_frame))
    finally:
        capture.release()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0 done, 1 a failed run, 2 wrong usage or bad input."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _run(options), options.debug, "start it again")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m super_resolution.upscale", description=__doc__)
    parser.add_argument("source", metavar="IN", type=Path, help="an image, a folder of images, or a video")
    parser.add_argument(
        "target", metavar="OUT", type=Path, help="the file or folder to write; folders get PNGs"
    )
    parser.add_argument(
        "--checkpoint", required=True, type=Path, help="a *.safetensors of super_resolution.run"
    )
    parser.add_argument(
        "--scale", type=int, help="refuse a checkpoint of another scale (default: take its own)"
    )
    parser.add_argument(
        "--tile",
        type=int,
        default=256,
        help="side of the tiles in pixels of IN, 0 for whole images (default: 256)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, … (default: auto)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _run(options: argparse.Namespace) -> int:
    """Decide what IN is, and enlarge it."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # FFmpeg's own lines would stand beside our error
    source, target = options.source, options.target
    if not source.exists():
        raise MissingData(f"'{source}' not found; name an image, a folder of images, or a video.")
    if options.tile < 0:
        raise UserError(f"--tile is {options.tile}; give a positive number of pixels, or 0 for whole images.")
    suffix = source.suffix.lower()
    if source.is_file() and suffix not in SUFFIXES and suffix not in VIDEO_CODECS:
        allowed = ", ".join((*SUFFIXES, *VIDEO_CODECS))
        raise UserError(f"'{source}' is neither an image nor a video by its ending; allowed are {allowed}.")
    if source.is_file() and target.is_dir():
        target = target / (f"{source.stem}.png" if suffix in SUFFIXES else source.name)
    if target.exists() and target.samefile(source):
        what = "folder" if source.is_dir() else "file"
        raise UserError(f"'{target}' is the {what} that is read; name another one to write to.")
    upscaler = open_upscaler(
        options.checkpoint, scale=options.scale, tile=options.tile or None, device=options.device
    )
    upscale = upscale_folder if source.is_dir() else upscale_image if suffix in SUFFIXES else upscale_video
    try:
        with _progress_bar(f"{source.name} x{upscaler.scale}") as advance:
            upscale(upscaler, source, target, advance)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"the device's memory does not hold a tile of {options.tile}; lower --tile."
        ) from error
    return 0


@contextmanager
def _progress_bar(title: str) -> Iterator[Advance]:
    """A bar on the terminal's error stream; nothing where that is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=max(total, done))


def _device(name: str) -> torch.device:
    """The torch device of a name, checked by use."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise UserError(f"device '{name}' can't be used here; try --device cpu.") from error
    return device


def _write_frames(
    upscaler: ImageUpscaler,
    capture: cv2.VideoCapture,
    frame: np.ndarray,
    target: Path,
    on_frame: Advance | None,
) -> None:
    """Enlarge `frame` and all that follow it into a video file."""
    height, width = (side * upscaler.scale for side in frame.shape[:2])
    codec = cv2.VideoWriter.fourcc(*VIDEO_CODECS[target.suffix.lower()])
    writer = cv2.VideoWriter(str(target), codec, capture.get(cv2.CAP_PROP_FPS) or 25.0, (width, height))
    try:
        if not writer.isOpened():
            raise UserError(
                f"no codec at hand writes {width} x {height} pixels as '{target.suffix}'; try .avi, "
                f"or extract the frames and enlarge them as a folder."
            )
        total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))  # an estimate, and absent in some containers
        done, found = 0, True
        while found:
            enlarged = upscaler(np.ascontiguousarray(frame[..., ::-1]))
            writer.write(np.ascontiguousarray(enlarged[..., ::-1]))
            done += 1
            if on_frame is not None:
                on_frame(done, total)
            found, frame = capture.read()
    finally:
        writer.release()


if __name__ == "__main__":
    sys.exit(main())
