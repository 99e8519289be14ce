"""Pictures of published pages, drawn again from their own figures."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.pictures import PAGES, RESULTS, main, title_of_page


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("tiny_imagenet_longer", []),
        ("ablations", ["-flops"]),
        ("dimp_small", ["_success"]),
        ("confirmation_edsr", ["-losses"]),
    ],
)
def test_a_page_is_drawn_from_its_json(name: str, more: list[str], tmp_path: Path) -> None:
    for suffix in (".json", ".md"):
        shutil.copy(RESULTS / f"{name}{suffix}", tmp_path)
    assert main([name, "--results", str(tmp_path)]) == 0
    for picture in (tmp_path / f"{name}{end}.png" for end in ["", *more]):
        assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        svg = picture.with_suffix(".svg").read_text()
        assert title_of_page(RESULTS / f"{name}.md") in svg
        assert svg == (RESULTS / picture.with_suffix(".svg").name).read_text()  # what lies there is drawn so


def test_every_page_of_registered_contrasts_can_be_drawn_again() -> None:
    assert {path.stem for path in RESULTS.glob("confirmation_*.json")} <= set(PAGES)


def test_every_page_has_its_figures() -> None:
    for name in PAGES:
        assert (RESULTS / f"{name}.json").is_file()
        assert title_of_page(RESULTS / f"{name}.md")


def test_damaged_figures_and_unknown_pages_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "support.md").write_text("# Support\n")
    (tmp_path / "support.json").write_text("[]")
    assert main(["support", "--results", str(tmp_path)]) == 2
    assert "holds no figures of this page" in capsys.readouterr().err
    assert main(["suport"]) == 2
    assert "did you mean 'support'?" in capsys.readouterr().err
