"""The classifiers' part of report.html: errors class by class, and the images on which the networks disagree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import nn

from classification.data import ClassificationData
from classification.evaluation import outputs
from classification.inputs import white_of
from core.errors import UserError
from core.experiments.plots import rows_figure
from core.experiments.settings import FOUND, Run, Settings
from core.experiments.statistics import with_interval
from core.methods.registry import BASELINE
from core.report.page import Block, Gallery, Picture, Section, Table, Text, chart_of, png
from core.report.style import title_of
from core.report.tips import Tips
from core.storage.files import json_text, write_text
from core.storage.schema import read_kept
from core.training.run_files import RunFiles
from core.training.train import Loader

PREDICTIONS = "predictions.json"
DRAWN_CLASSES = 24
IMAGES = 12  # of each kind of disagreement
LOOKED_AT = 5000  # they are chosen among so many images; a data set of photographs is decoded for them
SIDE = 128  # largest side of a picture in the page, in pixels
LARGEST_PANEL = 400_000  # images times trainings; beyond that only the first seed is looked at


@dataclass(frozen=True)
class Predictions:
    """Trained networks' predictions for the test images.

    Attributes:
        targets: (N,): the true classes.
        predicted: method -> (seeds, N): the likeliest class.
        seeds: the seeds that both methods have.
    """

    targets: np.ndarray
    predicted: Mapping[str, np.ndarray]
    seeds: tuple[int, ...]

    def right(self, method: str) -> np.ndarray:
        """(seeds, N): where the method is right."""
        return np.asarray(self.predicted[method] == self.targets)


def class_panels(
    data: ClassificationData,
    settings: Settings,
    runs: Sequence[Run],
    trained: Callable[[Run], nn.Module],
    loader: Loader,
    device: torch.device,
) -> tuple[Section, ...]:
    """The sections; none if baseline and found network have no seed in common.

    Args:
        data: the data set.
        settings: the experiment.
        runs: its finished trainings.
        trained: a training -> its network, with its weights.
        loader: of the test images.
        device: where networks run.
    """
    pairs = {(run.method, run.seed): run for run in runs if run.method in (BASELINE, FOUND)}
    seeds = [seed for method, seed in pairs if method == BASELINE and (FOUND, seed) in pairs]
    if not seeds:
        return ()
    found: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}
    told = []
    for seed in seeds:
        if found and 2 * len(seeds) * len(next(iter(found.values()))[0]) > LARGEST_PANEL:
            told.append(
                f"Of {len(seeds)} seeds the first alone was looked at image by image, as there are many images."
            )
            seeds = seeds[:1]
            break
        for method in (BASELINE, FOUND):
            run = pairs[method, seed]
            found[method, seed] = predictions(
                settings.run_dir(method, seed), partial(trained, run), loader, device
            )
    targets = found[BASELINE, seeds[0]][0]
    predicted = {method: np.stack([found[method, seed][1] for seed in seeds]) for method in (BASELINE, FOUND)}
    all_of = Predictions(targets, predicted, tuple(seeds))
    return (
        Section("Class by class", (*_classes(data, all_of), *([Text(told)] if told else []))),
        Section("Where the networks disagree", tuple(_disagreements(data, all_of, loader))),
    )


@dataclass(frozen=True)
class Kept:
    """What `predictions` keeps: the weights' checksum, and the true and the predicted class of every test image."""

    weights: str
    targets: tuple[int, ...]
    predicted: tuple[int, ...]


