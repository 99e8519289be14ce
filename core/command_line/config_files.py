"""Configuration files read as nested plain values: which are code, and which are data.

A `.py` file that the user names is run. YAML and JSON files are data, whoever names them, and so are the files of
`core.command_line.config.dump_config`: nothing in them is ever run.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config
from mmengine.fileio.handlers import file_handlers

from core.errors import MissingData, UserError, one_line

# Python files that a YAML or JSON file may build on: only the suite's own.
_OWN_CONFIGS = Path(__file__).resolve().parents[2] / "shared_configs"
# A configuration file is Python that mmengine runs, or YAML or JSON; mistakes in it raise these.
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


def read_config(path: Path) -> dict[str, Any]:
    """The values of a file and of the files that it builds on.

    Raises:
        MissingData: there is no such file.
        UserError: the file has errors, or it is data and builds on a program that is not the suite's own.
    """
    _require_file(path)
    is_data = path.suffix in _PARSERS
    if "read_base" in program_names(path).used:
        raise UserError(
            f"configuration '{path}' uses read_base(), which is not supported: write _base_ = 'file.py'"
        )
    try:
        with _data_stay_data(_own_programs(path) if is_data else ()):
            # Placeholders are filled in before a file is parsed: in data they could become anything, even `_base_`.
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
            f"configuration '{path}' cannot be read: {type(error).__name__}: {one_line(error)}"
        ) from error


def read_values(path: Path, what: str) -> Any:
    """The content of a YAML file that is only data: plain values, each key once, and not too many.

    Args:
        path: the file.
        what: what the file is, for messages.

    Raises:
        MissingData: there is no such file.
        UserError: it holds something else.
    """
    if not path.is_file():
        raise MissingData(f"{what} '{path}' not found; check the path")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_OnceLoader)
        _require_bounded(content)
    except _FILE_ERRORS as error:
        raise UserError(f"{what} '{path}' is no YAML of plain values: {one_line(error)}") from error
    return content


class _DataReader:
    """Reads JSON, and YAML of plain values; mmengine's own reader makes whatever Python object a YAML tag asks for.

    Args:
        parse: text -> values.
        programs: Python files that `_base_` may name.
    """

    str_like = True  # mmengine asks its readers for this

    def __init__(self, parse: Callable[[str], Any], programs: Collection[str]) -> None:
        self._parse, self._programs = parse, programs

    def load_from_fileobj(self, file: Any, **options: Any) -> Any:
        content = self._parse(file.read())
        _require_bounded(content)
        for base in _bases(content):
            if base.endswith(".py") and base not in self._programs:
                raise ValueError(_NOT_OURS.format(base=base))
        return content


class _OnceLoader(yaml.SafeLoader):
    """YAML whose mappings name each key once: nobody could tell which of two values counts."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        _require_once([key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
        return node

    def flatten_mapping(self, node: Any) -> None:
        """Carry out `<<`; a few lines that merge each other would name billions of keys."""
        super().flatten_mapping(node)
        if len(node.value) > _MOST_VALUES:
            raise ValueError(f"a mapping has more than {_MOST_VALUES:,} keys")


# 1e-4 is a number to those who write it; to YAML 1.1, which PyYAML reads, it is a word.
_OnceLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+\.?\d*[eE][-+]?\d+$"), list("-+0123456789")
)


def _require_bounded(content: Any) -> None:
    """Refuse content that references (`*name`) make huge or endless: later steps would write out each reference."""
    left, waiting = _MOST_VALUES, [content]
    while waiting:
        value = waiting.pop()
        inner = (
            list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, list) else []
        )
        left -= 1 + len(inner)
        if left < 0:
            raise ValueError(f"it has more than {_MOST_VALUES:,} values")
        waiting += inner


def _require_once(keys: Sequence[Any]) -> None:
    twice = next((key for index, key in enumerate(keys) if key in keys[:index]), None)
    if twice is not None:
        raise ValueError(f"'{twice}' is there twice")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _require_once([key for key, _ in pairs])
    return dict(pairs)


