"""Damage to files: by bytes to any of them, and to what a file means by its form.

Everything is drawn by hypothesis, so that a seed repeats it. What is hostile in a value (numbers beyond every type,
texts that no encoding has, code) is the same for all forms.
"""

from __future__ import annotations

import functools
import io
import json
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import safetensors.torch
import scipy.io
import torch
from hypothesis import strategies as st
from PIL import Image

from core.storage.checkpoint import CHECKSUM, _checksum, _header_text
from tests.readers import Form

Draw = Callable[[st.SearchStrategy[Any]], Any]

# As they stand in JSON. {marker} is a file that only code would make.
VALUES = (
    "null", "true", "0", "-1", "1", "2", "3.5", "16777217", "1000000000", "9223372036854775808", "1e400", "-1e400",
    "1e308",
    "1e-400", "NaN", "Infinity", "1" + "0" * 400, "1" + "0" * 5000, '""', '"x"', '"0"', '"nan"', '"inf"', '"-inf"',
    '"\\ud800"', '"\\u0000"', '"a\\nb"', '"../../../x"', '"{marker}.py:make"', '"größe"', "[]", "{}", "[[]]", "[null]",
    '{"a": null}', '{"": {}}', '{"shape": [1], "dtype": "load"}', '{"tuple": {"__class__": {"value": 1}}}',
    '"__import__(\'os\').system(\'touch {marker}\')"', '"' + "x" * 100_000 + '"', "[" + "0," * 10_000 + "0]",
    "[" * 500 + "]" * 500, "[" * 100_000 + "]" * 100_000, '{"a":' * 2_000 + "0" + "}" * 2_000,
)  # fmt: skip
WORDS = (
    "nan", "inf", "-inf", "1e400", "1e-400", "-1", "0", "1", "1.5", "x", "", "1_000", "٣", "0x10", "--1", "1,2",
    "1;2", "1 2",
    "\t", "\x00", "\ufeff", "\u2028", "\x1c", "é", "9" * 400, "9" * 5_000, "1" + "," * 200, "x" * 20_000, "../../x",
    "/etc/x",
    "None", "True", "[1]", "1j",
)  # fmt: skip
LITERALS = (
    "None", "True", "-1", "0", "1.5", "10**9", "1e400", "-1e400", "float('nan')", "float('inf')", "float('x')", "'x'",
    "b'x'",
    "''", "f'{1}'", "[]", "()", "{}", "{1: 2, 1: 3}", "{[]: 1}", "{1, 2}", "...", "1_0", "0777", "1j", "-'x'",
    "not 1", "lambda: 0",
    "__import__('os').system('touch {marker}')", "open('{marker}', 'w')", "[0] * 10**9", "9" * 5_000, "9" * 400,
    "'\\ud800'",
    "'\\0'", "(" * 300 + ")" * 300, "[" * 100 + "]" * 100, "-" * 5_000 + "1", "'{marker}.py:make'", "[x for x in ()]",
    "dict(a=1)", "'a' 'b'", "1 if 1 else 2", "16777217", "1000000000",
)  # fmt: skip
NUMBERS = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)


def damaged(draw: Draw, form: Form, content: bytes, marker: str) -> tuple[str, bytes]:
    """One kind of damage to a valid file.

    Args:
        draw: of hypothesis.
        form: of the file.
        content: its bytes.
        marker: a path that only code in the file would write.

    Returns:
        What was done, and the file's new bytes.
    """
    of_form = [(name, change) for name, (often, change) in _OF_FORM[form].items() for _ in range(often)]
    name, change = _one_of(draw, [*OF_BYTES.items(), *of_form])
    return name, change(draw, content, marker)


def _whole(draw: Draw, high: int) -> int:
    return draw(st.integers(0, max(high, 0)))


def _one_of(draw: Draw, values: Sequence[Any]) -> Any:
    return values[_whole(draw, len(values) - 1)]


def _place(draw: Draw, content: bytes) -> int:
    return _whole(draw, len(content) - 1)


# Bytes


def _flipped(draw: Draw, content: bytes, marker: str) -> bytes:
    changed = bytearray(content)
    for _ in range(1 + _whole(draw, 7)):
        changed[_place(draw, content)] ^= 1 << _whole(draw, 7)
    return bytes(changed)


