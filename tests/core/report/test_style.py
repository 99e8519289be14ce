"""One look for all pictures."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest

from core.methods.registry import METHODS
from core.report.style import (
    FAMILIES,
    STYLE,
    colours_of,
    head,
    label_ends,
    look_of,
    new_figure,
    save_figure,
    seeds_text,
    spread_labels,
    styled,
    title_of,
)


@styled
def draw(path: Path, name: str = "uniform") -> None:
    figure, axis = new_figure(4, 3)
    axis.plot([0, 1, 2], [1.0, 3.0, 2.0], color=look_of(name).colour)
    head(figure, "costs $5 and $6", "n = 3 (seeds 0 to 2).")
    label_ends(axis, [(name, 2.0, 2.0, look_of(name).colour), ("inf", 2.0, np.inf, "black")])
    save_figure(figure, path)


def test_a_picture_is_written_as_png_and_as_svg_with_text_and_the_same_twice(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    draw(tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    texts = [
        "".join(node.itertext())
        for node in ElementTree.parse(tmp_path / "a.svg").iter("{http://www.w3.org/2000/svg}text")
    ]
    assert {"costs $5 and $6", "n = 3 (seeds 0 to 2).", "uniform", "inf"} <= set(texts)


def test_the_style_is_not_left_behind(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    draw(tmp_path / "a.png")
    assert dict(mpl.rcParams) == before
    assert mpl.rcParams["svg.fonttype"] != STYLE["svg.fonttype"]


def test_every_method_has_a_family() -> None:
    """One of none would be black, which says nothing."""
    assert [name for name in METHODS if not any(name.startswith(start) for start in FAMILIES)] == []


def test_a_method_looks_the_same_by_its_name_and_by_its_title() -> None:
    assert look_of("lwdna") == look_of("LW-DNA")
    assert look_of("random") == look_of("Random widths")
    assert title_of("lwdna") == "LW-DNA"
    assert title_of("magnitude") == "Magnitude"
    assert look_of("nobody knows it").colour == "#000000"


def test_members_of_a_family_are_told_apart() -> None:
    gradient, weighed = look_of("gradient"), look_of("gradient-per-flop")
    assert gradient.colour == weighed.colour
    assert gradient.dashes != weighed.dashes
    assert gradient.marker != weighed.marker
    assert look_of("shallow-uniform").colour == look_of("uniform").colour


def test_what_is_no_method_gets_the_colours_that_are_left() -> None:
    found = colours_of(["LW-DNA", "still", "Baseline", "ncc"])
    assert found["LW-DNA"] == look_of("lwdna").colour
    assert len(set(found.values())) == 4


def test_labels_keep_their_distance_and_their_order() -> None:
    assert spread_labels([0.0, 5.0], 1.0) == [0, 5]
    assert spread_labels([1.0, 1.0, 1.0], 1.0) == pytest.approx([0, 1, 2])
    places = spread_labels([0.3, 0.1, 0.2, 2.0], 0.5)
    assert np.argsort(places).tolist() == [1, 2, 0, 3]
    assert np.diff(sorted(places)).min() >= 0.5 - 1e-12


def test_seeds_in_words() -> None:
    assert seeds_text([0, 1, 2, 3, 4]) == "n = 5 (seeds 0 to 4)"
    assert seeds_text([3]) == "n = 1 (seed 3)"
    assert seeds_text([0, 2, 5]) == "n = 3 (seeds 0, 2, 5)"
    assert seeds_text([0, 1, 2], [3, 2]) == "n = 2 to 3 (seeds 0 to 2)"
