"""`python -m classification.export CHECKPOINT OUT.{onnx,pt2,safetensors}`: a trained classifier for other programs.

By default the graph takes pixels as `classification.inputs` makes them of an image file, uint8, and normalises them
itself; with `--inputs normalised` it takes (pixel - mean) / std, float32. It gives logits. Every file is compared with
the module on real images before it gets its name, and OUT.md describes it and its use.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from classification.checkpoint import Description, build_network, load_network
from classification.data.augmentation import Normalisation
from classification.data.views import shorter_side
from classification.inputs import read_input, view_of, white_in
from core.command_line.factories import title
from core.export.command import Request
from core.export.command import main as export_main
from core.export.subject import Exportable, batch, photographs, regular_of
from core.storage.checkpoint import read_metadata
from core.surgery.architecture import Architecture


class PixelClassifier(nn.Module):
    """A classifier with its normalisation: `classification.predict` computes the same.

    Args:
        network: takes (pixel - mean) / std.
        description: says mean and standard deviation.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, description: Description) -> None:
        super().__init__()
        self.network = network
        normalise = Normalisation.of(description.mean, description.std, torch.device("cpu"))
        self.register_buffer("scale", normalise.scale)
        self.register_buffer("shift", normalise.shift)

    def forward(self, images: Tensor) -> Tensor:
        """Pixels (N, C, H, W), uint8, to logits (N, classes)."""
        return self.network(images.to(torch.float32) * self.scale - self.shift)


def open_export(request: Request) -> Exportable:
    """A checkpoint of `classification.run`, prepared for export.

    Raises:
        UserError: it is missing, damaged or of another task, or an image cannot be read.
    """
    network, description = load_network(request.checkpoint, request.model)
    pixels = batch(
        [torch.from_numpy(read_input(path, description)) for path in request.images or photographs()]
    )
    normalise = Normalisation.of(description.mean, description.std, torch.device("cpu"))
    regular = regular_of(description, lambda own: build_network(own, request.model))

    def graph(network: nn.Module) -> nn.Module:
        return PixelClassifier(network, description).eval() if request.pixels else network

    channels, height, width = description.input_shape
    white = white_in(description)
    what = (
        f"pixels, uint8, 0 to {white}; the normalisation is in the graph"
        if request.pixels
        else f"(pixel - {list(description.mean)}) / {list(description.std)} per channel, float32; "
        f"pixels are 0 to {white}"
    )
    colours = "grey" if channels == 1 else "RGB"
    found = description.architecture
    return Exportable(
        task="classification",
        title=title(description.model),
        network=network,
        graph=graph(network),
        inputs={"images": pixels if request.pixels else normalise(pixels)},
        outputs=("logits",),
        about={
            "images": f"(N, {channels}, H, W), {colours}, {what}; trained at {height} x {width}",
            "logits": f"(N, {len(description.classes)}), float32: softmax makes probabilities of them; the classes are "
            "listed below, and in the file under the key `classification`",
        },
        header=read_metadata(request.checkpoint),
        usage=lambda file: usage(file, description, request.pixels),
        regular=None if regular is None else graph(regular),
        architecture=None if found is None else Architecture.from_json(found),
    )


def usage(file: str, description: Description, pixels: bool) -> str:
    """A program that prints the five likeliest classes of an image with an ONNX file; it needs none of our code.

    It converts 8-bit colour, and any grey, as `classification.inputs` does.
    """
    channels, height, width = description.input_shape
    white = white_in(description)
    view, size = view_of(description), description.downsample
    if view == "fit":
        resize = [
            f"scale = max({height * size} / image.height, {width * size} / image.width)",
            f"size = max({width * size}, round(image.width * scale)), "
            f"max({height * size}, round(image.height * scale))",
            "image = image.resize(size, Image.Resampling.BILINEAR)",
            f"left, top = (image.width - {width * size}) // 2, (image.height - {height * size}) // 2",
        ]
    else:
        side = shorter_side(height)
        resize = [
            f"short = min(image.size)  # becomes {side} pixels",
            f"size = tuple({side} if side == short else int({side} * side / short) for side in image.size)",
            "image = image.resize(size, Image.Resampling.BILINEAR)",
            f"left, top = round((image.width - {width}) / 2), round((image.height - {height}) / 2)",
        ]
    upright = ["image = ImageOps.exif_transpose(image)"] if view == "photograph" else []
    lines = [
        "import json",
        "import sys",
        "",
        "import numpy as np",
        "import onnxruntime",
        f"from PIL import Image{', ImageOps' if upright else ''}",
        "",
        f'session = onnxruntime.InferenceSession("{file}")',
        'about = json.loads(session.get_modelmeta().custom_metadata_map["classification"])',
        "image = Image.open(sys.argv[1])",
        *upright,
        'if image.mode.startswith("I"):  # grey of 16 bits',
        "    image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))",
        "if image.has_transparency_data:  # shows white",
        '    rgba = np.asarray(image.convert("RGBA")) / np.float32(255)',
        "    white = 255 * (rgba[..., :3] * rgba[..., 3:] + (1 - rgba[..., 3:]))",
        "    image = Image.fromarray(np.rint(white).astype(np.uint8))",
        'image = image.convert("RGB")',
        *resize,
        f"image = image.crop((left, top, left + {width * size}, top + {height * size}))",
        *(['image = image.convert("L")'] if channels == 1 else []),
        "pixels = np.asarray(image)" + ("[None, None]" if channels == 1 else ".transpose(2, 0, 1)[None]"),
        *([f"pixels = np.rint(pixels * ({white} / 255)).astype(np.uint8)"] if white != 255 else []),
        *(
            [f"pixels = pixels.reshape(1, {channels}, {height}, {size}, {width}, {size})",
             "pixels = np.rint(pixels.mean((3, 5), dtype=np.float32)).astype(np.uint8)"]
            if size > 1
            else []
        ),
        *(
            []
            if pixels
            else ['mean, std = (np.float32(about[name])[:, None, None] for name in ("mean", "std"))',
                  "pixels = (pixels - mean) / std"]
        ),
        'logits = session.run(None, {"images": pixels})[0][0]',
        "for output in np.argsort(-logits, kind='stable')[:5]:",
        '    print(dict(enumerate(about["classes"])).get(output, output), logits[output])',
    ]  # fmt: skip
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; exit status 0 done, 1 failed, 2 wrong usage or bad input."""
    return export_main("python -m classification.export", __doc__, open_export, argv)


if __name__ == "__main__":
    sys.exit(main())
