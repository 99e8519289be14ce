"""`lwdna export CHECKPOINT OUT.{onnx,pt2,safetensors}`: a trained network for other programs.

The checkpoint names its task; `lwdna TASK export` does the same.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from importlib import import_module

from core.command_line.exits import run_parsed
from core.errors import UserError
from core.export.command import build_parser, run
from core.storage.checkpoint import read_metadata

TASKS = {"classification": "classification", "super_resolution": "super_resolution", "dimp": "tracking"}


def task_of(checkpoint: str) -> str:
    """The package of a checkpoint's task.

    Raises:
        UserError: it is missing, damaged, or does not name its task.
    """
    key = next((key for key in read_metadata(checkpoint) if key in TASKS), None)
    if key is None:
        raise UserError(f"'{checkpoint}' does not name its task: use METHOD.safetensors of a work directory")
    return TASKS[key]


def _export(options: Namespace) -> int:
    if options.checkpoint.suffix != ".safetensors":
        raise UserError(
            f"'{options.checkpoint}' is no .safetensors file, which would name its task; a published tracker is "
            "exported by lwdna tracking export"
        )
    return run(options, import_module(f"{task_of(options.checkpoint)}.export").open_export)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; exit status 0 done, 1 failed, 2 wrong usage or bad input."""
    return run_parsed(build_parser("lwdna export", __doc__), _export, argv, "start it again")


if __name__ == "__main__":
    sys.exit(main())
