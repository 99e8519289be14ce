"""Channel-Bench-Macro's verdict on the found widths: figures, tables, a page and a plot."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.channel_bench_networks import BASELINE
from benchmarks.channel_bench_search import (
    DRAWN,
    DRAWS,
    OWN,
    STEEP,
    Answer,
    Place,
    Series,
    Setting,
    limits_at,
    unlike,
)
from benchmarks.channel_bench_table import find_oracle, neighbours
from core.methods.candidates import IntArray
from core.report.style import GRID, INK, QUIET, head, label_ends, look_of, new_figure, save_figure, styled
from core.tables import grouped, markdown_table
from core.widths.space import Space

CIFAR_IMAGES = 50_000  # images in an epoch of the table's trainings
# These are drawn in colour, with labels; all others are thin grey lines.
SHOWN = ("diminishing-returns", STEEP, "gradient-per-flop", "fisher-per-flop", DRAWN, "gradient")


def looked_up(place: Place, graph: Any, answers: Sequence[Answer], convention: str) -> dict[str, Any]:
    """The table's values for a method's networks: one per network, and the means."""
    relative = np.concatenate([found.relative for found in answers])
    order = [place.macro.groups.index(group.name) for group in graph.groups]
    sizes: IntArray = np.rint(relative * np.array(place.macro.full)).astype(np.int64)[:, order]
    half = (graph.sizes / 2).astype(np.int64)
    shares = {kind: graph.cost(kind, sizes) / graph.cost(kind, half) for kind in (convention, "params")}
    surface = place.surface(relative)
    return {
        "networks": len(relative),
        "widths": sizes.tolist() if len(relative) == len(answers) else f"{len(relative)} networks",
        "surface": float(surface.mean()),
        "surface_sd": float(surface.std(ddof=1)) if len(relative) > 1 else None,
        "neighbours": float(neighbours(place.table, relative).mean()),
        "sd_log_width": float(np.log(relative).std(axis=1).mean()),
        "flops": float(shares[convention].mean()),
        "params": float(shares["params"].mean()),
        "images": float(np.mean([found.images for found in answers])),
        "epochs": float(np.mean([found.images for found in answers])) / CIFAR_IMAGES,
        "seconds": float(np.mean([found.seconds for found in answers])),
    }  # fmt: skip


def summarise(
    place: Place, series: Sequence[Series], space: Space, arguments: Namespace, settings: Sequence[Setting]
) -> dict[str, Any]:
    """One space's figures as plain data."""
    convention, graph = arguments.convention, space.graph
    full = np.array(place.macro.full)
    oracles: dict[str, dict[str, Any]] = {}
    for budget in arguments.budgets:
        limits = limits_at(space, budget, convention)
        oracle = find_oracle(place.table, place.surface, graph, limits, full)
        oracles[str(budget)] = {"widths": oracle.sizes.tolist(), "surface": oracle.surface, "table": oracle.table,
                                "table_unbiased": oracle.unbiased}  # fmt: skip
    rows = [
        {"method": one.method, **setting._asdict(), **looked_up(place, graph, answers, convention)}
        for one in series
        for setting, answers in one.answers.items()
    ]
    uniform = {(row["budget"], row["floor"]): row["surface"] for row in rows if row["method"] == "uniform"}
    for row in rows:
        # Uniform widths may be out of reach even if widths that are rounded down are not.
        base, best = uniform.get((row["budget"], row["floor"])), oracles[str(row["budget"])]["surface"]
        row["over_uniform"] = None if base is None else row["surface"] - base
        row["over_baseline"] = row["surface"] - place.baseline
        row["oracle_share"] = (
            None if base is None or best <= base else (row["surface"] - base) / (best - base)
        )
    refused = [{"method": one.method, **setting._asdict(), "reason": reason}
               for one in series for setting, reason in one.refused.items()]  # fmt: skip
    return {
        "space": place.name,
        "title": place.macro.title,
        "networks": len(place.table.digits),
        "trainings_each": place.table.accuracy.shape[1],
        "noise": place.table.noise,
        "unlike": unlike(place, graph),
        "fit": {**vars(place.fit), "coefficients": len(place.surface.coefficients)},
        "baseline": {"surface": place.baseline, "table": float(place.table.mean[place.table.row(BASELINE)])},
        "oracles": oracles,
        "rows": rows,
        "refused": refused,
    }


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


