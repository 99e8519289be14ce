"""The drawn figures of the docs, from runs of the code and from the figures of published pages.

    python docs/making/draw.py           write docs/figures/*.svg and *.png
    python docs/making/draw.py --check   status 1 where a figure no longer says what the code and the pages say

Data: scikit-learn's digits, and docs/results/channel_bench.json.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Outline
from sklearn.datasets import load_digits
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from classification.models import build  # noqa: E402
from core.graph.channels import ChannelGraph, trace_channels  # noqa: E402
from core.methods.registry import BASELINE  # noqa: E402
from core.report.style import look_of  # noqa: E402
from core.storage.files import read_json, write_text, write_with  # noqa: E402
from core.surgery.architecture import Architecture  # noqa: E402
from core.widths.config import ShrinkConfig  # noqa: E402
from core.widths.scores import score_channels  # noqa: E402
from core.widths.selection import search  # noqa: E402
from core.widths.shrinkage import shrink  # noqa: E402
from core.widths.space import open_space  # noqa: E402

FIGURES = ROOT / "docs" / "figures"
# Okabe and Ito's colours, which the colour-blind tell apart. What is a method has that method's own (`look_of`).
BLUE, ORANGE, GREEN, SKY, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#56B4E9", "#9AA0A6", "#26292C"
REGULAR, FOUND = look_of(BASELINE).colour, look_of("lwdna").colour
STYLE: dict[Any, Any] = {
    "axes.edgecolor": GREY, "axes.labelcolor": INK, "axes.spines.right": False, "axes.spines.top": False,
    "axes.titlelocation": "left", "axes.titlesize": 11, "axes.titleweight": "bold", "figure.dpi": 100,
    "font.family": "DejaVu Sans", "font.size": 10, "legend.frameon": False, "svg.fonttype": "path",
    "svg.hashsalt": "lwdna", "text.color": INK, "xtick.color": INK, "ytick.color": INK,
}  # fmt: skip
BUDGET = 0.9


def digits() -> list[tuple[Tensor, Tensor]]:
    """One batch of 128 handwritten digits."""
    data = load_digits()
    images = torch.tensor(data.images[:128], dtype=torch.float32)[:, None] / 16
    return [(images, torch.tensor(data.target[:128]))]


@cache
def resnet20() -> nn.Module:
    """The regular network of the figures."""
    torch.manual_seed(0)
    return build("resnet20", 10, dataset="digits")


EXAMPLE = torch.zeros(1, 1, 8, 8)
LOSS = nn.functional.cross_entropy


class Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) to the same."""
        return torch.relu(x + self.two(torch.relu(self.one(x))))


class Small(nn.Module):
    """A stem, two residual blocks and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Conv2d(1, 16, 3, padding=1), Block(16), Block(16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, H, W) to logits."""
        x = torch.relu(self.stem(x))
        return self.head(self.second(self.first(x)).mean((2, 3)))


def group_of(graph: ChannelGraph, layer: str) -> str | None:
    """The group of a layer's outputs; None where they are frozen."""
    for group in graph.groups:
        if (f"{layer}.weight", 0) in group.slots:
            return group.name
    return None


def groups() -> Figure:
    """The small network, every layer in the colour of its group."""
    graph = trace_channels(Small(), torch.zeros(1, 1, 16, 16))
    colours = dict(zip(graph.names, (BLUE, ORANGE, GREEN), strict=True))
    places = {"stem": 0, "first.one": 1, "first.two": 2, "second.one": 3.4, "second.two": 4.4, "head": 5.8}
    figure = Figure((9, 2.4), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(-0.75, 6.5), ylim=(-0.95, 0.85))
    axes.axis("off")
    for layer, x in places.items():
        name = group_of(graph, layer)
        colour = GREY if name is None else colours[name]
        axes.add_patch(FancyBboxPatch((x - 0.37, -0.25), 0.74, 0.5, "round,pad=0.02", fc=colour, ec="none"))
        axes.text(x, 0, layer, color="white", ha="center", va="center", fontsize=9.5, fontweight="bold")
        width = "10 classes, frozen" if name is None else f"{graph.group(name).width} channels"
        axes.text(x, -0.42, width, color=colour, ha="center", va="center", fontsize=8)
    sums = {"first": 2.72, "second": 5.12}
    for x in sums.values():
        axes.text(x, 0, "+", ha="center", va="center", fontsize=15, color=BLUE, fontweight="bold")
    ends = [
        (-0.7, -0.42),
        (0.42, 0.58),
        (1.42, 1.58),
        (2.42, 2.62),
        (2.82, 2.98),
        (3.82, 3.98),
        (4.82, 5.02),
        (5.22, 5.38),
    ]
    for a, b in ends:
        axes.add_patch(
            FancyArrowPatch((a, 0), (b, 0), arrowstyle="-|>", mutation_scale=9, color=GREY, lw=1.2)
        )
    for (a, b), start in zip(((0.5, 2.72), (2.9, 5.12)), ("first", "second"), strict=True):
        around = Outline(
            [(a, 0.02), (a, 0.52), (b, 0.52), (b, 0.14)]
        )  # over the block, through none of its layers
        axes.add_patch(FancyArrowPatch(path=around, arrowstyle="-|>", mutation_scale=9, color=BLUE, lw=1.6))
        axes.text(
            (a + b) / 2, 0.6, f"the addition of block {start!r} ties", color=BLUE, ha="center", fontsize=8.5
        )
    axes.set_title(f"{len(graph.groups)} groups in {len(places)} layers")
    free = ", ".join(f"{name!r}" for name in graph.names)
    axes.text(-0.72, -0.85, f"one width to choose for each of {free}", fontsize=9)
    return figure


