"""The training loop: one for all tasks, for the baseline, the found network and the controls alike.

Epochs with a learning rate that is constant within each; automatic mixed precision, several processes,
gradient accumulation, a running average of the weights, distillation. A run that was stopped anywhere goes on
as if it had not been, bit for bit on one kind of CPU (on a GPU as far as its kernels are deterministic).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from core.checkpoint import save_weights
from core.devices import make_fabric
from core.distillation import DistillationConfig
from core.errors import UserError
from core.interruption import Interruption, watch_for_interruption
from core.optim import learning_rate_factor, set_learning_rate
from core.progress import TrainingDisplay
from core.recipe import OptimizerConfig, ScheduleConfig, TrainConfig
from core.run_files import EpochRecord, RunFiles, write_scalars
from core.run_state import Position, RunState, model_identity
from core.seeding import seed_everything
from core.training_step import Learner, LossFunction, count_images, set_up_learner, train_step

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = [
    "EpochRecord",
    "FitResult",
    "Loader",
    "OptimizerConfig",
    "ScheduleConfig",
    "TrainConfig",
    "TrainingDiverged",
    "fit",
    "make_fabric",
    "seed_everything",
]

_Step = tuple[int, dict[str, Tensor]]  # images, and means that still lie on the device
# On a GPU reading a loss waits for all kernels; that many steps share one wait.
_STEPS_PER_READ = 16


class Loader(Protocol):
    """Batches whose content depends on the loader's seed, the epoch and the batch's index alone."""

    def __len__(self) -> int:
        """Batches per epoch."""
        ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Any, Any]]:
        """Yield (inputs, targets) from batch `start` of epoch `epoch` on, both counted from 0."""
        ...

    def shard(self, rank: int, world: int) -> Loader:
        """Return a loader of as many batches, of each the part of process `rank`; no part may be empty."""
        ...


@dataclass(frozen=True)
class FitResult:
    """What a finished run gave.

    Args:
        history: one record per epoch.
        seconds: wall time of all epochs, interrupted parts included up to their last checkpoint.
        images_seen: training images over all epochs and processes.
        weights: the file of the final weights (the running average where one is kept).
    """

    history: tuple[EpochRecord, ...]
    seconds: float
    images_seen: int
    weights: Path

    @property
    def metrics(self) -> dict[str, float]:
        """The last epoch's evaluation; empty where nothing was evaluated."""
        return self.history[-1].eval_metrics


class TrainingDiverged(RuntimeError):
    """The loss became NaN or infinite. The message is one line: where, at which learning rate, what to do."""

    def __init__(self, loss: float, epoch: int, step: int, lr: float) -> None:
        self.loss, self.epoch, self.step, self.lr = loss, epoch, step, lr
        super().__init__(
            f"training diverged: loss {loss} at step {step} (epoch {epoch + 1}), learning rate {lr:.3g}; "
            "lower the learning rate, add warm-up epochs or set clip_grad_norm; the last good state is kept"
        )


@dataclass(frozen=True)
class _Run:
    """What the functions of one `fit` share."""

    learner: Learner
    loader: Loader
    state: RunState
    files: RunFiles
    display: TrainingDisplay
    interruption: Interruption
    after_step: Callable[[int, float], None] | None = None


