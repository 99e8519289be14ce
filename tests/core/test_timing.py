"""Times as text; `time_in_turns` is tested where it is used."""

from __future__ import annotations

import pytest

from core.timing import Timing, seconds_text, span_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (112.4, "112 s"), (5412.0, "5412 s"), (5.414, "5.41 s"), (0.3118, "0.312 s"), (0.03124, "0.0312 s"),
        (0.01, "0.0100 s"), (0.00999, "9.99 ms"), (0.00031, "0.310 ms"), (0.0000414, "0.0414 ms"),
        (0.0000052, "5.20 µs"),
    ],
)  # fmt: skip
def test_three_digits_and_a_fitting_unit(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


def test_one_unit_beside_another_time() -> None:
    assert seconds_text(1.25, like=1e-3) == "1250 ms"
    assert span_text(0.0002, 0.0123, 0.003) == "0.200–12.3"
    assert str(Timing((0.0003, 0.0004, 0.02), (0.1,) * 3)) == "0.400 ms (0.300–20.0)"
    assert str(Timing((0.5,), (0.1,))) == "0.500 s"
