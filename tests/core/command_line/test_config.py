from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.command_line.config import dump_config, load_config
from core.command_line.config_files import read_values
from core.errors import MissingData, UserError
from core.training.train import OptimizerConfig, ScheduleConfig, TrainConfig
from core.widths.config import ShrinkConfig
from tests.properties import examples


@dataclass(frozen=True)
class Data:
    name: str
    size: tuple[int, int] = (32, 32)
    mean: tuple[float, ...] = (0.5,)
    root: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    data: Data
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(optimizer=OptimizerConfig("adam", lr=1e-4), seed=3)
    )
    network: Literal["resnet20", "resnet56"] = "resnet20"
    seeds: list[int] = field(default_factory=lambda: [0])
    note: str = ""
    teacher: Data | None = None
    width: int | float = 1

    def __post_init__(self) -> None:
        if not self.seeds:
            raise UserError("seeds must not be empty")


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_file_with_base_and_overrides(tmp_path):
    write(tmp_path / "base.py", "data = dict(name='cifar', mean=[1, 2])\ntrain = dict(epochs=300, seed=1)\n")
    path = write(
        tmp_path / "mine.py",
        "_base_ = 'base.py'\ntrain = dict(optimizer=dict(name='sgd', lr=1))\n"
        "seeds = [1, 2]\ndata = dict(size=[8, 8])\n",
    )
    config = load_config(path, Experiment, ["train.optimizer.lr=0.5", "network=resnet56", "data.root=/a b/c"])
    assert config == Experiment(
        data=Data("cifar", (8, 8), (1.0, 2.0), Path("/a b/c")),
        train=TrainConfig(epochs=300, seed=1, optimizer=OptimizerConfig("sgd", lr=0.5)),
        network="resnet56",
        seeds=[1, 2],
    )
    assert type(config.data.mean[0]) is float


@dataclass(frozen=True)
class Protocol:
    shrink: ShrinkConfig = field(default_factory=ShrinkConfig)


def test_patterns_stand_in_the_place_of_a_number_and_their_order_stays(tmp_path):
    base = write(tmp_path / "base.py", "shrink = dict(floor=0.4, ceiling={'*': 0.9})\n")
    option = "shrink.floor={'*': 0.4, 'layer1.*': .3}"
    config = load_config(base, Protocol, [option, "shrink.ceiling=1"])
    assert (list(config.shrink.floor.items()), config.shrink.ceiling) == (
        [("*", 0.4), ("layer1.*", 0.3)],
        1.0,
    )
    dump_config(config, tmp_path / "dumped.py")
    again = load_config(tmp_path / "dumped.py", Protocol, defaults={"shrink": {"floor": 0.2}})
    assert list(again.shrink.floor.items()) == list(config.shrink.floor.items())
    assert load_config(tmp_path / "dumped.py", Protocol, ["shrink.floor=0.1"]).shrink.floor == 0.1
    with pytest.raises(UserError, match=r"shrink.floor must be float \| .*, got str 'high'"):
        load_config(base, Protocol, ["shrink.floor=high"])
    with pytest.raises(UserError, match=r"unknown key 'shrink.floor2', did you mean 'floor'"):
        load_config(base, Protocol, ["shrink.floor2={'*': 1}"])


def test_order_of_precedence(tmp_path):
    """Schema, then `defaults`, then the file, then overrides; nested keys merge on the way."""
    path = write(tmp_path / "c.py", "train = dict(epochs=7, batch_size=8)\n")
    defaults = {"data": {"name": "digits"}, "train": {"epochs": 5, "eval_every": 2}}
    train = load_config(path, Experiment, ["train.batch_size=4"], defaults).train
    assert (train.epochs, train.batch_size, train.eval_every) == (7, 4, 2)
    assert (train.seed, train.optimizer) == (3, OptimizerConfig("adam", lr=1e-4))


