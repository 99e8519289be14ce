from __future__ import annotations

import json
import math
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from core.errors import MissingData, UserError
from core.storage import checkpoint
from core.storage.checkpoint import (
    load_state,
    load_weights,
    read_metadata,
    read_weights,
    save_state,
    save_weights,
)
from tests.properties import examples

TENSORS = st.sampled_from(
    [
        torch.arange(6.0).reshape(2, 3),
        torch.tensor(-1.5),
        torch.zeros(0, 4),
        torch.tensor([True, False]),
        torch.tensor([1.5, math.nan, math.inf], dtype=torch.bfloat16),
        torch.arange(12).reshape(3, 4).t(),  # not contiguous
        torch.tensor([2**40], dtype=torch.int64),
        torch.arange(8.0).reshape(1, 2, 2, 2).to(memory_format=torch.channels_last),
    ]
)
LEAVES = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5) | TENSORS
)
KEYS = st.text(max_size=4) | st.integers(-5, 5)
STATES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_leaves=12,
)


def same(first, second):
    if type(first) is not type(second):
        return False
    if isinstance(first, torch.Tensor):
        return (
            first.dtype == second.dtype
            and first.shape == second.shape
            and torch.equal(bits(first), bits(second))
        )
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second or (first != first and second != second)


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


@examples(60)
@given(state=STATES)
def test_any_state_comes_back(tmp_path_factory, state):
    path = tmp_path_factory.getbasetemp() / "state.safetensors"
    save_state(path, state)
    assert same(load_state(path), state)


def test_names_in_the_file_can_be_read_by_a_person(tmp_path):
    save_state(
        tmp_path / "s.safetensors",
        {"model": {"conv.weight": torch.ones(2)}, "a/b": torch.ones(1), "a": {"b": torch.zeros(1)}},
    )
    assert set(safetensors.torch.load_file(tmp_path / "s.safetensors")) == {
        "model/conv.weight",
        "a/b",
        "a/b~1",
    }
    assert load_state(tmp_path / "s.safetensors")["a"]["b"].item() == 0


def test_tensors_that_share_memory(tmp_path):
    weight = torch.arange(4.0)
    save_state(tmp_path / "s.safetensors", {"whole": weight, "tied": weight, "part": weight[1:3]})
    loaded = load_state(tmp_path / "s.safetensors")
    assert [value.tolist() for value in loaded.values()] == [[0, 1, 2, 3], [0, 1, 2, 3], [1, 2]]


@pytest.mark.parametrize(
    ("state", "where"),
    [
        ({"a": [1, {"b": {1, 2}}]}, "set at '/a/1/b'"),
        ({"a": np.float32(1)}, "float32 at '/a'"),
        ({"a": {1.5: 0}}, "key 1.5"),
    ],
)
def test_what_a_state_cannot_hold_is_named(tmp_path, state, where):
    with pytest.raises(TypeError, match=where):
        save_state(tmp_path / "s.safetensors", state)
    assert not list(tmp_path.iterdir())


def test_optimizer_state_goes_on_exactly(tmp_path):
    def trained(steps, optimizer, parameter):
        for step in range(steps):
            parameter.grad = torch.full_like(parameter, math.sin(step + parameter.sum().item()))
            optimizer.step()

    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(5))
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    trained(3, optimizer, parameter)
    save_state(tmp_path / "s.safetensors", {"optimizer": optimizer.state_dict(), "parameter": parameter})
    state = load_state(tmp_path / "s.safetensors")
    other = nn.Parameter(state["parameter"])
    resumed = torch.optim.AdamW([other], lr=9.0)
    resumed.load_state_dict(state["optimizer"])
    trained(3, optimizer, parameter)
    trained(3, resumed, other)
    assert torch.equal(parameter, other)


@pytest.fixture
def state_file(tmp_path):
    path = tmp_path / "state.safetensors"
    save_state(path, {"weights": torch.arange(64.0), "step": 7})
    return path


def test_truncation_anywhere_is_a_user_error(state_file):
    whole = state_file.read_bytes()
    for length in [0, 3, 8, 20, 100, len(whole) // 2, len(whole) - 1]:
        state_file.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"state\.safetensors.*truncated"):
            load_state(state_file)


def test_a_changed_byte_is_never_taken_for_the_state(state_file):
    """Every byte of header, skeleton and tensors: read as the same, or refused; never read as something else."""
    whole = bytearray(state_file.read_bytes())
    expected, messages = load_state(state_file), []
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1
        state_file.write_bytes(changed)
        try:
            assert same(load_state(state_file), expected)
        except UserError as error:
            messages.append(str(error))
    assert len(messages) > 0.9 * len(whole)
    assert all("state.safetensors" in message and "\n" not in message for message in messages)


