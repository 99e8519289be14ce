"""What a file is by its first bytes: names of files say it wrongly, and decoders' messages do not say it at all."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

from core.errors import UserError

_MOST_HEADER = 100_000_000  # bytes; the safetensors format allows no more
_BEGINNINGS = (
    (
        b"version https://git-lfs",
        "a pointer of Git LFS and not the file itself; fetch that by 'git lfs pull'",
    ),
    (b"\x1f\x8b", "packed by gzip; unpack it first"),
    (b"\x89HDF", "an HDF5 file, as Keras writes them; convert it to safetensors"),
    (b"\x93NUMPY", "an array of numpy; convert it to safetensors"),
    (b"\xff\xd8\xff", "an image; a trained network's file is asked for"),
    (b"\x89PNG", "an image; a trained network's file is asked for"),
    (b"<", "a web page or XML: a download that went wrong; get it again"),
    (b"{", "a JSON file; widths are read by --widths, weights from .safetensors and what torch.save writes"),
    (b"[", "a JSON file; weights are read from .safetensors and what torch.save writes"),
)


def is_safetensors(path: str | Path) -> bool:
    """Whether a file begins like one of safetensors, however it is called: a header's length, and its brace.

    Raises:
        UserError: it cannot be read.
    """
    start = _start(path)
    return start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") <= _MOST_HEADER


def is_torch(path: str | Path) -> bool:
    """Whether a file begins like those of torch.save: a zip archive or, before 2020, a pickle.

    Raises:
        UserError: it cannot be read.
    """
    return _start(path).startswith((b"PK\3\4", b"\x80"))


def refuse_other_kinds(path: str | Path) -> None:
    """Say of what neither safetensors nor torch.save wrote what it is, and what to do, where that is known.

    Raises:
        UserError: it is known, or the file cannot be read.
    """
    if kind := _other_kind(path):
        raise UserError(f"'{path}' is {kind}")


def _other_kind(path: str | Path) -> str:
    start = _start(path)
    if not start:
        return "truncated to nothing: it is empty; get it again"
    if start.startswith(b"PK\3\4"):
        return _other_archive(path)
    if start[257:262] == b"ustar" and tarfile.is_tarfile(path):
        return "a tar archive; unpack it first, or save what is in it by torch.save again"
    stripped = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    return next((what for beginning, what in _BEGINNINGS if stripped.startswith(beginning)), "")


def _other_archive(path: str | Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [Path(name).name for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return ""
    if "constants.pkl" in names:
        return "a TorchScript program, which is code; save its state_dict where you trust it"
    if "archive_format" in names:
        return "a program of torch.export; 'lwdna inspect' reads it as a .pt2, and its weights lie in its checkpoint"
    if names and all(name.endswith(".npy") for name in names):
        return "an archive of numpy; convert it to safetensors"
    return "" if "data.pkl" in names else "a zip archive that torch.save did not write; unpack it first"


def _start(path: str | Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(512)
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}") from error
