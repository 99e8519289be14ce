"""What mkdocs asks for while it builds the site: pages that stand elsewhere or are made, and links out of docs/."""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]  # mkdocs runs this file without its folder

import faults  # noqa: E402
import notebook  # noqa: E402

# Files outside of docs/ that are pages of the site.
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "LICENCES.md": "licences.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks.md",
}
MADE = {"faults.md": faults.page, "notebook.md": notebook.page}
# What a reader of the repository is led to, and a reader of the site instead.
LINKS = {
    **PAGES,
    "docs/making/answers.toml": "faults.md",
    notebook.PATH.relative_to(ROOT).as_posix(): "notebook.md",
}
# Pages that the navigation has where they exist: name -> (section, title).
WHERE_THERE = {"distributed.md": ("Running", "Clusters"), "doctor.md": ("Running", "Is everything there?")}
# Where other new pages go, by their first heading.
FOLDERS = {"": "In detail", "results/": "Results"}

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Give every page that exists its place in the navigation."""
    nav: Any = config.nav
    for name, (section, title) in WHERE_THERE.items():
        if (ROOT / "docs" / name).exists():
            _add(nav, section, title, name)
    for folder, section in FOLDERS.items():
        for path in sorted((ROOT / "docs" / folder).glob("*.md")):
            title = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
            _add(nav, section, title, f"{folder}{path.name}")
    return config


def _add(nav: Any, section: str, title: str, name: str) -> None:
    if f"'{name}'" not in str(nav):
        (entries,) = (entry[section] for entry in nav if section in entry)
        entries.append({title: name})


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that do not lie in docs/."""
    from mkdocs.structure.files import File

    for source, name in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=text))
    for name, make in MADE.items():
        files.append(File.generated(config, name, content=make()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into links within the site, or into their text."""
    name = page.file.src_uri
    origin = {made: source for source, made in PAGES.items()}.get(name, f"docs/{name}")
    parts = _FENCE.split(markdown)
    parts[::2] = [_LINK.sub(lambda match: link(match, name, origin), part) for part in parts[::2]]
    return "".join(parts)


def link(match: re.Match[str], name: str, origin: str) -> str:
    """One link as the site needs it.

    Args:
        match: of `_LINK`.
        name: the page's place within the site.
        origin: the same of the file that it was made from, within the repository.
    """
    mark, text, target = match.groups()
    path, _, anchor = target.partition("#")
    if not path or ":" in path:
        return match[0]
    place = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path))
    known = LINKS.get(place, place.removeprefix("docs/") if place.startswith("docs/") else None)
    if known is not None and not (ROOT / place).is_dir():
        relative = posixpath.relpath(known, posixpath.dirname(name) or ".")
        drawn, kind = posixpath.splitext(relative)
        if mark and kind == ".png" and (ROOT / place).with_suffix(".svg").exists():
            return f"[![{text}]({relative})]({drawn}.svg)"  # the vector picture, to be enlarged
        return f"{mark}[{text}]({relative}{'#' * bool(anchor)}{anchor})"
    if (ROOT / place).is_dir() and place.startswith("docs/results"):
        return f"[{text}]({posixpath.relpath('results/README.md', posixpath.dirname(name) or '.')})"
    if (ROOT / place).exists():
        return text if "`" in text or place in text else f"{text} (`{place}`)"
    return match[0]  # mkdocs warns of it
