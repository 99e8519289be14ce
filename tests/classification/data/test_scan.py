"""Which files are images and which folders are classes: on small trees with everything that people's folders hold."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from classification.data.scan import LeftOut, list_images, require_same_classes, scan_class_folders, summary
from core.errors import UserError


def picture(form: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((2, 3, 3), 7, np.uint8)).save(stream, form)
    return stream.getvalue()


def fill(folder: Path, *names: str, form: str = "PNG") -> Path:
    """Write a picture under each of the names."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(form))
    return folder


def reasons(left_out: tuple[LeftOut, ...] | list[LeftOut], folder: Path) -> dict[str, str]:
    return {os.path.relpath(entry.path, folder): entry.reason for entry in left_out}


def test_classes_and_images_are_sorted(tmp_path):
    scan = scan_class_folders(fill(tmp_path, "b/2.png", "b/10.png", "a/x.jpg"))
    assert scan.classes == ("a", "b")
    assert scan.files == ["a/x.jpg", "b/10.png", "b/2.png"]
    assert scan.labels.tolist() == [0, 1, 1]
    assert (scan.left_out, scan.notes) == ((), ())


@pytest.mark.parametrize("suffix", ["jpeg", "jpg", "png", "webp", "bmp", "tif", "tiff", "gif"])
def test_suffixes_count_in_upper_and_lower_case_and_are_not_opened(tmp_path, suffix):
    for name in (f"1.{suffix}", f"2.{suffix.upper()}"):
        (tmp_path / name).write_bytes(b"not looked at")
    assert list_images(tmp_path).files == [f"1.{suffix}", f"2.{suffix.upper()}"]
    assert list_images(tmp_path).by_content == 0


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_content_decides_where_the_suffix_says_nothing(tmp_path, form):
    fill(tmp_path, "none", "wrong.dat", "address.jpg?w=300", form=form)
    listing = list_images(tmp_path)
    assert listing.files == ["address.jpg?w=300", "none", "wrong.dat"]
    assert listing.by_content == 3


def test_other_files_are_left_out_with_a_reason(tmp_path):
    (tmp_path / "labels.txt").write_text("BMW 1\n")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "photo.NEF").write_bytes(picture("TIFF"))
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("._a.png", ".DS_Store", "Thumbs.db", ".ipynb_checkpoints/a.png", "@eaDir/a.png"):
        fill(tmp_path, name)
    listing = list_images(tmp_path)
    assert listing.files == []
    assert reasons(listing.left_out, tmp_path) == {
        "labels.txt": "no JPEG, PNG, WebP, BMP, TIFF or GIF",
        "empty": "no JPEG, PNG, WebP, BMP, TIFF or GIF",
        "photo.NEF": "no JPEG, PNG, WebP, BMP, TIFF or GIF",
        "gone.png": "broken link",
        "self.png": f"cannot be read: {os.strerror(40)}",
        "pipe.png": "no regular file",
        **dict.fromkeys(("._a.png", ".DS_Store", "Thumbs.db", ".ipynb_checkpoints", "@eaDir"), "hidden"),
    }


def test_links_that_work_are_followed_and_circles_are_not(tmp_path):
    elsewhere = fill(tmp_path / "elsewhere", "1.png", "more/2.png")
    classes = fill(tmp_path / "classes", "b/3.png", "c/4.png")
    (classes / "a").symlink_to(elsewhere)
    (classes / "b" / "linked.png").symlink_to(elsewhere / "1.png")
    (classes / "b" / "up").symlink_to(classes)
    (classes / "b" / "own").symlink_to(classes / "b")
    (classes / "c" / "other").symlink_to(classes / "b")
    scan = scan_class_folders(classes)
    assert scan.classes == ("a", "b", "c")
    assert scan.files == [
        "a/1.png",
        "a/more/2.png",
        "b/3.png",
        "b/linked.png",
        "c/4.png",
        "c/other/3.png",
        "c/other/linked.png",
    ]
    assert set(reasons(scan.left_out, classes).values()) == {"link to a folder above it"}
    assert {"b/up", "b/own", "c/other/up", "c/other/own"} == set(reasons(scan.left_out, classes))


