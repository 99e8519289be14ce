"""Which frames make a sample: causal, near each other, and only those in which the target can be seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tracking.training.config import SamplingConfig
from tracking.training.sequences import UsableSet


def draw_sequence(
    sets: Sequence[UsableSet], weights: Sequence[float], random: np.random.Generator
) -> tuple[int, int]:
    """A set, drawn in proportion to its weight, and one of its sequences, all equally likely: `(set, sequence)`."""
    shares = np.cumsum(np.asarray(weights, np.float64))
    chosen = int(np.searchsorted(shares, random.random() * shares[-1], side="right"))
    sequences = sets[chosen].sequences
    return chosen, int(sequences[random.integers(len(sequences))])


def draw_frames(usable: np.ndarray, config: SamplingConfig, random: np.random.Generator) -> np.ndarray:
    """The frames of a sample: N for the target model, then M later ones to test it on.

    The first is the base frame; N - 1 frames lie within `max_gap` before it and M within `max_gap` after it, drawn with
    replacement. If either window holds no usable frame, both grow by `gap_step`.

    Args:
        usable: usable frame numbers, ascending; at least three.
        config: the rule.
        random: the only source of randomness.

    Returns:
        `(N + M,)` frame numbers.
    """
    lowest = 1 if config.train_frames > 1 else 0
    place = int(random.integers(lowest, len(usable) - 1))
    base = usable[place]
    gap = config.max_gap
    needed = usable[place + 1] - base
    if config.train_frames > 1:
        needed = max(needed, base - usable[place - 1])
    if needed > gap:
        gap += -(-(needed - gap) // config.gap_step) * config.gap_step
    begin = np.searchsorted(usable, base - gap)
    end = np.searchsorted(usable, base + gap, side="right")
    earlier = usable[random.integers(begin, place, config.train_frames - 1)] if lowest else usable[:0]
    later = usable[random.integers(place + 1, end, config.test_frames)]
    return np.concatenate([[base], earlier, later])
