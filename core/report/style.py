"""One look for all pictures: fonts, a colour for every method, direct labels, PNG and SVG.

Colours are Okabe and Ito's, which readers with any colour vision tell apart. A method has the colour of its family
everywhere; members of a family that meet in one picture are told apart by dashes, markers and the labels beside them.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from core.storage.files import write_with

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType  # not in every supported release

P = ParamSpec("P")
R = TypeVar("R")

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#6b6b6b")
INK, QUIET, GRID = "#1a1a1a", "#5a5a5a", "#e3e3e3"

# Beginning of a method's name -> its family's colour; the longest that fits counts.
FAMILIES = {
    "baseline": "#6b6b6b",
    "pretrained": "#6b6b6b",
    **dict.fromkeys(("lwdna", "lw-dna"), "#0072b2"),
    **dict.fromkeys(("gradient", "sensitivity", "accumulated", "hypernetwork-gradient"), "#d55e00"),
    **dict.fromkeys(("fisher",), "#56b4e9"),
    **dict.fromkeys(("magnitude", "hypernetwork-magnitude", "torch-pruning", "synflow", "naswot", "zico"), "#cc79a7"),
    **dict.fromkeys(("uniform", "shallow-uniform", "receptive-field-uniform"), "#009e73"),
    "random": "#e69f00",
    **dict.fromkeys(("diminishing-returns", "receptive-field-diminishing", "depth-and-width", "dhp", "early-wide",
                     "late-wide", "trunk-wide", "inner-wide"), "#000000"),
}  # fmt: skip
VARIANTS = (  # of a family: pattern of the name, dashes, marker
    (r"scratch", (0, (1, 1)), "X"),
    (r"depth|shallow|receptive", (0, (4, 1, 1, 1)), "D"),
    (r"per-flop", (0, (4, 1.5)), "s"),
    (r"equalised|rounded|readers|search|norm", (0, (1, 1.2)), "^"),
    (r"-wide", (0, (6, 1.5)), "v"),
)
TITLES = {
    "baseline": "Baseline",
    "lwdna": "LW-DNA",
    "lwdna-scratch": "LW-DNA from scratch",
    "random": "Random widths",
    "uniform": "Uniform widths",
    "random-scores": "Random scores",
}
STYLE: dict[RcKeyType, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same picture everywhere
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # a "$" in a name is a "$"
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "pdf.fonttype": 42,  # text stays text, as publishers ask
    "svg.fonttype": "none",
    "svg.hashsalt": "lwdna",  # the same picture has the same bytes
    "savefig.dpi": 160,
}


@dataclass(frozen=True)
class Look:
    """How a method is drawn, in every picture.

    Attributes:
        colour: of its family.
        dashes: matplotlib's line style.
        marker: matplotlib's marker.
    """

    colour: str
    dashes: Any = "-"
    marker: str = "o"


def look_of(method: str) -> Look:
    """The look of a method, by its name or title; unknown names are black."""
    name = next((key for key, title in TITLES.items() if title == method), method).lower()
    known = max((start for start in FAMILIES if name.startswith(start)), key=len, default=None)
    colour = "#000000" if known is None else FAMILIES[known]
    for pattern, dashes, marker in VARIANTS:
        if re.search(pattern, name):
            return Look(colour, dashes, marker)
    return Look(colour)


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """Colours for one picture: methods have their own, and all other names take the remaining ones in turns."""
    own = {name: look_of(name).colour for name in names if name in TITLES or name in TITLES.values()}
    free = [colour for colour in PALETTE if colour not in own.values()]
    others = [name for name in names if name not in own]
    return {**own, **{name: free[place % len(free)] for place, name in enumerate(others)}}


def title_of(method: str) -> str:
    """What tables and pictures call a method."""
    return TITLES.get(method, method.capitalize())


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Draw in the common style; the caller's own settings of matplotlib stay as they are."""

    @wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        import matplotlib as mpl

        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return inside


@styled
def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, Any]:
    """A figure that needs no display; `options` go to `subplots`. To be called within `styled`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **options)


@styled
def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, and beside it the same as SVG, both atomically."""
    write_with(path, figure.savefig)
    write_with(path.with_suffix(".svg"), lambda temporary: figure.savefig(temporary, metadata={"Date": None}))