def test_hidden_folders_links_and_files_are_no_classes(tmp_path):
    fill(tmp_path, "a/1.png", ".ipynb_checkpoints/1.png", "@eaDir/1.png", "stray.png", "._a")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    scan = scan_class_folders(tmp_path)
    assert scan.classes == ("a",)
    assert reasons(scan.left_out, tmp_path) == {
        "stray.png": "beside the class folders",
        "gone": "broken link",
        **dict.fromkeys((".ipynb_checkpoints", "@eaDir", "._a"), "hidden"),
    }
    expected = "5 files or folders were left out: 3 hidden, 1 broken link, 1 beside the class folders"
    assert summary(scan.left_out) == expected
    assert summary(scan.left_out[:1]) == "1 file or folder was left out: 1 hidden"
    assert summary([]) == ""


def test_what_is_taken_for_granted_is_said(tmp_path):
    fill(tmp_path, "a/deep/1.png", "a/2.png", "A/1.png", "b/photo")
    scan = scan_class_folders(tmp_path)
    assert scan.classes == ("A", "a", "b")
    assert scan.files == ["A/1.png", "a/2.png", "a/deep/1.png", "b/photo"]
    assert scan.notes == (
        f"Images in folders within class folders of '{tmp_path}' count for the class: a.",
        f"Without an image's suffix, taken for images by their content in '{tmp_path}': 1.",
        f"Classes of '{tmp_path}' whose names differ in letter case alone are separate classes: A and a.",
    )


def test_a_class_folder_without_an_image_is_named_with_what_it_holds(tmp_path):
    fill(tmp_path, "full/1.png")
    (tmp_path / "bare").mkdir()
    (tmp_path / "texts").mkdir()
    for number in range(12):
        (tmp_path / "texts" / f"{number}.txt").write_text("text")
    with pytest.raises(UserError) as caught:
        scan_class_folders(tmp_path)
    assert f"2 of 3 class folders in '{tmp_path}' hold no image: bare; texts (12 no JPEG, PNG" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)


def test_images_that_lie_in_no_class_folder_are_an_error(tmp_path):
    with pytest.raises(UserError, match="holds no class folders, but 3 other files or folders"):
        scan_class_folders(fill(tmp_path, "1.png", "2.png", ".hidden"))


def test_classes_of_two_parts_have_to_be_the_same(tmp_path):
    train = scan_class_folders(fill(tmp_path / "train", *(f"{number}/1.png" for number in range(10, 20))))
    val = scan_class_folders(fill(tmp_path / "val", "10/1.png", "x/1.png"))
    require_same_classes(train, train)
    with pytest.raises(UserError) as caught:
        require_same_classes(train, val)
    assert str(caught.value).startswith(
        f"'{val.folder}' lacks 9 classes of '{train.folder}': 11, 12, 13, 14, 15, … (9 in all); "
        f"'{train.folder}' lacks 1 class of '{val.folder}': x; "
    )


def test_a_folder_that_cannot_be_read_is_an_error_in_one_line(tmp_path, monkeypatch):
    fill(tmp_path, "a/1.png", "b/1.png")
    scandir = os.scandir

    def refusing(path):
        if Path(path) == tmp_path / "b":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(
        UserError, match=r"^folder '.*/b' cannot be read: Permission denied; allow reading it$"
    ):
        scan_class_folders(tmp_path)


def test_a_line_of_the_list_stays_one_line():
    assert str(LeftOut("a/ü.png", "hidden")) == "a/ü.png\thidden"
    assert str(LeftOut("a\n\udcff.png", "hidden")) == "'a\\n\\udcff.png'\thidden"


def test_names_that_are_no_text_are_read(tmp_path):
    folder = os.fsencode(tmp_path / "a")
    os.mkdir(folder)
    with open(folder + b"/\xff.png", "wb") as file:
        file.write(picture("PNG"))
    assert [os.fsencode(name) for name in scan_class_folders(tmp_path).files] == [b"a/\xff.png"]