def space_text(summary: Mapping[str, Any], floors: Sequence[float]) -> str:
    """One space's tables, in Markdown."""
    fit, baseline = summary["fit"], summary["baseline"]
    parts = [
        f"## {summary['space']} space: {summary['title']}\n\n"
        f"{summary['networks']:,} networks, {summary['trainings_each']} trainings each; one training scatters by "
        f"{summary['noise']:.2f} points. Multiply-accumulates and parameters of our closed form differ from the "
        f"table's in {summary['unlike']['macs']} and {summary['unlike']['params']} of them. The surface has "
        f"{fit['coefficients']} coefficients; the table's means lie {fit['residual']:.3f} points around it, of which "
        f"their own noise explains {fit['noise']:.3f}: a lack of fit of {fit['lack']:.3f} beyond it "
        f"(F = {fit['ratio']:.3f}). The baseline {BASELINE} is at {baseline['surface']:.2f} on "
        f"the surface, {baseline['table']:.2f} in its own trainings."
    ]
    least = min(floors)
    for budget, oracle in summary["oracles"].items():
        rows = [row for row in summary["rows"] if row["budget"] == float(budget)]
        by_floor = {(row["method"], row["floor"]): row for row in rows}
        methods = dict.fromkeys(row["method"] for row in rows)
        uniform = by_floor.get(("uniform", least))
        worth_sharing = uniform is not None and oracle["surface"] - uniform["surface"] >= summary["noise"]
        chosen = [by_floor.get((name, least)) or by_floor[name, max(floors)] for name in methods]
        lines = []
        for row in sorted(chosen, key=lambda row: -row["surface"]):
            name = row["method"]
            spread = f" ± {row['surface_sd']:.2f}" if row["surface_sd"] is not None else ""
            others = [by_floor.get((name, floor)) for floor in floors if floor != least]
            lines.append([
                name, str(row["networks"]), f"{row['surface']:.2f}{spread}", f"{row['neighbours']:.2f}",
                _signed(row["over_uniform"]), _signed(row["over_baseline"]),
                f"{100 * row['oracle_share']:.0f} %" if worth_sharing else "–",
                f"{row['sd_log_width']:.2f}", f"{100 * row['params']:.0f} %",
                *(f"{other['surface']:.2f} ({_signed(other['over_uniform'])})" if other else "–" for other in others),
                f"{row['images']:,.0f}", f"{row['epochs']:.4f}", f"{row['seconds']:.1f}",
            ])  # fmt: skip
        header = ["method", "networks", f"accuracy %, floor {least:g}", "neighbours", "over uniform",
                  "over the baseline", "oracle's share", "sd of log widths", "parameters",
                  *(f"floor {floor:g} (over uniform)" for floor in floors if floor != least), "images", "epochs",
                  "seconds"]  # fmt: skip
        parts.append(
            f"### {float(budget):.0%} of the FLOPs\n\nOracle: {oracle['surface']:.2f} on the surface, at widths "
            f"{', '.join(map(str, oracle['widths']))}; best network of the table {oracle['table']:.2f}, "
            f"{oracle['table_unbiased']:.2f} read off a training that did not choose it.\n\n"
            f"{markdown_table(header, lines)}"
        )
    for budget, floor in dict.fromkeys((item["budget"], item["floor"]) for item in summary["refused"]):
        those = [item for item in summary["refused"] if (item["budget"], item["floor"]) == (budget, floor)]
        parts.append(
            f"Not reachable at {budget:.0%} of the FLOPs with floor {floor:g}: {len(those)} methods, "
            f"such as {those[0]['method']} ({those[0]['reason']})."
        )
    return "\n\n".join(parts)


def headline(
    summaries: Sequence[Mapping[str, Any]], floors: Sequence[float], budgets: Sequence[float]
) -> str:
    """A summary of the figures at the budget next to 90 %."""
    budget = min(budgets, key=lambda value: abs(value - 0.9))
    sentences = []
    for summary in summaries:
        rows = [row for row in summary["rows"] if row["budget"] == budget]
        at_least = sorted(
            (row for row in rows if row["floor"] == min(floors)), key=lambda row: -row["surface"]
        )
        oracle = summary["oracles"][str(budget)]["surface"]
        uniform = next((row["surface"] for row in at_least if row["method"] == "uniform"), None)
        if uniform is None:
            continue
        worse = sum(row["over_uniform"] < 0 for row in at_least)
        listed = ", ".join(f"{row['method']} {_signed(row['over_uniform'])}" for row in at_least[:4])
        sentences.append(
            f"**{summary['title'].capitalize()}**, {budget:.0%} of the FLOPs, floor {min(floors):g}: uniform widths "
            f"reach {uniform:.2f} %, the oracle {_signed(oracle - uniform)} points more. Best: {listed}; worst: "
            f"{at_least[-1]['method']} {_signed(at_least[-1]['over_uniform'])}. {worse} of {len(at_least)} rows are "
            f"below uniform, {sum(row['over_baseline'] > 0 for row in at_least)} above the baseline with all its FLOPs."
        )
    return "\n\n".join(sentences)


