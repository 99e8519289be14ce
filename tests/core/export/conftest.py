"""What tests of exported files share."""

from __future__ import annotations

import pytest


@pytest.fixture(params=[".pt2", ".onnx"])
def ending(request: pytest.FixtureRequest) -> str:
    """Of every kind of program that is exported."""
    if request.param == ".onnx":
        request.getfixturevalue("onnxruntime")
    return str(request.param)
