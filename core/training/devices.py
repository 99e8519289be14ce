"""Devices, precision and processes: one way to make the Fabric object that training runs on."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy

from core.errors import MissingData, NonFiniteOutput, UserError

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
_SEARCH = timedelta(days=1)  # how long the others wait for a search for widths in the first process
T = TypeVar("T")
R = TypeVar("R")


def make_fabric(
    device: str = "auto", precision: Precision = "32-true", devices: int = 1, num_nodes: int = 1
) -> Fabric:
    """Make a Fabric; with several processes also start them, or join those that torchrun or SLURM started.

    Args:
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1" or "mps".
        precision: "32-true", "bf16-mixed" or "16-mixed" (float16 with gradient scaling).
        devices: processes, and so GPUs, per node.
        num_nodes: machines.

    Raises:
        UserError: the device is not there, or the launcher started another number of processes.
    """
    accelerator, index = _parse(device, devices)
    available = torch.cuda.device_count()
    if precision == "16-mixed" and (accelerator == "cpu" or (accelerator == "auto" and not available)):
        raise UserError("precision 16-mixed needs a GPU; use bf16-mixed or 32-true on the CPU")
    world = devices * num_nodes
    launched = int(os.environ.get("WORLD_SIZE", world))
    if launched != world:
        raise UserError(
            f"the launcher started {launched} processes, but devices={devices} times num_nodes={num_nodes} "
            f"is {world}; make them equal"
        )
    fabric = Fabric(
        accelerator=accelerator,
        devices=[int(index)] if index else devices,
        num_nodes=num_nodes,
        precision=precision,
        # A batch may leave parameters unused, in some processes or all: with this option they still agree. If the first
        # batch uses all, torch advises to turn it off, without knowing the next ones.
        strategy=DDPStrategy(find_unused_parameters=True, timeout=_SEARCH) if world > 1 else "auto",
    )
    if world > 1:
        fabric.launch()
        # The groups' threads have to end before the interpreter does, or C++ may abort a process that is done.
        atexit.register(_leave_processes)
    return fabric


def alone(fabric: Fabric) -> Fabric:
    """A fabric of the same device and precision but one process, for work that one launched process does for all."""
    if fabric.world_size == 1:
        return fabric
    device = fabric.device
    return Fabric(
        accelerator=device.type,
        devices=1 if device.index is None else [device.index],
        precision=fabric.strategy.precision.precision,
    )


def pick_device(device: str = "auto") -> torch.device:
    """The device of a command that does not train.

    Args:
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1" or "mps".

    Raises:
        UserError: the device is not there.
    """
    accelerator, index = _parse(device, 1)
    if accelerator == "auto":
        backends = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        accelerator = next((name for name, there in backends.items() if there), "cpu")
    return torch.device(accelerator, int(index or 0)) if accelerator == "cuda" else torch.device(accelerator)


def _parse(device: str, devices: int) -> tuple[str, str]:
    """What stands before and after the colon of a device, which has to be there.

    Raises:
        UserError: the device is not there.
    """
    accelerator, _, index = device.partition(":")
    if accelerator not in ("auto", "cpu", "cuda", "mps") or (
        index and (accelerator != "cuda" or devices > 1)
    ):
        raise UserError(f"device must be auto, cpu, cuda, cuda:INDEX (with devices=1) or mps, got '{device}'")
    if index and not index.isdigit():
        raise UserError(f"device '{device}': what follows the colon must be the GPU's number")
    available = torch.cuda.device_count()
    needed = int(index) + 1 if index else devices
    if accelerator == "cuda" and available < needed:
        raise UserError(
            f"device '{device}' with devices={devices}: this machine offers {available} CUDA GPUs"
        )
    if accelerator == "mps" and not torch.backends.mps.is_available():
        raise UserError("device 'mps' is not available on this machine; use cpu or auto")
    return accelerator, index


def gathered(value: Any) -> list[Any]:
    """The `value` of every process, by rank; every process has to call it. [value] where there is only one."""
    if not _several():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def in_all(work: Callable[[], T]) -> list[T]:
    """What `work` returns in every process, by rank; every process has to call it.

    Raises:
        UserError, MissingData, NonFiniteOutput: raised by `work` in a process; all processes raise the first one.
    """
    value: T | None = None
    failed: UserError | MissingData | NonFiniteOutput | None = None
    try:
        value = work()
    except (UserError, MissingData, NonFiniteOutput) as error:
        if not _several():
            raise
        failed = error
    told = gathered((value, failed))
    first = next((problem for _, problem in told if problem is not None), None)
    if first is not None:
        raise first
    return [found for found, _ in told]


def shared_out(items: Sequence[T], judge: Callable[[T], R]) -> list[R]:
    """`judge` of every item, in order; the processes share the items, and every process has to call it.

    Raises:
        UserError, MissingData, NonFiniteOutput: see `in_all`.
    """
    rank, world = place_among_processes()
    parts = in_all(lambda: [judge(item) for item in items[rank::world]])
    return [parts[number % world][number // world] for number in range(len(items))]


def place_among_processes() -> tuple[int, int]:
    """(rank, processes) of this process; (0, 1) where it is alone."""
    if not _several():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def is_first_process() -> bool:
    """Whether this is the process that prints and writes for all."""
    return not _several() or torch.distributed.get_rank() == 0


def _leave_processes() -> None:
    if _several():
        torch.distributed.destroy_process_group()


def _several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
