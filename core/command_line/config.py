"""Configuration files (mmengine's Config: `_base_`, `key=value` overrides) lowered to frozen dataclasses.

mmengine keeps misspelt keys without a word and knows no types; the dataclasses are the schema that refuses
both.

What is code and what is data: a `.py` file that the user names is run. YAML and JSON are data, whoever names them, and
so is what `dump_config` wrote: nothing that they hold is ever run.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import math
import re
import sys
import types
import typing
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml
from mmengine.config import Config, DictAction
from mmengine.fileio.handlers import BaseFileHandler, file_handlers

from core.errors import MissingData, UserError, did_you_mean
from core.storage.files import atomic_write

T = TypeVar("T")

# Python files that a YAML or JSON file may build on: those that belong to the suite itself.
_OWN_CONFIGS = Path(__file__).resolve().parents[2] / "shared_configs"

# A configuration file is Python that mmengine runs, or YAML or JSON: these are what its mistakes raise.
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
    *,
    dumped: bool = False,
) -> T:
    """Read a configuration into `schema`, a frozen dataclass whose fields may be dataclasses again.

    Later ones win: the schema's own defaults, `defaults`, the file, `overrides`. Values are converted where
    nothing is lost (int to float, 3.0 to int, list to tuple, str to Path) and refused otherwise.

    Args:
        path: an mmengine configuration file, or None for none. A .py file is run; .yaml, .yml and .json files are
            data, and may build (`_base_`) on each other and on files of shared_configs/.
        schema: the dataclass to build.
        overrides: "key=value" strings with dots for nesting ("optimizer.lr=0.1"); values are Python literals,
            mmengine's lists ("1,2", "[a,b]") or plain strings.
        defaults: nested values beneath the file's.
        dumped: the file is one that `dump_config` wrote: it is parsed, never run.

    Raises:
        MissingData: there is no such file.
        UserError: the file has errors, or a key or value does not fit the schema; the message names the key.
    """
    source = "the command line" if path is None else f"'{path}'"
    merged = Config(_plain(defaults or {}))
    try:
        if path is not None:
            read = _read_dumped(Path(path)) if dumped else _read(Path(path))
            merged.merge_from_dict(_in_place_of(merged.to_dict(), _renamed(read, schema, source)))
        for given, value in map(_parse_override, overrides):
            key = _renamed_key(given, value, schema, source)
            merged.merge_from_dict({key: _in_place_of(_at(merged.to_dict(), key), value)})
    except (TypeError, KeyError) as error:
        raise UserError(f"{source}: {_one_line(error)}") from error
    try:
        return typing.cast(T, _lower(merged.to_dict(), schema, ""))
    except UserError as error:
        raise UserError(f"{source}: {error}") from error


def _renamed(values: Mapping[str, Any], schema: Any, source: str, prefix: str = "") -> dict[str, Any]:
    """A file's values under the names that their keys have today; each key of before is told once.

    A schema says with `RENAMED` what its keys were called: old -> new, with a dot where a plain value has become an
    entry of a section. Where a file has both (it builds on one of shared_configs/), its own is the old one.
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


@cache
def _say_renamed(source: str, old: str, new: str) -> None:
    print(f"note: {source}: '{old}' is now called '{new}'", file=sys.stderr)


def dump_config(config: Any, path: str | Path) -> None:
    """Write a dataclass as a file of Python literals that `load_config` reads back to an equal object.

    Raises:
        UserError: it holds something that no literal stands for, such as a class; the message names the key.
    """
    plain = _plain(config)
    for key, value in plain.items():
        _require_literal(value, key)
    lines = [f"{key} = {_render(value, 0)}\n" for key, value in plain.items()]
    with atomic_write(path) as file:
        file.writelines(lines)


def _read(path: Path) -> dict[str, Any]:
    _require_file(path)
    is_data = path.suffix in _PARSERS
    try:
        with _data_stay_data(_own_programs(path) if is_data else ()):
            # Placeholders are filled in before a file is parsed: in data they could say anything, `_base_` too.
            return Config.fromfile(
                path,
                use_predefined_variables=not is_data,
                use_environment_variables=not is_data,
                import_custom_modules=False,
                lazy_import=False,
            ).to_dict()
    except UserError:
        raise
    except _FILE_ERRORS as error:
        raise UserError(
            f"configuration '{path}' cannot be read: {type(error).__name__}: {_one_line(error)}"
        ) from error


class _DataReader(BaseFileHandler):
    """Reads JSON, and YAML of plain values; mmengine's own reader makes whatever Python object a YAML tag asks for.

    Args:
        parse: text -> values.
        programs: what `_base_` may name of Python files.
    """

    def __init__(self, parse: Callable[[str], Any], programs: Collection[str]) -> None:
        self._parse, self._programs = parse, programs

    def load_from_fileobj(self, file: Any, **options: Any) -> Any:
        content = self._parse(file.read())
        for base in _bases(content):
            if base.endswith(".py") and base not in self._programs:
                raise UserError(_NOT_OURS.format(base=base))
        return content

    def dump_to_fileobj(self, obj: Any, file: Any, **options: Any) -> None:
        raise NotImplementedError("configurations are written by dump_config")

    dump_to_str = dump_to_fileobj


