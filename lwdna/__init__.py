"""LW-DNA under one name: `import lwdna; lwdna.shrink(...)`, and the console command `lwdna`.

The public names are those of `core`, loaded at first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lwdna.shadowing import check_packages

if TYPE_CHECKING:
    from core import *  # noqa: F403

__version__ = "0.2.0"  # pyproject.toml reads it here


def _public_names() -> list[str]:
    check_packages()
    import core

    return core.__all__


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return ["__version__", *_public_names()]
    if name.startswith("_") or name not in _public_names():
        raise AttributeError(f"module 'lwdna' has no attribute '{name}'")
    import core

    return getattr(core, name)


def __dir__() -> list[str]:
    return ["__version__", *_public_names()]