def test_foreign_and_missing_files(tmp_path):
    safetensors.torch.save_file({"weight": torch.ones(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="no training state"):
        load_state(tmp_path / "weights.safetensors")
    (tmp_path / "text.safetensors").write_text("hello, this is a text that is long enough")
    with pytest.raises(UserError, match="no safetensors file"):
        load_state(tmp_path / "text.safetensors")
    with pytest.raises(MissingData, match=r"none\.safetensors' not found"):
        load_state(tmp_path / "none.safetensors")


def test_a_failed_write_leaves_the_old_file(state_file):
    before = state_file.read_bytes()
    with pytest.raises(TypeError):
        save_state(state_file, {"weights": torch.ones(3), "bad": object()})
    assert state_file.read_bytes() == before
    assert [path.name for path in state_file.parent.iterdir()] == ["state.safetensors"]


# Weights


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def equal(first, second):
    other = second.state_dict()
    return all(torch.equal(value, other[name]) for name, value in first.state_dict().items())


def test_weights_come_back(tmp_path):
    model, other = network(), network(1)
    save_weights(model.to(memory_format=torch.channels_last), tmp_path / "w.safetensors")
    assert not equal(model, other)
    assert load_weights(other, tmp_path / "w.safetensors") == ([], [])
    assert equal(model, other)
    assert safetensors.torch.load_file(tmp_path / "w.safetensors").keys() == model.state_dict().keys()


def test_weights_carry_words_of_their_own(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(network(), path, {"scale": "4", "note": "ä"})
    words = read_metadata(path)
    assert words.keys() == {"format", "scale", "note", "library", "crc32"}
    assert (words["scale"], words["note"]) == ("4", "ä")
    other = network(1)
    load_weights(other, path)
    assert equal(network(), other)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"w\.safetensors' is truncated"):
        read_metadata(path)
    with pytest.raises(MissingData, match=r"none\.safetensors"):
        read_metadata(tmp_path / "none.safetensors")


@pytest.mark.parametrize("form", ["torch checkpoint", "weights", "training state"])
def test_weights_are_read_without_a_module(tmp_path, form):
    weights = dict(network().state_dict())
    path = tmp_path / ("w.pth" if form == "torch checkpoint" else "w.safetensors")
    if form == "torch checkpoint":
        torch.save({"state_dict": weights, "epoch": 3}, path)
    elif form == "weights":
        save_weights(network(), path)
    else:
        save_state(path, {"model": weights, "position": {"epoch": 1}})
    found = read_weights(path)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[key], weights[key]) for key in weights)


def test_tied_weights_come_back(tmp_path):
    def tied(seed):
        model = network(seed)
        model.append(model[3])
        return model

    save_weights(tied(0), tmp_path / "w.safetensors")
    other = tied(1)
    load_weights(other, tmp_path / "w.safetensors")
    assert equal(other, tied(0))
    assert other[4].weight is other[3].weight


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: weights,
        lambda weights: {"state_dict": weights, "epoch": 3},
        lambda weights: {"model": weights, "optimizer": {"state": {}}},
        lambda weights: {"params": weights},
        lambda weights: {
            "params_ema": weights,
            "params": {name: value * 0 for name, value in weights.items()},
        },
        lambda weights: {"state_dict": {f"module.{name}": value for name, value in weights.items()}},
        lambda weights: {"model": {"state_dict": weights}},
    ],
)
def test_wrappers_of_common_training_codes(tmp_path, wrap):
    model, other = network(), network(1)
    torch.save(wrap(dict(model.state_dict())), tmp_path / "w.pth")
    load_weights(other, tmp_path / "w.pth")
    assert equal(model, other)


def test_weights_from_a_training_state(tmp_path):
    model, other = network(), network(1)
    save_state(tmp_path / "last.safetensors", {"model": model.state_dict(), "position": {"epoch": 1}})
    load_weights(other, tmp_path / "last.safetensors")
    assert equal(model, other)


def test_weights_of_a_compiled_module_have_plain_names(tmp_path):
    model, other = network(), network(1)
    save_weights(torch.compile(model), tmp_path / "w.safetensors")
    load_weights(torch.compile(other), tmp_path / "w.safetensors")
    assert equal(model, other)


def test_misfits_are_reported_together(tmp_path):
    weights = dict(network().state_dict())
    weights["head.weight"] = weights.pop("3.weight")
    weights["head.bias"] = weights.pop("3.bias")
    weights["0.weight"] = torch.zeros(8, 3, 3, 3)
    torch.save(weights, tmp_path / "w.pth")
    model, before = network(), network()
    with pytest.raises(UserError) as caught:
        load_weights(model, tmp_path / "w.pth")
    assert str(caught.value) == (
        f"'{tmp_path}/w.pth' does not fit Sequential with 9 tensors: 1 of another shape (0.weight (8, 3, 3, 3) "
        "instead of (4, 3, 3, 3)); 2 missing (3.weight, 3.bias); 2 unexpected (head.weight, head.bias); "
        "is '3.weight' called 'head.weight' there?"
    )
    with pytest.raises(UserError, match=r"1 of another shape \(0.weight"):
        load_weights(model, tmp_path / "w.pth", strict=False)
    assert equal(model, before)


