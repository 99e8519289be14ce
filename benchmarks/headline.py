"""The results in README, and the page with their tables, made from the pages' own figures.

    python -m benchmarks.headline            write the lines between README.md's marks, and docs/results/headline.md
    python -m benchmarks.headline --check    status 1 if they do not agree with the figures

Sentences depend on the figures: a difference counts only if its p-value is below 5 % after Holm's correction over the
named comparisons, or if a registered look has found it.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from scipy.stats import spearmanr

from benchmarks.confirmation import differences
from core.command_line.exits import run_parsed
from core.command_line.parsers import command_parser
from core.errors import UserError
from core.experiments.sequential import Contrast
from core.experiments.series import Series, collect, controls_table, results_table
from core.experiments.statistics import fine_digits, holm, number_text, p_text, paired_p, with_interval
from core.experiments.task import Metric
from core.methods.registry import BASELINE, METHODS
from core.storage.files import read_json, write_text
from core.tables import grouped, markdown_table
from core.widths.budget import number_or_word

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
FOLDER = "docs/results/"  # folder of the pages for README's links
BEGIN, END = "<!-- made by python -m benchmarks.headline -->", "<!-- end of what it made -->"
DEFAULT = "gradient"  # the score of a run without further options
REGULAR = "the regular network"
FLOOR = 0.25  # of the public table's rows that are told: the table ends there
ERROR = Metric("top1_error", "top-1 error %", higher_is_better=False)
EXPLORED = {  # folder of docs/results/records -> what was trained there, for the page
    "exploration": "mobilenetv2_small",
    "exploration-channel-bench-half": "the public table's regular inverted bottlenecks at half of their widths",
    "exploration-resnet20": "ResNet20, stem of stride 1",
    "exploration-resnet20-stride2": "ResNet20, stem of stride 2",
}
OTHERS = {  # pages of the other tasks
    "edsr_reduced": "A reduced EDSR",
    "srresnet_reduced": "A reduced SRResNet",
    "dimp_small": "A small DiMP",
}
REDUCED = {"tiny_imagenet_reduced": 10, "tiny_imagenet_longer": 30}  # page -> epochs
FEWEST_DRAWN = 5  # random networks whose order says anything
DEPTH = "fisher-depth-per-flop"  # the way with depth that was trained longest


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


def table_sentences(bench: Mapping[str, Any], folder: str = FOLDER) -> list[str]:
    """Every method's result in a public table of trained networks, at 90 % of the FLOPs."""
    lines = []
    for space in bench["spaces"]:
        reached = {row["method"]: row["surface"] for row in rows_at(space)}
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
        f"**Judged by a public table**, Channel-Bench-Macro: {count:,} networks that others trained on CIFAR-10; no "
        f"training of ours. At 90 % of the FLOPs and a floor of {FLOOR:g} (a quarter of the widened width; with the "
        f"protocols' floor of 0.4 the order is another one): {'; '.join(lines)} ([page]({folder}channel_bench.md))."
    ]


def difference(
    records: Sequence[Mapping[str, Any]], method: str, against: str, metric: Metric = ERROR
) -> list[float]:
    """A metric of a method minus the same metric of another, seed by seed."""
    series = collect([dict(record) for record in records], lambda record: str(record["method"]))
    empty = Series("", {})
    return series.get(method, empty).against(series.get(against, empty), metric)


def found_to_differ(differences: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, bool]]:
    """Name -> (p after Holm's correction over all given comparisons, whether it is below 5 %)."""
    adjusted = holm([paired_p(values) for values in differences.values()])
    return {name: (p, p < 0.05) for name, p in zip(differences, adjusted, strict=True)}


