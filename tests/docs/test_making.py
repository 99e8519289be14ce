"""What programs of the docs make: figures, error texts with answers, licences, the API, the notebook and the site."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import core

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def program(name: str) -> ModuleType:
    """A program of docs/making, which is no package."""
    sys.path.insert(0, str(DOCS / "making"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)


def needs(package: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: it comes with the extra '{extra}'")


@pytest.fixture(scope="module")
def faults() -> ModuleType:
    return program("faults")


def test_every_error_text_has_an_answer(faults: ModuleType) -> None:
    found = faults.collect()
    assert {fault.file.partition("/")[0] for fault in found} == set(faults.PACKAGES)
    assert {
        "UserError",
        "MissingData",
        "BudgetError",
        "TraceError",
        "BadImage",
        "TrainingDiverged",
    } <= faults.kinds()
    used = {faults.chapter_of(fault.file).title for fault in found}
    assert used == {answer.title for answer in faults.answers()}
    files = [file for answer in faults.answers() for file in answer.files if "*" not in file]
    assert not [file for file in files if not (ROOT / file).exists()]


def test_error_texts_are_those_of_the_code(faults: ModuleType) -> None:
    texts = {fault.text for fault in faults.collect()}
    assert "budget: set at least one of flops, params and latency" in texts
    assert "unknown method '‹word›': ‹what is allowed›" in texts
    page = faults.page()
    assert page.count("<li ") == len({(faults.chapter_of(f.file).title, f.text) for f in faults.collect()})


def test_a_message_is_found_by_what_it_says(faults: ModuleType) -> None:
    """The pattern of a text fits the message that a user reads; the page's search goes by it."""
    with pytest.raises(core.UserError) as caught:
        core.Budget(flops=90)
    fitting = [f for f in faults.collect() if f.says > 7 and re.search(f.pattern, str(caught.value))]
    assert [f.file for f in fitting] == ["core/widths/budget.py"]
    (made,) = faults._in_file(
        "x.py", ast.parse("def f(a):\n    text = f'no {a.b_c}: ' + ', '.join(a)\n    raise UserError(text)")
    )
    assert (made.text, made.line) == ("no ‹b c›: ‹a›", 3)


def test_drawn_figures_say_what_the_code_says(capsys: pytest.CaptureFixture[str]) -> None:
    draw = program("draw")
    assert draw.main(check=True) == 0, capsys.readouterr().out
    assert draw.texts("<!-- a -->x<!-- b -->") == ["a", "b"]


def test_licences_name_what_is_used() -> None:
    licences = program("licences")
    assert {"torch", "timm", "mkdocs", "PyTurboJPEG"} <= licences.requirements().keys()
    assert licences.main(check=True) == 0
    text = (ROOT / "LICENCES.md").read_text()
    assert not re.findall(r"^\| `[\w.-]+` \| +\|", text, re.MULTILINE)  # none without a licence
    assert "GPL" not in text.partition(licences.BEGIN)[2].partition(licences.END)[0]


def test_the_api_page_has_every_public_name() -> None:
    text = (DOCS / "api.md").read_text()
    named = re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE)
    assert set(core.__all__) <= {name.rpartition(".")[2] for name in named}
    for name in named:
        module, _, attribute = name.rpartition(".")
        assert importlib.util.find_spec(module), name
        tree = ast.parse(Path(importlib.util.find_spec(module).origin).read_text())  # type: ignore[union-attr,arg-type]
        assert attribute in {n.name for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)}, name


def printed(cell: Any) -> str:
    """What a cell printed, in however many pieces it came."""
    return "".join("".join(output.get("text", "")) for output in cell["outputs"])


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells are plain Python: they run here, as a kernel of its own would load everything once more."""
    from matplotlib import pyplot

    monkeypatch.chdir(tmp_path)
    drawn: list[Any] = []
    monkeypatch.setattr(pyplot, "show", lambda: drawn.append(pyplot.gcf()))
    cells = json.loads(program("notebook").PATH.read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {"__name__": "notebook"}
    said, now = [], []
    threads = torch.get_num_threads()
    try:
        for cell in cells:
            if cell["cell_type"] == "code":
                source = "".join(cell["source"]).replace(
                    "epochs=3", "epochs=1"
                )  # what is learnt is not compared
                with contextlib.redirect_stdout(io.StringIO()) as out:
                    exec(source, names)
                said.append(printed(cell))
                now.append(out.getvalue())
    finally:
        torch.set_num_threads(threads)
        pyplot.close("all")
    assert len(drawn) == sum(
        "image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", [])
    )
    assert len(drawn) == 1
    # All that is printed, but for the digits of what is trained.
    assert [re.sub(r"\d+", "0", text) for text in now] == [re.sub(r"\d+", "0", text) for text in said]
    assert json.loads((tmp_path / "widths.json").read_text())["found_by"]["score"] == "diminishing-returns"


class _Sources(HTMLParser):
    """What a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        wanted = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src"}.get(tag)
        if wanted and named.get(wanted) and named.get("rel") != "canonical":
            self.loaded.append(str(named[wanted]))


def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    for package in ("mkdocs", "material", "mkdocstrings_handlers"):
        needs(package, "docs")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert {"index.html", "faults.html", "api.html", "notebook.html"} <= {page.name for page in pages}
    for page in pages:
        reader = _Sources()
        reader.feed(page.read_text(encoding="utf-8"))
        assert not [source for source in reader.loaded if re.match(r"(https?:)?//", source)], page.name
    texts = (tmp_path / "site/faults.html").read_text(encoding="utf-8")
    assert "set at least one of flops, params and latency" in texts
    for style in (tmp_path / "site/assets").rglob("*.css"):
        assert not re.search(r"url\((['\"]?)https?:", style.read_text(encoding="utf-8")), style.name