def test_lenient_loading_tells_what_it_left_out(tmp_path):
    weights = dict(network().state_dict())
    del weights["3.bias"]
    weights["extra"] = torch.ones(1)
    torch.save(weights, tmp_path / "w.pth")
    difference = load_weights(network(1), tmp_path / "w.pth", strict=False)
    assert (difference.missing, difference.unexpected) == (["3.bias"], ["extra"])


class Attack:
    """Unpickling this creates a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("form", ["torch", "legacy torch", "plain pickle"])
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path, form):
    target, path = tmp_path / "was-run", tmp_path / "w.pth"
    content = {"state_dict": network().state_dict(), "extra": Attack(target)}
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "torch")
    model, before = network(1), network(1)
    with pytest.raises(UserError, match=r"w\.pth' was refused: .*run code") as caught:
        load_weights(model, path)
    assert "\n" not in str(caught.value)
    assert not target.exists()
    assert equal(model, before)
    with path.open("rb") as file:  # the attack itself works
        if form == "plain pickle":
            pickle.load(file)
        else:
            torch.load(file, weights_only=False)
    assert target.exists()


def test_truncated_and_foreign_checkpoints(tmp_path):
    path = tmp_path / "w.pth"
    for zipped in [True, False]:
        torch.save(network().state_dict(), path, _use_new_zipfile_serialization=zipped)
        whole = path.read_bytes()
        for length in [0, 1, 2, 10, 100, len(whole) // 3, len(whole) // 2, len(whole) - 1]:
            path.write_bytes(whole[:length])
            with pytest.raises(UserError, match=r"w\.pth"):
                load_weights(network(), path)
    for content in [
        b"a text",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        json.dumps({"a": 1}).encode(),
        struct.pack("<Q", 2**60),
    ]:
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"w\.pth"):
            load_weights(network(), path)
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="holds a list, not weights by name"):
        load_weights(network(), path)
    torch.save({"epoch": 1, "note": "x"}, path)
    with pytest.raises(UserError, match="holds no weights: its keys are epoch, note"):
        load_weights(network(), path)
    with pytest.raises(MissingData):
        load_weights(network(), tmp_path / "none.pth")


def test_a_checkpoint_that_holds_itself_is_refused(tmp_path):
    content = {"epoch": 3}
    content["state_dict"] = {"model": content}
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a\.pth' holds no weights"):
        read_weights(tmp_path / "a.pth")


def test_a_checkpoint_that_unpacks_to_much_more_is_refused_unread(tmp_path, monkeypatch):
    weights = {"weight": torch.zeros(300, 1000)}
    torch.save(weights, tmp_path / "honest.pth")
    monkeypatch.setattr(checkpoint, "_ALWAYS_UNPACKED", 2**16)
    with (
        zipfile.ZipFile(tmp_path / "honest.pth") as honest,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in honest.infolist():
            bomb.writestr(entry.filename, honest.read(entry))
    assert same(read_weights(tmp_path / "honest.pth"), weights)
    with pytest.raises(UserError, match=r"bomb\.pth' was refused: its 0\.0 MiB unpack to 1\.1 MiB"):
        read_weights(tmp_path / "bomb.pth")
    monkeypatch.setattr("core.storage.limits.physical_memory", lambda: 2**20)
    with pytest.raises(UserError, match=r"honest\.pth' would take 0\.0 GiB of memory"):
        read_weights(tmp_path / "honest.pth")


def test_a_tensor_that_repeats_one_value_for_ever_is_refused(tmp_path):
    for shape, refused in (((2**13, 2**13), False), ((2**13, 2**13 + 1), True)):
        content = {"list": [{"weight": torch.zeros(1).expand(shape)}], "weight": torch.zeros(2)}
        content["itself"] = content
        torch.save(content, tmp_path / "a.pth")
        assert (tmp_path / "a.pth").stat().st_size < 5000
        if refused:
            with pytest.raises(
                UserError, match=r"a tensor of shape \(8192, 8193\) in it has 1 values stored"
            ):
                read_weights(tmp_path / "a.pth")
        else:
            assert list(read_weights(tmp_path / "a.pth")) == ["weight"]


@pytest.mark.parametrize(
    "skeleton", ["[" * 10**5, '{"tensor":"none"}', '{"strange":1}', '{"a":1,"b":2}', "{", '{"dict":[1]}']
)
def test_a_damaged_skeleton_is_refused(tmp_path, skeleton):
    path = tmp_path / "state.safetensors"
    metadata = {"format": "lwdna-state-1", "skeleton": skeleton}
    metadata["crc32"] = str(checkpoint._checksum(skeleton, {}))
    safetensors.torch.save_file({}, path, metadata)
    with pytest.raises(UserError, match=r"state\.safetensors' is no training state: its skeleton is damaged"):
        load_state(path)
