"""Which code made a result."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).parents[2]


@cache
def commit() -> str | None:
    """The commit of the checkout with this code, with a "+" if files differ from it; None without a checkout."""
    if not (_ROOT / ".git").exists():
        return None
    try:
        found = [
            subprocess.run(
                ["git", *words], cwd=_ROOT, capture_output=True, text=True, check=True, timeout=10
            ).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.SubprocessError):  # no git, or a checkout of somebody else's
        return None
    return found[0].strip() + ("+" if found[1].strip() else "")
