"""Track one target in a video: `python -m tracking.track VIDEO_OR_FOLDER --box x,y,w,h --out out.mp4`.

The source is a video file, a folder of images or the number of a camera. Boxes count the image's first pixel as
number 0. Every box is on the disk as soon as it is known; after Ctrl-C the video is complete up to that frame. Frames
that cannot be read are named at the end, with exit status 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from core.command_line.exits import run_parsed
from core.command_line.parsers import command_parser
from core.errors import UserError
from core.interruption import Preempted
from core.storage.files import refuse_overwriting
from core.storage.video import Frame, Video, VideoFile, check_ending
from core.terminal import watched
from tracking.datasets.options import add_tracker_options, tracker_name
from tracking.files.boxes import format_boxes
from tracking.online.loop import follow
from tracking.online.trackers import TrackerSpec, make_tracker
from tracking.online.video import draw, open_video, source_path

EXAMPLES = (
    "tracking.track video.mp4 --box 120,80,40,60 --out out.mp4 --checkpoint WORK/lwdna.safetensors",
    "tracking.track folder/of/images --box 120,80,40,60 --save boxes.txt --tracker ncc",
)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    made = command_parser(
        "tracking.track", "Track one target in a video, in a folder, from a camera.", EXAMPLES
    )
    made.add_argument(
        "source", metavar="VIDEO_OR_FOLDER", help="video file, folder of images, or a camera's number"
    )
    made.add_argument(
        "--box", required=True, metavar="X,Y,W,H", help="the target in the first frame; the first pixel is 0"
    )
    made.add_argument("--out", type=Path, metavar="FILE", help="video with boxes and scores, .mp4 or .avi")
    made.add_argument("--save", type=Path, metavar="FILE", help="boxes as text, a line for each frame")
    made.add_argument("--frames", type=int, metavar="N", help="stop after so many frames")
    made.add_argument(
        "--tracker",
        default=None,
        metavar="SPEC",
        help="still, ncc, dimp50, package.module:factory or path/to/file.py:factory (dimp50 with --checkpoint, ncc "
        "without)",
    )
    add_tracker_options(made)
    return made


def parse_box(text: str) -> tuple[float, float, float, float]:
    """`"10,20,30,40"` as four numbers.

    Raises:
        UserError: it is anything else, or has no area.
    """
    try:
        x, y, width, height = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--box '{text}': write x,y,width,height, such as 120,80,40,60") from None
    if not np.isfinite([x, y, width, height]).all() or width <= 0 or height <= 0:
        raise UserError(f"--box '{text}': width and height have to be above 0")
    return x, y, width, height


def frames_until(video: Video, limit: int | None) -> Iterator[Frame]:
    """A video's readable frames (the others: `Video.lost`), up to frame number `limit`.

    Raises:
        UserError: there is none.
    """
    started = False
    for frame in video.frames():
        # Lost frames before it are reported even if it is beyond the limit.
        if limit is not None and frame.number > limit:
            break
        started = True
        yield frame
        if frame.number == limit:
            break
    if not started:
        raise UserError(f"{video.name}: not a single frame can be read")


def command(arguments: argparse.Namespace) -> int:
    """Run the command line; returns the exit status."""
    box = parse_box(arguments.box)
    out_path, save_path = arguments.out, arguments.save
    if out_path is None and save_path is None:
        raise UserError("nothing to write: name a video with --out, boxes with --save, or both")
    if arguments.frames is not None and arguments.frames < 1:
        raise UserError(f"--frames {arguments.frames}: expected 1 or more")
    spec = TrackerSpec(
        tracker_name(arguments), arguments.checkpoint, arguments.device, arguments.seed, arguments.backbone
    )
    source, named = source_path(arguments.source), Path(arguments.source).expanduser()
    what = "the folder of images that is read" if source and source.is_dir() else "the video that is read"
    refuse_overwriting(
        [("--out", out_path), ("--save", save_path)],
        [
            (what, source),
            (what, named if named.is_dir() else None),
            ("the network that is read", spec.checkpoint),
        ],
    )
    if out_path is not None:
        check_ending(out_path)
    video = open_video(arguments.source)
    tracker = make_tracker(spec)
    for note in video.notes:
        print(f"note: {note}", file=sys.stderr)
    count, start = 0, time.perf_counter()
    stopped: KeyboardInterrupt | None = None
    with ExitStack() as stack:
        out = stack.enter_context(VideoFile(out_path, video.speed)) if out_path else None
        save = None
        limits = [limit for limit in (video.count, arguments.frames) if limit is not None]
        found_boxes = follow(
            tracker,
            frames_until(video, arguments.frames),
            box,
            0,
            lambda frame: frame.image,
            lambda frame: f"{video.name}, frame {frame.number}",
        )
        steps = stack.enter_context(closing(watched(found_boxes, "tracking", min(limits, default=None))))
        stack.callback(_say_missing, video, save_path)
        lines = 0
        try:
            for found in steps:
                if save_path and save is None:
                    save_path.parent.mkdir(parents=True, exist_ok=True)
                    # Not atomic: a line is on the disk as soon as it is known, and an unfinished file holds the boxes
                    # so far.
                    save = stack.enter_context(save_path.open("w", encoding="utf-8", buffering=1))
                if save is not None:
                    # Line n is frame n, whatever could not be read before it.
                    save.write(format_boxes(np.full((found.frame.number - 1 - lines, 4), np.nan)))
                    save.write(format_boxes(found.box[None]))
                    lines = found.frame.number
                if out is not None:
                    out.write(draw(found.frame.image, found.box.tolist(), found.score), found.frame.slot)
                count += 1
        except KeyboardInterrupt as error:
            stopped = error
    speed = count / max(time.perf_counter() - start, 1e-9)
    written = ", ".join(str(path) for path in (out_path, save_path) if path is not None and count)
    print(f"{count} frames, {speed:.1f} frames/s{': wrote ' + written if written else ''}")
    if out is not None and out.note():
        print(f"note: '{out_path}': {out.note()}", file=sys.stderr)
    if stopped is not None and (not video.live or isinstance(stopped, Preempted)):
        raise stopped  # Ctrl-C is the only way to end a camera's run
    return 0 if video.complaint() is None else 1


def _say_missing(video: Video, boxes: Path | None) -> None:
    complaint = video.complaint()
    if complaint is not None:
        lines = "; line n of the boxes is frame n, and holds nan for those in between" if boxes else ""
        print(f"failed: {complaint}; what could be read is done{lines}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run_parsed(build_parser(), command, argv, "what was written holds the frames until then")


if __name__ == "__main__":
    sys.exit(main())
