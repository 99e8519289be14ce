"""`export` as users type it, on toy networks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from core.export.command import Request, build_parser, compare_times, main
from core.export.formats import Exported
from core.export.subject import Exportable
from core.storage.description import read_contents
from tests.core.export.toys import Lying, Pooled, images, subject


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "trained.safetensors"
    path.write_bytes(b"read by the task")
    return path


def command(*words: object, network: nn.Module | None = None) -> tuple[int, list[Request]]:
    asked: list[Request] = []

    def open_export(request: Request) -> Exportable:
        asked.append(request)
        return subject(network or Pooled())

    return main("export", None, open_export, [str(word) for word in words]), asked


def test_files_and_a_card(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "net"
    done, asked = command(
        checkpoint,
        out.with_suffix(".pt2"),
        out.with_suffix(".safetensors"),
        "--turns",
        2,
        "--model",
        "mine.py:net",
    )
    assert done == 0
    assert asked == [Request(checkpoint, "mine.py:net", (), True)]
    assert sorted(path.name for path in out.parent.iterdir()) == ["net.md", "net.pt2", "net.safetensors"]
    assert read_contents(out.with_suffix(".safetensors")).checked
    told = capsys.readouterr().out
    assert told.startswith(f"{checkpoint}: Pooled (toys)\nwritten: {out}.pt2 (")
    assert "compared under torch" in told
    assert "  takes any number of inputs N, any height and width\n" in told
    for name in ("this network, torch", "net.pt2, torch"):
        assert any(line.startswith(name) and " ms " in line for line in told.splitlines()), name
    text = out.with_suffix(".md").read_text()
    assert text.startswith("# Model card: Pooled (toys)")
    assert "| net.pt2, torch " in text


def test_the_other_form_and_images(checkpoint: Path, tmp_path: Path) -> None:
    words = (checkpoint, tmp_path / "net.safetensors", "--turns", 0)
    done, asked = command(
        *words, "--inputs", "normalised", "--images", "a.png", "b.png", "--backbone", "b.py:net"
    )
    assert done == 0
    assert asked == [Request(checkpoint, "b.py:net", (Path("a.png"), Path("b.png")), False)]
    assert "Not measured." in (tmp_path / "net.md").read_text()


def test_a_licence_stays(checkpoint: Path, tmp_path: Path) -> None:
    words = (checkpoint, tmp_path / "net.safetensors", "--turns", 0)
    command(*words)
    page = tmp_path / "net.md"
    page.write_text(page.read_text().replace("Licence: not told.", "Licence: MIT.", 1))
    command(*words)
    assert "\nLicence: MIT." in page.read_text()


def test_nothing_is_left_where_a_program_differs(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(checkpoint, tmp_path / "net.pt2", network=Lying())[0] == 1
    assert "failed: ExportDiffers: " in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.name]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["C", "net.exe"], r"'.*net\.exe' has the ending '\.exe'"),
        (["C", "a.pt2", "b.safetensors"], "differ in more than their endings"),
        (["C", "net.pt2", "net.pt2"], "is the file that OUT names"),
        (["C", "C"], "is the checkpoint that is read"),
        (["C", "net.safetensors", "--images", "net.safetensors"], "is an image that is read"),
        (["C", "own.safetensors"], r"own\.md' exists and is no model card"),
        (["C", "net.pt2", "--turns", "-1"], "--turns is -1"),
    ],
)
def test_wrong_usage_opens_nothing(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    (tmp_path / "own.md").write_text("# Notes of my own\n")
    before = sorted(tmp_path.iterdir())
    typed = [checkpoint if word == "C" else tmp_path / word if "." in word else word for word in words]
    done, asked = command(*typed)
    assert (done, asked) == (2, [])
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert re.search(message, error), error
    assert sorted(tmp_path.iterdir()) == before


def test_all_ways_are_timed_on_one_input(tmp_path: Path) -> None:
    seen: list[torch.Size] = []

    class Watched(Pooled):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images.shape)
            return super().forward(images)

    def run(inputs: object) -> tuple[torch.Tensor, ...]:
        return (images(),)

    files = [
        Exported(tmp_path / f"net{ending}", "it", 0.0, (), 1, "", run) for ending in (".onnx", ".safetensors")
    ]
    about = subject(Watched(), regular=Pooled().eval())
    times = compare_times(about, files, 2)
    assert list(times) == ["regular network, torch", "this network, torch", "net.onnx, it"]
    assert {len(timing.wall) for timing in times.values()} == {2}
    assert set(seen) == {torch.Size((1, 3, 16, 24))}


def test_help_names_what_can_be_written() -> None:
    text = " ".join(build_parser("export", "words").format_help().split())
    assert "by their endings .onnx, .pt2 and .safetensors" in text
