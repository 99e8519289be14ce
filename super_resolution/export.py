"""`python -m super_resolution.export CHECKPOINT OUT.{onnx,pt2,safetensors}`: a trained network for other programs.

By default the graph takes and gives pixels, uint8, and rounds as `super_resolution.upscale` does; with
`--inputs normalised` it takes and gives values in [0, 1], float32, not clipped, which is also the form for images of 16
bits. A mean that the network itself subtracts is in the graph either way. Images are taken whole, without tiles.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from core.command_line.factories import title
from core.export.command import Request
from core.export.command import main as export_main
from core.export.subject import Exportable, batch, photographs, regular_of
from core.storage.checkpoint import read_metadata
from core.surgery.architecture import Architecture
from super_resolution.checkpoint import build_network, load_network
from super_resolution.images import read_photo, to_tensor
from super_resolution.tiling import input_channels

SIZE = (
    48,
    64,
)  # sides of the parts of photographs that are compared: unequal, and multiples of 16, which windowed networks need


class PixelUpscaler(nn.Module):
    """A network for images in [0, 1], applied to images of 8 bits.

    Args:
        network: takes and gives (N, C, H, W) in [0, 1].
        rounded: whether outputs are uint8; else float32 from 0 to 255.
    """

    def __init__(self, network: nn.Module, rounded: bool) -> None:
        super().__init__()
        self.network = network
        self.rounded = rounded

    def forward(self, images: Tensor) -> Tensor:
        """Pixels (N, C, H, W), uint8, to (N, C, scale H, scale W)."""
        values = self.network(images.to(torch.float32) / 255).clamp(0, 1) * 255
        return values.round().to(torch.uint8) if self.rounded else values


def open_export(request: Request) -> Exportable:
    """A checkpoint of `super_resolution.run`, prepared for export.

    Raises:
        UserError: it is missing, damaged or of another task, or an image cannot be read.
    """
    network, description = load_network(request.checkpoint, model=request.model)
    channels = input_channels(network)
    photos = [read_photo(path) for path in request.images or photographs()]
    height, width = (min(side, *(photo.shape[axis] for photo in photos)) for axis, side in enumerate(SIZE))
    parts = []
    for photo in photos:
        top, left = (photo.shape[0] - height) // 2, (photo.shape[1] - width) // 2
        parts.append(to_tensor(photo[top : top + height, left : left + width], channels)[0])
    values = batch(parts)
    regular = regular_of(description, lambda own: build_network(own, request.model))

    def graph(network: nn.Module) -> nn.Module:
        return PixelUpscaler(network, rounded=True).eval() if request.pixels else network

    kind = "uint8, 0 to 255" if request.pixels else "float32, 0 to 1"
    colours = "grey" if channels == 1 else "RGB"
    scale, found = description.scale, description.architecture
    sides = "H, W" if scale == 1 else f"{scale} H, {scale} W"
    return Exportable(
        task="super_resolution",
        title=f"{title(description.model)} x{scale}",
        network=network,
        graph=graph(network),
        inputs={"images": (values * 255).round().to(torch.uint8) if request.pixels else values},
        outputs=("enlarged",),
        about={
            "images": f"(N, {channels}, H, W), {colours}, {kind}",
            "enlarged": f"(N, {channels}, {sides}), {kind}{'' if request.pixels else ', not clipped'}",
        },
        header=read_metadata(request.checkpoint),
        usage=lambda file: usage(file, channels, request.pixels),
        exact=PixelUpscaler(network, rounded=False).eval() if request.pixels else None,
        regular=None if regular is None else graph(regular),
        architecture=None if found is None else Architecture.from_json(found),
    )


def usage(file: str, channels: int, pixels: bool) -> str:
    """A program that enlarges an image of 8 bits with an ONNX file; it needs none of our code."""
    lines = [
        "import sys",
        "",
        "import numpy as np",
        "import onnxruntime",
        "from PIL import Image",
        "",
        f'session = onnxruntime.InferenceSession("{file}")',
        f'image = np.asarray(Image.open(sys.argv[1]).convert("{"L" if channels == 1 else "RGB"}"))',
        "images = image[None, None]" if channels == 1 else "images = image.transpose(2, 0, 1)[None]",
        *([] if pixels else ["images = images.astype(np.float32) / 255"]),
        'enlarged = session.run(None, {"images": images})[0][0]',
        *([] if pixels else ["enlarged = np.rint(enlarged.clip(0, 1) * 255).astype(np.uint8)"]),
        f"Image.fromarray({'enlarged[0]' if channels == 1 else 'enlarged.transpose(1, 2, 0)'}).save(sys.argv[2])",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; exit status 0 done, 1 failed, 2 wrong usage or bad input."""
    return export_main("python -m super_resolution.export", __doc__, open_export, argv)


if __name__ == "__main__":
    sys.exit(main())