def _flipped_early(draw: Draw, content: bytes, marker: str) -> bytes:
    return _flipped(draw, content[:64], marker) + content[64:]


def _cut(draw: Draw, content: bytes, marker: str) -> bytes:
    return content[: _place(draw, content)]


def _holed(draw: Draw, content: bytes, marker: str) -> bytes:
    start, end = sorted((_place(draw, content), _place(draw, content)))
    return content[:start] + content[end:]


def _zeroed(draw: Draw, content: bytes, marker: str) -> bytes:
    start, end = sorted((_place(draw, content), _place(draw, content)))
    return content[:start] + bytes(end - start) + content[end:]


def _repeated(draw: Draw, content: bytes, marker: str) -> bytes:
    start, end = sorted((_place(draw, content), _place(draw, content)))
    return content[:end] + content[start:end] + content[end:]


def _inserted(draw: Draw, content: bytes, marker: str) -> bytes:
    place = _place(draw, content)
    return content[:place] + draw(st.binary(min_size=1, max_size=16)) + content[place:]


def _followed(draw: Draw, content: bytes, marker: str) -> bytes:
    return content + _one_of(draw, [b"\0", b"\n", b"x" * 5_000, content])


def _numbered(draw: Draw, content: bytes, marker: str) -> bytes:
    """Another number where a size or an offset may stand."""
    number, kind = _one_of(draw, NUMBERS), _one_of(draw, ["<H", ">H", "<I", ">I", "<Q", ">Q"])
    size = struct.calcsize(kind)
    place = min(_place(draw, content), max(len(content) - size, 0))
    packed = struct.pack(kind, number & (256**size - 1))
    return content[:place] + packed + content[place + size :]


def _of_another_kind(draw: Draw, content: bytes, marker: str) -> bytes:
    return _one_of(draw, _OTHERS)


def _encoded(draw: Draw, content: bytes, marker: str) -> bytes:
    text = content.decode("utf-8", "replace")
    how = _one_of(draw, ["utf-16", "utf-32", "utf-8-sig", "latin-1", "cp1252", "utf-7"])
    added = _one_of(draw, ["", "é", "größe", "\ufeff"])
    return (added + text).encode(how, "replace")


_OTHERS = (
    b"", b"\0" * 1_000, b"\n", b" ", b"null", b"[]", b"{}", b"0", b'"x"', b"\xff\xfe\xfd", b"<html>not found</html>",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", b"%PDF-1.4", b"PK\x05\x06" + bytes(18),
    b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(20), b"\x93NUMPY\x01\x00", b"\x80\x04.", b"[" * 200_000,
    b"- " * 20_000, b"(" * 5_000, b"P6 99999 99999 255\n", b"BM" + b"\xff" * 60, b"\x1f\x8b\x08" + bytes(30),
)  # fmt: skip
OF_BYTES = {
    "bits": _flipped, "bits at the start": _flipped_early, "cut": _cut, "hole": _holed, "zeros": _zeroed,
    "repeated": _repeated, "inserted": _inserted, "followed": _followed, "a number": _numbered,
    "another kind": _of_another_kind,
}  # fmt: skip


# JSON

_TOKEN = "\ue000here\ue000"


