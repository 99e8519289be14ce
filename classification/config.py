"""Protocols of image classification, and the choice of one by a command line."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from classification.data import PHOTOGRAPHS, DataConfig, check_dataset, is_folder
from classification.models import INPUT_SHAPES
from core.command_line.factories import is_factory
from core.errors import UserError, check_known
from core.experiments.pretrained import PretrainedConfig
from core.experiments.settings import TeacherConfig
from core.methods.method import SearchConfig
from core.training.distillation import DistillationConfig
from core.training.recipe import require_range
from core.training.train import TrainConfig
from core.widths.config import ShrinkConfig

CONFIGS = Path(__file__).resolve().parent.parent / "shared_configs" / "classification"

USUAL_MODEL = {
    "digits": "resnet20",
    "cifar10": "resnet20",
    "cifar100": "resnet20",
    "tiny-imagenet": "mobilenetv2",
    "imagenet": "resnet50",
}
FOLDER_PROTOCOL = CONFIGS / "folder.py"


@dataclass(frozen=True)
class RunConfig(PretrainedConfig):
    """A protocol of `shared_configs/classification`; see `PretrainedConfig` for its entries `pretrained` and `start`.

    Args:
        model: a name of `classification.models`, `package.module:factory` or `path/to/file.py:factory`.
        name: what reports and folders call the network; None for its own name.
        dataset: a name of `classification.data.DATASETS`, or a folder of the user's own images, whose path becomes
            absolute, so that a run can be resumed from any folder.
        form: stem and strides of one of the suite's networks, named by the data set that they are meant for
            (`classification.models.INPUT_SHAPES`); None for the form that suits `dataset`. Downsampled images need
            "cifar".
        data: how images are read and augmented.
        train: the recipe of every network.
        shrink: how widths are found.
        found_widths: widths of the found network instead of a search, a file or a name that ships
            (`core.experiments.given`); controls then cost the same. None searches.
        search: options of single methods of finding widths.
        distillation: train every network with a teacher; None without.
        teacher: which one.
        threads: CPU threads of torch; None leaves torch's choice, usually one per core.

    Raises:
        UserError: fewer than one thread, an unknown form, or a form for a network of the user's own.
    """

    model: str = "resnet20"
    name: str | None = None
    dataset: str = "digits"
    form: str | None = None
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    shrink: ShrinkConfig = field(default_factory=ShrinkConfig)
    found_widths: Path | None = None
    search: SearchConfig = field(default_factory=SearchConfig)
    distillation: DistillationConfig | None = None
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    threads: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if is_folder(self.dataset):
            object.__setattr__(self, "dataset", os.path.abspath(Path(self.dataset).expanduser()))
        if self.threads is not None:
            require_range("threads", self.threads, 1, math.inf)
        if self.form is not None:
            check_known("unknown form", [self.form], INPUT_SHAPES)
            if is_factory(self.model):
                raise UserError(
                    f"form='{self.form}' is for networks of the suite; '{self.model}' has its own: leave it out"
                )


def find_config(model: str | None, dataset: str | None, distillation: bool) -> Path:
    """The protocol for a model and a data set: the pair's own file, else that of the data set's usual network.

    If no protocol of the data set has a distillation section, `distillation` finds one without it; `with_distillation`
    adds the section.

    Raises:
        UserError: there is no such data set, or no protocol for it.
    """
    dataset = dataset or "digits"
    check_dataset(dataset)
    if is_folder(dataset) or dataset in PHOTOGRAPHS:
        return FOLDER_PROTOCOL
    stem = {"cifar100": "cifar10"}.get(dataset, dataset.replace("-", "_"))
    for ending in ("_distillation.py", ".py") if distillation else (".py",):
        for name in (None if model and is_factory(model) else model, USUAL_MODEL[dataset]):
            path = CONFIGS / f"{name}_{stem}{ending}"
            if path.exists():
                return path
    raise UserError(f"no protocol '{path.name}' under '{CONFIGS}': name one with --config")


def with_distillation(config: RunConfig, wanted: bool) -> RunConfig:
    """The protocol, with distillation's default weights if `--distillation` was given and it has none of its own."""
    if wanted and config.distillation is None:
        return replace(config, distillation=DistillationConfig())
    return config
