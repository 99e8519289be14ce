"""`python -m core.channels MODEL`: the channel groups of a network, printed, and proved with `--verify`.

The groups themselves are `core.graph.channels`.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

import torch

from core.command_line.exits import run_parsed
from core.command_line.factories import call_factory, parse_shape
from core.command_line.parsers import command_parser
from core.errors import UserError
from core.graph.channels import trace_channels

EXAMPLES = (
    "core.channels torchvision.models:resnet50",
    "core.channels path/to/file.py:factory --input 1,3,64,64 --verify",
)


def run(arguments: Namespace) -> int:
    """Print the plan, and prove it if asked to; returns the exit status."""
    model = call_factory(arguments.model)
    inputs = torch.zeros(parse_shape(arguments.input))
    try:
        graph = trace_channels(
            model, inputs, freeze=arguments.freeze, taps=arguments.taps, outputs=arguments.outputs
        )
    except RuntimeError as failure:
        reason = str(failure).splitlines()[0]
        raise UserError(f"the model does not run on --input {arguments.input}: {reason}") from failure
    print(json.dumps(graph.to_json(), indent=2) if arguments.json else graph.describe())
    if arguments.verify:
        proof = graph.verify(model, torch.randn(inputs.shape))
        tested = f"{len(graph.groups) - len(proof.untested)} of {len(graph.groups)} groups"
        print(
            f"masked equals cut in {tested} in {' and '.join(proof.modes)} mode: largest relative difference "
            f"{proof:.1e}"
        )
        if proof.untested:
            print(
                f"masking alone does not test the {len(proof.untested)} groups that are not exact; in "
                f"{len(proof.over_kept)} of them masked equals cut once operations run over the kept channels alone"
            )
        for mode, reason in proof.unchecked.items():
            print(f"{mode} mode was not checked: {reason}")
    return 0


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = command_parser("core.channels", __doc__.splitlines()[0], EXAMPLES)
    parser.add_argument("model", help="package.module:factory or path/to/file.py:factory")
    parser.add_argument(
        "--input", default="1,3,224,224", help="shape of the example input (default: 1,3,224,224)"
    )
    parser.add_argument("--freeze", nargs="*", default=[], help="modules to leave as they are")
    parser.add_argument("--taps", nargs="*", default=[], help="modules whose output width others read")
    parser.add_argument("--outputs", default="single", choices=["single", "freeze", "free"])
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    parser.add_argument(
        "--verify", action="store_true", help="also prove on random keeps that masked equals cut"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; exit statuses as in `core.command_line.exits`."""
    return run_parsed(build_parser(), run, argv, "start it again")


if __name__ == "__main__":
    raise SystemExit(main())
