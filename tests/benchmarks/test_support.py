"""The support table: its list, what each stage finds out on networks with known answers, and resuming."""

from __future__ import annotations

import json
import os
import time
import types
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import benchmarks.support
from benchmarks.support import attempt, main
from benchmarks.support_networks import Network, networks
from benchmarks.support_report import FULL, NONE, USABLE, reasons, result_of, summary
from benchmarks.support_trial import UNFINISHED, Outcome, Trial, covered, differs, train
from core.errors import UserError
from core.graph.channels import trace_channels

GOOD = {"share": 1.0, "modes": ["evaluation", "training"], "reached": 0.8, "trained": True}


class Plain(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(8, 5))  # fmt: skip


class Unseen(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.from_numpy(x.detach().numpy()).sqrt())


class Toy(Network):
    def build(self) -> nn.Module:
        return {"plain": Plain, "unseen": Unseen}[self.name]()


def toy(name: str) -> tuple[Outcome, list[Outcome]]:
    """What is found out about a toy network, and all that was told on the way."""
    told: list[Outcome] = []
    return Trial(Toy(False, "toy", "convolutional", name, name, 16), told.append).run(onnx=False), told


def row(**found: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(asdict(Outcome()))), **found}


def test_the_list_keeps_its_promises(timm: types.ModuleType) -> None:
    from torchvision import models

    listed = networks()
    table = [network for network in listed if not network.aside]
    assert len(table) == 120
    assert len({network.family for network in table if network.kind == "convolutional"}) >= 70
    assert {network.kind for network in listed} == {"convolutional", "hybrid"}
    assert len({network.key for network in listed}) == len(listed)
    assert not {network.family for network in table} & {network.family for network in listed if network.aside}
    known = {"timm": set(timm.list_models()), "torchvision": set(models.list_models())}
    assert not [network.key for network in listed if network.name not in known[network.source]]


def test_a_line_with_other_columns_is_named(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("# names\n  table timm hybrid levit levit_128s 224 distillation=True\n table timm x\n")
    with pytest.raises(UserError, match=r"list\.txt:3: expected set, source"):
        networks(path)
    path.write_text(path.read_text().replace(" table timm x\n", ""))
    assert networks(path) == [
        Network(False, "timm", "hybrid", "levit", "levit_128s", 224, {"distillation": True})
    ]


def test_the_share_under_free_groups_is_the_definitions() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 4, 1))
    found = covered(trace_channels(model, torch.zeros(2, 3, 4, 4), freeze=("1",)))
    assert found["groups"] == 0  # what a frozen module reads is frozen as well
    assert found["share"] == 0
    found = covered(trace_channels(model, torch.zeros(2, 3, 4, 4), freeze=("2",)))
    assert found["groups"] == 1
    assert found["share"] == pytest.approx((3 * 8 + 8 * 6) / (3 * 8 + 8 * 6 + 6 * 4))
    assert found["half"] == pytest.approx((3 * 4 + 4 * 6 + 6 * 4) / (3 * 8 + 8 * 6 + 6 * 4))


def test_a_plain_network_passes_every_stage() -> None:
    outcome, told = toy("plain")
    assert not outcome.problems
    assert outcome.groups == 2
    assert outcome.share == 1
    assert outcome.difference is not None
    assert outcome.difference < 1e-12
    assert outcome.reached is not None
    assert outcome.reached <= 0.8
    assert outcome.trained
    assert outcome.start == outcome.alone == "equal"
    assert outcome.exported == "yes"
    assert told[0].problems == {"build": UNFINISHED}
    assert told[-1] == outcome


def test_a_refusal_keeps_its_reason_and_the_peers_figures() -> None:
    outcome, _ = toy("unseen")
    assert outcome.groups is None
    assert not outcome.trained
    assert list(outcome.seconds) == ["build", "trace", "peer"]
    assert "trace" in outcome.problems
    found = row(**json.loads(json.dumps(asdict(outcome))))
    assert result_of(found) == NONE
    assert any(line.startswith("trace: ") for line in reasons(found))


@pytest.mark.parametrize(
    ("change", "result"),
    [
        ({}, FULL),
        ({"share": 0.94}, USABLE),
        ({"modes": ["evaluation"]}, USABLE),
        ({"trained": False}, NONE),
        ({"share": 0.5, "reached": None}, NONE),
        ({"share": 0.5, "reached": 0.81}, NONE),
    ],
    ids=str,
)
def test_what_counts_as_supported(change: dict[str, Any], result: str) -> None:
    assert result_of(row(**{**GOOD, **change})) == result


def test_reasons_are_counted_by_kind() -> None:
    notes = [f"'mean' over a channel axis in '{place}': they keep" for place in "abc"]
    found = reasons(
        row(**GOOD, notes=[*notes, "'split' in 'd': they keep"], untested=2, problems={"export": "no"})
    )
    assert found == [
        "export: no",
        "frozen: 'mean' over a channel axis (3 places); 'split' (1 places)",
        "untested: 2 groups, of which no masked form is the cut one",
    ]


