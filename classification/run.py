"""`python -m classification.run`: baseline → shrink → train → compare on an image classification data set."""

from __future__ import annotations

import math
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from classification.data import DATASETS, ClassificationData, DataConfig, open_dataset
from classification.data.scan import LeftOut, summary
from classification.evaluation import evaluate
from classification.models import MODELS, build
from core.commands import add_experiment_arguments, execute, run_command
from core.devices import gathered, is_first_process
from core.distillation import DistillationConfig
from core.errors import UserError
from core.experiment import Metric, ShrinkConfig, Task, TeacherConfig
from core.factories import call_factory
from core.files import atomic_write
from core.initialise import seeded
from core.recipe import require_range
from core.train import TrainConfig

CONFIGS = Path(__file__).resolve().parent.parent / "shared_configs" / "classification"
USUAL_MODEL = {
    "digits": "resnet20",
    "cifar10": "resnet20",
    "cifar100": "resnet20",
    "tiny-imagenet": "mobilenetv2",
    "imagenet": "resnet50",
}
SKIPPED_FILE = "skipped.txt"
METRICS = (
    Metric("top1_error", "top-1 error %", higher_is_better=False),
    Metric("top5_error", "top-5 error %", higher_is_better=False),
)


@dataclass(frozen=True)
class RunConfig:
    """A protocol of `shared_configs/classification`.

    Args:
        model: a name of `classification.models`, `package.module:factory` or `path/to/file.py:factory`.
        dataset: a name of `classification.data.DATASETS`.
        data: how images are read and augmented.
        train: the recipe of every network.
        shrink: how widths are found.
        distillation: train every network with a teacher; None without.
        teacher: which one.
        threads: CPU threads of torch; None leaves torch's choice, usually one per core.

    Raises:
        UserError: fewer than one thread.
    """

    model: str = "resnet20"
    dataset: str = "digits"
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    shrink: ShrinkConfig = field(default_factory=ShrinkConfig)
    distillation: DistillationConfig | None = None
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.threads is not None:
            require_range("threads", self.threads, 1, math.inf)


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog="python -m classification.run", description=__doc__)
    parser.add_argument(
        "--model", help=f"{', '.join(MODELS)}; package.module:factory; path/to/file.py:factory"
    )
    parser.add_argument("--dataset", choices=DATASETS, help="data set (default: digits)")
    parser.add_argument(
        "--train-limit", type=int, help="use only so many training images, balanced over classes"
    )
    parser.add_argument(
        "--distillation", action="store_true", help="train every network with a widened teacher"
    )
    add_experiment_arguments(parser)
    return parser


def find_config(model: str | None, dataset: str | None, distillation: bool) -> Path:
    """The protocol for a model and a data set: the pair's own file, else that of the data set's usual network.

    Where no protocol of the data set has a distillation section, `distillation` finds one without:
    `with_distillation` adds it.

    Raises:
        UserError: there is no protocol for the data set.
    """
    dataset = dataset or "digits"
    stem = {"cifar100": "cifar10"}.get(dataset, dataset.replace("-", "_"))
    for ending in ("_distillation.py", ".py") if distillation else (".py",):
        for name in (model, USUAL_MODEL[dataset]):
            path = CONFIGS / f"{name}_{stem}{ending}"
            if path.exists():
                return path
    raise UserError(f"no protocol '{path.name}' under '{CONFIGS}': name one with --config")


def with_distillation(config: RunConfig, wanted: bool) -> RunConfig:
    """The protocol, with distillation's default weights if `--distillation` was given and it has none of its own."""
    if wanted and config.distillation is None:
        return replace(config, distillation=DistillationConfig())
    return config


def make_task(config: RunConfig, data: ClassificationData, device: torch.device) -> Task:
    """Classification as `core.experiment` sees it.

    Raises:
        UserError: a network of the user's own does not fit the data set; see `check_own_model`.
    """
    test_loader = data.test_loader(max(config.train.batch_size, 256), device)
    own_model = ":" in config.model
    if own_model:
        check_own_model(config, data)

    def build_model() -> nn.Module:
        if own_model:
            return call_factory(config.model)
        return build(config.model, data.num_classes, dataset=config.dataset)

    return Task(
        name="classification",
        dataset=config.dataset,
        model_name=config.model.rpartition(":")[2] if own_model else config.model,
        build=build_model,
        example_inputs=torch.zeros(1, *data.input_shape),
        train_loader=lambda batch_size, seed: data.train_loader(batch_size, seed, device),
        loss_fn=loss_and_error,
        evaluate=lambda model: evaluate(model, test_loader, device),
        metrics=METRICS,
        notes=(*(note for note in [config.data.smaller_than_whole()] if note), *data_notes(data)),
        curves=("top1_error", "top1_error", "top-1 error %"),
        # Once all is trained, as ImageNet is decoded on the way; there a launched process knows of its own part alone.
        finish=lambda settings, runs: left_out(data.skipped),
    )


