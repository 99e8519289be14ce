"""The model card beside an export: a page of Markdown, made from the checkpoint's header and from measurements."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from core.errors import UserError
from core.export.contents import describe
from core.export.formats import Exported
from core.export.subject import Exportable
from core.graph.complexity import count, count_params
from core.storage.checkpoint import CHECKSUM
from core.storage.description import Contents
from core.surgery.architecture import Architecture
from core.tables import engineering, markdown_table
from core.timing import Timing, seconds_text, span_text

TITLE = "# Model card: "
LICENCE = "Licence: "
_MILLISECOND = 1e-3  # one unit for all rows of the table of times
Table = Callable[[Sequence[str], Sequence[Sequence[str]]], str]  # of core.tables
_NO_LICENCE = (
    f"{LICENCE}not told. Write here on what terms these weights may be used; a later export keeps this line."
)


def kept_licence(path: Path) -> str:
    """The licence line of a card that is to be replaced; the usual request if there is no card yet.

    Raises:
        UserError: the file there is no card.
    """
    if not path.exists():
        return _NO_LICENCE
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
    if not lines[0].startswith(TITLE):
        raise UserError(f"'{path}' exists and is no model card: choose another OUT")
    return next((line for line in lines if line.startswith(LICENCE)), _NO_LICENCE)


def card(
    subject: Exportable,
    checkpoint: Path,
    files: Sequence[Exported],
    times: Mapping[str, Timing],
    where: str,
    licence: str,
) -> str:
    """The page of the card.

    Args:
        subject: what was exported.
        checkpoint: the file that was exported.
        files: the exported files.
        times: of one input, by the program that ran; empty if nothing was timed.
        where: size of the input, and the machine.
        licence: the line of `kept_licence`.
    """
    contents = subject.contents
    sections = [
        f"{TITLE}{subject.title} ({subject.task})",
        licence,
        _summary(subject, contents),
        "## Files",
        _files(subject, checkpoint, files),
        "## In and out",
        _tensors(subject, files),
        "## Use it",
        *_usage(subject, files),
        "## Cost",
        costs(subject, markdown_table),
        "## Time",
        f"One input of {where}:\n\n{time_table(times, markdown_table)}" if times else "Not measured.",
        "## Scores",
        scores(checkpoint, subject.task, contents),
        "## What the checkpoint says of itself",
        f"```text\n{describe(checkpoint.name, contents)}\n```",
    ]
    return "\n\n".join(sections) + "\n"


def _summary(subject: Exportable, contents: Contents) -> str:
    origin = contents.origin
    data = origin.get("dataset") or contents.description.get("dataset")
    method = origin.get("method")
    lines = [
        f"Trained on {data}." if data else "The checkpoint does not tell what it was trained on.",
        "Its widths are the network's own."
        if subject.architecture is None
        else f"Its widths were found{f' by `{method}`' if method else ''}: {widths_text(subject.architecture)}.",
        f"Seed {origin['seed']}." if "seed" in origin else "",
        *origin.get("notes", ()),
        *subject.left_out,
    ]
    return "\n".join(f"- {line}" for line in lines if line)


def widths_text(found: Architecture) -> str:
    """ "37 groups with 3,012 of 3,776 channels, 90.0 % of the regular network's FLOPs (paper) and 71.3 % of ..."."""
    regular = found.baseline_widths
    shared = [name for name in found.widths if name in regular]
    parts = [f"{len(found.widths)} groups"]
    if shared:
        kept = sum(found.widths[name] for name in shared)
        parts[0] += f" with {kept:,} of {sum(regular[name] for name in shared):,} channels"
    if found.cost is not None and found.baseline is not None:
        flops, params = (
            found.cost.paper / found.baseline.paper,
            found.cost.params / found.baseline.params,
        )
        parts.append(
            f"{100 * flops:.1f} % of the regular network's FLOPs and {100 * params:.1f} % of its parameters"
        )
    if found.removed:
        parts.append(f"without the blocks {', '.join(found.removed)}")
    return ", ".join(parts)


def _files(subject: Exportable, checkpoint: Path, files: Sequence[Exported]) -> str:
    rows = [
        [
            f"`{file.path.name}`",
            f"{file.path.stat().st_size:,}",
            f"{file.difference:.1e} ({file.checker})",
            f"`{hashlib.sha256(file.path.read_bytes()).hexdigest()}`",
        ]
        for file in files
    ]
    crc = subject.header.get(CHECKSUM)
    return "\n\n".join(
        [
            markdown_table(["file", "bytes", "differs from the module by", "sha256"], rows),
            f"Made from `{checkpoint.name}`, {f'crc32 {crc}' if crc else 'which has no checksum'}.",
        ]
    )


def _tensors(subject: Exportable, files: Sequence[Exported]) -> str:
    lines = [f"- `{name}`: {text}" for name, text in subject.about.items()]
    lines += [f"- `{file.path.name}`: {sizes(file)}" for file in files if file.path.suffix != ".safetensors"]
    return "\n".join(lines)


def sizes(file: Exported) -> str:
    """Which sizes an exported program takes, and why no others."""
    if file.step is None:
        return f"any number of inputs N; height and width are fixed: {file.reason}"
    steps = "" if file.step == 1 else f", in steps of {file.step} from those that it was compared on"
    return f"any number of inputs N, any height and width{steps}"


def _usage(subject: Exportable, files: Sequence[Exported]) -> list[str]:
    names = {file.path.suffix: file.path.name for file in files}
    parts = []
    if ".onnx" in names:
        parts.append(f"```python\n{subject.usage(names['.onnx']).strip()}\n```")
    if ".pt2" in names:
        arguments = ", ".join(subject.inputs)
        parts.append(
            f"```python\nimport torch\n\nprogram = torch.export.load('{names['.pt2']}').module()\n"
            f"outputs = program({arguments})  # tensors as above\n```"
        )
    if ".safetensors" in names:
        parts.append(
            f"`lwdna {subject.task} predict --help` says how `--checkpoint {names['.safetensors']}` is used."
        )
    return parts


def costs(subject: Exportable, table: Table) -> str:
    """The cost of one input of the size that was compared."""
    ways = {"regular network": subject.regular, "this network": subject.graph}
    rows = []
    for name, graph in ways.items():
        if graph is None:
            continue
        inputs = tuple(subject.rows(1).values())
        macs, paper = count(graph, inputs), count(graph, inputs, "paper")
        rows.append([name, engineering(macs), engineering(paper), engineering(count_params(graph))])
    height, width = subject.size
    return table([f"{height} x {width}", "MACs", "FLOPs (paper)", "parameters"], rows)


def time_table(times: Mapping[str, Timing], table: Table) -> str:
    """Medians, quartiles, and medians over the first one's, as a table by `core.tables.text_table` or its like."""
    first = next(iter(times.values()))
    rows = [
        [
            name,
            seconds_text(timing.median, like=_MILLISECOND),
            _middle_half(timing.wall),
            str(len(timing.wall)),
            f"{timing.median / first.median:.2f}",
        ]
        for name, timing in times.items()
    ]
    return table(["", "median", "middle half", "runs", "over the first"], rows)


def _middle_half(seconds: Sequence[float]) -> str:
    """First and third quartile; the extremes only show what else the machine did."""
    low, _, high = (
        statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else [*seconds] * 3
    )
    return span_text(low, high, _MILLISECOND)


def scores(checkpoint: Path, task: str, contents: Contents) -> str:
    """The scores of the checkpoint's method in the result.json of its run, if that lies beside it."""
    method, data = contents.origin.get("method"), contents.origin.get("dataset")
    place = checkpoint.parent / "result.json"
    try:
        result = json.loads(place.read_text(encoding="utf-8"))
        metrics = (
            result["methods"][method]["metrics"]
            if (result["task"], result["dataset"]) == (task, data)
            else {}
        )
        rows = [
            [name, f"{float(value['mean']):.4g}", f"{float(value['std']):.2g}", str(len(value["values"]))]
            for name, value in metrics.items()
        ]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        rows = []
    if not rows:
        return "The checkpoint holds none, and no `result.json` of its run lies beside it."
    return "\n\n".join(
        [
            f"Of the run's `result.json`, method `{method}`; these weights are those of one of the trainings:",
            markdown_table(["score", "mean", "standard deviation", "trainings"], rows),
        ]
    )
