"""The network as a tracker runs it: since nothing is trained any more, constant parts are computed once.

Batch norms of a known trunk and of the box regressor are folded into the convolutions before them. On a CPU with oneDNN
the convolutions then keep their weights, and the maps between them, in the library's own layout instead of converting
both for every call. Results change by rounding only.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tracking.dimp.backbones import ResNetTrunk
from tracking.dimp.iou_net import Maps
from tracking.dimp.net import DiMPNet

Stages = dict[str, Tensor]


class InferenceNetwork:
    """The parts of a DiMP network that a tracker calls. The given network stays as it is.

    Args:
        net: the trained network.
        device: where to run.
        fast: fold and convert; False runs the modules as they are.

    Attributes:
        net: a copy of the network on the device, in evaluation mode, without gradients.
        device: where it is.
    """

    def __init__(self, net: DiMPNet, device: torch.device | str = "cpu", fast: bool = True) -> None:
        self.device = torch.device(device)
        self.net = copy.deepcopy(net).to(self.device).eval().requires_grad_(False)
        classifier, regressor = self.net.classifier, self.net.bb_regressor
        # All but the last layer, which takes its energy over the whole map.
        self._features: nn.Module = nn.Sequential(*list(classifier.feature_extractor)[:-1])
        self._norm = classifier.feature_extractor[-1]
        self._fine: nn.Module = nn.Sequential(regressor.conv3_1t, regressor.conv3_2t)
        self._coarse: nn.Module = nn.Sequential(regressor.conv4_1t, regressor.conv4_2t)
        self._backbone: nn.Module = self.net.feature_extractor
        known = isinstance(self._backbone, ResNetTrunk)
        self._own_layout = (
            fast
            and known
            and self.device.type == "cpu"
            and next(self.net.parameters()).dtype == torch.float32
            and torch.backends.mkldnn.is_available()
        )
        if fast:
            self._features, self._fine, self._coarse = map(folded, (self._features, self._fine, self._coarse))
            if (
                known
            ):  # in other networks a batch norm need not follow the convolution that is defined before it
                self._backbone = folded(self._backbone)
        if self._own_layout:
            self._backbone, self._features, self._fine, self._coarse = map(
                _converted, (self._backbone, self._features, self._fine, self._coarse)
            )

    @torch.inference_mode()
    def stages(self, images: Tensor) -> Stages:
        """The backbone on normalised images (N, 3, H, W). The maps may be in oneDNN's layout; see `dense`."""
        return self._backbone(images.to_mkldnn() if self._own_layout else images)

    @torch.inference_mode()
    def classification_features(self, stages: Stages) -> Tensor:
        """(N, C, h, w), as `Classifier.features`."""
        return self._norm(_dense(self._features(stages["layer3"])))

    @torch.inference_mode()
    def iou_features(self, stages: Stages) -> Maps:
        """As `IoUNet.iou_features`."""
        return _dense(self._fine(stages["layer2"])), _dense(self._coarse(stages["layer3"]))

    @torch.inference_mode()
    def modulation(self, stages: Stages, boxes: Tensor) -> Maps:
        """As `IoUNet.modulation`, for boxes (S, 4) in S images."""
        return self.net.bb_regressor.modulation({name: _dense(map_) for name, map_ in stages.items()}, boxes)


def folded(module: nn.Module) -> nn.Module:
    """A copy in which every batch norm that comes right after a convolution is folded into it.

    Args:
        module: in evaluation mode; its children are called in the order in which they are defined.
    """
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        previous: tuple[str, nn.Module] | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and previous and isinstance(previous[1], nn.Conv2d):
                setattr(parent, previous[0], fuse_conv_bn_eval(previous[1], child))
                setattr(parent, name, nn.Identity())
            previous = name, child
    return module


def _converted(module: nn.Module) -> nn.Module:
    from torch.utils import mkldnn

    return mkldnn.to_mkldnn(module)


def _dense(maps: Tensor) -> Tensor:
    return maps.to_dense() if maps.is_mkldnn else maps
