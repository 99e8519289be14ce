"""Flowers-102, Food-101 and Oxford-IIIT Pets: their official layouts, on small trees of photographs."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import load_sample_image

from classification.config import FOLDER_PROTOCOL, find_config
from classification.data import PHOTOGRAPHS, ClassificationData, DataConfig, open_dataset
from core.errors import MissingData, UserError

FOLDERS = {"flowers102": "flowers-102", "food101": "food-101", "oxford-pets": "oxford-iiit-pet"}


def photograph(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    piece = load_sample_image("flower.jpg")[10 * number : 10 * number + 60, 7 * number : 7 * number + 80]
    Image.fromarray(piece).save(path, "JPEG", quality=95)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The three, with two classes each; the lists are not in the order of the names."""
    flowers = tmp_path / "flowers-102"
    for number in range(1, 9):
        photograph(flowers / f"jpg/image_{number:05}.jpg", number)
    savemat(flowers / "imagelabels.mat", {"labels": np.array([[2, 10, 2, 10, 2, 10, 10, 2]], np.uint8)})
    savemat(
        flowers / "setid.mat",
        {"trnid": np.array([[6, 1]]), "valid": np.array([[3, 4]]), "tstid": np.array([[8, 5, 2, 7]])},
    )
    food = tmp_path / "food-101"
    for index, name in enumerate(("apple_pie", "waffles")):
        for number in range(4):
            photograph(food / f"images/{name}/{number}.jpg", 4 * index + number)
    write(food / "meta/train.txt", "waffles/0\nwaffles/3\napple_pie/2\napple_pie/1\n")
    write(food / "meta/test.txt", "apple_pie/0\nwaffles/1\n")
    pets = tmp_path / "oxford-iiit-pet"
    for index, name in enumerate(("great_pyrenees", "Abyssinian")):
        for number in range(1, 4):
            photograph(pets / f"images/{name}_{number}.jpg", 4 * index + number)
    write(pets / "images/Abyssinian_1.mat", "MATLAB")
    write(pets / "annotations/list.txt", "#Image CLASS-ID\n")
    write(
        pets / "annotations/trainval.txt",
        "# Image CLASS-ID SPECIES BREED ID\nAbyssinian_2 1 1 1\ngreat_pyrenees_1 2 2 1\n",
    )
    write(
        pets / "annotations/test.txt", "great_pyrenees_3 2 2 1\nAbyssinian_3 1 1 1\ngreat_pyrenees_2 2 2 1\n"
    )
    return tmp_path


def opened(name: str, root: Path, **options) -> ClassificationData:
    return open_dataset(name, root, DataConfig(**{"size": 32, "workers": 0, **options}))


def labelled(split) -> list[tuple[str, int]]:
    return [
        (str(Path(path.decode()).relative_to(Path(path.decode()).parents[1])), label)
        for path, label in zip(split.paths, split.labels.tolist())
    ]


def test_flowers_are_trained_on_both_small_parts_and_numbered(root):
    data = opened("flowers102", root)
    assert (data.name, data.class_names) == ("flowers102", ("2", "10"))
    assert labelled(data.train) == [
        ("jpg/image_00001.jpg", 0),
        ("jpg/image_00003.jpg", 0),
        ("jpg/image_00004.jpg", 1),
        ("jpg/image_00006.jpg", 1),
    ]
    assert [label for _, label in labelled(data.test)] == [1, 0, 1, 0]
    assert data.left_out == ()


def test_food_has_its_official_parts(root):
    data = opened("food101", root)
    assert data.class_names == ("apple_pie", "waffles")
    assert labelled(data.train) == [
        ("waffles/0.jpg", 1),
        ("waffles/3.jpg", 1),
        ("apple_pie/2.jpg", 0),
        ("apple_pie/1.jpg", 0),
    ]
    assert labelled(data.test) == [("apple_pie/0.jpg", 0), ("waffles/1.jpg", 1)]
    assert {Path(entry.path).name for entry in data.left_out} == {"3.jpg", "2.jpg"}
    assert {entry.reason for entry in data.left_out} == {"image in no list"}


def test_pets_are_classified_by_breed(root):
    data = opened("oxford-pets", root)
    assert data.class_names == ("Abyssinian", "great_pyrenees")
    assert labelled(data.train) == [("images/Abyssinian_2.jpg", 0), ("images/great_pyrenees_1.jpg", 1)]
    assert [label for _, label in labelled(data.test)] == [1, 0, 1]
    assert sorted((Path(entry.path).name, entry.reason) for entry in data.left_out) == [
        ("Abyssinian_1.jpg", "image in no list"),
        ("Abyssinian_1.mat", "no JPEG, PNG, WebP, BMP, TIFF or GIF"),
    ]


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_copy_that_is_not_whole_says_so_and_gives_batches(root, name):
    data = opened(name, root)
    assert data.notes[0].startswith("2 classes instead of ")
    assert len(data.notes) == 3
    assert data.folder["classes"] == list(data.class_names)
    inputs, targets = next(data.train_loader(2, seed=0).epoch(0))
    assert inputs.shape == (2, 3, 32, 32)
    assert inputs.std() > 0.1
    assert set(targets.tolist()) <= {0, 1}
    assert find_config(None, name, False) == FOLDER_PROTOCOL


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_images_of_the_lists_that_are_missing_are_named(root, name):
    data = opened(name, root)
    path = Path(data.test.paths[0].decode())
    path.unlink()
    with pytest.raises(
        UserError, match=f"1 of the . images that the lists of .* name are not in .*{path.name};"
    ):
        opened(name, root)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("flowers102", "jpg"),
        ("flowers102", "setid.mat"),
        ("flowers102", "imagelabels.mat"),
        ("food101", "meta/test.txt"),
        ("oxford-pets", "annotations/trainval.txt"),
    ],
)
def test_what_is_missing_is_named_with_its_address(root, name, file):
    path = root / FOLDERS[name] / file
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(MissingData, match=f"expected at '{path}'. Get it from https://"):
        opened(name, root)


def test_lists_that_contradict_themselves_are_refused(root):
    path = root / "food-101/meta/test.txt"
    path.write_text(path.read_text() + "waffles/3\n")
    with pytest.raises(UserError, match=r"1 images stand in the lists of Food-101 twice: waffles/3\.jpg;"):
        opened("food101", root)
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match="is no text in UTF-8"):
        opened("food101", root)


def test_matrices_that_are_none_or_do_not_fit_are_refused(root):
    path = root / "flowers-102/setid.mat"
    savemat(path, {"trnid": [1], "valid": [2], "tstid": [9]})
    with pytest.raises(
        UserError, match=r"names images in 'tstid' that 'imagelabels\.mat' with its 8 labels does not"
    ):
        opened("flowers102", root)
    savemat(path, {"trnid": [1], "tstid": [2]})
    with pytest.raises(UserError, match="does not hold 'valid'"):
        opened("flowers102", root)
    whole = (root / "flowers-102/imagelabels.mat").read_bytes()
    for content in (b"no matrix", b"no matrix at all " * 20, whole[:-5], b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match="does not hold 'trnid'"):
            opened("flowers102", root)
