"""The frames of `demo`, rendered once and kept as images that runner, workers and training read like any others.

They lie in a folder `<name>/{img/%04d.jpg, groundtruth.txt, attrs.txt}` of `core.storage.cache.cache_folder`, whose
name holds a fingerprint of the photographs and of the scenes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np

from core.storage.cache import cache_folder, decode_in_order, fingerprint, open_or_build
from core.storage.files import write_text
from tracking.datasets.demo_scenes import SCENES
from tracking.datasets.scenes import Scene, render, target_box
from tracking.files.boxes import format_boxes
from tracking.files.images import read_frame

FORMAT = 1  # version of the files and of the drawing of scenes: raise it when either changes
JPEG_QUALITY = 95


def rendered(split: str) -> Path:
    """The folder that holds a split's sequences; they are rendered if they are not there yet.

    Args:
        split: a key of `SCENES`.

    Raises:
        UserError: the cache cannot be written.
    """
    from skimage.data import data_dir

    photos = Path(data_dir)
    names = sorted({name for scene in SCENES[split] for name in scene.photos()})
    # The frames depend on the scenes, on the photographs and, in the last bit, on OpenCV.
    mark = fingerprint(
        [(name, photos / name) for name in names], (FORMAT, SCENES[split], cv2.__version__, JPEG_QUALITY)
    )
    return open_or_build(
        (cache_folder() / "tracking",),
        f"demo-{split}",
        mark,
        "",
        open_file=lambda path: path if path.is_dir() else None,
        build=lambda path: _render_all(SCENES[split], photos, path),
        setting="$LWDNA_CACHE",
    )


def _render_all(scenes: tuple[Scene, ...], photos: Path, folder: Path) -> None:
    """Render into a folder that appears whole, by one rename."""
    names = {name for scene in scenes for name in scene.photos()}
    images = {name: read_frame(photos / name) for name in names}
    place = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        for scene in scenes:
            (place / scene.name / "img").mkdir(parents=True)
            boxes = np.stack([target_box(scene, frame) for frame in range(scene.frames)])
            for name, text in (
                ("groundtruth.txt", format_boxes(boxes)),
                ("attrs.txt", ", ".join(scene.attributes)),
            ):
                write_text(place / scene.name / name, text)
        jobs = [(scene, frame) for scene in scenes for frame in range(scene.frames)]

        def write(job: tuple[Scene, int]) -> None:
            scene, frame = job
            pixels = cv2.cvtColor(render(scene, images, frame), cv2.COLOR_RGB2BGR)
            path = place / scene.name / "img" / f"{frame + 1:04d}.jpg"
            if not cv2.imwrite(str(path), pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
                raise OSError(f"'{path}' cannot be written")

        for _ in decode_in_order(write, jobs, threads=os.cpu_count() or 1, title="rendering demo"):
            pass
        place.chmod(0o755)  # mkdtemp's 0700 would hide the frames from the user's group
        place.rename(folder)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
