"""Backbones of a tracker: the first three stages of a ResNet or of a network of the user's own, of any widths.

A network of the user's own comes from a factory without required arguments (`package.module:factory`,
`path/to/file.py:factory`). Either it has the parts of a ResNet by torchvision's names (`conv1`, `bn1`, `relu` or timm's
`act1`, `maxpool`, `layer1`, `layer2`, `layer3`; later parts are left out), or it takes normalised images (N, 3, H, W)
and returns a mapping with its stages `layer2` (N, C2, H/8, W/8) and `layer3` (N, C3, H/16, W/16).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from core.command_line.factories import call_factory, is_factory, unknown_network
from core.errors import UserError, first_line
from core.graph.channels import TraceOptions, find_groups
from core.modules import evaluating
from core.networks.resnet import BasicBlock, Bottleneck, ResNet, Stem
from core.storage.checkpoint import read_checkpoint
from core.storage.hubs import weights_file
from core.storage.weights import Fitted, fitted_weights
from core.surgery.architecture import Architecture, ArchitectureError, describe_inputs
from core.surgery.depth import shorten
from core.surgery.initialise import seeded

SMALL_PLANES = 16
PROBE_SIDE = 64
CLASSES = 1000  # of the classifier, which a trunk leaves out; a widths file's groups do not depend on it

RESNETS: dict[str, Callable[[], ResNet]] = {
    "resnet18": lambda: ResNet(BasicBlock, (2, 2, 2, 2), Stem(), 3, CLASSES),
    "resnet50": lambda: ResNet(Bottleneck, (3, 4, 6, 3), Stem(), 3, CLASSES),
    "resnet18-small": lambda: ResNet(BasicBlock, (2, 2, 2, 2), Stem(), 3, CLASSES, planes=SMALL_PLANES),
}
# Parts of a ResNet that a trunk leaves out; official checkpoints of trackers still hold them.
UNUSED = ("layer4.", "fc.")


# A ResNet's parts up to its third stage, and their other names.
PARTS = {"conv1": (), "bn1": (), "relu": ("act1",), "maxpool": (), "layer1": (), "layer2": (), "layer3": ()}
STAGES = {"layer2": 8, "layer3": 16}


class Trunk(nn.Module):
    """A backbone: normalised images (N, 3, H, W) to `layer2` (N, C2, H/8, W/8) and `layer3` (N, C3, H/16, W/16)."""

    @property
    def channels(self) -> dict[str, int]:
        """Widths of `layer2` and `layer3`, to which the heads adapt."""
        return {name: stage.shape[1] for name, stage in self._stages().items()}

    @property
    def strides(self) -> dict[str, int]:
        """Image pixels per cell of these stages."""
        return {name: PROBE_SIDE // stage.shape[-1] for name, stage in self._stages().items()}

    def _stages(self) -> dict[str, Tensor]:
        """Measured on a small image, so that the values stay right when a cut changes the widths."""
        parameter = next(self.parameters())
        with torch.no_grad(), evaluating(self):
            return self(parameter.new_zeros(1, 3, PROBE_SIDE, PROBE_SIDE))


class ResNetTrunk(Trunk):
    """A ResNet up to its third stage.

    Args:
        resnet: a module with the names of `PARTS`. Its parts are used themselves, not copied.

    Raises:
        UserError: a part is missing.
    """

    conv1: nn.Module
    bn1: nn.Module
    relu: nn.Module
    maxpool: nn.Module
    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module

    def __init__(self, resnet: nn.Module) -> None:
        super().__init__()
        for name, others in PARTS.items():
            parts = (getattr(resnet, known, None) for known in (name, *others))
            part = next((part for part in parts if isinstance(part, nn.Module)), None)
            if part is None:
                raise UserError(
                    f"{type(resnet).__name__} has no '{name}': a backbone is a ResNet with torchvision's names"
                )
            setattr(self, name, part)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images (N, 3, H, W) to `layer2` (N, C2, H/8, W/8) and `layer3` (N, C3, H/16, W/16)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        fine = self.layer2(self.layer1(x))
        return {"layer2": fine, "layer3": self.layer3(fine)}


class OwnTrunk(Trunk):
    """A network of the user's own that returns its stages by name; further ones are not used.

    Args:
        network: used itself, not copied.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """As `Trunk`."""
        stages = self.network(images)
        return {name: stages[name] for name in STAGES}


def make_backbone(name: str) -> nn.Module:
    """The network from which a trunk is made, with regular widths, freshly initialised.

    Args:
        name: a key of `RESNETS`; or `package.module:factory` or `path/to/file.py:factory`, whose code is run.

    Raises:
        UserError: an unknown name, or see `core.command_line.factories.call_factory`.
    """
    if is_factory(name):
        return call_factory(name)
    if name not in RESNETS:
        raise unknown_network(f"unknown backbone '{name}'", name, RESNETS)
    return RESNETS[name]()


def make_trunk(network: nn.Module, name: str) -> Trunk:
    """The trunk of a network; the module's docstring says which networks have one.

    Args:
        network: of `make_backbone`, of any widths.
        name: of the backbone, for messages.

    Raises:
        UserError: it lacks the stages that a tracker needs.
    """
    if not is_factory(name):
        return ResNetTrunk(network)
    trunk = _own_trunk(network, name)
    try:
        strides = trunk.strides
        shapes = [tuple(stage.shape) for stage in trunk._stages().values()]
    except _RUN_ERRORS as error:
        raise UserError(
            f"backbone '{name}' fails on an image of {PROBE_SIDE} x {PROBE_SIDE}: {first_line(error)}"
        ) from error
    square = all(len(shape) == 4 and shape[2] == shape[3] for shape in shapes)
    if strides != STAGES or not square:
        raise UserError(
            f"backbone '{name}' makes stages of shapes {shapes} of an image (1, 3, {PROBE_SIDE}, {PROBE_SIDE}): a "
            f"tracker needs strides of {STAGES}"
        )
    return trunk


