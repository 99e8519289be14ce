"""How much memory a file may ask for: its sizes are checked before anything of these sizes is made."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from core.errors import UserError
from core.modules import hooked

_ASSUMED = 64 * 2**30  # bytes of memory, if the system does not tell
_CONTAINER = Path("/sys/fs/cgroup/memory.max")
# To build a checkpoint's network, the regular one is built first; it may be larger than the found one in the file.
_SLACK = 64
_ALWAYS_VALUES, _ALWAYS_PARTS = 2**26, 2**12  # 256 MiB of float32; more layers than any network here has


def physical_memory() -> int | None:
    """Bytes of memory of this machine, or of this process' container; None if the system does not tell."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):  # Windows
        return None
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # no container, or one without a limit ("max")
        size = min(size, int(_CONTAINER.read_text(encoding="ascii")))
    return size


def require_memory(size: int, what: str) -> None:
    """Refuse what memory cannot hold, before it is allocated.

    Args:
        size: in bytes.
        what: what needs the memory, for the message.

    Raises:
        UserError: the machine has less memory.
    """
    memory = physical_memory() or _ASSUMED
    if size > memory:
        raise UserError(
            f"{what} would take {size / 2**30:,.1f} GiB of memory; this machine has {memory / 2**30:,.1f}"
        )


@dataclass(frozen=True)
class _Allowed:
    values: int
    parts: int
    text: str

    def check(self, values: int, parts: int = 0) -> None:
        if values > self.values or parts > self.parts:
            what = (
                f"{self.values:,} numbers" if values > self.values else f"{self.parts:,} layers and tensors"
            )
            raise UserError(f"the network that it describes has more than {what}, {self.text}")


_allowed: ContextVar[_Allowed | None] = ContextVar("allowed", default=None)


def check_network(values: int, size: int, what: str) -> None:
    """Refuse a network before its tensors are made.

    Args:
        values: numbers in its parameters and buffers.
        size: their bytes.
        what: the network, for the message.

    Raises:
        UserError: it does not fit into memory, or the file that describes it holds much less (`network_of_a_file`).
    """
    require_memory(size, what)
    allowed = _allowed.get()
    if allowed is not None:
        allowed.check(values)


@contextmanager
def network_of_a_file(tensors: int, values: int) -> Iterator[None]:
    """Within this block a network is built that a file describes; it must not be much larger than the file's content.

    Layers are counted as they are put together, so that an invented number of layers or channels ends in an error, and
    not in full memory. 64 times the values in the file are allowed, and always 256 MiB: the regular network is built
    before it gets the found widths.

    Args:
        tensors: number of tensors in the file.
        values: number of values in them.

    Raises:
        UserError: the network is larger.
    """
    text = (
        f"and the file holds {values:,} numbers in {tensors:,} tensors: it is damaged, or not of that network"
    )
    allowed = _Allowed(max(_SLACK * values, _ALWAYS_VALUES), max(_SLACK * tensors, _ALWAYS_PARTS), text)
    thread = threading.get_ident()
    count = {"values": 0, "parts": 0}

    def note(module: nn.Module, name: str, part: nn.Module | Tensor | None) -> None:
        if part is None or threading.get_ident() != thread:
            return
        count["parts"] += 1
        count["values"] += part.numel() if isinstance(part, Tensor) else 0
        allowed.check(**count)

    hooks = [
        register_module_parameter_registration_hook(note),
        register_module_buffer_registration_hook(note),
        register_module_module_registration_hook(note),
    ]
    token = _allowed.set(allowed)
    with hooked(hooks):
        try:
            yield
        finally:
            _allowed.reset(token)
