"""What there is to type and to run in the docs: the fenced blocks of the pages, and the marks on them.

A block that is not run says so in the line before it, `<!-- not run: why -->`; or, of some of its lines, `<!-- not run
(word, other): why -->`: those that hold one of these words.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "LICENCES.md", "SECURITY.md")),
    *sorted(ROOT.glob("docs/*.md")),
]
_FENCE = re.compile(
    r"(?:<!-- not run(?: \(([^)]*)\))?: ([^\n]+?) -->\n)?^```(\w*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE
)
# Commands that are set in by four spaces are read, and not run.
_INDENTED = re.compile(
    r"^((?:    (?:\S.*)?(?:python|lwdna|torchrun|srun|make|pip) .*\n)(?:    .*\n)*)", re.MULTILINE
)


@dataclass(frozen=True)
class Fence:
    """A fenced block.

    Attributes:
        page: the page's name.
        language: what stands behind the backticks.
        text: its lines.
        words: of the lines that are not run; empty for all.
        reason: why not; empty where all are run.
    """

    page: str
    language: str
    text: str
    words: tuple[str, ...]
    reason: str

    @property
    def commands(self) -> list[str]:
        """The command lines, continued ones joined, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [shlex.join(words) for line in lines if (words := shlex.split(line, comments=True))]

    def is_run(self, line: str) -> bool:
        """Whether a line of it is promised to be run."""
        return not self.reason or (bool(self.words) and not any(word in line for word in self.words))


def fences(page: Path) -> list[Fence]:
    """The blocks of a page, in order, and after them the commands that are set in."""
    text = page.read_text(encoding="utf-8")
    assert "\n    ```" not in text, f"{page.name}: an indented block"
    found = [
        Fence(page.name, language, body, tuple(w.strip() for w in words.split(",") if w), reason)
        for words, reason, language, body in _FENCE.findall(text)
    ]
    blocks = _INDENTED.findall(_FENCE.sub("", text))
    return found + [
        Fence(page.name, "sh", textwrap.dedent(body), (), "indented: read, not run") for body in blocks
    ]


def all_fences() -> list[Fence]:
    """Those of all pages."""
    return [fence for page in PAGES for fence in fences(page)]
