"""Image classification as an experiment sees it: network, loss, scores, and what was left out of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from classification.checkpoint import KEY, Description, build_network
from classification.config import RunConfig
from classification.data import ClassificationData
from classification.data.folders import FolderSplit
from classification.data.scan import LeftOut, summary
from classification.evaluation import error_rates
from classification.inputs import white_of
from classification.models import build
from classification.models.datasets import form_for
from classification.panels import class_panels
from core.command_line.factories import call_factory, is_factory, title
from core.errors import UserError, first_line
from core.experiments.checkpoints import save_checkpoints, trained_network
from core.experiments.given import given_subject, given_widths
from core.experiments.pretrained import open_pretrained
from core.experiments.settings import Run, Settings
from core.experiments.task import Described, Metric, Shown, Task, model_text
from core.methods.method import without_young
from core.methods.subject import Pretrained
from core.storage.files import read_json, read_text, write_json, write_text
from core.surgery.architecture import Architecture
from core.surgery.initialise import seeded
from core.training.train import Loader

SKIPPED_FILE = "skipped.txt"
# Fields of `DataConfig` that are younger than the first stores: see `without_young`.
YOUNG_DATA = {"classes": None, "downsample": 1, "size": None, "first_class": 0, "test_per_class": 0}
DATA_FILE = "data.json"

METRICS = (
    Metric("top1_error", "top-1 error %", higher_is_better=False),
    Metric("top5_error", "top-5 error %", higher_is_better=False),
)


def make_task(config: RunConfig, data: ClassificationData, device: torch.device) -> Task:
    """Classification as `core.experiments.experiment` sees it.

    Raises:
        UserError: a network of the user's own does not fit the data set; see `check_own_model`.
    """
    test_loader = data.test_loader(max(config.train.batch_size, 256), device)
    own_model = is_factory(config.model)
    if own_model:
        check_own_model(config, data)

    def build_model() -> nn.Module:
        if own_model:
            return call_factory(config.model)
        form = config.form or form_for(data.name, data.input_shape)
        return build(config.model, data.num_classes, dataset=form)

    inputs = torch.zeros(1, *data.input_shape)
    given = given_widths(config.found_widths, build_model, inputs)
    pretrained = open_pretrained(config.pretrained, build_model)
    return Task(
        name="classification",
        dataset=data.name,
        model_name=title(config.model, config.name),
        build=build_model,
        example_inputs=inputs,
        train_loader=lambda batch_size, seed: data.train_loader(batch_size, seed, device),
        loss_fn=loss_and_error,
        evaluate=lambda model: error_rates(model, test_loader, device),
        metrics=METRICS,
        notes=(*(note for note in [config.data.smaller_than_whole()] if note), *data_notes(data)),
        curves=("top1_error", "top1_error", "top-1 error %"),
        # After all trainings, since ImageNet is decoded on the way, and a launched process knows its own part alone.
        finish=lambda settings, runs: finish(config, data, settings, runs, pretrained, test_loader, device),
        given=given,
        subject={**subject(config, data), **given_subject(given)},
        described=partial(describe, config, data),
        one_process=one_process(data),
        pretrained=pretrained,
    )


def subject(config: RunConfig, data: ClassificationData) -> dict[str, Any]:
    """Everything of network and data that determines a result: of `core.experiments.task.Task`.

    Photographs count by their content, wherever they lie, and by which of them are held out.
    """
    options = asdict(config.data)
    del options["workers"], options["bad_images"], options["val_share"]
    options = without_young(options, YOUNG_DATA)
    named = {"folder": data.folder["content"]} if data.folder else {"dataset": config.dataset}
    named |= {"form": config.form} if config.form else {}
    return {"model": config.model, **named, "data": options, **model_text(config.model)}


def one_process(data: ClassificationData) -> str:
    """Why trials have to share a process: bad images are found only when they are decoded, during training."""
    parts = (data.train, data.test)
    if data.config.bad_images == "skip" and any(
        isinstance(part, FolderSplit) and part.decoded is None for part in parts
    ):
        return (
            f"data.bad_images='skip' counts the unreadable images of {data.name} in one process: use --jobs 1, or "
            "'error'"
        )
    return ""


def check_own_model(config: RunConfig, data: ClassificationData) -> None:
    """Try a network of the user's own on one image: most are written for another data set than the default.

    Raises:
        UserError: it cannot be built, cannot take the data set's images, or has fewer outputs than there are classes.
    """
    with seeded(0), torch.no_grad():
        model = call_factory(config.model).eval()
        try:
            logits = model(torch.zeros(1, *data.input_shape))
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:
            raise UserError(
                f"model '{config.model}' fails on an image of '{data.name}', input shape "
                f"{(1, *data.input_shape)}: {first_line(error)}; name the data set that it is for with --dataset"
            ) from error
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        what = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"model '{config.model}' returns {what}, not logits of shape (images, classes)")
    if logits.shape[1] < data.num_classes:
        raise UserError(
            f"model '{config.model}' has {logits.shape[1]} outputs, but '{data.name}' has {data.num_classes} "
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


def finish(
    config: RunConfig,
    data: ClassificationData,
    settings: Settings,
    runs: Sequence[Run],
    pretrained: Pretrained | None,
    test_loader: Loader,
    device: torch.device,
) -> Shown:
    """Write the checkpoints and the networks' predictions of test images; returns the task's part of the reports."""
    markdown = [*left_out(data.skipped), *checkpoints(config, data, settings, runs, pretrained)]

    def trained(run: Run) -> nn.Module:
        told = describe(config, data, run.architecture)
        return trained_network(
            settings, run, told, lambda description: build_network(description, config.model)
        )

    return Shown(tuple(markdown), class_panels(data, settings, runs, trained, test_loader, device))


def checkpoints(
    config: RunConfig,
    data: ClassificationData,
    settings: Settings,
    runs: Sequence[Run],
    pretrained: Pretrained | None,
) -> list[str]:
    """Write a checkpoint that describes itself for each method, of the first seed; returns Markdown for the report."""
    described = partial(describe, config, data)
    saved = save_checkpoints(
        settings, runs, described, lambda description: build_network(description, config.model), pretrained
    )
    files = "\n".join(line for _, _, line in saved)
    return [f"Checkpoints for `python -m classification.predict IMAGES --checkpoint FILE`:\n\n{files}"]


def describe(config: RunConfig, data: ClassificationData, architecture: Architecture | None) -> Described:
    """The description in checkpoints: of `core.experiments.task.Task`."""
    description = Description(
        config.model,
        data.name,
        data.class_names,
        data.input_shape,
        tuple(data.train.mean),
        tuple(data.train.std),
        None if architecture is None else architecture.to_json(),
        "photograph" if data.folder else "crop" if isinstance(data.test, FolderSplit) else "fit",
        white_of(data.name),
        config.data.downsample,
        config.form,
    )
    return Described(KEY, description, data.name, config.data)


def left_out(skipped: Mapping[str, int]) -> list[str]:
    """One sentence for every part with unreadable images."""
    return [
        f"{count} unreadable {part} image{'s were' if count > 1 else ' was'} left out; {SKIPPED_FILE} lists "
        f"{'them' if count > 1 else 'it'}."
        for part, count in skipped.items()
        if count
    ]


def data_notes(data: ClassificationData) -> list[str]:
    """What the terminal and the report say about the files of a data set; nothing if all is as it should be."""
    counted = [f"{summary(data.left_out)}; {SKIPPED_FILE} lists them."] if data.left_out else []
    return [*data.notes, *counted]


def keep_data(folder: Path, data: ClassificationData, *, new: bool) -> None:
    """Write what a run keeps of its photographs, `data.json`.

    Args:
        folder: the work directory.
        data: the data set; if it has no photographs (`ClassificationData.folder`), nothing is kept.
        new: whether the run is a new one.
    """
    path = folder / DATA_FILE
    if not data.folder:
        path.unlink(missing_ok=True)
    elif new or not path.exists():
        write_json(path, data.folder)


def require_same_data(folder: Path, data: ClassificationData) -> None:
    """Compare the photographs of a resumed run with its `data.json`, if there is one.

    Raises:
        UserError: the run began with other images.
    """
    path = folder / DATA_FILE
    if data.folder and path.exists() and _content(path) != data.folder["content"]:
        raise UserError(
            f"the run in '{folder}' began with other images of '{data.name}': put those back, or use another --work-dir"
        )


def _content(path: Path) -> Any:
    try:
        return read_json(path)["content"]
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise UserError(
            f"'{path}' is damaged ({error}): it lists the images that the run began with; restore it from a copy, or "
            f"use another --work-dir"
        ) from error


def read_skipped(folder: Path) -> list[str]:
    """The paths in `skipped.txt`; none if there is no such file."""
    path = folder / SKIPPED_FILE
    lines = read_text(path, "remove it").splitlines() if path.exists() else []
    return [line.partition("\t")[0] for line in lines]


def write_skipped(folder: Path, entries: Sequence[LeftOut]) -> None:
    """Write `skipped.txt`: a line for every unused file or folder, with the reason; no file if there are none."""
    path = folder / SKIPPED_FILE
    if entries:
        write_text(path, "".join(f"{entry}\n" for entry in entries))
    else:
        path.unlink(missing_ok=True)
