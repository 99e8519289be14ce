"""Configuration files (mmengine's Config: `_base_`, `key=value` overrides) lowered to frozen dataclasses.

mmengine silently keeps misspelt keys and knows no types; the dataclasses are a schema that refuses wrong ones. Which
files are code and which are data: `core.command_line.config_files`.
"""

from __future__ import annotations

import ast
import dataclasses
import math
import sys
import typing
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from mmengine.config import Config, DictAction

from core.command_line.config_files import program_names, read_config, read_dumped
from core.errors import UserError, one_line
from core.storage.files import atomic_write
from core.storage.schema import default_of, lower

T = TypeVar("T")


def load_config(
    path: str | Path | None,
    schema: type[T],
    overrides: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
    *,
    dumped: bool = False,
) -> T:
    """Read a configuration into `schema`, a frozen dataclass whose fields may be dataclasses again.

    Later sources win: the schema's own defaults, `defaults`, the file, `overrides`. Values are converted where
    nothing is lost (int to float, 3.0 to int, list to tuple, str to Path) and refused otherwise.

    Args:
        path: an mmengine configuration file, or None. A .py file is run, and may have helper variables
            (`_without_helpers`); .yaml, .yml and .json files are data, and may build (`_base_`) on each other and on
            files of shared_configs/.
        schema: the dataclass to build.
        overrides: "key=value" strings with dots for nesting ("optimizer.lr=0.1") and for entries of lists, counted
            from 0 ("schedule.milestones.0=5"); values are Python literals, mmengine's lists ("1,2", "[a,b]") or plain
            strings.
        defaults: nested values that the file overrides.
        dumped: whether `dump_config` wrote the file: it is parsed, never run.

    Raises:
        MissingData: there is no such file.
        UserError: the file has errors, or a key or value does not fit the schema; the message names the key, and blames
            the command line if the file alone would fit.
    """
    source = "the command line" if path is None else f"'{path}'"
    merged = Config(_plain(defaults or {}))
    try:
        if path is not None:
            read = read_dumped(Path(path)) if dumped else _without_helpers(Path(path), schema, source)
            merged.merge_from_dict(_in_place_of(merged.to_dict(), _renamed(read, schema, source)))
        unchanged = merged.to_dict()
        for given, read_value in map(_parse_override, overrides):
            today = _renamed_key(given, read_value, schema, source)
            key, value = _whole_list(today, read_value, merged.to_dict(), schema)
            merged.merge_from_dict({key: _in_place_of(_at(merged.to_dict(), key), value)})
    except (TypeError, KeyError) as error:
        raise UserError(f"{source}: {one_line(error)}") from error
    try:
        return typing.cast(T, lower(merged.to_dict(), schema))
    except UserError as error:
        guilty = "the command line" if overrides and _fits(unchanged, schema) else source
        raise UserError(f"{guilty}: {error}") from error


def _fits(values: Mapping[str, Any], schema: type) -> bool:
    try:
        lower(values, schema)
    except UserError:
        return False
    return True


def _without_helpers(path: Path, schema: type, source: str) -> dict[str, Any]:
    """A file's values without its helper variables, such as mmengine's users write.

    A name at the top of a .py file that is no setting is a helper variable if it starts with `_`, or if the file (or
    one that builds on it) uses it. Other names that resemble a setting, at any depth, are refused: they are misspelt or
    stand at the wrong place. A note lists the rest (`default_scope`), which changes nothing.
    """
    values = read_config(path)
    names = program_names(path)
    settings = {item.name for item in dataclasses.fields(schema)} | set(getattr(schema, "RENAMED", {}))
    idle = []
    for key in [key for key in values if key not in settings and key in names.bound | names.used]:
        if key == "custom_imports":
            raise UserError(
                f"{source}: 'custom_imports' is for mmengine's Runner; this file is a program: write import"
            )
        if not key.startswith("_") and key not in names.used:
            meant = _resembling(key, schema)
            if meant:
                raise UserError(
                    f"{source}: unknown key '{key}', and nothing in the file uses it: did you mean "
                    f"{' or '.join(meant)}? Variables of your own start with _"
                )
            idle.append(key)
        del values[key]
    if idle:
        _say_once(f"note: {source}: no settings, and nothing uses them: {', '.join(idle)}")
    return values


def _resembling(word: str, schema: type) -> list[str]:
    """The settings, at any depth and quoted, whose own name is like `word`; up to three."""
    places = _places(schema)
    close = get_close_matches(word.lower(), {place.rpartition(".")[2] for place in places}, n=len(places))
    return [f"'{place}'" for name in close for place in places if place.rpartition(".")[2] == name][:3]


def _places(schema: type, prefix: str = "") -> list[str]:
    """The dotted keys of a schema, sections and their entries."""
    places = []
    types_of = typing.get_type_hints(schema)
    for item in dataclasses.fields(schema):
        places.append(f"{prefix}{item.name}")
        for inner in (types_of[item.name], *typing.get_args(types_of[item.name])):
            if dataclasses.is_dataclass(inner):
                places += _places(typing.cast(type, inner), f"{prefix}{item.name}.")
    return places


