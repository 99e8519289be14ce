"""Error rates of a classifier, counted exactly."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from core.errors import NonFiniteOutput, UserError
from core.training.train import Loader


@torch.inference_mode()
def error_rates(model: nn.Module, loader: Loader, device: torch.device | str) -> dict[str, float]:
    """Top-1 and top-5 error and mean cross-entropy over every image of a loader.

    The model is evaluated in eval mode; every module's mode is put back afterwards, also on failure.

    Args:
        model: from inputs `(B, C, H, W)` to logits `(B, classes)`; on `device`.
        loader: the test loader; its epoch 0 is read once. The last batch may be smaller.
        device: where the model lies.

    Returns:
        "top1_error" and, with five classes or more, "top5_error", in percent of all images; "loss" in nats.

    Raises:
        UserError: the loader holds no images.
        NonFiniteOutput: a logit is NaN or infinite.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        # Counts stay on the device: reading a number back after every batch would stall an accelerator.
        counts: list[torch.Tensor] = []
        images = 0
        top5 = True
        for inputs, targets in loader.epoch(0):
            logits = model(inputs.to(device, non_blocking=True)).float()
            counts.append(_count(logits, targets.to(device, non_blocking=True)))
            images += len(targets)
            top5 = logits.shape[1] >= 5
    finally:
        for module, training in modes.items():
            module.training = training
    if images == 0:
        raise UserError("there are no images to evaluate on; check the test part of the data set")
    top1_hits, top5_hits, loss, bad = torch.stack(counts).cpu().double().sum(dim=0).tolist()
    if bad:
        raise NonFiniteOutput(f"{bad:.0f} of {images} images have logits that are NaN or infinite")
    metrics = {"top1_error": 100 * (images - top1_hits) / images}
    if top5:
        metrics["top5_error"] = 100 * (images - top5_hits) / images
    return {**metrics, "loss": loss / images}


def _count(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Top-1 hits, top-5 hits, summed cross-entropy, images with non-finite logits of a batch, as a float32 tensor."""
    best = logits.topk(min(5, logits.shape[1])).indices
    hits = best == targets[:, None]
    bad = ~logits.isfinite().all(dim=1)
    loss = functional.cross_entropy(logits, targets, reduction="sum")
    return torch.stack((hits[:, 0].sum().float(), hits.sum().float(), loss, bad.sum().float()))
