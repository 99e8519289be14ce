"""`python -m tracking.export CHECKPOINT OUT.{onnx,pt2,safetensors}`: what a tracker computes for every frame.

The graph is the backbone with those parts of the heads that see every frame: classification features, the scores of a
target filter on them, and the maps in which boxes are judged. By default it takes pixels of a crop, float32, and
normalises them itself; with `--inputs normalised` it takes the backbone's normalised input. A `.safetensors` holds
everything.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from core.command_line.factories import title
from core.export.command import Request
from core.export.command import main as export_main
from core.export.subject import Exportable, batch, photographs, regular_of
from core.storage.checkpoint import read_metadata
from core.storage.description import header_of
from core.surgery.architecture import Architecture
from tracking.dimp.checkpoint import KEY, load_network
from tracking.dimp.crops import MEAN, STD, cut, normalise
from tracking.dimp.net import DiMPNet
from tracking.dimp.settings import STRIDE, preset
from tracking.files.images import read_frame

LEFT_OUT = (
    "The programs compute what every frame needs. They do not learn the target's filter (first guess, steepest "
    "descent), describe the target for the judgement of boxes, or judge and refine boxes: tracking.track does, from "
    "the checkpoint."
)
Outputs = tuple[Tensor, Tensor, Tensor, Tensor]


class FrameNetwork(nn.Module):
    """The network on crops of frames, with given filters.

    Args:
        network: trained.
        pixels: crops are in pixel values; else normalised.
    """

    def __init__(self, network: DiMPNet, pixels: bool) -> None:
        super().__init__()
        self.backbone = network.feature_extractor
        self.classifier = network.classifier
        self.regressor = network.bb_regressor
        self.pixels = pixels

    def forward(self, images: Tensor, target_filter: Tensor) -> Outputs:
        """Crops (N, 3, H, W) and a filter (C, k, k) for each to scores, features and the two maps of the regressor."""
        stages = self.backbone(normalise(images) if self.pixels else images)
        features = self.classifier.features(stages)
        scores = self.classifier.scores(target_filter, features[:, None])[:, 0]
        return (scores, features, *self.regressor.iou_features(stages))


def open_export(request: Request) -> Exportable:
    """A checkpoint of a tracker, ours or a published one, prepared for export.

    Raises:
        UserError: it is missing, damaged or of another task, or an image cannot be read.
    """
    network, description = load_network(request.checkpoint, request.model)
    settings = preset("dimp50").replaced(description.settings)
    side = settings.crop_size
    crops = batch([central_crop(path, side) for path in request.images or photographs()])
    graph = FrameNetwork(network, request.pixels).eval()
    images = crops if request.pixels else normalise(crops)
    regular = regular_of(description, lambda own: FrameNetwork(own.build(request.model), request.pixels))

    def cells(side: str) -> str:
        return f"{side} / {STRIDE}" + " + 1" * (1 - kernel % 2)

    channels, kernel = network.config.classification_channels, network.config.filter_size
    what = "0 to 255" if request.pixels else f"(pixel - {list(description.mean)}) / {list(description.std)}"
    ours = request.checkpoint.suffix == ".safetensors"
    found = description.architecture
    return Exportable(
        task="tracking",
        title=f"DiMP with {title(description.backbone)}",
        network=network,
        graph=graph,
        inputs={
            "images": images,
            "target_filter": first_filters(network, normalise(crops), settings.search_area),
        },
        outputs=("scores", "features", "iou_fine", "iou_coarse"),
        about={
            "images": f"(N, 3, H, W), RGB, {what}, float32: crops around the target's last place, H and W multiples of "
            f"{STRIDE}; tracked with {side} x {side}, {settings.search_area:g} times the target's mean side",
            "target_filter": f"(N, {channels}, {kernel}, {kernel}), float32: of the target, for each crop",
            "scores": f"(N, {cells('H')}, {cells('W')}): the target is where they are largest; cell j lies at pixel "
            f"{STRIDE} j{f' + {STRIDE // 2}' * (kernel % 2)}",
            "features": f"(N, {channels}, H / {STRIDE}, W / {STRIDE}): what a filter is learned from",
            "iou_fine": "maps of stride 8, in which boxes are judged",
            "iou_coarse": f"the same of stride {STRIDE}",
        },
        header=read_metadata(request.checkpoint) if ours else header_of(KEY, description),
        usage=lambda file: usage(file, side, channels, kernel, request.pixels),
        steps=(STRIDE,),
        regular=regular,
        architecture=None if found is None else Architecture.from_json(found),
        left_out=(LEFT_OUT,),
    )


def central_crop(path: Path, side: int) -> Tensor:
    """The middle of a picture, of three quarters of its shorter side, as (3, side, side) float32 from 0 to 255."""
    image = torch.from_numpy(read_frame(path)).permute(2, 0, 1)
    height, width = image.shape[1:]
    return cut(image, width / 2, height / 2, 0.75 * min(height, width), side)[0]


@torch.inference_mode()
def first_filters(network: DiMPNet, crops: Tensor, search_area: float) -> Tensor:
    """The filters (N, C, k, k) that the network learns from the middle of normalised crops (N, 3, H, W)."""
    features = network.classifier.features(network.extract(crops))[:, None]
    height, width = crops.shape[-2:]
    size = height / search_area
    boxes = crops.new_tensor([(width - size) / 2, (height - size) / 2, size, size]).expand(len(crops), 1, 4)
    initial = network.classifier.filter_initializer(features, boxes)
    return network.classifier.filter_optimizer(initial, features, boxes)[0][-1]


def usage(file: str, side: int, channels: int, kernel: int, pixels: bool) -> str:
    """A program that looks for the middle of one image in another with an ONNX file; it needs none of our code.

    Its filter is the features themselves minus their mean: a plain correlation. A learned filter is better.
    """
    lines = [
        "import sys",
        "",
        "import numpy as np",
        "import onnxruntime",
        "from PIL import Image",
        "",
        f'session = onnxruntime.InferenceSession("{file}")',
        "crops = []",
        "for file in sys.argv[1:3]:",
        f'    image = Image.open(file).convert("RGB").resize(({side}, {side}), Image.Resampling.BILINEAR)',
        "    crops.append(np.asarray(image, np.float32).transpose(2, 0, 1)[None])",
        *(
            []
            if pixels
            else [
                f"mean, std = (255 * np.float32(value)[:, None, None] for value in ({MEAN}, {STD}))",
                "crops = [(crop - mean) / std for crop in crops]",
            ]
        ),
        f"target = np.zeros((1, {channels}, {kernel}, {kernel}), np.float32)",
        'features = session.run(["features"], {"images": crops[0], "target_filter": target})[0]',
        f"first = features.shape[2] // 2 - {kernel // 2}",
        f"target = features[:, :, first : first + {kernel}, first : first + {kernel}]",
        "target = target - features.mean((2, 3), keepdims=True)",
        'scores = session.run(["scores"], {"images": crops[1], "target_filter": target})[0][0]',
        "row, column = np.unravel_index(scores.argmax(), scores.shape)",
        f'print(f"the target is at pixel {{{STRIDE} * column}}, {{{STRIDE} * row}} of {side}")',
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; exit status 0 done, 1 failed, 2 wrong usage or bad input."""
    return export_main("python -m tracking.export", __doc__, open_export, argv)


if __name__ == "__main__":
    sys.exit(main())
