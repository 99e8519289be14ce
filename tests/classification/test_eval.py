"""An evaluation says exactly what the run's table said, and adds up."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from sklearn.datasets import load_sample_image

from classification.checkpoint import load_network, read_description, save_network
from classification.data import DataConfig, open_dataset
from classification.eval import main, outputs_of
from classification.evaluation import error_rates, judge
from classification.inputs import read_input
from classification.predict import main as predict
from classification.run import main as run_main
from core.errors import UserError
from tests.classification.trained import held_out_digits, train, write_digits

pytestmark = pytest.mark.usefixtures("unarranged")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("run") / "work", "--controls", "uniform", "--seeds", "1")


def evaluated(work: Path, method: str, out: Path, *more: str) -> dict[str, object]:
    assert main(["--checkpoint", str(work / f"{method}.safetensors"), "--out", str(out), *more]) == 0
    found: dict[str, object] = json.loads((out / "eval.json").read_text())
    return found


@pytest.mark.parametrize("method", ["baseline", "lwdna", "uniform"])
def test_the_errors_are_those_of_the_runs_table(work: Path, tmp_path: Path, method: str) -> None:
    table = json.loads((work / "result.json").read_text())["methods"][method]["metrics"]
    metrics = evaluated(work, method, tmp_path)["metrics"]
    for key in ("top1_error", "top5_error"):
        assert [metrics[key]] == table[key]["values"]  # exactly


def test_the_result_adds_up(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = evaluated(work, "lwdna", tmp_path)
    confusion = np.array(result["confusion"])
    images, labels = held_out_digits()
    assert result["images"] == confusion.sum() == len(labels)
    np.testing.assert_array_equal(confusion.sum(axis=1), np.bincount(labels))
    right = int(np.trace(confusion[:, :10]))
    assert result["metrics"]["top1_error"] == 100 * (len(labels) - right) / len(labels)
    for label, entry in enumerate(result["classes"]):
        assert (entry["images"], entry["right"]) == (confusion[label].sum(), confusion[label, label])
        others = np.delete(confusion[label], label)
        assert (entry["taken_for"] or {"images": 0})["images"] == others.max()
    losses = [entry["loss"] for entry in result["worst"]]
    assert len(losses) == 24
    assert losses == sorted(losses, reverse=True)
    for name in ("confusion.png", "worst.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 500
    out = capsys.readouterr().out
    assert f"top-1 error {result['metrics']['top1_error']:.2f} %" in out
    # The command that takes files, on the same images: the same classes.
    entry = result["worst"][0]
    (file,) = write_digits(tmp_path / "images", images[entry["image"] : entry["image"] + 1])
    assert predict([str(file), "--checkpoint", str(work / "lwdna.safetensors")]) == 0
    assert capsys.readouterr().out.startswith(
        f"{file}: {entry['taken_for']} {100 * entry['probability']:.1f} %"
    )


def test_image_by_image_is_the_same_count(work: Path) -> None:
    network, _ = load_network(work / "baseline.safetensors")
    network.train()
    loader = open_dataset("digits", ".").test_loader(64)
    judged, rates = judge(network, loader, "cpu", keep=3), error_rates(network, loader, "cpu")
    found = judged.metrics()
    assert (found["top1_error"], found["top5_error"]) == (rates["top1_error"], rates["top5_error"])
    assert found["loss"] == pytest.approx(rates["loss"], rel=1e-5)
    assert network.training
    order = judged.losses.argsort(descending=True, stable=True)[:3]
    assert [row for row, _ in judged.worst] == order.tolist()
    inputs = torch.cat([batch for batch, _ in loader.epoch(0)])
    for row, image in judged.worst:
        assert torch.equal(image, inputs[row])


def test_classes_go_by_their_names(work: Path, tmp_path: Path) -> None:
    """A network whose outputs stand in another order is as good."""
    network, description = load_network(work / "baseline.safetensors")
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    head = [module for module in network.modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.no_grad():
        head.weight.copy_(head.weight[order].clone())
        head.bias.copy_(head.bias[order].clone())
    classes = tuple(description.classes[place] for place in order)
    save_network(tmp_path / "mixed.safetensors", network, replace(description, classes=classes))
    mixed = evaluated(tmp_path, "mixed", tmp_path / "mixed")
    plain = evaluated(work, "baseline", tmp_path / "plain")
    assert mixed["metrics"]["top1_error"] == plain["metrics"]["top1_error"]
    assert mixed["confusion"] == plain["confusion"]


def test_what_was_trained_on_fewer_classes_and_smaller_images_is_evaluated_on_these(tmp_path: Path) -> None:
    work = train(tmp_path / "work", "data.classes=4", "data.downsample=2", "--stages", "baseline", "shrink",
                 "train", "compare")  # fmt: skip
    assert read_description(work / "lwdna.safetensors").input_shape == (1, 4, 4)
    result = evaluated(work, "lwdna", tmp_path / "eval")
    table = json.loads((work / "result.json").read_text())["methods"]["lwdna"]["metrics"]
    assert [result["metrics"]["top1_error"]] == table["top1_error"]["values"]
    assert "top5_error" not in result["metrics"]
    assert len(result["classes"]) == 4
    assert result["notes"] == [
        "A part of the data set: the first 4 classes, images averaged over 2x2 pixels."
    ]


def test_the_images_that_tested_a_network_test_it_again(tmp_path: Path) -> None:
    work = train(tmp_path / "work", "data.classes=4", "data.first_class=3", "data.test_per_class=20", "--stages",
                 "baseline", "shrink", "train", "compare")  # fmt: skip
    result = evaluated(work, "lwdna", tmp_path / "eval")
    table = json.loads((work / "result.json").read_text())["methods"]["lwdna"]["metrics"]
    assert [result["metrics"]["top1_error"]] == table["top1_error"]["values"]
    assert [item["class"] for item in result["classes"]] == ["3", "4", "5", "6"]
    assert min(item["images"] for item in result["classes"]) > 20


def test_a_folder_of_photographs_is_evaluated_and_predicted_as_it_was_tested(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pictures"
    photographs = {name: load_sample_image(f"{name}.jpg") for name in ("china", "flower")}
    for name, picture in photographs.items():
        (folder / name).mkdir(parents=True)
        for number in range(10):
            part = Image.fromarray(picture[20 * number : 200 + 20 * number, 30 * number : 250 + 30 * number])
            exif = Image.Exif()
            exif[ExifTags.Base.Orientation] = 6 if number % 2 else 1
            part.save(folder / name / f"{number}.png", exif=exif)
    work = tmp_path / "work"
    status = run_main(["--dataset", str(folder), "--model", "resnet20", "--work-dir", str(work), "--epochs", "1",
                       "--device", "cpu", "--no-progress", "--cfg-options", "data.size=32", "train.batch_size=4",
                       "shrink.batch_size=4", "data.workers=0"])  # fmt: skip
    assert status == 0
    command = ["--checkpoint", str(work / "lwdna.safetensors"), "--device", "cpu"]
    assert main(command) == 2
    assert "was trained on a folder called 'pictures': add --dataset PATH" in capsys.readouterr().err
    out = tmp_path / "eval"
    assert main([*command, "--dataset", str(folder), "--out", str(out), "--workers", "0"]) == 0
    result = json.loads((out / "eval.json").read_text())
    table = json.loads((work / "result.json").read_text())["methods"]["lwdna"]["metrics"]
    assert [result["metrics"]["top1_error"]] == table["top1_error"]["values"]
    data = open_dataset(str(folder), ".", DataConfig(size=32))
    description = read_description(work / "lwdna.safetensors")
    for row, (inputs, _) in enumerate(data.test_loader(1).epoch(0)):
        pixels = read_input(os.fsdecode(data.test.paths[row]), description)  # type: ignore[union-attr]
        mean, std = (torch.tensor(values)[:, None, None] for values in (description.mean, description.std))
        torch.testing.assert_close((torch.from_numpy(pixels) - mean) / std, inputs[0], rtol=1e-6, atol=1e-6)

    # At an image that cannot be read it does as the run did, which left them out, and stops where it is told to, or
    # where the run says nothing of such images: it was trained on others.
    held_out = Path(os.fsdecode(data.test.paths[0]))  # type: ignore[union-attr]
    held_out.write_bytes(held_out.read_bytes()[:600])
    again = [*command, "--dataset", str(folder), "--out", str(tmp_path / "again"), "--workers", "0"]
    with pytest.warns(UserWarning, match="1 of 20 images left out"):
        assert main(again) == 0
    assert "1 unreadable test image was left out" in capsys.readouterr().out
    assert main([*again, "--bad-images", "error"]) == 2
    assert f"'{held_out}' cannot be read" in capsys.readouterr().err
    other = folder.rename(tmp_path / "others")
    assert main([*command, "--dataset", str(other), "--out", str(tmp_path / "other"), "--workers", "0"]) == 2
    assert f"'{other / held_out.relative_to(folder)}' cannot be read" in capsys.readouterr().err


def test_another_data_set_is_refused(work: Path) -> None:
    data = open_dataset("digits", ".")
    description = read_description(work / "baseline.safetensors")
    with pytest.raises(UserError, match="does not know 2 of the 10 classes of digits: 8, 9"):
        outputs_of(data, replace(description, classes=tuple("01234567")))
    cranes = replace(data, class_names=("crane", "crane", *"23456789"))
    assert outputs_of(cranes, replace(description, classes=cranes.class_names)).tolist() == list(range(10))
    with pytest.raises(UserError, match="several classes have the same name"):
        outputs_of(cranes, replace(description, classes=(*"23456789", "crane", "crane")))


def test_a_checkpoint_of_another_size_is_refused(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, description = load_network(work / "baseline.safetensors")
    save_network(tmp_path / "net.safetensors", network, replace(description, input_shape=(1, 16, 16)))
    assert main(["--checkpoint", str(tmp_path / "net.safetensors")]) == 2
    assert "takes images of shape (1, 16, 16), those of digits have (1, 8, 8)" in capsys.readouterr().err
    assert not list(tmp_path.glob("eval-*"))
