"""System libraries that wheels need but do not contain: what needs them, and what installs them."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class SystemLibrary:
    """A shared library of Linux.

    Attributes:
        file: its name, as programs ask for it.
        purpose: what needs it.
        debian: the package of Debian and Ubuntu.
        fedora: the package of Fedora and its relatives.
        needed: whether nothing runs without it; otherwise something is only slower.
    """

    file: str
    purpose: str
    debian: str
    fedora: str
    needed: bool = True

    @property
    def remedy(self) -> str:
        """How to install it."""
        return f"apt-get install {self.debian} (Debian, Ubuntu) or dnf install {self.fedora} (Fedora)"


_OF_OPENCV = "opencv-python"
LIBRARIES = (
    SystemLibrary("libGL.so.1", _OF_OPENCV, "libgl1", "mesa-libGL"),
    SystemLibrary("libglib-2.0.so.0", _OF_OPENCV, "libglib2.0-0", "glib2"),
    SystemLibrary("libgthread-2.0.so.0", _OF_OPENCV, "libglib2.0-0", "glib2"),
    SystemLibrary("libxcb.so.1", _OF_OPENCV, "libxcb1", "libxcb"),
    SystemLibrary("libturbojpeg.so.0", "JPEGs decoded by jpeg4py, faster", "libturbojpeg0", "turbojpeg", needed=False),
)  # fmt: skip


def library_of(error: ImportError) -> SystemLibrary | None:
    """The missing system library, by the loader's message; None if that is about something else."""
    found = re.match(r"(lib[^\s:]+\.so[.\d]*): ", str(error))
    if found is None:
        return None
    name = found[1]
    known = next((library for library in LIBRARIES if library.file == name), None)
    return known or SystemLibrary(name, _OF_OPENCV, f"the package with {name}", f"'*/{name}'")