def test_keys_are_laid_over_the_fields_default_not_over_the_class(tmp_path):
    config = load_config(None, Experiment, ["data.name=x", "train.optimizer.lr=0.2"])
    assert config.train.optimizer == OptimizerConfig("adam", lr=0.2)
    assert config.train.seed == 3


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "0.1e-3", "+1e-4", "1.e-4", "0.0001"])
def test_numbers_of_yaml_are_those_that_people_write(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(f"rate: {text}\nname: 1e4x\ncommit: 1e\n")
    assert read_values(path, "file") == {"rate": 1e-4, "name": "1e4x", "commit": "1e"}


def test_yaml(tmp_path):
    path = write(tmp_path / "c.yaml", "data: {name: x, size: [4, 4]}\ntrain: {epochs: 2}\n")
    assert load_config(path, Experiment).data.size == (4, 4)


@pytest.mark.parametrize(
    ("override", "get", "value"),
    [
        ("train.optimizer.betas=0.8,0.9", lambda c: c.train.optimizer.betas, (0.8, 0.9)),
        ("train.optimizer.betas=[0.8, 0.9]", lambda c: c.train.optimizer.betas, (0.8, 0.9)),
        ("train.optimizer.groups=[(backbone,0.1)]", lambda c: c.train.optimizer.groups, (("backbone", 0.1),)),
        ("train.optimizer.groups=[('head', 2)]", lambda c: c.train.optimizer.groups, (("head", 2.0),)),
        ("train.channels_last=true", lambda c: c.train.channels_last, True),
        ("train.ema_decay=None", lambda c: c.train.ema_decay, None),
        ("train.ema_decay=0.99", lambda c: c.train.ema_decay, 0.99),
        ("train.epochs=2.0", lambda c: c.train.epochs, 2),
        ("train.optimizer.lr=1e-3", lambda c: c.train.optimizer.lr, 1e-3),
        ("train.precision=bf16-mixed", lambda c: c.train.precision, "bf16-mixed"),
        ("note=a = b", lambda c: c.note, "a = b"),
        ("note=", lambda c: c.note, ""),
        ("note='12'", lambda c: c.note, "12"),
        ("note=run (2)", lambda c: c.note, "run (2)"),
        ("seeds=3,4", lambda c: c.seeds, [3, 4]),
        ("teacher.name=big", lambda c: c.teacher, Data("big")),
        ("data.options.depth.of=[1]", lambda c: c.data.options, {"depth": {"of": [1]}}),
        ("width=2", lambda c: (c.width, type(c.width)), (2, int)),
        ("width=1.5", lambda c: c.width, 1.5),
    ],
)
def test_overrides(override, get, value):
    assert get(load_config(None, Experiment, ["data.name=x", override])) == value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.optimzer.lr=1", "the command line: unknown key 'train.optimzer', did you mean 'optimizer'"),
        (
            "train.optimizer.lrr=1",
            "unknown key 'train.optimizer.lrr', did you mean 'lr'.*allowed: name, lr, momentum",
        ),
        ("dta.name=1", "unknown key 'dta', did you mean 'data'"),
        (
            "train.optimizer.name=sdg",
            r"train.optimizer.name is 'sdg', did you mean 'sgd'\? allowed: sgd, adam, adamw",
        ),
        ("train.epochs=ten", "train.epochs must be int, got str 'ten'"),
        ("train.epochs=2.5", "train.epochs must be int, got float 2.5"),
        ("train.epochs=True", "train.epochs must be int, got bool True"),
        ("train.channels_last=1", "train.channels_last must be bool, got int 1"),
        ("train.ema_decay=high", "train.ema_decay must be float, got str 'high'"),
        ("width=wide", r"width must be int \| float, got str 'wide'"),
        ("data.size=1,2,3", "data.size must have 2 entries, got 3"),
        ("data.size=5", r"data.size must be tuple\[int, int\], got int 5"),
        ("data.mean=1,x", r"data.mean\[1\] must be float, got str 'x'"),
        ("train=5", "train must hold the keys of TrainConfig, got 5"),
        ("train.epochs=0", "in train: epochs must be >= 1, got 0"),
        ("teacher.size=1,1", "'teacher.name' is required and not given"),
        ("seeds=[]", "the command line: seeds must not be empty"),
        ("data.name.first=1", "the command line: .*name"),
        ("epochs", "override 'epochs' must read key=value"),
        ("=3", "override '=3' must read key=value"),
        ("seeds=[1,2", "override 'seeds=.1,2': Imbalanced brackets"),
        (
            "seeds=[dict(a=1,b=2)]",
            "override 'seeds=.dict.a=1,b=2..': neither a Python literal nor a list of words",
        ),
    ],
)
def test_refused_overrides(override, message):
    with pytest.raises(UserError, match=message) as caught:
        load_config(None, Experiment, [override], defaults={"data": {"name": "x"}})
    assert "\n" not in str(caught.value)


