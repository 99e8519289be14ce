"""What the arms of a registered comparison cost: counted, timed in turns, and gains said in FLOPs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean, median
from typing import Literal

import torch
from torch import nn

from benchmarks.bench import Bench
from core.experiments.series import Record, Series
from core.experiments.statistics import paired_p
from core.experiments.task import Metric, Task
from core.experiments.trainings import network
from core.graph.complexity import count
from core.methods.registry import BASELINE
from core.modules import call, map_tensors
from core.surgery.architecture import Architecture, ArchitectureError, describe_inputs
from core.tables import markdown_table
from core.timing import Timing, time_in_turns, timings, wait
from core.training.optim import build_optimizer

TURNS = 7
UNIFORM = "uniform"


def architecture_of(record: Record, task: Task) -> Architecture | None:
    """The widths that a record's network has; None for the baseline's.

    Raises:
        ArchitectureError: an imported record holds widths alone, and its network needs more to be built.
    """
    if record["shrink"] is None:
        return None
    if record["architecture"] is not None:
        return Architecture.from_json(record["architecture"], f"record '{record['key']}'")
    if "named_widths" not in record:
        raise ArchitectureError(f"record '{record['key']}' does not say to which groups its widths belong")
    inputs = task.searched().example_inputs
    removed = tuple(record.get("removed", ()))
    return Architecture(
        task.model_name, dict(record["named_widths"]), describe_inputs(inputs), removed=removed
    )


def built(record: Record, task: Task) -> nn.Module:
    """The network of a record, freshly initialised.

    Raises:
        ArchitectureError: see `architecture_of`; or what is built costs something else than the record says: widths
            alone do not say how a grouped convolution was widened.
    """
    model = network(task, architecture_of(record, task), 0)
    known = record["cost"]["flops"]["macs"]
    if task.part is None and (macs := count(model, task.example_inputs)) != known:
        raise ArchitectureError(
            f"record '{record['key']}' is of {known:,} MACs and its widths alone build a network of {macs:,}"
        )
    return model


def time_arms(bench: Bench, arms: Mapping[str, Record], turns: int = TURNS) -> dict[str, dict[str, Timing]]:
    """{"inference", "training step"} -> arm -> times of one training batch, all arms in turns.

    In the layout and precision of the recipe, by its loss and optimiser, on the device of the command, not compiled.

    Args:
        bench: task and recipe.
        arms: name -> a record of it.
        turns: counted runs.

    Raises:
        ArchitectureError: see `built`.
    """
    task, train = bench.engine.task, bench.config.train
    device = bench.engine.fabric.device
    batch = next(iter(task.train_loader(train.batch_size, 0).epoch(0)))
    inputs, targets = map_tensors(batch, lambda tensor: tensor.to(device))
    layout = torch.channels_last if train.channels_last else torch.contiguous_format
    half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(train.precision)
    networks: dict[str, nn.Module] = {
        name: built(record, task).to(device, memory_format=layout)  # type: ignore[call-overload]
        for name, record in arms.items()
    }
    optimizers = {name: build_optimizer(model, train.optimizer) for name, model in networks.items()}

    def mixed() -> torch.autocast:
        return torch.autocast(device.type, half, enabled=half is not None)

    def inference(name: str) -> Callable[[], None]:
        model = networks[name].eval()

        def work() -> None:
            with torch.inference_mode(), mixed():
                call(model, inputs)
            wait(device)

        return work

    def step(name: str) -> Callable[[], None]:
        model, optimizer = networks[name].train(), optimizers[name]

        def work() -> None:
            with mixed():
                loss = task.loss_fn(call(model, inputs), targets)
            (loss[0] if isinstance(loss, tuple) else loss).backward()
            optimizer.step()
            optimizer.zero_grad()
            wait(device)

        return work

    found = {}
    for what, prepare in (("inference", inference), ("training step", step)):
        ways = {name: partial(prepare, name) for name in networks}
        found[what] = timings(time_in_turns(ways, turns=turns, warmup=2))
    return found


def cost_table(bench: Bench, series: Mapping[str, Series], turns: int = TURNS) -> str:
    """MACs, FLOPs, parameters and times of all arms over the baseline's, in Markdown, with a sentence above."""
    arms = {name: one.records[min(one.records)] for name, one in series.items()}
    if BASELINE not in arms:
        return ""
    base, part = arms[BASELINE]["cost"], bench.engine.task.part
    # Of one thread: what else the machine does hardly changes it. On a GPU, or of several threads, it says nothing.
    alone = bench.engine.fabric.device.type == "cpu" and torch.get_num_threads() == 1
    clock: Literal["wall", "cpu"] = "cpu" if alone else "wall"
    try:
        times = time_arms(bench, arms, turns)
        told = (
            f"Times: {'processor' if alone else 'elapsed'} time of one batch of {bench.config.train.batch_size} "
            f"through the {'whole ' if part else ''}networks of the first seed, not compiled; median (least–most) of "
            f"{turns} turns."
        )
    except ArchitectureError as error:
        times, told = {}, f"Not timed: {error}."
    rows = []
    for name, record in arms.items():
        cost = record["cost"]
        counts = [
            cost["flops"]["macs"] / base["flops"]["macs"], cost["flops"]["paper"] / base["flops"]["paper"],
            cost["params"] / base["params"],
        ]  # fmt: skip
        rows.append([name, *(f"{100 * share:.1f}" for share in counts),
                     *(_ratio_text(own[name].over(own[BASELINE], clock)) for own in times.values())])  # fmt: skip
    counted = f"of the regular network's{f' (counts: {part.name})' if part else ''}"
    header = [counted, "MACs %", "FLOPs %", "parameters %", *(f"{what} %" for what in times)]
    return f"{told}\n\n{markdown_table(header, rows)}"


