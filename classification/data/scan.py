"""Which files are images and which folders are classes; everything else is left out, never silently, with a reason.

The rules are those of torchvision's `ImageFolder` (a class is a folder, and images lie anywhere below it) without its
traps: there a hidden folder is a class, and an image without a known suffix vanishes.
"""

from __future__ import annotations

import os
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from classification.data.config import BadImages
from core.errors import UserError
from core.storage.data import is_hidden
from core.storage.files import read_text

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
KINDS = "JPEG, PNG, WebP, BMP, TIFF or GIF"
# Camera raws begin like a TIFF, but a TIFF decoder cannot read their picture.
_RAW = (
    ".3fr",
    ".arw",
    ".cr2",
    ".dng",
    ".erf",
    ".iiq",
    ".kdc",
    ".mef",
    ".nef",
    ".nrw",
    ".orf",
    ".pef",
    ".rw2",
    ".srw",
)
_BEGINNINGS = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|GIF8[79]a|II[*+]\0|MM\0[*+]"
    rb"|BM.{8}....[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",  # for a BMP also the size of its second header
    re.DOTALL,
)
_NAMED = 5
_FOLDER, _IMAGE, _BY_CONTENT = "folder", "image", "image by its content"


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that is not used.

    Attributes:
        path: where it lies.
        reason: why, in a few words shared by many files, or an image's damage.
    """

    path: str
    reason: str

    def __str__(self) -> str:
        """A line of `skipped.txt`: path, tab, reason; an unprintable name is written in Python's notation."""
        return f"{self.path if self.path.isprintable() else repr(self.path)}\t{self.reason}"


@dataclass
class Listing:
    """The images below a folder.

    Attributes:
        files: their paths relative to the folder, sorted.
        left_out: what else lies there.
        by_content: how many of the images were recognised by their content, not by their suffix.
        folders: number of folders below that hold images.
    """

    files: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    by_content: int = 0
    folders: int = 0


@dataclass(frozen=True, eq=False)
class ClassFolders:
    """A folder with one folder of images per class.

    Attributes:
        folder: the folder.
        classes: names of the class folders, sorted; at least one, none empty.
        files: `(N,)` paths of the images relative to `folder`, class by class, sorted within.
        labels: `(N,)`, int64, indices into `classes`.
        left_out: what else lies in the folder.
        notes: what was assumed, one sentence each.
    """

    folder: Path
    classes: tuple[str, ...]
    files: list[str]
    labels: np.ndarray
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]


def scan_class_folders(folder: Path) -> ClassFolders:
    """Find the classes and images of `folder`.

    A class is a folder directly in `folder`; its images are the files below it that hold a JPEG, PNG, WebP, BMP, TIFF
    or GIF: by their suffix in upper or lower case or, if the suffix says nothing, by their first bytes. Links are
    followed. Hidden files and folders, broken links and everything else are left out.

    Raises:
        UserError: there is no class folder, a class folder holds no image, or a folder cannot be read.
    """
    names, beside = class_entries(folder)
    if not names:
        stray = f", but {len(beside)} other files or folders" if beside else ""
        raise UserError(f"'{folder}' holds no class folders{stray}: put the images into one folder per class")
    left_out = list(beside)
    files: list[str] = []
    labels: list[int] = []
    empty: list[str] = []
    by_content = 0
    nested: list[str] = []
    for label, name in enumerate(names):
        listing = list_images(folder / name)
        files += [f"{name}/{file}" for file in listing.files]
        labels += [label] * len(listing.files)
        left_out += listing.left_out
        by_content += listing.by_content
        if listing.folders:
            nested.append(name)
        if not listing.files:
            held = f" ({_reasons(listing.left_out)})" if listing.left_out else ""
            empty.append(name + held)
    if empty:
        raise UserError(
            f"{len(empty)} of {len(names)} class folders in '{folder}' hold no image: {few(empty, '; ')}; "
            f"put {KINDS} files there, or remove the class from every part"
        )
    alike = [group for group in _same_but_for_case(names) if len(group) > 1]
    notes = [
        f"Images in folders within class folders of '{folder}' count for the class: {few(nested)}."
        if nested
        else "",
        f"Without an image's suffix, taken for images by their content in '{folder}': {by_content:,}."
        if by_content
        else "",
        f"Classes of '{folder}' whose names differ in letter case alone are separate classes: "
        f"{few([' and '.join(group) for group in alike], '; ')}."
        if alike
        else "",
    ]
    return ClassFolders(
        folder,
        tuple(names),
        files,
        np.array(labels, dtype=np.int64),
        tuple(left_out),
        tuple(note for note in notes if note),
    )


def require_same_classes(one: ClassFolders, other: ClassFolders) -> None:
    """Refuse parts of a data set whose classes differ.

    Raises:
        UserError: a class is in one part alone; the message names the missing classes of both parts.
    """
    sides = [
        f"'{there.folder}' lacks {_count(len(missing), 'class', 'classes')} of '{here.folder}': {few(missing)}"
        for here, there in ((one, other), (other, one))
        if (missing := sorted(set(here.classes) - set(there.classes)))
    ]
    if sides:
        alike = {_loosely(name): name for name in other.classes if name not in one.classes}
        pairs = [
            f"{name!a} and {alike[_loosely(name)]!a}"
            for name in one.classes
            if name not in other.classes and _loosely(name) in alike
        ]
        hint = f" (alike but for spaces, case or the coding of accents: {few(pairs, '; ')})" if pairs else ""
        raise UserError(
            f"{'; '.join(sides)}; both need the same class folders, named alike to the letter{hint}"
        )