class _OnceLoader(yaml.SafeLoader):
    """YAML whose mappings name a key once: which of two values counts nobody could tell."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        _require_once([key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
        return node


def _require_once(keys: Sequence[Any]) -> None:
    twice = next((key for index, key in enumerate(keys) if key in keys[:index]), None)
    if twice is not None:
        raise ValueError(f"'{twice}' is there twice")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _require_once([key for key, _ in pairs])
    return dict(pairs)


def _parse_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_OnceLoader)


def _parse_json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_once)


_PARSERS: dict[str, Callable[[str], Any]] = {
    ".yaml": _parse_yaml,
    ".yml": _parse_yaml,
    ".json": _parse_json,
}
_NOT_OURS = (
    "a YAML or JSON configuration is data, but its _base_ '{base}' is a program: build on a file of shared_configs/, "
    "or write a .py file, which --config runs"
)
_PLACEHOLDER = re.compile(r"\{\{\s*file\w+\s*\}\}|\{\{['\"]?\s*\$\w+\s*:")
_BASE_VALUE = re.compile(r"\{\{\s*_base_\.[\w.]+\s*\}\}")


@contextmanager
def _data_stay_data(programs: Collection[str]) -> Iterator[None]:
    """Within this block mmengine runs nothing for YAML and JSON, at any place of a chain of `_base_`."""
    ours = {suffix[1:]: _DataReader(parse, programs) for suffix, parse in _PARSERS.items()}
    before = {kind: file_handlers[kind] for kind in ours}
    file_handlers.update(ours)
    try:
        yield
    finally:
        file_handlers.update(before)


def _own_programs(path: Path, above: tuple[Path, ...] = ()) -> set[str]:
    """The Python files on which a chain of YAML and JSON files builds, as it names them: all of them the suite's own.

    Raises:
        UserError: there is another one, or a placeholder.
    """
    _require_file(path)
    text = path.read_text(encoding="utf-8")
    if _PLACEHOLDER.search(text):
        raise UserError(f"configuration '{path}': placeholders ({{{{ … }}}}) are for .py files alone")
    programs = set()
    for base in _bases(_PARSERS[path.suffix](_BASE_VALUE.sub('"value"', text))):
        place = (path.parent / base).resolve()
        if place in above:
            raise UserError(f"configuration '{path}': its _base_ '{base}' builds on this file itself")
        if place.suffix in _PARSERS:
            programs |= _own_programs(place, (*above, path.resolve()))
        elif place.suffix == ".py" and "::" not in base and place.is_relative_to(_OWN_CONFIGS):
            programs.add(base)
        else:
            raise UserError(f"configuration '{path}': {_NOT_OURS.format(base=base)}")
    return programs


def _bases(content: Any) -> list[str]:
    if not isinstance(content, Mapping):
        raise UserError(f"a configuration holds keys and their values, not a {type(content).__name__}")
    named = content.get("_base_", [])
    return [str(base) for base in (named if isinstance(named, list) else [named])]


def _read_dumped(path: Path) -> dict[str, Any]:
    """The values of a file of `name = literal` lines; anything else in it is refused, and nothing is run."""
    _require_file(path)
    wrong = "it is read as data, as it was written, and never run: restore that line"
    try:
        statements = ast.parse(path.read_text(encoding="utf-8")).body
    except (ValueError, SyntaxError, MemoryError, RecursionError, OSError) as error:
        line = getattr(error, "lineno", None)
        raise UserError(
            f"'{path}'{f', line {line}' if line else ''} is damaged: {_one_line(error)}; {wrong}"
        ) from error
    if not statements:
        raise UserError(
            f"'{path}' is empty, and with it all that the run was made with is lost: restore it from a copy"
        )
    values: dict[str, Any] = {}
    for statement in statements:
        if not (
            isinstance(statement, ast.Assign)
            and len(statement.targets) == 1
            and isinstance(target := statement.targets[0], ast.Name)
        ):
            raise UserError(f"'{path}', line {statement.lineno}, is not 'name = value': {wrong}")
        if target.id in values:
            raise UserError(f"'{path}', line {statement.lineno}: '{target.id}' is there twice: {wrong}")
        value = _WordsForFloats().visit(statement.value)
        strange = [
            node.lineno
            for node in ast.walk(value)
            if isinstance(node, ast.expr) and not isinstance(node, _LITERAL)
        ]
        try:
            if not strange:
                values[target.id] = ast.literal_eval(value)
        except (ValueError, TypeError, MemoryError, RecursionError):
            strange = [statement.lineno]
        if strange:
            raise UserError(
                f"'{path}', line {min(strange)}: the value of '{target.id}' is no literal: {wrong}"
            )
    return values


_LITERAL = (ast.Constant, ast.Tuple, ast.List, ast.Dict, ast.Set, ast.UnaryOp)


class _WordsForFloats(ast.NodeTransformer):
    """`float("inf")`, `float("-inf")` and `float("nan")`, which `dump_config` writes, as the numbers themselves."""

    def visit_Call(self, node: ast.Call) -> ast.expr:
        match node:
            case ast.Call(ast.Name("float"), [ast.Constant("inf" | "-inf" | "nan" as word)], []):
                return ast.copy_location(ast.Constant(float(str(word))), node)
        return node


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise MissingData(f"configuration '{path}' not found; check the path")


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


def _require_literal(value: Any, where: str) -> None:
    """Refuse what `_render` could only write as text that nothing reads back."""
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
    if isinstance(value, float):  # numpy's too, whose own text is no literal
        return repr(float(value)) if math.isfinite(value) else f'float("{float(value)}")'
    # mmengine substitutes {{ name }} in the text of a file before it reads it, even within strings.
    return repr(value).replace("{{", r"{\x7b")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