def report(results: Mapping[str, Any], arguments: Namespace, figure: str | None) -> str:
    """The page, in Markdown."""
    floors, left = arguments.floors, results["left_out"]
    kinds = grouped((reason, name) for name, reason in left.items())
    convention = {"macs": "multiply-accumulates, as in the table", "paper": "in the convention of the paper"}
    notes = [
        f"*Accuracy* is what the surface says of the networks found, mean ± sd over {arguments.seeds} seeds where a "
        f"method draws anything (for *{DRAWN}* over all its networks, {DRAWS} a seed); *neighbours* is "
        "interpolated between the points of the table around them. Differences are taken on the surface. "
        "*Oracle's share*: gain over uniform by the gain of the surface's best network; a dash where that gain is "
        "smaller than the scatter of a single training. The oracle may go down to a quarter of the full widths. "
        "*sd of log widths*: within a network, relative to the regular one, mean over networks. *Epochs* are images "
        f"seen over CIFAR-10's 50,000; seconds are elapsed, on {arguments.threads} "
        f"thread{'s' * (arguments.threads != 1)}, from the baseline to the widths; the "
        f"whole page took {results['seconds']:,.0f} of them. Floors are "
        f"shares of the doubled widths. FLOPs: {convention[arguments.convention]}.",
        f"Scores see {arguments.images} images of {results['dataset']} (the table's networks were trained on "
        f"CIFAR-10). The searches by proxies see {arguments.proxy_images} images, rank {arguments.candidates} "
        f"candidates, and run once, at floor {min(floors):g}, since they run that many networks for every row.",
        f"{len(left)} methods of the registry are left out: "
        + "; ".join(f"{len(names)} ({', '.join(names)}): {reason}" for reason, names in kinds.items()) + "."
        if left else "No method of the registry is left out.",
        "Rows that are no methods of the registry: "
        + "; ".join(f"*{name}*: {text}" for name, text in OWN.items()) + ".",
    ]  # fmt: skip
    parts = [headline(results["spaces"], floors, arguments.budgets)]
    if figure:
        parts.append(f"![Accuracy over uniform widths against the budget]({figure})")
    parts += ["\n".join(f"- {note}" for note in notes)]
    parts += [space_text(summary, floors) for summary in results["spaces"]]
    return "\n\n".join(parts)


@styled
def plot(
    path: Path, summaries: Sequence[Mapping[str, Any]], floor: float, budgets: Sequence[float], seeds: int
) -> None:
    """Gain over uniform widths against the budget, one panel per space."""
    figure, axes = new_figure(9, 4.2 * len(summaries) + 0.6, len(summaries), squeeze=False, sharex=True)
    drawn = []
    counts: list[int] = []  # of thin lines, panel by panel
    budgets = sorted(budgets)
    where = [100 * budget for budget in budgets]
    for axis, summary in zip(np.ravel(axes), summaries, strict=True):
        rows = [row for row in summary["rows"] if row["floor"] == floor and row["over_uniform"] is not None]
        at = {(row["method"], row["budget"]): row["over_uniform"] for row in rows}
        uniform = {row["budget"]: row["surface"] for row in rows if row["method"] == "uniform"}
        room = [
            summary["oracles"][str(budget)]["surface"] - uniform.get(budget, np.nan) for budget in budgets
        ]
        axis.fill_between(where, 0, room, color=GRID, linewidth=0)
        axis.plot([min(where), max(where)], [0, 0], color=look_of("uniform").colour, linewidth=1.4)
        aside = min(where) - 0.04 * (max(where) - min(where) or 1)
        axis.errorbar([aside], [0], summary["noise"], color=INK, elinewidth=1, capsize=3)
        ends = [("uniform widths", 0.0, look_of("uniform").colour), ("oracle (band)", room[-1], QUIET)]
        methods = dict.fromkeys(name for name, _ in at)
        counts.append(sum(name not in (*SHOWN, "uniform") for name in methods))
        for name in methods:
            values = [at.get((name, budget), np.nan) for budget in budgets]
            if name in SHOWN:
                look = look_of(name)
                axis.plot(
                    where,
                    values,
                    marker=look.marker,
                    linestyle=look.dashes,
                    color=look.colour,
                    markersize=4.5,
                )
                ends.append((name, values[-1], look.colour))
            elif name != "uniform":
                axis.plot(where, values, color="#b5b5b5", linewidth=0.7, zorder=1.5)
        drawn.append((axis, [(f"{name} {_signed(value).replace('-', '−')}", max(where), value, colour)
                             for name, value, colour in ends if np.isfinite(value)]))  # fmt: skip
        axis.set_title(f"{summary['space']} space ({summary['title']}), floor {floor:g}")
        axis.set_ylabel("points of accuracy over uniform widths")
        axis.set_xticks(where, [f"{value:g} %" for value in where])
    np.ravel(axes)[-1].set_xlabel("FLOPs over the regular network's")
    head(figure, "Accuracy over uniform widths against the budget",
         f"Thin lines: {' and '.join(map(str, dict.fromkeys(counts)))} other methods. Bar at the left: ± "
         f"standard deviation of one training. n = {seeds} seeds where a method draws; "
         "searches by proxies ran once.")  # fmt: skip
    for axis, labels in drawn:
        label_ends(axis, labels)
    save_figure(figure, path)
