"""The page of the support table: what counts as supported, the summary, the table, the reasons and the picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.support_networks import Network
from benchmarks.support_trial import BUDGET
from core.report.style import PALETTE, QUIET, head, new_figure, save_figure, styled
from core.tables import markdown_table

MODES = ("evaluation", "training")
SHARE = 0.95
FULL, USABLE, NONE = "full", "usable", "none"
RESULTS = {FULL: PALETTE[0], USABLE: PALETTE[4], NONE: PALETTE[1]}
SHOWN_NOTES = 3
HEADER = ("network", "kind", "side", "groups", "FLOPs under free groups", "at half width", "result", "budget .8",
          "proved in", "step", "start", "start alone", "export", "ONNX", "s", "Torch-Pruning: groups",
          "at half width")  # fmt: skip
PARTS: dict[str, Callable[[Network], bool]] = {
    "Convolutional networks": lambda network: not network.aside and network.kind == "convolutional",
    "All networks, with hybrids": lambda network: not network.aside,
    "Kept aside": lambda network: network.aside,
}


def result_of(outcome: Mapping[str, Any]) -> str:
    """`FULL`, `USABLE` or `NONE`, of an `Outcome` as JSON."""
    covered = outcome["share"] is not None and outcome["share"] >= SHARE
    if covered and outcome["trained"] and set(MODES) <= set(outcome["modes"]):
        return FULL
    reached = outcome["reached"] is not None and outcome["reached"] <= BUDGET
    return USABLE if reached and outcome["trained"] else NONE


def reasons(outcome: Mapping[str, Any]) -> list[str]:
    """The obstacles between a network and full support, and other failures, one line each."""
    lines = [f"{stage}: {text}" for stage, text in outcome["problems"].items()]
    if outcome["modes"] and (left := [mode for mode in MODES if mode not in outcome["modes"]]):
        lines.append(f"verify: not proved in {' and '.join(left)} mode")
    kinds = Counter(note.partition(" in '")[0] for note in outcome["notes"])
    shown = [f"{kind} ({number} places)" for kind, number in kinds.most_common(SHOWN_NOTES)]
    if shown:
        more = len(kinds) - len(shown)
        lines.append(f"frozen: {'; '.join(shown)}" + (f"; {more} more kinds" if more else ""))
    if outcome["untested"]:
        lines.append(f"untested: {outcome['untested']} groups, of which no masked form is the cut one")
    return lines


def share_text(value: float | None) -> str:
    """'97.3 %'; nothing for None."""
    return "" if value is None else f"{100 * value:.1f} %"


def report(rows: Sequence[dict[str, Any]], listed: Sequence[Network], code: str) -> str:
    """The page below its head.

    Args:
        rows: of the tried networks.
        listed: all networks of the list.
        code: the present fingerprint.
    """
    found = {row["key"]: row for row in rows}
    parts = []
    for title, belongs in PARTS.items():
        keys = [network.key for network in listed if belongs(network)]
        if own := [found[key] for key in keys if key in found]:
            parts.append(summary(title, own, len(keys) - len(own)))
    if old := sum(row["code"] != code for row in rows):
        parts.append(f"**{old} rows come from other code, versions or options: run the command again.**")
    ordered = sorted(rows, key=_place)
    parts.append(markdown_table(HEADER, [cells(row) for row in ordered]))
    parts.append("## Reasons")
    parts.append("\n".join(f"- `{row['key']}`: {line}" for row in ordered for line in reasons(row)))
    return "\n\n".join(parts)


def _place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    network = row["network"]
    return network["aside"], network["kind"], list(RESULTS).index(row["result"]), -(row["share"] or 0.0)


def summary(title: str, rows: Sequence[Mapping[str, Any]], missing: int) -> str:
    """One paragraph: how many networks and families reached which result; a family counts as its worst network."""
    order = list(RESULTS)
    worst: dict[str, int] = {}
    for row in rows:
        family = row["network"]["family"]
        worst[family] = max(worst.get(family, 0), order.index(row["result"]))

    def part(results: Sequence[str]) -> str:
        networks = sum(row["result"] in results for row in rows)
        families = sum(order[place] in results for place in worst.values())
        return (
            f"{networks} networks ({share_text(networks / len(rows))}), {families} families "
            f"({share_text(families / len(worst))})"
        )

    starts, alone, exported = (Counter(row[key] for row in rows) for key in ("start", "alone", "exported"))
    peer = sum(row["peer_reached"] is not None and row["peer_reached"] <= BUDGET for row in rows)
    untested = sum(row["result"] == FULL and row["untested"] > 0 for row in rows)
    text = f"{title}: {len(rows)} networks of {len(worst)} families. Full: {part([FULL])}"
    text += f"; {untested} of these networks have groups that masking cannot test" if untested else ""
    text += (
        f". Full or usable: {part([FULL, USABLE])}. Same start, bit for bit: {starts['equal']}; without the factory "
        f"{alone['equal']} equal and {alone['alike']} alike. "
        f"Exported: {exported['yes']}; {exported['nor the original']} more whose original is not exported either. "
        f"Torch-Pruning comes to {BUDGET} of the FLOPs with a network that runs on {peer}."
    )
    return text + (f" **{missing} networks of the list are not in this page.**" if missing else "")


def cells(row: Mapping[str, Any]) -> list[str]:
    """One row of the table."""
    network = row["network"]
    onnx = {None: "", True: "yes", False: "no"}[row["onnx"]]
    return [
        f"{network['name']} ({network['source']})", network["kind"] + (", aside" if network["aside"] else ""),
        str(network["side"]), "" if row["groups"] is None else str(row["groups"]), share_text(row["share"]),
        share_text(row["half"]), row["result"], share_text(row["reached"]), ", ".join(row["modes"]) or "no",
        "yes" if row["trained"] else "no", row["start"] or "no", row["alone"] or "no", row["exported"] or "no", onnx,
        f"{sum(spent for stage, spent in row['seconds'].items() if stage != 'peer'):.1f}",
        "" if row["peer_groups"] is None else str(row["peer_groups"]), share_text(row["peer_reached"]) or "no",
    ]  # fmt: skip


@styled
def draw(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The share of FLOPs under free groups of every network, coloured by result; refusals are bars of no height."""
    figure, axes = new_figure(12, 6.8, 2, sharey=True)
    for axis, kind in zip(axes, ("convolutional", "hybrid"), strict=True):
        own = sorted((row for row in rows if row["network"]["kind"] == kind), key=_place)
        for result, colour in RESULTS.items():
            at = [place for place, row in enumerate(own) if row["result"] == result]
            heights = [100 * (own[place]["share"] or 0.0) for place in at]
            axis.bar(at, heights, color=colour)
        labels = [row["network"]["name"] for row in own]
        axis.set_xticks(range(len(own)), labels, rotation=90, fontsize=6)
        axis.set_xlim(-0.7, max(len(own), 1) - 0.3)
        axis.axhline(100 * SHARE, color=QUIET, linewidth=1)
        axis.set_ylabel("FLOPs under\nfree groups, %")
        axis.set_title(kind)
        counts = Counter(row["result"] for row in own)
        for place, (result, colour) in enumerate(RESULTS.items()):
            axis.text(0.78 + 0.08 * place, 1.03, f"{counts[result]} {result}", color=colour, fontweight="bold",
                      transform=axis.transAxes)  # fmt: skip
    head(
        figure,
        f"How far {len(rows)} networks are supported",
        f"Line: {100 * SHARE:.0f} %, which full support needs.",
    )
    save_figure(figure, path)
