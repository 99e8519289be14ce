"""Models named on a command line."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from core.command_line.factories import (
    call_factory,
    from_data,
    load_factory,
    parse_shape,
    takes,
    title,
    trusted_model,
)
from core.errors import UserError

SOURCE = """
from torch import nn

class Tiny(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 1)

    def forward(self, x):
        return self.conv(x)

def tiny(width=4):
    return Tiny(width)

def needs(depth):
    return Tiny(depth)

def wrong():
    return "a string"

number = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my_tiny_net.py"
    path.write_text(SOURCE)
    return path


def test_a_package_and_a_file(file: Path) -> None:
    assert load_factory("torch.nn:Conv2d") is nn.Conv2d
    assert call_factory(f"{file}:tiny", width=7).conv.out_channels == 7
    assert call_factory(f"{file}:Tiny").conv.out_channels == 4


def test_models_of_a_file_pickle(file: Path) -> None:
    model = call_factory(f"{file}:tiny")
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again.conv.weight, model.conv.weight)
    assert type(call_factory(f"{file}:tiny")) is type(model)  # the file is run once


def test_two_files_of_one_name_do_not_mix(tmp_path: Path) -> None:
    for folder, width in (("one", 2), ("two", 3)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same_name_net.py").write_text(
            f"from torch import nn\ndef net():\n    return nn.Conv2d(1, {width}, 1)\n"
        )
    widths = [
        call_factory(f"{tmp_path / folder / 'same_name_net.py'}:net").out_channels
        for folder in ("one", "two", "one")
    ]
    assert widths == [2, 3, 2]


def test_a_file_does_not_replace_an_installed_module(tmp_path: Path) -> None:
    import json

    (tmp_path / "json.py").write_text("from torch import nn\ndef net():\n    return nn.Conv2d(1, 2, 1)\n")
    assert call_factory(f"{tmp_path / 'json.py'}:net").out_channels == 2
    import sys

    assert sys.modules["json"] is json


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torch.nn", "write package.module:factory or path/to/file.py:factory"),
        (":net", "write package.module"),
        ("torch.nn:", "write package.module"),
        ("torch.nn:Conv9d", "'torch.nn' has no function or class called 'Conv9d'"),
        ("torch.nope:Conv2d", "'torch.nope' is not installed"),
        ("no_such_thing:net", "'no_such_thing' is not installed"),
        ("nothing.py:net", "'nothing.py' does not exist"),
        ("{file}:number", "no function or class called 'number'"),
        ("{file}:wrong", "returned str, not a torch.nn.Module"),
        ("{file}:needs", "cannot be called without arguments: missing a required argument: 'depth'"),
    ],
)
def test_mistakes_are_told_in_one_line(file: Path, spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        call_factory(spec.format(file=file))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message", "cause"),
    [
        ("import a_package_that_does_not_exist\n", "'a_package_that_does_not_exist'", ModuleNotFoundError),
        ("from torch import no_such_name\n", "cannot import name 'no_such_name' from 'torch'", ImportError),
        ("x = 1\ndef net(:\n    pass\n", r"invalid syntax in '.*broken_net.py', line 2", SyntaxError),
    ],
)
def test_a_file_that_cannot_be_imported_is_told_in_one_line(
    text: str, message: str, cause: type[Exception], tmp_path: Path
) -> None:
    (tmp_path / "broken_net.py").write_text(text)
    for _ in range(2):  # half a module is not kept
        with pytest.raises(UserError, match=f"broken_net.py' cannot be imported: .*{message}") as error:
            load_factory(f"{tmp_path / 'broken_net.py'}:net")
        assert isinstance(error.value.__cause__, cause)
        assert "\n" not in str(error.value)


def test_a_package_that_lacks_another_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needy_nets.py").write_text("import a_package_that_does_not_exist\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        UserError, match=r"'needy_nets' cannot be imported: No module named 'a_package_that_does"
    ):
        load_factory("needy_nets:net")


def test_a_users_own_failure_is_not_hidden(tmp_path: Path) -> None:
    (tmp_path / "failing_net.py").write_text(
        "def net():\n    return len(3)\ndef other():\n    import a_package_that_does_not_exist\n"
    )
    with pytest.raises(TypeError, match="'int' has no len"):
        call_factory(f"{tmp_path / 'failing_net.py'}:net")
    with pytest.raises(ModuleNotFoundError):
        call_factory(f"{tmp_path / 'failing_net.py'}:other")


def test_shapes() -> None:
    assert parse_shape("1,3,224,224") == (1, 3, 224, 224)
    assert parse_shape("2, 5") == (2, 5)
    for text in ("", "1,,2", "1x3", "0,3", "-1,3", "1.5"):
        with pytest.raises(UserError, match="write positive integers with commas"):
            parse_shape(text)


def test_the_same_relative_path_after_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths = []
    for folder, width in (("one", 2), ("two", 3), ("one", 2)):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "wandering_net.py").write_text(
            f"from torch import nn\ndef net():\n    return nn.Conv2d(1, {width}, 1)\n"
        )
        monkeypatch.chdir(tmp_path / folder)
        widths.append(call_factory("wandering_net.py:net").out_channels)
    assert widths == [2, 3, 2]
    assert load_factory("wandering_net.py:net") is load_factory(f"{tmp_path}/one/wandering_net.py:net")


@pytest.mark.parametrize(
    ("model", "name", "wanted"),
    [
        ("resnet20", None, "resnet20"),
        ("some/where/mynet.py:make", None, "mynet-make"),
        ("package.module:factory", None, "module-factory"),
        ("some/where/mynet.py:make", "my net", "my net"),
    ],
)
def test_titles(model: str, name: str | None, wanted: str) -> None:
    assert title(model, name) == wanted


@pytest.mark.parametrize("name", ["", "a/b", "..", " a"])
def test_titles_are_names_of_folders(name: str) -> None:
    with pytest.raises(UserError, match="becomes a folder's name"):
        title("resnet20", name)


def test_code_that_a_file_names_is_not_trusted() -> None:
    assert trusted_model("'c'", "edsr", None, "--model") == "edsr"
    assert trusted_model("'c'", "old.py:net", "new.py:net", "--model") == "new.py:net"
    with pytest.raises(UserError, match=r"'c' is of a network from 'net.py:net', .* with --model net.py:net"):
        trusted_model("'c'", "net.py:net", None, "--model")
    for described, given in (("edsr", "net.py:net"), ("net.py:net", "edsr")):
        with pytest.raises(UserError, match=f"leave --model {given} out"):
            trusted_model("'c'", described, given, "--model")


def test_where_code_comes_from_is_said() -> None:
    assert from_data("net.py:net", None, None) == "the protocol names code: 'net.py:net' is imported"
    assert from_data("net.py:net", None, "mine.yaml") == from_data("net.py:net", None, None)
    assert [from_data("net.py:net", "net.py:net", None), from_data("net.py:net", None, "mine.py")] == [
        None,
        None,
    ]
    assert from_data("edsr", None, None) is None


def test_what_a_factory_takes(file: Path) -> None:
    assert takes(f"{file}:tiny", "width")
    assert not takes(f"{file}:wrong", "width")
    assert takes(f"{file}:Tiny", "width")
