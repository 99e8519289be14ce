"""What an exported .onnx or .pt2 says of itself, read as data: nothing in the file is run.

Besides the entries of its checkpoint (`core.storage.description`) it describes its inputs and outputs. An ONNX file has
no checksum; the card that was written with it holds its SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.export.card import TITLE
from core.export.formats import require_packages
from core.storage.checkpoint import require_file
from core.storage.description import Contents, contents_of, read_contents
from core.storage.kinds import is_safetensors

_BROKEN_ZIP = (
    zipfile.BadZipFile,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    RecursionError,
    NotImplementedError,
)
PROGRAMS = (".onnx", ".pt2")
_LARGEST_ENTRY = 2**26  # bytes of text in a .pt2
_EXTRA, _WEIGHTS = "extra/", re.compile(r"data/(weights|constants)/.*_config\.json")


def contents_of_file(path: Path) -> Contents:
    """What a checkpoint (.safetensors) or an exported program says of itself; checksums are verified if there are any.

    Raises:
        MissingData: there is no such file.
        UserError: it is damaged, is no exported network, is not the file that its card describes, or is an .onnx while
            the package that reads these is missing.
    """
    require_file(path)
    if path.suffix not in PROGRAMS or is_safetensors(path):
        return read_contents(path)
    metadata, shapes = _read_onnx(path) if path.suffix == ".onnx" else _read_program(path)
    return contents_of(metadata, shapes, checked=_fits_its_card(path))


def _read_onnx(path: Path) -> tuple[dict[str, str], dict[str, Sequence[int]]]:
    require_packages(path, ("onnx",))
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model(path, format="protobuf", load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise UserError(
            f"'{path}' is truncated or no ONNX file: {' '.join(str(error).split())[:200]}"
        ) from error
    if not model.graph.node:  # an empty file parses as a model without content
        raise UserError(f"'{path}' is truncated or no ONNX file: it holds no graph")
    shapes: dict[str, Sequence[int]] = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    return {entry.key: entry.value for entry in model.metadata_props}, shapes


def _read_program(path: Path) -> tuple[dict[str, str], dict[str, Sequence[int]]]:
    """Read a .pt2, a zip file with everything below one folder, which is named after the file."""
    metadata: dict[str, str] = {}
    shapes: dict[str, Sequence[int]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                name = entry.filename.partition("/")[2]
                if not name.startswith(_EXTRA) and not _WEIGHTS.fullmatch(name):
                    continue
                if entry.file_size > _LARGEST_ENTRY:
                    raise UserError(f"'{path}' was refused: its entry '{name}' has {entry.file_size:,} bytes")
                text = archive.read(entry).decode("utf-8")
                if name.startswith(_EXTRA):
                    metadata[name.removeprefix(_EXTRA)] = text
                else:
                    shapes |= _shapes(json.loads(text))
    except UserError:
        raise
    except _BROKEN_ZIP as error:
        raise UserError(
            f"'{path}' is truncated or no program of torch.export: {' '.join(str(error).split())[:200]}"
        ) from error
    return metadata, shapes


def _shapes(content: Mapping[str, Any]) -> dict[str, Sequence[int]]:
    return {
        name: [size["as_int"] for size in tensor["tensor_meta"]["sizes"]]
        for name, tensor in content["config"].items()
        if tensor["tensor_meta"] is not None
    }


def _fits_its_card(path: Path) -> bool:
    """Whether the model card beside the file, if there is one, gives its SHA-256.

    Raises:
        UserError: the card gives another one.
    """
    place = path.with_suffix(".md")
    if not place.is_file():
        return False
    text = place.read_text(encoding="utf-8", errors="replace")
    row = re.search(rf"^\| `{re.escape(path.name)}` \|.*\| `([0-9a-f]{{64}})` \|$", text, re.MULTILINE)
    if row is None or not text.startswith(TITLE):
        return False
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != row[1]:
            raise UserError(
                f"'{path}' is not the file that its card '{place}' was written with: its SHA-256 does not fit; export "
                "it again, or restore it from a copy"
            )
    return True
