"""`python -m classification.predict IMAGE|FOLDER ... --checkpoint C`: the likeliest classes of images.

Exit status 0: all images were classified; 1: some could not be read (they are named and counted); 2: none could, or
wrong usage.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from classification.checkpoint import Description, load_network
from classification.data.augmentation import Normalisation
from classification.data.scan import KINDS, list_images, summary
from classification.evaluation import TOP, likeliest
from classification.inputs import read_input
from core.command_line.exits import run_parsed
from core.command_line.parsers import add_checkpoint_arguments, command_parser
from core.command_line.pixels import add_max_pixels, limited
from core.errors import MissingData, NonFiniteOutput, UserError
from core.storage.files import atomic_write, refuse_overwriting, write_json
from core.storage.images import BadImage
from core.terminal import watched
from core.training.devices import pick_device

ENDINGS = (".json", ".csv")
EXAMPLES = (
    "classification.predict photo.jpg --checkpoint WORK/lwdna.safetensors",
    "classification.predict path/to/photos --checkpoint WORK/lwdna.safetensors --out predictions.csv",
    "classification.predict photo.jpg --checkpoint WORK/lwdna.safetensors --model path/to/net.py:factory",
)


@dataclass(frozen=True)
class Prediction:
    """A classifier's prediction for one image.

    Attributes:
        file: the image.
        classes: the likeliest classes with their probabilities, the likeliest first; empty if the image cannot be read.
        error: why it cannot be read; "" if it can.
    """

    file: Path
    classes: tuple[tuple[str, float], ...] = ()
    error: str = ""

    def __str__(self) -> str:
        return f"{self.file}: " + "; ".join(f"{name} {100 * share:.1f} %" for name, share in self.classes)


@dataclass(frozen=True)
class Classifier:
    """A network with all that is needed to classify image files.

    Attributes:
        network: in evaluation mode, on `device`.
        description: of its inputs and classes.
        device: where it runs.
    """

    network: torch.nn.Module
    description: Description
    device: torch.device

    @torch.inference_mode()
    def predict(self, files: Sequence[Path], batch_size: int = 64) -> Iterator[Prediction]:
        """Classify image files, in order; one that cannot be read gets a prediction that says so.

        Raises:
            NonFiniteOutput: the network's outputs are NaN or infinite.
        """
        normalise = Normalisation.of(self.description.mean, self.description.std, self.device)
        for start in range(0, len(files), batch_size):
            batch = files[start : start + batch_size]
            pixels: dict[Path, np.ndarray] = {}
            errors: dict[Path, str] = {}
            for file in batch:
                try:
                    pixels[file] = read_input(file, self.description)
                except BadImage as error:
                    errors[file] = str(error)
            said: dict[Path, tuple[tuple[str, float], ...]] = {}
            if pixels:
                images = torch.from_numpy(np.stack(list(pixels.values()))).to(self.device)
                try:
                    best, shares = likeliest(self.network(normalise(images)).float())
                except NonFiniteOutput as error:
                    raise NonFiniteOutput(f"{error}; the first image of the batch is '{batch[0]}'") from error
                for file, row, share in zip(pixels, best.tolist(), shares.tolist(), strict=True):
                    said[file] = tuple(zip(map(self.name, row), share, strict=True))
            for file in batch:
                yield Prediction(file, said.get(file, ()), errors.get(file, ""))

    def name(self, output: int) -> str:
        """The class name of an output; a network of the user's own may have more outputs than there are classes."""
        classes = self.description.classes
        return classes[output] if output < len(classes) else f"output {output}"


def open_classifier(checkpoint: str | Path, *, device: str = "auto", model: str | None = None) -> Classifier:
    """Load a checkpoint for use.

    Args:
        checkpoint: a file that `classification.checkpoint.save_network` wrote.
        device: see `core.training.devices.pick_device`.
        model: the factory of a checkpoint of the user's own network, see `classification.checkpoint.build_network`.

    Raises:
        UserError: the checkpoint is missing, damaged or of another task, or the device is not there.
    """
    network, description = load_network(checkpoint, model)
    place = pick_device(device)
    return Classifier(network.to(place), description, place)


def find_files(sources: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """The named images, those of folders by the rules of `docs/classification_data.md`, and notes for the user.

    Raises:
        MissingData: there is no such file, or no image in a folder.
    """
    files: list[Path] = []
    notes: list[str] = []
    for source in sources:
        if not source.exists():
            raise MissingData(f"'{source}' not found: name image files or folders of images")
        if not source.is_dir():
            files.append(source)
            continue
        listing = list_images(source)
        skipped = summary(listing.left_out)
        if not listing.files:
            raise MissingData(
                f"no image in '{source}'{f' ({skipped})' if skipped else ''}: put {KINDS} files there"
            )
        files += [source / name for name in listing.files]
        if skipped:
            notes.append(f"'{source}': {skipped}, such as '{listing.left_out[0].path}'")
    return list(dict.fromkeys(files)), notes


def write_predictions(path: Path, predictions: Sequence[Prediction], checkpoint: Path) -> None:
    """Write all predictions, by the ending of `path`: as JSON, or as CSV with a line for every class of every image."""
    if path.suffix.lower() == ".json":
        entries: list[dict[str, Any]] = [
            {"file": str(item.file), "error": item.error}
            if item.error
            else {
                "file": str(item.file),
                "classes": [{"class": name, "probability": share} for name, share in item.classes],
            }
            for item in predictions
        ]
        write_json(path, {"checkpoint": str(checkpoint), "images": entries})
        return
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "rank", "class", "probability", "error"])
        for item in predictions:
            for rank, (name, share) in enumerate(item.classes, 1):
                writer.writerow([item.file, rank, name, share, ""])
            if item.error:
                writer.writerow([item.file, "", "", "", item.error])


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("classification.predict", __doc__, EXAMPLES)
    parser.add_argument(
        "sources", metavar="IMAGE|FOLDER", nargs="+", type=Path, help="images, folders of images at any depth"
    )
    add_checkpoint_arguments(parser, "classification.run")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help=f"also write the {TOP} likeliest classes, *.json or *.csv"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="images at a time (default: 64)")
    add_max_pixels(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Classify and print; returns the exit status."""
    if options.batch_size < 1:
        raise UserError(f"--batch-size is {options.batch_size}: use at least 1")
    out = options.out
    if out is not None and out.suffix.lower() not in ENDINGS:
        raise UserError(f"--out '{out}': allowed endings are {', '.join(ENDINGS)}")
    files, notes = find_files(options.sources)
    refuse_overwriting(
        [("--out", out)],
        [
            ("the checkpoint that is read", options.checkpoint),
            *(("an image that is read", file) for file in files),
        ],
    )
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    classifier = open_classifier(options.checkpoint, device=options.device, model=options.model)
    predictions = []
    for item in watched(classifier.predict(files, options.batch_size), "images", len(files)):
        predictions.append(item)
        if item.error:
            print(f"not classified: {item.error}", file=sys.stderr)
        else:
            print(item)
    failed = [item for item in predictions if item.error]
    if len(failed) == len(predictions):
        raise UserError(f"none of {len(failed)} images could be read; the first: {failed[0].error}")
    if out is not None:
        write_predictions(out, predictions, options.checkpoint)
        print(f"written: {out}")
    if failed:
        print(f"{len(failed)} of {len(predictions)} images could not be read", file=sys.stderr)
    return 1 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; see the module's docstring for exit statuses."""
    return run_parsed(build_parser(), limited(run), argv, "start it again")


if __name__ == "__main__":
    sys.exit(main())
