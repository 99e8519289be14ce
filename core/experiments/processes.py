"""Processes that torchrun or SLURM has launched, and what they have to agree on."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from lightning_fabric import Fabric

from core.command_line.exits import FAILURES
from core.errors import UserError

T = TypeVar("T")


def launched_processes() -> tuple[int, int]:
    """(processes per machine, machines) that torchrun or SLURM started; (1, 1) without a launcher.

    srun's variables are completed for lightning-fabric, which reads only `--ntasks-per-node`, and takes a job called
    "bash" or "interactive" for one process.

    Raises:
        UserError: srun put more tasks on one machine than on another.
    """
    environment = os.environ
    if "WORLD_SIZE" in environment:
        world = int(environment["WORLD_SIZE"])
        local = int(environment.get("LOCAL_WORLD_SIZE", world))
        return local, world // local
    if "SLURM_NTASKS" in environment and "SLURM_PROCID" in environment:
        tasks = int(environment["SLURM_NTASKS"])
        nodes = int(environment.get("SLURM_STEP_NUM_NODES", environment.get("SLURM_NNODES", 1)))
        spread = environment.get("SLURM_STEP_TASKS_PER_NODE", environment.get("SLURM_TASKS_PER_NODE", ""))
        if tasks % nodes or "," in spread:  # "2(x3),1"
            raise UserError(
                f"srun spread {tasks} processes unevenly over {nodes} machines{f' ({spread})' if spread else ''}: add "
                f"--ntasks-per-node=N, the same number on each"
            )
        if tasks > 1:
            environment["SLURM_NTASKS_PER_NODE"] = str(tasks // nodes)
            environment["SLURM_NNODES"] = str(nodes)
            if environment.get("SLURM_JOB_NAME") in ("bash", "interactive"):
                environment["SLURM_JOB_NAME"] = "lwdna"
        return tasks // nodes, nodes
    return 1, 1


def from_first(fabric: Fabric, decide: Callable[[], T]) -> T:
    """What the first process decides, for all processes; its error is raised in all of them.

    Args:
        fabric: the processes.
        decide: called in the first process.

    Raises:
        UserError, RuntimeError: `decide` failed; the first process raises the original error.
    """
    value: Any = None
    failed: Exception | None = None
    if fabric.is_global_zero:
        try:
            value = decide()
        except FAILURES as error:
            failed = error
    told = None if failed is None else (isinstance(failed, UserError), str(failed))
    value, told = fabric.broadcast((value, told))
    if told is not None:
        usage, message = told
        raise failed or (UserError(message) if usage else RuntimeError(message))
    return cast(T, value)


def of_all(failure: T | None, control: torch.distributed.ProcessGroup) -> T | None:
    """The failure, if any, in work that launched processes did together: that of the first process that has one.

    Args:
        failure: this process' own.
        control: group of all processes, with a timeout for each other.

    Raises:
        RuntimeError: other processes are still at the work, waiting for this one: nothing can go on.
    """
    failures: list[T | None] = [None] * control.size()
    try:
        torch.distributed.all_gather_object(failures, failure, group=control)
    except RuntimeError as error:
        raise RuntimeError(f"the processes no longer work together: {failure or error}") from error
    return next((found for found in failures if found is not None), None)
