"""Every method obeys the whole configuration, or refuses by name what docs/methods.md says it refuses."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from core.errors import MissingData, UserError
from core.graph.channels import ChannelGraph
from core.graph.complexity import count
from core.methods.candidates import ProxyConfig
from core.methods.dhp import DhpConfig
from core.methods.method import Request, SearchConfig
from core.methods.peers import PEERS
from core.methods.registry import METHODS, find
from core.methods.subject import Subject
from core.training.train import OptimizerConfig, TrainConfig, make_fabric
from core.widths.budget import Budget
from core.widths.config import ShrinkConfig
from core.widths.space import open_space
from tests.properties import examples

IMAGE = torch.zeros(1, 3, 8, 8)
QUICK = SearchConfig(dhp=DhpConfig(strength=1.0, max_epochs=1, check_every=1, embedding=1), proxy=ProxyConfig(3, 2),
                     accumulate_epochs=1)  # fmt: skip
TRAIN = TrainConfig(epochs=1, batch_size=4, optimizer=OptimizerConfig(lr=0.05))
SETTINGS = ("allocation", "latency", "vanish", "weights")


class Block(nn.Module):
    """A residual block that can be left out."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner)
        self.relu = nn.ReLU()
        self.conv2, self.bn2 = nn.Conv2d(inner, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))


class Network(nn.Module):
    """A trunk with residual blocks, a grouped convolution, whose channels come in steps, and a classifier."""

    def __init__(self, groups: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.blocks = nn.Sequential(Block(12, 10), Block(12, 18), Block(12, 18))
        self.down = nn.Conv2d(12, 24, 3, stride=2, padding=1)
        self.relu = nn.ReLU()
        self.grouped = nn.Conv2d(24, 24, 3, padding=1, groups=groups)
        self.head = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.down(self.blocks(self.stem(x))))
        return self.head(self.relu(self.grouped(x)).mean((2, 3)))


@dataclass(frozen=True)
class Noise:
    """Two batches."""

    batch_size: int = 4

    def __len__(self) -> int:
        return 2

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(epoch)
        for _ in range(start, 2):
            yield torch.rand(4, 3, 8, 8, generator=generator), torch.arange(4) % 3

    def shard(self, rank: int, world: int) -> Noise:
        return self


SUBJECT = Subject(model_name="net", build=Network, example_inputs=IMAGE, train_loader=lambda size, seed: Noise(),
                  loss_fn=nn.functional.cross_entropy)  # fmt: skip


def groups_of(name: str) -> int:
    """Torch-Pruning cuts a grouped convolution apart, and is refused."""
    return 1 if name in PEERS else 2


def network_for(name: str) -> Network:
    return Network(groups_of(name))


def request(name: str, config: ShrinkConfig, folder: str) -> Request:
    return Request(
        replace(SUBJECT, build=lambda: network_for(name)),
        config,
        TRAIN,
        QUICK,
        make_fabric("cpu"),
        Path(folder),
    )


REACHED: dict[str, tuple[int, int]] = {}  # by configuration: see `reach`
fractions = st.sampled_from([0.0, 0.25, 0.3, 0.41])
floors = fractions | st.fixed_dictionaries({"*": fractions, "blocks.1.*": st.sampled_from([0.1, 0.5])})
tops = st.sampled_from([0.7, 0.85, 1.0])
ceilings = tops | st.fixed_dictionaries({"*": tops, "down": st.sampled_from([0.6, 0.75])})


@st.composite
def configs(draw: Any) -> ShrinkConfig:
    """Floors, ceilings, multiples, what is frozen and tied, and a budget that can be reached."""
    config = ShrinkConfig(
        floor=draw(floors),
        ceiling=draw(ceilings),
        round_to=draw(st.sampled_from([1, 2, 8, 16])),
        freeze=draw(st.sampled_from([(), ("blocks.0.*",), ("stem",)])),
        ties=draw(st.sampled_from([(), (("blocks.1.conv1", "blocks.2.conv1"),)])),
        batch_size=4,
    )
    low, high = reach(config)
    assume(low < high)
    share = draw(st.sampled_from([0.2, 0.5, 0.8]))
    return replace(config, budget=Budget(flops=low + round(share * (high - low))))


@cache
def widened(groups: int, freeze: tuple[str, ...], ties: tuple[tuple[str, str], ...]) -> ChannelGraph:
    """The groups that are searched: of a configuration they depend on no more than this, and on no weight."""
    with torch.device("meta"):
        model, inputs = Network(groups), torch.empty(IMAGE.shape)
    return open_space(model, inputs, ShrinkConfig(freeze=freeze, ties=ties), seed=0).graph