@dataclass(frozen=True)
class Beaten:
    """Methods of one kind that were trained beside the regular network.

    Attributes:
        kind: "by widths alone" or "with fewer blocks".
        searches: ways of finding widths, in the order of the records.
        controls: those that search nothing, likewise.
        better: those of both that beat the regular network.
    """

    kind: str
    searches: list[str]
    controls: list[str]
    better: list[str]

    def __str__(self) -> str:
        """'by widths alone, 0 of 3 searches and 0 of 2 controls beat the regular network'."""
        counts = [
            f"{sum(name in self.better for name in names)} of {len(names)} {what}{'' if len(names) == 1 else plural}"
            for names, what, plural in ((self.searches, "search", "es"), (self.controls, "control", "s"))
            if names
        ]
        only = "" if self.searches else " (no search was tried)"
        return f"{self.kind}, {' and '.join(counts)}{only} beat {REGULAR}"


def beaten(records: Sequence[Mapping[str, Any]]) -> list[Beaten]:
    """What beats the regular network, for each kind of method of which there is one."""
    against = against_baseline(records)
    answers = found_to_differ(against)
    found = []
    for kind, deep in (("by widths alone", False), ("with fewer blocks", True)):
        own = [method for method in against if is_deep(method) == deep]
        controls = [method for method in own if is_control(method)]
        better = [method for method in own if answers[method][1] and fmean(against[method]) < 0]
        if own:
            found.append(Beaten(kind, [name for name in own if name not in controls], controls, better))
    return found


def against_baseline(records: Sequence[Mapping[str, Any]], metric: Metric = ERROR) -> dict[str, list[float]]:
    """Method -> its differences to the regular network, seed by seed."""
    methods = dict.fromkeys(record["method"] for record in records)
    return {method: difference(records, method, BASELINE, metric) for method in methods if method != BASELINE}


def is_deep(method: str) -> bool:
    """Whether a way may leave blocks out."""
    return METHODS[method].leaves_blocks_out


def is_control(method: str) -> bool:
    """Whether a way searches nothing, and is there to be compared with."""
    return METHODS[method].summary.startswith("control:")


def reduced_sentences(page: Mapping[str, Any], name: str, epochs: int, folder: str = FOLDER) -> list[str]:
    """Widths and depth on a part of Tiny-ImageNet."""
    records = page["records"]
    against = against_baseline(records)
    answers = found_to_differ(against)
    parts = []
    for kind in beaten(records):
        named = ", ".join(
            f"`{m}` {with_interval(against[m])} (p {p_text(answers[m][0])})" for m in kind.better
        )
        parts.append(f"{kind}: {named}" if named else str(kind))
    own = difference(records, DEPTH, "uniform")
    pair = "" if not own else (
        f"; against uniform widths `{DEPTH}` is at {with_interval(own)} (p {p_text(paired_p(own))}, not corrected)"
    )  # fmt: skip
    return [
        f"**ResNet20 on a part of Tiny-ImageNet**, {epochs} epochs, {seeds_in(records)} seeds, 90 % of the FLOPs, "
        f"points of error: {'; '.join(parts)}{pair} ([page]({folder}{name}.md))."
    ]


def seeds_in(records: Sequence[Mapping[str, Any]]) -> int:
    """How often the regular network was trained."""
    return sum(record["method"] == BASELINE for record in records)


def confirmations() -> list[Path]:
    """The figures of all pages of registered contrasts."""
    return sorted(RESULTS.glob("confirmation*.json"))


