"""What a file asks for is compared with what there is before it is made."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

import core
from core.errors import UserError
from core.storage import limits
from core.storage.limits import check_network, network_of_a_file, physical_memory, require_memory
from core.surgery.architecture import Architecture, ArchitectureError
from core.surgery.resize import widen


def test_the_memory_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_CONTAINER", tmp_path / "memory.max")
    machine = physical_memory()
    assert machine is not None
    assert machine > 2**28
    (tmp_path / "memory.max").write_text("max\n")
    assert physical_memory() == machine
    (tmp_path / "memory.max").write_text("1048576\n")
    assert physical_memory() == 2**20
    require_memory(2**20, "this")
    with pytest.raises(UserError, match=r"^this would take 3\.0 GiB of memory; this machine has 0\.0$"):
        require_memory(3 * 2**30, "this")


def test_widths_that_memory_cannot_hold_are_refused_before_anything_is_made() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    content = {"model": "mine", "inputs": {"shape": [1, 3, 9, 9], "dtype": "float32"},
               "widths": {"0": 2**24, "2": 2**24}}  # fmt: skip
    architecture = Architecture.from_json(content)
    for make in (architecture.build, architecture.reshape):
        # 27 (2^24) + 2^24 + 9 (2^48) + 2^24 + 36 (2^24) + 4 numbers
        with pytest.raises(
            ArchitectureError, match=r"a network of 2,533,275,880,914,948 numbers would take .* GiB"
        ):
            make(net)
    with pytest.raises(UserError, match="GiB of memory"):
        widen(net, core.trace_channels(net, torch.zeros(1, 3, 9, 9)), 1e6)


def test_inputs_of_a_widths_file_are_bounded() -> None:
    content = {"model": "mine", "widths": {}, "inputs": {"shape": [1, 10**9, 9, 9], "dtype": "float32"}}
    with pytest.raises(
        ArchitectureError, match=r"'inputs' is damaged .they hold more than 268,435,456 numbers"
    ):
        Architecture.from_json(content)


class Deep(nn.Module):
    """Notes how many of its layers were made."""

    made = 0

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(self.layer() for _ in range(layers))

    def layer(self) -> nn.Module:
        type(self).made += 1
        return nn.Linear(1, 1, bias=False)


def test_a_network_beyond_the_file_is_stopped_while_it_is_put_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Deep, "made", 0)
    # Of each layer its weight counts, and that the list takes it over.
    wanted = "more than 4,096 layers and tensors, and the file holds 7 numbers in 2 tensors"
    with pytest.raises(UserError, match=wanted), network_of_a_file(2, 7):
        Deep(10**9)
    assert Deep.made == 2049
    with network_of_a_file(2, 7):
        Deep(2000)
    Deep(2500)  # the limit ends with its block


def test_channels_beyond_the_file_are_stopped_before_they_are_written_to() -> None:
    with pytest.raises(UserError, match="more than 67,108,864 numbers"), network_of_a_file(9, 5):
        nn.Conv2d(64, 10**6, 3)
    with network_of_a_file(9, 2**21):  # a file of 8 MiB
        check_network(2**27, 1, "a network")
        with pytest.raises(UserError, match="more than 134,217,728 numbers"):
            check_network(2**27 + 1, 1, "a network")


def test_shared_limits_of_blocks_end_with_them() -> None:
    for _, fails in itertools.product(range(2), (False, True)):
        with network_of_a_file(1, 1):
            assert limits._allowed.get() is not None
            if fails:
                with pytest.raises(UserError), network_of_a_file(1, 1):
                    nn.Linear(10**4, 10**4)
        assert limits._allowed.get() is None
