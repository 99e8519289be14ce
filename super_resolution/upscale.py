"""`python -m super_resolution.upscale IN OUT --checkpoint C`: enlarge an image, a folder, or a video.

Grey stays grey, alpha stays alpha (enlarged by bicubic), 16 bits stay 16 bits (as PNG). The network takes images in
tiles, so its memory is bounded whatever the images' size; input and output are held whole.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from core.command_line.exits import run_parsed
from core.command_line.parsers import add_checkpoint_arguments, command_parser
from core.command_line.pixels import add_max_pixels, limited
from core.errors import MissingData, NonFiniteOutput, UserError
from core.storage.files import refuse_overwriting
from core.storage.images import read_profile, split_alpha
from core.storage.limits import require_memory
from core.storage.video import CODECS, VideoFile, check_ending, open_video_file
from core.terminal import Advance, bar
from core.training.devices import pick_device
from super_resolution.checkpoint import load_network
from super_resolution.images import (
    SUFFIXES,
    fill_transparent,
    find_images,
    join_alpha,
    read_upright,
    require_format,
    write_image,
)
from super_resolution.resize import matlab_bicubic
from super_resolution.tiling import receptive_radius, super_resolve


@dataclass(frozen=True)
class ImageUpscaler:
    """A network with all that is needed to enlarge images.

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
        """Enlarge an image as `core.storage.images` describes them, alpha included.

        The colours of fully transparent pixels are ignored, see `fill_transparent`.

        Raises:
            UserError: memory does not hold the enlarged image.
            NonFiniteOutput: the network's output is not finite.
        """
        colour, alpha = split_alpha(image)
        height, width = (self.scale * side for side in image.shape[:2])
        # Twice its bytes, since joining it with its alpha or encoding it makes a copy.
        require_memory(2 * self.scale**2 * image.nbytes, f"the enlarged image, {width} x {height} pixels,")
        if alpha is not None:
            colour = fill_transparent(colour, alpha)
        enlarged = super_resolve(
            self.network, colour, self.scale, tile=self.tile, overlap=self.overlap, on_tile=on_tile
        )
        return join_alpha(enlarged, None if alpha is None else matlab_bicubic(alpha, self.scale))