def _renamed(values: Mapping[str, Any], schema: Any, source: str, prefix: str = "") -> dict[str, Any]:
    """A file's values under today's names of their keys; each old key is noted once.

    A schema's `RENAMED` says what its keys were called: old -> new, with a dot if a plain value has become an entry of
    a section. If a file has both (it builds on one of shared_configs/), its own value is that of the old key.
    """
    renamed: dict[str, str] = getattr(schema, "RENAMED", {})
    types_of = typing.get_type_hints(schema) if dataclasses.is_dataclass(schema) else {}
    found = dict(values)
    for old, new in renamed.items():
        section, dot, entry = new.partition(".")
        if old not in found or (dot and isinstance(found[old], Mapping)):
            continue
        value = found.pop(old)
        _say_renamed(source, f"{prefix}{old}", f"{prefix}{new}")
        found[section] = {entry: value} if dot else value
    return {
        key: _renamed(value, types_of[key], source, f"{prefix}{key}.")
        if isinstance(value, Mapping) and dataclasses.is_dataclass(types_of.get(key))
        else value
        for key, value in found.items()
    }


def _renamed_key(key: str, value: Any, schema: Any, source: str) -> str:
    """`_renamed` for the dotted key of an override."""
    parts = key.split(".")
    for index, part in enumerate(parts):
        new = getattr(schema, "RENAMED", {}).get(part)
        last = index == len(parts) - 1
        if new is not None and ("." not in new or (last and not isinstance(value, Mapping))):
            today = ".".join([*parts[:index], new, *parts[index + 1 :]])
            _say_renamed(source, key, today)
            return today
        schema = typing.get_type_hints(schema).get(part) if dataclasses.is_dataclass(schema) else None
    return key


def _say_renamed(source: str, old: str, new: str) -> None:
    _say_once(f"note: {source}: '{old}' is now called '{new}'")


@cache
def _say_once(line: str) -> None:
    print(line, file=sys.stderr)


def dump_config(config: Any, path: str | Path) -> None:
    """Write a dataclass as a file of Python literals that `load_config` reads back to an equal object.

    Raises:
        UserError: it holds something that no literal expresses, such as a class; the message names the key.
    """
    plain = _plain(config)
    for key, value in plain.items():
        _require_literal(value, key)
    lines = [f"{key} = {_render(value, 0)}\n" for key, value in plain.items()]
    with atomic_write(path) as file:
        file.writelines(lines)


def _at(config: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key; None if there is none."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _whole_list(key: str, value: Any, given: Mapping[str, Any], schema: type) -> tuple[str, Any]:
    """An override of a list's entry ("milestones.0") as one of the whole list: mmengine knows no tuples or defaults.

    Raises:
        UserError: the list has no such entry.
    """
    parts = key.split(".")
    for index, part in enumerate(parts):
        place = ".".join(parts[:index])
        if not index or not part.isdigit():
            continue
        before = _at(given, place)
        before = _default_at(schema, parts[:index]) if before is None else before
        if isinstance(before, list | tuple):
            return place, _with_entry(before, parts[index:], value, place)
    return key, value


def _with_entry(old: Any, parts: Sequence[str], value: Any, where: str) -> Any:
    """A copy of nested lists and mappings with another value at a place."""
    if not parts:
        return value
    here = f"{where}.{parts[0]}"
    if isinstance(old, Mapping):
        return {**old, parts[0]: _with_entry(old.get(parts[0], {}), parts[1:], value, here)}
    if isinstance(old, list | tuple):
        if not parts[0].isdigit() or int(parts[0]) >= len(old):
            raise UserError(f"'{here}': {where} has {len(old)} entries, counted from 0: {old!r}")
        entries = list(old)
        entries[int(parts[0])] = _with_entry(entries[int(parts[0])], parts[1:], value, here)
        return entries
    raise UserError(f"'{here}': {where} is {old!r}, which has no entries")


def _default_at(schema: type, parts: Sequence[str]) -> Any:
    """The schema's default at a key; None if it has none."""
    value: Any = schema
    for part in parts:
        fields = (
            {item.name: item for item in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else {}
        )
        if part not in fields:
            return None
        value = default_of(fields[part]) if isinstance(value, type) else getattr(value, part)
    return _plain(value)


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
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass
    # mmengine's own parser drops spaces and quotes, so it only gets what a literal cannot be: lists of words.
    if "," not in text and not text.startswith(("[", "(")):
        return {"true": True, "false": False}.get(text.lower(), text)
    namespace = Namespace(options=None)
    try:
        DictAction(["--cfg-options"], "options")(ArgumentParser(), namespace, [f"value={text}"])
    except (AssertionError, RecursionError) as error:  # RecursionError: mmengine's on "f(a, b)"
        reason = (
            "neither a Python literal nor a list of words"
            if isinstance(error, RecursionError)
            else one_line(error)
        )
        raise UserError(f"override '{override}': {reason}") from error
    return namespace.options["value"]


def _plain(value: Any) -> Any:
    """Dataclasses, at any depth, as dicts of values that a configuration file can hold."""
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


def _require_literal(value: Any, where: str) -> None:
    """Refuse values that `_render` could only write as text that cannot be read back."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _require_literal(key, where)
            _require_literal(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _require_literal(item, f"{where}[{index}]")
    elif value is not None and not isinstance(value, bool | int | float | str | bytes):
        raise UserError(
            f"{where} is a {type(value).__name__}, which a work directory cannot keep: use numbers, texts, lists and "
            f"dicts"
        )


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
    if isinstance(value, float):  # numpy's too: their own text is no literal
        return repr(float(value)) if math.isfinite(value) else f'float("{float(value)}")'
    # mmengine substitutes {{ name }} in the text of a file before it reads it, even within strings.
    return repr(value).replace("{{", r"{\x7b")
