"""What is exported: a trained network as a graph on tensors, with real inputs to check every exported form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from core.errors import NonFiniteOutput, UserError
from core.modules import FORWARD_FAILURES
from core.storage.description import Contents, contents_of
from core.surgery.architecture import Architecture

FAILURES = (
    *FORWARD_FAILURES,
    AssertionError,
)  # networks and exporters may require sides to be multiples
STEPS = (1, 2, 4, 8, 16, 32)
Tensors = Mapping[str, Tensor]
D = TypeVar("D")


@dataclass(frozen=True)
class Exportable:
    """A trained network with all that is needed to export it.

    Attributes:
        task: name of its commands.
        title: of the network, for messages and the card.
        network: as its description builds it, with its weights; in evaluation mode, on the CPU.
        graph: what programs compute: from the tensors of `inputs`, in order, one tensor or a tuple, as `outputs`.
        inputs: name -> real input, two or more samples along axis 0, the same number for all.
        outputs: names of the outputs.
        about: name of an input or output -> what it holds, for readers.
        header: entries of the checkpoint's header.
        usage: a program that runs FILE.onnx on an image, given the file's name.
        sized: the input (N, C, H, W) whose height and width may change.
        steps: steps by which they may change; the first that the network takes counts.
        exact: `graph` before its outputs are rounded to whole numbers; None if they are not rounded.
        regular: `graph` of the network at its regular widths; None if it has these.
        architecture: the found widths; None if the network has its regular ones.
        left_out: sentences about parts of the checkpoint that the programs do not compute, and further notes.
    """

    task: str
    title: str
    network: nn.Module
    graph: nn.Module
    inputs: Tensors
    outputs: tuple[str, ...]
    about: Mapping[str, str]
    header: Mapping[str, str]
    usage: Callable[[str], str]
    sized: str = "images"
    steps: tuple[int, ...] = STEPS
    exact: nn.Module | None = None
    regular: nn.Module | None = None
    architecture: Architecture | None = None
    left_out: tuple[str, ...] = ()

    @property
    def contents(self) -> Contents:
        """What the checkpoint says of itself."""
        return contents_of(
            self.header, {name: tuple(value.shape) for name, value in self.network.state_dict().items()}
        )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the given inputs."""
        height, width = self.inputs[self.sized].shape[-2:]
        return height, width

    def rows(self, count: int) -> Tensors:
        """The first `count` inputs."""
        return {name: value[:count] for name, value in self.inputs.items()}

    def grown(self, step: int) -> Tensors:
        """Two inputs, `step` pixels higher and 2 * `step` wider; the image repeats there."""
        inputs = dict(self.rows(2))
        image = inputs[self.sized]
        for axis, more in ((-2, step), (-1, 2 * step)):
            repeats = -(-more // image.shape[axis])
            image = torch.cat([image, *[image] * repeats], axis).narrow(axis, 0, image.shape[axis] + more)
        return {**inputs, self.sized: image}


@dataclass(frozen=True)
class Case:
    """Inputs, and the module's outputs for them.

    Attributes:
        inputs: by name.
        expected: outputs in their order, before any rounding.
        rounding: largest change of an output by rounding alone.
    """

    inputs: Tensors
    expected: tuple[Tensor, ...] = field(repr=False)
    rounding: float

    def difference(self, found: tuple[Tensor, ...]) -> float:
        """The largest difference, relative to the output's largest magnitude if that is above 1.

        Outputs that are rounded to whole numbers may differ by 0.5 more from the module's, which are not rounded. The
        many pixels of an image lie at all distances from the next half, so a fault still shows in some of them.

        Infinite if an output has another shape or holds NaN.
        """
        if len(found) != len(self.expected):
            return float("inf")
        worst = 0.0
        for its, own in zip(found, self.expected, strict=True):
            if its.shape != own.shape or not bool(torch.isfinite(its.double()).all()):
                return float("inf")
            gap = float((its.double() - own.double()).abs().max()) - self.rounding
            worst = max(worst, gap / max(1.0, float(own.abs().max())))
        return worst


def outputs_of(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What a graph returned, as a tuple."""
    return (value,) if isinstance(value, Tensor) else tuple(value)


def case(subject: Exportable, inputs: Tensors) -> Case:
    """Run the module on inputs.

    Raises:
        NonFiniteOutput: an output is NaN or infinite.
    """
    with torch.inference_mode():
        outputs = outputs_of((subject.exact or subject.graph)(*inputs.values()))
    for name, value in zip(subject.outputs, outputs, strict=True):
        if not bool(torch.isfinite(value).all()):
            raise NonFiniteOutput(
                f"output '{name}' of {subject.title} is not finite on real input; the checkpoint may come from a run "
                "that diverged: nothing is written"
            )
    return Case(dict(inputs), outputs, 0.0 if subject.exact is None else 0.5)


def cases(subject: Exportable) -> list[Case]:
    """Run the module on all inputs at once, and on one alone.

    Raises:
        NonFiniteOutput: an output is NaN or infinite.
        UserError: the network does not run on the inputs.
    """
    try:
        return [case(subject, subject.inputs), case(subject, subject.rows(1))]
    except NonFiniteOutput:
        raise
    except FAILURES as error:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in subject.inputs.items())
        raise UserError(f"{subject.title} fails on {shapes}: {one_line(error)}") from error


def other_size(subject: Exportable) -> tuple[int, Case] | None:
    """The smallest step of height and width that the network takes, and its outputs there; None for no other size."""
    for step in subject.steps:
        try:
            return step, case(subject, subject.grown(step))
        except FAILURES:  # a linear layer behind a feature map, or sides that have to be multiples
            continue
    return None


def one_line(error: BaseException) -> str:
    """The first line of an error's message; its type if it has none."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return line.partition("(args = ")[0][:200] or type(error).__name__


def regular_of(description: D, build: Callable[[D], nn.Module]) -> nn.Module | None:
    """The network at its regular widths, in evaluation mode; None if the checkpoint has these.

    Args:
        description: the checkpoint's: a task's dataclass, with the content of a widths file or None as `architecture`.
        build: makes the network of such a description.
    """
    regular: Any = replace(description, architecture=None)  # type: ignore[type-var]
    return None if regular == description else build(regular).eval()


def photographs() -> tuple[Path, ...]:
    """Three colour photographs that come with scikit-image, which is located here, not imported."""
    package = find_spec("skimage")
    assert package is not None  # a hard dependency
    assert package.origin is not None
    folder = Path(package.origin).parent / "data"
    return tuple(folder / name for name in ("astronaut.png", "chelsea.png", "coffee.png"))


def batch(images: Sequence[Tensor]) -> Tensor:
    """Images of one shape, stacked; a single one twice, since exporters take a batch of one for a fixed size."""
    return torch.stack([*images] * (2 if len(images) == 1 else 1))