_RUN_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, AssertionError)


def _own_trunk(network: nn.Module, name: str) -> Trunk:
    """The trunk by what the network returns for a small image, else by its parts."""
    stages, failure = None, None
    parameter = next(network.parameters(), torch.zeros(0))
    try:
        with torch.no_grad(), evaluating(network):
            stages = network(parameter.new_zeros(1, 3, PROBE_SIDE, PROBE_SIDE))
    except _RUN_ERRORS as error:
        failure = error
    if isinstance(stages, Mapping) and all(isinstance(stages.get(stage), Tensor) for stage in STAGES):
        return OwnTrunk(network)
    if all(any(hasattr(network, known) for known in (part, *others)) for part, others in PARTS.items()):
        return ResNetTrunk(network)
    found = (
        f"fails on an image of {PROBE_SIDE} x {PROBE_SIDE}: {first_line(failure)}"
        if failure is not None
        else f"returns a mapping with {', '.join(map(str, stages))}"
        if isinstance(stages, Mapping)
        else f"returns a {type(stages).__name__}"
    )
    raise UserError(
        f"backbone '{name}' {found}: a backbone returns a mapping with the stages 'layer2' (stride 8) and 'layer3' "
        f"(stride 16), or is a ResNet with {', '.join(PARTS)}"
    ) from failure


def backbone_trunk(name: str, widths: str | Path | Architecture | None = None) -> Trunk:
    """A freshly initialised backbone.

    Args:
        name: see `make_backbone`.
        widths: found widths, as `core.Architecture` or its file, of the whole network (a tracker does not use a
            ResNet's last stage) or of the trunk alone; None for the regular network.

    Raises:
        UserError: an unknown name, or a network without the stages that a tracker needs.
        ArchitectureError: widths of another network, or a damaged file.
    """
    if widths is None:
        return make_trunk(make_backbone(name), name)
    with seeded(0):  # it only says whose widths they are: the draws are those of the regular network
        network = make_backbone(name)
    found = widths if isinstance(widths, Architecture) else Architecture.load(widths)
    if _is_whole(found):
        return make_trunk(found.build(network, factory=lambda: make_backbone(name)), name)
    trunk = found.build(make_trunk(network, name), factory=lambda: make_trunk(make_backbone(name), name))
    assert isinstance(trunk, Trunk)  # the class of what is built is that of its model
    return trunk


def trunk_architecture(name: str, found: Architecture, side: int) -> Architecture:
    """The part of a ResNet's widths that a tracker uses, priced on its crops.

    Args:
        name: see `make_backbone`.
        found: widths of the whole ResNet, or of the trunk alone.
        side: of a crop, in pixels.

    Raises:
        ArchitectureError: widths of another network, also of one that differs in its regular widths alone.
    """
    if _is_whole(found):
        found.graph(make_backbone(name))  # the file's own check, against the whole network
    inputs = torch.zeros(1, 3, side, side)
    trunk = backbone_trunk(name)
    removed = tuple(block for block in found.removed if not block.startswith(UNUSED))
    options = TraceOptions(outputs="free")
    used = find_groups(shorten(trunk, removed), inputs, options).widths
    missing = next((group for group in used if group not in found.widths), None)
    if missing is not None:
        raise ArchitectureError(
            f"group '{missing}' of {name} is missing in the widths file of '{found.model}'"
        )
    own = replace(
        found,
        model=name,
        widths={group: found.widths[group] for group in used},
        conv_groups={layer: n for layer, n in found.conv_groups.items() if not layer.startswith(UNUSED)},
        inputs=describe_inputs(inputs),
        options=options,
        removed=removed,
    )
    return own.priced(trunk, inputs)


def _is_whole(found: Architecture) -> bool:
    return any(group.startswith(UNUSED) for group in found.widths)


def fitted_backbone_weights(trunk: Trunk, source: str | Path) -> Fitted:
    """A trained classifier's weights that fit a trunk.

    Args:
        trunk: as wide as the classifier; it is not changed.
        source: ours, torchvision's, or a checkpoint of either, in any of the forms of `core.storage.weights`, under the
            names of the network from which the trunk is made; or `timm:NAME`, `torchvision:NAME`. The parts that the
            trunk leaves out, `layer4` and `fc`, are not used. A stem whose kernel is not the trunk's 7 x 7 (networks
            for small images have 3 x 3) cannot be used; the trunk's stem starts fresh, and a note says so.

    Raises:
        MissingData: there is no such file.
        UserError: names or shapes that do not fit.
    """
    fitted = fitted_weights(
        trunk.network if isinstance(trunk, OwnTrunk) else trunk,
        read_checkpoint(weights_file(str(source))),
        source,
        foreign=True,
        unused=UNUSED,
        stems=("conv1.weight",),
    )
    if not isinstance(trunk, OwnTrunk):
        return fitted
    return replace(fitted, weights={f"network.{name}": value for name, value in fitted.weights.items()})


def load_backbone_weights(trunk: Trunk, source: str | Path) -> tuple[str, ...]:
    """Fill a trunk with a trained classifier's weights; arguments and errors as in `fitted_backbone_weights`.

    Returns:
        Sentences about them for the user.
    """
    fitted = fitted_backbone_weights(trunk, source)
    trunk.load_state_dict(fitted.weights, strict=False)
    return fitted.notes
