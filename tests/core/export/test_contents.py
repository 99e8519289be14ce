"""Lines of what a file says of itself; that of trained networks is tested where they are made."""

from __future__ import annotations

from core.export.contents import describe
from core.storage.description import Contents


def test_lines_of_a_description() -> None:
    contents = Contents(
        "toys",
        {"model": "mine.py:net", "std": [58.395, 57.120000000000005],
         "classes": [str(number) for number in range(30)], "size": [3, None]},
        {"recipe": {"train": {"lr": 0.1}}, "notes": []}, "lwdna 1", True, 2, 1234,
    )  # fmt: skip
    rows = [line.split(maxsplit=1) for line in describe("net.safetensors", contents).splitlines()]
    assert rows[0] == ["net.safetensors"]
    told = dict(rows[1:])
    assert told["model"] == "mine.py:net (code: named here, not imported; give it with --model)"
    assert told["classes"].endswith("18, 19, … (30 in all)")
    assert told["size"] == "3, any"
    assert told["std"] == "58.395, 57.12"
    assert told["widths"] == "the network's own"
    assert told["tensors"] == "2, 1,234 numbers"
    assert told["checksum"] == "fits"
    assert ["made:", "recipe.train.lr  0.1"] in rows


def test_what_is_not_told_is_said() -> None:
    text = describe("net.safetensors", Contents(""))
    assert "no description" in text
    assert "none: damaged weights would not be noticed" in text