_MOST_VALUES = 100_000  # in a configuration that is data
_PARSERS: dict[str, Callable[[str], Any]] = {
    ".yaml": partial(yaml.load, Loader=_OnceLoader),
    ".yml": partial(yaml.load, Loader=_OnceLoader),
    ".json": partial(json.loads, object_pairs_hook=_once),
}
_NOT_OURS = (
    "a YAML or JSON configuration is data, but its _base_ '{base}' is a program: build on a file of shared_configs/, "
    "or write a .py file, which --config runs"
)
_PLACEHOLDER = re.compile(r"\{\{\s*file\w+\s*\}\}|\{\{['\"]?\s*\$\w+\s*:")
_BASE_NAME = re.compile(r"\{\{\s*_base_\.(\w+)[\w.]*\s*\}\}")
_BASE_VALUE = re.compile(r"\{\{\s*_base_\.[\w.]+\s*\}\}")


@contextmanager
def _data_stay_data(programs: Collection[str]) -> Iterator[None]:
    """Within this block mmengine runs nothing for YAML and JSON files, anywhere in a chain of `_base_`."""
    ours = {suffix[1:]: _DataReader(parse, programs) for suffix, parse in _PARSERS.items()}
    before = {kind: file_handlers[kind] for kind in ours}
    file_handlers.update(ours)
    try:
        yield
    finally:
        file_handlers.update(before)


def _own_programs(path: Path, above: tuple[Path, ...] = ()) -> set[str]:
    """The Python files on which a chain of YAML and JSON files builds, as it names them; all are the suite's own.

    Raises:
        UserError: one is not the suite's own, or there is a placeholder.
    """
    _require_file(path)
    text = path.read_text(encoding="utf-8")
    if _PLACEHOLDER.search(text):
        raise UserError(f"configuration '{path}': placeholders ({{{{ … }}}}) work only in .py files")
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


@dataclass(frozen=True)
class ProgramNames:
    """Names in the Python files of a chain of `_base_`.

    Attributes:
        bound: given a value at the top of a file.
        used: read anywhere, or imported, so that their value goes elsewhere.
    """

    bound: frozenset[str] = frozenset()
    used: frozenset[str] = frozenset()

    def __or__(self, other: ProgramNames) -> ProgramNames:
        return ProgramNames(self.bound | other.bound, self.used | other.used)


def program_names(path: Path, above: tuple[Path, ...] = ()) -> ProgramNames:
    """The names in a configuration's own Python files and in those that they build on; none for data.

    Files that only mmengine understands (placeholders outside of strings) and files of other packages (`mmdet::...`)
    have none either.
    """
    if not path.is_file() or path.resolve() in above:
        return ProgramNames()
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix in _PARSERS:
            bases, found = _bases(_PARSERS[path.suffix](_BASE_VALUE.sub('"value"', text))), ProgramNames()
        else:
            tree = ast.parse(text)
            bases, found = _program_bases(tree), _names_in(tree, text)
    except (*_FILE_ERRORS, MemoryError):  # running the file will say what is wrong with it
        return ProgramNames()
    for base in bases:
        found |= program_names(path.parent / base, (*above, path.resolve()))
    return found


def _names_in(tree: ast.Module, text: str) -> ProgramNames:
    used = {
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            used |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif (
            isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "_base_"
        ):
            used.add(node.attr)
    used |= {match[1] for match in _BASE_NAME.finditer(text)}
    bound = {
        node.id
        for statement in tree.body
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    bound |= {statement.name for statement in tree.body if isinstance(statement, ast.ClassDef)}
    return ProgramNames(frozenset(bound), frozenset(used))


def _program_bases(tree: ast.Module) -> list[str]:
    for statement in tree.body:
        match statement:
            case ast.Assign([ast.Name("_base_")], value):
                return _bases({"_base_": ast.literal_eval(value)})
    return []


def _bases(content: Any) -> list[str]:
    if not isinstance(content, Mapping):
        raise ValueError(f"a configuration holds keys and their values, not a {type(content).__name__}")
    named = content.get("_base_", [])
    return [str(base) for base in (named if isinstance(named, list) else [named])]


def read_dumped(path: Path) -> dict[str, Any]:
    """The values of a file of `name = literal` lines; anything else in it is refused, and nothing is run."""
    _require_file(path)
    wrong = "it is read as data, as it was written, and never run: restore that line"
    try:
        statements = ast.parse(path.read_text(encoding="utf-8")).body
    except (ValueError, SyntaxError, MemoryError, RecursionError, OSError) as error:
        line = getattr(error, "lineno", None)
        raise UserError(
            f"'{path}'{f', line {line}' if line else ''} is damaged: {one_line(error)}; {wrong}"
        ) from error
    if not statements:
        raise UserError(f"'{path}' is empty, and so the settings of the run are lost: restore it from a copy")
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
