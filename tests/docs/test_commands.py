"""Every command of the docs is one of ours, with options that exist; and it runs, in a small form, or says why not."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import shutil
import tomllib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import skimage
import torch

from lwdna.__main__ import find_command
from super_resolution.images import write_image
from tests.docs.fences import PAGES, ROOT, Fence, all_fences, fences
from tracking.datasets.demo_rendering import SCENES
from tracking.dimp.checkpoint import Description, save_network
from tracking.dimp.net import DiMPConfig
from tracking.evaluation.plots import save_plots

FACTORY = """\
from torch import nn

def factory():
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, 2))

def make(scale=2):
    last = nn.Conv2d(16, 3 * scale**2, 3, 1, 1)
    return nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), last, nn.PixelShuffle(scale))
"""
# What makes a command small, by its module: options, then entries of the protocol.
SMALL: dict[str, tuple[list[str], list[str]]] = {
    "classification.run": (
        ["--train-limit", "64", "--epochs", "1", "--no-progress"], ["train.batch_size=32", "shrink.batch_size=32"]),
    "super_resolution.run": (
        ["--epochs", "1", "--no-progress"],
        ["options.n_blocks=1", "options.n_feats=8", "data.crops_per_epoch=16", "data.patch=32", "shrink.round_to=1"]),
    "tracking.run": (
        ["--device", "cpu", "--epochs", "1", "--no-progress"],
        ["data.sequences_per_epoch=4", "data.views.crop=64", "data.workers=0", "train.batch_size=2",
         "shrink.batch_size=2", "shrink.batches=1", "network.classification_channels=8", "network.iou_channels=8",
         "network.optimizer_iterations=1"]),
}  # fmt: skip
SMALL["tracking.train"] = (
    SMALL["tracking.run"][0],
    [e for e in SMALL["tracking.run"][1] if "shrink" not in e],
)
FOR_PHOTOGRAPHS = ["data.size=32", "train.batch_size=4", "shrink.batch_size=4", "data.workers=0"]
COMMANDS = [(fence, line) for fence in all_fences() if fence.language == "sh" for line in fence.commands]


class Parsed(BaseException):
    """Arguments have been read; nothing else is to happen."""


def module_and_arguments(words: list[str]) -> tuple[str, list[str]] | None:
    """Of `python -m MODULE …`, `lwdna …` and `torchrun … -m MODULE …`."""
    if words[0] == "lwdna":
        return None if words[1:] == ["--version"] else find_command(words[1:])
    if words[0] in ("python", "torchrun", "srun", ".venv/bin/python") and "-m" in words:
        place = words.index("-m")
        return words[place + 1], words[place + 2 :]
    return None


@pytest.mark.parametrize("fence", all_fences(), ids=lambda fence: fence.page)
def test_blocks_say_what_they_are(fence: Fence) -> None:
    assert fence.language in {"sh", "python", "yaml", "text"}
    assert not fence.words or any(word in fence.text for word in fence.words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_read_as_they_stand(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = argparse.ArgumentParser.parse_args

    def stop(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        read(self, args, namespace)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    for fence in fences(page):
        for line in fence.commands if fence.language == "sh" else []:
            words = shlex.split(line)
            found = module_and_arguments(words)
            if words[0] == "make":
                assert words[1] in targets, line
            elif words[0] == "pip":
                assert set(re.findall(r"\[([\w,]+)\]", line)) <= extras, line
            elif found and found[0].partition(".")[0] not in ("pytest", "lwdna", "http"):
                with pytest.raises(Parsed):
                    importlib.import_module(found[0]).main(found[1])
            else:
                assert found or words[0] in KNOWN or fence.reason, line


KNOWN = {"python", "lwdna"}  # programs of a page, which its own test runs


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands work on: networks, photographs, a video, checkpoints."""
    folder = tmp_path_factory.mktemp("assets")
    (folder / "path/to").mkdir(parents=True)
    for name in ("file.py", "mynet.py"):
        (folder / "path/to" / name).write_text(FACTORY)
    photo = skimage.data.astronaut()
    for kind in ("cats", "dogs"):
        for number in range(6):
            top = 60 * number
            part = photo[top : top + 48, 100:160] if kind == "cats" else photo[top : top + 60, 300:348]
            write_image(folder / f"path/to/photos/{kind}/{number}.png", np.ascontiguousarray(part))
    for name in (
        "path/to/new/a.png",
        "path/to/test/a.png",
        "mine/a.jpg",
        "IMAGES/a.png",
        "path/to/images/a.png",
        "folder/of/images/1.png",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), np.ascontiguousarray(photo[:64, 100:196, ::-1]))
    write_image(folder / "low.png", np.ascontiguousarray(photo[100:112, 200:216]))
    writer = cv2.VideoWriter(str(folder / "video.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (256, 256))
    for shift in range(3):
        writer.write(np.ascontiguousarray(photo[shift : shift + 256, 100:356, ::-1]))
    writer.release()
    shutil.copy(folder / "video.mp4", folder / "VIDEO.mp4")
    torch.manual_seed(0)
    spaces: dict[str, Any] = {}
    exec(FACTORY, spaces)
    torch.save({"state_dict": spaces["factory"]().state_dict()}, folder / "model_best.pth.tar")
    torch.save(spaces["make"]().state_dict(), folder / "weights.pth")
    described = Description(
        "resnet18-small", None, DiMPConfig(classification_channels=8, iou_channels=8), {"crop_size": 64}
    )
    save_network(folder / "tracker.safetensors", described.build(), described)
    for module, name in (("classification.run", "WORK"), ("super_resolution.run", "SR")):
        options, entries = SMALL[module]
        sets = ["data.benchmarks=('skimage',)"] if name == "SR" else []
        arguments = [*options, "--work-dir", str(folder / name), "--cfg-options", *entries, *sets]
        assert importlib.import_module(module).main(arguments) == 0
    done.update({"python -m super_resolution.run --scale 4"})
    return folder


@pytest.fixture
def desk(assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all of it, to type in; of the data set `demo` a few scenes alone."""
    shutil.copytree(assets, tmp_path, dirs_exist_ok=True)
    (tmp_path / "shared_configs").symlink_to(ROOT / "shared_configs")
    for split, count in (("test", 1), ("train", 3), ("random", 3)):
        monkeypatch.setitem(
            SCENES, split, tuple(replace(scene, frames=22) for scene in SCENES[split][:count])
        )
    monkeypatch.setenv("LWDNA_CACHE", str(assets / "cache"))
    monkeypatch.setenv("LWDNA_DATA", str(tmp_path / "nothing"))
    monkeypatch.setattr("tracking.experiment.report.save_plots", partial(save_plots, formats=("png",)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def in_small(module: str, arguments: list[str]) -> list[str]:
    """A command's arguments, so that it ends soon."""
    if module.startswith("super_resolution"):
        arguments = [word.replace("WORK", "SR") for word in arguments]
    names = {"VIDEO": "VIDEO.mp4", "WORK_DIR": "WORK"}
    arguments = [names.get(word, word) for word in arguments]
    if "export" in module:
        arguments = [*arguments, "--turns", "0"]
    if "--seeds" in arguments:  # a resume needs more than there were
        place = arguments.index("--seeds") + 1
        arguments = [*arguments[:place], "2" if "--resume" in arguments else "1", *arguments[place + 1 :]]
    if module not in SMALL or "--resume" in arguments:
        return arguments
    options, entries = SMALL[module]
    options, entries = list(options), list(entries)
    about_widths = {"--budget", "--floor", "--method"} & set(arguments) or "shrink." in " ".join(arguments)
    if about_widths and "--pretrained" not in arguments:
        options += ["--stages", "shrink", "--work-dir", f"stages-{len(done)}"]
    if any("photos" in word for word in arguments) and module == "classification.run":
        entries, options = list(FOR_PHOTOGRAPHS), options[2:]
        if "--model" not in arguments:
            options += ["--model", "resnet20"]
    if module == "super_resolution.run" and not any("benchmarks" in word for word in arguments):
        entries.append("data.benchmarks=('skimage',)")
    if module == "super_resolution.run" and "--model" in arguments:
        entries = [entry for entry in entries if not entry.startswith("options")]
    if module == "tracking.run":
        from tracking.datasets import list_entries

        entries.append("evaluation.split=test")
        entries.append(f"evaluation.sequences=('{list_entries('demo')[0].name}',)")
    own = arguments.index("--cfg-options") + 1 if "--cfg-options" in arguments else None
    if own is None:
        return [*arguments, *options, "--cfg-options", *entries]
    return [*arguments[:own], *entries, *arguments[own:], *options]


MADE = "python -m classification.run --work-dir WORK"  # the fixture has run it, as its result is needed everywhere
done: set[str] = set()
# These run with a folder whose content a page goes on with; the same command without it stands elsewhere.
WITH_FOLDER = {
    line.replace(" --work-dir WORK", "")
    for fence, line in COMMANDS
    if fence.is_run(line) and line.endswith(" --work-dir WORK")
}
TO_RUN = dict.fromkeys(
    fence.page for fence, line in COMMANDS if fence.is_run(line) and module_and_arguments(shlex.split(line))
)


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.name in TO_RUN and page.name != "runners.md"],
    ids=lambda page: page.name,
)
def test_commands_run(page: Path, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the order of the page. Commands that stand on several pages are run once; runners.md has tests of its own."""
    lines = [(line, fence) for fence in fences(page) if fence.language == "sh" for line in fence.commands]
    made = next((line for line, _ in lines if "--work-dir WORK" in line and "--resume" not in line), MADE)
    if made != MADE:
        shutil.rmtree(desk / "WORK")
    for line, fence in lines:
        found = module_and_arguments(shlex.split(line))
        if found is None or not fence.is_run(line) or line in WITH_FOLDER or line == MADE:
            continue
        key = line.replace("VIDEO", "video.mp4")  # the same video
        if key in done and ("WORK" not in line or made == MADE):
            continue
        done.add(key)
        module, arguments = found
        arguments = in_small(module, arguments)
        status = importlib.import_module(module).main(arguments)
        assert status == 0, (line, arguments, capsys.readouterr())
