"""The results of the super-resolution benchmark as tables, JSON and a page of Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from core import Architecture
from core.tables import markdown_table
from core.timing import Timing, seconds_text

MARGIN = 0.05
FASTER = 5.0
CLOCKS: dict[Literal["wall", "cpu"], str] = {"wall": "elapsed", "cpu": "CPU"}


@dataclass(frozen=True)
class Contender:
    """A network that is timed.

    Attributes:
        name: its name in the tables.
        network: in evaluation mode.
        against: the name of the network whose time its own is divided by.
        laid_out: images have the layout of `super_resolution.tiling.lay_out`, otherwise torch's default.
        architecture: its widths, if it was found by a search.
    """

    name: str
    network: nn.Module
    against: str
    laid_out: bool
    architecture: Architecture | None = None

    @property
    def promised(self) -> float:
        """Multiply-accumulates over the baseline's; the same at any size, as the networks are fully convolutional."""
        if self.architecture is None:
            return 1.0
        cost, baseline = (cost.macs for cost in self.architecture.costs)
        return float(cost / baseline)


Inference = Mapping[int, Mapping[str, Timing]]  # threads -> network -> times
Convolutions = Mapping[str, Mapping[str, Timing]]  # layout -> width -> times


def ratios(timings: Mapping[str, Timing], first: str, second: str) -> dict[str, dict[str, float]]:
    """Time of `first` over `second`, by both clocks: median and extremes over turns, and of the fastest runs."""
    ours, theirs = timings[first], timings[second]
    found: dict[str, dict[str, float]] = {}
    for clock in CLOCKS:
        values = ours.over(theirs, clock)
        found[clock] = {
            "median": statistics.median(values),
            "min": min(values),
            "max": max(values),
            "fastest": min(getattr(ours, clock)) / min(getattr(theirs, clock)),
        }
    return found


def within(ratio: Mapping[str, Mapping[str, float]], promised: float) -> dict[str, bool]:
    """Whether a found network's median ratio of times keeps its limit, by each clock."""
    return {clock: values["median"] <= promised + MARGIN for clock, values in ratio.items()}


def verdict(networks: Sequence[Contender], inference: Inference) -> str:
    """The verdict of the table of inference, misses first."""
    found = [contender for contender in networks if contender.architecture is not None]
    lines = []
    for clock, what in CLOCKS.items():
        for threads, timings in inference.items():
            kept = {
                one.name: within(ratios(timings, one.name, one.against), one.promised)[clock] for one in found
            }
            over = "; ".join(name for name in kept if not kept[name]) or "none"
            fine = "; ".join(name for name in kept if kept[name]) or "none"
            lines.append(f"- {what} time, {_threads(threads)}: over the limit: {over}. Within it: {fine}.")
    for clock, what in CLOCKS.items():
        for threads, timings in inference.items():
            compared = [
                f"{how} {ratio_text(ratio)}, {'slower' if ratio['median'] > 1 else 'not slower'}"
                for how, ours, rival in rivals(networks)
                for ratio in (ratios(timings, ours, rival)[clock],)
            ]
            if compared:
                lines.append(
                    f"- {what} time, {_threads(threads)}, ours over BasicSR's with the same weights: "
                    f"{'; '.join(compared)}."
                )
    return "\n".join(lines) + "\n"


def rivals(networks: Sequence[Contender]) -> list[tuple[str, str, str]]:
    """Which of our networks is compared with which of another package's: (in what way, ours, theirs).

    Theirs were not found by a search, and their time is divided by another network's. "In the same layout" both lie in
    memory alike; "as shipped", ours has the layout of our commands and theirs torch's default.
    """
    others = [one for one in networks if one.architecture is None and one.against != one.name]
    names = {True: "both channels last", False: "both in the default layout"}
    pairs = [(names[one.laid_out], one.against, one.name) for one in others]
    shipped = [one.name for one in others if not one.laid_out]
    ours = [one.against for one in others if one.laid_out]
    return pairs + [("each as shipped", first, second) for first, second in zip(ours, shipped)]