def test_what_is_to_be_changed_is_named(tmp_path):
    """The command line, where the file alone would do; else the file."""
    path = write(tmp_path / "c.json", '{"data": {"name": "x"}}')
    with pytest.raises(UserError, match=r"^the command line: train\.epochs must be int"):
        load_config(path, Experiment, ["train.epochs=ten"])
    write(path, '{"data": {"name": "x"}, "seeds": "ten"}')
    with pytest.raises(UserError, match=r"^'.*c\.json': "):
        load_config(path, Experiment, ["note=x"])


def test_required_keys_are_asked_for():
    with pytest.raises(UserError, match="'data' is required and not given"):
        load_config(None, Experiment)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.py", "data = dict(name='x'\n", "c.py' cannot be read: SyntaxError"),
        ("c.py", "data = dict(name=unknown)\n", "cannot be read: NameError: name 'unknown' is not defined"),
        ("c.py", "_base_ = 'none.py'\n", "cannot be read: FileNotFoundError.*none.py"),
        ("c.py", "data = 1 / 0\n", "cannot be read: ZeroDivisionError"),
        ("c.yaml", "data: [1\n", "cannot be read"),
        (
            "c.yaml",
            "data: {name: x}\nseed: 1\ndata: {name: y}\n",
            "c.yaml' cannot be read: .*'data' is there twice",
        ),
        ("c.yml", "data: {name: x, name: y}\n", "cannot be read: .*'name' is there twice"),
        ("c.json", '{"data": {"name": "x", "name": "y"}}', "cannot be read: .*'name' is there twice"),
        (
            "c.py",
            "from mmengine.config import read_base\nwith read_base():\n    from .b import *\n",
            "uses read_base",
        ),
        ("c.txt", "data = 1\n", "cannot be read: (OSError|ValueError|TypeError)"),
        (
            "c.py",
            "data = dict(name='x', sise=(1, 2))\n",
            "c.py': unknown key 'data.sise', did you mean 'size'",
        ),
    ],
)
def test_broken_files(tmp_path, name, text, message):
    with pytest.raises(UserError, match=message) as caught:
        load_config(write(tmp_path / name, text), Experiment)
    assert "\n" not in str(caught.value)


def test_a_dumped_file_that_was_emptied_is_no_protocol_of_defaults(tmp_path):
    path = write(tmp_path / "config.py", "# nothing\n")
    with pytest.raises(UserError, match=r"config\.py' is empty"):
        load_config(path, Experiment, ["data.name=x"], dumped=True)


def test_merge_keys_of_yaml_are_no_second_ones(tmp_path):
    path = write(tmp_path / "c.yaml", "data: &x {name: x, size: [4, 4]}\n<<: {data: {<<: *x, name: y}}\n")
    assert load_config(path, Experiment).data.name == "x"
    path = write(tmp_path / "c.yaml", "train: {optimizer: &o {lr: 0.5}}\ndata: {name: z}\n")
    assert load_config(path, Experiment).data.name == "z"


def test_missing_file(tmp_path):
    with pytest.raises(MissingData, match=r"none\.py' not found"):
        load_config(tmp_path / "none.py", Experiment)


def test_defaults_are_not_changed(tmp_path):
    defaults = {"data": {"name": "x", "size": [1, 2]}}
    load_config(None, Experiment, ["data.name=y", "data.size=3,4"], defaults)
    assert defaults == {"data": {"name": "x", "size": [1, 2]}}


