"""The training samples that a tracker keeps, and how much each counts (Bhat et al., ICCV 2019, section 3.5)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class SampleMemory:
    """Features and boxes of the first frame and of later ones, in memory of constant size.

    A new sample weighs more than the one before it by a factor of 1 / (1 - rate), so that old ones fade; the weights
    are normalised after every change. The first frame's samples are never replaced, and together they keep a share.

    Args:
        features: (N, C, h, w), of the first frame's samples; they start with equal weights.
        boxes: (N, 4), the target in each, in crop pixels.
        size: samples kept in all, more than N.
        minimum: the least share of weight of the first frame's samples.

    Attributes:
        weights: (number of samples,) float64, they sum to 1; on the CPU, where the decisions from them are made.
    """

    def __init__(self, features: Tensor, boxes: Tensor, size: int, minimum: float) -> None:
        self._initial, self._minimum = len(features), minimum
        # Channels innermost: the optimiser reads the samples as one matrix.
        self._features = features.new_empty(size, *features.shape[1:]).to(memory_format=torch.channels_last)
        self._boxes = boxes.new_empty(size, 4)
        self._features[: self._initial] = features
        self._boxes[: self._initial] = boxes
        self.weights = np.full(self._initial, 1 / self._initial)
        self._previous: int | None = None

    def __len__(self) -> int:
        """Samples stored."""
        return len(self.weights)

    def samples(self) -> tuple[Tensor, Tensor, Tensor]:
        """Features (1, n, C, h, w), boxes (1, n, 4) and weights (1, n) of all samples, as the optimiser takes them."""
        count = len(self)
        weights = torch.from_numpy(self.weights).to(self._boxes)
        return self._features[None, :count], self._boxes[None, :count], weights[None]

    def add(self, features: Tensor, box: Tensor, rate: float) -> int:
        """Store a sample in the next free slot, or in that of the least important later one.

        Args:
            features: (1, C, h, w) or (C, h, w).
            box: (4,).
            rate: its weight: before normalisation, the share that it takes from the others.

        Returns:
            The slot.
        """
        count, size = len(self), len(self._features)
        if count < size:
            slot = count
            self.weights = np.append(self.weights, 0.0)
        else:
            slot = self._initial + int(np.argmin(self.weights[self._initial :]))
        if self._previous is None:
            self.weights /= 1 - rate
            self.weights[slot] = rate
        else:
            self.weights[slot] = self.weights[self._previous] / (1 - rate)
        self._previous = slot
        self._features[slot] = features
        self._boxes[slot] = box
        self._normalise()
        return slot

    def _normalise(self) -> None:
        self.weights /= self.weights.sum()
        first, later = self.weights[: self._initial], self.weights[self._initial :]
        if first.sum() < self._minimum:
            later *= (1 - self._minimum) / later.sum()
            first[:] = self._minimum / self._initial
