"""Backbones of a tracker: the first three stages of a ResNet, of regular or of found widths."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from core.errors import UserError, did_you_mean
from core.graph.channels import trace_channels
from core.networks.resnet import BasicBlock, Bottleneck, ResNet, Stem
from core.storage.checkpoint import fit_weights, read_weights
from core.surgery.architecture import Architecture, ArchitectureError, describe_inputs
from core.surgery.depth import shorten

SMALL_PLANES = 16
PROBE_SIDE = 64
CLASSES = 1000  # of the classifier that a trunk leaves out; a widths file's groups do not depend on it

RESNETS: dict[str, Callable[[], ResNet]] = {
    "resnet18": lambda: ResNet(BasicBlock, (2, 2, 2, 2), Stem(), 3, CLASSES),
    "resnet50": lambda: ResNet(Bottleneck, (3, 4, 6, 3), Stem(), 3, CLASSES),
    "resnet18-small": lambda: ResNet(BasicBlock, (2, 2, 2, 2), Stem(), 3, CLASSES, planes=SMALL_PLANES),
}
# Parts of a ResNet that a trunk leaves out; official checkpoints of trackers carry them along.
UNUSED = ("layer4.", "fc.")


class ResNetTrunk(nn.Module):
    """A ResNet up to its third stage.

    Args:
        resnet: a module with torchvision's names: `conv1`, `bn1`, `relu`, `maxpool`, `layer1`, `layer2`, `layer3`. Its
            parts are taken over, not copied.

    Raises:
        UserError: a part is missing.
    """

    def __init__(self, resnet: nn.Module) -> None:
        super().__init__()
        for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3"):
            part = getattr(resnet, name, None)
            if not isinstance(part, nn.Module):
                raise UserError(
                    f"{type(resnet).__name__} has no '{name}': a backbone is a ResNet with torchvision's names"
                )
            setattr(self, name, part)

    @property
    def channels(self) -> dict[str, int]:
        """Widths of `layer2` and `layer3`, which the heads adapt to."""
        return {name: stage.shape[1] for name, stage in self._stages().items()}

    @property
    def strides(self) -> dict[str, int]:
        """Image pixels per cell of these stages."""
        return {name: PROBE_SIDE // stage.shape[-1] for name, stage in self._stages().items()}

    def _stages(self) -> dict[str, Tensor]:
        """What a small image shows: widths change when a network is cut, and nothing has to be kept up to date."""
        training = self.training
        self.eval()
        parameter = next(self.parameters())
        with torch.no_grad():
            stages = self(parameter.new_zeros(1, 3, PROBE_SIDE, PROBE_SIDE))
        self.train(training)
        return stages

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images (N, 3, H, W) to `layer2` (N, C2, H/8, W/8) and `layer3` (N, C3, H/16, W/16)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        fine = self.layer2(self.layer1(x))
        return {"layer2": fine, "layer3": self.layer3(fine)}


def resnet_trunk(name: str, widths: str | Path | Architecture | None = None) -> ResNetTrunk:
    """A freshly initialised backbone.

    Args:
        name: a key of `RESNETS`.
        widths: found widths, as `core.Architecture` or its file, of the whole ResNet (whose last stage a tracker does
            not use) or of the trunk alone; None for the regular network.

    Raises:
        UserError: an unknown name.
        ArchitectureError: widths of another network, or a damaged file.
    """
    if name not in RESNETS:
        raise UserError(f"unknown backbone '{name}': {did_you_mean(name, RESNETS)}")
    resnet: nn.Module = RESNETS[name]()
    if widths is None:
        return ResNetTrunk(resnet)
    found = widths if isinstance(widths, Architecture) else Architecture.load(widths)
    if _is_whole(found):
        return ResNetTrunk(found.build(resnet))
    trunk = found.build(ResNetTrunk(resnet))
    assert isinstance(trunk, ResNetTrunk)  # what is built is of the class that it is built from
    return trunk


def trunk_architecture(name: str, found: Architecture, side: int) -> Architecture:
    """The widths that a tracker uses of a ResNet's, priced on its crops.

    Args:
        name: a key of `RESNETS`.
        found: widths of the whole ResNet, or of the trunk alone.
        side: of a crop, in pixels.

    Raises:
        ArchitectureError: widths of another network, one of the same form but of another regular width included.
    """
    if _is_whole(found):
        found.graph(RESNETS[name]())  # the file's own check, against the whole network
    inputs = torch.zeros(1, 3, side, side)
    trunk = resnet_trunk(name)
    regular_graph = trace_channels(trunk, inputs, outputs="free")
    removed = tuple(block for block in found.removed if not block.startswith(UNUSED))
    graph = trace_channels(shorten(trunk, removed), inputs, outputs="free") if removed else regular_graph
    missing = next((group for group in graph.widths if group not in found.widths), None)
    if missing is not None:
        raise ArchitectureError(
            f"group '{missing}' of {name} is missing in the widths file of '{found.model}'"
        )
    regular = found.baseline_widths  # a file written by hand says nothing about it
    for group, width in graph.widths.items():
        if regular.get(group, width) != width:
            raise ArchitectureError(
                f"the widths file of '{found.model}' was made for a network whose group '{group}' has {regular[group]} "
                f"channels, but {name} has {width}: name the backbone for which the widths were found"
            )
    widths = {group: found.widths[group] for group in graph.widths}
    return Architecture(
        name,
        widths,
        describe_inputs(inputs),
        options=graph.options,
        cost=graph.price(widths),
        baseline=regular_graph.price(),
        baseline_widths=regular_graph.widths,
        found_by=found.found_by,
        removed=removed,
    )


def _is_whole(found: Architecture) -> bool:
    return any(group.startswith(UNUSED) for group in found.widths)


def load_backbone_weights(trunk: ResNetTrunk, path: str | Path) -> list[str]:
    """Fill a trunk with a trained classifier's weights: ours, torchvision's, or a checkpoint of either.

    Args:
        trunk: as wide as the classifier.
        path: weights by torchvision's names; `layer4` and `fc` are not used. A stem of another kernel size than the
            trunk's 7 x 7 (networks for small images have 3 x 3) cannot be taken over.

    Returns:
        Names of the parameters that stay fresh: none, or those of such a stem.

    Raises:
        MissingData: there is no such file.
        UserError: names or shapes that do not fit.
    """
    weights = {name: value for name, value in read_weights(path).items() if not name.startswith(UNUSED)}
    own = trunk.state_dict()
    fresh = []
    stem = weights.get("conv1.weight")
    if (
        stem is not None
        and stem.shape[:2] == own["conv1.weight"].shape[:2]
        and stem.shape != own["conv1.weight"].shape
    ):
        fresh.append("conv1.weight")
        weights["conv1.weight"] = own["conv1.weight"]
    fit_weights(trunk, weights, path)
    return fresh