TEXT = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ["{{ fileDirname }}", "{{_base_.x}}", "{{$HOME:1}}"]
)
FLOATS = st.floats(allow_nan=False)
OPTIONS = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | TEXT,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(TEXT, inner, max_size=3)
    ),
    max_leaves=6,
)
DATA = st.builds(
    Data,
    name=TEXT,
    size=st.tuples(st.integers(), st.integers()),
    mean=st.lists(FLOATS, max_size=3).map(tuple),
    root=st.none() | st.just(Path("some/where")),
    options=st.dictionaries(TEXT, OPTIONS, max_size=2),
)
TRAIN = st.builds(
    TrainConfig,
    epochs=st.integers(1, 10**9),
    optimizer=st.builds(
        OptimizerConfig,
        name=st.sampled_from(["adam", "adamw"]),
        lr=st.floats(0, 10),
        groups=st.lists(st.tuples(TEXT, st.floats(0)), max_size=2).map(tuple),
    ),
    schedule=st.just(ScheduleConfig("step", (3, 5))),
    clip_grad_norm=st.none() | st.just(math.inf),
)


@examples(60)
@given(
    config=st.builds(
        Experiment,
        data=DATA,
        train=TRAIN,
        seeds=st.lists(st.integers(), min_size=1, max_size=3),
        note=TEXT,
        teacher=st.none() | DATA,
        width=st.integers() | FLOATS,
    )
)
def test_dumped_configuration_loads_back_equal(tmp_path_factory, config):
    path = tmp_path_factory.getbasetemp() / "dumped.py"
    dump_config(config, path)
    assert load_config(path, Experiment) == config
    assert load_config(path, Experiment, dumped=True) == config


def test_dumped_configuration_is_for_people(tmp_path):
    dump_config(Experiment(Data("x")), tmp_path / "c.py")
    lines = (tmp_path / "c.py").read_text().splitlines()
    assert lines[:3] == ["data = {", "    'name': 'x',", "    'size': (32, 32),"]
    assert "        'lr': 0.0001," in lines
    assert "network = 'resnet20'" in lines


EVIL = "import pathlib; pathlib.Path(%r).touch()"


@pytest.fixture
def trap(tmp_path):
    """Code that leaves a file, and whether it has."""
    return EVIL % str(tmp_path / "run"), (tmp_path / "run").exists


def evil_yaml(code):
    return f"note: !!python/object/apply:builtins.exec\n- {code!r}\n"


@pytest.mark.parametrize("name", ["c.yaml", "c.yml"])
@pytest.mark.parametrize("chain", ["itself", "base", "base of base", "base of a .py file", "unsafe name"])
def test_yaml_runs_no_code(tmp_path, name, chain, trap):
    code, has_run = trap
    evil = evil_yaml(code)
    if chain == "unsafe name":
        evil = "note: !!python/name:os.system\n"
    path = write(tmp_path / name, evil)
    if chain.startswith("base"):
        path = write(tmp_path / f"child-{name}", f"_base_: {name}\nnote: x\n")
    if chain == "base of base":
        path = write(tmp_path / f"grand{name}", f"_base_: [child-{name}]\nnote: x\n")
    if chain == "base of a .py file":
        path = write(tmp_path / "c.py", f"_base_ = ['child-{name}']\n")
    with pytest.raises(UserError, match="cannot be read: ConstructorError") as caught:
        load_config(path, Experiment)
    assert "\n" not in str(caught.value)
    assert not has_run()


@pytest.mark.parametrize("kind", ["yaml", "yml", "json"])
@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("placeholder", [False, True])
def test_data_build_on_no_program(tmp_path, kind, inner, placeholder, trap):
    """Neither by its name, nor from the middle of a chain, nor through what mmengine would put in."""
    code, has_run = trap
    write(tmp_path / "evil.py", f"{code}\ndata = dict(name='x')\n")
    text = '{"note": "a", {{$NOWHERE:"_base_":"evil.py""}} }' if placeholder else '{"_base_": "evil.py"}'
    path = write(tmp_path / f"c.{kind}", text)
    if inner:
        path = write(tmp_path / "c.py", f"_base_ = '{path.name}'\n")
    with pytest.raises(UserError, match=r"evil\.py' is a program|placeholders") as caught:
        load_config(path, Experiment)
    assert "\n" not in str(caught.value)
    assert not has_run()


