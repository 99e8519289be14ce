"""`--max-pixels` holds for the command and its processes, and ends with it."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace

import pytest

import classification.eval
import classification.predict
import super_resolution.eval
import super_resolution.upscale
from core.command_line.pixels import add_max_pixels, limited
from core.errors import UserError
from core.storage.images import MAX_PIXELS, max_pixels


def test_the_limit_holds_while_the_command_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = ArgumentParser()
    add_max_pixels(parser)
    for before, usual in ((None, MAX_PIXELS), ("77", 77)):
        monkeypatch.delenv("LWDNA_MAX_PIXELS", raising=False)
        if before is not None:
            monkeypatch.setenv("LWDNA_MAX_PIXELS", before)
        command = limited(lambda options: max_pixels())
        assert command(parser.parse_args([])) == usual
        assert command(parser.parse_args(["--max-pixels", "5"])) == 5
        assert os.environ.get("LWDNA_MAX_PIXELS") == before


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(UserError, match="--max-pixels is 0: use at least 1"):
        limited(lambda options: 0)(Namespace(max_pixels=0))


@pytest.mark.parametrize(
    ("command", "needed"),
    [
        (classification.predict, ["a.png"]),
        (classification.eval, []),
        (super_resolution.eval, []),
        (super_resolution.upscale, ["a.png", "b.png"]),
    ],
)
def test_commands_that_read_images_have_the_option(
    command: object, needed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*needed, "--checkpoint", "c.safetensors", "--max-pixels", "-3"]
    assert command.main(words) == 2  # type: ignore[attr-defined]
    assert "error: --max-pixels is -3: use at least 1" in capsys.readouterr().err
