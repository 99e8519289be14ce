"""The checks of `lwdna doctor`: each function returns its findings, and does not raise the errors that it looks for."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from core.errors import first_line
from core.storage.system_libraries import LIBRARIES, library_of
from core.tables import grouped
from lwdna import __version__
from lwdna.shadowing import shadowed

State = Literal["ok", "note", "fails"]
OLDEST_PYTHON = (3, 11)
# The import name of a package, if it differs from the name under which it is installed.
_MODULES = {
    "opencv-python": "cv2",
    "mmcv-lite": "mmcv",
    "scikit-image": "skimage",
    "scikit-learn": "sklearn",
    "lightning-fabric": "lightning_fabric",
}
_INSTEAD = {"opencv-python": "opencv-python-headless"}  # takes its place
# Errors of packages that are installed but do not fit the system or each other.
_BROKEN = (ImportError, OSError, RuntimeError, ValueError, AttributeError, TypeError)
_ABOVE = "see versions and system libraries above"
_SHARED_MEMORY = Path("/dev/shm")
_GIB = 2**30
_LEAST_SHARED, _LEAST_FREE = 1 * _GIB, 5 * _GIB
_CHUNK, _MOST_WRITTEN, _WRITING_SECONDS = 2**23, 2**28, 0.7
_SLOW = 20e6  # bytes per second; at this speed a training state of ResNet-50 takes ten seconds


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        section: the section that it belongs to.
        name: what was checked.
        state: "ok"; "note" if something is missing that only some need; "fails" if nothing runs without it.
        found: what there is.
        remedy: what to do; "" if nothing is to be done.
    """

    section: str
    name: str
    state: State
    found: str
    remedy: str = ""


def check_versions() -> Iterator[Check]:
    """Python, this package, and every package that it needs: release, allowed range, and whether it can be imported."""
    new_enough = sys.version_info >= OLDEST_PYTHON
    yield Check(
        "versions",
        "Python",
        "ok" if new_enough else "fails",
        f"{platform.python_version()} on {platform.platform()}",
        "" if new_enough else f"use Python {'.'.join(map(str, OLDEST_PYTHON))} or newer",
    )
    yield Check("versions", "lwdna", "ok", f"{__version__} in {Path(__file__).parents[1]}")
    for name, place in shadowed().items():
        remedy = "run from another folder, or by the command lwdna"
        yield Check("versions", name, "fails", f"'{place}' is found in the place of LW-DNA's", remedy)
    needed, extras = requirements()
    if not needed:
        found = "not known: there is no pyproject.toml, and lwdna is not installed"
        yield Check("versions", "packages", "note", found, "pip install -e .")
    for line in needed:
        yield check_package(line)
    for extra, lines in extras.items():
        yield _check_extra(extra, lines)


def requirements() -> tuple[list[str], dict[str, list[str]]]:
    """The package's requirements, and what each extra adds: from the checkout, else from the installed package."""
    project = Path(__file__).parents[1] / "pyproject.toml"
    if project.exists():
        table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        needed, extras = table["dependencies"], table["optional-dependencies"]
    else:
        try:
            lines = requires("lwdna") or []
        except PackageNotFoundError:
            return [], {}
        needed = [line for line in lines if "extra ==" not in line]
        extras = grouped(
            (found[1], line) for line in lines if (found := re.search(r"""extra == ['"](\w+)""", line))
        )
    own = {
        extra: [line for line in lines if not line.startswith("lwdna[")] for extra, lines in extras.items()
    }
    return needed, {extra: lines for extra, lines in own.items() if lines}


def check_package(line: str) -> Check:
    """One package, from a line such as "numpy>=2,<3"."""
    name, allowed = _parsed(line)
    install = f"pip install '{name}{allowed}'"
    installed = _release(name) or _release(_INSTEAD.get(name, name))
    if installed is None:
        return Check("versions", name, "fails", "not installed", install)
    try:
        import_module(_MODULES.get(name, name))
    except _BROKEN as error:
        library = library_of(error) if isinstance(error, ImportError) else None
        remedy = library.remedy if library else f"install it anew: {install}"
        found = f"{installed}, but it cannot be imported: {first_line(error)}"
        return Check("versions", name, "fails", found, remedy)
    if not _allows(allowed, installed):
        return Check("versions", name, "fails", f"{installed}, allowed is {allowed}", install)
    return Check("versions", name, "ok", installed)