def test_data_build_on_data_and_on_the_suites_own_protocols(tmp_path):
    from classification.config import CONFIGS, RunConfig

    own = CONFIGS / "resnet20_digits.py"
    write(tmp_path / "a.yaml", f"_base_: {own}\ntrain: {{epochs: 3, optimizer: {{lr: 0.5}}}}\n")
    path = write(tmp_path / "b.json", '{"_base_": "a.yaml", "train": {"epochs": 4}}')
    config = load_config(path, RunConfig)
    assert (config.train.epochs, config.train.optimizer.lr) == (4, 0.5)
    assert config.shrink == load_config(own, RunConfig).shrink
    loop = write(tmp_path / "c.yaml", "_base_: c.yaml\n")
    with pytest.raises(UserError, match="builds on this file itself"):
        load_config(loop, RunConfig)


def test_mmengine_reads_as_before_afterwards(tmp_path):
    from mmengine.fileio.handlers import file_handlers

    before = dict(file_handlers)
    load_config(write(tmp_path / "c.yaml", "data: {name: x}\n"), Experiment)
    assert file_handlers == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("import os", "line 3, is not 'name = value'"),
        ("%s", "line 3, is not 'name = value'"),
        ("note = __import__('os').getcwd()", "line 3: the value of 'note' is no literal"),
        ("note = [x for x in (1,)]", "line 3: the value of 'note' is no literal"),
        ("teacher = {\n 'name': open('x'),\n}", "line 4: the value of 'teacher' is no literal"),
        ("note = float('1')", "line 3: the value of 'note' is no literal"),
        ("note = f'{1}'", "no literal"),
        ("note = (lambda: 'x')()", "no literal"),
        ("note += 'x'", "is not 'name = value'"),
        ("data.name = 'x'", "is not 'name = value'"),
        ("note = network = 'x'", "is not 'name = value'"),
        ("_base_ = 'evil.py'", "unknown key '_base_'"),
        ("data = {'name': 'y'}", "line 3: 'data' is there twice"),
        ("note = {[]: 1}", "line 3: the value of 'note' is no literal"),
        ("note = 'x", "line 3 is damaged: unterminated string"),
        ("note = '{{$NOWHERE:x}}'", None),  # text, as it stands there
    ],
)
def test_what_was_dumped_is_data(tmp_path, line, message, trap):
    code, has_run = trap
    write(tmp_path / "evil.py", code)
    path = write(
        tmp_path / "config.py", "data = {'name': 'x'}\nwidth = 2\n" + (line % code if line == "%s" else line)
    )
    if message is None:
        assert load_config(path, Experiment, dumped=True).note == "{{$NOWHERE:x}}"
        return
    with pytest.raises(UserError, match=message) as caught:
        load_config(path, Experiment, dumped=True)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not has_run()


@pytest.mark.parametrize("content", [b"note = '\xff'\n", b"note = '\0'\n", b"note = " + b"(" * 5000])
def test_a_damaged_dump_is_named(tmp_path, content):
    (tmp_path / "config.py").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.py'.* is damaged"):
        load_config(tmp_path / "config.py", Experiment, dumped=True)


def test_only_what_can_be_read_back_is_dumped(tmp_path):
    import numpy as np

    path = tmp_path / "c.py"
    dump_config(Experiment(Data("x", options={"a": np.float64(0.5), "b": math.inf})), path)
    assert load_config(path, Experiment, dumped=True).data.options == {"a": 0.5, "b": math.inf}
    with pytest.raises(UserError, match=r"data\.options\.layers\[1\] is a type, which a work directory"):
        dump_config(Experiment(Data("x", options={"layers": [1, Path]})), tmp_path / "d.py")
    assert not (tmp_path / "d.py").exists()


