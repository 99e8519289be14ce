"""Turning plain values into frozen dataclasses; misspelt keys and wrong types are refused.

Values are converted where nothing is lost (int to float, 3.0 to int, list to tuple, str to Path) and refused otherwise.
"""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union

from core.errors import UserError, did_you_mean
from core.storage.files import read_json

T = typing.TypeVar("T")
_LARGEST_FLOAT = int(sys.float_info.max)


def lower(value: Any, annotation: Any, where: str = "") -> Any:
    """Convert a value to a type, or refuse it.

    Args:
        value: numbers, texts, lists and mappings.
        annotation: a dataclass, or any type that its fields have.
        where: path of the value's key, for messages.

    Raises:
        UserError: the value does not fit; the message names the key.
    """
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
    if origin is Sequence and isinstance(value, list | tuple):
        return tuple(lower(item, arguments[0], f"{where}[{index}]") for index, item in enumerate(value))
    if origin is list and isinstance(value, list | tuple):
        return [lower(item, arguments[0], f"{where}[{index}]") for index, item in enumerate(value)]
    if origin is not None and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {
            lower(k, arguments[0], where): lower(v, arguments[1], f"{where}.{k}") for k, v in value.items()
        }
    if origin is None and isinstance(annotation, type):
        return _lower_scalar(value, annotation, where)
    raise _wrong_type(value, _type_name(annotation), where)


def read_kept(path: Path, annotation: type[T]) -> T | None:
    """The content of a file that can be made again, as this dataclass; None if it is missing or damaged.

    Args:
        path: a JSON file.
        annotation: see `lower`.
    """
    if not path.exists():
        return None
    try:
        return typing.cast(T, lower(read_json(path), annotation))
    except ValueError:
        return None


def _lower_scalar(value: Any, annotation: type, where: str) -> Any:
    if annotation is type(None) and value is None:
        return None
    if isinstance(value, annotation) and (annotation is bool or not isinstance(value, bool)):
        return value
    if (
        isinstance(value, int)
        and not isinstance(value, bool)
        and annotation is float
        and abs(value) <= _LARGEST_FLOAT
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
        lower(item, argument, f"{where}[{index}]")
        for index, (item, argument) in enumerate(zip(value, arguments))
    )


def _lower_union(value: Any, members: tuple[Any, ...], where: str) -> Any:
    if type(value) in members:  # 1 stays an int in `float | int`
        return value
    refusals: list[UserError] = []
    for member in members:
        try:
            return lower(value, member, where)
        except UserError as refusal:
            refusals.append(refusal)
    # `X | None` is an optional X: X's own message about a wrong value helps more than the union's name.
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
    defaults = {name: default_of(field) for name, field in fields.items()}
    absent = [name for name in fields if name not in value and defaults[name] is dataclasses.MISSING]
    if absent:
        raise UserError(f"'{prefix}{absent[0]}' is required and not given")
    types_of = typing.get_type_hints(schema)
    lowered = {
        key: lower(_over(defaults[key], item), types_of[key], f"{prefix}{key}") for key, item in value.items()
    }
    try:
        return schema(**lowered)
    except ValueError as error:
        raise UserError(f"in {where}: {error}" if where else str(error)) from error


def default_of(field: dataclasses.Field[Any]) -> Any:
    """A field's default; `dataclasses.MISSING` where it has none."""
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
