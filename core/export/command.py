"""The command `export` of every task: `CHECKPOINT OUT.{onnx,pt2,safetensors}`."""

from __future__ import annotations

import argparse
import gc
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from core.command_line.exits import run_parsed
from core.command_line.parsers import examples_text
from core.errors import UserError
from core.export.card import card, costs, kept_licence, sizes, time_table
from core.export.formats import Exported, Runner, check_path, export
from core.export.subject import Exportable
from core.storage.files import refuse_overwriting, write_text
from core.tables import text_table
from core.timing import Timing, Work, time_in_turns, timings, wait

FORMS = ("pixels", "normalised")
_PATIENCE = 20.0  # seconds for one way of computing


@dataclass(frozen=True)
class Request:
    """What to export.

    Attributes:
        checkpoint: the file.
        model: the factory of the user's own network, whose code is run; None for the suite's networks.
        images: files to compare on; empty for photographs that are at hand.
        pixels: whether the graph takes pixel values; otherwise it takes what the network takes.
    """

    checkpoint: Path
    model: str | None
    images: tuple[Path, ...]
    pixels: bool


OpenExport = Callable[[Request], Exportable]


EXAMPLES = (
    "WORK/lwdna.safetensors net.onnx",
    "WORK/lwdna.safetensors net.onnx net.pt2 --inputs normalised --images mine/*.jpg",
)


def build_parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    """The command line of every task's export."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=examples_text(EXAMPLES, prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", type=Path, help="a trained network's *.safetensors"
    )
    parser.add_argument(
        "out", metavar="OUT", nargs="+", type=Path,
        help="files to write, by their endings .onnx, .pt2 and .safetensors; several have one name; the card is OUT.md",
    )  # fmt: skip
    parser.add_argument(
        "--inputs",
        choices=FORMS,
        default=FORMS[0],
        help="what the graph takes: pixel values, normalised inside it, or what the network takes (default: pixels)",
    )
    parser.add_argument(
        "--images", nargs="+", type=Path, default=[], metavar="FILE",
        help="images to compare on (default: photographs that scikit-image carries)",
    )  # fmt: skip
    parser.add_argument(
        "--model",
        "--backbone",
        metavar="FILE.py:FACTORY",
        help="the code of your own network or backbone, for a checkpoint of one; it is run",
    )
    parser.add_argument(
        "--turns", type=int, default=15, help="timed runs of each program, 0 for none (default: 15)"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def main(prog: str, description: str | None, open_export: OpenExport, argv: Sequence[str] | None) -> int:
    """The command line; exit status 0 done, 1 failed (a file differs from the module), 2 wrong usage or bad input."""
    return run_parsed(
        build_parser(prog, description), lambda options: run(options, open_export), argv, "start it again"
    )


def run(options: argparse.Namespace, open_export: OpenExport) -> int:
    """Export, compare, time and report; returns the exit status."""
    outs: list[Path] = options.out
    if options.turns < 0:
        raise UserError(f"--turns is {options.turns}: use a positive number, or 0 for none")
    for out in outs:
        check_path(out)
    cards = {out.with_suffix(".md") for out in outs}
    if len(cards) > 1:
        raise UserError(
            f"'{outs[0]}' and '{outs[-1]}' differ in more than their endings: files of one export share a name "
            "and a card"
        )
    [place] = cards
    read = [("the checkpoint that is read", options.checkpoint)]
    read += [("an image that is read", path) for path in options.images]
    refuse_overwriting([*(("OUT", out) for out in outs), ("the card", place)], read)
    licence = kept_licence(place)
    subject = open_export(
        Request(options.checkpoint, options.model, tuple(options.images), options.inputs == FORMS[0])
    )
    print(f"{options.checkpoint}: {subject.title} ({subject.task})")
    for line in subject.left_out:
        print(f"note: {line}")
    files = []
    for out in outs:
        files.append(export(subject, out))
        print(f"written: {files[-1]}")
        if out.suffix != ".safetensors":
            print(f"  takes {sizes(files[-1])}")
    times = compare_times(subject, files, options.turns) if options.turns else {}
    machine = f"{platform.machine()}, threads: {torch.get_num_threads()}, torch {version('torch')}"
    where = f"{' x '.join(map(str, subject.size))}, {machine}"
    write_text(place, card(subject, options.checkpoint, files, times, where, licence))
    print(f"written: {place}")
    print(costs(subject, text_table))
    if times:
        print(f"one input of {where}:")
        print(time_table(times, text_table))
    return 0


def compare_times(subject: Exportable, files: Sequence[Exported], turns: int) -> dict[str, Timing]:
    """Time one input in turns through the regular network, this one, and every exported program."""
    one = subject.rows(1)

    def module(graph: nn.Module) -> Callable[[], Work[object]]:
        def work() -> object:
            with torch.inference_mode():
                return graph(*one.values())

        return lambda: work

    def program(run: Runner) -> Callable[[], Work[object]]:
        return lambda: lambda: run(one)

    ways: dict[str, Callable[[], Work[object]]] = {}
    if subject.regular is not None:
        ways["regular network, torch"] = module(subject.regular)
    ways["this network, torch"] = module(subject.graph)
    for file in files:
        if file.path.suffix != ".safetensors":
            ways[f"{file.path.name}, {file.checker}"] = program(file.run)
    gc.collect()  # once: the exporters leave much behind, and a run takes milliseconds
    cpu = torch.device("cpu")
    return timings(time_in_turns(ways, turns=turns, warmup=3, patience=_PATIENCE, before=lambda: wait(cpu)))
