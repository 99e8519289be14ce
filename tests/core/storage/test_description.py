"""Files that say what they are: what comes back, and that no bit of them can change unnoticed."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from core.errors import UserError
from core.inspect import main
from core.storage.checkpoint import (
    load_weights,
    read_metadata,
    read_verified,
    read_weights,
    save_state,
    save_weights,
)
from core.storage.description import (
    Origin,
    load_described,
    read_contents,
    read_described,
    read_origin,
    save_described,
)
from core.storage.schema import lower
from lwdna import __version__


@dataclass(frozen=True)
class Note:
    model: str
    classes: tuple[str, ...]
    scale: int = 1
    architecture: None = None


ORIGIN = Origin(
    "digits", "fisher", 3, {"train": {"epochs": 2, "optimizer": {"lr": 0.1}}}, ("went on at 0.01.",)
)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "net.safetensors"
    save_described(path, network(), "a_task", Note("mine.py:net", ("nan", "cat")), ORIGIN)
    return path


def test_description_and_origin_come_back(file: Path) -> None:
    assert read_described(file, "a_task", lambda fields: lower(fields, Note), "nobody") == Note(
        "mine.py:net", ("nan", "cat")
    )
    contents = read_contents(file)
    assert (contents.task, contents.library, contents.checked) == ("a_task", f"lwdna {__version__}", True)
    assert contents.description["classes"] == ["nan", "cat"]
    assert contents.origin["recipe"] == ORIGIN.recipe == read_origin(file)["recipe"]
    # Weight 6, bias 2; BatchNorm: 4 tensors of 2, and a count.
    assert (contents.tensors, contents.values) == (7, 17)


def test_no_bit_changes_unnoticed(file: Path, tmp_path: Path) -> None:
    content = file.read_bytes()
    broken = tmp_path / "broken.safetensors"
    flipped = 0
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << (place % 8)
        broken.write_bytes(changed)
        try:
            metadata, tensors = read_verified(broken)
        except UserError as error:
            assert "broken.safetensors' is" in str(error)  # noqa: PT017
            flipped += 1
            continue
        # What is left are changes of blanks and digits' notation that leave the content as it was.
        assert metadata == read_verified(file)[0]
        assert all(torch.equal(tensors[name], value) for name, value in read_verified(file)[1].items())
    assert flipped > 0.95 * len(content)


@pytest.mark.parametrize("read", [read_weights, read_contents, lambda path: load_weights(network(), path)])
def test_a_flipped_bit_of_a_weight_is_an_error_that_names_the_file(file: Path, read: object) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"net\.safetensors' is damaged: its checksum does not fit"):
        read(file)  # type: ignore[operator]


def test_one_content_makes_one_file(file: Path, tmp_path: Path) -> None:
    for number in range(5):
        again = tmp_path / f"{number}.safetensors"
        save_described(again, network(), "a_task", Note("mine.py:net", ("nan", "cat")), ORIGIN)
        assert again.read_bytes() == file.read_bytes()


def without_checksum(path: Path) -> Path:
    """As older releases and other programs write it."""
    metadata = {key: text for key, text in read_metadata(path).items() if key not in ("crc32", "library")}
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, metadata)
    return path


def test_files_without_a_checksum_load_and_it_is_said(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_described(file, network)
    with pytest.warns(UserWarning, match=r"net\.safetensors' has no checksum"):
        old = load_described(without_checksum(file), network)
    assert all(torch.equal(value, old.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert main([str(file)]) == 0
    assert "none: damaged weights would not be noticed" in capsys.readouterr().out


def test_a_checksum_that_was_taken_out_is_missed(file: Path) -> None:
    metadata = {key: text for key, text in read_metadata(file).items() if key != "crc32"}
    safetensors.torch.save_file(safetensors.torch.load_file(file), file, metadata)
    with pytest.raises(UserError, match="damaged"):
        read_weights(file)


def test_inspect_prints_everything_and_imports_nothing(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.chdir(tmp_path)
    assert main([str(file)]) == 0
    lines = {
        name.strip(): value
        for name, _, value in (line.partition("  ") for line in capsys.readouterr().out.splitlines()[1:])
    }
    assert lines["task"].strip() == "a_task"
    assert "not imported" in lines["model"]
    assert lines["classes"].strip() == "nan, cat"
    assert lines["made: recipe.train.optimizer.lr"].strip() == "0.1"
    assert lines["made: notes"].strip() == "went on at 0.01."
    assert main([str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["origin"]["method"] == "fisher"


def test_inspect_tells_of_files_that_describe_nothing_and_of_damaged_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_weights(network(), tmp_path / "bare.safetensors")
    save_state(tmp_path / "last.safetensors", {"model": dict(network().state_dict())})
    for name in ("bare", "last"):
        assert main([str(tmp_path / f"{name}.safetensors")]) == 0
        out = capsys.readouterr().out
        assert "not told: no description" in out
        assert "fits" in out
    shutil.copy(tmp_path / "bare.safetensors", tmp_path / "cut.safetensors")
    with (tmp_path / "cut.safetensors").open("r+b") as opened:
        opened.truncate(200)
    for name in ("cut", "none"):
        assert main([str(tmp_path / f"{name}.safetensors")]) == 2
        assert f"{name}.safetensors'" in capsys.readouterr().err