def _check_extra(extra: str, lines: Sequence[str]) -> Check:
    releases = {name: _release(name) for name, _ in map(_parsed, lines)}
    there = ", ".join(f"{name} {release}" for name, release in releases.items() if release)
    missing = ", ".join(name for name, release in releases.items() if not release)
    if not missing:
        return Check("versions", f"extra '{extra}'", "ok", there)
    found = f"{there}; not {missing}" if there else f"not installed: {missing}"
    return Check(
        "versions", f"extra '{extra}'", "note", found, f"pip install -e '.[{extra}]', if you need it"
    )


def _parsed(line: str) -> tuple[str, str]:
    """Name and range of a requirement."""
    found = re.match(r"([\w.-]+)(?:\[[^]]*\])?\s*([^;]*)", line)
    assert found is not None, line
    return found[1], found[2].strip(" ()")


def _release(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _allows(allowed: str, installed: str) -> bool:
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:  # it comes with several required packages, whose absence is reported
        return True
    return SpecifierSet(allowed).contains(installed, prereleases=True)


def check_devices() -> Iterator[Check]:
    """Cores, memory, GPUs; and the memory through which data workers hand over batches."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        import torch

        from core.storage.limits import physical_memory
    except _BROKEN:  # reported among the versions
        yield Check("devices", "CPU", "ok", f"{cores} cores")
        return
    memory = physical_memory()
    told = "" if memory is None else f", {memory / _GIB:,.1f} GiB of memory"
    yield Check("devices", "CPU", "ok", f"{cores} cores{told}; torch uses {torch.get_num_threads()} threads")
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        found = f"{card.name}, {card.total_memory / _GIB:,.0f} GiB, capability {card.major}.{card.minor}"
        yield Check("devices", f"cuda:{index}", "ok", found)
    if torch.backends.mps.is_available():
        yield Check("devices", "mps", "ok", "Apple's GPU")
    elif not torch.cuda.device_count():
        built = torch.version.cuda or torch.version.hip
        found, remedy = (
            "none; this torch is built for CPUs",
            "another build: https://pytorch.org/get-started/locally",
        )
        if built:
            found, remedy = f"none found by this torch, built for {built}", "does nvidia-smi see one?"
        yield Check("devices", "GPU", "note", found, f"trainings run on the CPU; for a GPU: {remedy}")
    if _SHARED_MEMORY.is_dir():
        size = shutil.disk_usage(_SHARED_MEMORY).total
        small = size < _LEAST_SHARED
        yield Check(
            "devices",
            "shared memory",
            "note" if small else "ok",
            f"{size / _GIB:,.2f} GiB at {_SHARED_MEMORY}",
            "data workers hand over their batches there: docker run --shm-size=8g, or data.workers=0" * small,
        )


def check_libraries() -> Iterator[Check]:
    """System libraries that wheels need and do not contain."""
    if sys.platform != "linux":
        yield Check("system libraries", "all", "ok", f"wheels bring their own on {sys.platform}")
        return
    for library in LIBRARIES:
        try:
            ctypes.CDLL(library.file)
        except OSError:
            headless = library.needed and _imports(
                "cv2"
            )  # opencv-python-headless, or a build that does not need them
            state: State = "fails" if library.needed and not headless else "note"
            found = f"missing; {'not needed by this OpenCV' if headless else f'for {library.purpose}'}"
            yield Check("system libraries", library.file, state, found, "" if headless else library.remedy)
        else:
            yield Check("system libraries", library.file, "ok", f"for {library.purpose}")


def _imports(module: str) -> bool:
    try:
        import_module(module)
    except _BROKEN:
        return False
    return True


def check_decoders() -> Iterator[Check]:
    """The libraries that read images and videos here."""
    try:
        from PIL import features

        from core.storage.images import jpeg_decoder
        from core.storage.opencv import cv2
    except _BROKEN:  # reported above
        yield Check("decoders", "images and videos", "fails", "none without Pillow and OpenCV", _ABOVE)
        return
    decoder = jpeg_decoder()
    if decoder is None:
        yield Check(
            "decoders", "JPEG", "note", "OpenCV", "libturbojpeg, see above, gives the same pixels faster"
        )
    else:
        binding = decoder.__name__.strip("_").removesuffix("_decode")
        yield Check("decoders", "JPEG", "ok", f"libturbojpeg, by {binding}")
    lacking = [name for name in ("webp", "libtiff") if not features.check(name)]
    yield Check(
        "decoders",
        "other images",
        "note" if lacking else "ok",
        f"Pillow {version('pillow')}" + (f" without {', '.join(lacking)}" if lacking else ""),
        "pip install --force-reinstall pillow" if lacking else "",
    )
    registry = cv2.videoio_registry
    backends = {registry.getBackendName(backend) for backend in registry.getBackends()}
    has_ffmpeg = "FFMPEG" in backends
    yield Check(
        "decoders",
        "videos",
        "ok" if has_ffmpeg else "note",
        f"OpenCV {cv2.__version__} with {'FFMPEG' if has_ffmpeg else ', '.join(sorted(backends)) or 'nothing'}",
        "" if has_ffmpeg else "the wheel opencv-python brings FFMPEG, which reads more formats",
    )


def check_data(argument: str | None) -> Iterator[Check]:
    """The data root, and which data sets are there: what is missing, where it belongs, where to get it."""
    from core.storage.data import ENVIRONMENT_VARIABLE, data_root

    root = data_root(argument)
    how = (
        "--data-root"
        if argument
        else f"${ENVIRONMENT_VARIABLE}"
        if os.environ.get(ENVIRONMENT_VARIABLE)
        else "default"
    )
    there = root.is_dir()
    yield Check(
        "data",
        "data root",
        "ok" if there else "note",
        f"'{root.absolute()}' ({how})" + ("" if there else " is no folder"),
        "" if there else f"make it, or name another with --data-root or ${ENVIRONMENT_VARIABLE}",
    )
    for module in ("classification.data", "super_resolution.data", "tracking.datasets"):
        task = module.partition(".")[0]
        try:
            missing = import_module(module).missing_sets(root)
        except ImportError:  # reported above
            yield Check(
                "data", task, "fails", "not checked: the package that reads images cannot be imported", _ABOVE
            )
            continue
        except _BROKEN as error:  # including UserError: files with wrong names
            yield Check("data", task, "fails", f"not checked: {first_line(error)}")
            continue
        here = [name for name, line in missing.items() if not line]
        yield Check("data", task, "ok" if here else "note", f"there: {', '.join(here) or 'nothing'}")
        for name, line in missing.items():
            if line:
                yield Check(
                    "data", f"{task}: {name}", "note", "missing", line.partition(", or name another root")[0]
                )


def check_folders(work_dirs: Path) -> Iterator[Check]:
    """Whether work directories and caches can be written: how fast, and how much is free."""
    places = {"work directories": work_dirs}
    try:
        from core.storage.cache import cache_folder
    except ImportError:  # reported above
        yield Check("folders", "caches", "fails", "not checked: a package is missing", _ABOVE)
    else:
        places["caches"] = cache_folder()
    for name, named in places.items():
        folder = named.absolute()
        place = next(place for place in (folder, *folder.parents) if place.exists())
        free = shutil.disk_usage(place).free
        try:
            speed = write_speed(place, min(_MOST_WRITTEN, free // 4))
        except OSError as error:
            why = f"'{folder}' cannot be written to: '{place}': {error.strerror or error}"
            remedy = (
                "set $LWDNA_CACHE to another folder" if name == "caches" else "name another with --work-dir"
            )
            yield Check("folders", name, "fails", why, remedy)
            continue
        found, remedy = f"'{folder}': {free / _GIB:,.1f} GiB free, written at {speed / 1e6:,.0f} MB/s", ""
        if free < _LEAST_FREE:
            remedy = "a training keeps two states, each up to three times its network: make room"
        elif speed < _SLOW:
            remedy = "slow for states and caches: take a folder on a local disk"
        yield Check("folders", name, "note" if remedy else "ok", found, remedy)


def write_speed(folder: Path, most: int) -> float:
    """Bytes per second that reach the disk, measured with a temporary file.

    Args:
        folder: where to write.
        most: the most bytes to write; it stops earlier when time is up.

    Raises:
        OSError: the folder cannot be written.
    """
    chunk = os.urandom(_CHUNK)  # not zeros, which some file systems do not store
    with tempfile.TemporaryFile(dir=folder) as file:
        started = time.perf_counter()
        written = 0
        while written < max(most, _CHUNK) and time.perf_counter() - started < _WRITING_SECONDS:
            written += file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        return written / (time.perf_counter() - started)
