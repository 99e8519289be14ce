"""Data sets of photographs of any size: read upright, shrunk, decoded once if they fit, identified by their content.

The shorter side is shrunk to what the central view needs; pixels are the same whether the files are decoded once, into
a cache, or during training.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from classification.data.config import IMAGENET_MEAN, IMAGENET_STD, DataConfig
from classification.data.dataset import ClassificationData
from classification.data.decoded import DecodedFiles, NoRoom, decode_files
from classification.data.folders import FolderSplit
from classification.data.images import read_rgb
from classification.data.scan import LeftOut, few, report_unreadable
from classification.data.views import CROP, shorter_side, shrunk
from core.errors import UserError
from core.storage.cache import FOLDER as CACHE
from core.storage.cache import cache_folders, decode_in_order, fingerprint, open_or_build
from core.storage.files import read_json, write_json

_CONTENT = "LWDNACH1"
_BLOCK = 2**20


@dataclass(frozen=True, eq=False)
class PhotoFiles:
    """The images of both parts of a data set.

    Attributes:
        names: paths relative to the folder.
        labels: `(N,)`, int64.
        held_out: `(N,)`, bool: whether an image belongs to the part that error rates are reported on.
        classes: names in the order of the labels.
        left_out: what else lies in the folder.
        notes: what was assumed.
    """

    names: list[str]
    labels: np.ndarray
    held_out: np.ndarray
    classes: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]


def open_photographs(folder: Path, title: str, files: PhotoFiles, config: DataConfig) -> ClassificationData:
    """The data set of these files.

    The first call reads every file once for its digest, and decodes all images into a cache if that takes no more than
    half of the free disk.

    Args:
        folder: where they lie.
        title: what the data set is called.
        files: see `PhotoFiles`.
        config: options; `size` is read here.

    Raises:
        UserError: an image cannot be read and `config.bad_images` is "error", or none of a class can; or `config` asks
            for a padded crop.
    """
    if config.crop_padding:
        raise UserError(
            f"data.crop_padding is {config.crop_padding}, but {title} is trained on random resized crops; set it to 0"
        )
    size = config.size or CROP
    digests = _digests(folder, files.names, config.workers)
    notes = [*files.notes, *_seen_twice(files, digests)]
    read = partial(read_upright, size=size)
    decoded: DecodedFiles | None = None
    try:
        decoded = decode_files(folder, files.names, shorter_side(size), read, config.workers)
    except NoRoom as error:
        notes.append(f"Images are decoded anew in every epoch: a cache would take {error}.")
    whole = FolderSplit(
        paths=np.array([os.fsencode(f"{folder}/{name}") for name in files.names]),
        labels=files.labels,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        size=size,
        read=read,
        decoded=decoded,
    )
    if decoded is not None:
        whole.unreadable.update(_damages(whole, decoded))
    train, test = (whole.chosen(np.flatnonzero(files.held_out == part)) for part in (False, True))
    for split in (train, test):
        split.require_readable_classes(split.unreadable)
    damages = [whole.unreadable[row] for row in sorted(whole.unreadable)]
    report_unreadable(damages, len(whole), config.bad_images)
    return ClassificationData(
        name=title,
        class_names=files.classes,
        input_shape=(3, size, size),
        train=train,
        test=test,
        config=config,
        left_out=tuple(entry for entry in files.left_out if Path(entry.path).name != CACHE),
        notes=tuple(notes),
        folder=_description(files, digests),
    )


def read_upright(path: str | Path, size: int) -> np.ndarray:
    """Read an image upright, as `(height, width, 3)`, uint8, RGB, its shorter side at most `shorter_side(size)`.

    Raises:
        BadImage: see `core.storage.images.read_image`.
    """
    return shrunk(read_rgb(path, upright=True), size)


def _digests(folder: Path, names: Sequence[str], threads: int) -> list[str]:
    """A digest of every file's content, kept until one changes; "" for a file that cannot be read."""

    def build(path: Path) -> None:
        digests = decode_in_order(
            partial(_digest, folder), names, threads=threads, title=f"Reading {folder.name} (once)"
        )
        write_json(path, list(digests))

    return open_or_build(
        cache_folders(folder),
        "content",
        fingerprint(((name, folder / name) for name in names), _CONTENT),
        ".json",
        open_file=partial(_read_digests, count=len(names)),
        build=build,
    )


def _digest(folder: Path, name: str) -> str:
    digest = hashlib.sha256()
    try:
        with open(folder / name, "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()[:32]


def _read_digests(path: Path, count: int) -> list[str] | None:
    try:
        digests = read_json(path)
    except (OSError, ValueError):
        return None
    return digests if isinstance(digests, list) and len(digests) == count else None


def _seen_twice(files: PhotoFiles, digests: Sequence[str]) -> Iterable[str]:
    """Files of the same content that mislead: in both parts, or in several classes."""
    trained: dict[str, int] = {}
    labels: dict[str, set[int]] = {}
    for row, digest in enumerate(digests):
        if digest:
            labels.setdefault(digest, set()).add(int(files.labels[row]))
            if not files.held_out[row]:
                trained[digest] = row
    both = [row for row in np.flatnonzero(files.held_out).tolist() if digests[row] in trained]
    if both:
        named = [f"{files.names[row]} is {files.names[trained[digests[row]]]}" for row in both]
        yield f"Images that error rates are reported on and that are also trained on: {len(both):,} ({few(named)})."
    several = {digest for digest, found in labels.items() if len(found) > 1}
    if several:
        named = [name for name, digest in zip(files.names, digests) if digest in several]
        yield f"The same image lies in several classes: {few(named)}."


def _description(files: PhotoFiles, digests: Sequence[str]) -> dict[str, Any]:
    """What a run keeps of its images: classes, held-out images, and a digest of everything that determines results."""
    digest = hashlib.sha256(repr(files.classes).encode(errors="surrogateescape"))
    for name, label, out, content in zip(files.names, files.labels, files.held_out, digests):
        digest.update(f"{name}\0{label}\0{out}\0{content}\0".encode(errors="surrogateescape"))
    shown = [
        name if name.isprintable() else repr(name) for name, out in zip(files.names, files.held_out) if out
    ]
    return {"content": digest.hexdigest(), "classes": list(files.classes), "held_out": shown}


def _damages(split: FolderSplit, decoded: DecodedFiles) -> dict[int, str]:
    found = {}
    for row in decoded.damaged():
        try:
            split.read(os.fsdecode(split.paths[row]))
        except UserError as error:
            found[row] = str(error)
        else:
            raise UserError(
                f"image '{os.fsdecode(split.paths[row])}' was unreadable earlier; delete '{decoded.path}'"
            )
    return found