def test_helper_variables_as_mmengines_users_write_them(tmp_path, capsys):
    write(
        tmp_path / "base.py",
        "n = 4\n_m = 2\nsides = [_m * n] * 2\nunit = n\ndata = dict(name='x', size=sides)\n",
    )
    path = write(
        tmp_path / "mine.py",
        "from math import pi\n_base_ = ['base.py']\ndefault_scope = 'mmengine'\nlr = 1 / pi\nwide = {{_base_.unit}}\n"
        "train = dict(epochs=_base_.n, optimizer=dict(lr=lr), batch_size=wide)\n",
    )
    config = load_config(path, Experiment, ["train.seed=1"])
    assert (config.data, config.train.epochs, config.train.batch_size) == (Data("x", (8, 8)), 4, 4)
    assert config.train.optimizer.lr == 1 / math.pi
    said = capsys.readouterr().err
    assert said == f"note: '{path}': no settings, and nothing uses them: default_scope\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "trian = dict(epochs=2)",
            "unknown key 'trian', and nothing in the file uses it: did you mean 'train'",
        ),
        ("epochs = 2", "unknown key 'epochs', .* did you mean 'train.epochs'"),
        ("LR = 0.5", "unknown key 'LR', .* did you mean 'train.optimizer.lr'"),
        ("custom_imports = dict(imports=['os'])", "'custom_imports' is for mmengine's Runner"),
        ("train = dict(_n=2)", "unknown key 'train._n'"),
    ],
)
def test_a_variable_that_is_a_misspelt_setting_is_told(tmp_path, line, message):
    path = write(tmp_path / "c.py", f"data = dict(name='x')\n{line}\n")
    with pytest.raises(UserError, match=message) as caught:
        load_config(path, Experiment)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.yaml", "data: {name: x}\n%s: 4\n"),
        ("c.json", '{"data": {"name": "x"}, "%s": 4}'),
        ("c.py", "_base_ = 'base.yaml'\ndata = dict(name='x')\n"),
    ],
)
@pytest.mark.parametrize("key", ["n", "_n", "default_scope"])
def test_data_have_no_variables(tmp_path, name, text, key):
    write(tmp_path / "base.yaml", f"{key}: 4\n")
    path = write(tmp_path / name, text % key if "%s" in text else text)
    with pytest.raises(UserError, match=f"unknown key '{key}'"):
        load_config(path, Experiment)


def test_what_a_program_says_of_itself_is_no_setting_of_a_dumped_file(tmp_path):
    path = write(tmp_path / "config.py", "n = 4\ndata = {'name': 'x'}\n")
    assert load_config(path, Experiment) == Experiment(Data("x"))
    with pytest.raises(UserError, match="unknown key 'n'"):
        load_config(path, Experiment, dumped=True)


@pytest.mark.parametrize(
    ("overrides", "get", "value"),
    [
        (["train.schedule.milestones.0=5"], lambda c: c.train.schedule.milestones, (5, 20)),
        (["train.schedule.milestones.1=30", "seeds.0=7"], lambda c: (c.train.schedule.milestones, c.seeds),
         ((10, 30), [7, 2])),
        (["train.optimizer.betas.0=0.5"], lambda c: c.train.optimizer.betas, (0.5, 0.999)),  # the schema's default
        (["data.options.layers.1.width=8"], lambda c: c.data.options["layers"], [{"width": 1}, {"width": 8}]),
        (["data.options.0=b"], lambda c: c.data.options["0"], "b"),  # a key of a mapping
        (["data.size=[1,2]", "data.size.1=3"], lambda c: c.data.size, (1, 3)),
    ],
)  # fmt: skip
def test_entries_of_lists_are_overridden(tmp_path, overrides, get, value):
    path = write(
        tmp_path / "c.py",
        "data = dict(name='x', options={'layers': [dict(width=1), dict(width=2)], '0': 'a'})\nseeds = [1, 2]\n"
        "train = dict(epochs=50, schedule=dict(name='step', milestones=(10, 20)))\n",
    )
    assert get(load_config(path, Experiment, overrides)) == value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.optimizer.betas.2=0.5", r"'train.optimizer.betas.2': train.optimizer.betas has 2 entries"),
        ("seeds.first=1", "seeds"),
        ("seeds.0.name=1", r"'seeds.0.name': seeds.0 is 0, which has no entries"),
        ("seeds.0=x", r"seeds\[0\] must be int, got str 'x'"),
        ("train.epochs.0=1", "epochs"),
    ],
)  # fmt: skip
def test_entries_that_are_not_there(override, message):
    with pytest.raises(UserError, match=message) as caught:
        load_config(None, Experiment, [override], {"data": {"name": "x"}})
    assert "\n" not in str(caught.value)
