"""The command that scores a trained network says what the run's table said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from super_resolution.checkpoint import Description, load_network, save_network
from super_resolution.data import DataConfig, open_benchmarks
from super_resolution.eval import main
from super_resolution.evaluation import metrics
from super_resolution.models import build

OPTIONS = {"n_blocks": 1, "n_feats": 4}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    save_network(path, build("edsr", 4, **OPTIONS), Description("edsr", 4, OPTIONS))
    return path


def test_scores_are_those_that_runs_report(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = checkpoint.parent / "scores.json"
    assert main(["--checkpoint", str(checkpoint), "--dataset", "skimage", "--out", str(out)]) == 0
    (name, entry), *others = json.loads(out.read_text())["sets"].items()
    assert not others
    present = open_benchmarks(("skimage",), checkpoint.parent, 4)[0]
    wanted = metrics(load_network(checkpoint)[0], present)
    own = entry["methods"]["small"]
    assert (own["psnr"], own["ssim"]) == (wanted[f"{name}_psnr"], wanted[f"{name}_ssim"])
    assert set(own["images"]) == set(entry["methods"]["Bicubic"]["images"])
    assert len(own["images"]) == entry["images"] == 3
    table = capsys.readouterr().out
    assert f"{name}, Bicubic" in table
    assert f"{own['psnr']:.2f}" in table


def test_sets_that_are_not_there(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ["--data-root", str(tmp_path)]
    assert main(["--checkpoint", str(checkpoint), *root, "--dataset", "skimage", "Set5"]) == 2
    assert "no set to score on: the benchmark Set5 not found" in capsys.readouterr().err
    assert main(["--checkpoint", str(checkpoint), *root]) == 0  # nobody has named them
    out = capsys.readouterr().out
    assert out.count("note: not scored:") == len(DataConfig().benchmarks) - 1


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--out", "a.txt"], "change the ending"), (["--tile", "-1"], "--tile is -1"),
     (["--dataset", "nothing"], "nothing")],
)  # fmt: skip
def test_wrong_usage(
    checkpoint: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--checkpoint", str(checkpoint), *words]) == 2
    assert message in capsys.readouterr().err
