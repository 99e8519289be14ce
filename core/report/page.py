"""report.html: one file that opens without a network, from sections of text, tables, charts and pictures.

Every text is escaped: names of files, classes and networks are the user's. A Content-Security-Policy names the page's
one script by its checksum, so that no other runs; nothing is loaded from anywhere.
"""

from __future__ import annotations

import base64
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from core.report.style import styled
from core.report.tips import Tips
from core.storage.files import json_text, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LARGEST = 3 * 2**20  # bytes of a page
_SVG, _LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


@dataclass(frozen=True)
class Chart:
    """A drawing.

    Attributes:
        svg: from `chart_of`.
        alt: what it shows, for those who cannot see it.
        caption: shown below.
        name: its name as one of several (`Choice`).
        wide: whether it scrolls sideways on narrower screens.
    """

    svg: Markup
    alt: str
    caption: str = ""
    name: str = ""
    wide: bool = False
    kind: str = field(default="chart", init=False)


@dataclass(frozen=True)
class Choice:
    """Charts of the same data, of which one is shown (a linear or logarithmic scale), with a title for the choice."""

    charts: tuple[Chart, ...]
    title: str = "Scale"
    kind: str = field(default="choice", init=False)


@dataclass(frozen=True)
class Table:
    """Rows of text; the first column names them.

    Attributes:
        header: names of the columns.
        rows: a cell for each column.
        caption: shown above.
        folded: whether only the caption shows until a click.
        words: whether cells are texts, which break into lines on narrow pages, not numbers.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    folded: bool = False
    words: bool = False
    kind: str = field(default="table", init=False)


@dataclass(frozen=True)
class Picture:
    """An image within the page.

    Attributes:
        uri: from `png` or `jpeg`.
        alt: what it shows.
        caption: shown below.
        width: pixels.
        height: likewise.
        boxes: (x, y, width, height in pixels, colour, name) drawn over it.
    """

    uri: str
    alt: str
    caption: str = ""
    width: int = 0
    height: int = 0
    boxes: tuple[tuple[float, float, float, float, str, str], ...] = ()


@dataclass(frozen=True)
class Gallery:
    """Pictures beside each other; `pixels` shows small ones enlarged, each pixel as a square."""

    pictures: tuple[Picture, ...]
    caption: str = ""
    pixels: bool = False
    kind: str = field(default="gallery", init=False)


@dataclass(frozen=True)
class Slider:
    """Pictures of one size, two of which a movable border compares; without scripts they stand in a row."""

    pictures: tuple[Picture, ...]
    caption: str = ""
    kind: str = field(default="slider", init=False)


@dataclass(frozen=True)
class Text:
    """Paragraphs, or a block of commands (`code`)."""

    lines: Sequence[str]
    code: bool = False
    kind: str = field(default="text", init=False)


Block = Chart | Choice | Table | Gallery | Slider | Text


@dataclass(frozen=True)
class Section:
    """A part of the page: a title and its blocks."""

    title: str
    blocks: tuple[Block, ...]

    @property
    def anchor(self) -> str:
        """The anchor of the section in the page."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class Page:
    """The report of a run.

    Attributes:
        title: of the page.
        summary: the first sentences.
        sections: the parts below the summary.
        data: plain values, kept in the page as JSON for other programs.
    """

    title: str
    summary: Sequence[str]
    sections: Sequence[Section]
    data: Mapping[str, Any]


def readable(text: str) -> str:
    """A text without characters that no page can hold: control characters and lone surrogates become "\ufffd"."""
    return "".join(
        "\ufffd" if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" else c for c in text
    )


@styled
def chart_of(
    figure: Figure,
    alt: str,
    caption: str = "",
    tips: Tips | None = None,
    *,
    name: str = "",
    wide: bool = False,
) -> Chart:
    """A figure as a part of a page, with the texts of its marks.

    Args:
        figure: drawn in the common style.
        alt: see `Chart`.
        caption: likewise.
        tips: texts of marks.
        name: see `Chart`.
        wide: likewise.

    Raises:
        ValueError: a mark was drawn outside the figure, so that texts cannot be told apart.
    """
    stream = BytesIO()
    figure.savefig(
        stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    text = readable(stream.getvalue().decode("utf-8"))
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _LINK)
    root = ElementTree.fromstring(text)
    for node in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(node)
    groups = {node.get("id"): node for node in root.iter(f"{{{_SVG}}}g")}
    for key, said in (tips or Tips()).texts.items():
        group = groups[key]
        uses = list(group.iter(f"{{{_SVG}}}use"))
        marks = uses or list(group.iter(f"{{{_SVG}}}path"))
        if len(marks) != len(said):
            raise ValueError(f"{len(said)} texts for {len(marks)} marks of '{key}'")
        for mark, one in zip(marks, said, strict=True):
            mark.set("class", "mark")
            ElementTree.SubElement(mark, f"{{{_SVG}}}title").text = readable(one)
    for node in root.iter():
        if node.tag == f"{{{_SVG}}}g" and node.get("id"):
            del node.attrib["id"]  # matplotlib's bookkeeping
    width = float(str(root.get("viewBox")).split()[2]) * 96 / 72
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.set("role", "img")
    root.set("aria-label", readable(alt))
    fit = f"min-width:{width:.0f}px" if wide else f"max-width:{1.25 * width:.0f}px"
    root.set("style", fit)
    body = ElementTree.tostring(root, encoding="unicode")
    own = sha256(body.encode()).hexdigest()[:8]  # keeps the ids of different drawings apart
    body = re.sub(r'\bid="([\w-]+)"', rf'id="{own}-\1"', body)
    body = re.sub(r'href="#([\w-]+)"', rf'href="#{own}-\1"', body)
    body = re.sub(r"url\(#([\w-]+)\)", rf"url(#{own}-\1)", body)
    return Chart(Markup(body), alt, caption, name, wide)


def png(pixels: np.ndarray) -> str:
    """An image as a data URI, without loss.

    Args:
        pixels: (H, W) or (H, W, 3), uint8.
    """
    return _uri(pixels, "png", {})


def jpeg(pixels: np.ndarray, quality: int = 80) -> str:
    """An image as a data URI, small; see `png`."""
    return _uri(pixels, "jpeg", {"quality": quality})


def _uri(pixels: np.ndarray, kind: str, options: Mapping[str, Any]) -> str:
    from matplotlib.image import imsave

    colours = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    stream = BytesIO()
    imsave(stream, np.ascontiguousarray(colours), format=kind, pil_kwargs=dict(options))
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


@cache
def _part(name: str) -> str:
    return files("core.report").joinpath(name).read_text(encoding="utf-8")


def render(page: Page) -> str:
    """The page as HTML."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    script = _part("page.js")
    checksum = base64.b64encode(sha256(script.encode()).digest()).decode("ascii")
    # "<" could end a script element or open a comment; JSON allows escapes.
    data = json_text(page.data).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    text = environment.from_string(_part("page.html")).render(
        page=page,
        style=Markup(_part("page.css")),
        script=Markup(script),
        checksum=checksum,
        data=Markup(data),
    )
    return readable(text)


def write_page(path: Path, page: Page) -> int:
    """Write the page, atomically; returns its size in bytes."""
    text = render(page)
    write_text(path, text)
    return len(text.encode())
