"""Texts that a reader sees when pointing at a mark of a chart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Tips:
    """Texts of marks: id of a drawn artist -> one text for each of its marks, in drawing order."""

    texts: dict[str, list[str]] = field(default_factory=dict)

    def add(self, artist: Any, texts: Sequence[str]) -> None:
        """Give an artist of matplotlib its texts; all of its marks have to lie within the figure."""
        name = f"tips{len(self.texts)}"
        artist.set_gid(name)
        self.texts[name] = list(texts)