def open_upscaler(
    checkpoint: str | Path,
    *,
    scale: int | None = None,
    tile: int | None = 256,
    device: str = "auto",
    model: str | None = None,
) -> ImageUpscaler:
    """Load a checkpoint for upscaling.

    Args:
        checkpoint: a file that `super_resolution.checkpoint.save_network` wrote.
        scale: refuse a checkpoint of another scale; None takes any.
        tile: the largest side of a tile in LR pixels, None for whole images.
        device: see `core.training.devices.pick_device`.
        model: the factory of a checkpoint of the user's own network, see `super_resolution.checkpoint.build_network`.

    Raises:
        UserError: the checkpoint is missing, broken or of another scale, or the device is not there.
        NonFiniteOutput: its weights are not finite.
    """
    network, description = load_network(checkpoint, scale, model)
    broken = [name for name, value in network.state_dict().items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise NonFiniteOutput(
            f"checkpoint '{checkpoint}': weights are not finite in {len(broken)} tensors, such as '{broken[0]}'; it "
            "may come from a run that diverged: name another one"
        )
    overlap = 0 if tile is None else receptive_radius(network, description.scale)
    return ImageUpscaler(network.to(pick_device(device)), description.scale, tile, overlap)


def upscale_image(
    upscaler: ImageUpscaler, source: Path, target: Path, on_tile: Advance | None = None
) -> None:
    """Enlarge one image file; its colour profile is copied.

    Raises:
        UserError: the source can't be read, or the target's format can't hold the result, or the two are one file.
        NonFiniteOutput: the network's output is not finite; nothing is written.
    """
    refuse_overwriting([("OUT", target)], [("the image that is read", source)])
    image = read_upright(source)
    require_format(target, image)  # before the work, not after it
    try:
        enlarged = upscaler(image, on_tile)
    except NonFiniteOutput as error:
        raise NonFiniteOutput(f"'{source}': {error}; '{target}' was not written") from error
    write_image(target, enlarged, read_profile(source))


def upscale_folder(
    upscaler: ImageUpscaler, source: Path, target: Path, on_image: Advance | None = None
) -> None:
    """Enlarge every image of a folder into `<target>/<name>.png`; those that fail do not stop the others.

    Raises:
        UserError: no images, two with one name, the two folders are one, an output would overwrite an image that is
            read, or some images failed (the first is named).
        NonFiniteOutput: the network's output for some images is not finite.
    """
    sources = find_images(source, "images to enlarge", "your own collection")
    if target.is_file():
        raise UserError(f"'{target}' is a file, but '{source}' is a folder; name a folder to write to.")
    if target.exists() and target.samefile(source):
        raise UserError(f"'{target}' is the folder that is read; name another one to write to.")
    name, count = Counter(path.stem for path in sources).most_common(1)[0]
    if count > 1:
        raise UserError(
            f"'{source}' has {count} images called '{name}', which would become one file; rename one."
        )
    targets = [target / f"{path.stem}.png" for path in sources]
    refuse_overwriting(
        [("OUT's", path) for path in targets], [("an image that is read", path) for path in sources]
    )
    failures: list[Exception] = []
    for done, (path, written) in enumerate(zip(sources, targets, strict=True), 1):
        try:
            upscale_image(upscaler, path, written)
        except (UserError, NonFiniteOutput) as error:
            failures.append(error)
        if on_image is not None:
            on_image(done, len(sources))
    if failures:
        broken = next((error for error in failures if isinstance(error, NonFiniteOutput)), None)
        first = failures[0] if broken is None else broken
        message = f"{len(failures)} of {len(sources)} images failed, the others are done. First: {first}"
        raise UserError(message) if broken is None else NonFiniteOutput(message) from broken


def upscale_video(
    upscaler: ImageUpscaler, source: Path, target: Path, on_frame: Advance | None = None
) -> list[str]:
    """Enlarge a video frame by frame, without its sound; every frame keeps its time.

    A frame that can't be read is replaced by the one before it, and named. However this ends, `target` holds the frames
    until then.

    Returns:
        Lines on what was done to the frames besides enlarging them.

    Raises:
        UserError: no frame can be read, or the target's ending suits no codec, or the two are one file.
        OSError: no codec at hand writes the target.
        NonFiniteOutput: the network's output for a frame is not finite.
        RuntimeError: frames could not be read; they are named, and all others are written.
    """
    refuse_overwriting([("OUT", target)], [("the video that is read", source)])
    check_ending(target)
    video = open_video_file(source)
    with VideoFile(target, video.speed) as file:
        for frame in video.frames():
            try:
                enlarged = upscaler(frame.image)
            except NonFiniteOutput as error:
                raise NonFiniteOutput(f"{video.name}, frame {frame.number}: {error}") from error
            file.write(enlarged, frame.slot)
            if on_frame is not None:
                on_frame(frame.number, video.count or 0)
    complaint = video.complaint()
    if complaint is not None:
        raise RuntimeError(f"{complaint}; '{target}' holds the others, and repeats where one is missing")
    note = file.note()
    return [*video.notes, *([f"'{target}': {note}"] if note else [])]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0 done, 1 a failed run, 2 wrong usage or bad input."""
    return run_parsed(
        build_parser(), limited(_run), argv, "a video holds the frames until then; start it again"
    )


EXAMPLES = (
    "super_resolution.upscale low.png high.png --checkpoint WORK/lwdna.safetensors",
    "super_resolution.upscale path/to/images path/to/larger --checkpoint WORK/lwdna.safetensors",
    "super_resolution.upscale low.mp4 high.mp4 --checkpoint WORK/lwdna.safetensors --tile 128",
)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("super_resolution.upscale", __doc__, EXAMPLES)
    parser.add_argument("source", metavar="IN", type=Path, help="an image, a folder of images, or a video")
    parser.add_argument(
        "target", metavar="OUT", type=Path, help="the file or folder to write; folders get PNGs"
    )
    add_checkpoint_arguments(parser, "super_resolution.run")
    parser.add_argument(
        "--scale", type=int, help="refuse a checkpoint of another scale (default: take its own)"
    )
    parser.add_argument(
        "--tile",
        type=int,
        default=256,
        help="side of the tiles in pixels of IN, 0 for whole images (default: 256)",
    )
    add_max_pixels(parser)
    return parser


def _run(options: argparse.Namespace) -> int:
    """Find out what IN is, and enlarge it."""
    source, target = options.source, options.target
    if not source.exists():
        raise MissingData(f"'{source}' not found; name an image, a folder of images, or a video.")
    if options.tile < 0:
        raise UserError(f"--tile is {options.tile}; give a positive number of pixels, or 0 for whole images.")
    suffix = source.suffix.lower()
    if source.is_file() and suffix not in SUFFIXES and suffix not in CODECS:
        allowed = ", ".join((*SUFFIXES, *CODECS))
        raise UserError(f"'{source}' is neither an image nor a video by its ending; allowed are {allowed}.")
    if source.is_file() and target.is_dir():
        target = target / (f"{source.stem}.png" if suffix in SUFFIXES else source.name)
        if target.exists() and not target.samefile(source) and target.parent.samefile(source.parent):
            raise UserError(f"'{target}' lies beside '{source.name}' already; name the file to write")
    if source.is_file():
        what = "the file that is read"
        refuse_overwriting(
            [("OUT", target)], [(what, source), ("the checkpoint that is read", options.checkpoint)]
        )
    upscaler = open_upscaler(
        options.checkpoint,
        scale=options.scale,
        tile=options.tile or None,
        device=options.device,
        model=options.model,
    )
    notes: list[str] = []
    try:
        with bar(f"{source.name} x{upscaler.scale}") as advance:
            if source.is_dir():
                upscale_folder(upscaler, source, target, advance)
            elif suffix in SUFFIXES:
                upscale_image(upscaler, source, target, advance)
            else:
                notes = upscale_video(upscaler, source, target, advance)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"the device's memory does not hold a tile of {options.tile}; lower --tile."
        ) from error
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"written: {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
