"""Error rates of a classifier, counted exactly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from core.errors import NonFiniteOutput, UserError
from core.modules import evaluating
from core.training.devices import in_all, place_among_processes
from core.training.train import Loader

TOP = 5
EMPTY = "there are no images to evaluate on; check the test part of the data set"


@torch.inference_mode()
def error_rates(model: nn.Module, loader: Loader, device: torch.device | str) -> dict[str, float]:
    """Top-1 and top-5 error and mean cross-entropy over every image of a loader, in all processes alike.

    The model is evaluated in eval mode; every module's mode is put back afterwards, also on failure. Launched processes
    share out the images, and each image is counted once; all processes have to call this.

    Args:
        model: from inputs `(B, C, H, W)` to logits `(B, classes)`; on `device`.
        loader: the test loader; its epoch 0 is read once. The last batch may be smaller.
        device: where the model lies.

    Returns:
        "top1_error" and, with more than five classes, "top5_error", in percent of all images; "loss" in nats.

    Raises:
        UserError: the loader holds no images.
        NonFiniteOutput: a logit is NaN or infinite.
    """
    rank, world = place_among_processes()
    part = loader.shard(rank, world) if world > 1 else loader

    def count() -> tuple[list[float], int, bool]:
        # Counts stay on the device: reading a number back after every batch would stall an accelerator.
        counts: list[torch.Tensor] = []
        images = 0
        top5 = True
        for logits, targets, _ in outputs(model, part, device):
            counts.append(_count(logits, targets))
            images += len(targets)
            top5 = logits.shape[1] > TOP
        sums = torch.stack(counts).cpu().double().sum(dim=0).tolist() if counts else [0.0] * 4
        return sums, images, top5

    told = in_all(count)
    images, top5 = sum(seen for _, seen, _ in told), all(several for _, _, several in told)
    if images == 0:
        raise UserError(EMPTY)
    top1_hits, top5_hits, loss, bad = (sum(column) for column in zip(*(sums for sums, _, _ in told)))
    if bad:
        raise NonFiniteOutput(f"{bad:.0f} of {images} images have logits that are NaN or infinite")
    metrics = {"top1_error": 100 * (images - top1_hits) / images}
    if top5:
        metrics["top5_error"] = 100 * (images - top5_hits) / images
    return {**metrics, "loss": loss / images}


@torch.inference_mode()
def outputs(
    model: nn.Module, loader: Loader, device: torch.device | str
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Logits (B, classes), float32, targets (B,) and inputs of every batch of a loader's epoch 0, on `device`.

    The model is in eval mode meanwhile; every module's mode is put back afterwards, also on failure.
    """
    with evaluating(model):
        for batch, targets in loader.epoch(0):
            inputs = batch.to(device, non_blocking=True)
            yield model(inputs).float(), targets.to(device, non_blocking=True), inputs


@dataclass(frozen=True)
class Judged:
    """A classifier's predictions for every image of a loader, in its order, on the CPU.

    Attributes:
        targets: (N,), int64: the right outputs.
        best: (N, k), int64: the k likeliest outputs, the likeliest first; k is 5, or as many as there are.
        shares: (N, k): their softmax probabilities.
        losses: (N,): cross-entropy in nats.
        worst: the images with the largest losses, as (row, inputs (C, H, W)), the largest loss first.
        outputs: number of the network's outputs.
    """

    targets: torch.Tensor
    best: torch.Tensor
    shares: torch.Tensor
    losses: torch.Tensor
    worst: tuple[tuple[int, torch.Tensor], ...]
    outputs: int

    def metrics(self) -> dict[str, float]:
        """What `error_rates` gives, counted alike; the loss is summed in another order."""
        hits = self.best == self.targets[:, None]
        count = len(self.targets)
        metrics = {"top1_error": 100 * (count - int(hits[:, 0].sum())) / count}
        if self.outputs > TOP:
            metrics["top5_error"] = 100 * (count - int(hits.sum())) / count
        return {**metrics, "loss": float(self.losses.double().mean())}


def judge(model: nn.Module, loader: Loader, device: torch.device | str, keep: int) -> Judged:
    """`error_rates` image by image.

    Args:
        model: see `error_rates`.
        loader: likewise.
        device: likewise.
        keep: how many of the worst images to keep.

    Raises:
        UserError: the loader holds no images.
        NonFiniteOutput: a logit is NaN or infinite.
    """
    found: list[tuple[torch.Tensor, ...]] = []
    worst: list[tuple[float, int, torch.Tensor]] = []
    seen = classes = 0
    for logits, targets, inputs in outputs(model, loader, device):
        best, shares = likeliest(logits)
        losses = functional.cross_entropy(logits, targets, reduction="none")
        found.append(tuple(part.cpu() for part in (targets, best, shares, losses)))
        rows = losses.sort(descending=True, stable=True).indices[:keep].tolist()
        worst += [(float(losses[row]), seen + row, inputs[row].cpu()) for row in rows]
        worst = sorted(worst, key=lambda item: (-item[0], item[1]))[:keep]
        seen, classes = seen + len(targets), logits.shape[1]
    if not seen:
        raise UserError(EMPTY)
    targets, best, shares, losses = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Judged(targets, best, shares, losses, tuple((row, image) for _, row, image in worst), classes)


def largest(logits: torch.Tensor) -> torch.Tensor:
    """Indices of the five largest logits (or all, of fewer): (B, classes) -> (B, k), int64, the largest first.

    Of equal logits the lower index comes first, as with `argmax`, which counts errors in training; with `topk` the
    order may be any.
    """
    return logits.sort(dim=1, descending=True, stable=True).indices[:, :TOP]


def likeliest(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The five likeliest outputs (all, if there are fewer) of logits (B, classes), and their softmax probabilities.

    Raises:
        NonFiniteOutput: a logit is NaN or infinite.
    """
    bad = int((~logits.isfinite().all(dim=1)).sum())
    if bad:
        raise NonFiniteOutput(
            f"{bad} of {len(logits)} images of a batch have logits that are NaN or infinite"
        )
    best = largest(logits)
    return best, logits.softmax(dim=1).gather(1, best)


def _count(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Top-1 hits, top-5 hits, summed cross-entropy, images with non-finite logits of a batch, as a float32 tensor."""
    best = largest(logits)
    hits = best == targets[:, None]
    bad = ~logits.isfinite().all(dim=1)
    loss = functional.cross_entropy(logits, targets, reduction="sum")
    return torch.stack((hits[:, 0].sum().float(), hits.sum().float(), loss, bad.sum().float()))
