"""Networks as ONNX, as a program of torch.export, and as plain weights; each is run before it gets its name.

A file is written beside its place, opened by the program that others will use, and compared with the module on real
input: all inputs, one alone, and another height and width where these are free. Only then is it renamed.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError, check_known
from core.export.subject import FAILURES, Case, Exportable, Tensors, cases, one_line, other_size, outputs_of
from core.storage.checkpoint import load_weights, save_weights
from core.storage.description import descriptive, header_of_program
from core.storage.files import write_with

TOLERANCE = 1e-4
LARGEST_ONNX = (
    1536 * 2**20
)  # bytes of weights; an ONNX file ends at 2 GiB, and torch puts larger ones into two files
NEEDED = {".onnx": ("onnx", "onnxruntime", "onnxscript"), ".pt2": (), ".safetensors": ()}
Runner = Callable[[Tensors], tuple[Tensor, ...]]


class ExportDiffers(RuntimeError):
    """An exported file computes something other than the module; it is not kept."""


@dataclass(frozen=True)
class Exported:
    """A file that was written, and how it was checked.

    Attributes:
        path: the file.
        checker: the program that ran it: "onnxruntime 1.20.1".
        difference: largest difference from the module, see `core.export.subject.Case.difference`.
        shapes: of the images on which it was run.
        step: height and width may change by multiples of this; None if they are fixed.
        reason: why they are fixed; "" if they are not, or if the file holds only weights.
        run: runs the file.
    """

    path: Path
    checker: str
    difference: float
    shapes: tuple[tuple[int, ...], ...]
    step: int | None
    reason: str
    run: Runner

    def __str__(self) -> str:
        shapes = ", ".join(" x ".join(map(str, shape)) for shape in self.shapes)
        return (
            f"{self.path} ({self.path.stat().st_size / 1e6:.2f} MB): compared under {self.checker} on {shapes}, "
            f"differs by at most {self.difference:.1e}"
        )


def check_path(path: Path) -> None:
    """Check that a file of this ending can be written here.

    Raises:
        UserError: the ending is unknown, or a package is missing.
    """
    check_known(f"'{path}' has the ending", [path.suffix], NEEDED)
    require_packages(path, NEEDED[path.suffix])


def require_packages(path: Path, packages: Sequence[str]) -> None:
    """Check that packages are installed, without importing them.

    Raises:
        UserError: one is missing.
    """
    if missing := [package for package in packages if find_spec(package) is None]:
        raise UserError(
            f"'{path}' needs {', '.join(missing)}, not installed here: pip install 'lwdna[export]'"
        )


def export(subject: Exportable, path: Path) -> Exported:
    """Write one file, by its ending, and check it; see the top of this file.

    Raises:
        UserError: the network cannot be written in this form, a package is missing, or the ending is unknown.
        ExportDiffers: the file computes something other than the module; it is removed.
        NonFiniteOutput: the network's outputs are not finite.
    """
    check_path(path)
    kind = path.suffix
    known = cases(subject)
    if kind == ".safetensors":
        return _write(path, known, None, "", lambda there: _write_weights(subject, there))
    if kind == ".onnx":
        size = sum(value.numel() * value.element_size() for value in subject.graph.state_dict().values())
        if size > LARGEST_ONNX:
            raise UserError(
                f"'{path}': {size / 2**30:.1f} GiB of weights are too many for an .onnx: write a .pt2"
            )
    write = _write_onnx if kind == ".onnx" else _write_program
    height, width = subject.size
    reason = f"the network takes only images of {height} x {width}"
    other = other_size(subject)
    if other is not None:
        step, grown = other
        try:
            return _write(path, [*known, grown], step, "", lambda there: write(subject, there, True))
        except (*FAILURES, ExportDiffers) as error:
            reason = f"with free height and width: {one_line(error)}"
    try:
        return _write(path, known, None, reason, lambda there: write(subject, there, False))
    except ExportDiffers:
        raise
    except FAILURES as error:
        raise UserError(f"{subject.title} cannot be written as '{path}': {one_line(error)}") from error


def _write(
    path: Path,
    known: Sequence[Case],
    step: int | None,
    reason: str,
    write: Callable[[Path], tuple[Runner, str]],
) -> Exported:
    """`write` makes the file at a temporary place and returns what runs it, and the name of that program."""
    made: list[tuple[Runner, str, float]] = []

    def write_and_check(there: Path) -> None:
        run, checker = write(there)
        worst = 0.0
        for known_case in known:
            gap = known_case.difference(run(known_case.inputs))
            if not gap <= TOLERANCE:
                shapes = {name: tuple(value.shape) for name, value in known_case.inputs.items()}
                raise ExportDiffers(
                    f"'{path}' is not written: under {checker} it differs from the module by {gap:.1e} on {shapes}, "
                    f"allowed is {TOLERANCE:g}"
                )
            worst = max(worst, gap)
        made.append((run, checker, worst))

    write_with(path, write_and_check)
    [(run, checker, worst)] = made
    shapes = tuple(tuple(next(iter(known_case.inputs.values())).shape) for known_case in known)
    return Exported(path, checker, worst, shapes, step, reason, run)


def _program(subject: Exportable, free: bool) -> torch.export.ExportedProgram:
    """The graph by torch.export: for any batch, and for any height and width of images if `free`."""
    batch = torch.export.Dim("batch", min=1)
    any_size = torch.export.Dim.DYNAMIC
    axes = tuple(
        {0: batch, 2: any_size, 3: any_size} if free and name == subject.sized else {0: batch}
        for name in subject.inputs
    )
    return torch.export.export(
        subject.graph, tuple(subject.inputs.values()), dynamic_shapes=axes, strict=False
    )


def _write_program(subject: Exportable, path: Path, free: bool) -> tuple[Runner, str]:
    content = io.BytesIO()  # torch's own writer of files ends the process where the disk is full
    with _quiet():
        torch.export.save(
            _program(subject, free), content, extra_files=header_of_program(subject.header, subject.about)
        )
        path.write_bytes(content.getbuffer())
        module = torch.export.load(path).module()

    def run(inputs: Tensors) -> tuple[Tensor, ...]:
        with torch.inference_mode():
            return outputs_of(module(*inputs.values()))

    return run, f"torch {version('torch')}"


def _write_onnx(subject: Exportable, path: Path, free: bool) -> tuple[Runner, str]:
    names = tuple(
        {0: "batch", 2: "height", 3: "width"} if free and name == subject.sized else {0: "batch"}
        for name in subject.inputs
    )
    with _quiet():
        try:
            program = torch.onnx.export(
                _program(subject, free), dynamo=True, verbose=False, dynamic_shapes=names,
                input_names=list(subject.inputs), output_names=list(subject.outputs),
            )  # fmt: skip
        except torch.onnx.OnnxExporterError as error:  # its cause stands behind pages of advice
            raise RuntimeError(f"torch.onnx: {one_line(error.__cause__ or error)}") from error
        assert program is not None
        program.model.metadata_props.update(header_of_program(subject.header, subject.about))
        program.save(path, external_data=False)
    return open_onnx(path), f"onnxruntime {version('onnxruntime')}"


def open_onnx(path: str | Path) -> Runner:
    """A runner of an ONNX file on the CPU, with as many threads as torch has."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    failures: tuple[type[Exception], ...] = (
        errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.InvalidProtobuf, errors.NotImplemented,
        errors.RuntimeException,
    )  # fmt: skip

    @contextmanager
    def told() -> Iterator[None]:
        try:
            yield
        except failures as error:
            raise RuntimeError(f"onnxruntime: {one_line(error)}") from error

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    with told():
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(inputs: Tensors) -> tuple[Tensor, ...]:
        feed: dict[str, Any] = {name: value.numpy() for name, value in inputs.items()}
        with told():
            return tuple(torch.from_numpy(value) for value in session.run(None, feed))

    return run


def _write_weights(subject: Exportable, path: Path) -> tuple[Runner, str]:
    """Write the weights by name; they are read back into an emptied copy of the network, which the graph then runs."""
    save_weights(subject.network, path, descriptive(subject.header))
    fresh = copy.deepcopy(subject)
    with torch.no_grad():
        for value in fresh.network.state_dict().values():
            value.zero_()
    load_weights(fresh.network, path)
    graph = fresh.exact or fresh.graph

    def run(inputs: Tensors) -> tuple[Tensor, ...]:
        with torch.inference_mode():
            return outputs_of(graph(*inputs.values()))

    return run, f"torch {version('torch')}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch's exporter says of its own code; failures are still raised."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
