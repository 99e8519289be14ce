"""Nested values that have to be equal to the last bit."""

from __future__ import annotations

from typing import Any

import torch


def assert_same_bits(first: Any, second: Any, where: str = "") -> None:
    """Equal nested states, tensors bit for bit; what a clock measured is left out."""
    assert type(first) is type(second), where
    if isinstance(first, dict):
        assert list(first) == list(second), where
        for key in first:
            if key != "seconds":
                assert_same_bits(first[key], second[key], f"{where}/{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for index, (left, right) in enumerate(zip(first, second)):
            assert_same_bits(left, right, f"{where}/{index}")
    else:
        assert torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second, where