def head(figure: Figure, title: str, below: str = "") -> None:
    """Title at the left of the first axis; below it, smaller, what is shown: n, seeds, meaning of bars and dots.

    To be called after the axis has its ticks and its own title.
    """
    axis = figure.axes[0]
    heading = figure.suptitle(title, ha="left", fontsize=11)
    _lay_out(figure)
    left = axis.get_position().x0
    inches = figure.get_figwidth() * (1 - left)
    heading.set_x(left)
    heading.set_text(textwrap.fill(title, int(11 * inches)))
    if not below:
        return
    text, own = textwrap.fill(below, int(15 * inches)), axis.get_title(loc="left")
    if not own:
        axis.set_title(text, fontsize=8, color=QUIET)
        return
    axis.set_title("\n" * (text.count("\n") + 2) + own)  # room for the title and the text below it
    note = axis.annotate(text, xy=(0, 1), xycoords="axes fraction", xytext=(0, 23), textcoords="offset points",
                         va="bottom", fontsize=8, color=QUIET, annotation_clip=False)  # fmt: skip
    note.set_in_layout(False)


def seeds_text(seeds: Sequence[int], counts: Sequence[int] = ()) -> str:
    """'n = 5 (seeds 0 to 4)'.

    Args:
        seeds: all seeds.
        counts: number of seeds of each method, if some have fewer.
    """
    found = sorted(set(seeds))
    run = len(found) > 2 and found == list(range(found[0], found[-1] + 1))
    named = f"{found[0]} to {found[-1]}" if run else ", ".join(map(str, found))
    n = f"{min(counts)} to {max(counts)}" if len(set(counts)) > 1 else str(max(counts, default=len(found)))
    return f"n = {n} (seed{'s' * (len(found) != 1)} {named})"


def spread_labels(wanted: Sequence[float], least: float) -> list[float]:
    """Places for labels near the wanted ones, at least `least` apart, in the given order."""
    from scipy.optimize import isotonic_regression

    order = np.argsort(wanted, kind="stable")
    gap = np.arange(len(order)) * least
    found = np.empty(len(order))
    found[order] = isotonic_regression(np.array(wanted, dtype=float)[order] - gap).x + gap
    return found.tolist()


def label_ends(axis: Any, ends: Sequence[tuple[str, float, float, str]], size: float = 8) -> None:
    """Write names at the right of an axis, beside the ends of their lines; to be called after its limits are final.

    Args:
        axis: matplotlib's.
        ends: (text, x, y, colour); if y is not finite, the label stands at the top, without a line.
        size: of the text, in points.
    """
    if not ends:
        return
    _lay_out(axis.figure)
    to_axis = axis.transAxes.inverted()
    places = [to_axis.transform(axis.transData.transform((x, y))) if np.isfinite(y) else (1.0, 1.0)
              for _, x, y, _ in ends]  # fmt: skip
    least = 1.3 * size / 72 * axis.figure.dpi / axis.bbox.height
    spread = spread_labels([float(y) for _, y in places], least)
    highest = max(spread)
    if highest > 1 + least:
        spread = [place - (highest - 1) for place in spread]
    for (text, _, y, colour), place, height in zip(ends, places, spread, strict=True):
        arrow = {
            "arrowstyle": "-",
            "color": colour,
            "linewidth": 0.6,
            "shrinkA": 1,
            "shrinkB": 2,
            "relpos": (0, 0.5),
        }
        axis.annotate(text, xy=(float(place[0]), float(place[1])), xycoords="axes fraction", xytext=(1.025, height),
                      textcoords="axes fraction", va="center", ha="left", color=colour, fontsize=size,
                      annotation_clip=False, arrowprops=arrow if np.isfinite(y) else None)  # fmt: skip


def _lay_out(figure: Figure) -> None:
    """Find the places of all axes, as drawing would."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)


def plain_ticks(axis: Any) -> None:
    """Plain numbers as people write them, on an axis (matplotlib's x or y) of any scale."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:,.6g}"))
    axis.set_minor_formatter(NullFormatter())


def log_ticks(axis: Any, low: float, high: float, most: int = 9) -> None:
    """Ticks at powers of two of a logarithmic axis (matplotlib's x or y)."""
    powers = np.arange(np.floor(np.log2(low)), np.ceil(np.log2(high)) + 1)
    powers = powers[:: max(1, -(-len(powers) // most))]
    axis.set_ticks([float(2**power) for power in powers])
    axis.set_ticks([], minor=True)
    plain_ticks(axis)