def list_images(folder: Path) -> Listing:
    """The images below `folder`, by the rules of `scan_class_folders`; files beside them are listed, too.

    Raises:
        UserError: a folder cannot be read.
    """
    listing = Listing()
    for path, images in _walk(str(folder), (os.path.realpath(folder),), listing):
        prefix = os.path.relpath(path, folder) + "/" if path != str(folder) else ""
        listing.files += [prefix + name for name in images]
        listing.folders += bool(prefix and images)
    listing.files.sort()
    return listing


def stray_images(folder: Path) -> list[LeftOut]:
    """Images directly in a folder whose layout has them one folder below.

    Raises:
        UserError: the folder cannot be read.
    """
    return [
        LeftOut(entry.path, "image beside the folders of images")
        for entry in sorted(_scandir(str(folder)), key=lambda entry: entry.name)
        if entry.name.lower().endswith(SUFFIXES) and not is_hidden(entry.name) and entry.is_file()
    ]


def summary(left_out: Sequence[LeftOut]) -> str:
    """How much was left out and why: "5 files or folders were left out: 3 hidden, 2 broken link"."""
    if not left_out:
        return ""
    verb = "files or folders were" if len(left_out) > 1 else "file or folder was"
    return f"{len(left_out):,} {verb} left out: {_reasons(left_out)}"


def few(names: Sequence[str], separator: str = ", ") -> str:
    """The first names, and how many more there are."""
    more = f"{separator}… ({len(names):,} in all)" if len(names) > _NAMED else ""
    return separator.join(names[:_NAMED]) + more


def report_unreadable(reasons: Sequence[str], count: int, bad_images: BadImages) -> None:
    """Stop at images that cannot be read, or warn of them; does nothing if there are none.

    Args:
        reasons: why each of them cannot be read.
        count: how many images there are, these among them.
        bad_images: see `DataConfig`.

    Raises:
        UserError: there are some, and `bad_images` is "error".
    """
    if reasons and bad_images == "error":
        others = f" ({len(reasons)} such images)" if len(reasons) > 1 else ""
        raise UserError(
            f"{reasons[0]}{others}; repair it, or leave such images out with data.bad_images='skip'"
        )
    if reasons:
        warnings.warn(f"{len(reasons)} of {count} images left out: {few(reasons, '; ')}", stacklevel=3)


def read_list(path: Path, again: str) -> list[str]:
    """The lines of a data set's list, without the byte-order mark that Windows' editors put before the first.

    Args:
        path: the list.
        again: where to get it.

    Raises:
        UserError: it is no text.
    """
    return read_text(path, f"get it from {again}").splitlines()


def _walk(folder: str, above: tuple[str, ...], listing: Listing) -> Iterator[tuple[str, list[str]]]:
    """Each folder from `folder` down, with its images' names; `above` are the real paths from the first one down."""
    images: list[str] = []
    folders: list[os.DirEntry[str]] = []
    for entry, kind in _sorted_entries(folder, _kind_of_file):
        if kind == _FOLDER:
            folders.append(entry)
        elif kind in (_IMAGE, _BY_CONTENT):
            images.append(entry.name)
            listing.by_content += kind == _BY_CONTENT
        else:
            listing.left_out.append(LeftOut(entry.path, kind))
    yield folder, images
    for entry in sorted(folders, key=lambda entry: entry.name):
        real = os.path.realpath(entry.path)
        if any(path == real or path.startswith(real.rstrip(os.sep) + os.sep) for path in above):
            listing.left_out.append(LeftOut(entry.path, "link to a folder above it"))
        else:
            yield from _walk(entry.path, (*above, real), listing)


def class_entries(folder: Path) -> tuple[list[str], list[LeftOut]]:
    """The sorted names of the folders in `folder` that count, and what lies beside them.

    Raises:
        UserError: the folder cannot be read.
    """
    entries = list(_sorted_entries(str(folder), lambda entry: "beside the class folders"))
    names = [entry.name for entry, kind in entries if kind == _FOLDER]
    left_out = [LeftOut(entry.path, kind) for entry, kind in entries if kind != _FOLDER]
    return sorted(names), sorted(left_out, key=lambda entry: entry.path)


def _sorted_entries(
    folder: str, kind_of_file: Callable[[os.DirEntry[str]], str]
) -> Iterator[tuple[os.DirEntry[str], str]]:
    """A folder's entries, and what each is: `_FOLDER`, a file's kind, or why it is left out."""
    for entry in _scandir(folder):
        try:
            if is_hidden(entry.name):
                kind = "hidden"
            elif entry.is_file():
                kind = kind_of_file(entry)
            elif entry.is_dir():
                kind = _FOLDER
            else:
                kind = "broken link" if entry.is_symlink() else "no regular file"
        except OSError as error:
            kind = f"cannot be read: {error.strerror}"
        yield entry, kind


def _kind_of_file(entry: os.DirEntry[str]) -> str:
    if entry.name.lower().endswith(SUFFIXES):
        return _IMAGE
    return _BY_CONTENT if _begins_like_an_image(entry.path) else f"no {KINDS}"


def _scandir(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise UserError(f"folder '{folder}' cannot be read: {error.strerror}; allow reading it") from error


def _begins_like_an_image(path: str) -> bool:
    if path.lower().endswith(_RAW):
        return False
    with open(path, "rb") as file:
        return _BEGINNINGS.match(file.read(32)) is not None


def _same_but_for_case(names: Iterable[str]) -> Iterable[list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.casefold(), []).append(name)
    return groups.values()


def _loosely(name: str) -> str:
    """A name without what a reader does not see in it."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _reasons(left_out: Iterable[LeftOut]) -> str:
    return ", ".join(
        f"{count:,} {reason}" for reason, count in Counter(entry.reason for entry in left_out).most_common()
    )


def _count(number: int, one: str, several: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else several or one + 's'}"
