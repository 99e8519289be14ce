"""The training loop: one for all tasks, for the baseline, the found network and the controls alike.

It has a learning rate that is constant within each epoch, automatic mixed precision, several processes, gradient
accumulation, a running average of the weights, and distillation. A run that was stopped anywhere goes on as if it had
not been, bit for bit on one kind of CPU (on a GPU as far as its kernels are deterministic).

A run diverges when a loss, a norm of gradients, a tensor of its state or an output in evaluation is not finite. Then it
stops, and leaves on disk a state that a further step has shown to be good: the loss of that step is at most about twice
the run's first loss. If the last state is not good (the next loss was not finite, or a multiple of the first), the one
before it replaces it, and without one the run starts anew. The same call with a lower learning rate goes on from there.
"""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from core.errors import NonFiniteOutput, UserError
from core.interruption import SIGNALS, Interruption, interruption_by, watch_for_interruption
from core.storage.checkpoint import load_state, save_weights
from core.storage.files import remove_partial_writes
from core.training.devices import make_fabric
from core.training.distillation import DistillationConfig
from core.training.divergence import (
    Divergence,
    TrainingDiverged,
    added,
    read_divergences,
    settle_rate,
    write_divergences,
)
from core.training.optim import learning_rate_factor, set_learning_rate
from core.training.pace import Pace, PaceMeter
from core.training.progress import TrainingDisplay
from core.training.recipe import OptimizerConfig, ScheduleConfig, TrainConfig
from core.training.run_files import EpochRecord, RunFiles, training_notes, write_scalars
from core.training.run_state import AVERAGING, Position, RunState, infinite_buffers, model_identity
from core.training.seeding import seed_everything
from core.training.training_step import (
    Learner,
    LossFunction,
    Step,
    batch_norm_note,
    count_images,
    set_up_learner,
    settle_average,
    train_step,
)

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

# On a GPU, reading a loss waits for all kernels; this many steps share one wait.
_STEPS_PER_READ = 16
# Most batches on which statistics of averaged weights are measured: some thousand images are enough (Wu and
# Johnson, 2021, "Rethinking 'Batch' in BatchNorm", section 3).
_STATISTICS_BATCHES = 64
_BLOWN_UP = 100  # times the first step's loss, over a whole epoch
# Below this scale even the largest float16 is no normal number: if gradients overflow, the scale is not the cause.
_LEAST_SCALE = 2.0**-14


class Loader(Protocol):
    """Batches whose content depends only on the loader's seed, the epoch and the batch's index."""

    def __len__(self) -> int:
        """Batches per epoch."""
        ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Any, Any]]:
        """Yield (inputs, targets) from batch `start` of epoch `epoch` on, both counted from 0."""
        ...

    def shard(self, rank: int, world: int) -> Loader:
        """Return a loader of as many batches: of each the part for process `rank`; no part may be empty."""
        ...


