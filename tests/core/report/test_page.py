"""report.html: nothing that a user names can become markup, nothing is loaded, and browsers show what it holds."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from core.report.page import (
    Choice,
    Gallery,
    Page,
    Picture,
    Section,
    Slider,
    Table,
    Text,
    chart_of,
    png,
    readable,
    render,
    write_page,
)
from core.report.style import new_figure, styled
from core.report.tips import Tips

SCRIPT = "document.title='pwned'"
EVIL = f'"><img src=x onerror="{SCRIPT}"></script><script>{SCRIPT}</script>{{{{ 7*7 }}}}$x$\x00\x1b\ud800'
EMPTY = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


@styled
def drawn(text: str, marks: int = 3) -> tuple:
    figure, axis = new_figure(3, 2)
    (line,) = axis.plot(range(marks), range(marks), "o")
    bars = axis.bar(range(2), [1.0, 2.0])
    axis.set_xticks([0], [readable(text)])
    tips = Tips()
    tips.add(line, [f"{text} {number}" for number in range(3)])
    tips.add(bars[0], [f"a bar of {text}"])
    return figure, tips


def page_of(text: str) -> Page:
    figure, tips = drawn(text)
    chart = chart_of(figure, f"alt {text}", f"caption {text}", tips, name=f"name {text}")
    pixels = np.zeros((4, 6, 3), np.uint8)
    boxed = Picture(png(pixels), text, text, 6, 4, ((0.0, 1.0, 2.0, 2.0, "#000000", text),))
    pictures = tuple(
        Picture(png(pixels + 60 * number), f"{text} {number}", f"{number} {text}") for number in range(3)
    )
    blocks = (
        chart,
        Choice((chart, chart), text),
        Table([text, "b"], [[text, text]], text),
        Table(["a"], [[text]], text, folded=True),
        Gallery((boxed, *pictures), text),
        Slider(pictures, text),
        Text([text]),
        Text([text, text], code=True),
    )
    return Page(text, [text, text], (Section("Result", blocks), Section(f"x {text}", ())), {"name": text})


class Reader(HTMLParser):
    """Elements with their attributes, and whether they are closed in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    assert not reader.open
    return reader


def test_names_stay_text_wherever_they_stand() -> None:
    evil, tame = read(render(page_of(EVIL))), read(render(page_of("name")))
    assert [tag for tag, _ in evil.elements] == [tag for tag, _ in tame.elements]
    assert [attributes.keys() for _, attributes in evil.elements] == [
        attributes.keys() for _, attributes in tame.elements
    ]
    assert not [name for _, attributes in evil.elements for name in attributes if name.startswith("on")]
    assert "{{ 7*7 }}" in "".join(evil.text)
    assert readable(EVIL) in "".join(evil.text)


def test_the_data_is_json_and_ends_no_script() -> None:
    text = render(page_of(EVIL))
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert json.loads(data)["name"] == readable(EVIL).replace("\ufffd\ufffd\ufffd", "\x00\x1b\ufffd")


def test_nothing_is_loaded_and_only_its_own_script_runs() -> None:
    reader = read(render(page_of("name")))
    for _, attributes in reader.elements:
        for name in ("src", "href", "xlink:href", "action", "srcset", "data"):
            assert str(attributes.get(name) or "#").startswith(("#", "data:image/")), attributes
    policies = [a["content"] for tag, a in reader.elements if tag == "meta" and a.get("http-equiv")]
    assert len(policies) == 1
    assert str(policies[0]).startswith("default-src 'none'; img-src data:;")
    assert "script-src 'sha256-" in str(policies[0])
    assert not re.search(r"url\((?!#)", render(page_of("name")))


def test_ids_are_unique_but_for_equal_charts_and_references_find_them() -> None:
    figure, tips = drawn("name")
    chart = chart_of(figure, "alt", "", tips)
    own = re.findall(r'\bid="([^"]+)"', chart.svg)
    assert own
    assert len(own) == len(set(own))
    assert set(re.findall(r'href="#([^"]+)"', chart.svg)) | set(
        re.findall(r"url\(#([^)]+)\)", chart.svg)
    ) <= set(own)
    other, texts = drawn("another name")
    assert not set(own) & set(re.findall(r'\bid="([^"]+)"', chart_of(other, "alt", "", texts).svg))


def test_marks_say_what_they_are() -> None:
    figure, tips = drawn("name")
    svg = chart_of(figure, "what it shows", "", tips).svg
    assert sorted(re.findall(r"<title>(.*?)</title>", svg)) == ["a bar of name", "name 0", "name 1", "name 2"]
    assert svg.count('class="mark"') == 4
    assert 'role="img"' in svg
    assert 'aria-label="what it shows"' in svg


def test_texts_that_cannot_be_told_apart_are_no_chart() -> None:
    figure, tips = drawn("name", marks=2)
    with pytest.raises(ValueError, match="3 texts for 2 marks"):
        chart_of(figure, "alt", "", tips)


def test_images_have_alternatives() -> None:
    reader = read(render(page_of("name")))
    images = [attributes for tag, attributes in reader.elements if tag == "img"]
    assert images
    assert all(attributes.get("alt") for attributes in images)


def dom(path: Path, tmp_path: Path, *flags: str) -> str:
    """The document as headless Chromium has it once scripts have run."""
    browser = next(
        (
            found
            for name in ("chromium", "chromium-browser", "google-chrome")
            if (found := shutil.which(name))
        ),
        None,
    )
    if browser is None:
        pytest.skip("no Chromium on this machine: the page was read, not shown")
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}", *flags,
         "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    return done.stdout


@pytest.mark.slow
def test_a_browser_runs_the_page_and_nothing_else(tmp_path: Path) -> None:
    write_page(tmp_path / "report.html", page_of(EVIL))
    text = dom(tmp_path / "report.html", tmp_path)
    assert "pwned" not in re.findall(r"<title>(.*?)</title>", text)[0].replace("document.title='pwned'", "")
    assert text.count('<div class="stage"') == 1  # the slider was made
    assert text.count("<select") == 2
    assert 'data-tip="' in text  # and marks were found


@pytest.mark.slow
def test_a_phone_scrolls_downwards_alone(tmp_path: Path) -> None:
    """390 pixels wide; what is wider scrolls within itself."""
    write_page(tmp_path / "report.html", page_of("a_long_name_without_any_space" * 6))
    frame = tmp_path / "frame.html"
    frame.write_text(
        '<iframe src="report.html" width="390" height="800" onload="document.title = '
        '[contentDocument.documentElement.scrollWidth, contentDocument.querySelectorAll(&quot;section&quot;).length]">'
        "</iframe>"
    )
    text = dom(frame, tmp_path, "--allow-file-access-from-files")
    width, sections = map(int, re.findall(r"<title>(\d+),(\d+)</title>", text)[0])
    assert sections == 2
    assert width <= 390