def confirmation_sentences(path: Path, folder: str = FOLDER) -> list[str]:
    """The results of a page's registered contrasts so far."""
    page = read_json(path)
    metric = Metric(**page["metric"])
    methods = list(dict.fromkeys(f"`{item['method']}`" for item in page["contrasts"]))
    series = collect(page["records"], lambda record: str(record["method"]))
    pairs = differences(
        [Contrast(item["method"], item["against"]) for item in page["contrasts"]], series, metric
    )
    parts = []
    for item in page["contrasts"]:
        name = f"`{item['method']}` against " if len(methods) > 1 else "against "
        name += REGULAR if item["against"] == BASELINE else f"`{item['against']}`"
        if not item["pairs"]:
            parts.append(f"{name} it has not been looked at yet")
            continue
        values = pairs[Contrast(item["method"], item["against"])][: item["pairs"]]
        better = (fmean(values) > 0) == metric.higher_is_better
        found = "better" if better else "worse"
        said = found if item["differs"] else "no difference shown" if item["final"] else "still open"
        shown = with_interval(values, fine_digits(values, metric.digits))
        parts.append(f"{name} {shown} after {item['pairs']} pairs: {said}")
    becomes = [f"`{name}`" for name, value in page["becomes_default"].items() if value]
    rule = f" By the rule that was written down {', '.join(becomes)} becomes the default." if becomes else ""
    budget = number_or_word(str(page["budget"]))
    share = f"{100 * budget:g} % of the FLOPs" if isinstance(budget, float) else f"a budget of {budget}"
    return [
        f"**Registered beforehand**, {page['trained']}: {metric.label} of {', '.join(methods)} at {share}, "
        f"{'; '.join(parts)}. {parameters_text(page['records'])}{rule} ([page]({folder}{path.stem}.md))"
    ]


def parameters_text(records: Sequence[Mapping[str, Any]]) -> str:
    """What the arms of a comparison have of the regular network's parameters; "" where that is no arm."""
    own = grouped((str(record["method"]), record["cost"]["params"]) for record in records)
    if BASELINE not in own:
        return ""
    base = fmean(own[BASELINE])
    shares = [
        f"`{name}` {100 * fmean(counts) / base:.0f} %" for name, counts in own.items() if name != BASELINE
    ]
    return f"Parameters, of {REGULAR}'s: {', '.join(shares)}."


def other_sentences(folder: str = FOLDER) -> list[str]:
    """Super-resolution and tracking: differences to the regular network, seed by seed."""
    lines = []
    for name, what in OTHERS.items():
        page = read(name)
        told = methods_in_short(page["records"], Metric(**page["metrics"][0]))
        lines.append(f"**{what}** {told} ([page]({folder}{name}.md)).")
    return lines


def methods_in_short(records: Sequence[Mapping[str, Any]], metric: Metric) -> str:
    """Every method's difference to the regular network, and which of them chance does not explain."""
    against = against_baseline(records, metric)
    answers = found_to_differ(against)
    found = any(differs for _, differs in answers.values())
    cost = fmean(record["cost"]["flops"]["paper"] for record in records if record["method"] != BASELINE)
    base = next(record for record in records if record["method"] == BASELINE)["cost"]["flops"]["paper"]
    shown = []
    for method, values in against.items():
        better = (fmean(values) > 0) == metric.higher_is_better
        said = f" ({'better' if better else 'worse'})" if answers[method][1] else ""
        shown.append(f"`{method}` {with_interval(values, fine_digits(values, metric.digits))}{said}")
    seeds = max(map(len, against.values()))
    rest = "the others" if found else "none"
    return (
        f"at {100 * cost / base:.0f} % of the FLOPs, {metric.label} minus its regular network's, {seeds} seeds: "
        f"{', '.join(shown)}; {rest} can{'not' if found else ''} be told from chance after Holm's correction"
    )


def in_short() -> str:
    """All results in README: a line for each question.

    Raises:
        UserError: see `read`.
    """
    lines = table_in_short(read("channel_bench"))
    for path in confirmations():
        lines += confirmation_sentences(path)
    for name, epochs in REDUCED.items():
        records = read(name)["records"]
        counts = "; ".join(map(str, beaten(records)))
        lines.append(
            f"**ResNet20, part of Tiny-ImageNet**, {epochs} epochs, {seeds_in(records)} seeds: {counts} "
            f"([page](docs/results/{name}.md))."
        )
    lines += other_sentences()
    legend = (
        "± is a 95 % interval, and a pair is two trainings with one seed. Lower errors are better, and so are higher "
        "PSNR and AUC."
    )
    return legend + "\n\n" + "\n".join(f"- {line}" for line in lines)


