"""`demo`: real photographs that come with scikit-image, moving under a known path. Nothing has to be downloaded.

Ground truth is the part of the target that lies in the image, whose first pixel is number 1 as in OTB and LaSOT. The
splits `test` and `random_test` share no photograph with the others. `demo_rendering` makes the frames.
"""

from __future__ import annotations

from tracking.datasets.entries import DatasetRequest, Entry
from tracking.datasets.sequence import FrameFolder
from tracking.files.archives import StoredFile

SPLITS = ("test", "train", "random", "random_test")


def entries(request: DatasetRequest) -> list[Entry]:
    """The sequences of `"test"` (6), `"train"` (12), `"random"` (300 short ones) or `"random_test"` (60 of
    30 frames, for steadier scores than those of `"test"`).

    They are rendered first if they are not there yet.

    The data root is not used; `request.annotations` is a folder of `<name>.txt`.

    Raises:
        UserError: no folder for the cache can be written.
    """
    from tracking.datasets.demo_rendering import SCENES, rendered  # scoring stored boxes needs no OpenCV

    folder = rendered(request.split)
    found = []
    for scene in SCENES[request.split]:
        place = folder / scene.name
        truth = place / "groundtruth.txt"
        if request.annotations is not None:
            truth = request.annotations / f"{scene.name}.txt"
        found.append(
            Entry(scene.name, StoredFile(truth), FrameFolder(place / "img"), attributes=place / "attrs.txt")
        )
    return found
