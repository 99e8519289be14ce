"""Models named on a command line: `package.module:factory` or `path/to/file.py:factory`."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from core.errors import UserError, did_you_mean

# Top-level packages of the suite, as pyproject.toml lists them.
SUITE = ("lwdna", "core", "classification", "super_resolution", "tracking", "shared_configs", "benchmarks")


def load_factory(spec: str, what: str = "model") -> Callable[..., Any]:
    """The callable that `spec` names. Importing runs the file's code, as `python file.py` would.

    Args:
        spec: `package.module:factory` or `path/to/file.py:factory`.
        what: what the callable makes, for messages.

    Raises:
        UserError: the form is wrong; the file, the module or the name in it does not exist; or the file is no valid
            Python or imports something missing. Whatever else its code raises passes through.
    """
    place, separator, name = spec.rpartition(":")
    if not separator or not place or not name:
        raise UserError(f"{what} '{spec}': write package.module:factory or path/to/file.py:factory")
    module = _from_file(Path(place), what) if place.endswith(".py") else _from_package(place, what)
    factory = getattr(module, name, None)
    if not callable(factory):
        raise UserError(f"{what} '{spec}': '{place}' has no function or class called '{name}'")
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


def is_factory(model: str) -> bool:
    """Whether a model is `package.module:factory` or `path/to/file.py:factory`, not one of the suite's names."""
    return ":" in model


def factory_file(model: str) -> Path | None:
    """The file with the factory of a user's network; None for the suite's own networks, and for files not there.

    Args:
        model: `package.module:factory`, `path/to/file.py:factory`, or one of the suite's names.
    """
    place = model.rpartition(":")[0]
    if not place.endswith(".py"):
        if not place or place.partition(".")[0] in SUITE:
            return None
        try:
            found = importlib.util.find_spec(place)
        except (ImportError, ValueError):  # of a package above it; whoever builds the network says so
            return None
        place = (found and found.origin) or ""
    path = Path(place)
    return path if path.is_file() else None


def unknown_network(problem: str, model: str, known: Iterable[str]) -> UserError:
    """The error for a name that is none of the suite's networks; for a file it lists what is in it.

    Args:
        problem: what is wrong: "unknown network 'resnet21'".
        model: what the user wrote.
        known: names of the suite's own.
    """
    if model.endswith(".py"):
        found = ", ".join(_public_names(Path(model)))
        return UserError(
            f"'{model}' names a file, but not what in it makes the network: write {model}:FACTORY"
            f"{f' (it has {found})' if found else ''}"
        )
    own = "name your own as package.module:factory or path/to/file.py:factory"
    return UserError(f"{problem}: {did_you_mean(model, known)}; or {own}")


def _public_names(path: Path) -> list[str]:
    """Functions and classes of a file of code, which is parsed and not run; none if it cannot be parsed."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return []
    return [
        item.name
        for item in body
        if isinstance(item, ast.FunctionDef | ast.ClassDef) and not item.name.startswith("_")
    ]


def takes(spec: str, option: str) -> bool:
    """Whether the factory that `spec` names has a parameter called `option`.

    Raises:
        UserError: see `load_factory`.
    """
    factory = load_factory(spec)
    try:
        return option in inspect.signature(factory).parameters
    except ValueError:  # written in C: it has no signature
        return False


def title(model: str, name: str | None = None) -> str:
    """What reports and folders call a model: `name` if there is one, "mynet-make" for `path/to/mynet.py:make`.

    Args:
        model: a name of the suite's own, or what `load_factory` takes.
        name: the user's own title (`--name`).

    Raises:
        UserError: `name` is empty, or cannot name a folder.
    """
    if name is not None:
        if not name or name != Path(name).name or name != name.strip() or name == "..":
            raise UserError(f"name '{name}': it becomes a folder's name, so leave out / and spaces around it")
        return name
    place, separator, factory = model.rpartition(":")
    if not separator:
        return model
    stem = Path(place).stem if place.endswith(".py") else place.rpartition(".")[2]
    return f"{stem}-{factory}"


def trusted_model(what: str, described: str, given: str | None, option: str) -> str:
    """The model to build for a file that names one; code is imported only if the user names it, too.

    Args:
        what: the file, for messages.
        described: the model that the file names.
        given: the model that the user names; None for none.
        option: how users name it, for messages.

    Raises:
        UserError: the file names code and the user does not, or the two are not of one kind.
    """
    if given is None and is_factory(described):
        raise UserError(
            f"{what} is of a network from '{described}', code that is not imported because a file names it: if you "
            f"trust it, repeat it with {option} {described}"
        )
    if given is not None and given != described and not (is_factory(given) and is_factory(described)):
        raise UserError(f"{what} belongs to '{described}': leave {option} {given} out")
    return given or described


def from_data(spec: str, typed: str | None, config: str | None) -> str | None:
    """The line to print before importing code that a protocol read as data names; None if there is no such code.

    Args:
        spec: the model.
        typed: the model on the command line, None if it names none.
        config: `--config`; a .py file is a program of the user's anyway.
    """
    if not is_factory(spec) or typed is not None or Path(config or "").suffix == ".py":
        return None
    return f"the protocol names code: '{spec}' is imported"


def _check_arguments(spec: str, factory: Callable[..., nn.Module], options: Mapping[str, object]) -> None:
    """Check before the call, since a TypeError from it could also be a mistake in the factory's own code."""
    try:
        signature = inspect.signature(factory)
    except ValueError:  # written in C: it has no signature
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


def _from_file(path: Path, what: str) -> ModuleType:
    if not path.is_file():
        raise UserError(f"{what} file '{path}' does not exist")
    # Resolved: a relative path names another file once the working directory has changed.
    place = path.resolve()
    name = _module_name(place)
    spec = importlib.util.spec_from_file_location(name, place)
    if spec is None or spec.loader is None:
        raise UserError(f"{what} file '{path}' cannot be imported")
    # Registered, so that pickled models find their classes again.
    module = sys.modules.get(name)
    if module is None:
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            with _told(f"{what} file '{path}'"):
                spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return module


def _module_name(path: Path) -> str:
    """The resolved file's own name, which worker processes find too; a longer one if another module has that name."""
    unique = f"{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    if not path.stem.isidentifier() or path.stem == "__main__":
        return unique
    try:
        other = importlib.util.find_spec(path.stem)
    except ValueError:  # a module that was put together by hand has that name
        return unique
    return path.stem if other is None or Path(other.origin or "").resolve() == path else unique


def _from_package(name: str, what: str) -> ModuleType:
    try:
        with _told(f"{what} package '{name}'"):
            return importlib.import_module(name)
    except UserError as error:
        missing = error.__cause__.name if isinstance(error.__cause__, ModuleNotFoundError) else None
        if missing is not None and name.partition(".")[0] == missing.partition(".")[0]:
            raise UserError(f"{what} package '{name}' is not installed") from None
        raise


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Errors that prevent the import of a file, in one line; `--debug` shows where they come from."""
    try:
        yield
    except SyntaxError as error:
        where = f"'{error.filename}', line {error.lineno}"
        raise UserError(f"{what} cannot be imported: {error.msg} in {where}") from error
    except ImportError as error:
        raise UserError(f"{what} cannot be imported: {error}") from error
