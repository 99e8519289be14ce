"""All readers of files in the project, each with a valid file: for the tests that feed them others.

A reader that is added to the project gets an entry here. `tests/test_code_never_runs.py` then feeds it files that would
betray it, and `tests.torture` files that are damaged in every way that its form allows.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import scipy.io
import torch
import yaml
from PIL import Image
from skimage import data as photographs
from torch import nn

import classification.checkpoint
import classification.models
import core.inspect
import super_resolution.checkpoint
import super_resolution.convert
import super_resolution.models
import tracking.dimp.checkpoint
from classification.config import RunConfig as ClassificationConfig
from classification.data import cache as classification_cache
from classification.data.cifar import _load as read_cifar
from classification.data.images import read_rgb
from classification.data.listed import _matrix
from classification.data.photographs import _read_digests
from classification.data.scan import read_list
from classification.panels import Kept
from classification.task import _content, read_skipped
from core.command_line.config import dump_config, load_config
from core.experiments.experiment import FAILED_FILE, _read_failures
from core.experiments.page import Times
from core.experiments.plan import PLAN_FILE, new_plan, stored_plan
from core.experiments.pretrained import open_pretrained
from core.experiments.sequential import Contrast, Registered, read_registered
from core.experiments.store import _read as read_record
from core.experiments.store import plain
from core.export.formats import export
from core.graph.channels import trace_channels
from core.storage.checkpoint import (
    load_state,
    load_weights,
    read_metadata,
    read_weights,
    save_state,
    save_weights,
)
from core.storage.claims import Claim
from core.storage.claims import _read as read_claim
from core.storage.description import Origin
from core.storage.files import write_json
from core.storage.images import read_image, read_profile
from core.storage.packed import read_packed, write_packed
from core.storage.schema import read_kept
from core.storage.video import VideoFile, open_video_file
from core.surgery.architecture import Architecture, describe_inputs
from core.training.divergence import FILE, Divergence, read_divergences, write_divergences
from core.training.run_files import EpochRecord, RunFiles, read_history
from super_resolution.config import RunConfig as SuperResolutionConfig
from super_resolution.images import read_photo, read_upright
from super_resolution.models.basicsr_options import read_options
from tests.core.export.toys import Pooled, subject
from tests.tracking.training.trees import small_config
from tracking.datasets import read_size
from tracking.datasets.entries import DatasetRequest, Entry
from tracking.datasets.got10k import entries as got10k_entries
from tracking.datasets.sequence import FrameFolder
from tracking.dimp.backbones import backbone_trunk, load_backbone_weights
from tracking.dimp.net import DiMPConfig
from tracking.evaluation.stored_results import read_times
from tracking.files.archives import StoredFile, zip_members
from tracking.files.boxes import format_boxes, parse_boxes, parse_flags
from tracking.files.images import read_frame
from tracking.online.runner import _claim
from tracking.online.trackers import TrackerSpec
from tracking.training import TrackingConfig
from tracking.training.coco import _stored, parse_objects

Form = Literal["json", "lines of json", "yaml", "literals", "text", "safetensors", "torch", "pickle", "matlab", "numpy",
               "packed", "image", "video", "zip"]  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """One way in which the project reads a file.

    Attributes:
        file: the file's name; readers of a folder get the folder in which it lies.
        read: from a path to whatever it reads.
        valid: writes a file that it reads, by the project's own writers where there are some.
        form: of the file, which tells how it can be damaged.
        named: whether messages name the file; a line of a command line has no file.
    """

    file: str
    read: Callable[[Path], Any]
    valid: Callable[[Path], object]
    form: Form
    named: bool = True


def within(name: str, read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """A reader of a folder that looks at the file called `name` in it."""

    def read_renamed(path: Path) -> Any:
        target = path.with_name(name)
        if target != path and os.path.lexists(path):
            path.rename(target)
        return read(target.parent)

    return read_renamed


def got10k_list(folder: Path) -> list[str]:
    """The names in a split's list."""
    request = DatasetRequest(root=folder, split="val", annotations=folder)
    return [entry.name for entry in got10k_entries(request)]


