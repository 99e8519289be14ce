"""Atomic file writes, which leave the old file or the new one, never half a file; locks between processes; and a check
that no command writes over a file that it reads.

JSON has neither infinities nor NaN, and both are legal results: the PSNR of two equal images is infinite. All JSON that
the suite writes holds the words "inf", "-inf" and "nan" in their place, and `float` reads these back.
"""

from __future__ import annotations

import codecs
import errno
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from core.errors import MissingData, UserError

_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
# Names of `atomic_write`'s and `write_with`'s temporary files.
_PARTIAL = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp|\.\d{1,7}\.[\w-]+\.\w+")
_NO_FILE = (errno.EISDIR, errno.ENOTDIR, errno.ELOOP)
LARGEST_JSON = 2**28  # bytes; a run's files are a thousandth of it

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; on a clean exit it is synced and renamed over `path`.

    Args:
        path: the file to write; missing parent folders are made.
        mode: `"w"` for UTF-8 text, `"wb"` for bytes.

    Raises:
        OSError: whatever the file system raises (a full disk, no permission); `path` is then as it was before.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path):
        yield from _written(path, mode)


def _written(path: Path, mode: str) -> Iterator[IO[Any]]:
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:  # which names a file that nobody has asked for
        raise OSError(error.errno, error.strerror, str(path)) from error
    try:
        coding, names = (None, None) if "b" in mode else ("utf-8", _NAMES)
        with os.fdopen(descriptor, mode, encoding=coding, errors=names) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # mkstemp's 0600 would hide results from the user's group
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _bytes_of_names(error: UnicodeError) -> tuple[str | bytes, int]:
    """Names of files that are no text here (LANG=C): their own bytes if these are UTF-8, else in Python's notation."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    try:
        content = found.encode("utf-8", "surrogateescape")
        content.decode()
    except UnicodeError:
        return found.encode("ascii", "backslashreplace").decode(), error.end
    return content, error.end


_NAMES = "lwdna-names"
codecs.register_error(_NAMES, _bytes_of_names)


@contextmanager
def naming(path: str | Path, temporary: Path | None = None) -> Iterator[None]:
    """Name the file that was being written in errors of a full or failing disk, which do not name it.

    Args:
        path: the file.
        temporary: the file that is written in its place; an error names `path` instead of it.
    """
    try:
        yield
    except OSError as error:
        ours = error.filename is None or Path(os.fsdecode(error.filename)) == temporary
        if error.errno in _OF_THE_DISK and ours:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_with(path: str | Path, write: Callable[[Path], object]) -> None:
    """Atomic write for libraries that insist on a file name: `write` gets a temporary path beside `path`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(
        f".{os.getpid()}.{path.name}"
    )  # keeps the suffix: libraries choose a format by it
    try:
        with naming(path, temporary):
            write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_partial_writes(folder: Path) -> None:
    """Remove what processes that were killed while writing left in a folder, but not in folders within it.

    Only for the command that holds the folder (`core.storage.claims`): nobody else writes there.
    """
    for path in folder.glob(".*"):
        if _PARTIAL.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def refuse_overwriting(
    outputs: Iterable[tuple[str, str | Path | None]], inputs: Iterable[tuple[str, str | Path | None]]
) -> None:
    """Refuse to write over a file that is read, into a folder that is read file by file, or twice to one file.

    To be called before anything is opened for writing. The file system decides whether two names mean one file: through
    links, as relative names, or in another case where case does not matter.

    Args:
        outputs: files to write, each with the option that names it ("--out"); None is skipped.
        inputs: files and folders to read, each with a description ("the video that is read"); None is skipped. In a
            folder, only the files directly in it count.

    Raises:
        UserError: the first such output, or one that is a folder.
    """
    read = {_identity(Path(path)): (what, Path(path).is_dir()) for what, path in inputs if path is not None}
    written: dict[tuple[int, int] | str, str] = {}
    for name, output in outputs:
        if output is None:
            continue
        path = Path(output)
        key, folder = _identity(path), _identity(Path(os.path.realpath(path)).parent)
        if key in read:
            raise UserError(f"{name} '{path}' is {read[key][0]}; name another one to write to")
        beside = _identity(path.parent)
        for place in (folder, beside):
            if place in read and read[place][1]:
                raise UserError(f"{name} '{path}' lies in {read[place][0]}; name a file elsewhere")
        if path.is_dir():
            raise UserError(f"{name} '{path}' is a folder; name a file in it")
        if key in written:
            raise UserError(f"{name} '{path}' is the file that {written[key]} names; give each its own")
        written[key] = name