@cache
def scored() -> tuple[ChannelGraph, Mapping[str, Tensor], Any]:
    """The widened ResNet20's groups, their scores, and what the search keeps of them."""
    config = ShrinkConfig()
    space = open_space(resnet20(), EXAMPLE, config, seed=0)
    scores = score_channels(space.wide, space.graph, digits(), LOSS)
    found = search(space.graph, scores, config.budget, space.baseline, floor=config.floor)
    return space.graph, scores, (space, found)


def stage_of(name: str) -> int:
    """0 for the stem, else the number of the stage."""
    found = re.search(r"layer(\d)|stage(\d)|^(\d)\.", name)
    return int(next(filter(None, found.groups()))) if found else 0


def gates() -> Figure:
    """Scores of every group, sorted."""
    graph, scores, _ = scored()
    figure = Figure((9, 3.6), layout="constrained")
    axes = figure.subplots()
    names = sorted({stage_of(name) for name in graph.names})
    colours = dict(zip(names, (GREY, BLUE, GREEN, ORANGE)[-len(names) :], strict=True))
    ends: dict[int, list[tuple[float, float]]] = {}
    for group in graph.groups:
        values = scores[group.name].sort(descending=True).values
        x = torch.arange(1, group.size + 1) / group.size * 100
        axes.semilogy(x, values, color=colours[stage_of(group.name)], lw=1.3, alpha=0.85)
        ends.setdefault(stage_of(group.name), []).append((float(values[0]), float(values.median())))
    for place, (stage, tops) in enumerate(sorted(ends.items())):
        text = "stem" if stage == 0 else f"stage {stage}: {len(tops)} groups"
        axes.text(0.02, 0.32 - 0.085 * place, text, color=colours[stage], fontweight="bold",
                  transform=axes.transAxes)  # fmt: skip
    channels = sum(group.size for group in graph.groups)
    axes.set(xlabel="channels of the group, best first, %", ylabel="|dL/dz|", xlim=(0, 100))
    axes.set_title(f"What {channels:,} channels are worth: widened ResNet20, one batch of 128 digits")
    return figure