def table_in_short(bench: Mapping[str, Any]) -> list[str]:
    """Methods that gain on the full regular network at 90 % of its FLOPs, in the public table."""
    parts = []
    for space in bench["spaces"]:
        reached = {row["method"]: row["surface"] - space["baseline"]["surface"] for row in rows_at(space)}
        best = max(reached, key=lambda name: reached[name])
        said = (
            f"`{best}` gains {reached[best]:.2f} points"
            if reached[best] > space["noise"]
            else f"no way gains more than one training scatters ({space['noise']:.2f}; best: `{best}` "
            f"{reached[best]:+.2f})"
        )
        parts.append(f"on {space['title']} {said}, the default `{DEFAULT}` is at {reached[DEFAULT]:+.2f}")
    count = sum(space["networks"] for space in bench["spaces"])
    return [
        f"**A public table of {count:,} networks**, trained by others on CIFAR-10, 90 % of the FLOPs, floor {FLOOR:g}, "
        f"against {REGULAR} with all FLOPs: {'; '.join(parts)} ([page](docs/results/channel_bench.md))."
    ]


def rows_at(space: Mapping[str, Any], budget: float = 0.9, floor: float = FLOOR) -> list[Mapping[str, Any]]:
    """The rows of the public table's page at one budget and floor."""
    return [row for row in space["rows"] if (row["budget"], row["floor"]) == (budget, floor)]


def page() -> str:
    """docs/results/headline.md: the sentences in full, and the tables behind them.

    Raises:
        UserError: see `read`.
    """
    sections = [
        "# Results in short",
        "Made by `python -m benchmarks.headline` from the figures of the pages that are named. A difference counts as "
        "one where its p-value is below 5 % after Holm's correction, or where a registered look has found it. What the "
        "figures mean, and what failed: [results](README.md).",
    ]
    bench = read("channel_bench")
    sections += ["## A public table of trained networks", *table_sentences(bench, "")]
    sections += [table_of_space(space) for space in bench["spaces"]]
    for path in confirmations():
        sections += confirmation_sentences(path, "")
    for name, epochs in REDUCED.items():
        records = read(name)
        sections += [f"## Trained by us, {epochs} epochs", *reduced_sentences(records, name, epochs, "")]
        regular = next(record for record in records["records"] if record["method"] == BASELINE)
        base = {"baseline_cost": {**regular["cost"], "widths": regular["widths"]}}
        series = collect(
            [record | base for record in records["records"]], lambda record: str(record["method"])
        )
        sections += [results_table(series, BASELINE, ERROR), controls_table(series, ["uniform"], ERROR)]
    sections += [
        "## Explorations",
        "Tiny-ImageNet's first 100 classes at 16x16 pixels, 25,000 training and 30,000 test images. One or two seeds, "
        "nothing tested: what is worth registering is chosen here, and confirmed on other classes. Finished trainings "
        "are kept in `docs/results/records`.",
    ]
    sections += [explored_table(RESULTS / "records" / folder, what) for folder, what in EXPLORED.items()]
    sections += ["## Whether the first epoch tells networks apart", *early_sentences()]
    sections += ["## Other tasks", *other_sentences("")]
    return "\n\n".join(sections) + "\n"


def explored_table(folder: Path, what: str) -> str:
    """Errors and losses of the trainings in a folder of records, budget by budget, in the order of their errors."""
    records = [read_json(path) for path in sorted(folder.glob("*.json"))]
    own = grouped(((allowed_flops(record), str(record["method"])), record) for record in records)

    def mean(trained: tuple[float, str], key: str) -> float:
        return fmean(record["metrics"][key] for record in own[trained])

    rows = [
        [
            f"`{trained[1]}`",
            f"{100 * trained[0]:g}",
            str(len(own[trained])),
            number_text(mean(trained, "top1_error")),
            number_text(mean(trained, "loss"), 4),
            number_text(fmean(record["train_loss"] for record in own[trained]), 4),
        ]
        for trained in sorted(own, key=lambda pair: (-pair[0], mean(pair, "top1_error")))
    ]
    epochs = len(records[0]["losses"])
    return markdown_table(
        [f"{what}, {epochs} epochs", "FLOPs %", "seeds", "top-1 error %", "test loss", "training loss"], rows
    )


