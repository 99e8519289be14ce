"""`python -m super_resolution.convert IN.pth OUT.safetensors`: others' EDSR or MSRResNet for this project's commands.

It reads BasicSR's and EDSR-PyTorch's checkpoints. Network, scale and sizes are read off the weights. EDSR's residual
scaling, the range of images, their mean colour and found widths are not in the weights: they are read from BasicSR's
option file, which lies beside the checkpoint or is named by `--opt`. Assumed values are printed. With
`--model file.py:factory --scale S` the weights are those of your own network, and the checkpoint names its factory.
Every tensor must have a counterpart of its name and shape, or nothing is written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from core.command_line.exits import run_parsed
from core.command_line.factories import is_factory, title
from core.command_line.parsers import command_parser
from core.errors import UserError
from core.storage.checkpoint import load_weights, read_weights
from core.storage.files import require_new_checkpoint
from super_resolution.checkpoint import Description, build_network, describe, save_network
from super_resolution.models.basicsr_options import Constants, options_beside, read_options
from super_resolution.models.convert import OURS_ALONE, Converted, convert_weights
from super_resolution.tiling import input_channels


def convert_file(
    source: Path,
    target: Path,
    constants: Constants = Constants(),  # noqa: B008  # frozen
    options: Path | None = None,
) -> Converted:
    """Write a checkpoint of BasicSR or EDSR-PyTorch as one that `super_resolution.checkpoint.load_network` reads.

    Args:
        source: a `.pth` or `.pt` file; it is read without running code that it may carry.
        target: the file to write, `*.safetensors`.
        constants: see `convert_weights`; they override those of the option file.
        options: the option file of BasicSR's training; None for the one beside the checkpoint, if there is one.

    Raises:
        UserError: the source is missing, broken or of another network, or the target has another ending.
    """
    require_new_checkpoint(source, target)
    weights = read_weights(source)
    options = options_beside(source) if options is None else options
    trained = None if options is None else read_options(options)
    try:
        converted = convert_weights(weights, constants, trained)
    except UserError as error:
        beside = "" if options is None else f" (with the options of '{options}')"
        raise UserError(f"'{source}'{beside}: {error}") from error
    description = describe(converted.model, converted.scale, converted.options, 3, converted.architecture)
    save_network(target, converted.build(), description)
    return converted


def convert_own(source: Path, target: Path, model: str, scale: int) -> str:
    """Write weights of the user's own network as a checkpoint that `load_network(..., model=model)` reads.

    Args:
        source: weights in any form that `core.storage.checkpoint.read_weights` takes.
        target: the file to write, `*.safetensors`.
        model: `package.module:factory` or `path/to/file.py:factory`, whose code is run.
        scale: its up-sampling factor.

    Returns:
        One line on what became of the tensors.

    Raises:
        UserError: the source is missing, broken or of another network, the target has another ending, or the network
            does not take images.
    """
    if not is_factory(model):
        raise UserError(f"--model '{model}': write package.module:factory or path/to/file.py:factory")
    require_new_checkpoint(source, target)
    network = build_network(Description(model, scale, {}), model)
    load_weights(network, source)
    description = describe(model, scale, {}, input_channels(network))
    save_network(target, network, description)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    taken = len(network.state_dict())
    return f"{title(model)} x{scale}\n{taken} tensors taken over, {parameters:,} parameters; none left over"


def report(converted: Converted, option_file: Path | None = None) -> str:
    """Lines on what was found, what became of every tensor, and which values come from elsewhere."""
    options = ", ".join(f"{name}={value}" for name, value in converted.options.items())
    added = [name for name in converted.weights if name.startswith(OURS_ALONE)]
    taken = [tensor for name, tensor in converted.weights.items() if name not in added]
    lines = [
        f"{converted.model} x{converted.scale}, {options}",
        f"{len(taken)} tensors taken over, {sum(tensor.numel() for tensor in taken):,} parameters; none left over",
    ]
    if added:
        lines[1] += f"; the mean colour is in {', '.join(added)}"
    if converted.architecture is not None:
        lines.append(f"found widths: {', '.join(map(str, converted.architecture.widths.values()))}")
    if option_file is not None:
        lines.append(f"values that weights do not hold are from '{option_file}'")
    if converted.assumed:
        lines.append(
            f"assumed, as neither the weights nor an option file holds them: {', '.join(converted.assumed)} (--opt, "
            f"--res-scale, --img-range, --rgb-mean)"
        )
    return "\n".join(lines)


EXAMPLES = (
    "super_resolution.convert EDSR_Mx4.pth edsr.safetensors",
    "super_resolution.convert experiments/found/models/net_g_latest.pth found.safetensors --opt found.yml",
    "super_resolution.convert weights.pth mynet.safetensors --model path/to/mynet.py:make --scale 2",
)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("super_resolution.convert", __doc__, EXAMPLES)
    parser.add_argument("source", metavar="IN", type=Path, help="the checkpoint, *.pth or *.pt")
    parser.add_argument("target", metavar="OUT", type=Path, help="the checkpoint to write, *.safetensors")
    parser.add_argument(
        "--res-scale",
        type=float,
        help="EDSR's residual scaling, which no checkpoint holds (default: 0.1 for 256 channels, else 1)",
    )
    parser.add_argument("--img-range", type=float, help="EDSR's inner range of images (default: 255)")
    parser.add_argument(
        "--rgb-mean",
        metavar="R,G,B",
        help="EDSR's mean colour, in [0, 1] (default: DIV2K's, 0.4488,0.4371,0.4040)",
    )
    parser.add_argument(
        "--opt",
        metavar="FILE.yml",
        type=Path,
        help="BasicSR's option file (default: the one beside the checkpoint)",
    )
    parser.add_argument("--model", metavar="FILE.py:FACTORY", help="your own network, whose weights IN holds")
    parser.add_argument("--scale", type=int, help="its up-sampling factor")

    return parser


def run(options: argparse.Namespace) -> int:
    """Convert and report; returns the exit status."""
    constants = Constants(options.res_scale, options.img_range, _colour(options.rgb_mean))
    if options.model is None:
        if options.scale is not None:
            raise UserError("--scale belongs to --model: the weights of EDSR and MSRResNet show theirs")
        file = options_beside(options.source) if options.opt is None else options.opt
        print(report(convert_file(options.source, options.target, constants, file), file))
    elif options.scale is None or options.opt is not None or constants != Constants():
        raise UserError(
            "--model takes --scale, the network's up-sampling factor, and neither --opt, --res-scale, --img-range nor "
            "--rgb-mean"
        )
    else:
        print(convert_own(options.source, options.target, options.model, options.scale))
    print(f"written: {options.target}")
    return 0


def _colour(text: str | None) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--rgb-mean '{text}': write three numbers between 0 and 1 with commas") from None


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; exit status 0 done, 1 failed, 2 wrong usage or a checkpoint that does not fit."""
    return run_parsed(build_parser(), run, argv, "start it again")


if __name__ == "__main__":
    sys.exit(main())
