"""The console command `lwdna`: `lwdna TASK VERB ...` is `python -m TASK.VERB ...`, from any folder.

    lwdna classification run --dataset digits
    lwdna super_resolution upscale low.png high.png --checkpoint FILE
    lwdna tracking eval --dataset lasot --results RESULTS
    lwdna channels classification.models:resnet50
    lwdna inspect FILE.safetensors
    lwdna export FILE.safetensors FILE.onnx
    lwdna store merge INTO FROM
    lwdna doctor

The current folder is searched last, so that a user's own `core/` does not hide ours, and
`--model package.module:factory` still finds the user's own network.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from lwdna import __version__
from lwdna.libraries import opencv_problem

TASKS: dict[str, tuple[str, ...]] = {
    "classification": ("run", "predict", "eval", "export"),
    "super_resolution": ("run", "upscale", "eval", "export", "convert"),
    "tracking": ("run", "train", "track", "eval", "export", "check_dataset", "convert"),
}
# One verb for every task, beside the name that the field uses.
ALIASES = {"super_resolution": {"predict": "upscale"}, "tracking": {"predict": "track"}}
ALONE = {
    "channels": "core.channels",
    "inspect": "core.inspect",
    "export": "lwdna.export",
    "store": "lwdna.store",
    "doctor": "lwdna.doctor",
}


def usage() -> str:
    """The commands that can be typed."""
    lines = [f"lwdna {task} {verb} ..." for task, verbs in TASKS.items() for verb in verbs]
    lines += [
        f"lwdna {task} {alias} ... is {verb}"
        for task, words in ALIASES.items()
        for alias, verb in words.items()
    ]
    lines += [f"lwdna {name} ..." for name in ALONE]
    return (
        "usage: "
        + "\n       ".join(lines)
        + "\n\nEach of them knows --help; lwdna --version says which release."
    )


def find_command(words: Sequence[str]) -> tuple[str, list[str]]:
    """The module for the command `words`, and the remaining arguments for it.

    Raises:
        ValueError: there is no such command; the message names close ones.
    """
    first = words[0].replace("-", "_")
    if first in ALONE:
        return ALONE[first], list(words[1:])
    if first not in TASKS:
        raise ValueError(_unknown(words[0], [*TASKS, *ALONE]))
    verbs = TASKS[first]
    verb = words[1].replace("-", "_") if len(words) > 1 else ""
    verb = ALIASES.get(first, {}).get(verb, verb)
    if verb not in verbs:
        raise ValueError(_unknown(" ".join(words[:2]), [f"{first} {verb}" for verb in verbs]))
    return f"{first}.{verb}", list(words[2:])


def _unknown(said: str, known: Sequence[str]) -> str:
    close = get_close_matches(said, known, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"use one of {', '.join(known)}"
    return f"unknown command '{said}'; {hint} (lwdna --help)"


def current_folder_last() -> None:
    """Move the current folder to the end of the path; `python -m lwdna` puts it in front, `lwdna` nowhere."""
    here = Path.cwd()
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != here.resolve()]
    sys.path.append(str(here))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; exit statuses are those of the command, 2 if there is no such command."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"lwdna {__version__}")
        return 0
    try:
        module, rest = find_command(words)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    current_folder_last()
    if module.partition(".")[0] in TASKS and (problem := opencv_problem()):
        print(f"error: {problem}", file=sys.stderr)
        return 2
    return int(importlib.import_module(module).main(rest))


if __name__ == "__main__":
    sys.exit(main())
