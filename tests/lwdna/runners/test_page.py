"""docs/runners.md: what stands outside of the runners' own sections."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.command_line.config import load_config
from tests.lwdna.runners import page


def test_configurations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from classification.config import RunConfig

    page.write_files("Configurations", tmp_path)
    monkeypatch.chdir(tmp_path)
    [line] = page.commands("Configurations")
    assert page.type_command(line, monkeypatch) == 0
    assert "no settings, and nothing uses them: default_scope" in capsys.readouterr().err
    [written] = tmp_path.rglob("config.py")
    train = load_config(written, RunConfig, dumped=True).train
    assert (train.epochs, train.schedule.milestones) == (4, (1, 3))


def test_every_block_is_a_file_or_a_command() -> None:
    text = (page.ROOT / "docs/runners.md").read_text(encoding="utf-8")
    titles = ("mmengine", "BasicSR", "timm", "Configurations")
    files = sum(
        page.section(title).count(f"```{kind}\n# ") for title in titles for kind in ("python", "yaml")
    )
    assert text.count("```") == 2 * (files + len(titles))