def test_a_family_is_what_the_worst_of_its_networks_is() -> None:
    found = [("a", FULL), ("a", NONE), ("b", USABLE), ("c", FULL)]
    rows = [row(network={"family": family}, result=result) for family, result in found]
    text = summary("All", rows, 3)
    assert text.startswith("All: 4 networks of 3 families. Full: 2 networks (50.0 %), 1 families (33.3 %)")
    assert "Full or usable: 3 networks (75.0 %), 2 families (66.7 %)" in text
    assert text.endswith("**3 networks of the list are not in this page.**")


def test_starts_that_differ_are_told() -> None:
    draws = [torch.randn(40, 50, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    assert differs(draws[0], draws[1], fixed=False) == ""
    assert "std" in differs(draws[0], 1.2 * draws[1], fixed=False)
    stray = draws[1].clone()
    stray[0, 0] = 100
    assert differs(draws[0], stray, fixed=False) == ""  # as torch's own trunc_normal_ draws now and then
    stray[1] = 100
    assert differs(draws[0], stray, fixed=False)
    assert "mean" in differs(draws[0], 0.2 + draws[1], fixed=False)
    assert "shape" in differs(draws[0], draws[1][:1], fixed=False)
    assert differs(torch.zeros(3), torch.zeros(3), fixed=True) == ""
    assert differs(torch.zeros(3), torch.ones(3), fixed=True)
    assert differs(draws[0], torch.zeros(40, 50), fixed=False)


def test_a_parameter_that_loses_its_gradient_is_told() -> None:
    class Cut(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).detach() + self[5].bias

    with pytest.raises(ValueError, match=r"5 parameters get no gradient, '0\.bias'"):
        train(Cut(), Plain(), torch.rand(2, 3, 16, 16))


def test_the_command_writes_the_page_and_goes_on(
    tmp_path: Path,
    timm: types.ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("torch_pruning")
    output = ["--output", str(tmp_path / "page"), "--jobs", "2"]
    assert main(["--networks", "lcnet_035", "torchvision/squeezenet1_1", *output]) == 0
    rows = {item["key"]: item for item in json.loads((tmp_path / "page.json").read_text())["networks"]}
    assert list(rows) == ["timm/lcnet_035", "torchvision/squeezenet1_1"]
    assert all(item["groups"] and item["share"] > 0.95 and item["trained"] for item in rows.values())
    assert rows["torchvision/squeezenet1_1"]["peer_groups"] == rows["torchvision/squeezenet1_1"]["groups"]
    text = (tmp_path / "page.md").read_text()
    assert "**118 networks of the list are not in this page.**" in text
    assert "| lcnet_035 (timm) |" in text
    assert (tmp_path / "page.png").stat().st_size > 0

    tried: list[str] = []

    def refuse(network: Network, arguments: Namespace) -> dict[str, Any]:
        tried.append(network.key)
        return row(problems={"trace": "refused"}, elapsed=0.0)

    monkeypatch.setattr(benchmarks.support, "attempt", refuse)
    assert main(output) == 0
    assert len(tried) == 118  # all but what is known already
    assert not set(rows) & set(tried)
    tried.clear()
    assert main([*output, "--aside"]) == 0
    assert len(tried) == len(networks()) - 120
    tried.clear()
    monkeypatch.setattr(benchmarks.support, "fingerprint", lambda versions, onnx: "other code")
    assert main(["--networks", "lcnet_035", *output]) == 0
    assert tried == ["timm/lcnet_035"]
    assert f"**{len(networks()) - 1} rows come from other code" in (tmp_path / "page.md").read_text()


def slow(network: Network, pipe: Any, *_: Any) -> None:
    pipe.send(row(groups=7, problems={"verify": UNFINISHED}))
    time.sleep(60)


def killed(network: Network, pipe: Any, *_: Any) -> None:
    pipe.send(row(groups=7, problems={"verify": UNFINISHED}))
    os._exit(9)


def never(network: Network, pipe: Any, *_: Any) -> None:
    os._exit(3)


@pytest.mark.parametrize(
    ("there", "seconds", "reason"),
    [(slow, 1, "not done after 1 s"), (killed, 60, "the process ended with status 9")],
    ids=["slow", "killed"],
)
def test_what_was_known_when_a_process_ended_stays(
    there: Any, seconds: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmarks.support, "try_there", there)
    found = attempt(networks()[0], Namespace(onnx=False, memory=1, threads=1, seconds=seconds))
    assert found["groups"] == 7
    assert found["problems"] == {"verify": reason}


def test_a_process_that_does_not_start_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks.support, "try_there", never)
    with pytest.raises(RuntimeError, match="timm/resnet18: the process ended with status 3"):
        attempt(networks()[0], Namespace(onnx=False, memory=1, threads=1, seconds=60))


def test_an_unknown_name_is_one_line(timm: types.ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch_pruning")
    assert main(["--networks", "lcnet_36"]) == 2
    error = capsys.readouterr().err
    assert "unknown network 'lcnet_36'" in error
    assert error.count("\n") == 1