def inference_text(frame: str, networks: Sequence[Contender], inference: Inference) -> list[str]:
    """The section on inference: one table, and the widths."""
    rows = []
    for threads, timings in inference.items():
        for one in networks:
            timing, ratio = timings[one.name], ratios(timings, one.name, one.against)
            kept = within(ratio, one.promised) if one.architecture is not None else {}
            rows.append(
                (
                    one.name,
                    str(threads),
                    f"{one.promised:.3f}",
                    str(timing),
                    seconds_text(timing.cpu_median),
                    *(ratio_text(ratio[clock]) for clock in CLOCKS),
                    " / ".join(f"{ratio[clock]['fastest']:.3f}" for clock in CLOCKS),
                    " / ".join("within" if held else "over" for held in kept.values()) or "–",
                )
            )
    header = (
        "network",
        "threads",
        "FLOPs",
        "elapsed",
        "CPU",
        "elapsed ratio",
        "CPU ratio",
        "fastest",
        "limit",
    )
    lines = [
        "## Inference\n",
        f"{frame[0].upper()}{frame[1:]}. FLOPs and ratios of time are to the network's baseline in the same layout, "
        "time in the same turn: median (lowest–highest). Fastest: the quickest run by the baseline's quickest, elapsed "
        "/ CPU, which other work on the machine disturbs least. Limit: FLOPs ratio + "
        f"{MARGIN}, by elapsed / CPU time. Where no layout is named images lie as our commands lay them out: on CPUs "
        "with oneDNN channels last, which spares copies between layers.\n",
        markdown_table(header, rows) + "\n",
        "Widths:\n",
    ]
    for one in networks:
        if one.architecture is not None and one.laid_out:
            widths = ", ".join(f"{group} {width}" for group, width in one.architecture.widths.items())
            lines.append(f"- {one.name}: {widths}")
    return [*lines, ""]


def convolution_text(convolutions: Convolutions) -> list[str]:
    """The section on single convolutions."""
    rows = [
        (
            layout,
            width,
            str(timing),
            seconds_text(timing.cpu_median),
            f"{1e6 * min(timing.cpu) / int(width):.0f}",
        )
        for layout, timings in convolutions.items()
        for width, timing in timings.items()
    ]
    return [
        "## One upsampling convolution\n",
        "3 x 3, from 128 channels, on the frame, one thread. CPU kernels compute channels in blocks of 8 or 16, and in "
        "the default layout several blocks at once, so that numbers of blocks with small factors are quickest.\n",
        markdown_table(("layout", "channels out", "elapsed", "CPU", "µs a channel, fastest"), rows) + "\n",
    ]


def loading_text(batches: str, timings: Mapping[str, Timing]) -> list[str]:
    """The section on training batches."""
    rows = [(name, str(timing), seconds_text(timing.cpu_median)) for name, timing in timings.items()]
    ratio = ratios(timings, "BasicSR", "pixel cache")["wall"]
    kept = "kept" if ratio["median"] >= FASTER else "not kept"
    return [
        "## Training batches\n",
        f"{batches}. BasicSR's time over the pixel cache's, turn by turn: {ratio_text(ratio)}; the aim of "
        f"{FASTER:.0f} is {kept}.\n",
        markdown_table(("source", "elapsed", "CPU"), rows) + "\n",
    ]


def to_json(
    networks: Sequence[Contender],
    inference: Inference,
    convolutions: Convolutions,
    loading: Mapping[str, Timing],
) -> dict[str, Any]:
    """Every single run, and the results from them."""
    return {
        "networks": {
            one.name: {
                "against": one.against,
                "channels_last": one.laid_out,
                "flops_ratio": one.promised,
                "widths": None if one.architecture is None else one.architecture.widths,
            }
            for one in networks
        },
        "inference": {
            str(threads): {
                one.name: timings[one.name].to_json() | {"ratio": ratios(timings, one.name, one.against)}
                for one in networks
            }
            for threads, timings in inference.items()
        },
        "convolutions": {
            layout: {width: timing.to_json() for width, timing in timings.items()}
            for layout, timings in convolutions.items()
        },
        "loading": {name: timing.to_json() for name, timing in loading.items()},
    }


def ratio_text(ratio: Mapping[str, float]) -> str:
    """Median and extremes: '0.617 (0.600–0.630)'."""
    return f"{ratio['median']:.3f} ({ratio['min']:.3f}–{ratio['max']:.3f})"


def _threads(number: int) -> str:
    return f"{number} thread{'s' * (number != 1)}"
