"""The trackers' part of report.html: success plots, and the frames in which the two networks differ most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from core.methods.registry import BASELINE
from core.report.page import Block, Chart, Choice, Gallery, Picture, Text, chart_of, jpeg
from core.report.style import PALETTE, look_of, title_of
from tracking.datasets import TrackingDataset
from tracking.evaluation.evaluation import Evaluation
from tracking.evaluation.metrics import overlap
from tracking.evaluation.plots import Kind, curve_figure, kinds_of
from tracking.evaluation.stored_results import find_trackers, read_results
from tracking.files.images import as_rgb, read_frame

FRAMES = 6
WIDEST = 480  # largest side of a frame in the page, in pixels
TRUTH = PALETTE[2]
FOUND_TITLE = title_of("lwdna")


def curve_charts(evaluations: Sequence[Evaluation], split: str, told: str) -> Iterator[Block]:
    """Success, precision and normalised precision as charts, of which one is shown at a time.

    Args:
        evaluations: trackers that were scored by the same protocol.
        split: part of the data set.
        told: what is shown, for the captions.
    """
    scored = [item for item in evaluations if item.curves.names]
    charts: list[Chart] = []
    titles: dict[Kind, str] = {
        "success": "Success",
        "precision": "Precision",
        "norm_precision": "Normalised precision",
    }
    for kind in kinds_of(scored[0].protocol):
        alt = f"{titles[kind]} of {', '.join(item.name for item in scored)}; the tables hold the scores"
        charts.append(chart_of(curve_figure(scored, kind, split), alt, told, name=titles[kind]))
    yield Choice(tuple(charts), "Curve")


def frame_blocks(dataset: TrackingDataset, folders: Mapping[str, Path]) -> Iterator[Block]:
    """Frames with the true box and those of baseline and found network, at the largest differences of their overlaps.

    At most one frame of a sequence.

    Args:
        dataset: with frames.
        folders: title of a method -> where its boxes are.
    """
    base, own = folders.get(title_of(BASELINE)), folders.get(FOUND_TITLE)
    if base is None or own is None:
        yield Text(["Frames show the baseline beside LW-DNA: one of them was not trained."])
        return
    names = [sequence.name for sequence in dataset.sequences]
    boxes = {}
    for title, folder in ((title_of(BASELINE), base), (FOUND_TITLE, own)):
        (stored,) = find_trackers(folder, dataset.sequences)
        boxes[title] = read_results(stored, names)
    found = []
    for sequence in dataset.sequences:
        overlaps: dict[str, np.ndarray] = {}
        for title, by_name in boxes.items():
            track = by_name[sequence.name][0].boxes
            overlaps[title] = overlap(track, sequence.boxes[: len(track)])
        difference = overlaps[FOUND_TITLE] - overlaps[title_of(BASELINE)]
        difference = np.where(np.isfinite(difference), difference, 0.0)
        frame = int(np.abs(difference).argmax())
        found.append(
            (
                abs(float(difference[frame])),
                sequence,
                frame,
                {t: float(o[frame]) for t, o in overlaps.items()},
            )
        )
    found.sort(key=lambda item: -item[0])
    pictures = []
    for size, sequence, frame, reached in found[:FRAMES]:
        if not size or sequence.frames is None:
            continue
        image = as_rgb(read_frame(sequence.frames.paths()[frame]))
        step = max(1, -(-image.shape[1] // WIDEST))
        image = np.ascontiguousarray(image[::step, ::step])
        shown = [("truth", TRUTH, sequence.boxes[frame])]
        shown += [
            (title, look_of(title).colour, by_name[sequence.name][0].boxes[frame])
            for title, by_name in boxes.items()
        ]
        drawn = []
        for title, colour, box in shown:
            if np.isfinite(box).all():
                first = sequence.first_pixel  # the number of an image's first pixel
                x, y, width, height = (float(value) / step for value in box - np.array([first, first, 0, 0]))
                drawn.append((x, y, width, height, colour, title))
        said = ", ".join(f"{title} {100 * value:.0f} %" for title, value in reached.items())
        pictures.append(Picture(
            jpeg(image), f"{sequence.name}, frame {frame + 1}, with the true box and those of both trackers",
            f"{sequence.name}, frame {frame + 1}: overlap {said}", image.shape[1], image.shape[0], tuple(drawn),
        ))  # fmt: skip
    if not pictures:
        yield Text(["The boxes of both networks are the same in all frames."])
        return
    told = "The frames in which the overlaps of the two networks differ most, one of a sequence."
    yield Gallery(tuple(pictures), f"{told} Green: truth, grey: baseline, blue: LW-DNA.")