def allowed_flops(record: Mapping[str, Any]) -> float:
    """The share of the regular network's FLOPs that a training's network was allowed; 1 for the regular one."""
    return 1.0 if record["shrink"] is None else float(record["shrink"]["budget"]["flops"])


def early_sentences() -> list[str]:
    """Whether random networks of the registered comparisons rank after one epoch as they do at the end."""
    rows = []
    for path in confirmations():
        page = read_json(path)
        metric = Metric(**page["metric"])
        drawn = [record for record in page["records"] if record["method"] == "random"]
        if len(drawn) < FEWEST_DRAWN:
            continue
        early, late = ([record["losses"][epoch] for record in drawn] for epoch in (0, -1))
        worse = [record["metrics"][metric.key] * (-1) ** metric.higher_is_better for record in drawn]
        of_loss, of_metric = (f"{spearmanr(early, end).statistic:.2f}" for end in (late, worse))
        rows.append([page["trained"], str(len(drawn)), of_loss, of_metric, metric.label])
    return [
        "A search could train candidates for a few steps and take the one whose loss falls fastest. The registered "
        "comparisons have random networks, other widths for every seed, at one cost. Rank correlation (Spearman) of "
        "their training loss in the first epoch with that in the last one, and with how bad the network is in the end; "
        "1 would be the same order, and below 0.3 we build no such search. Losses of other seeds see other images and "
        "weights.",
        markdown_table(["trained", "networks", "with the last loss", "with the result", "result"], rows),
    ]


def table_of_space(space: Mapping[str, Any]) -> str:
    """Accuracies of one space of the public table, best first."""
    uniform = next(row["surface"] for row in rows_at(space) if row["method"] == "uniform")
    rows = [
        [
            f"`{row['method']}`" if " " not in row["method"] else row["method"],
            f"{row['surface']:.2f}",
            f"{row['surface'] - uniform:+.2f}",
            f"{row['surface'] - space['baseline']['surface']:+.2f}",
            f"{100 * row['params']:.0f}",
        ]
        for row in sorted(rows_at(space), key=lambda row: -row["surface"])
    ]
    head = [
        f"{space['title']}, 90 % of the FLOPs",
        "accuracy %",
        "over uniform",
        "over regular at 100 %",
        "parameters %",
    ]
    return markdown_table(head, rows)


def with_paragraphs(readme: str) -> str:
    """README with new paragraphs between its marks.

    Raises:
        UserError: the marks are missing.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise UserError(f"README.md needs the lines '{BEGIN}' and '{END}' once each")
    before, _, rest = readme.partition(BEGIN)
    return f"{before}{BEGIN}\n{in_short()}\n{END}{rest.partition(END)[2]}"


def run(arguments: Namespace) -> int:
    """Write or check; returns the exit status."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    path = RESULTS / "headline.md"
    wanted = {ROOT / "README.md": with_paragraphs(readme), path: page()}
    old = {
        name for name, text in wanted.items() if not name.exists() or name.read_text(encoding="utf-8") != text
    }
    if not old:
        print("README.md and docs/results/headline.md say what the figures say")
        return 0
    names = " and ".join(sorted(name.relative_to(ROOT).as_posix() for name in old))
    if arguments.check:
        print(f"not what the figures say: {names}; run python -m benchmarks.headline", file=sys.stderr)
        return 1
    for name in old:
        write_text(name, wanted[name])
    print(f"written: {names}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = command_parser(
        "benchmarks.headline",
        __doc__.split("\n\n")[0],
        ("benchmarks.headline", "benchmarks.headline --check"),
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; status 1 if README.md or the page is not up to date",
    )
    return run_parsed(parser, run, argv, "nothing was written")


if __name__ == "__main__":
    sys.exit(main())