def require_new_checkpoint(source: Path, target: Path) -> None:
    """For a checkpoint made from another one, refuse a target with another ending, or the source itself."""
    if target.suffix != ".safetensors":
        raise UserError(f"'{target}': checkpoints are written as .safetensors; change the ending")
    refuse_overwriting([("OUT", target)], [("the checkpoint that is read", source)])


def _identity(path: Path) -> tuple[int, int] | str:
    """An identity that all names of one file share."""
    try:
        found = path.stat()
    except OSError:  # a file that is still to be made
        parent = Path(os.path.realpath(path))
        with suppress(OSError):
            folder = parent.parent.stat()
            return f"{folder.st_dev}:{folder.st_ino}:{parent.name}"
        return str(parent)
    return found.st_dev, found.st_ino


def json_text(value: Any, indent: int | None = None) -> str:
    """`value` as JSON, with the words "inf", "-inf" and "nan" for the numbers that JSON does not have.

    Raises:
        TypeError: the value holds something that JSON cannot.
    """
    return json.dumps(_in_words(value), indent=indent, allow_nan=False, ensure_ascii=False)


def write_text(path: str | Path, text: str) -> None:
    """Write a text in UTF-8, atomically."""
    with atomic_write(path) as file:
        file.write(text)


def write_json(path: str | Path, value: Any) -> None:
    """Write `json_text(value)`, indented, atomically."""
    write_text(path, json_text(value, indent=2) + "\n")


def read_json(path: str | Path, most: int = LARGEST_JSON) -> Any:
    """The content of a JSON file in UTF-8, or in UTF-16, as PowerShell writes it.

    Args:
        path: the file.
        most: largest size in bytes.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is a folder, no JSON, larger than `most`, or nested too deeply for Python.
    """
    path = Path(path)
    try:
        with file_alone():
            if path.stat().st_size > most:
                raise ValueError(f"it is larger than {most >> 20:,} MiB")
            return json.loads(path.read_bytes())  # which knows the marks that Windows' editors put first
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no text in {error.encoding} ({error.reason})") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_text(path: str | Path, remedy: str) -> str:
    """The text of a file in UTF-8, without the byte-order mark that editors on Windows put before it.

    Args:
        path: the file.
        remedy: what to do if it is no text: "get it again".

    Raises:
        OSError: the file cannot be read.
        MissingData: there is no such file.
        UserError: it is a folder, or no text.
    """
    try:
        with file_alone():
            return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise MissingData(f"'{path}' not found; {remedy}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"'{path}' is no text in UTF-8 ({error.reason}); {remedy}") from error
    except ValueError as error:
        raise UserError(f"'{path}' cannot be read: {error}; {remedy}") from error


@contextmanager
def file_alone() -> Iterator[None]:
    """Within this block a file is read: a folder or a circle of links in its place counts as damage.

    Other errors of the system, such as a disk that fails or is away, say nothing about the file.

    Raises:
        ValueError: there is no file.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_FILE:
            raise ValueError("it is a folder" if error.errno == errno.EISDIR else "it is no file") from error
        raise


def from_words(value: Any) -> Any:
    """JSON values with "inf", "-inf" and "nan" turned back into numbers, at any depth.

    For values that hold no such texts; where only a number is expected, `float` does it.
    """
    if isinstance(value, dict):
        return {key: from_words(item) for key, item in value.items()}
    if isinstance(value, list):
        return [from_words(item) for item in value]
    return float(value) if value in ("inf", "-inf", "nan") else value


def _in_words(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _in_words(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_in_words(item) for item in value]
    return str(float(value)) if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def exclusive(path: str | Path, waiting: Callable[[], object] | None = None) -> Iterator[bool]:
    """Hold a lock that ends with the process, however that ends; yields False where the system has no such lock.

    Without one (Windows, some network file systems) simultaneous processes each do the work, and the last one's file
    stays.

    Args:
        path: the lock file, which stays; its folder exists.
        waiting: called once if another process holds the lock, before waiting for it.
    """
    with Path(path).open("w") as file:
        locked = busy = False
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                locked = True
            except OSError as error:
                busy = isinstance(error, BlockingIOError)  # any other error: a file system without locks
        if busy:
            if waiting is not None:
                waiting()
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
                locked = True
        yield locked
