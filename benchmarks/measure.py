"""The description of the machine, and results as JSON and Markdown: the contract of `benchmarks/README.md`."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.command_line.exits import run_command
from core.errors import UserError
from core.storage.files import write_json, write_text
from core.storage.limits import physical_memory

NOTHING_KEPT = "nothing was written: the same command measures anew"  # printed by an interrupted benchmark


def machine(*packages: str) -> dict[str, Any]:
    """What a result depends on here: processor, cores, memory, load, device, versions, threads, date.

    Args:
        packages: distributions whose versions matter besides torch's and NumPy's ("torch-pruning").
    """
    versions = {}
    for name in ("torch", "numpy", *packages):
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    memory = physical_memory()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1) if memory else None,
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch_threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine_text(facts: Mapping[str, Any]) -> str:
    """The result of `machine` as one sentence for a report."""
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    threads = f"{facts['torch_threads']} torch thread{'s' * (facts['torch_threads'] != 1)}"
    parts = [facts["processor"], f"{facts['cores']} cores", facts["gpu"] or "no GPU"]
    parts += [f"{facts['memory_gib']} GiB"] if facts["memory_gib"] is not None else []
    parts += [threads]
    parts += [f"load average {facts['load_average']}"] if facts["load_average"] is not None else []
    return f"{facts['date']}: {', '.join(parts)}; {facts['system']}, Python {facts['python']}, {versions}."


def command_text(program: str, argv: Sequence[str] | None) -> str:
    """'python -m benchmarks.dimp --turns 3': the command that a page names.

    Args:
        program: "benchmarks.dimp", or "benchmarks.micro pricing".
        argv: the arguments; None for the process's own.
    """
    return shlex.join(["python", "-m", *program.split(), *(sys.argv[1:] if argv is None else argv)])


def write_results(stem: str | Path, value: Mapping[str, Any], markdown: str) -> list[Path]:
    """Write `stem`.json and `stem`.md, atomically; returns the two paths."""
    stem = Path(stem)
    paths = [stem.with_name(stem.name + suffix) for suffix in (".json", ".md")]
    write_json(paths[0], value)
    write_text(paths[1], markdown.rstrip("\n") + "\n")
    return paths


@dataclass(frozen=True)
class Page:
    """The findings of a benchmark.

    Attributes:
        title: of the page.
        text: Markdown below the title and the machine.
        value: the figures, as JSON.
        failed: one of our own runs failed; the exit status says so too.
    """

    title: str
    text: str
    value: Mapping[str, Any]
    failed: bool = False


def benchmark(
    name: str,
    description: str | None,
    measure: Callable[[Namespace], Page],
    *,
    numbers: Mapping[str, tuple[int | tuple[int, ...], str]],
    options: Mapping[str, Mapping[str, Any]] | None = None,
    data: str = "",
    packages: Sequence[str] = (),
    interrupted: str = NOTHING_KEPT,
) -> Callable[[Sequence[str] | None], int]:
    """The command of one benchmark: arguments, machine, page; its exit statuses are `core.command_line.exits`'.

    Args:
        name: of its module and, if that holds several, of the benchmark ("micro pricing"); the last word is the name of
            its page under docs/results.
        description: for --help.
        measure: does the work, with the arguments.
        numbers: option -> (default, meaning), integers of at least 1; several if the default is a tuple. Torch's
            threads are among them, 1 by default.
        options: all others: "--name" -> keyword arguments of `ArgumentParser.add_argument`.
        data: what it reads under the data root; "" if it reads nothing.
        packages: see `machine`.
        interrupted: the message after an interruption.
    """
    counted = {"threads": (1, "of torch"), **numbers}

    def run(arguments: Namespace, argv: Sequence[str] | None) -> int:
        for option in counted:
            value = getattr(arguments, option.replace("-", "_"))
            if np.min(value) < 1:
                raise UserError(f"--{option} {np.min(value)}: expected 1 or more")
        torch.set_num_threads(int(np.max(arguments.threads)))
        facts = machine(*packages)
        page = measure(arguments)
        print(page.text)
        if arguments.output is not None:
            command = command_text(f"benchmarks.{name}", argv)
            head = f"# {page.title}\n\nMade by `{command}`; how it is measured: `benchmarks/README.md`.\n"
            value = {**page.value, "machine": facts, "command": command}
            for path in write_results(arguments.output, value, f"{head}{machine_text(facts)}\n\n{page.text}"):
                print(f"written: {path}")
        return 1 if page.failed else 0

    def main(argv: Sequence[str] | None = None) -> int:
        parser = ArgumentParser(prog=f"python -m benchmarks.{name}", description=description,
                                formatter_class=RawDescriptionHelpFormatter)  # fmt: skip
        for option, (default, meaning) in counted.items():
            several = "+" if isinstance(default, tuple) else None
            parser.add_argument(
                f"--{option}", type=int, nargs=several, default=default, help=f"{meaning} (%(default)s)"
            )
        for option, told in (options or {}).items():
            parser.add_argument(option, **told)
        if data:
            where = f"folder of {data} (default: $LWDNA_DATA, else data/)"
            parser.add_argument("--data-root", help=where)
        page = f"docs/results/{name.rsplit(maxsplit=1)[-1]}"
        parser.add_argument("--output", type=Path, help=f"write OUTPUT.json and OUTPUT.md ({page})")
        parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
        arguments = parser.parse_args(argv)
        return run_command(lambda: run(arguments, argv), arguments.debug, interrupted)

    return main
