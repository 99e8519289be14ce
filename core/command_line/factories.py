"""Models named on a command line: `package.module:factory` or `path/to/file.py:factory`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from torch import nn

from core.errors import UserError


def load_factory(spec: str) -> Callable[..., nn.Module]:
    """The callable that `spec` names. Importing runs the file's code, as `python file.py` would.

    Args:
        spec: `package.module:factory` or `path/to/file.py:factory`.

    Raises:
        UserError: the form is wrong, the file, the module or the name in it does not exist, or the file is no valid
            Python or imports what is not there. Whatever else its code raises passes through.
    """
    place, separator, name = spec.rpartition(":")
    if not separator or not place or not name:
        raise UserError(f"model '{spec}': write package.module:factory or path/to/file.py:factory")
    module = _from_file(Path(place)) if place.endswith(".py") else _from_package(place)
    factory = getattr(module, name, None)
    if not callable(factory):
        raise UserError(f"model '{spec}': '{place}' has no function or class called '{name}'")
    return factory


def call_factory(spec: str, **options: object) -> nn.Module:
    """Build the model that `spec` names.

    Raises:
        UserError: see `load_factory`; also if the factory needs other arguments than `options`, or does not return an
            `nn.Module`.
    """
    factory = load_factory(spec)
    _check_arguments(spec, factory, options)
    model = factory(**options)
    if not isinstance(model, nn.Module):
        raise UserError(f"model '{spec}' returned {type(model).__name__}, not a torch.nn.Module")
    return model


def _check_arguments(spec: str, factory: Callable[..., nn.Module], options: Mapping[str, object]) -> None:
    """Before the call, because a TypeError out of it could as well be a mistake in the factory's own code."""
    try:
        signature = inspect.signature(factory)
    except ValueError:  # written in C: it has none to look at
        return
    try:
        signature.bind(**options)
    except TypeError as error:
        given = f"with {', '.join(options)}" if options else "without arguments"
        raise UserError(
            f"model '{spec}' cannot be called {given}: {error}; give its arguments defaults, or name a function that "
            f"passes them"
        ) from error


def parse_shape(text: str) -> tuple[int, ...]:
    """'1,3,224,224' -> (1, 3, 224, 224).

    Raises:
        UserError: not a comma-separated list of positive integers.
    """
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise UserError(f"input shape '{text}': write positive integers with commas, such as 1,3,224,224")
    return shape


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"model file '{path}' does not exist")
    name = _module_name(path)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"model file '{path}' cannot be imported")
    # Registered, so that pickled models find their classes again.
    module = sys.modules.get(name)
    if module is None:
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            with _told(f"model file '{path}'"):
                spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return module


def _module_name(path: Path) -> str:
    """The file's own name, which worker processes find too; a longer one where another module is called so."""
    unique = f"{path.stem}_{zlib.crc32(str(path.resolve()).encode()):08x}"
    if not path.stem.isidentifier() or path.stem == "__main__":
        return unique
    other = importlib.util.find_spec(path.stem)
    return path.stem if other is None or other.origin in (str(path), str(path.resolve())) else unique


def _from_package(name: str) -> ModuleType:
    try:
        with _told(f"model package '{name}'"):
            return importlib.import_module(name)
    except UserError as error:
        missing = error.__cause__.name if isinstance(error.__cause__, ModuleNotFoundError) else None
        if missing is not None and name.partition(".")[0] == missing.partition(".")[0]:
            raise UserError(f"model package '{name}' is not installed") from None
        raise


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Errors that keep a file from being imported at all, in one line; `--debug` shows where they come from."""
    try:
        yield
    except SyntaxError as error:
        where = f"'{error.filename}', line {error.lineno}"
        raise UserError(f"{what} cannot be imported: {error.msg} in {where}") from error
    except ImportError as error:
        raise UserError(f"{what} cannot be imported: {error}") from error
