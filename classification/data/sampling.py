"""Which images an epoch uses, in which order, in which batches."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from classification.data.augmentation import batch_generator
from core.errors import UserError

_ORDER_STREAM = 2**63 - 1  # beyond every batch index, so that no batch shares the order's random numbers


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The permutation of `range(count)` in which an epoch sees the images; the same on every device."""
    return torch.randperm(count, generator=batch_generator(seed, epoch, _ORDER_STREAM))


def batch_rows(count: int, batch_size: int, training: bool) -> list[slice]:
    """The batches of an epoch as slices of its order.

    Training leaves out the last partial batch: a handful of images would weigh as much as a full batch in the
    step and in the batch-norm statistics. A data set smaller than one batch is one batch.
    """
    stop = count - count % batch_size if training and count >= batch_size else count
    return [slice(begin, min(begin + batch_size, count)) for begin in range(0, stop, batch_size)]


def occurrence(labels: np.ndarray) -> np.ndarray:
    """For every label, the number of earlier labels equal to it: `[7, 3, 7, 7, 3]` gives `[0, 0, 1, 2, 1]`."""
    by_class = np.argsort(labels, kind="stable")
    ordered = labels[by_class]
    first = np.searchsorted(ordered, ordered, side="left")
    counts = np.empty(len(labels), dtype=np.int64)
    counts[by_class] = np.arange(len(labels)) - first
    return counts


def balanced_subset(labels: np.ndarray, limit: int | None) -> np.ndarray:
    """Sorted row numbers of a class-balanced subset: the first of every class, the second of every class, …

    Class sizes differ by at most one wherever the classes have enough images, a smaller subset lies within a
    larger one, and no random number is involved.

    Args:
        labels: `(N,)` integers.
        limit: size of the subset, at least 1; None, or N and more, takes all.
    """
    if limit is None or limit >= len(labels):
        return np.arange(len(labels))
    return np.sort(np.lexsort((labels, occurrence(labels)))[:limit])


def check_shard(count: int, batch_size: int, world: int, training: bool) -> None:
    """Refuse training batches that cannot be shared out evenly: processes average their gradients with equal weights.

    In evaluation a process may have no image of a batch.

    Raises:
        UserError: a training batch is no multiple of `world`.
    """
    sizes = {batch.stop - batch.start for batch in batch_rows(count, batch_size, training)}
    if training and any(size % world for size in sizes):
        raise UserError(
            f"training batches of {min(batch_size, count)} images cannot be shared out evenly over {world} "
            f"processes; set train.batch_size to a multiple of {world}, no more than the {count} images"
        )