def reach(config: ShrinkConfig) -> tuple[int, int]:
    """The least and the most FLOPs that every method can reach; all methods are tried on the same configurations."""
    key = repr(config)
    if key not in REACHED:
        low, high = 0, 10**9
        for groups, own in (
            (2, 1),
            (2, 8),
            (1, 1),
        ):  # `gradient-rounded` and the peers have limits of their own
            graph = widened(groups, config.freeze, config.ties)
            bounds = replace(config, round_to=math.lcm(config.round_to, own)).bounds(graph)
            low = max(low, int(graph.cost("paper", bounds.low)))
            high = min(high, int(graph.cost("paper", bounds.high)))
        REACHED[key] = low, high
    return REACHED[key]


def limit(setting: Any, name: str, otherwise: float) -> float:
    """The fraction of a group: of the patterns that fit it the last one."""
    if not isinstance(setting, dict):
        return float(setting)
    fitting = [value for pattern, value in setting.items() if fnmatchcase(name, pattern)]
    return fitting[-1] if fitting else otherwise


@pytest.mark.parametrize("name", METHODS)
@settings(examples(8), phases=[Phase.generate])  # a failure costs no minutes
@given(config=configs())
def test_every_method_obeys_the_configuration(name: str, config: ShrinkConfig) -> None:
    try:
        METHODS[name].check_installed()
    except MissingData as error:
        pytest.skip(str(error))
    with tempfile.TemporaryDirectory() as folder:
        arch = find(name, request(name, config, folder)).architecture
    wide = widened(groups_of(name), config.freeze, config.ties)
    assert bool(arch.removed) <= any(word in name for word in ("depth", "shallow", "receptive"))
    for group in wide.groups:
        if any(group.name.startswith(f"{block}.") for block in arch.removed):
            assert group.name not in arch.widths
            continue
        width, own = arch.widths[group.name], 8 if name == "gradient-rounded" else 1
        multiple = math.lcm(group.step, config.round_to, own)
        if group.width < multiple:
            assert width == group.width
            continue
        assert width % multiple == 0
        least = int(limit(config.floor, group.name, 0.0) * group.width / multiple + 1e-9) * multiple
        most = int(limit(config.ceiling, group.name, 1.0) * group.width / multiple + 1e-9) * multiple
        assert max(least, multiple) <= width <= max(most, least, multiple)
    built = arch.build(network_for(name), seed=0)
    assert count(built, IMAGE, "paper") == arch.costs[0].paper <= int(config.budget.flops or 0)
    layers = dict(built.named_modules())
    for pattern in config.freeze:
        for layer, module in Network().named_modules():
            if fnmatchcase(layer, pattern) and isinstance(module, nn.Conv2d) and layer in layers:
                assert layers[layer].out_channels == module.out_channels
    for tie in config.ties:
        assert len({layers[layer].out_channels for layer in tie if layer in layers}) <= 1


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_refuses_is_the_tables(name: str) -> None:
    changes = {
        "allocation": ShrinkConfig(allocation="equalised"),
        "latency": ShrinkConfig(budget=Budget(flops=0.9, latency="1ms")),
        "vanish": ShrinkConfig(vanish=0.4),
        "weights": ShrinkConfig(widen=1, keep_weights=True),
    }
    assert changes.keys() == set(SETTINGS)
    for setting, config in changes.items():
        if setting in table()[name][1]:
            with pytest.raises(
                UserError, match=rf"method '{name}' .*{'blocks' if setting == 'vanish' else setting}"
            ):
                METHODS[name].check_config(name, config)
        else:
            METHODS[name].check_config(name, config)


def table() -> dict[str, tuple[str, set[str], bool]]:
    """docs/methods.md: name -> (what it does, what it refuses, whether a part can be searched)."""
    text = (Path(__file__).parents[3] / "docs/methods.md").read_text(encoding="utf-8").replace("\\|", "\0")
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| `")]
    cells = [[cell.strip().replace("\0", "|") for cell in row] for row in rows]
    return {
        name.strip("`"): (
            summary,
            {word.strip() for word in refuses.split(",") if word.strip()},
            part == "yes",
        )
        for name, summary, _, refuses, part in cells
    }


def test_the_table_of_methods_is_that_of_the_code() -> None:
    assert table() == {name: (m.summary, set(m.refuses), not m.whole) for name, m in METHODS.items()}
    assert list(table()) == list(METHODS)


def test_result_pages_describe_methods_as_the_code_does() -> None:
    pages = (Path(__file__).parents[3] / "docs/results").glob("*.md")
    told = [
        pair for page in pages for pair in re.findall(r"^- `([\w-]+)`: (.*)$", page.read_text(), re.MULTILINE)
    ]
    summaries = [(name, text) for name, text in told if name in METHODS]
    assert len(summaries) > 30
    assert summaries == [(name, METHODS[name].summary) for name, _ in summaries]
