"""What the docs point at is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks/README.md"])
PACKAGES = "core|classification|super_resolution|tracking|lwdna|benchmarks|shared_configs|tests"


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name
)
def test_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(rf"`((?:{PACKAGES})/[\w/.]*)`", text) + re.findall(
        rf"((?:{PACKAGES})/[\w/]+\.py)", text
    )
    missing = {name for name in named if not (ROOT / name).exists()}
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert not {link for link in links if not (page.parent / link).exists()}


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name
)
def test_modules_that_a_page_names_exist(page: Path) -> None:
    """`core.widths.selection.search`: some beginning of it is a file or a folder, and the next word stands in it."""
    for name in set(
        re.findall(r"`((?:core|tracking|classification|super_resolution)\.[\w.]+)`", page.read_text())
    ):
        parts = name.split(".")
        place = ROOT
        while parts and ((place / parts[0]).is_dir() or (place / f"{parts[0]}.py").is_file()):
            place = place / parts.pop(0)
        source = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        assert not parts or re.search(rf"\b{parts[0]}\b", source.read_text(encoding="utf-8")), name
