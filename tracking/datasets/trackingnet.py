"""TrackingNet (Müller et al., ECCV 2018): 511 test sequences, whose ground truth is on the server.

Layout: `{TEST,TRAIN_0,…,TRAIN_11}/{anno/<name>.txt, frames/<name>/<number>.jpg}`, frames numbered from 0. In the test
split only the first boxes are public. Ground truth may also come as a zip of `<name>.txt`, like the development kit's.
"""

from __future__ import annotations

from pathlib import Path

from tracking.datasets.entries import DatasetRequest, Entry, first_folder, not_found
from tracking.datasets.sequence import FrameFolder
from tracking.files.archives import StoredFile, zip_members

SPLITS = ("TEST", *(f"TRAIN_{chunk}" for chunk in range(12)))
FOLDERS = ("trackingnet", "TrackingNet", "TRACKINGNET", ".")
DEVELOPMENT_KIT = "trackingnet_devkit/dummy_GT.zip"


def entries(request: DatasetRequest) -> list[Entry]:
    """The sequences of a split: one per annotation file.

    `request.annotations` is a folder or zip of `<name>.txt`. If TrackingNet itself is not under the root, the
    development kit's sample is taken.

    Raises:
        MissingData: nothing of this is under the root.
    """
    dataset = first_folder(request.root, FOLDERS, f"{request.split}/anno/*.txt")
    sample = request.root / DEVELOPMENT_KIT
    if request.annotations is not None:
        truths = _truths(request.annotations)
    elif dataset is not None:
        truths = _truths(dataset / request.split / "anno")
    elif sample.is_file():
        truths = _truths(sample)
    else:
        layout = f"TrackingNet/{request.split}/anno/<name>.txt"
        raise not_found("TrackingNet", request.root, layout, "https://tracking-net.org")
    frames = None if dataset is None else dataset / request.split / "frames"
    return [
        # First pixel 0: YouTube-BB, the source of the videos, gives fractions of the image's width and height.
        Entry(name, truth, None if frames is None else FrameFolder(frames / name), first_pixel=0)
        for name, truth in sorted(truths.items())
    ]


def _truths(place: Path) -> dict[str, StoredFile]:
    files = zip_members(place) if place.is_file() else [StoredFile(path) for path in place.glob("*.txt")]
    return {file.name.removesuffix(".txt"): file for file in files if file.name.endswith(".txt")}