def _places(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value within, its own first."""
    found = [above]
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        found += _places(item, (*above, key))
    return found


def _json(draw: Draw, text: str, marker: str) -> str:
    """A JSON text with something else at one place."""
    tree = json.loads(text)
    *above, last = _one_of(draw, [place for place in _places([tree]) if place])
    box: Any = [tree]
    for key in above:
        box = box[key]
    how = _one_of(
        draw, ["value", "value", "value", "value", "gone", "added", "twice", "wrapped", "elsewhere"]
    )
    raw = _one_of(draw, VALUES).replace("{marker}", marker)
    whole = box is not None and above == [] and isinstance(last, int)
    if how == "gone" and not whole:
        del box[last]
        return json.dumps([tree])[1:-1]
    if how == "added":
        inner = box[last]
        if isinstance(inner, dict):
            inner[_one_of(draw, ["x", "", "__class__", "epochs", "_base_", "0"])] = _TOKEN
        elif isinstance(inner, list):
            inner.append(_TOKEN)
        else:
            box[last] = {"x": _TOKEN}
    elif how == "twice" and isinstance(box, dict):
        text = json.dumps(tree)
        key = json.dumps(last)
        return text.replace(f"{key}: ", f"{key}: {raw}, {key}: ", 1)
    elif how == "wrapped":
        raw = f"[{json.dumps(box[last])}]"
        box[last] = _TOKEN
    elif how == "elsewhere":
        *there, key = _one_of(draw, [place for place in _places([tree]) if place])
        other: Any = [tree]
        for step in (*there, key):
            other = other[step]
        raw = json.dumps(other)
        box[last] = _TOKEN
    else:
        box[last] = _TOKEN
    root = box[last] if whole else tree
    return json.dumps(root).replace(json.dumps(_TOKEN), raw)


def _json_bytes(draw: Draw, content: bytes, marker: str) -> bytes:
    return _json(draw, content.decode(), marker).encode("utf-8", "surrogatepass")


def _json_line(draw: Draw, content: bytes, marker: str) -> bytes:
    lines = content.decode().splitlines()
    number = _whole(draw, len(lines) - 1)
    how = _one_of(draw, ["value", "value", "value", "gone", "twice", "empty", "moved", "joined"])
    if how == "value":
        lines[number] = _json(draw, lines[number], marker)
    elif how == "gone":
        del lines[number]
    elif how == "twice":
        lines.insert(number, lines[number])
    elif how == "empty":
        lines.insert(number, "")
    elif how == "moved":
        lines = lines[::-1]
    end = "" if how == "joined" else "\n"
    return "".join(line + end for line in lines).encode("utf-8", "surrogatepass")


# Texts


def _word(draw: Draw, content: bytes, marker: str) -> bytes:
    parts = re.split(r"([,;\s]+)", content.decode())
    parts[2 * _whole(draw, (len(parts) - 1) // 2)] = _one_of(draw, WORDS)
    return "".join(parts).encode()


def _line(draw: Draw, content: bytes, marker: str) -> bytes:
    lines = content.decode().splitlines()
    number = _whole(draw, len(lines) - 1)
    how = _one_of(draw, ["gone", "twice", "empty", "heading", "longer", "shorter", "endings", "separators"])
    if how == "gone":
        del lines[number]
    elif how == "twice":
        lines.insert(number, lines[number])
    elif how == "empty":
        lines.insert(number, "  ")
    elif how == "heading":
        lines.insert(number, "x,y,width,height")
    elif how == "longer":
        lines[number] += _one_of(draw, [",", ",1", " 1", ";", "\t", "," * 20_000, "1" * 3_000_000])
    elif how == "shorter":
        lines[number] = lines[number][: _whole(draw, len(lines[number]))]
    elif how == "separators":
        lines[number] = lines[number].replace(",", _one_of(draw, ["\t", ";", "  ", ", ", ",,"]))
    return "".join(line + ("\r\n" if how == "endings" else "\n") for line in lines).encode()


def _literal(draw: Draw, content: bytes, marker: str) -> bytes:
    """Of a file of `name = literal` lines: another value, at the top or within."""
    text = content.decode()
    value = _one_of(draw, LITERALS).replace("{marker}", marker)
    how = _one_of(draw, ["line", "within", "within", "within", "twice", "statement", "gone"])
    if how == "line":
        return (text + f"extra = {value}\n").encode("utf-8", "surrogatepass")
    if how == "statement":
        said = [
            "import os",
            "del name",
            "name: int = 1",
            "name, x = 1, 2",
            "name += 1",
            "\tname = 1",
            "while True: pass",
        ]
        return (text + _one_of(draw, said) + "\n").encode()
    spots = list(re.finditer(r"(?<=[=:\[(] )[\w.'-]+|(?<=[=(\[])[\w.'-]+", text)) or [re.match("", text)]
    spot = _one_of(draw, spots)
    if how == "twice":
        start = text.rfind("\n", 0, spot.start()) + 1
        return (text + text[start : text.find("\n", start) + 1]).encode()
    if how == "gone":
        value = ""
    return (text[: spot.start()] + value + text[spot.end() :]).encode("utf-8", "surrogatepass")


_YAML_ENDS = (
    "{key}: !!python/object/apply:os.system ['touch {marker}']\n",
    "{key}: !!python/name:os.system\n",
    "{key}: &a [*a]\n",
    "a0: &a0 [x, x, x, x, x, x, x, x]\na1: &a1 [*a0, *a0, *a0, *a0, *a0, *a0, *a0]\na2: &a2 [*a1, *a1, *a1, *a1, *a1]\n"
    "a3: &a3 [*a2, *a2, *a2, *a2, *a2]\na4: &a4 [*a3, *a3, *a3, *a3, *a3]\na5: &a5 [*a4, *a4, *a4, *a4, *a4, *a4]\n",
    "<<: {{x: 1}}\n",
    "{key}: 2020-13-45\n",
    "{key}: 2020-01-01\n",
    "{key}: 0o777777777777777777777777777\n",
    "{key}: 1:60:60\n",
    "{key}: !!binary x\n",
    "{key}: !!set {{a, b}}\n",
    "? [a, b]\n: 1\n",
    "? {{a: 1}}\n: 1\n",
    "---\nb: 1\n",
    "...\n\tx\n",
    "%YAML 9.9\n",
    "{key}: *nobody\n",
    "{key}: '{{{{ _base_.x }}}}'\n",
    "_base_: {marker}.py\n",
    "_base_: nowhere.yaml\n",
    "_base_: [1, null]\n",
    "_delete_: true\n",
    "1: 2\n",
    "null: 2\n",
    "{key}: .nan\n",
    "{key}: .inf\n",
    "{key}: |\n  " + "x" * 10_000 + "\n",
)


def _yaml(draw: Draw, content: bytes, marker: str) -> bytes:
    """YAML's own: tags, references, merges, dates."""
    end = _one_of(draw, _YAML_ENDS).format(
        key=_one_of(draw, ["x", "name", "model", "data", "train"]), marker=marker
    )
    return content + end.encode()


def _yaml_value(draw: Draw, content: bytes, marker: str) -> bytes:
    """Another value at one place; JSON is YAML."""
    import yaml

    return _json_bytes(draw, json.dumps(yaml.safe_load(content)).encode(), marker)


# Tensors


def _entries(content: bytes) -> tuple[str, bytes]:
    size = int.from_bytes(content[:8], "little")
    return content[8 : 8 + size].decode(), content[8 + size :]


def _table(draw: Draw, content: bytes, marker: str) -> bytes:
    """The table of tensors: shapes, types, offsets."""
    text, tensors = _entries(content)
    header = _json(draw, text, marker).encode("utf-8", "surrogatepass")
    length = len(header) if _whole(draw, 5) else _one_of(draw, NUMBERS)
    return length.to_bytes(8, "little") + header + tensors


def _sealed(tensors: dict[str, torch.Tensor], header: dict[str, str]) -> bytes:
    """A file with a checksum that fits: damage by somebody, not by something."""
    header = {key: value for key, value in header.items() if key != CHECKSUM}
    text = header.get("skeleton", "") if "skeleton" in header else _header_text(header)
    return safetensors.torch.save(tensors, {**header, CHECKSUM: str(_checksum(text, tensors))})


def _open(content: bytes) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    return safetensors.torch.load(content), json.loads(_entries(content)[0]).get("__metadata__", {})


def _said(draw: Draw, content: bytes, marker: str) -> bytes:
    """What the file says of itself: its description, its skeleton."""
    tensors, header = _open(content)
    speaking = [key for key, value in header.items() if value[:1] in "{["] or list(header)
    key = _one_of(draw, sorted(speaking)) if _whole(draw, 5) else _one_of(draw, sorted(header))
    value = header[key]
    if value[:1] in ("{", "["):
        value = _json(draw, value, marker)
    else:
        value = _one_of(draw, WORDS)
    encodable = value.encode("utf-8", "replace").decode()
    return _sealed(tensors, header | {key: encodable})


def _architecture(draw: Draw, content: bytes, marker: str) -> bytes:
    """One level deeper: texts and numbers in the middle of a description."""
    tensors, header = _open(content)
    for key, value in header.items():
        if value[:1] == "{" and key not in ("skeleton", "origin"):
            tree = json.loads(value)
            inner = sorted(name for name, item in tree.items() if isinstance(item, dict | list))
            if inner:
                name = _one_of(draw, inner)
                tree[name] = _TOKEN
                part = _json(draw, json.dumps(json.loads(value)[name]), marker)
                header[key] = (
                    json.dumps(tree).replace(json.dumps(_TOKEN), part).encode("utf-8", "replace").decode()
                )
    return _sealed(tensors, header)


def _another(draw: Draw, tensor: torch.Tensor) -> Any:
    """What may stand in the place of a tensor."""
    kinds: list[Callable[[], Any]] = [
        tensor.double,
        tensor.half,
        lambda: tensor.to(torch.int64),
        lambda: tensor.to(torch.complex64),
        lambda: torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor - 1,
        tensor.flatten,
        lambda: tensor[None],
        lambda: torch.empty(0),
        lambda: torch.tensor(1.0),
        lambda: torch.cat([tensor.reshape(-1), tensor.reshape(-1)]),
        tensor.bool,
        lambda: tensor.to(torch.float8_e5m2) if tensor.is_floating_point() else tensor.to(torch.uint8),
    ]
    return _one_of(draw, kinds)()


def _tensors(draw: Draw, content: bytes, marker: str) -> bytes:
    """Other tensors than the file should have."""
    tensors, header = _open(content)
    name = _one_of(draw, sorted(tensors))
    how = _one_of(draw, ["other", "other", "gone", "renamed", "added", "none", "unsealed"])
    if how == "other":
        tensors[name] = _another(draw, tensors[name]).contiguous()
    elif how == "gone":
        del tensors[name]
    elif how == "renamed":
        tensors[_one_of(draw, ["x", "", name.upper(), f"module.{name}", name + "."])] = tensors.pop(name)
    elif how == "added":
        tensors["x"] = torch.ones(3)
    elif how == "none":
        tensors = {}
    if how == "unsealed":
        return safetensors.torch.save(
            tensors, {key: value for key, value in header.items() if key != CHECKSUM}
        )
    return _sealed(tensors, header)


def _walk(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [above] if above else []
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(inner):
        found += _walk(item, (*above, key))
    return found


def _content(draw: Draw, content: bytes, marker: str) -> bytes:
    """A torch checkpoint with something else at one place of it."""
    tree = torch.load(io.BytesIO(content), weights_only=False)
    *above, last = _one_of(draw, _walk(tree))
    box = functools.reduce(lambda inner, key: inner[key], above, tree)
    value = box[last]
    itself: dict[str, Any] = {"state_dict": {}}
    itself["state_dict"] = itself
    deep: Any = {"weight": torch.ones(1)}
    for _ in range(200):
        deep = {"state_dict": deep}
    kinds: list[Callable[[], Any]] = [
        lambda: None, lambda: 1, lambda: "x", lambda: [], lambda: {}, lambda: [torch.ones(2)], lambda: float("nan"),
        lambda: b"x",
        lambda: itself, lambda: deep, lambda: {1: torch.ones(2)}, lambda: {None: torch.ones(2)}, lambda: {(1, 2): 3},
        lambda: torch.ones(1).expand(2**28), lambda: torch.ones(3).to_sparse(), lambda: torch.empty(3, device="meta"),
        lambda: torch.nn.Parameter(torch.ones(2)), lambda: torch.ones(2, dtype=torch.complex64), lambda: True,
        lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), lambda: {"weight": torch.ones(1)},
        lambda: {"a": torch.ones(1), "b": {"a": torch.ones(1)}}, lambda: torch.Size([1, 2]), lambda: torch.float32,
        lambda: _another(draw, value) if isinstance(value, torch.Tensor) else value,
        lambda: _another(draw, value) if isinstance(value, torch.Tensor) else value,
    ]  # fmt: skip
    how = _one_of(draw, ["value", "value", "value", "gone", "renamed", "whole", "wrapped"])
    if how == "gone":
        del box[last]
    elif how == "renamed" and isinstance(box, dict):
        box[_one_of(draw, ["x", "", 0, None, f"module.{last}", ("a",)])] = box.pop(last)
    elif how == "whole":
        tree = _one_of(draw, kinds)()
    elif how == "wrapped":
        tree = {_one_of(draw, ["state_dict", "model", "x", "ema", "params", "net"]): tree, "also": [tree]}
    else:
        box[last] = _one_of(draw, kinds)()
    stream = io.BytesIO()
    torch.save(tree, stream, _use_new_zipfile_serialization=bool(_whole(draw, 3)))
    return stream.getvalue()


class _Code:
    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({self.marker!r}, 'w').close()",)


def _code(draw: Draw, content: bytes, marker: str) -> bytes:
    bomb, stream = {"weight": torch.ones(1), "x": _Code(marker)}, io.BytesIO()
    how = _one_of(draw, ["zip", "legacy", "pickle"])
    if how == "pickle":
        return pickle.dumps(bomb, _whole(draw, 4))
    torch.save(bomb, stream, _use_new_zipfile_serialization=how == "zip")
    return stream.getvalue()


def _pickled(draw: Draw, content: bytes, marker: str) -> bytes:
    tree = pickle.loads(content)
    key = _one_of(draw, sorted(tree))
    others: list[Any] = [None, 1, "x", [], {}, [[1]], [1.5, "x"], [10**30, -1], np.ones(3), np.ones((2, 3072)), b"x",
    {1: 2},
                         np.zeros((2, 3072), np.int8), [True, False], np.zeros((0, 0), np.uint8)]  # fmt: skip
    if _whole(draw, 4):
        tree[key] = _one_of(draw, others)
    else:
        tree = _one_of(draw, [*others, _Code(marker)])
    return pickle.dumps(tree, _one_of(draw, [2, 4, 4, 4]))


def _matlab(draw: Draw, content: bytes, marker: str) -> bytes:
    others = [np.array(["x"]), np.array([1.5, np.nan]), np.array([1e300]), {"a": 1}, np.zeros((0, 0)), np.ones((3, 3)),
              np.array([[{"a": 1}]], object), np.array([1 + 2j]), np.array([2**63], np.uint64)]  # fmt: skip
    stream = io.BytesIO()
    scipy.io.savemat(stream, {_one_of(draw, ["labels", "labels", "other"]): _one_of(draw, others)},
                     do_compression=bool(_whole(draw, 1)))  # fmt: skip
    return stream.getvalue()


def _numpy(draw: Draw, content: bytes, marker: str) -> bytes:
    """An array's heading."""
    text = _one_of(draw, [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999,), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': [('readable', '?'), ('image', '|u1', (3, 8, 8))], 'fortran_order': False, 'shape': (-2,), }",
        "{'descr': [('readable', '?'), ('image', '|u1', (3, 8, 8))], 'fortran_order': False, 'shape': (2, 1), }",
        "{'descr': [('image', '|S9'), ('box', '<f4', (4,))], 'fortran_order': False, 'shape': (10**9,), }",
        "{'descr': [('image', '|S9999999999'), ('box', '<f4', (4,))], 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<U1', 'fortran_order': 3, 'shape': 1}", "{}", "[" * 300,
        f"__import__('os').system('touch {marker}')",
        "{'descr': 'V0', 'fortran_order': False, 'shape': (9223372036854775807,)}",
        "{'descr': [], 'fortran_order': True, 'shape': ()}",
    ])  # fmt: skip
    heading = text.encode() + b"\n"
    start = 10 + int.from_bytes(content[8:10], "little")
    return content[:8] + len(heading).to_bytes(2, "little") + heading + content[start:]