def fit(
    model: nn.Module,
    loader: Loader,
    loss_fn: LossFunction,
    config: TrainConfig,
    *,
    work_dir: str | Path,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    teacher: nn.Module | None = None,
    distillation: DistillationConfig | None = None,
    fabric: Fabric | None = None,
    resume: bool = True,
    progress: bool = True,
    after_step: Callable[[int, float], None] | None = None,
) -> FitResult:
    """Train `model` in place for `config.epochs` epochs; afterwards it holds the final weights.

    Writes into `work_dir`: last.safetensors (the full state, at least at every epoch's end),
    model.safetensors (final weights), log.jsonl (one line per epoch) and tensorboard/. Ctrl-C and SIGTERM end
    the step under way, write the state and raise KeyboardInterrupt; a second one raises at once.

    Args:
        model: called with a batch's inputs: a tensor as it is, a tuple as arguments, a dict as keyword
            arguments; left in eval mode.
        loader: the training batches; with several processes each takes its `shard`.
        loss_fn: (outputs, targets) -> loss or (loss, metrics), each the mean over the batch's images.
        config: the recipe.
        work_dir: folder of the run's files; made if missing.
        evaluate: called on every process with the module whose weights count, in eval mode and without
            gradients; the first process' result is recorded.
        teacher: a network whose logits the model learns from besides the labels; run in eval mode.
        distillation: how labels and teacher are weighed; the reference's values by default.
        fabric: devices and processes, from `make_fabric`; by default one device, a GPU where there is one.
        resume: go on from last.safetensors where there is one; False starts anew, removing the old files.
        progress: show a bar on a terminal, a line per epoch elsewhere.
        after_step: called after every optimiser step with its number, counted from 1, and its learning rate; it may
            change the weights (a proximal step). What it raises ends the training where it is: the state on disk is
            then the last checkpoint, from which the same call gets to the same place.

    Raises:
        UserError: bad arguments, or last.safetensors belongs to another configuration or model.
        TrainingDiverged: the loss became NaN or infinite.
        KeyboardInterrupt: the run was asked to stop; the same call goes on where it stopped.
    """
    if distillation is not None and teacher is None:
        raise UserError(
            "distillation is configured but there is no teacher: pass one or leave distillation out"
        )
    if len(loader) == 0:
        raise UserError("the training loader yields no batch: is the data set smaller than one batch?")
    fabric = fabric or make_fabric("auto", config.precision)
    learner = set_up_learner(
        model, loss_fn, config, fabric, teacher=teacher, distillation=distillation or DistillationConfig()
    )
    identity = _identity(learner, loader)
    several = fabric.world_size > 1
    control = torch.distributed.new_group(backend="gloo") if several else None
    files = RunFiles(Path(work_dir))
    with (
        watch_for_interruption() as interruption,
        TrainingDisplay(progress and fabric.is_global_zero, config.epochs, len(loader)) as display,
        ExitStack() as stack,
    ):
        run = _Run(
            learner=learner,
            loader=loader.shard(fabric.global_rank, fabric.world_size) if several else loader,
            state=RunState(
                fabric, model, learner.optimizer.optimizer, learner.ema, Position(), identity, control
            ),
            files=files,
            display=display,
            interruption=interruption,
            after_step=after_step,
        )
        _start_or_resume(run, resume)
        position = run.state.position
        writer: SummaryWriter | None = None
        if fabric.is_global_zero and position.epoch < config.epochs:
            writer = files.open_tensorboard(position.epoch)
            stack.callback(writer.close)
        while position.epoch < config.epochs:
            lr = _train_epoch(run)
            _end_epoch(run, lr, evaluate, writer)
        _keep_final_weights(run)
    seconds = sum(record.seconds for record in position.history)
    images = sum(record.images for record in position.history)
    return FitResult(tuple(position.history), seconds, images, files.weights)


def _start_or_resume(run: _Run, resume: bool) -> None:
    fabric = run.learner.fabric
    if resume and run.files.state.exists():
        run.state.restore(run.files.state)
    else:
        seed_everything(run.learner.config.seed + fabric.global_rank)
        fabric.barrier()  # else a process might look for the state after the first one has removed it
        if fabric.is_global_zero:
            run.files.clear()
    if fabric.is_global_zero:
        run.files.remove_partial_writes()
    fabric.barrier()


def _train_epoch(run: _Run) -> float:
    """Train what is left of the epoch at which the run stands; return the learning rate."""
    position, config, fabric = run.state.position, run.learner.config, run.learner.fabric
    factor = learning_rate_factor(config.schedule, config.optimizer.lr, config.epochs, position.epoch)
    lr = set_learning_rate(run.learner.optimizer, config.optimizer, factor)
    run.learner.wrapped.train()
    run.display.start_epoch()
    batches = iter(run.loader.epoch(position.epoch, start=position.batch))
    unread: list[_Step] = []
    every = config.checkpoint_every_steps
    with run.interruption.deferred():
        started = time.perf_counter()
        while group := list(islice(batches, config.accumulate)):
            images, stop = _agree(run, sum(count_images(inputs) for inputs, _ in group))
            unread.append((images, train_step(run.learner, group, images)))
            position.batch, position.step = position.batch + len(group), position.step + 1
            if run.after_step is not None:
                run.after_step(position.step, lr)
            save = stop or (every is not None and position.step % every == 0)
            if save or fabric.device.type == "cpu" or len(unread) == _STEPS_PER_READ:
                _read_losses(run, unread, lr)
                now = time.perf_counter()
                position.seconds, started = position.seconds + now - started, now
            if save:
                run.state.save(run.files.state)
            if stop:
                raise KeyboardInterrupt
        _read_losses(run, unread, lr)
        position.seconds += time.perf_counter() - started
    if _agree(run, 0)[1]:
        run.state.save(run.files.state)
        raise KeyboardInterrupt
    if position.batch != len(run.loader):
        raise RuntimeError(
            f"the loader yielded {position.batch} batches, but its length is {len(run.loader)}"
        )
    return lr