def _ratio_text(ratios: Sequence[float]) -> str:
    shares = [100 * ratio for ratio in ratios]
    return f"{median(shares):.0f} ({min(shares):.0f}–{max(shares):.0f})"


def flops_equivalent(uniform: float, regular: float, own: float, share: float) -> float:
    """The share of the regular network's FLOPs at which uniform widths would reach a value.

    The metric is taken as linear in the logarithm of the FLOPs, through uniform widths and the regular network.

    Args:
        uniform: the metric of uniform widths.
        regular: of the regular network, another value.
        own: the value that is to be reached.
        share: FLOPs of the uniform widths over the regular network's, not 1.
    """
    return float(share ** (1 - (own - uniform) / (regular - uniform)))


def equivalents_text(series: Mapping[str, Series], metric: Metric) -> str:
    """Every method's result in FLOPs of uniform widths, where uniform widths and the regular network differ."""
    uniform, regular = series.get(UNIFORM), series.get(BASELINE)
    others = [name for name in series if name not in (UNIFORM, BASELINE)]
    if (
        uniform is None
        or regular is None
        or not others
        or not all(one.has(metric) for one in series.values())
    ):
        return ""
    room = regular.against(uniform, metric)
    ahead = bool(room) and (fmean(room) > 0) == metric.higher_is_better
    if not (ahead and paired_p(room) < 0.05):
        return (
            f"Gains in FLOPs: not to be said, since {len(room)} pairs do not tell the regular network from uniform "
            f"widths with fewer FLOPs."
        )
    share = uniform.ratio("flops")
    parts = []
    for name in others:
        seeds = sorted(set(series[name].records) & set(uniform.records) & set(regular.records))
        values = [fmean(one.values(metric, seeds)) for one in (uniform, regular, series[name])]
        equivalent = flops_equivalent(values[0], values[1], values[2], share)
        parts.append(f"`{name}` does as well as uniform widths would at {100 * equivalent:.0f} %")
    return (
        f"Gains in FLOPs: {', '.join(parts)} of the regular network's, if {metric.label} is linear in the logarithm of "
        f"the FLOPs from uniform widths at {100 * share:.0f} % to the regular network, and on."
    )
