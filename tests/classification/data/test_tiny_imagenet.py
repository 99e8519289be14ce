"""Tiny-ImageNet's layout and its cache of decoded images: on a small tree of JPEGs, and on the real one."""

import io
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

import core.storage.cache
from classification.data import DataConfig, cache, open_dataset
from core.errors import MissingData, UserError
from core.storage.data import ENVIRONMENT_VARIABLE

CLASSES = ("n02", "n01", "n03")  # as in wnids.txt: not sorted
PER_CLASS = 6
FORK = multiprocessing.get_context("fork")


def jpeg(number: int, mode: str = "RGB", side: int = 64) -> bytes:
    photograph = load_sample_image("flower.jpg")
    top, left = divmod(37 * number, 300)
    stream = io.BytesIO()
    piece = Image.fromarray(photograph[top * 5 : top * 5 + side, left : left + side])
    piece.convert(mode).save(stream, "JPEG", quality=95)
    return stream.getvalue()


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A data root with a small Tiny-ImageNet; the user's cache folder lies in it, too."""
    monkeypatch.delenv("LWDNA_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))
    folder = tmp_path / "tiny-imagenet-200"
    for index, name in enumerate(CLASSES):
        images = folder / "train" / name / "images"
        images.mkdir(parents=True)
        for number in range(PER_CLASS):
            mode = "L" if number == 1 else "RGB"
            (images / f"{name}_{number}.JPEG").write_bytes(jpeg(10 * index + number, mode))
    (folder / "val" / "images").mkdir(parents=True)
    lines = []
    for number in range(5):
        (folder / "val" / "images" / f"val_{number}.JPEG").write_bytes(jpeg(50 + number))
        lines.append(f"val_{number}.JPEG\t{CLASSES[number % 3]}\t0\t0\t62\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("\n".join(CLASSES) + "\n")
    (folder / "words.txt").write_text("n01\tone, uno\nn02\ttwo\nn03\tthree\nn99\tother\n")
    return tmp_path


def damage(root: Path, number: int = 2, label: str = "n01") -> Path:
    """Cut a training image in half."""
    path = root / "tiny-imagenet-200" / "train" / label / "images" / f"{label}_{number}.JPEG"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def caches(root: Path) -> list[Path]:
    return sorted((root / "tiny-imagenet-200" / core.storage.cache.FOLDER).glob("*.npy"))


def leftovers(root: Path) -> list[Path]:
    return list((root / "tiny-imagenet-200" / core.storage.cache.FOLDER).glob(".*tmp"))


def test_images_and_labels_follow_the_sorted_classes(root):
    data = open_dataset("tiny-imagenet", root)
    assert data.class_names == ("one, uno", "two", "three")
    assert data.input_shape == (3, 64, 64)
    assert data.train.labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    folder = root / "tiny-imagenet-200"
    files = [folder / f"train/{name}/images/{name}_{k}.JPEG" for name in sorted(CLASSES) for k in range(6)]
    for image, file in zip(data.train.images, files):
        expected = np.asarray(Image.open(file).convert("RGB")).transpose(2, 0, 1)
        assert np.abs(image.numpy().astype(int) - expected).max() <= 2  # decoders round differently
    assert data.test.labels.tolist() == [1, 0, 2, 1, 0]


def test_inputs_are_normalised_with_the_published_constants(root):
    data = open_dataset("tiny-imagenet", root)
    inputs, _ = next(iter(data.test_loader(5).epoch(0)))
    mean = torch.tensor((0.4802, 0.4481, 0.3975)).view(3, 1, 1)
    std = torch.tensor((0.2302, 0.2265, 0.2262)).view(3, 1, 1)
    torch.testing.assert_close(inputs, (data.test.images / 255 - mean) / std, atol=1e-5, rtol=0)


def test_the_second_opening_decodes_nothing(root, monkeypatch):
    first = open_dataset("tiny-imagenet", root)
    monkeypatch.setattr(cache, "read_rgb", None)
    second = open_dataset("tiny-imagenet", root)
    assert torch.equal(first.train.images, second.train.images)
    assert len(caches(root)) == 2


def test_a_changed_image_is_decoded_again_and_the_old_cache_goes(root):
    before = open_dataset("tiny-imagenet", root).train.images[3].clone()
    names = caches(root)
    path = root / "tiny-imagenet-200/train/n01/images/n01_3.JPEG"
    status = path.stat()
    path.write_bytes(jpeg(40))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    after = open_dataset("tiny-imagenet", root).train.images[3]
    assert not torch.equal(before, after)
    assert len(caches(root)) == 2
    assert len(set(names) & set(caches(root))) == 1  # the validation part's


def test_a_changed_image_of_the_same_size_and_time_is_decoded_again(root):
    path = root / "tiny-imagenet-200/train/n01/images/n01_3.JPEG"
    for number in (40, 41):
        content = jpeg(number)
        path.write_bytes(content + b"\0" * (9000 - len(content)))
        os.utime(path, ns=(10**18, 10**18))
        image = open_dataset("tiny-imagenet", root).train.images[3].numpy()
        assert np.abs(image.astype(int) - np.asarray(Image.open(path)).transpose(2, 0, 1)).max() <= 2


def test_an_image_more_or_less_is_noticed(root):
    open_dataset("tiny-imagenet", root)
    images = root / "tiny-imagenet-200/train/n01/images"
    Image.open(io.BytesIO(jpeg(41))).save(images / "n01_9.PNG")
    data = open_dataset("tiny-imagenet", root)
    assert data.train.labels.tolist() == [0] * 7 + [1] * 6 + [2] * 6
    np.testing.assert_array_equal(
        data.train.images[6], np.asarray(Image.open(images / "n01_9.PNG")).transpose(2, 0, 1)
    )
    (images / "n01_9.PNG").unlink()
    assert len(open_dataset("tiny-imagenet", root).train) == 18


def test_writing_to_the_images_leaves_the_cache_as_it_is(root):
    open_dataset("tiny-imagenet", root).train.images.zero_()
    assert open_dataset("tiny-imagenet", root).train.images.any()


def test_a_truncated_image_stops_and_is_named(root):
    path = damage(root)
    with pytest.raises(UserError, match="truncated") as caught:
        open_dataset("tiny-imagenet", root)
    assert str(path) in str(caught.value)
    assert "bad_images='skip'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_images_are_left_out_counted_and_named(root):
    paths = [damage(root), damage(root, 5), damage(root, 0, "n03")]
    small = root / "tiny-imagenet-200/train/n02/images/n02_4.JPEG"
    small.write_bytes(jpeg(1, side=32))
    (root / "tiny-imagenet-200/val/images/val_1.JPEG").unlink()
    with pytest.warns(UserWarning, match="images left out") as warned:
        data = open_dataset("tiny-imagenet", root, DataConfig(bad_images="skip"))
    text = " ".join(str(warning.message) for warning in warned)
    assert all(str(path) in text for path in [*paths, "val_1.JPEG", "32x32 pixels; 64x64"])
    assert data.skipped == {"train": 4, "test": 1}
    # Every process opens the whole data set: what two of them have found is the same.
    found = data.unreadable_everywhere(lambda own: [own, own])
    assert {part: len(entries) for part, entries in found.items()} == data.skipped
    assert {entry.path for entry in found["train"]} == {str(path) for path in [*paths, small]}
    assert data.train.rows.tolist() == [row for row in range(18) if row not in (2, 5, 10, 12)]
    assert torch.cat([targets for _, targets in data.test_loader(3).epoch(0)]).tolist() == [1, 2, 1, 0]
    with pytest.raises(UserError, match=r"4 such images"):  # the cache is shared, the decision is not
        open_dataset("tiny-imagenet", root)


def test_a_repaired_image_is_used_again(root):
    path = damage(root)
    with pytest.raises(UserError):
        open_dataset("tiny-imagenet", root)
    path.write_bytes(jpeg(2))
    assert open_dataset("tiny-imagenet", root).skipped == {"train": 0, "test": 0}


def test_train_limit_takes_readable_images_of_every_class(root):
    damage(root, 0)
    with pytest.warns(UserWarning, match="1 of 18"):
        data = open_dataset("tiny-imagenet", root, DataConfig(train_limit=6, bad_images="skip"))
    assert data.train.rows.tolist() == [1, 2, 6, 7, 12, 13]
    assert len(data.test) == 5


def test_a_folder_that_cannot_be_written_sends_the_cache_to_the_user(root, monkeypatch):
    folder = root / "tiny-imagenet-200"
    mkdir = Path.mkdir

    def read_only(path: Path, *arguments, **options):
        if folder in path.parents:
            raise PermissionError(13, "Permission denied")
        mkdir(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", read_only)
    open_dataset("tiny-imagenet", root)
    assert not (folder / core.storage.cache.FOLDER).exists()
    assert len(list((root / "user_cache" / "lwdna").glob("tiny-imagenet-200-*/*.npy"))) == 2
    monkeypatch.setattr(cache, "read_rgb", None)
    assert len(open_dataset("tiny-imagenet", root).train) == 18  # and is found there


def test_no_writable_folder_is_a_line_that_says_what_to_do(root, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match="XDG_CACHE_HOME"):
        open_dataset("tiny-imagenet", root)


def test_a_full_disk_is_noticed_before_decoding(root, monkeypatch):
    usage = cache.shutil.disk_usage(root)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match="GB free"):
        open_dataset("tiny-imagenet", root)


def test_a_damaged_cache_file_is_built_again(root):
    expected = open_dataset("tiny-imagenet", root).train.images.clone()
    for path in caches(root):
        path.write_bytes(path.read_bytes()[:-100])
    assert torch.equal(open_dataset("tiny-imagenet", root).train.images, expected)


class Trap:
    """Leaves a file where it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_a_cache_file_runs_no_code(root, tmp_path):
    expected = open_dataset("tiny-imagenet", root).train.images.clone()
    for path in caches(root):
        with path.open("wb") as file:
            np.save(file, np.array([Trap(tmp_path / "run")], dtype=object), allow_pickle=True)
    assert torch.equal(open_dataset("tiny-imagenet", root).train.images, expected)
    assert not (tmp_path / "run").exists()


def _open_and_die(root: Path, images: int) -> None:
    """Killed without warning while decoding the image of that number."""
    original, count = cache.read_rgb, iter(range(10_000))

    def read(path):
        if next(count) == images:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(path)

    cache.read_rgb = read
    open_dataset("tiny-imagenet", root, DataConfig(workers=1))


def test_a_killed_build_leaves_nothing_that_is_taken_for_a_cache(root, monkeypatch):
    monkeypatch.setattr(cache, "_CHUNK", 4)
    process = FORK.Process(target=_open_and_die, args=(root, 9), daemon=True)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not caches(root)
    assert len(leftovers(root)) == 1
    data = open_dataset("tiny-imagenet", root)
    assert not leftovers(root)
    assert (data.train.images.flatten(1).sum(1) > 0).all()


def _open_and_sum(root: Path, queue) -> None:
    queue.put(int(open_dataset("tiny-imagenet", root).train.images.numpy().sum(dtype=np.int64)))


def test_builders_at_the_same_time_get_the_same_images(root):
    queue = FORK.Queue()
    processes = [FORK.Process(target=_open_and_sum, args=(root, queue), daemon=True) for _ in range(4)]
    for process in processes:
        process.start()
    sums = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    assert len(set(sums)) == 1
    assert len(caches(root)) == 2
    assert not leftovers(root)


@pytest.mark.parametrize("name", ["wnids.txt", "words.txt", "val/val_annotations.txt", "train/n01/images"])
def test_a_missing_part_is_named(root, name):
    path = root / "tiny-imagenet-200" / name
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(MissingData, match="cs231n") as caught:
        open_dataset("tiny-imagenet", root)
    assert str(path) in str(caught.value)


def test_an_annotation_of_an_unknown_class_is_named(root):
    annotations = root / "tiny-imagenet-200/val/val_annotations.txt"
    annotations.write_text(annotations.read_text() + "val_0.JPEG\tn77\t0\t0\t1\t1\n")
    with pytest.raises(UserError, match=r"val_annotations.txt' line 6 names class 'n77'"):
        open_dataset("tiny-imagenet", root)


def test_half_of_the_annotations_is_an_error(root):
    annotations = root / "tiny-imagenet-200/val/val_annotations.txt"
    annotations.write_text("".join(annotations.read_text().splitlines(keepends=True)[:3]))
    with pytest.raises(
        UserError, match=r"2 of 5 images in '.*' have no line in '.*': val_3.JPEG, val_4.JPEG; get"
    ):
        open_dataset("tiny-imagenet", root)


@pytest.mark.parametrize("label", ["n01", "n02"])
def test_an_image_annotated_twice_is_an_error(root, label):
    annotations = root / "tiny-imagenet-200/val/val_annotations.txt"
    annotations.write_text(annotations.read_text() + f"val_1.JPEG\t{label}\t0\t0\t1\t1\n")
    with pytest.raises(
        UserError, match=r"names image 'val_1.JPEG' twice, in lines 2 and 6; get it from http"
    ):
        open_dataset("tiny-imagenet", root)


def test_an_annotation_without_an_image_is_an_error(root):
    annotations = root / "tiny-imagenet-200/val/val_annotations.txt"
    annotations.write_text(annotations.read_text() + "val_7.JPEG\tn01\t0\t0\t1\t1\n")
    with pytest.raises(UserError, match=r"val_7.JPEG' cannot be read: No such file"):
        open_dataset("tiny-imagenet", root)


def test_classes_that_differ_between_list_and_folders_are_named(root):
    folder = root / "tiny-imagenet-200"
    (folder / "wnids.txt").write_text("n01\nn02\n")
    with pytest.raises(UserError, match=r"wnids.txt' does not name these class folders of '.*train': n03;"):
        open_dataset("tiny-imagenet", root)
    (folder / "wnids.txt").write_text("n01\nn02\nn03\nn02\n")
    with pytest.raises(UserError, match=r"wnids.txt' names classes twice: n02;"):
        open_dataset("tiny-imagenet", root)


def test_a_class_without_images_is_named(root):
    folder = root / "tiny-imagenet-200"
    annotations = folder / "val/val_annotations.txt"
    text = annotations.read_text()
    annotations.write_text(text.replace("n03", "n01"))
    with pytest.raises(UserError, match="no test image of 1 of its 3 classes: three;"):
        open_dataset("tiny-imagenet", root)
    annotations.write_text(text)
    for path in (folder / "train/n02/images").iterdir():
        path.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="6 of 18"),
        pytest.raises(UserError, match=r"train' no image of 1 of 3 classes can be read, .* n02_0.JPEG"),
    ):
        open_dataset("tiny-imagenet", root, DataConfig(bad_images="skip"))
    for path in (folder / "train/n02/images").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"1 of 3 classes in '.*train' hold no image: n02;"):
        open_dataset("tiny-imagenet", root)


def test_what_is_hidden_or_missing_is_said(root):
    folder = root / "tiny-imagenet-200"
    (folder / "train/.ipynb_checkpoints").mkdir()
    (folder / "train/n02/images/._n02_0.JPEG").write_bytes(b"Mac")
    (folder / "val/images/Thumbs.db").write_bytes(b"Windows")
    data = open_dataset("tiny-imagenet", root)
    assert [(Path(entry.path).name, entry.reason) for entry in data.left_out] == [
        ("._n02_0.JPEG", "hidden"),
        ("Thumbs.db", "hidden"),
    ]
    assert data.notes == (
        "3 classes instead of Tiny-ImageNet's 200.",
        "Classes with other than Tiny-ImageNet's 500 training images: n01 (6), n02 (6), n03 (6).",
        "5 validation images instead of Tiny-ImageNet's 10,000.",
    )


def _real_root() -> str:
    """$LWDNA_DATA if Tiny-ImageNet is there and decoded already or can be (20 s on two cores)."""
    root = os.environ.get(ENVIRONMENT_VARIABLE, "")
    return root if root and (Path(root) / "tiny-imagenet-200" / "train").is_dir() else ""


@pytest.mark.skipif(not _real_root(), reason=f"no tiny-imagenet-200 under ${ENVIRONMENT_VARIABLE}")
def test_the_real_tiny_imagenet():
    data = open_dataset("tiny-imagenet", _real_root(), DataConfig(train_limit=2000))
    assert data.num_classes == 200
    assert (data.left_out, data.notes) == ((), ())
    assert data.class_names[0] == "goldfish, Carassius auratus"  # n01443537, the first in sorted order
    assert data.train.images.shape == (100_000, 3, 64, 64)
    assert len(data.test) == 10_000
    assert torch.equal(torch.bincount(data.train.labels), torch.full((200,), 500))
    assert torch.equal(torch.bincount(data.test.labels), torch.full((200,), 50))
    assert torch.equal(torch.bincount(data.train.labels[data.train.rows]), torch.full((200,), 10))
    assert data.skipped == {"train": 0, "test": 0}
    test = data.test.images
    grey = ((test[:, 0] == test[:, 1]) & (test[:, 1] == test[:, 2])).flatten(1).all(1)
    assert 150 < int(grey.sum()) < 250  # about 2 % of all images
    inputs = next(iter(data.train_loader(2000, seed=0).epoch(0)))[0]
    assert inputs.mean(dim=(0, 2, 3)).abs().max() < 0.05
    assert (inputs.std(dim=(0, 2, 3)) - 1).abs().max() < 0.25


@pytest.mark.parametrize("name", ["wnids.txt", "words.txt", "val/val_annotations.txt"])
def test_lists_that_are_no_text_and_lists_of_windows(root: Path, name: str) -> None:
    path = root / "tiny-imagenet-200" / name
    text = path.read_text()
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert open_dataset("tiny-imagenet", root).class_names == ("one, uno", "two", "three")
    path.write_bytes(text.encode("utf-16"))
    with pytest.raises(UserError, match=rf"{name}' is no text in UTF-8"):
        open_dataset("tiny-imagenet", root)


def test_images_beside_their_folders_are_listed(root: Path) -> None:
    folder = root / "tiny-imagenet-200"
    stray = [folder / "train/a.JPEG", folder / "train/n01/b.png", folder / "val/c.JPEG"]
    for path in stray:
        path.write_bytes(jpeg(0))
    (folder / "train/n01/n01_boxes.txt").write_text("of the official archive")
    data = open_dataset("tiny-imagenet", root)
    assert [entry.path for entry in data.left_out] == [str(path) for path in stray]
    assert {entry.reason for entry in data.left_out} == {"image beside the folders of images"}