def check_own_model(config: RunConfig, data: ClassificationData) -> None:
    """Show a network of the user's own one image: most are written for another data set than the default.

    Raises:
        UserError: it cannot be built, cannot take the data set's images, or has fewer outputs than there are classes.
    """
    with seeded(0), torch.no_grad():
        model = call_factory(config.model).eval()
        try:
            logits = model(torch.zeros(1, *data.input_shape))
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"model '{config.model}' fails on an image of '{config.dataset}', input shape "
                f"{(1, *data.input_shape)}: {reason}; name the data set that it is for with --dataset"
            ) from error
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        what = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"model '{config.model}' returns {what}, not logits of shape (images, classes)")
    if logits.shape[1] < data.num_classes:
        raise UserError(
            f"model '{config.model}' has {logits.shape[1]} outputs, but '{config.dataset}' has {data.num_classes} "
            f"classes: give it as many, or name another data set with --dataset"
        )


def loss_and_error(logits: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy, and the top-1 error in percent: logits (N, C), targets (N,) of class indices.

    Raises:
        UserError: the network's outputs are not one logit per class and image.
    """
    if logits.dim() != 2 or len(logits) != len(targets):
        raise UserError(
            f"the network returns shape {tuple(logits.shape)}, not (images, classes): see --model"
        )
    with torch.no_grad():
        error = 100 * (logits.argmax(1) != targets).float().mean()
    return functional.cross_entropy(logits, targets), {"top1_error": error}


def run(arguments: Namespace) -> int:
    """One experiment from parsed arguments; returns the exit status."""
    opened: list[ClassificationData] = []
    folders: list[Path] = []

    def open_task(config: RunConfig, fabric: Fabric, folder: Path, root: Path) -> Task:
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        in_data = arguments.model is None and Path(arguments.config or "").suffix != ".py"
        if ":" in config.model and in_data and is_first_process():
            print(f"the protocol names code: '{config.model}' is imported", flush=True)
        data = open_dataset(config.dataset, root, config.data)
        opened.append(data)
        folders.append(folder)
        if fabric.is_global_zero:
            for note in data_notes(data):
                print(note)
            if not (folder / SKIPPED_FILE).exists():
                write_skipped(folder, data.left_out)
        data.recall(read_skipped(folder))
        return make_task(config, data, fabric.device)

    status = execute(
        arguments,
        "classification",
        RunConfig,
        lambda: find_config(arguments.model, arguments.dataset, arguments.distillation),
        {"data.train_limit": arguments.train_limit, "dataset": arguments.dataset, "model": arguments.model},
        lambda config: f"classification-{config.model.rpartition(':')[2]}-{config.dataset}",
        open_task,
        lambda config: with_distillation(config, arguments.distillation),
    )
    unreadable = opened[0].unreadable_everywhere(gathered)
    if is_first_process():
        write_skipped(folders[0], (*opened[0].left_out, *chain.from_iterable(unreadable.values())))
        for line in left_out({part: len(entries) for part, entries in unreadable.items()}):
            print(line)
    return status


def left_out(skipped: Mapping[str, int]) -> list[str]:
    """One sentence for every part with unreadable images."""
    return [
        f"{count} unreadable {part} images were left out; {SKIPPED_FILE} lists them."
        for part, count in skipped.items()
        if count
    ]


def data_notes(data: ClassificationData) -> list[str]:
    """What the terminal and the report say about the files of a data set; nothing where all is as it should be."""
    counted = [f"{summary(data.left_out)}; {SKIPPED_FILE} lists them."] if data.left_out else []
    return [*data.notes, *counted]


def read_skipped(folder: Path) -> list[str]:
    """The paths in `skipped.txt`; none where there is no such file."""
    path = folder / SKIPPED_FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [line.partition("\t")[0] for line in lines]


def write_skipped(folder: Path, entries: Sequence[LeftOut]) -> None:
    """Write `skipped.txt`: a line for every file or folder that was not used, with the reason; none for none."""
    path = folder / SKIPPED_FILE
    if entries:
        with atomic_write(path) as file:
            file.writelines(f"{entry}\n" for entry in entries)
    else:
        path.unlink(missing_ok=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; see the module's docstring for exit statuses."""
    arguments = build_parser().parse_args(argv)
    return run_command(lambda: run(arguments), arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
