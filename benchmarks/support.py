"""Finds out which networks of timm and torchvision are supported, and how far.

    python -m benchmarks.support --output docs/results/support

Tries the networks of support_networks.txt one by one, each in a process of its own with a limit on time and memory
(`benchmarks.support_trial` lists the stages). A refusal stays in the table and in the denominator.

    full      95 % of the multiply-accumulates depend on a free channel group, masked is proved to equal cut in both
              modes, and the network found under the budget takes a training step
    usable    widths under a budget of .8 of the FLOPs are found, by the defaults of `core.shrink`, and that network
              takes a training step
    none      neither

Rows are written one by one; the same command goes on and tries only missing rows, and those measured with other code,
versions or options.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.measure import Page, benchmark, machine
from benchmarks.support_networks import Network, networks
from benchmarks.support_report import draw, report, result_of
from benchmarks.support_trial import UNFINISHED, try_there
from core.errors import MissingData, check_known
from core.storage.files import write_json

ROOT = Path(__file__).resolve().parent.parent
# A server that has imported torch once forks the processes; without a server, each imports torch anew.
_SERVED = "forkserver" in multiprocessing.get_all_start_methods()
PROCESSES: Any = multiprocessing.get_context("forkserver" if _SERVED else "spawn")
START_UP = 120  # seconds allowed for a process' imports
PACKAGES = ("timm", "torchvision", "torch-pruning", "onnx")


def attempt(network: Network, arguments: Namespace) -> dict[str, Any]:
    """The outcome of one network as JSON: the findings of its own process before that ended, or was ended.

    Raises:
        RuntimeError: the process ended before it came to the network.
    """
    start = time.perf_counter()
    receiver, sender = PROCESSES.Pipe(duplex=False)
    limits = (arguments.memory, arguments.threads)
    process = PROCESSES.Process(target=try_there, args=(network, sender, arguments.onnx, *limits))
    process.start()
    sender.close()
    outcome: dict[str, Any] | None = None
    end = ""
    try:
        deadline = start + START_UP
        while receiver.poll(max(0.0, deadline - time.perf_counter())):
            deadline = time.perf_counter() + arguments.seconds if outcome is None else deadline
            outcome = receiver.recv()
        end = f"not done after {START_UP if outcome is None else arguments.seconds} s"
    except EOFError:  # it has ended
        pass
    finally:
        if end:
            process.kill()
        process.join()
    if outcome is None:
        raise RuntimeError(f"{network.key}: {end or f'the process ended with status {process.exitcode}'}")
    for stage, text in outcome["problems"].items():
        if text == UNFINISHED:
            outcome["problems"][stage] = end or f"the process ended with status {process.exitcode}"
    return {**outcome, "elapsed": round(time.perf_counter() - start, 1)}


def fingerprint(versions: Mapping[str, str], onnx: bool) -> str:
    """A digest of what determines an outcome beside the network: `core`, this benchmark's code, libraries."""
    digest = hashlib.sha256(json.dumps([versions, onnx]).encode())
    own = [ROOT / "benchmarks" / name for name in ("support_networks.py", "support_trial.py")]
    for path in [*sorted(ROOT.glob("core/**/*.py")), *own]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def asked_for(names: Sequence[str], aside: bool) -> list[Network]:
    """The listed networks that a command line names; without names those of the table, and with `aside` all.

    Raises:
        UserError: a name that is not in the list.
    """
    known = networks()
    if names:
        check_known(
            "unknown network", names, [part for one in known for part in (one.name, one.key, one.family)]
        )
        return [network for network in known if {network.name, network.key, network.family} & set(names)]
    return [network for network in known if aside or not network.aside]


def try_all(arguments: Namespace) -> Page:
    """Try the requested networks that have not been tried yet."""
    for package in ("timm", "torchvision", "torch_pruning", *(["onnx", "onnxscript"] * arguments.onnx)):
        if find_spec(package) is None:
            raise MissingData(f"{package} is not installed: pip install -e '.[timm,peers,export]'")
    wanted = asked_for(arguments.networks, arguments.aside)
    code = fingerprint(machine(*PACKAGES)["versions"], arguments.onnx)
    store = arguments.output.with_name(f"{arguments.output.name}.json") if arguments.output else None
    rows: dict[str, dict[str, Any]] = {}
    if store is not None and store.is_file():
        rows = {row["key"]: row for row in json.loads(store.read_text(encoding="utf-8"))["networks"]}
    line = {network.key: asdict(network) for network in networks()}
    rows = {key: row for key, row in rows.items() if row["network"] == line.get(key)}
    left = [
        network for network in wanted if arguments.networks or rows.get(network.key, {}).get("code") != code
    ]
    if _SERVED:
        PROCESSES.set_forkserver_preload(["benchmarks.support_trial"])
    start = time.perf_counter()
    with ThreadPoolExecutor(arguments.jobs) as executor:
        waiting = {executor.submit(attempt, network, arguments): network for network in left}
        try:
            for number, future in enumerate(as_completed(waiting), 1):
                network, outcome = waiting[future], future.result()
                rows[network.key] = {
                    "key": network.key,
                    "network": line[network.key],
                    "code": code,
                    **outcome,
                }
                if store is not None:
                    write_json(store, {"networks": list(rows.values())})
                minutes = (time.perf_counter() - start) / number * (len(left) - number) / 60
                print(f"{number}/{len(left)} {network.key}: {result_of(outcome)}, {outcome['elapsed']} s; "
                      f"about {minutes:.0f} min left", file=sys.stderr, flush=True)  # fmt: skip
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
    shown = [{**rows[key], "result": result_of(rows[key])} for key in line if key in rows]
    text = report(shown, networks(), code)
    if arguments.output:
        picture = arguments.output.with_name(f"{arguments.output.name}.png")
        draw(picture, shown)
        text = f"![FLOPs under free groups]({picture.name})\n\n{text}"
    return Page("Which networks are supported", text, {"networks": shown})


main = benchmark(
    "support",
    __doc__,
    try_all,
    numbers={
        "jobs": (1, "networks at a time"),
        "seconds": (120, "after which a network's process is ended"),
        "memory": (12, "GiB of its own data that a network's process may have (Linux)"),
    },
    options={
        "--networks": {
            "nargs": "+",
            "default": [],
            "metavar": "NAME",
            "help": "names, families or source/name: these alone, again",
        },
        "--aside": {"action": "store_true", "help": "also those that are kept aside to judge by"},
        "--onnx": {"action": "store_true", "help": "also export to ONNX"},
    },
    packages=PACKAGES,
    interrupted="with --output the networks that were tried are kept, and the same command goes on",
)

if __name__ == "__main__":
    sys.exit(main(None))
