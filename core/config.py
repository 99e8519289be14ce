"""Configuration files (mmengine's Config: `_base_`, `key=value` overrides) lowered to frozen dataclasses.

mmengine keeps misspelt keys without a word and knows no types; the dataclasses are the schema that refuses
both.
"""

from __future__ import annotations

import ast
import dataclasses
import math
import types
import typing
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml
from mmengine.config import Config, DictAction

from core.errors import MissingData, UserError, did_you_mean
from core.files import atomic_write

T = TypeVar("T")

# A configuration file is Python (or YAML, JSON) that mmengine runs: these are what its mistakes raise.
_FILE_ERRORS = (
    SyntaxError,
    NameError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    ImportError,
    OSError,
    RecursionError,
    yaml.YAMLError,
)


def load_config(
    path: str | Path | None,
    schema: type[T],
    overrides: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> T:
    """Read a configuration into `schema`, a frozen dataclass whose fields may be dataclasses again.

    Later ones win: the schema's own defaults, `defaults`, the file, `overrides`. Values are converted where
    nothing is lost (int to float, 3.0 to int, list to tuple, str to Path) and refused otherwise.

    Args:
        path: an mmengine configuration file (.py, .yaml, .json), or None for none.
        schema: the dataclass to build.
        overrides: "key=value" strings with dots for nesting ("optimizer.lr=0.1"); values are Python literals,
            mmengine's lists ("1,2", "[a,b]") or plain strings.
        defaults: nested values beneath the file's.

    Raises:
        MissingData: there is no such file.
        UserError: the file has errors, or a key or value does not fit the schema; the message names the key.
    """
    source = "the command line" if path is None else f"'{path}'"
    merged = Config(_plain(defaults or {}))
    try:
        if path is not None:
            merged.merge_from_dict(_in_place_of(merged.to_dict(), _read(Path(path))))
        for key, value in map(_parse_override, overrides):
            merged.merge_from_dict({key: _in_place_of(_at(merged.to_dict(), key), value)})
    except (TypeError, KeyError) as error:
        raise UserError(f"{source}: {_one_line(error)}") from error
    try:
        return typing.cast(T, _lower(merged.to_dict(), schema, ""))
    except UserError as error:
        raise UserError(f"{source}: {error}") from error


def dump_config(config: Any, path: str | Path) -> None:
    """Write a dataclass as an mmengine Python file that `load_config` reads back to an equal object."""
    lines = [f"{key} = {_render(value, 0)}\n" for key, value in _plain(config).items()]
    with atomic_write(path) as file:
        file.writelines(lines)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise MissingData(f"configuration '{path}' not found; check the path")
    try:
        return Config.fromfile(path, import_custom_modules=False, lazy_import=False).to_dict()
    except _FILE_ERRORS as error:
        raise UserError(
            f"configuration '{path}' cannot be read: {type(error).__name__}: {_one_line(error)}"
        ) from error


def _at(config: Mapping[str, Any], key: str) -> Any:
    """What stands at a dotted key; None for nothing."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _in_place_of(old: Any, new: Any) -> Any:
    """`new` for a merge in which a mapping (patterns of floors) may replace a plain value, which mmengine refuses."""
    if not isinstance(new, Mapping):
        return new
    if old is not None and not isinstance(old, Mapping):
        return {**new, "_delete_": True}
    inner = old or {}
    return {key: _in_place_of(inner.get(key), value) for key, value in new.items()}


def _parse_override(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not all(part.isidentifier() or part.isdigit() for part in key.split(".")):
        raise UserError(f"override '{override}' must read key=value, with dots in the key for nesting")
    return key, _parse_value(override, text)


def _parse_value(override: str, text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        pass
    # mmengine's own parser drops spaces and quotes, so it only gets what a literal cannot be: lists of words.
    if "," not in text and not text.startswith(("[", "(")):
        return {"true": True, "false": False}.get(text.lower(), text)
    namespace = Namespace(options=None)
    try:
        DictAction(["--cfg-options"], "options")(ArgumentParser(), namespace, [f"value={text}"])
    except (AssertionError, RecursionError) as error:  # of the latter mmengine dies on "f(a, b)"
        reason = (
            "neither a Python literal nor a list of words"
            if isinstance(error, RecursionError)
            else _one_line(error)
        )
        raise UserError(f"override '{override}': {reason}") from error
    return namespace.options["value"]


def _lower(value: Any, annotation: Any, where: str) -> Any:
    """Convert `value`, found at the key path `where`, to the type `annotation`, or refuse it."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return value
    if dataclasses.is_dataclass(annotation):
        return _lower_dataclass(value, typing.cast(type, annotation), where)
    if origin in (Union, types.UnionType):
        return _lower_union(value, arguments, where)
    if origin is Literal:
        if any(value == allowed and type(value) is type(allowed) for allowed in arguments):
            return value
        raise UserError(f"{where} is {value!r}, {did_you_mean(str(value), arguments)}")
    if origin is tuple and isinstance(value, list | tuple):
        return _lower_tuple(value, arguments, where)
    if origin is list and isinstance(value, list | tuple):
        return [_lower(item, arguments[0], f"{where}[{index}]") for index, item in enumerate(value)]
    if origin is not None and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {
            _lower(k, arguments[0], where): _lower(v, arguments[1], f"{where}.{k}") for k, v in value.items()
        }
    if origin is None and isinstance(annotation, type):
        return _lower_scalar(value, annotation, where)
    raise _wrong_type(value, _type_name(annotation), where)


def _lower_scalar(value: Any, annotation: type, where: str) -> Any:
    if annotation is type(None) and value is None:
        return None
    if isinstance(value, annotation) and (annotation is bool or not isinstance(value, bool)):
        return value
    if (
        isinstance(value, int)
        and not isinstance(value, bool)
        and annotation is float
        and int(float(value)) == value
    ):
        return float(value)
    if isinstance(value, float) and annotation is int and value.is_integer():
        return int(value)
    if isinstance(value, str) and annotation is Path:
        return Path(value)
    raise _wrong_type(value, _type_name(annotation), where)


def _lower_tuple(value: Sequence[Any], arguments: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise UserError(f"{where} must have {len(arguments)} entries, got {len(value)}: {value!r}")
    return tuple(
        _lower(item, argument, f"{where}[{index}]")
        for index, (item, argument) in enumerate(zip(value, arguments))
    )


def _lower_union(value: Any, members: tuple[Any, ...], where: str) -> Any:
    if type(value) in members:  # 1 stays an int in `float | int`
        return value
    refusals: list[UserError] = []
    for member in members:
        try:
            return _lower(value, member, where)
        except UserError as refusal:
            refusals.append(refusal)
    # `X | None` is an optional X: what X says about a wrong value helps more than the union's name.
    members = tuple(member for member in members if member is not type(None))
    if len(members) == 1:
        raise refusals[0]
    raise _wrong_type(value, " | ".join(map(_type_name, members)), where)


def _lower_dataclass(value: Any, schema: type, where: str) -> Any:
    if isinstance(value, schema):
        return value
    if not isinstance(value, Mapping):
        raise UserError(f"{where} must hold the keys of {schema.__name__}, got {value!r}")
    fields = {field.name: field for field in dataclasses.fields(schema) if field.init}
    prefix = f"{where}." if where else ""
    unknown = next((key for key in value if key not in fields), None)
    if unknown is not None:
        raise UserError(f"unknown key '{prefix}{unknown}', {did_you_mean(str(unknown), fields)}")
    defaults = {name: _default(field) for name, field in fields.items()}
    absent = [name for name in fields if name not in value and defaults[name] is dataclasses.MISSING]
    if absent:
        raise UserError(f"'{prefix}{absent[0]}' is required and not given")
    types_of = typing.get_type_hints(schema)
    lowered = {
        key: _lower(_over(defaults[key], item), types_of[key], f"{prefix}{key}")
        for key, item in value.items()
    }
    try:
        return schema(**lowered)
    except ValueError as error:
        raise UserError(f"in {where}: {error}" if where else str(error)) from error


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _over(default: Any, value: Any) -> Any:
    """Lay keys given for a nested dataclass over the field's default, not over that class's own defaults."""
    if isinstance(value, Mapping) and dataclasses.is_dataclass(default):
        members = {
            field.name: getattr(default, field.name) for field in dataclasses.fields(default) if field.init
        }
        return {**members, **{key: _over(members.get(key), item) for key, item in value.items()}}
    return value


def _wrong_type(value: Any, wanted: str, where: str) -> UserError:
    return UserError(f"{where} must be {wanted}, got {type(value).__name__} {value!r}")


def _type_name(annotation: Any) -> str:
    is_plain = isinstance(annotation, type) and typing.get_origin(annotation) is None
    return annotation.__name__ if is_plain else str(annotation).replace("typing.", "")


def _plain(value: Any) -> Any:
    """Dataclasses, at any depth, as dicts of what a configuration file can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.init
        }
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    return str(value) if isinstance(value, Path) else value


def _render(value: Any, depth: int) -> str:
    """A Python literal of `value`, one key per line in nested dicts."""
    if isinstance(value, Mapping):
        inner = "    " * (depth + 1)
        rows = [f"{inner}{_render(key, 0)}: {_render(item, depth + 1)},\n" for key, item in value.items()]
        return "{\n" + "".join(rows) + "    " * depth + "}" if rows else "{}"
    if isinstance(value, list):
        return "[" + ", ".join(_render(item, depth) for item in value) + "]"
    if isinstance(value, tuple):
        return (
            "(" + ", ".join(_render(item, depth) for item in value) + ("," if len(value) == 1 else "") + ")"
        )
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    # mmengine substitutes {{ name }} in the text of a file before it reads it, even within strings.
    return repr(value).replace("{{", r"{\x7b")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
