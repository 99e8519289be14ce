"""Checks whether OpenCV can be imported. If not, a command says so in one line before it imports anything else."""

from __future__ import annotations

import sys

from lwdna.shadowing import is_command


def opencv_problem() -> str:
    """Why OpenCV cannot be imported, and what to install; "" if it can."""
    from core.errors import UserError

    try:
        import core.storage.opencv  # noqa: F401
    except UserError as error:
        return str(error)
    return ""


def check_opencv() -> None:
    """For a package of commands: if one of them is started and OpenCV cannot be imported, one line and status 2.

    Other importers of the package may not need OpenCV: `core.storage.images` raises the same line when it is needed.
    """
    if is_command() and (problem := opencv_problem()):
        print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(2)
