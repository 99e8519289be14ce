"""What README says of results, made from the pages' own figures, so that it cannot say anything else.

    python -m benchmarks.headline            write the paragraphs between the marks of README.md
    python -m benchmarks.headline --check    status 1 if they are not what the figures say

Sentences depend on the figures: a difference is called one only where its p-value is below 5 % after Holm's correction
over the comparisons that are named, or where a registered look has found it.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from core.command_line.exits import run_parsed
from core.command_line.parsers import command_parser
from core.errors import UserError
from core.experiments.series import Series, collect
from core.experiments.statistics import holm, number_text, p_text, paired_p, with_interval
from core.experiments.task import Metric
from core.storage.files import atomic_write, read_json

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
BEGIN, END = "<!-- made by python -m benchmarks.headline -->", "<!-- end of what it made -->"
DEFAULT = "gradient"  # the score that a run without further options goes by
ERROR = Metric("top1_error", "top-1 error %", higher_is_better=False)
DEPTH = "fisher-depth-per-flop"  # the way with depth that was run longest


def read(name: str) -> Any:
    """A page's figures.

    Raises:
        UserError: they cannot be read.
    """
    path = RESULTS / f"{name}.json"
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"'{path}': {error}") from error


def table_sentences(bench: Mapping[str, Any]) -> list[str]:
    """What a public table of trained networks says of every method at 90 % of the FLOPs."""
    lines = []
    for space in bench["spaces"]:
        rows = [row for row in space["rows"] if row["budget"] == 0.9 and row["floor"] == 0.25]
        reached = {row["method"]: row["surface"] for row in rows}
        best = max((name for name in reached if name != "uniform"), key=lambda name: reached[name])
        uniform, base = reached["uniform"], space["baseline"]["surface"]
        lines.append(
            f"on {space['title']}, `{best}` is {reached[best] - uniform:+.2f} points of accuracy from uniform widths "
            f"and {reached[best] - base:+.2f} from the regular network with all its FLOPs, the default `{DEFAULT}` "
            f"{reached[DEFAULT] - uniform:+.2f} and {reached[DEFAULT] - base:+.2f} (one training scatters by "
            f"{space['noise']:.2f})"
        )
    count = sum(space["networks"] for space in bench["spaces"])
    return [
        f"**Judged by a public table** of {count:,} trained networks, without a training of ours, at 90 % of the "
        f"FLOPs: {'; '.join(lines)} ([page](docs/results/channel_bench.md))."
    ]


def difference(records: Sequence[Mapping[str, Any]], method: str, against: str) -> list[float]:
    """Points of error, seed by seed."""
    series = collect([dict(record) for record in records], lambda record: str(record["method"]))
    empty = Series("", {})
    return series.get(method, empty).against(series.get(against, empty), ERROR)


def found_to_differ(differences: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, bool]]:
    """Name -> (p after Holm's correction over all that are given, whether it is below 5 %)."""
    adjusted = holm([paired_p(values) for values in differences.values()])
    return {name: (p, p < 0.05) for name, p in zip(differences, adjusted, strict=True)}


def reduced_sentences(page: Mapping[str, Any], name: str, epochs: int) -> list[str]:
    """Widths and depth on a part of Tiny-ImageNet."""
    records = page["records"]
    methods = [method for method in dict.fromkeys(r["method"] for r in records) if method != "baseline"]
    against = {method: difference(records, method, "baseline") for method in methods}
    answers = found_to_differ(against)
    deep = [method for method in methods if "depth" in method or method.startswith("shallow")]
    parts = []
    for kind, chosen in (
        ("without leaving blocks out", [m for m in methods if m not in deep]),
        ("with fewer blocks", deep),
    ):
        better = [m for m in chosen if answers[m][1] and fmean(against[m]) < 0]
        named = ", ".join(f"`{m}` {with_interval(against[m])} (p {p_text(answers[m][0])})" for m in better)
        parts.append(
            f"{kind}, {len(better)} of {len(chosen)} ways beat the regular network"
            + (f": {named}" if named else "")
        )
    own = difference(records, DEPTH, "uniform")
    pair = "" if not own else (
        f"; against uniform widths `{DEPTH}` is at {with_interval(own)} (p {p_text(paired_p(own))}, not corrected)"
    )  # fmt: skip
    seeds = sum(record["method"] == "baseline" for record in records)
    return [
        f"**ResNet20 on a part of Tiny-ImageNet**, {epochs} epochs, {seeds} seeds, 90 % of the FLOPs, points of error: "
        f"{'; '.join(parts)}{pair} ([page](docs/results/{name}.md))."
    ]


def confirmation_sentences(path: Path) -> list[str]:
    """What the registered contrasts say so far."""
    if not path.exists():
        return []
    page = read_json(path)
    parts = []
    for item in page["contrasts"]:
        name = f"`{item['method']}` against {item['against']}"
        if not item["pairs"]:
            parts.append(f"{name} has not been looked at yet")
            continue
        values = difference(page["records"], item["method"], item["against"])[: item["pairs"]]
        said = "differs" if item["differs"] else "no difference shown" if item["final"] else "open"
        parts.append(f"{name} {with_interval(values)} points of error after {item['pairs']} pairs: {said}")
    becomes = [f"`{name}`" for name, value in page["becomes_default"].items() if value]
    rule = f" By the rule that was written down {', '.join(becomes)} becomes the default." if becomes else ""
    return [
        f"**Registered contrasts** on classes that nothing was chosen on: {'; '.join(parts)}.{rule} "
        "([page](docs/results/confirmation.md))"
    ]


def other_sentences() -> list[str]:
    """Super-resolution and tracking: differences of the found network, seed by seed."""
    lines = []
    for name, key, label, digits in (
        ("super_resolution", "Set5_psnr", "dB of PSNR on Set5", 2),
        ("dimp_small", "success_auc", "points of AUC", 2),
    ):
        page = read(name)
        base, found = (page["methods"][method] for method in ("baseline", "lwdna"))
        values = [
            own - other
            for own, other in zip(
                found["metrics"][key]["values"], base["metrics"][key]["values"], strict=True
            )
        ]
        several = len(values) > 1
        said = (
            f"p {p_text(paired_p(values))}, {len(values)} seeds"
            if several
            else "one seed, which says nothing of chance"
        )
        shown = with_interval(values, digits) if several else number_text(values[0], digits)
        what = {"super_resolution": "a reduced EDSR", "dimp_small": "a small DiMP"}[name]
        lines.append(
            f"{what} at {100 * found['flops_ratio']:.0f} % of the FLOPs: {shown} {label} against its regular network "
            f"({said}; [page](docs/results/{name}.md))"
        )
    return [f"**Other tasks, reduced**: {'; '.join(lines)}."]


def paragraphs() -> str:
    """All that README says of results.

    Raises:
        UserError: see `read`.
    """
    lines = [
        *table_sentences(read("channel_bench")),
        *confirmation_sentences(RESULTS / "confirmation.json"),
        *reduced_sentences(read("tiny_imagenet_reduced"), "tiny_imagenet_reduced", 10),
        *reduced_sentences(read("tiny_imagenet_longer"), "tiny_imagenet_longer", 30),
        *other_sentences(),
    ]
    return "\n".join(f"- {line}" for line in lines)


def with_paragraphs(readme: str) -> str:
    """README with today's paragraphs between its marks.

    Raises:
        UserError: the marks are missing.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise UserError(f"README.md needs the lines '{BEGIN}' and '{END}' once each")
    before, _, rest = readme.partition(BEGIN)
    return f"{before}{BEGIN}\n{paragraphs()}\n{END}{rest.partition(END)[2]}"


def run(arguments: Namespace) -> int:
    """Write or check; returns the exit status."""
    path = ROOT / "README.md"
    readme = path.read_text(encoding="utf-8")
    wanted = with_paragraphs(readme)
    if wanted == readme:
        print("README.md says what the figures say")
        return 0
    if arguments.check:
        print(
            "README.md does not say what the figures say: run python -m benchmarks.headline", file=sys.stderr
        )
        return 1
    with atomic_write(path) as file:
        file.write(wanted)
    print("written: README.md")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = command_parser("benchmarks.headline", __doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; status 1 if README.md is not up to date"
    )
    return run_parsed(parser, run, argv, "nothing was written")


if __name__ == "__main__":
    sys.exit(main())