def stated_size(path: Path) -> Any:
    """What GOT-10k says of a sequence."""
    entry = Entry("a", StoredFile(path.with_name("groundtruth.txt")), FrameFolder(path.parent), size=path)
    return read_size(entry)


def photograph(path: Path) -> None:
    """A piece of scikit-image's astronaut, in the format of the file's ending."""
    Image.fromarray(photographs.astronaut()[60:124, 190:270]).save(
        path, **{"exif": _turned()} if path.suffix == ".jpg" else {}
    )


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    return exif.tobytes()


def video(path: Path) -> None:
    """Windows that slide over that photograph."""
    picture = np.ascontiguousarray(photographs.astronaut())
    with VideoFile(path, 25.0) as file:
        for number in range(8):
            file.write(picture[60:108, 150 + 4 * number : 214 + 4 * number])


def small_network() -> nn.Sequential:
    """A layer of each kind that has a state of its own."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))


def state(path: Path) -> None:
    """As a training leaves it."""
    network = small_network()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    network(torch.ones(1, 3, 5, 5)).mean().backward()
    optimizer.step()
    position = {
        "epoch": 1,
        "first_loss": None,
        "sums": {"loss": float("inf")},
        "history": [{"epoch": 1, "lr": 0.1}],
    }
    save_state(path, {"identity": {"a": [1, 2], "pair": (1, 2.5)}, "model": network.state_dict(),
                      "optimizer": optimizer.state_dict(), "position": position})  # fmt: skip


def saved(content: Callable[[], Any]) -> Callable[[Path], None]:
    """A torch checkpoint."""
    return lambda path: torch.save(content(), path)


def training_checkpoint() -> dict[str, Any]:
    """As other people's trainings leave it."""
    weights = small_network().state_dict()
    return {"state_dict": weights, "ema": {"module": dict(weights)}, "epoch": 3, "args": Namespace(lr=0.1),
            "optimizer": {"state": {0: {"momentum_buffer": torch.ones(4)}}, "param_groups": [{"lr": 0.1}]}}  # fmt: skip


