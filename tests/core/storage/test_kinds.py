"""What files are by their content, however they are called."""

import gzip
import io
import tarfile
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn

from core.errors import MissingData, UserError
from core.export.exported import contents_of_file
from core.storage.checkpoint import read_checkpoint, read_weights
from core.storage.kinds import is_safetensors

WEIGHTS = {"weight": torch.arange(6.0).reshape(2, 3)}


def by_torch(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def by_numpy():
    file = io.BytesIO()
    np.savez(file, weight=np.ones(2))
    return file.getvalue()


def by_tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        content = by_torch(WEIGHTS)
        entry = tarfile.TarInfo("model.pth")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def by_script():
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, that there is something newer
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), file)
    return file.getvalue()


@pytest.mark.parametrize("name", ["w.safetensors", "w.SAFETENSORS", "w.pth", "w", "w.pth.tar"])
@pytest.mark.parametrize("write", [save, by_torch])
def test_the_content_decides_how_a_file_is_read(tmp_path, write, name):
    path = tmp_path / name
    path.write_bytes(write(WEIGHTS))
    assert torch.equal(read_weights(path)["weight"], WEIGHTS["weight"])


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (lambda: b"", "it is empty"),
        (lambda: b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        (lambda: b"\n<!DOCTYPE html>", "is a web page"),
        (lambda: b'{"widths": {}}', "is a JSON file; widths are read by --widths"),
        (lambda: b"\xff\xd8\xff\xe0" + bytes(99), "is an image"),
        (lambda: gzip.compress(by_torch(WEIGHTS)), "is packed by gzip"),
        (lambda: b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file"),
        (by_numpy, "is an archive of numpy"),
        (by_tar, "is a tar archive"),
        (by_script, "is a TorchScript program"),
    ],
)
def test_what_is_no_checkpoint_is_called_what_it_is(tmp_path, content, kind, name):
    path = tmp_path / name
    path.write_bytes(content())
    for read in (read_checkpoint, contents_of_file):
        with pytest.raises(UserError, match=kind) as caught:
            read(path)
        assert "weights_only" not in str(caught.value)


def test_a_checkpoint_by_an_exports_name_is_read(tmp_path):
    (tmp_path / "w.onnx").write_bytes(save(WEIGHTS))
    assert contents_of_file(tmp_path / "w.onnx").values == 6


def test_what_describes_itself_is_told_from_what_does_not(tmp_path):
    (tmp_path / "w.pth").write_bytes(by_torch(WEIGHTS))
    with pytest.raises(UserError, match=r"is a torch checkpoint and no safetensors file.*--pretrained reads"):
        contents_of_file(tmp_path / "w.pth")
    with pytest.raises(MissingData, match="is a folder: name a file in it"):
        contents_of_file(tmp_path)
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        is_safetensors(tmp_path)
