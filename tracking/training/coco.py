"""COCO (Lin et al., ECCV 2014) as training sequences of one frame: every annotated object that is not a crowd.

Layout: `coco/annotations/instances_<split>.json`, images in `coco/images/<split>/` or `coco/<split>/`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from core.errors import UserError
from core.storage.cache import cache_folders, fingerprint, open_or_build
from core.storage.files import atomic_write, read_json
from core.storage.packed import read_array
from tracking.datasets.entries import first_folder, not_found
from tracking.dimp.crops import to_centres
from tracking.training.sequences import StillFiles, TrainingSet

FOLDERS = ("coco", "COCO", "MSCOCO", ".")
DEFAULT_SPLIT = "train2014"
LARGEST = 2**33  # largest file of annotations in bytes; those of 2017 have half a gigabyte
LONGEST_NAME = 4096  # bytes, the limit of file names
FORMAT = 1  # of the cache: raise it when the stored fields of an object change


def read_coco(root: Path, split: str | None = None) -> TrainingSet:
    """The objects of a split, in the order of their annotations. Boxes are 0-based, as COCO's are.

    Raises:
        MissingData: annotations or images are not under `root`.
        UserError: the annotations are not COCO's.
    """
    split = split or DEFAULT_SPLIT
    folder = first_folder(root, FOLDERS, f"annotations/instances_{split}.json")
    images = None if folder is None else first_folder(folder, (f"images/{split}", split), "*")
    if folder is None or images is None:
        layout = f"coco/annotations/instances_{split}.json and coco/images/{split}/"
        raise not_found("COCO", root, layout, "https://cocodataset.org")
    annotations = folder / f"annotations/instances_{split}.json"
    objects = open_or_build(  # the text is hundreds of megabytes
        cache_folders(folder),
        f"instances_{split}",
        fingerprint([(annotations.name, annotations)], FORMAT),
        ".npy",
        open_file=_stored,
        build=lambda path: _store(path, annotations),
    )
    boxes = to_centres(torch.from_numpy(objects["box"].copy())).numpy()
    count = len(boxes)
    return TrainingSet(
        name=f"COCO {split}",
        folder=folder,
        first=np.arange(count + 1),
        boxes=boxes,
        visible=np.ones(count, bool),
        files=StillFiles(images, objects["image"]),
        still=True,
    )


def _stored(path: Path) -> np.ndarray | None:
    found = read_array(path)
    whole = found is not None and found.dtype.names == ("image", "box")
    return np.asarray(found) if whole else None


def _store(path: Path, annotations: Path) -> None:
    with atomic_write(path, "wb") as file:
        np.save(file, parse_objects(annotations))


def parse_objects(path: Path) -> np.ndarray:
    """Every object that is not a crowd: `image`, its file's name in bytes, and `box`, float32 (4,), as in COCO.

    Raises:
        UserError: the file does not hold COCO's instances.
    """
    try:
        contents = read_json(path, most=LARGEST)
        files = {image["id"]: image["file_name"].encode() for image in contents["images"]}
        if (
            max(map(len, files.values()), default=0) > LONGEST_NAME
        ):  # every name takes as much memory as the longest
            raise ValueError(f"a name of more than {LONGEST_NAME} bytes")
        objects = [item for item in contents["annotations"] if not item.get("iscrowd", 0)]
        names = np.array([files[item["image_id"]] for item in objects], np.bytes_)
        boxes = np.array([item["bbox"] for item in objects], np.float32).reshape(-1, 4)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{path}: not COCO's instances ({type(error).__name__}: {error}): get the annotations again"
        ) from error
    found = np.empty(len(objects), [("image", names.dtype), ("box", np.float32, 4)])
    found["image"], found["box"] = names, boxes
    return found