def classifier_description() -> classification.checkpoint.Description:
    """Of a network with found widths."""
    network = classification.models.build("resnet20", 3, dataset="digits")
    example = torch.zeros(1, 1, 8, 8)
    widths = {name: max(1, width // 2) for name, width in trace_channels(network, example).widths.items()}
    found = Architecture("resnet20", widths, describe_inputs(example))
    return classification.checkpoint.Description(
        "resnet20", "digits", ("0", "1", "2"), (1, 8, 8), (0.0,), (16.0,), found.to_json(), "fit", 16
    )


ORIGIN = Origin("digits", "lwdna", 0, {"train": {"epochs": 1, "optimizer": {"lr": 0.1}}}, ("A note.",))


def classifier(path: Path) -> None:
    description = classifier_description()
    network = classification.checkpoint.build_network(description)
    classification.checkpoint.save_network(path, network, description, ORIGIN)


def upscaler(path: Path) -> None:
    description = super_resolution.checkpoint.describe("edsr", 2, {"n_blocks": 1, "n_feats": 4}, 3)
    network = super_resolution.checkpoint.build_network(description)
    super_resolution.checkpoint.save_network(path, network, description, ORIGIN)


def basicsr_checkpoint() -> dict[str, Any]:
    """As BasicSR writes them: the mean colour is no part of it."""
    weights = super_resolution.models.build("edsr", 2, n_blocks=1, n_feats=4).state_dict()
    return {"params": {name: value for name, value in weights.items() if "_mean." not in name}}


def tracker_description() -> tracking.dimp.checkpoint.Description:
    heads = DiMPConfig(classification_channels=8, iou_channels=8, optimizer_iterations=1)
    return tracking.dimp.checkpoint.Description(
        backbone="resnet18-small", config=heads, settings={"crop_size": 64, "search_area": 5.0}
    )


def tracker(path: Path) -> None:
    description = tracker_description()
    tracking.dimp.checkpoint.save_network(path, description.build(), description, ORIGIN)


def record(path: Path) -> None:
    """Of a trial, with widths."""
    write_json(path, {"method": "uniform", "seed": 0, "architecture": classifier_description().architecture,
                      "metrics": {"error": 12.5, "psnr": float("inf")},
                      "recipe": {"train": {"epochs": 2}}})  # fmt: skip


def data_listing(path: Path) -> None:
    write_json(path, {"content": "0" * 64, "classes": ["a", "b"], "held_out": ["a/1.png"]})


def annotations(path: Path) -> None:
    """COCO's, of three objects."""
    objects = [{"id": number, "image_id": number % 2, "bbox": [1.5, 2, 30, 40.25], "iscrowd": int(number == 2)}
               for number in range(3)]  # fmt: skip
    write_json(path, {"images": [{"id": number, "file_name": f"{number}.jpg"} for number in range(2)],
                      "annotations": objects})  # fmt: skip


def objects(path: Path) -> None:
    source = path.with_name("annotations.json")
    annotations(source)
    np.save(path, parse_objects(source))


DECODED = np.dtype([("readable", bool), ("image", np.uint8, (3, 8, 8))])


def cifar(path: Path) -> None:
    """As in the official archive, of two images."""
    pixels = photographs.astronaut()[:64, :32].reshape(2, -1)
    path.write_bytes(
        pickle.dumps({b"data": pixels, b"labels": [3, 5], b"filenames": [b"a", b"b"]}, protocol=4)
    )


def results(path: Path) -> None:
    """Boxes of two sequences, as trackers' results are handed out."""
    boxes = np.array([[10.0, 20.5, 30.0, 40.0]] * 5)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("tracker/airplane-1.txt", "tracker/bird-2.txt"):
            archive.writestr(name, format_boxes(boxes + len(name)))


def epochs(path: Path) -> None:
    RunFiles(path.parent).write_log(
        [
            EpochRecord(n, 0.1, 2.0 / n, {"top1": 0.5}, {"top1": 0.25 * n}, 1.5, 320, 2.3, {"top1": 0.1})
            for n in (1, 2)
        ]
    )
    if path != RunFiles(path.parent).log:
        RunFiles(path.parent).log.rename(path)


def divergences(path: Path) -> None:
    write_divergences(
        path.parent, (Divergence("loss is NaN", 2, 30, 0.1, 20, 0.01), Divergence("x", 3, 50, 0.01, 40))
    )
    path.with_name(FILE).rename(path)


def plan(path: Path) -> None:
    new_plan("classification", 0, 2, ["uniform", "random"], "data", "dhp").save(path.parent)
    path.with_name(PLAN_FILE).rename(path)


def contrasts(path: Path) -> None:
    registered = Registered((Contrast("uniform", "baseline"), Contrast("uniform", "lwdna")), (4, 8), "error", 0.05, 0.3,
                            "2026-01-01", 0.2)  # fmt: skip
    write_json(path, asdict(registered))


def yaml_text(path: Path) -> None:
    path.write_text(yaml.safe_dump(plain(asdict(ClassificationConfig())), sort_keys=False))


def basicsr_options(path: Path) -> None:
    network = {"type": "EDSR", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_block": 2, "upscale": 2,
               "res_scale": 1, "img_range": 255.0, "rgb_mean": [0.4488, 0.4371, 0.4040]}  # fmt: skip
    path.write_text(yaml.safe_dump({"name": "x", "scale": 2, "network_g": network}))


def text(*lines: str) -> Callable[[Path], object]:
    """A text of these lines."""
    return lambda path: path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


BOXES = ("10,20,30,40", "11.5,20.25,30,40", "nan,nan,nan,nan", "-1,0,3,4")
SETTING = 'data.views={"crop": 64, "proposal_sigmas": [0.1, 0.2]}'

READERS: dict[str, Reader] = {
    "YAML configuration": Reader(
        "a.yaml", lambda path: load_config(path, ClassificationConfig), yaml_text, "yaml"
    ),
    "JSON configuration": Reader(
        "a.json",
        lambda path: load_config(path, SuperResolutionConfig),
        lambda path: write_json(path, plain(asdict(SuperResolutionConfig()))),
        "json",
    ),
    "stored protocol": Reader(
        "config.py",
        lambda path: load_config(path, TrackingConfig, dumped=True),
        lambda path: dump_config(small_config(Path("sequences")), path),
        "literals",
    ),
    "option of a command line": Reader(
        "a.txt",
        lambda path: load_config(
            None,
            TrackingConfig,
            [
                "data.sources=[{'dataset': 'demo'}]",
                " ".join(path.read_bytes().decode("latin1").splitlines())[:1_000],
            ],
        ),
        text(SETTING),
        "text",
        named=False,
    ),
    "BasicSR's options": Reader("a.yml", read_options, basicsr_options, "yaml"),
    "plan": Reader(
        "a.json",
        within(PLAN_FILE, lambda folder: stored_plan(folder, "classification", 0, lambda line: None)),
        plan,
        "json",
    ),
    "record": Reader("a.json", lambda path: read_record(path, "to be recorded anew"), record, "json"),
    "claim": Reader("claim.json", read_claim, lambda path: write_json(path, asdict(Claim.own())), "json"),
    "predictions": Reader(
        "a.json",
        lambda path: read_kept(path, Kept),
        lambda path: write_json(path, {"weights": "", "targets": [0, 1, 1], "predicted": [0, 1, 0]}),
        "json",
    ),
    "times of networks": Reader(
        "a.json",
        lambda path: read_kept(path, Times),
        lambda path: write_json(
            path,
            {
                "seconds": {"baseline": 0.1},
                "device": "cpu",
                "threads": 1,
                "repeats": 3,
                "inputs": [[1, 3, 8, 8]],
                "networks": "key",
            },
        ),
        "json",
    ),
    "failures": Reader(
        "a.json",
        within(FAILED_FILE, lambda folder: _read_failures(SimpleNamespace(work_dir=folder))),  # type: ignore[arg-type]
        lambda path: write_json(path, [{"method": "uniform", "seed": 0, "error": "out of memory"}]),
        "json",
    ),
    "divergences": Reader("a.json", within(FILE, read_divergences), divergences, "json"),
    "log": Reader("a.jsonl", within(RunFiles(Path()).log.name, read_history), epochs, "lines of json"),
    "contrasts": Reader("a.json", read_registered, contrasts, "json"),
    "data's content": Reader("data.json", _content, data_listing, "json"),
    "images that were skipped": Reader(
        "skipped.txt",
        lambda path: read_skipped(path.parent),
        text("a/1.png\ttruncated", "a/2.png\tempty"),
        "text",
    ),
    "digests": Reader(
        "a.json", lambda path: _read_digests(path, 1), lambda path: write_json(path, ["0" * 32]), "json"
    ),
    "widths": Reader(
        "widths.json",
        Architecture.load,
        lambda path: write_json(path, classifier_description().architecture),
        "json",
    ),
    "state": Reader("last.safetensors", load_state, state, "safetensors"),
    "header": Reader("a.safetensors", read_metadata, classifier, "safetensors"),
    "weights": Reader(
        "a.safetensors", read_weights, lambda path: save_weights(small_network(), path), "safetensors"
    ),
    "weights into a network": Reader(
        "a.pth", lambda path: load_weights(small_network(), path), saved(training_checkpoint), "torch"
    ),
    "torch checkpoint": Reader("a.pth", read_weights, saved(training_checkpoint), "torch"),
    "trained weights": Reader(
        "a.pth", lambda path: open_pretrained(str(path), small_network), saved(training_checkpoint), "torch"
    ),
    "checkpoint of a classifier": Reader(
        "a.safetensors", classification.checkpoint.load_network, classifier, "safetensors"
    ),
    "checkpoint of an upscaler": Reader(
        "a.safetensors", super_resolution.checkpoint.load_network, upscaler, "safetensors"
    ),
    "checkpoint of a tracker": Reader(
        "a.safetensors", tracking.dimp.checkpoint.load_network, tracker, "safetensors"
    ),
    "published tracker": Reader(
        "dimp50.pth",
        tracking.dimp.checkpoint.read_published,
        saved(lambda: {"net": tracker_description().build().state_dict(), "epoch": 50}),
        "torch",
    ),
    "published upscaler": Reader(
        "a.pth",
        lambda path: super_resolution.convert.convert_file(path, path.with_name("b.safetensors")),
        saved(basicsr_checkpoint),
        "torch",
    ),
    "weights of a backbone": Reader(
        "a.pth",
        lambda path: load_backbone_weights(backbone_trunk("resnet18-small"), path),
        saved(lambda: backbone_trunk("resnet18-small").state_dict()),
        "torch",
    ),
    "inspect": Reader(
        "a.safetensors",
        lambda path: core.inspect.run(Namespace(file=path, json=False)),
        classifier,
        "safetensors",
    ),
    "inspect of a program": Reader(
        "a.pt2",
        lambda path: core.inspect.run(Namespace(file=path, json=False)),
        lambda path: export(subject(Pooled()), path),
        "zip",
    ),
    "CIFAR's pickle": Reader("data_batch_1", read_cifar, cifar, "pickle"),
    "MATLAB's file": Reader(
        "labels.mat",
        within("imagelabels.mat", lambda folder: _matrix(folder, "imagelabels.mat", "labels")),
        lambda path: scipy.io.savemat(path, {"labels": np.arange(1, 9, dtype=np.uint8)[None]}),
        "matlab",
    ),
    "list of a data set": Reader(
        "list.txt", lambda path: read_list(path, "its page"), text("a 1", "b 2"), "text"
    ),
    "list of sequences": Reader(
        "list.txt",
        lambda path: got10k_list(path.parent),
        text("GOT-10k_Val_000001", "GOT-10k_Val_000002"),
        "text",
    ),
    "size of a sequence": Reader(
        "meta_info.ini",
        stated_size,
        text("[METAINFO]", "url: x", "resolution: (1920, 1080)", "cut_duration: 9s"),
        "text",
    ),
    "decoded images": Reader(
        "a.npy",
        lambda path: classification_cache._open(path, 2, DECODED),
        lambda path: np.save(path, np.ones(2, DECODED)),
        "numpy",
    ),
    "COCO's objects, decoded": Reader("a.npy", _stored, objects, "numpy"),
    "COCO's annotations": Reader("a.json", parse_objects, annotations, "json"),
    "packed cache": Reader(
        "a.bin",
        lambda path: read_packed(path, b"LWDNATST"),
        lambda path: write_packed(
            path, b"LWDNATST", [np.arange(64, dtype=np.uint8)], lambda: {"first": [0, 64]}
        ),
        "packed",
    ),
    "image": Reader("a.png", lambda path: read_image(path, upright=True), photograph, "image"),
    "photograph of a camera": Reader(
        "a.jpg", lambda path: read_image(path, upright=True), photograph, "image"
    ),
    "classifier's image": Reader("a.png", read_rgb, photograph, "image"),
    "image to train on": Reader("a.webp", read_photo, photograph, "image"),
    "image to enlarge": Reader("a.tif", read_upright, photograph, "image"),
    "frame": Reader("a.jpg", read_frame, photograph, "image"),
    "colour profile": Reader("a.jpg", read_profile, photograph, "image"),
    "video": Reader("a.mp4", open_video_file, video, "video"),
    "boxes": Reader(
        "a.txt", lambda path: parse_boxes(StoredFile(path).read(), str(path)), text(*BOXES), "text"
    ),
    "flags": Reader(
        "a.txt",
        lambda path: parse_flags(StoredFile(path).read(), str(path)),
        text("0", "1", "1", "0"),
        "text",
    ),
    "times": Reader(
        "a.txt", lambda path: read_times(StoredFile(path)), text("0.01,0.02", "nan,0.5", "1e-3,2"), "text"
    ),
    "archive of results": Reader(
        "a.zip",
        lambda path: {member.member: member.read() for member in zip_members(path)},
        results,
        "zip",
    ),
    "record of a tracker's run": Reader(
        "a.json",
        within("run.json", lambda folder: _claim(folder, TrackerSpec("still"))),
        lambda path: write_json(path, TrackerSpec("still").record() | {"python": "3.11"}),
        "json",
    ),
}
