"""The page beside an export: what stands in it, and what of an older one stays."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import core
from core.errors import UserError
from core.export.card import LICENCE, card, costs, kept_licence, scores, sizes, time_table, widths_text
from core.export.formats import Exported, export
from core.graph.complexity import Cost, count, count_params
from core.surgery.architecture import Architecture
from core.tables import markdown_table, text_table
from core.timing import Timing
from tests.core.export.toys import Pooled, images, subject

TIMES = {
    "this network, torch": Timing((0.002, 0.004, 0.003), (0.1,) * 3),
    "net.pt2": Timing((0.0015,) * 2, (0.1,) * 2),
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Beside the result of its run."""
    metrics = {"top1_error": {"mean": 12.5, "std": 0.5, "values": [12.0, 13.0]}}
    result = {"task": "toys", "dataset": "photographs", "methods": {"fisher": {"metrics": metrics}}}
    (tmp_path / "result.json").write_text(json.dumps(result))
    return tmp_path / "fisher.safetensors"


def test_the_page(checkpoint: Path, tmp_path: Path) -> None:
    about = subject(
        Pooled(), header={**subject(Pooled()).header, "crc32": "77"}, left_out=("Half of it is missing.",)
    )
    file = export(about, tmp_path / "out" / "net.safetensors")
    lines = card(about, checkpoint, [file], TIMES, "1 x 1", f"{LICENCE}CC0").splitlines()
    assert lines[:3] == ["# Model card: Pooled (toys)", "", "Licence: CC0"]
    for line in (
        "- Trained on photographs.", "- Its widths are the network's own.", "- Seed 3.", "- Half of it is missing.",
        "Made from `fisher.safetensors`, crc32 77.", "- `images`: parts of a photograph", "One input of 1 x 1:",
        "`lwdna toys predict --help` says how `--checkpoint net.safetensors` is used.",
        "| top1_error | 12.5 | 0.5 | 2 |",
    ):  # fmt: skip
        assert line in lines, line
    content = file.path.read_bytes()
    assert f"| `net.safetensors` | {len(content):,} | 0.0e+00 ({file.checker}) | " in "\n".join(lines)
    assert any(hashlib.sha256(content).hexdigest() in line for line in lines)
    assert any(line.split() == ["made:", "recipe.train.epochs", "2"] for line in lines)
    assert any("mine.py:net (code: named here, not imported" in line for line in lines)


def test_what_was_not_measured_or_told_is_said(tmp_path: Path) -> None:
    about = subject(Pooled(), header={})
    text = card(about, tmp_path / "net.pth", [], {}, "", LICENCE)
    for line in (
        "- The checkpoint does not tell what it was trained on.", "Made from `net.pth`, which has no checksum.",
        "Not measured.", "The checkpoint holds none, and no `result.json` of its run lies beside it.",
    ):  # fmt: skip
        assert line in text.splitlines(), line


def test_programs_come_with_their_use(checkpoint: Path) -> None:
    run = lambda inputs: ()  # noqa: E731
    checkpoint.write_bytes(b"12")
    files = [
        Exported(checkpoint.with_suffix(ending), "x 1", 0.0, ((1,),), step, reason, run)
        for ending, step, reason in ((".onnx", 4, ""), (".pt2", None, "it says so"))
    ]
    for file in files:
        file.path.write_bytes(b"12")
    text = card(subject(Pooled()), checkpoint, files, {}, "", LICENCE)
    assert "```python\nprint('fisher.onnx')\n```" in text
    assert "program = torch.export.load('fisher.pt2').module()\noutputs = program(images)" in text
    assert [sizes(file) for file in files] == [
        "any number of inputs N, any height and width, in steps of 4 from those that it was compared on",
        "any number of inputs N; height and width are fixed: it says so",
    ]


def test_the_licence_of_an_older_card_stays(tmp_path: Path) -> None:
    path = tmp_path / "net.md"
    first = kept_licence(path)
    assert first.startswith(f"{LICENCE}not told.")
    path.write_text(f"# Model card: net (toys)\n\n{LICENCE}MIT, by us\n\nmore\n")
    assert kept_licence(path) == f"{LICENCE}MIT, by us"
    path.write_text("# Model card: net (toys)\n")
    assert kept_licence(path) == first


@pytest.mark.parametrize("content", ["", "# My project\n\nLicence: MIT\n"])
def test_a_page_of_ones_own_is_not_written_over(tmp_path: Path, content: str) -> None:
    (tmp_path / "README.md").write_text(content)
    with pytest.raises(UserError, match=r"README\.md' exists and is no model card"):
        kept_licence(tmp_path / "README.md")


def test_costs_are_those_of_one_input() -> None:
    regular = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU())
    small = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU())
    table = costs(subject(small, regular=regular), markdown_table).splitlines()
    pixels = 16 * 24
    assert table[0] == "| 16 x 24 | MACs | FLOPs (paper) | parameters |"
    macs, paper = 27 * 4 * pixels, (27 * 4 + 4) * pixels
    assert (count(small, images(1)), count(small, images(1), "paper")) == (macs, paper)
    assert table[3] == f"| this network | {macs / 1e3:.4f} k | {paper / 1e3:.4f} k | {count_params(small)} |"
    assert table[2].startswith(f"| regular network | {2 * macs / 1e3:.4f} k |")


def test_widths_in_a_line() -> None:
    found = Architecture(
        "net", {"a": 1500, "b": 12}, [], cost=Cost(90, 80, 30), baseline=Cost(100, 100, 40),
        baseline_widths={"a": 2000, "b": 16, "c": 5}, removed=("layer1.1",),
    )  # fmt: skip
    assert widths_text(found) == (
        "2 groups with 1,512 of 2,016 channels, 80.0 % of the regular network's FLOPs and 75.0 % of its parameters, "
        "without the blocks layer1.1"
    )
    assert widths_text(replace(found, baseline_widths={}, cost=None, removed=())) == "2 groups"


def test_found_widths_are_told() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 3, 3, 1, 1))
    found = core.shrink(
        net, images(1), [], nn.functional.mse_loss, budget=core.Budget(flops=0.8), score="random"
    )
    about = subject(found.build(net), architecture=found)
    text = card(about, Path("net.safetensors"), [], {}, "", LICENCE)
    assert "- Its widths were found by `fisher`: 1 groups with " in text


def test_times_in_milliseconds() -> None:
    lines = time_table({**TIMES, "once": Timing((0.01,), (0.1,))}, text_table).splitlines()
    assert lines[4].split() == ["once", "10.0", "ms", "10.0–10.0", "1", "3.33"]
    assert lines[2].split() == ["this", "network,", "torch", "3.00", "ms", "2.50–3.50", "3", "1.00"]
    assert lines[3].split() == ["net.pt2", "1.50", "ms", "1.50–1.50", "2", "0.50"]


@pytest.mark.parametrize(
    "changes",
    [{"task": "others"}, {"dataset": "digits"}, {"methods": {}}, {"methods": {"fisher": {"metrics": 3}}}],
)
def test_scores_of_another_run_are_not_taken(checkpoint: Path, changes: dict[str, object]) -> None:
    contents = subject(Pooled()).contents
    assert "12.5" in scores(checkpoint, "toys", contents)
    place = checkpoint.parent / "result.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), **changes}))
    assert scores(checkpoint, "toys", contents).startswith("The checkpoint holds none")
    place.write_text("no JSON")
    assert scores(checkpoint, "toys", contents).startswith("The checkpoint holds none")
    assert torch.is_grad_enabled()