@dataclass(frozen=True)
class FitResult:
    """The results of a finished run.

    Args:
        history: one record per epoch.
        seconds: wall time of all epochs; interrupted parts count up to their last checkpoint.
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


@dataclass
class _Last:
    """Whether the state on disk is good; None until a step from it has shown that."""

    good: bool | None = None


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
    header: Callable[[], Mapping[str, str]] = dict
    last: _Last = field(default_factory=_Last)


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
    header: Callable[[], Mapping[str, str]] = dict,
    pace: Callable[[Pace], None] | None = None,
) -> FitResult:
    """Train `model` in place for `config.epochs` epochs; afterwards it holds the final weights.

    Writes into `work_dir`: last.safetensors (the full state, at least at every epoch's end),
    model.safetensors (final weights), log.jsonl (one line per epoch) and tensorboard/. After Ctrl-C, SIGTERM or
    SIGUSR1 it finishes the present step, writes the state and raises KeyboardInterrupt (`core.interruption`); a second
    signal raises at once. A run that has diverged goes on from its last good state if `config` has a lower learning
    rate and differs in nothing else. From then on both recipes continue it, and divergences.json says what happened.

    Args:
        model: called with a batch's inputs: a tensor as it is, a tuple as arguments, a dict as keyword
            arguments; left in eval mode.
        loader: the training batches; with several processes each takes its `shard`.
        loss_fn: (outputs, targets) -> loss or (loss, metrics), each the mean over the batch's images.
        config: the recipe.
        work_dir: folder of the run's files; made if missing.
        evaluate: called on every process with the module whose weights count, in eval mode, without gradients and with
            the first process' buffers, so that the processes can share the samples
            (`core.training.devices.shared_out`); the first process' result is recorded. Where a running average is
            kept, the model is evaluated before the average.
        teacher: a network from whose logits the model learns besides the labels; run in eval mode.
        distillation: how labels and teacher are weighed; the reference's values by default.
        fabric: devices and processes, from `make_fabric`; by default one device, a GPU where there is one.
        resume: go on from last.safetensors where there is one; False starts anew, removing the old files.
        progress: show a bar on a terminal, a line per epoch elsewhere.
        after_step: called after every optimiser step with its number, counted from 1, and its learning rate; it may
            change the weights (a proximal step). If it raises, the training ends there. The state on disk is then the
            last checkpoint, and the same call goes on from it.
        header: called at the end; returns entries for the header of model.safetensors.
        pace: called with how long the training takes, after the first steps and after the first evaluation.

    Raises:
        UserError: bad arguments, weights that are not finite from the start, or a last.safetensors that belongs to
            another configuration or model.
        TrainingDiverged: a loss, the weights, the gradients or the outputs in evaluation are not finite; or an epoch's
            loss is a hundred times the first step's, or the last epoch's loss is too large for a good state.
        KeyboardInterrupt: the run was asked to stop (`core.interruption.Preempted` by the system); the same call goes
            on where it stopped.
    """
    if distillation is not None and teacher is None:
        raise UserError(
            "distillation is configured but there is no teacher: pass one or leave distillation out"
        )
    if len(loader) == 0:
        raise UserError("the training loader yields no batch: is the data set smaller than one batch?")
    fabric = fabric or make_fabric("auto", config.precision)
    files = RunFiles(Path(work_dir))
    recorded = read_divergences(files.folder) if resume else ()
    config, began_with, divergences = settle_rate(config, recorded)
    learner = set_up_learner(
        model, loss_fn, config, fabric, teacher=teacher, distillation=distillation or DistillationConfig()
    )
    identity = _identity(learner, began_with, loader)
    meter = PaceMeter(config.epochs, len(loader), config.eval_every, pace)
    several = fabric.world_size > 1
    control = torch.distributed.new_group(backend="gloo") if several else None
    with (
        watch_for_interruption() as interruption,
        TrainingDisplay(progress and fabric.is_global_zero, config.epochs, len(loader), meter) as display,
        ExitStack() as stack,
    ):
        run = _Run(
            learner=learner,
            loader=loader.shard(fabric.global_rank, fabric.world_size) if several else loader,
            state=RunState(
                fabric,
                model,
                learner.optimizer.optimizer,
                learner.ema,
                Position(),
                identity,
                control,
                infinite_buffers(model),
            ),
            files=files,
            display=display,
            interruption=interruption,
            after_step=after_step,
            header=header,
        )
        _start_or_resume(run, resume)
        if fabric.is_global_zero:
            display.note(batch_norm_note(model, fabric.world_size, config.batch_size))
        if fabric.is_global_zero and divergences != read_divergences(files.folder):
            write_divergences(files.folder, divergences)
        position = run.state.position
        writer: SummaryWriter | None = None
        if fabric.is_global_zero and position.epoch < config.epochs:
            writer = files.open_tensorboard(position.epoch)
            stack.callback(writer.close)
        while position.epoch < config.epochs:
            lr = _train_epoch(run)
            _end_epoch(run, lr, evaluate, writer)
        _keep_final_weights(run)
        for note in training_notes(position.history):
            display.say(note)
    seconds = sum(record.seconds for record in position.history)
    images = sum(record.images for record in position.history)
    return FitResult(tuple(position.history), seconds, images, files.weights)


def _start_or_resume(run: _Run, resume: bool) -> None:
    fabric = run.learner.fabric
    if resume and fabric.is_global_zero:
        run.files.recover()
    fabric.barrier()
    if resume and run.files.state.exists():
        run.state.restore(run.files.state)
        if run.state.position.epoch < run.learner.config.epochs and fabric.is_global_zero:
            run.files.set_weights_aside(run.state.position.epoch)
        if fabric.is_global_zero:  # the state counts where the log is lost or ahead of it
            run.display.note(run.files.restore_log(run.state.position.history))
    else:
        if resume and run.files.weights.exists():
            raise UserError(
                f"'{run.files.weights}' is of a finished training, but its state '{run.files.state}' is gone: restore "
                f"it, or remove the folder to train anew"
            )
        if problem := run.state.not_finite():
            raise UserError(f"the network cannot be trained: {problem}; it needs other weights to start from")
        seed_everything(run.learner.config.seed + fabric.global_rank)
        fabric.barrier()  # otherwise a process could look for the state after the first one has removed it
        if fabric.is_global_zero:
            run.files.clear()
    if fabric.is_global_zero:
        remove_partial_writes(run.files.folder)
    fabric.barrier()


def _train_epoch(run: _Run) -> float:
    """Train the rest of the epoch at which the run stands; return the learning rate."""
    position, config, fabric = run.state.position, run.learner.config, run.learner.fabric
    factor = learning_rate_factor(config, position.epoch)
    lr = set_learning_rate(run.learner.optimizer, config.optimizer, factor)
    run.learner.wrapped.train()
    run.display.start_epoch()
    batches = iter(run.loader.epoch(position.epoch, start=position.batch))
    unread: list[Step] = []
    every = config.checkpoint_every_steps
    with run.interruption.deferred():
        started = time.perf_counter()
        while group := list(islice(batches, config.accumulate)):
            images, stop = _agree(run, sum(count_images(inputs) for inputs, _ in group))
            step = train_step(run.learner, group, images)
            if step.unused and fabric.is_global_zero:
                run.display.note(_unused_text(step.unused))
            unread.append(step)
            position.batch, position.step = position.batch + len(group), position.step + 1
            if run.after_step is not None:
                run.after_step(position.step, lr)
            save = stop is not None or (every is not None and position.step % every == 0)
            if save or fabric.device.type == "cpu" or len(unread) == _STEPS_PER_READ:
                _read_losses(run, unread, lr)
                now = time.perf_counter()
                position.seconds, started = position.seconds + now - started, now
            if save:
                _save(run, lr)
            if stop is not None:
                raise interruption_by(stop)
        _read_losses(run, unread, lr)
        position.seconds += time.perf_counter() - started
    stop = _agree(run, 0)[1]
    if stop is not None:
        _save(run, lr)
        raise interruption_by(stop)
    if position.batch != len(run.loader):
        raise RuntimeError(
            f"the loader yielded {position.batch} batches, but its length is {len(run.loader)}"
        )
    return lr


def _unused_text(names: Sequence[str]) -> str:
    return (
        f"{len(names)} parameter{'s' * (len(names) != 1)}, such as '{names[0]}', got no gradient in the first step: "
        f"what the loss does not use stays as it is"
    )


def _read_losses(run: _Run, unread: list[Step], lr: float) -> None:
    """Add steps whose losses still lie on the device to the epoch's sums; refuse losses that are not finite."""
    if not unread:
        return
    position, names = run.state.position, list(unread[0].means)
    no_norm = torch.zeros((), device=run.learner.fabric.device)
    stacked = torch.stack(
        [
            torch.stack(
                [*(step.means[name] for name in names), no_norm if step.norm is None else step.norm.float()]
            )
            for step in unread
        ]
    )
    rows = cast(Tensor, run.learner.fabric.all_reduce(stacked, reduce_op="sum")).tolist()
    for offset, (step, (*values, norm)) in enumerate(zip(unread, rows), start=1):
        means, number = dict(zip(names, values)), position.step - len(unread) + offset
        if run.last.good is None:
            run.last.good = _is_good(means["loss"], _first_loss(position))
        if not math.isfinite(means["loss"]):
            raise _diverged(run, f"loss {means['loss']}", lr, number)
        if step.taken and not math.isfinite(norm):
            # Clipping by such a norm makes gradients zero or NaN.
            raise _diverged(run, f"norm of the gradients {norm}", lr, number)
        position.skipped += not step.taken
        if position.first_loss is None:
            position.first_loss = means["loss"]
        for name, mean in means.items():
            position.sums[name] = position.sums.get(name, 0.0) + mean * step.images
        position.images += step.images
    if not unread[-1].taken and (run.learner.gradient_scale or 1.0) < _LEAST_SCALE:
        raise _diverged(run, "gradients not finite at any scale", lr)
    new_images = sum(step.images for step in unread)
    run.display.advance(position.epoch, position.batch, new_images, rows[-1][names.index("loss")])
    unread.clear()


def _first_loss(position: Position) -> float | None:
    """The loss of the run's first step; None where it is not known."""
    return position.history[0].first_loss if position.history else position.first_loss


def _is_good(loss: float, first: float | None) -> bool:
    """Whether a state is good, by the loss of the next step: finite, and no multiple of the run's first loss."""
    return math.isfinite(loss) and (first is None or loss <= first + max(abs(first), 1.0))


def _require_bounded(run: _Run, lr: float, last: bool) -> None:
    """Refuse an epoch that blew up although all its numbers are finite: its network is no result."""
    position = run.state.position
    mean, first = position.sums["loss"] / position.images, _first_loss(position)
    if first is None:
        return
    if mean > first + _BLOWN_UP * max(abs(first), 1.0) or (last and not _is_good(mean, first)):
        raise _diverged(run, f"training loss {mean:.4g} over the epoch, {first:.4g} at the first step", lr)


def _save(run: _Run, lr: float) -> None:
    """Write the state, if it is finite."""
    _require_finite(run, lr)
    _write(run)


def _require_finite(run: _Run, lr: float) -> None:
    if problem := run.state.not_finite():
        raise _diverged(run, problem, lr)


def _write(run: _Run) -> None:
    """Write a finite state; a last state that is known to be good stays as the previous one."""
    if run.last.good and run.learner.fabric.is_global_zero:
        run.files.set_aside()
    run.state.save(run.files.state)
    run.last.good = None


def _diverged(run: _Run, what: str, lr: float, step: int | None = None) -> TrainingDiverged:
    """Leave only the last good state on disk and record what happened; every process must call this."""
    fabric, position = run.learner.fabric, run.state.position
    kept: Position | None = None
    if fabric.is_global_zero:
        run.files.fall_back(bool(run.last.good))
        if run.files.state.exists():
            stored = load_state(run.files.state)["position"]
            kept = Position(epoch=stored["epoch"], batch=stored["batch"], step=stored["step"])
    kept = fabric.broadcast(kept)
    divergence = Divergence(
        what=what,
        epoch=position.epoch + 1,
        step=position.step if step is None else step,
        lr=run.learner.config.optimizer.lr,
        kept_step=0 if kept is None else kept.step,
    )
    if fabric.is_global_zero:
        write_divergences(run.files.folder, added(read_divergences(run.files.folder), divergence))
    where = None
    if kept is not None:
        where = f"after step {kept.step} (epoch {kept.epoch + (kept.batch > 0)}), in '{run.files.state}'"
    return TrainingDiverged(divergence, lr, where, least=run.learner.config.schedule.min_lr)


def _end_epoch(
    run: _Run,
    lr: float,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None,
    writer: SummaryWriter | None,
) -> None:
    position, config = run.state.position, run.learner.config
    planned = config.planned(position.epoch)
    last = position.epoch + 1 == planned  # as it was planned then, even if more epochs were added later
    _require_bounded(run, lr, last)
    metrics: dict[str, float] = {}
    raw: dict[str, float] = {}
    rate = position.images / max(position.seconds, 1e-9)
    started = time.perf_counter()
    due = last or (position.epoch + 1) % config.eval_every == 0
    averaged = run.learner.ema is not None
    if due and (averaged or evaluate is not None):
        _save(run, lr)  # a failed or stopped evaluation costs no training
    if due and averaged:
        # Batches of an epoch that is not trained: equal after a resume, and no loader is read at two places.
        batches = islice(run.loader.epoch(planned + position.epoch), _STATISTICS_BATCHES)
        settle_average(run.learner, (inputs for inputs, _ in batches))
    if due and evaluate is not None:
        if averaged:
            raw = _evaluate(run, evaluate, run.learner.model, lr)
        metrics = _evaluate(run, evaluate, run.learner.evaluated, lr)
    _require_finite(run, lr)  # before the log says that the epoch is done
    means = {name: total / position.images for name, total in position.sums.items()}
    record = EpochRecord(
        epoch=position.epoch + 1,
        lr=lr,
        train_loss=means.pop("loss"),
        train_metrics=means,
        eval_metrics=metrics,
        seconds=position.seconds + time.perf_counter() - started,
        images=position.images,
        first_loss=position.first_loss,
        raw_metrics=raw,
        skipped_steps=position.skipped,
    )
    position.next_epoch(record)
    run.display.end_epoch(record, rate, time.perf_counter() - started)
    if writer is not None:
        run.files.write_log(position.history)
        write_scalars(writer, record)
    _write(run)


def _evaluate(
    run: _Run, evaluate: Callable[[nn.Module], Mapping[str, float]], module: nn.Module, lr: float
) -> dict[str, float]:
    module.eval()
    if run.learner.fabric.world_size > 1:  # each process has its own statistics; the first one's are saved
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, 0)
    metrics: dict[str, float] = {}
    problem: str | None = None
    try:
        with torch.no_grad():
            metrics = {name: float(value) for name, value in evaluate(module).items()}
    except NonFiniteOutput as error:
        problem = str(error)
    if problem := run.state.first(problem):
        raise _diverged(run, f"in evaluation {problem}", lr)
    return run.learner.fabric.broadcast(metrics)


