"""Draws the pictures of the pages under docs/results again, from the figures beside them; nothing is measured.

    python -m benchmarks.pictures                     all of them
    python -m benchmarks.pictures hypothesis support  some

A page's title is that of its Markdown file.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import ablations, channel_bench_report, confirmation, finetuning, hypothesis, support_report
from benchmarks.ablations import SWEEPS
from benchmarks.bench import draw_success
from benchmarks.published_widths import DRAWN, SHIPPED
from benchmarks.published_widths import draw as draw_widths
from classification.models import build
from classification.task import METRICS
from core.command_line.exits import run_command
from core.errors import UserError, check_known
from core.experiments.sequential import Contrast
from core.experiments.series import Record, Series, collect
from core.experiments.task import Metric
from core.methods.registry import BASELINE
from core.storage.files import from_words, read_json
from core.surgery.architecture import Architecture

RESULTS = Path(__file__).parents[1] / "docs" / "results"


def with_baseline_cost(records: Sequence[Record]) -> list[Record]:
    """Published records, each with the baseline's cost, which is in the baseline's own records."""
    cost = next(record["cost"] for record in records if record["method"] == BASELINE)
    return [{**record, "baseline_cost": cost} for record in records]


def draw_hypothesis(stem: Path, title: str, value: Any) -> None:
    """Methods at one budget."""
    records = with_baseline_cost(value["records"])
    metric = Metric(**value["metrics"][0]) if "metrics" in value else METRICS[0]
    hypothesis.draw(stem, title, metric, collect(records, lambda record: str(record["method"])))


def draw_tracking(stem: Path, title: str, value: Any) -> None:
    """Methods at one budget, and the success of all their trackers."""
    draw_hypothesis(stem, title, value)
    draw_success(stem, title, collect(value["records"], lambda record: str(record["method"])))


def draw_confirmation(stem: Path, title: str, value: Any) -> None:
    """Registered contrasts, and the losses of all arms."""
    confirmation.draw(
        stem,
        title,
        collect(value["records"], lambda record: str(record["method"])),
        [Contrast(item["method"], item["against"]) for item in value["contrasts"]],
        value["looks"],
        Metric(**value["metric"]),
    )


def draw_finetuning(stem: Path, title: str, value: Any) -> None:
    """Ways to choose channels of a trained network."""
    records = with_baseline_cost(value["records"])
    finetuning.draw(stem, title, METRICS[0], collect(records, lambda record: str(record["row"])))


def draw_ablations(stem: Path, title: str, value: Any) -> None:
    """Sweeps."""
    records = with_baseline_cost([record for own in value.values() for record in own])
    by_sweep = dict.fromkeys((name for name, own in value.items() for _ in own), None)
    results: list[ablations.Result] = []
    rest = iter(records)
    base: dict[int, Record] = {}
    for name in by_sweep:
        own = [next(rest) for _ in value[name]]
        if name == BASELINE:
            base = {int(record["seed"]): record for record in own}
            continue
        sweep = SWEEPS[name]
        series: dict[tuple[str, float], Series] = {}
        for record in own:
            method = str(record["method"])
            at = sweep.read(record["shrink"])
            one = series.setdefault((method, at), Series(f"{name} {at:g}: {method}", {}))
            one.records[int(record["seed"])] = record
        results.append(ablations.Result(sweep, series, {}))
    ablations.draw(stem, title, METRICS[0], results, Series(BASELINE, base))


def draw_channel_bench(stem: Path, title: str, value: Any) -> None:
    """Gains over uniform widths."""
    rows = [row for summary in value["spaces"] for row in summary["rows"]]
    budgets = sorted({row["budget"] for row in rows})
    channel_bench_report.plot(
        stem.with_name(f"{stem.name}.png"),
        value["spaces"],
        min(row["floor"] for row in rows),
        budgets,
        value["seeds"],
    )


def draw_support(stem: Path, title: str, value: Any) -> None:
    """Networks of timm and torchvision."""
    support_report.draw(stem.with_name(f"{stem.name}.png"), value["networks"])


def draw_published_widths(stem: Path, title: str, value: Any) -> None:
    """Widths per layer, from the files that ship."""
    for name in DRAWN:
        entry = value["networks"][name]
        found = {method: Architecture.load(SHIPPED / f"{name}-{method}.json") for method in entry["methods"]}
        path = stem.with_name(f"{stem.name}-{name}.png")
        draw_widths(name, entry["images"], build(name, 1000, dataset="imagenet"), found, path)


PAGES: Mapping[str, Callable[[Path, str, Any], None]] = {
    "hypothesis": draw_hypothesis,
    "tiny_imagenet_reduced": draw_hypothesis,
    "tiny_imagenet_longer": draw_hypothesis,
    "edsr_reduced": draw_hypothesis,
    "srresnet_reduced": draw_hypothesis,
    "dimp_small": draw_tracking,
    "confirmation_edsr": draw_confirmation,
    "confirmation_half_mobilenet": draw_confirmation,
    "confirmation_resnet20": draw_confirmation,
    "confirmation_srresnet": draw_confirmation,
    "finetuning": draw_finetuning,
    "ablations": draw_ablations,
    "channel_bench": draw_channel_bench,
    "support": draw_support,
    "published_widths": draw_published_widths,
}


def title_of_page(path: Path) -> str:
    """The heading of a page, without the words for its kind.

    Raises:
        UserError: it has none.
    """
    heading = next(
        (line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# ")), None
    )
    if heading is None:
        raise UserError(f"'{path}' has no heading, which is the pictures' title: make the page again")
    return heading.removeprefix("# ").removeprefix("Ablations: ").removeprefix("Confirmation: ")


def redraw(folder: Path, pages: Sequence[str]) -> None:
    """Write the pictures of pages.

    Args:
        folder: where their .md and .json lie.
        pages: names of `PAGES`.

    Raises:
        UserError: there is no such page, or its figures are damaged.
    """
    check_known("unknown page", pages, PAGES)
    for name in pages:
        stem = folder / name
        try:
            value = from_words(read_json(stem.with_name(f"{name}.json")))
            PAGES[name](stem, title_of_page(stem.with_name(f"{name}.md")), value)
        except (OSError, ValueError, LookupError, TypeError, StopIteration) as error:
            raise UserError(f"'{stem}.json' holds no figures of this page ({error!r}): restore it") from error
        print(f"drawn: {stem}*.png and .svg")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = ArgumentParser(prog="python -m benchmarks.pictures", description=__doc__)
    parser.add_argument(
        "pages", nargs="*", default=list(PAGES), help=f"some of {', '.join(PAGES)} (default: all)"
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder of the pages (default: docs/results)"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_args(argv)

    def run() -> int:
        redraw(arguments.results, arguments.pages)
        return 0

    return run_command(run, arguments.debug, "start it again")


if __name__ == "__main__":
    sys.exit(main())
