"""`python -m classification.eval --checkpoint C --dataset D`: evaluates a trained classifier on a test part.

Writes eval.json, confusion.png and worst.png, and skipped.txt if files were left out; the errors are those of the run's
own table, counted alike.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from classification.checkpoint import Description
from classification.data import (
    DATASETS,
    ClassificationData,
    DataConfig,
    check_dataset,
    dataset_title,
    open_dataset,
)
from classification.data.config import BadImages
from classification.data.folders import FolderSplit
from classification.data.scan import few
from classification.evaluation import Judged, judge
from classification.figures import plot_confusion, plot_worst
from classification.inputs import white_of
from classification.predict import Classifier, open_classifier
from classification.task import data_notes, left_out, write_skipped
from core.command_line.exits import run_parsed
from core.command_line.parsers import add_checkpoint_arguments, add_data_root, command_parser
from core.command_line.pixels import add_max_pixels, limited
from core.errors import UserError
from core.storage.data import data_root
from core.storage.description import read_origin
from core.storage.files import refuse_overwriting, write_json
from core.tables import text_table

RESULT, CONFUSION, WORST = "eval.json", "confusion.png", "worst.png"
USUAL_BATCH = 256
EXAMPLES = (
    "classification.eval --checkpoint WORK/lwdna.safetensors",
    "classification.eval --checkpoint WORK/lwdna.safetensors --dataset path/to/photos --out evaluation",
    "classification.eval --checkpoint WORK/lwdna.safetensors --dataset cifar10 --data-root DATA",
)
# Fields of `DataConfig` that say which images test a network.
WHICH_IMAGES = ("classes", "first_class", "test_per_class", "val_share")


@dataclass(frozen=True)
class Evaluation:
    """The result of a classifier's evaluation.

    Attributes:
        data: the evaluated data, with the classifier's normalisation and labels.
        classes: names of the classes that the data set has, in its order.
        outputs: the network's output for each of them.
        judged: the classifier's predictions for every image.
        confusion: (C, C + 1), int64: images by true class and predicted class; the last column counts predictions that
            are no class of the data set.
    """

    data: ClassificationData
    classes: tuple[str, ...]
    outputs: np.ndarray
    judged: Judged
    confusion: np.ndarray

    def per_class(self) -> list[dict[str, Any]]:
        """By class: images, how many were right, the error in percent, and the most frequent wrong prediction."""
        rows = []
        for label, name in enumerate(self.classes):
            counts = self.confusion[label]
            total, right = int(counts.sum()), int(counts[label])
            wrong = counts.copy()
            wrong[label] = 0
            taken = int(wrong.argmax())
            mistaken = (
                {"class": (*self.classes, None)[taken], "images": int(wrong[taken])} if wrong.any() else None
            )
            error = 100 * (total - right) / total if total else None
            rows.append(
                {"class": name, "images": total, "right": right, "top1_error": error, "taken_for": mistaken}
            )
        return rows


def evaluate(
    classifier: Classifier,
    dataset: str,
    root: Path,
    *,
    batch_size: int = USUAL_BATCH,
    bad_images: str = "error",
    workers: int = DataConfig.workers,
    part: Mapping[str, Any] | None = None,
    keep: int = 24,
) -> Evaluation:
    """Run a classifier over a data set's test part, with the classifier's own normalisation.

    Args:
        classifier: see `classification.predict.open_classifier`.
        dataset: see `classification.data.open_dataset`.
        root: the data root.
        batch_size: images at a time.
        bad_images: see `DataConfig`.
        workers: see `DataConfig`.
        part: fields of `DataConfig` that say which images tested the network; None if that is not known.
        keep: how many of the worst images to keep.

    Raises:
        UserError: the data set is missing or damaged, or its classes or sizes are not the classifier's.
    """
    described = classifier.description
    options = DataConfig(downsample=described.downsample, bad_images=bad_images, workers=workers)  # type: ignore[arg-type]
    if described.view == "photograph":
        options = replace(options, size=described.input_shape[1])
    data = open_dataset(dataset, root, replace(options, **(part or {})))
    first = data.class_names[: len(described.classes)]
    if not part and first == described.classes and len(first) < data.num_classes and len(first) > 1:
        data = open_dataset(dataset, root, replace(options, classes=len(first)))
    outputs = outputs_of(data, described)
    if data.input_shape != described.input_shape:
        raise UserError(
            f"the checkpoint takes images of shape {described.input_shape}, those of {dataset} have "
            f"{data.input_shape}: evaluate it on the data set that it is for ({described.dataset})"
        )
    test = replace(data.test, mean=described.mean, std=described.std)
    data = replace(data, test=test)
    # Labels stay the data set's own in `data`, so that its messages name the right classes; the loader's are mapped.
    loader = _Mapped(data.test_loader(batch_size, classifier.device), torch.from_numpy(outputs))
    judged = judge(classifier.network, loader, classifier.device, keep)
    label_of = np.full(max(judged.outputs, int(outputs.max()) + 1), len(outputs))
    label_of[outputs] = np.arange(len(outputs))
    confusion = np.zeros((len(outputs), len(outputs) + 1), np.int64)
    np.add.at(confusion, (label_of[judged.targets.numpy()], label_of[judged.best[:, 0].numpy()]), 1)
    return Evaluation(data, data.class_names, outputs, judged, confusion)


def outputs_of(data: ClassificationData, described: Description) -> np.ndarray:
    """The network's output for every class of a data set, (classes,), int64; classes are matched by name.

    Raises:
        UserError: the network does not know a class, or names are ambiguous.
    """
    if data.class_names == described.classes:  # names may occur twice here: ImageNet has two cranes
        return np.arange(data.num_classes)
    if any(len(set(names)) < len(names) for names in (data.class_names, described.classes)):
        raise UserError(
            f"the classes of {data.name} are not the checkpoint's in their order, and cannot be matched by their "
            f"names, as several classes have the same name"
        )
    place = {name: output for output, name in enumerate(described.classes)}
    strange = [name for name in data.class_names if name not in place]
    if strange:
        raise UserError(
            f"the checkpoint was trained on {described.dataset} and does not know {len(strange)} of the "
            f"{data.num_classes} classes of {data.name}: {few(strange)}; evaluate it on classes that it knows "
            f"({few(described.classes)})"
        )
    return np.array([place[name] for name in data.class_names], dtype=np.int64)


@dataclass(frozen=True)
class _Mapped:
    """A loader whose labels are mapped to outputs of the network."""

    loader: Any
    outputs: torch.Tensor

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, epoch: int, start: int = 0) -> Any:
        """See `core.training.train.Loader`."""
        for inputs, labels in self.loader.epoch(epoch, start):
            yield inputs, self.outputs.to(labels.device)[labels]

    def shard(self, rank: int, world: int) -> _Mapped:
        """See `core.training.train.Loader`."""
        return replace(self, loader=self.loader.shard(rank, world))


def result_of(
    evaluation: Evaluation, described: Description, checkpoint: Path, notes: Sequence[str]
) -> dict[str, Any]:
    """The content of eval.json."""
    judged, data = evaluation.judged, evaluation.data
    return {
        "task": "classification",
        "checkpoint": str(checkpoint),
        "model": described.model,
        "trained_on": described.dataset,
        "dataset": data.name,
        "images": len(judged.targets),
        "metrics": judged.metrics(),
        "notes": list(notes),
        "classes": evaluation.per_class(),
        "confusion": evaluation.confusion.tolist(),
        "worst": [worst_entry(evaluation, described, row) for row, _ in judged.worst],
    }


def worst_entry(evaluation: Evaluation, described: Description, row: int) -> dict[str, Any]:
    """One of the worst images: its file, its class, the predicted class, and the loss."""
    judged, split = evaluation.judged, evaluation.data.test
    entry: dict[str, Any] = {"image": row}
    if isinstance(split, FolderSplit):
        readable = [place for place in range(len(split)) if place not in split.unreadable]
        entry = {"image": readable[row], "file": os.fsdecode(split.paths[readable[row]])}
    best = int(judged.best[row, 0])
    classes = described.classes
    return {
        **entry,
        "class": classes[int(judged.targets[row])],
        "taken_for": classes[best] if best < len(classes) else f"output {best}",
        "probability": float(judged.shares[row, 0]),
        "loss": float(judged.losses[row]),
    }


def draw(folder: Path, evaluation: Evaluation, described: Description, result: dict[str, Any]) -> None:
    """Write confusion.png and worst.png."""
    error = result["metrics"]["top1_error"]
    title = f"{result['dataset']}: top-1 error {error:.2f} % of {result['images']:,} images"
    confusion = evaluation.confusion
    if not confusion[:, -1].any():
        confusion = confusion[:, :-1]
    plot_confusion(folder / CONFUSION, confusion, evaluation.classes, title)
    white = described.white or white_of(described.dataset)
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (described.mean, described.std))
    planes = [(inputs.numpy() * std + mean).clip(0, white) / white for _, inputs in evaluation.judged.worst]
    images = [pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0) for pixels in planes]
    captions = [
        f"{entry['class']}\ntaken for {entry['taken_for']} ({100 * entry['probability']:.0f} %)"
        if entry["class"] != entry["taken_for"]
        else f"{entry['class']}\nright, with {100 * entry['probability']:.0f} %"
        for entry in result["worst"]
    ]
    plot_worst(folder / WORST, images, captions, f"{result['dataset']}: the largest losses")


def tables(result: dict[str, Any]) -> str:
    """The result for a terminal."""
    rows = []
    for entry in result["classes"]:
        taken = entry["taken_for"]
        error = "" if entry["top1_error"] is None else f"{entry['top1_error']:.2f}"
        mistaken = f"{taken['class'] or 'no class of it'} ({taken['images']})" if taken else ""
        rows.append([entry["class"], str(entry["images"]), str(entry["right"]), error, mistaken])
    metrics = result["metrics"]
    shown = [f"top-1 error {metrics['top1_error']:.2f} %"]
    if "top5_error" in metrics:
        shown.append(f"top-5 error {metrics['top5_error']:.2f} %")
    shown.append(f"loss {metrics['loss']:.4f}")
    table = text_table(["class", "images", "right", "error %", "mostly taken for"], rows)
    return f"{table}\n\n{result['dataset']}, {result['images']:,} images: {', '.join(shown)}"


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("classification.eval", __doc__, EXAMPLES)
    add_checkpoint_arguments(parser, "classification.run")
    parser.add_argument(
        "--dataset", help="data set, or a folder of images (default: the checkpoint's, as its run split it)"
    )
    add_data_root(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where results go (default: eval-METHOD-DATASET beside the checkpoint)",
    )
    parser.add_argument(
        "--batch-size", type=int, help="images at a time (default: as in the run that wrote the checkpoint)"
    )
    parser.add_argument(
        "--bad-images",
        choices=get_args(BadImages),
        help="at unreadable images (default: as in the run that wrote the checkpoint, else error)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=DataConfig.workers,
        help=f"processes that decode images (default: {DataConfig.workers})",
    )
    add_max_pixels(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Evaluate, write and print; returns the exit status."""
    classifier = open_classifier(options.checkpoint, device=options.device, model=options.model)
    described = classifier.description
    dataset = options.dataset or described.dataset
    if options.dataset is None and dataset not in DATASETS:
        raise UserError(
            f"'{options.checkpoint}' was trained on a folder called '{dataset}': add --dataset PATH"
        )
    check_dataset(dataset)
    title = dataset_title(dataset)
    folder = options.out or options.checkpoint.parent / f"eval-{options.checkpoint.stem}-{title}"
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out '{folder}' is a file; name a folder")
    refuse_overwriting(
        [("--out", folder / name) for name in (RESULT, CONFUSION, WORST)],
        [("the checkpoint that is read", options.checkpoint)],
    )
    recipe = read_origin(options.checkpoint).get("recipe", {})
    usual = recipe.get("train", {}).get("batch_size", 0)
    data_then = recipe.get("data", {}) if title == described.dataset else {}
    part = {name: data_then[name] for name in WHICH_IMAGES if name in data_then}
    batch_size = max(usual, USUAL_BATCH) if options.batch_size is None else options.batch_size
    if batch_size < 1:
        raise UserError(f"--batch-size is {batch_size}: use at least 1")
    evaluation = evaluate(
        classifier,
        dataset,
        data_root(options.data_root),
        batch_size=batch_size,
        bad_images=options.bad_images or data_then.get("bad_images", "error"),
        workers=options.workers,
        part=part,
    )
    data = evaluation.data
    unreadable = data.unreadable_everywhere(lambda own: [own])["test"]
    write_skipped(folder, (*data.left_out, *unreadable))
    notes = [*data_notes(data), *left_out({"test": len(unreadable)})]
    if data.num_classes < len(described.classes):
        notes.append(
            f"The network knows {len(described.classes)} classes, the data set has {data.num_classes}."
        )
    if text := replace(data.config, train_limit=None).smaller_than_whole():
        notes.append(text)
    result = result_of(evaluation, described, options.checkpoint, notes)
    write_json(folder / RESULT, result)
    draw(folder, evaluation, described, result)
    print(tables(result))
    for note in notes:
        print(f"note: {note}")
    print(f"written: {folder / RESULT}, {CONFUSION}, {WORST}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; exit status 0 done, 1 failed, 2 wrong usage or bad input."""
    return run_parsed(build_parser(), limited(run), argv, "start it again")


if __name__ == "__main__":
    sys.exit(main())