def _keep_final_weights(run: _Run) -> None:
    model, fabric = run.learner.model, run.learner.fabric
    if run.learner.evaluated is not model:
        model.load_state_dict(run.learner.evaluated.state_dict())
    if fabric.is_global_zero and not run.files.weights.exists():
        save_weights(model, run.files.weights, run.header())
    if fabric.is_global_zero:
        run.files.previous.unlink(missing_ok=True)
    model.eval()
    fabric.barrier()


def _agree(run: _Run, images: int) -> tuple[int, signal.Signals | None]:
    """The step's images over all processes, and the signal by which any process was asked to stop."""
    stop = run.interruption.requested
    if run.state.control is None:
        return images, stop
    signals = [*SIGNALS[1:], signal.SIGINT]  # Ctrl-C last: all processes end alike and say the same
    counts = torch.tensor([images, *(stop == number for number in signals)])
    torch.distributed.all_reduce(counts, group=run.state.control)
    images, *asked = counts.tolist()
    return images, next((number for number, count in zip(signals, asked, strict=True) if count), None)


def _identity(learner: Learner, config: TrainConfig, loader: Loader) -> dict[str, Any]:
    """What must be equal for a state to be resumed; `config` is the recipe that the run began with."""
    averaging = {AVERAGING: "decay warmed up, statistics measured"} if learner.ema is not None else {}
    return {
        **averaging,
        "recipe": config.decisive(),
        "distillation": dataclasses.asdict(learner.distillation) if learner.teacher is not None else None,
        "batches per epoch": len(loader),
        "processes": learner.fabric.world_size,
        "model": model_identity(learner.model),
    }