def _read_losses(run: _Run, unread: list[_Step], lr: float) -> None:
    """Add the steps whose losses still lie on the device to the epoch's sums; refuse what is not finite."""
    if not unread:
        return
    position, names = run.state.position, list(unread[0][1])
    stacked = torch.stack([torch.stack([means[name] for name in names]) for _, means in unread])
    rows = cast(Tensor, run.learner.fabric.all_reduce(stacked, reduce_op="sum")).tolist()
    for offset, ((images, _), row) in enumerate(zip(unread, rows), start=1):
        means = dict(zip(names, row))
        if not math.isfinite(means["loss"]):
            raise TrainingDiverged(means["loss"], position.epoch, position.step - len(unread) + offset, lr)
        for name, mean in means.items():
            position.sums[name] = position.sums.get(name, 0.0) + mean * images
        position.images += images
    new_images = sum(images for images, _ in unread)
    run.display.advance(position.epoch, position.batch, new_images, rows[-1][names.index("loss")])
    unread.clear()


def _end_epoch(
    run: _Run,
    lr: float,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None,
    writer: SummaryWriter | None,
) -> None:
    position, config = run.state.position, run.learner.config
    last = position.epoch + 1 == config.epochs
    metrics: dict[str, float] = {}
    rate = position.images / max(position.seconds, 1e-9)
    started = time.perf_counter()
    if evaluate is not None and (last or (position.epoch + 1) % config.eval_every == 0):
        run.state.save(run.files.state)  # an evaluation that fails or is stopped costs no training
        metrics = _evaluate(run, evaluate)
    means = {name: total / position.images for name, total in position.sums.items()}
    record = EpochRecord(
        epoch=position.epoch + 1,
        lr=lr,
        train_loss=means.pop("loss"),
        train_metrics=means,
        eval_metrics=metrics,
        seconds=position.seconds + time.perf_counter() - started,
        images=position.images,
    )
    position.next_epoch(record)
    run.display.end_epoch(record, rate)
    if writer is not None:
        run.files.write_log(position.history)
        write_scalars(writer, record)
    run.state.save(run.files.state)


def _evaluate(run: _Run, evaluate: Callable[[nn.Module], Mapping[str, float]]) -> dict[str, float]:
    module = run.learner.evaluated
    module.eval()
    with torch.no_grad():
        metrics = {name: float(value) for name, value in evaluate(module).items()}
    return run.learner.fabric.broadcast(metrics)


def _keep_final_weights(run: _Run) -> None:
    model, fabric = run.learner.model, run.learner.fabric
    if run.learner.evaluated is not model:
        model.load_state_dict(run.learner.evaluated.state_dict())
    if fabric.is_global_zero and not run.files.weights.exists():
        save_weights(model, run.files.weights)
    model.eval()
    fabric.barrier()


def _agree(run: _Run, images: int) -> tuple[int, bool]:
    """The step's images over all processes, and whether any process was asked to stop."""
    stop = run.interruption.requested is not None
    if run.state.control is None:
        return images, stop
    both = torch.tensor([images, int(stop)])
    torch.distributed.all_reduce(both, group=run.state.control)
    return int(both[0]), bool(both[1])


def _identity(learner: Learner, loader: Loader) -> dict[str, Any]:
    """What must be equal for a state to be resumed."""
    recipe = dataclasses.asdict(learner.config)
    del recipe["checkpoint_every_steps"]  # the one setting that changes nothing in the result
    return {
        "recipe": recipe,
        "distillation": dataclasses.asdict(learner.distillation) if learner.teacher is not None else None,
        "batches per epoch": len(loader),
        "processes": learner.fabric.world_size,
        "model": model_identity(learner.model),
    }
