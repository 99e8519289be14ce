"""States and weights on disk: safetensors with a JSON skeleton, written atomically, read only as data.

A state is any nesting of dicts, lists and tuples over ints, floats, strings, bools, None and tensors. It
becomes one safetensors file: the tensors as such, the rest as JSON in its metadata, a checksum over both.
"""

from __future__ import annotations

import argparse
import json
import math
import pickle
import re
import struct
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from core.errors import MissingData, UserError, first_names, one_line
from core.storage.files import atomic_write, read_json
from core.storage.kinds import is_safetensors, is_torch, refuse_other_kinds
from core.storage.limits import require_memory
from core.storage.weights import KeyDifference, find_weights, load_content, unwrap_compiled

_FORMAT = "lwdna-state-1"
_MOST_UNPACKED, _ALWAYS_UNPACKED = 4, 2**28  # times the file's size; bytes allowed for any file
_INDEX = ".index.json"  # of weights that are split into several files
CHECKSUM, LIBRARY = "crc32", "library"  # entries of a header
# What torch.load raises on damaged and foreign files, apart from UnpicklingError.
_BROKEN_PICKLE = (
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    OSError,
)


def save_state(path: str | Path, state: Any) -> None:
    """Write a nested state as one safetensors file, atomically.

    Raises:
        TypeError: a value is none of the types that a state may hold; the message names where it sits.
        OSError: the file cannot be written; `path` is then as it was before.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = json.dumps(_flatten(state, "", tensors), separators=(",", ":"))
    metadata = {"format": _FORMAT, "skeleton": skeleton, CHECKSUM: str(_checksum(skeleton, tensors))}
    _write(path, tensors, metadata)


def load_state(path: str | Path, map_location: str | torch.device = "cpu") -> Any:
    """Read what `save_state` wrote, with tensors on `map_location`.

    Raises:
        MissingData: there is no such file.
        UserError: the file is truncated, damaged or no state file.
    """
    _state_header(path)
    metadata, tensors = read_verified(path)
    return _decode(path, metadata, {name: tensor.to(map_location) for name, tensor in tensors.items()})


def read_values(path: str | Path) -> Any:
    """What `save_state` wrote, with None for every tensor: read from the header alone, without verifying the checksum.

    Raises:
        MissingData: there is no such file.
        UserError: the file is truncated, damaged or no state file.
    """
    return _decode(path, _state_header(path), defaultdict(lambda: None))


def _state_header(path: str | Path) -> dict[str, str]:
    metadata = read_metadata(path)
    if metadata.get("format") != _FORMAT:
        raise UserError(f"'{path}' is no training state: it was not written by this project's save_state")
    return metadata


def save_weights(module: nn.Module, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a module's parameters and buffers as a plain safetensors file, which any reader opens.

    The header names the release and a checksum over tensors and header, which is verified whenever this module reads
    the tensors.

    Args:
        module: a module, compiled or not.
        path: the file, by custom `*.safetensors`.
        metadata: further entries of the file's header, which `read_metadata` returns.

    Raises:
        TypeError: the module's state_dict holds something other than tensors.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in unwrap_compiled(module).state_dict().items():
        if not isinstance(value, Tensor):
            raise TypeError(f"weights hold only tensors, but '{name}' is a {type(value).__name__}")
        tensors[name] = value.detach().cpu().contiguous()
    header = {"format": "pt", **release(), **(metadata or {})}
    header[CHECKSUM] = str(_checksum(_header_text(header), tensors))
    _write(path, tensors, header)


def release() -> dict[str, str]:
    """The entry of a header that names the release."""
    from lwdna import __version__

    return {LIBRARY: f"lwdna {__version__}"}


def read_metadata(path: str | Path) -> dict[str, str]:
    """The entries in the header of a safetensors file; its tensors are not read, and no checksum is verified.

    Raises:
        MissingData: there is no such file.
        UserError: the file is truncated, damaged or no safetensors file.
    """
    with _open_safetensors(path) as file:
        return file.metadata() or {}


def read_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a safetensors file, by name, from its header alone.

    Raises:
        MissingData: there is no such file.
        UserError: the file is truncated, damaged or no safetensors file.
    """
    with _open_safetensors(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def read_verified(path: str | Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Header and tensors of a safetensors file, on the CPU; their checksum is verified where there is one.

    Raises:
        MissingData: there is no such file.
        UserError: the file is truncated, damaged or no safetensors file.
    """
    metadata, tensors = _read_safetensors(path)
    if metadata.get("format") == _FORMAT:
        text = metadata.get("skeleton", "")
    else:
        text = _header_text(metadata)
        # Files of other programs and of early releases have no checksum; files that name their release have one.
        if CHECKSUM not in metadata and LIBRARY not in metadata:
            return metadata, tensors
    if metadata.get(CHECKSUM) != str(_checksum(text, tensors)):
        raise UserError(
            f"'{path}' is damaged: its checksum does not fit; delete it or restore it from a copy"
        )
    return metadata, tensors


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Weights by name, on the CPU, from a safetensors file, a training state or a torch checkpoint (.pth).

    Of several sets of weights a running average comes first, also in a training state; see
    `core.storage.weights.find_weights`. No code in the file is ever run: torch checkpoints are read with
    weights_only=True.

    Raises:
        MissingData: there is no such file.
        UserError: the file is broken, needs code to be read, or holds no weights.
    """
    return find_weights(read_checkpoint(path), path)


def load_weights(module: nn.Module, path: str | Path, strict: bool = True) -> KeyDifference:
    """Load weights from a safetensors file, a training state or a torch checkpoint (.pth) into `module`.

    `core.storage.weights` says where the weights may lie and which prefixes their names may have. No code in the file
    is ever run: torch checkpoints are read with weights_only=True.

    Args:
        module: changed in place; left as it is when an error is raised.
        path: the file.
        strict: refuse missing and unexpected names; wrong shapes are always refused.

    Returns:
        The names that are missing in the file, and the names that the module does not have.

    Raises:
        MissingData: there is no such file.
        UserError: the file is broken, needs code to be read, or does not fit the module.
    """
    return load_content(module, read_checkpoint(path), path, strict)


def read_checkpoint(path: str | Path) -> Any:
    """What a safetensors file, a training state or a torch checkpoint (.pth) holds, tensors on the CPU.

    The file's first bytes decide which of these it is, not its name. For an index (`*.safetensors.index.json`,
    `*.bin.index.json`) the files that it names, which lie beside it, are read and united. Torch checkpoints are read
    with weights_only=True. Arguments of a command line (`argparse.Namespace`), which training codes keep beside
    weights, are data as well: building them sets attributes and calls nothing.

    Raises:
        MissingData: there is no such file.
        UserError: the file is broken, or needs code to be read.
    """
    require_file(path)
    if str(path).endswith(_INDEX):
        return _read_shards(Path(path))
    if is_safetensors(path) or (Path(path).suffix == ".safetensors" and not is_torch(path)):
        metadata, tensors = read_verified(path)
        return _decode(path, metadata, tensors) if metadata.get("format") == _FORMAT else tensors
    return read_torch(path, lambda: [argparse.Namespace])


def _read_shards(index: Path) -> dict[str, Tensor]:
    """The weights of a file that is an index of several beside it, as Hugging Face's libraries split large ones."""
    remedy = "get it again, with all of its files"
    try:
        places = read_json(index)["weight_map"]
        names = sorted(set(places.values()))
        strange = [name for name in names if Path(name).name != name or name.endswith(_INDEX)]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"'{index}' is no index of files with weights; {remedy}") from error
    if strange:
        raise UserError(f"'{index}' was refused: '{strange[0]}' is no file beside it")
    shards = {
        name: find_weights(read_checkpoint(index.with_name(name)), index.with_name(name)) for name in names
    }
    missing = [name for name, place in places.items() if name not in shards[place]]
    if missing:
        raise UserError(f"'{index}' names {first_names(missing)}, which its files do not hold; {remedy}")
    return {name: shards[place][name] for name, place in places.items()}


def read_torch(path: str | Path, allowed: Callable[[], Sequence[Any]]) -> Any:
    """What a torch checkpoint holds, read with weights_only=True, tensors on the CPU.

    Args:
        path: the file.
        allowed: returns what may be built beside tensors and plain values, as `torch.serialization.safe_globals` takes
            it; called after the file's size was checked, so it may look into the file.

    Raises:
        MissingData: there is no such file.
        UserError: the file is broken, or needs code to be read.
    """
    require_file(path)
    refuse_other_kinds(path)
    require_honest_archive(path)
    try:
        # An open file, for torch.load goes by the endings of names.
        with torch.serialization.safe_globals(list(allowed())), open(path, "rb") as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
        require_stored(content, path)
        return content
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        raise UserError(
            f"'{path}' was refused: it is no checkpoint, or reading it would run code that it carries"
            f"{f' ({named[1]})' if named else ''}; if you trust it, convert it to safetensors"
        ) from error
    except _BROKEN_PICKLE as error:
        raise UserError(f"'{path}' is truncated or no torch checkpoint: {one_line(error)}") from error


def _flatten(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    """The JSON form of `value`; its tensors are put into `tensors` under the path at which they sit."""
    match value:
        case Tensor():
            return {"tensor": _add_tensor(tensors, where or "tensor", value)}
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else {"float": str(value)}
        case list() | tuple():
            items = [_flatten(item, f"{where}/{index}", tensors) for index, item in enumerate(value)]
            return items if isinstance(value, list) else {"tuple": items}
        case Mapping():
            strange = [key for key in value if type(key) not in (str, int)]
            if strange:
                raise TypeError(
                    f"a state's keys are strings or ints, but '{where}' has the key {strange[0]!r}"
                )
            # Pairs, since a JSON object would turn the ints that optimisers use as keys into strings.
            return {"dict": [[key, _flatten(item, f"{where}/{key}", tensors)] for key, item in value.items()]}
    raise TypeError(f"a state cannot hold the {type(value).__name__} at '{where}'")


def _restore(value: Any, tensors: Mapping[str, Tensor | None]) -> Any:
    if isinstance(value, list):
        return [_restore(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    [(kind, content)] = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "float":
        return float(content)
    if kind == "tuple":
        return tuple(_restore(item, tensors) for item in content)
    return {key: _restore(item, tensors) for key, item in content}


def _add_tensor(tensors: dict[str, Tensor], where: str, value: Tensor) -> str:
    """Put `value` into `tensors` under `where` or a free name like it; return that."""
    name, count = where.lstrip("/"), 1
    while name in tensors:
        name, count = f"{where.lstrip('/')}~{count}", count + 1
    tensors[name] = value.detach().cpu().contiguous()
    return name


def _write(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, atomically. Its entries are sorted, unlike the library's: one content, one file."""
    content = memoryview(safetensors.torch.save(_unshared(tensors), dict(metadata)))
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(bytes(content[8:start]))
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors are aligned
    with atomic_write(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(content[start:])


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors that share memory, which safetensors refuses: tied weights are written twice."""
    seen: set[int] = set()
    unshared: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        unshared[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return unshared


def _checksum(skeleton: str, tensors: Mapping[str, Tensor]) -> int:
    value = zlib.crc32(skeleton.encode())
    for name in sorted(tensors):
        tensor = tensors[name].cpu().contiguous()
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, value)
    return value


def _header_text(metadata: Mapping[str, str]) -> str:
    return json.dumps({key: value for key, value in metadata.items() if key != CHECKSUM}, sort_keys=True)


def _decode(
    path: str | Path, metadata: Mapping[str, str], tensors: Mapping[str, Tensor] | Mapping[str, Tensor | None]
) -> Any:
    try:
        return _restore(json.loads(metadata["skeleton"]), tensors)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError(
            f"'{path}' is no training state: its skeleton is damaged ({type(error).__name__})"
        ) from error


def _read_safetensors(path: str | Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    with _open_safetensors(path) as file:
        return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@contextmanager
def _open_safetensors(path: str | Path) -> Iterator[Any]:
    require_file(path)
    try:
        with safe_open(str(path), framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        refuse_other_kinds(path)
        if is_torch(path):
            raise UserError(
                f"'{path}' is a torch checkpoint and no safetensors file: it does not describe its network; "
                "--pretrained reads its weights"
            ) from error
        raise UserError(f"'{path}' is truncated or no safetensors file: {one_line(error)}") from error


def require_honest_archive(path: str | Path) -> None:
    """Refuse a torch checkpoint that unpacks to much more than its size: torch packs nothing when it saves.

    Raises:
        UserError: it is such a file, or its content does not fit into memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # from before 2020, or no checkpoint, as torch.load will say
    size = Path(path).stat().st_size
    if unpacked > max(_MOST_UNPACKED * size, _ALWAYS_UNPACKED):
        raise UserError(
            f"'{path}' was refused: its {size / 2**20:,.1f} MiB unpack to {unpacked / 2**20:,.1f} MiB, and torch.save "
            "packs nothing; if you trust it, save it again"
        )
    require_memory(unpacked, f"'{path}'")


def require_stored(content: Any, path: str | Path) -> None:
    """Refuse a torch checkpoint with a tensor whose few stored values stand for many (strides of 0).

    Raises:
        UserError: a tensor has more than 2^26 values, and more than 64 times as many as are stored.
    """
    waiting, seen = [content], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor) and value.layout == torch.strided:
            stored = value.untyped_storage().nbytes() // max(value.itemsize, 1)
            if value.numel() > max(64 * stored, 2**26):
                raise UserError(
                    f"'{path}' was refused: a tensor of shape {tuple(value.shape)} in it has {stored:,} values stored"
                )
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))  # it may hold itself
            waiting += value.values() if isinstance(value, Mapping) else value


def require_file(path: str | Path) -> None:
    """Refuse what is no file.

    Raises:
        MissingData: it is a folder, or is not there.
    """
    if Path(path).is_dir():
        raise MissingData(f"'{path}' is a folder: name a file in it")
    if not Path(path).is_file():
        raise MissingData(f"'{path}' not found: there is no such file; check the path")
