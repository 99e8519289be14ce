"""COCO (Lin et al., ECCV 2014) as training sequences of one frame: every annotated object that is no crowd.

Layout: `coco/annotations/instances_<split>.json`, images in `coco/images/<split>/` or `coco/<split>/`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from core.errors import UserError
from tracking.datasets.entries import first_folder, not_found
from tracking.dimp.crops import to_centres
from tracking.files.cache import cached
from tracking.training.sequences import StillFiles, TrainingSet

FOLDERS = ("coco", "COCO", "MSCOCO", ".")
DEFAULT_SPLIT = "train2014"

_Table = dict[str, np.ndarray]


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
    table = cached("coco", [annotations], lambda: _parse(annotations), lambda table: table, dict)
    boxes = to_centres(torch.from_numpy(table["boxes"])).numpy()
    count = len(boxes)
    return TrainingSet(
        name=f"COCO {split}",
        folder=folder,
        first=np.arange(count + 1),
        boxes=boxes,
        visible=np.ones(count, bool),
        files=StillFiles(images, table["names"][table["images"]]),
        still=True,
    )


def _parse(path: Path) -> _Table:
    try:
        contents = json.loads(path.read_bytes())
        files = {image["id"]: image["file_name"] for image in contents["images"]}
        objects = [item for item in contents["annotations"] if not item.get("iscrowd", 0)]
        place = {identity: index for index, identity in enumerate(files)}
        return _table(list(files.values()), objects, place)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not COCO's instances ({type(error).__name__}: {error}): get the annotations again"
        ) from error


def _table(names: list[str], objects: list[Mapping[str, object]], place: Mapping[object, int]) -> _Table:
    boxes = np.array([item["bbox"] for item in objects], np.float32).reshape(-1, 4)
    images = np.array([place[item["image_id"]] for item in objects], np.int64)
    return {"names": np.array([name.encode() for name in names], np.bytes_), "images": images, "boxes": boxes}
