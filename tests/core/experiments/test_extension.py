"""What is taken away of a finished run that is given more epochs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from core.experiments.extension import keep_shorter

GOLDEN = Path(__file__).parents[2] / "golden" / "before_move.json"
TOLD = (".html", ".md", ".png", ".svg")  # what a run tells its readers by


def test_nothing_is_left_that_tells_of_the_shorter_run(tmp_path: Path) -> None:
    """All files of a real work directory that tell of results go, and are kept beside; all else stays."""
    files = json.loads(GOLDEN.read_text())["commands"]["classification"]["files"]
    for name in (*files, "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    told = {name for name in files if Path(name).suffix in TOLD or name == "result.json"}
    assert {"report.html", "curves.svg"} < told
    stored, longer = (SimpleNamespace(train=SimpleNamespace(epochs=epochs)) for epochs in (2, 3))
    keep_shorter(tmp_path, longer, stored, [], lambda line: None)
    assert not [name for name in told if (tmp_path / name).exists()]
    assert all((tmp_path / "epochs-2" / name).exists() for name in files)
    assert (tmp_path / "notes.txt").exists()
    assert (tmp_path / "plan.json").exists()
