"""A DiMP tracker from a checkpoint and the name of its settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from core.training.devices import pick_device
from tracking.dimp.checkpoint import load_network
from tracking.dimp.inference import InferenceNetwork
from tracking.dimp.settings import preset
from tracking.dimp.tracker import DiMPTracker


def dimp_factory(
    name: str,
    checkpoint: str | Path,
    device: str | torch.device = "auto",
    seed: int = 0,
    backbone: str | None = None,
) -> Callable[[], DiMPTracker]:
    """A factory of trackers that share one network.

    Args:
        name: a preset of `tracking.dimp.settings`; settings that the checkpoint holds override it.
        checkpoint: of `tracking.train`, or a published one.
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1" or "mps".
        seed: of every tracker.
        backbone: the factory of a backbone of the user's own, see `tracking.dimp.checkpoint.Description.build`.

    Raises:
        MissingData: there is no such checkpoint.
        UserError: it is broken, or there is no such preset or device.
    """
    settings = preset(name)
    network, description = load_network(checkpoint, backbone)
    settings = settings.replaced(description.settings)
    place = device if isinstance(device, torch.device) else pick_device(device)
    prepared = InferenceNetwork(network, place)
    return lambda: DiMPTracker(prepared, settings, seed)
