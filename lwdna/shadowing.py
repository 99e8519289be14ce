"""Checks whether Python finds our packages: users often have folders called `core` or `tracking`."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("core", "classification", "super_resolution", "tracking", "shared_configs", "benchmarks")


class ShadowedError(ImportError):
    """Another package of the same name is found before ours."""


def shadowed(packages: tuple[str, ...] = PACKAGES) -> dict[str, Path]:
    """The `packages` that Python finds elsewhere than beside this one: name -> place.

    A folder without an `__init__.py` shadows nothing: Python prefers our package to it.
    """
    ours = Path(__file__).resolve().parents[1]
    found: dict[str, Path] = {}
    for name in packages:
        module = sys.modules.get(name)
        spec = find_spec(name) if module is None else module.__spec__
        if spec is None or spec.origin is None:
            continue
        place = Path(spec.origin).resolve()
        if place.parent != ours / name:
            found[name] = place.parent if place.name == "__init__.py" else place
    return found


def check_packages() -> None:
    """Refuse to run if another `core` would be imported; in a command with one line and exit status 2.

    Raises:
        ShadowedError: a package of ours is shadowed; the message says by what, and what to do.
    """
    found = {name: place for name, place in shadowed().items() if name != "benchmarks"}
    if not found:
        return
    name, place = next(iter(found.items()))
    line = (
        f"'{place}' is imported in the place of LW-DNA's package '{name}': run from another folder, or use the command "
        f"lwdna, which looks into the current folder last"
    )
    if is_command():
        print(f"error: {line}", file=sys.stderr)
        raise SystemExit(2)
    raise ShadowedError(line)


def is_command() -> bool:
    """Whether Python is just looking for the module of `python -m classification.run`."""
    return sys.argv[:1] == ["-m"]  # runpy's name for it
