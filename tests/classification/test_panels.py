"""Errors class by class and disagreements, against the scores of the run itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from classification.panels import PREDICTIONS, Predictions, predictions


class Loader:
    """Six images of three classes, in batches of four; counts how often it was read."""

    read = 0

    def __len__(self) -> int:
        return 2

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        self.read += 1
        images, targets = torch.eye(3).repeat(2, 1), torch.tensor([0, 1, 2, 0, 1, 1])
        yield from zip(images.split(4), targets.split(4), strict=True)

    def shard(self, rank: int, world: int) -> Loader:
        raise NotImplementedError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return tmp_path


def ask(folder: Path, loader: Loader) -> tuple[list[int], list[int]]:
    targets, predicted = predictions(folder, nn.Identity, loader, torch.device("cpu"))
    return targets.tolist(), predicted.tolist()


def test_predictions_are_made_once_for_the_same_weights(folder: Path) -> None:
    loader, expected = Loader(), ([0, 1, 2, 0, 1, 1], [0, 1, 2, 0, 1, 2])
    assert ask(folder, loader) == expected
    assert ask(folder, loader) == expected
    assert loader.read == 1
    (folder / "model.safetensors").write_bytes(b"others")
    assert ask(folder, loader) == expected
    assert loader.read == 2


@pytest.mark.parametrize("text", ["", "{", "[]", '{"weights": 3}', "null"])
def test_a_damaged_file_is_made_anew(folder: Path, text: str) -> None:
    loader = Loader()
    expected = ask(folder, loader)
    (folder / PREDICTIONS).write_text(text)
    assert ask(folder, loader) == expected
    assert loader.read == 2
    value = json.loads((folder / PREDICTIONS).read_text())
    (folder / PREDICTIONS).write_text(json.dumps({**value, "predicted": [1]}))
    assert ask(folder, loader) == expected


def test_right_and_wrong_by_hand() -> None:
    found = Predictions(np.array([0, 1, 2]), {"a": np.array([[0, 1, 0], [1, 1, 2]])}, (0, 1))
    assert found.right("a").tolist() == [[True, True, False], [False, True, True]]