def _packed(draw: Draw, content: bytes, marker: str) -> bytes:
    """The table of contents behind packed arrays."""
    length = int.from_bytes(content[-16:-8], "little")
    table = _json(draw, content[-16 - length : -16].decode(), marker).encode("utf-8", "surrogatepass")
    return content[: -16 - length] + table + len(table).to_bytes(8, "little") + content[-8:]


# Archives


def _members(draw: Draw, content: bytes, marker: str) -> bytes:
    """An archive made anew with something wrong in it."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    name = _one_of(draw, sorted(members))
    how = _one_of(
        draw, ["slips", "twice", "bomb", "link", "folder", "packed", "many", "other", "nested", "text"]
    )
    stream = io.BytesIO()
    packing = _one_of(draw, [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    with zipfile.ZipFile(stream, "w", packing if how == "packed" else zipfile.ZIP_DEFLATED) as archive:
        for key, value in members.items():
            archive.writestr(key, value)
        if how == "slips":
            archive.writestr(
                _one_of(draw, ["../x", f"../../../../..{marker}", marker, "C:\\x", "a\\..\\x", "//x"]),
                "slipped",
            )
        elif how == "twice":
            archive.writestr(name, b"twice")
        elif how == "bomb":
            archive.writestr("bomb.txt", bytes(300 * 2**20), compresslevel=1)
        elif how == "link":
            link = zipfile.ZipInfo("link")
            link.create_system, link.external_attr = 3, 0o120777 << 16
            archive.writestr(link, "/etc/passwd")
        elif how == "folder":
            archive.writestr("folder/", "")
        elif how == "many":
            for number in range(3_000):
                archive.writestr(f"{number}", b"")
        elif how == "nested":
            archive.writestr("inner.zip", content)
        elif how == "text":
            archive.writestr(name + "x", _one_of(draw, WORDS).encode())
    return stream.getvalue()


def _flagged(draw: Draw, content: bytes, marker: str) -> bytes:
    """An archive whose lists of members lie."""
    place = content.find(_one_of(draw, [b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"]))
    offset = place + 4 + _whole(draw, 40)
    return content[:offset] + bytes([_one_of(draw, [0, 1, 8, 99, 255])]) + content[offset + 1 :]


# Pictures


def _size(draw: Draw, content: bytes, marker: str) -> bytes:
    """Another size in the heading, with a checksum that fits where the format has one."""
    width, height = _one_of(draw, NUMBERS[:10]), _one_of(draw, NUMBERS[:10])
    if content[:4] == b"\x89PNG":
        head = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
        return content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:]
    place = content.find(b"\xff\xc0")
    if content[:2] == b"\xff\xd8" and place > 0:
        return (
            content[: place + 5] + struct.pack(">HH", height & 0xFFFF, width & 0xFFFF) + content[place + 9 :]
        )
    return _numbered(draw, content[:64], marker) + content[64:]


def _converted(draw: Draw, content: bytes, marker: str) -> bytes:
    """The same picture in another format than its name says, or with other colours."""
    with Image.open(io.BytesIO(content)) as file:
        picture = file.convert("RGB")
    mode = _one_of(
        draw, ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr", "I", "I;16", "F", "LAB", "HSV"]
    )
    stream = io.BytesIO()
    for kind in (
        _one_of(draw, ["PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP", "PPM", "ICO", "TGA", "JPEG2000"]),
        "TIFF",
    ):
        try:
            (
                picture.convert("L").convert(mode) if mode in ("I;16", "F", "I") else picture.convert(mode)
            ).save(stream, kind)
            break
        except (OSError, ValueError, KeyError):  # a format that has no such colours
            stream = io.BytesIO()
            mode = "RGB" if mode == "LAB" else mode
    return stream.getvalue() or content


# What else can happen to a file of a form, and how often it is drawn beside the damages to bytes.
_OF_FORM: dict[Form, dict[str, tuple[int, Callable[[Draw, bytes, str], bytes]]]] = {
    "json": {"JSON": (12, _json_bytes), "encoding": (1, _encoded)},
    "lines of json": {"line": (10, _json_line), "encoding": (1, _encoded)},
    "yaml": {"YAML": (8, _yaml), "value": (8, _yaml_value), "encoding": (1, _encoded)},
    "literals": {"literal": (12, _literal), "encoding": (1, _encoded)},
    "text": {"word": (6, _word), "line": (6, _line), "encoding": (1, _encoded)},
    "safetensors": {"table": (4, _table), "said": (8, _said), "within": (6, _architecture), "tensors": (4, _tensors)},
    "torch": {"content": (10, _content), "code": (1, _code), "archive": (2, _members), "list of members": (2,
    _flagged)},
    "pickle": {"content": (8, _pickled), "code": (1, _code)},
    "matlab": {"content": (6, _matlab), "code": (1, _code)},
    "numpy": {"heading": (6, _numpy), "code": (1, _code)},
    "packed": {"table": (6, _packed)},
    "image": {"size": (4, _size), "converted": (6, _converted)},
    "video": {"number": (4, _numbered)},
    "zip": {"archive": (8, _members), "list of members": (4, _flagged)},
}  # fmt: skip
