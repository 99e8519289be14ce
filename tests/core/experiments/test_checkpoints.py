"""What the header of a trained network's file tells of its training."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from core.experiments.checkpoints import header
from core.experiments.settings import TeacherConfig
from core.experiments.task import Described
from core.training.distillation import DistillationConfig
from core.training.divergence import Divergence
from core.training.train import TrainConfig


@dataclass(frozen=True)
class Widths:
    model: str = "net"


@dataclass(frozen=True)
class Plain:
    model: str = "net"
    folder: Path = Path("a/b")
    limit: float = float("inf")


def test_the_recipe_and_where_a_training_left_it_are_told() -> None:
    described = Described("a_task", Widths(), "digits", Plain())
    train = TrainConfig(epochs=3, seed=7)
    lowered = Divergence("the loss", 2, 11, 0.1, 5, lowered_to=0.01)
    told = header(described, "fisher", train, DistillationConfig(), TeacherConfig(), [lowered])
    origin = json.loads(told["origin"])
    assert (origin["dataset"], origin["method"], origin["seed"]) == ("digits", "fisher", 7)
    assert origin["recipe"]["train"]["epochs"] == 3
    assert origin["recipe"]["data"] == {"model": "net", "folder": "a/b", "limit": "inf"}
    assert origin["recipe"]["distillation"] == json.loads(json.dumps(asdict(DistillationConfig())))
    assert origin["notes"] == [f"{lowered}."]
    assert "from step 5 on at 0.01" in origin["notes"][0]
    plain = json.loads(header(described, "fisher", train, None, TeacherConfig(), [])["origin"])
    assert plain["recipe"].keys() == {"train", "data"}
    assert plain["notes"] == []
    assert json.loads(told["a_task"])["model"] == "net"
