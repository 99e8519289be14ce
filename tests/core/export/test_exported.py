"""What exported programs say of themselves; damaged ones, and others than their card was written with."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from torch import nn

from core.errors import MissingData, UserError
from core.export.card import LICENCE, card
from core.export.exported import contents_of_file
from core.export.formats import export
from core.inspect import main
from core.storage.description import Contents
from tests.core.export.toys import Pooled, subject


def exported(path: Path, network: nn.Module | None = None) -> Path:
    """A program with its card."""
    about = subject(network or Pooled())
    file = export(about, path)
    text = card(about, path.with_suffix(".safetensors"), [file], {}, "1 x 1", f"{LICENCE}CC0")
    path.with_suffix(".md").write_text(text)
    return path


def test_a_program_says_what_its_checkpoint_said(
    tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = exported(tmp_path / f"net{ending}")
    contents = contents_of_file(path)
    assert contents.description == {"model": "mine.py:net", "dataset": "photographs"}
    assert (contents.task, contents.origin["method"], contents.checked) == ("toys", "fisher", True)
    assert contents.library.startswith("lwdna ")
    assert contents.program == {"images": "parts of a photograph", "out": "5"}
    weights = sum(parameter.numel() for parameter in Pooled().conv.parameters())
    assert contents.tensors >= 4
    assert contents.values >= weights
    assert main([str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert ["program:", "images", "parts of a photograph"] in [line.split(maxsplit=2) for line in lines]
    assert "checksum" in lines[-1]
    assert lines[-1].endswith("fits")


def test_without_a_card_damage_is_not_noticed_and_that_is_said(tmp_path: Path, ending: str) -> None:
    path = exported(tmp_path / f"net{ending}")
    path.with_suffix(".md").write_text("# A page of one's own\n")
    assert not contents_of_file(path).checked
    path.with_suffix(".md").unlink()
    assert not contents_of_file(path).checked


def test_another_file_than_the_cards_is_refused(tmp_path: Path, ending: str) -> None:
    path = exported(tmp_path / f"net{ending}")
    exported(tmp_path / "other" / f"net{ending}", nn.Sequential(nn.Conv2d(3, 2, 1)))
    path.write_bytes((tmp_path / "other" / f"net{ending}").read_bytes())
    with pytest.raises(UserError, match=r"is not the file that its card .*net\.md' was written with"):
        contents_of_file(path)


def test_what_is_no_program(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"net{ending}"
    with pytest.raises(MissingData, match="there is no such file"):
        contents_of_file(path)
    for content in (b"nothing of the kind", b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is truncated or no"):
            contents_of_file(path)


def test_a_zip_of_another_kind_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/extra/toys", "{")
        archive.writestr("net/data/aotinductor/model.so", b"\0" * 100)
    assert contents_of_file(path) == Contents("")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/extra/toys", b" " * (2**26 + 1))
    with pytest.raises(UserError, match=r"refused: its entry 'extra/toys' has 67,108,865 bytes"):
        contents_of_file(path)