def predictions(
    folder: Path, network: Callable[[], nn.Module], loader: Loader, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted class of every test image, (N,) each; kept beside the weights, and read from there next time.

    Args:
        folder: of the training.
        network: makes the network, if it has to be run.
        loader: of the test images.
        device: where the network runs.
    """
    path = folder / PREDICTIONS
    checksum = sha256(RunFiles(folder).weights.read_bytes()).hexdigest()
    kept = read_kept(path, Kept)
    if kept is not None and kept.weights == checksum and len(kept.targets) == len(kept.predicted):
        return np.array(kept.targets, dtype=np.int64), np.array(kept.predicted, dtype=np.int64)
    parts = [
        (targets.cpu(), logits.argmax(1).cpu())
        for logits, targets, _ in outputs(network().to(device), loader, device)
    ]
    targets, predicted = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    value = {"weights": checksum, "targets": targets.tolist(), "predicted": predicted.tolist()}
    write_text(path, json_text(value) + "\n")  # in one line, as there are as many numbers as images
    return targets, predicted


def _classes(data: ClassificationData, found: Predictions) -> Iterator[Block]:
    errors = {}
    for method in (BASELINE, FOUND):
        wrong = ~found.right(method)
        errors[method] = np.stack([100 * wrong[:, found.targets == label].mean(axis=1)
                                   for label in range(data.num_classes)])  # fmt: skip
    differences = errors[FOUND] - errors[BASELINE]  # (classes, seeds)
    order = np.argsort(differences.mean(axis=1), kind="stable")
    strongest = np.argsort(-np.abs(differences.mean(axis=1)), kind="stable")[:DRAWN_CLASSES]
    drawn = [int(label) for label in order if label in set(strongest.tolist())]
    tips = Tips()
    names = _unique(data.class_names)
    rows = {names[label]: differences[label].tolist() for label in drawn}
    label = "top-1 error in points, LW-DNA minus baseline"
    figure = rows_figure(rows, label, FOUND, tips)
    which = "All classes" if len(drawn) == data.num_classes else \
        f"The {len(drawn)} of {data.num_classes} classes that differ most"  # fmt: skip
    n = f"n = {len(found.seeds)} seed{'s' * (len(found.seeds) != 1)}"
    yield chart_of(
        figure, f"{label}, class by class; the table below holds the numbers",
        f"{which}; left of zero LW-DNA is better. {n}; marks: means, bars: 95 % intervals from three seeds on, dots: "
        f"seeds. Of many classes some differ by chance.", tips,
    )  # fmt: skip
    counts = np.bincount(found.targets, minlength=data.num_classes)
    table = [
        [data.class_names[label], str(counts[label]), *(with_interval(errors[method][label].tolist())
         for method in (BASELINE, FOUND)), with_interval(differences[label].tolist())]
        for label in order
    ]  # fmt: skip
    header = ["class", "test images", title_of(BASELINE), title_of(FOUND), "difference"]
    yield Table(header, table, f"Top-1 error % of all {data.num_classes} classes", folded=True)


def _unique(names: Sequence[str]) -> list[str]:
    """Names, with a number behind each that several classes share."""
    return [name if names.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(names)]


def _disagreements(data: ClassificationData, found: Predictions, loader: Loader) -> Iterator[Block]:
    base, own = found.right(BASELINE), found.right(FOUND)
    rows = [
        [
            f"seed {seed}",
            *(f"{count:,}" for count in ((a & b).sum(), (a & ~b).sum(), (~a & b).sum(), (~a & ~b).sum())),
        ]
        for seed, a, b in zip(found.seeds, base, own, strict=True)
    ]
    total = len(found.targets)
    yield Table(["", "both right", "only the baseline", "only LW-DNA", "both wrong"], rows,
                f"Of {total:,} test images, by who is right")  # fmt: skip
    votes = (base & ~own).sum(axis=0) - (~base & own).sum(axis=0)
    votes = votes[:LOOKED_AT]
    chosen = {
        "Only the baseline is right": [
            int(row) for row in np.argsort(-votes, kind="stable")[:IMAGES] if votes[row] > 0
        ],
        "Only LW-DNA is right": [
            int(row) for row in np.argsort(votes, kind="stable")[:IMAGES] if votes[row] < 0
        ],
    }
    pixels = dict(_images(data, loader, {row for part in chosen.values() for row in part}))
    among = f" Chosen among the first {LOOKED_AT:,}." if total > LOOKED_AT else ""
    for title, part in chosen.items():
        if not part:
            yield Text([f"{title}: no image."])
            continue
        pictures = []
        for row in part:
            truth = data.class_names[found.targets[row]]
            said = [
                f"{title_of(method)}: {_said(data, found.predicted[method][:, row])}"
                for method in (BASELINE, FOUND)
            ]
            size = pixels[row].shape
            alt, caption = f"Test image {row} of class {truth}", f"{truth}. {'; '.join(said)}"
            pictures.append(Picture(png(pixels[row]), alt, caption, size[1], size[0]))
        of = f"in most of the {len(found.seeds)} seeds" if len(found.seeds) > 1 else f"seed {found.seeds[0]}"
        yield Gallery(tuple(pictures), f"{title} ({of} first): the true class, and what each network says.{among}",
                      pixels=True)  # fmt: skip


def _said(data: ClassificationData, labels: np.ndarray) -> str:
    """'cat', or 'cat (3), dog (2)' over the seeds."""
    found, counts = np.unique(labels, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    names = [data.class_names[label] if label < data.num_classes else f"output {label}" for label in found]
    if len(found) == 1:
        return names[0]
    return ", ".join(f"{names[place]} ({counts[place]})" for place in order)


def _images(data: ClassificationData, loader: Loader, rows: set[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Some test images' inputs as pixels, uint8, (H, W) or (H, W, 3); the loader is read up to the last of them."""
    white = white_of(data.name)
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (data.train.mean, data.train.std))
    start, left = 0, len(rows)
    for inputs, targets in loader.epoch(0) if rows else ():
        for row in sorted(rows & set(range(start, start + len(targets)))):
            planes = (inputs[row - start].float().cpu().numpy() * std + mean).clip(0, white) / white
            image = np.rint(255 * planes).astype(np.uint8)
            image = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
            step = max(1, -(-max(image.shape[:2]) // SIDE))
            yield row, image[::step, ::step]
            left -= 1
        start += len(targets)
        if not left:
            return
    if left:
        raise UserError(
            f"{left} of the chosen test images of {data.name} are not there any more: was it changed?"
        )
