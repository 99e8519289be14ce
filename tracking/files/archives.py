"""Files that may lie inside a zip: read in memory, never extracted, with checked names and bounded sizes."""

from __future__ import annotations

import functools
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from core.errors import MissingData, UserError

MAX_MEMBERS = 100_000
MAX_MEMBER_BYTES = 64 * 2**20
MAX_TOTAL_BYTES = 2 * 2**30
MAX_RATIO, ALWAYS_BYTES = (
    100,
    2**28,
)  # unpacked to packed; the second size is always allowed, as boxes that stand still pack well


@dataclass(frozen=True)
class StoredFile:
    """A file, or a member of a zip.

    Attributes:
        path: the file or the zip.
        member: the member's name; None for a plain file.
    """

    path: Path
    member: str | None = None

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}:{self.member}"

    @property
    def name(self) -> str:
        """The last part of the name."""
        return self.path.name if self.member is None else PurePosixPath(self.member).name

    def exists(self) -> bool:
        """Whether it is there (members are only made from an archive's own list)."""
        return self.path.is_file()

    def read(self) -> bytes:
        """The file's bytes.

        Raises:
            MissingData: no such file.
            UserError: it cannot be read, or is larger than 64 MiB.
        """
        try:
            if self.member is None:
                data = _read_plain(self.path)
            else:
                with _archive(self.path, self.path.stat().st_mtime_ns).open(self.member) as member:
                    data = member.read(MAX_MEMBER_BYTES + 1)
        except FileNotFoundError as error:
            raise MissingData(f"{self}: no such file: check the path") from error
        except (
            OSError,
            EOFError,
            zipfile.BadZipFile,
            zlib.error,
            NotImplementedError,
            RuntimeError,
        ) as error:
            raise UserError(
                f"{self}: cannot be read ({error}): check the file and its permissions"
            ) from error
        if len(data) > MAX_MEMBER_BYTES:
            raise UserError(f"{self}: larger than {MAX_MEMBER_BYTES >> 20} MiB, which is no box file")
        return data


def _read_plain(path: Path) -> bytes:
    """At most one byte more than allowed, without `open`'s buffer, which would take most of the time of small files."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        size = os.fstat(descriptor).st_size  # 0 for a pipe
        data = os.read(descriptor, min(size, MAX_MEMBER_BYTES) + 1)
        while len(data) != size and len(data) <= MAX_MEMBER_BYTES:
            more = os.read(descriptor, MAX_MEMBER_BYTES + 1 - len(data))
            if not more:
                break
            data += more
        return data
    finally:
        os.close(descriptor)


@functools.lru_cache(maxsize=16)
def _archive(path: Path, modified: int) -> zipfile.ZipFile:
    # `modified` is part of the key, so that a rewritten archive is opened anew.
    return zipfile.ZipFile(path)


def zip_members(path: Path) -> list[StoredFile]:
    """The files in a zip, folders and macOS resource forks left out.

    Raises:
        UserError: not a zip; a name that would leave the archive's folder (`..`, absolute, drive letter, backslash)
            or a symbolic link; more than 100,000 members or 2 GiB in all, or a small file that unpacks to much.
    """
    try:
        entries = _archive(path, path.stat().st_mtime_ns).infolist()
    except FileNotFoundError as error:
        raise MissingData(f"{path}: no such file: check the path") from error
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a readable zip archive ({error}): make it again") from error
    if len(entries) > MAX_MEMBERS or sum(entry.file_size for entry in entries) > MAX_TOTAL_BYTES:
        raise UserError(
            f"{path}: more than {MAX_MEMBERS} files or {MAX_TOTAL_BYTES >> 30} GiB: no tracking results"
        )
    unpacked, packed = sum(entry.file_size for entry in entries), path.stat().st_size
    if unpacked > max(MAX_RATIO * packed, ALWAYS_BYTES):
        raise UserError(
            f"{path}: {packed >> 10:,} KiB that unpack to {unpacked >> 20:,} MiB: no tracking results"
        )
    files = []
    for entry in entries:
        # On some systems filename has its backslashes already replaced; orig_filename is the archive's own.
        raw = entry.orig_filename
        parts = PurePosixPath(raw).parts
        linked = (entry.external_attr >> 16) & 0o170000 == 0o120000
        if "\\" in raw or ":" in raw or raw.startswith("/") or ".." in parts or linked:
            raise UserError(
                f"{path}: refuses the member '{raw[:80]}': it points outside the archive: make it again"
            )
        if not entry.is_dir() and "__MACOSX" not in parts:
            files.append(StoredFile(path, entry.filename))
    return files
