"""The first import of OpenCV: if a system library is missing, one line says which, and how to get it.

Slim containers lack libGL. `lwdna.libraries` imports this module before a command imports anything else.
"""

from __future__ import annotations

from core.errors import UserError
from core.storage.system_libraries import library_of

__all__ = ["MissingLibrary", "cv2"]


class MissingLibrary(UserError, ImportError):
    """OpenCV cannot be imported. The message says why, and what to install."""


def _told(error: ImportError) -> MissingLibrary:
    library = library_of(error)
    if library is None:
        return MissingLibrary(
            f"OpenCV cannot be imported ({error}): pip install opencv-python; lwdna doctor checks all packages"
        )
    return MissingLibrary(
        f"OpenCV needs {library.file}, which this system lacks: {library.remedy}; or install opencv-python-headless, "
        f"which does not need it, instead of opencv-python; lwdna doctor checks all libraries"
    )


try:
    import cv2
except ImportError as failed:
    raise _told(failed) from failed