def exact_search() -> Figure:
    """FLOPs over the threshold, and the one that meets the budget."""
    graph, scores, (space, found) = scored()
    baseline = space.baseline.macs
    values = torch.cat([scores[name] for name in graph.names]).sort().values
    curve = []
    for threshold in values[:: max(1, len(values) // 300)]:
        counts = {
            name: max(int((scores[name] >= threshold).sum()), least(graph, name)) for name in graph.names
        }
        widths = {name: count * graph.group(name).step for name, count in counts.items()}
        curve.append((float(threshold), graph.flops(widths) / baseline))
    xs, ys = zip(*curve, strict=True)
    figure = Figure((9, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.semilogx(xs, [100 * y for y in ys], color=BLUE, lw=2)
    axes.axhline(100 * BUDGET, color=ORANGE, lw=1.5)
    axes.text(
        xs[0],
        100 * BUDGET + 5,
        f"budget: {100 * BUDGET:.0f} % of the regular network",
        color=ORANGE,
        fontweight="bold",
    )
    meets = next(x for x, y in curve if y <= BUDGET)
    axes.plot([meets], [100 * BUDGET], "o", color=ORANGE, ms=8)
    axes.annotate("this threshold meets it", (meets, 100 * BUDGET), (meets * 1.6, 100 * BUDGET + 95), color=INK,
                  arrowprops={"arrowstyle": "-", "color": GREY})  # fmt: skip
    axes.text(xs[0], 100 * ys[0] - 16, "everything kept:\nthe widened network", color=BLUE, va="top")
    axes.text(xs[-1], 100 * ys[-1] - 10, "all at their floors", color=BLUE, ha="right", va="top")
    axes.set(xlabel="threshold over all scores", ylabel="FLOPs, % of the regular network", ylim=(0, None))
    share = 100 * found.cost.macs / baseline
    axes.set_title(f"Bisected, then filled up: {share:.2f} % of the FLOPs, and no channel fits any more")
    return figure


def least(graph: ChannelGraph, name: str) -> int:
    """Choices that the default floor leaves a group."""
    config = ShrinkConfig()
    low = config.bounds(graph).low
    return int(low[graph.names.index(name)])


@cache
def found_widths() -> dict[str, Architecture]:
    """ResNet20's widths with all blocks, and with blocks that may go."""
    made = {}
    for name, vanish in (("found", 0.0), ("found, blocks may go", 0.4)):
        made[name] = shrink(
            resnet20(), EXAMPLE, digits(), LOSS, vanish=vanish, score="fisher", allocation="per-flop"
        )
    return made


def depth() -> Figure:
    """Widths of the regular ResNet20 and of two found ones."""
    found = found_widths()
    names = list(found["found"].baseline_widths)
    rows: dict[str, tuple[dict[str, int], float, tuple[str, ...]]] = {}
    rows["regular"] = (found["found"].baseline_widths, 1.0, ())
    for name, arch in found.items():
        cost, baseline = arch.costs
        rows[name] = (arch.widths, cost.macs / baseline.macs, arch.removed)
    figure = Figure((9, 5), layout="constrained")
    panels = figure.subplots(len(rows), 1, sharex=True, sharey=True)
    for axes, (title, (widths, share, removed)), colour in zip(
        panels, rows.items(), (REGULAR, FOUND, SKY), strict=True
    ):
        axes.bar(range(len(names)), [widths.get(name, 0) for name in names], color=colour, width=0.72)
        for place, name in enumerate(names):
            if name not in widths:
                axes.text(place, 3, "×", ha="center", color=ORANGE, fontsize=13, fontweight="bold")
        gone = f", {len(removed)} blocks left out (×)" if removed else ""
        axes.set_title(f"{title}: {100 * share:.0f} % of the FLOPs{gone}", color=colour)
    panels[1].set_ylabel("channels")
    short = [name.removesuffix(".conv1").removesuffix(".weight") for name in names]
    panels[-1].set_xticks(range(len(names)), short, rotation=45, ha="right", fontsize=8)
    return figure


WAYS = {
    "diminishing-returns": "diminishing returns",
    "uniform": "uniform widths",
    "gradient": "gradient (default)",
}


def spaces() -> dict[str, Any]:
    """The public table's page, by space."""
    return {space["title"]: space for space in read_json(ROOT / "docs/results/channel_bench.json")["spaces"]}


def curve(axes: Axes, space: Mapping[str, Any]) -> None:
    """Accuracy over the budget."""
    ends = {}
    for way in WAYS:
        rows = sorted(
            (row["budget"], row["surface"])
            for row in space["rows"]
            if row["method"] == way and row["floor"] == 0.25
        )
        x, y = zip(*((100 * budget, value) for budget, value in rows), strict=True)
        axes.plot(x, y, "o-", color=look_of(way).colour, lw=2, ms=5)
        ends[way] = y[-1]
    low, high = axes.get_ylim()
    places = apart(ends, 0.075 * (high - low))
    for way, label in WAYS.items():
        axes.text(
            103, places[way], label, color=look_of(way).colour, va="center", fontsize=9, fontweight="bold"
        )
    base = space["baseline"]["surface"]
    axes.plot([100], [base], "*", color=REGULAR, ms=14, zorder=5)
    axes.set(xticks=[50, 75, 90, 100], xlabel="FLOPs, % of the regular network", ylabel="accuracy %")


def apart(values: Mapping[str, float], gap: float) -> dict[str, float]:
    """Places for labels in the order of their values, none closer than `gap`."""
    found: dict[str, float] = {}
    for name, value in sorted(values.items(), key=lambda item: item[1]):
        found[name] = max(value, max(found.values(), default=value - gap) + gap)
    shift = sum(found[name] - values[name] for name in values) / len(values)
    return {name: place - shift for name, place in found.items()}


def widths_that_pay() -> Figure:
    """The picture of README: widths, and what the public table says of them."""
    space = spaces()["inverted bottlenecks"]
    rows = {
        row["method"]: row["widths"][0]
        for row in space["rows"]
        if (row["budget"], row["floor"]) == (BUDGET, 0.25)
    }
    regular = next(row["widths"][0] for row in space["rows"]
                   if (row["method"], row["budget"], row["floor"]) == ("uniform", 1.0, 0.25))  # fmt: skip
    found, way = rows["diminishing-returns"], look_of("diminishing-returns").colour
    figure = Figure((8.6, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))
    places = range(len(found))
    left.bar([place - 0.2 for place in places], regular, 0.38, color=REGULAR)
    left.bar([place + 0.2 for place in places], found, 0.38, color=way)
    for place, (a, b) in enumerate(zip(regular, found, strict=True)):
        change = f"{100 * b / a - 100:+.0f} %".replace("-", "−")
        left.text(place, max(a, b) + 22, change, ha="center", fontsize=7.5, color=INK)
    left.set(
        xticks=list(places),
        xticklabels=[str(place + 1) for place in places],
        xlabel="layer",
        ylabel="channels",
    )
    named = (("regular, 100 % of the FLOPs", REGULAR), (f"diminishing returns, {100 * BUDGET:.0f} %", way))
    for place, (name, colour) in enumerate(named):
        left.text(0.02, 0.93 - 0.09 * place, name, color=colour, transform=left.transAxes, fontweight="bold")
    left.set_ylim(0, 1.17 * max(found))
    left.set_title("Seven widths")
    curve(right, space)
    right.set_xlim(48, 136)
    right.set_title(f"What {space['networks']:,} trained networks say")
    notes = (
        ("★ regular network, all FLOPs", REGULAR),
        (f"one training scatters by {space['noise']:.2f} points", INK),
    )
    for place, (note, colour) in enumerate(notes):
        right.text(
            0.99, 0.1 - 0.075 * place, note, color=colour, fontsize=8.5, ha="right", transform=right.transAxes
        )
    return figure


def budgets() -> Figure:
    """Both spaces of the public table."""
    figure = Figure((10, 3.9), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, (title, space) in zip(panels, spaces().items(), strict=True):
        curve(axes, space)
        axes.set_xlim(48, 130)
        axes.set_title(f"{title}: {space['networks']:,} networks")
        low, high = axes.get_ylim()
        base, noise = space["baseline"]["surface"], space["noise"]
        axes.fill_between([48, 101], base - noise, base + noise, color=REGULAR, alpha=0.13, lw=0)
        note = f"grey: regular network ± scatter of one training ({noise:.2f})"
        axes.text(0.98, 0.03, note, color=REGULAR, fontsize=8.5, ha="right", transform=axes.transAxes)
        axes.set_ylim(low, max(high, base + 2.2 * noise))
    return figure


DRAWN: dict[str, Callable[[], Figure]] = {
    "groups": groups,
    "gates": gates,
    "search": exact_search,
    "depth": depth,
    "widths_that_pay": widths_that_pay,
    "budgets": budgets,
}


def svg(figure: Figure) -> str:
    """A figure as SVG, the same at every time. To be called within `STYLE`."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def texts(drawn: str) -> list[str]:
    """What is written in a figure: matplotlib notes it beside the shapes of the letters."""
    return [text for text in re.findall(r"<!-- (.*?) -->", drawn) if text]


def main(check: bool) -> int:
    """Write or check all figures; returns the exit status."""
    status = 0
    for name, draw in DRAWN.items():
        path = FIGURES / f"{name}.svg"
        with mpl.rc_context(STYLE):
            figure = draw()
            drawn = svg(figure)
            if not check:
                write_text(path, drawn)
                write_with(path.with_suffix(".png"), partial(figure.savefig, dpi=160))
                print(f"written: {path.relative_to(ROOT)} and .png")
                continue
        same = path.exists() and texts(path.read_text(encoding="utf-8")) == texts(drawn)
        status |= not same
        print(
            f"{path.relative_to(ROOT)}: {'as drawn' if same else 'says something else: python docs/making/draw.py'}"
        )
    return status


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv))
