"""The plan of an experiment: what is stored, what a command line adds, what an old work directory shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.errors import UserError
from core.experiments.plan import PLAN_FILE, Plan, extended, new_plan, stored_plan

PLAN = Plan("toy", (5, 6, 7), ("random", "uniform"), "/data")


def silent(line: str) -> None:
    """Nobody listens."""


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    PLAN.save(tmp_path)
    assert stored_plan(tmp_path, "toy", 5, silent) == PLAN
    assert json.loads((tmp_path / PLAN_FILE).read_text())["seeds"] == [5, 6, 7]


def test_a_fresh_one(tmp_path: Path) -> None:
    assert new_plan("toy", 3, None, [], None) == Plan("toy", (3,))
    assert new_plan("toy", 3, 2, ["random", "random"], None) == Plan("toy", (3, 4), ("random",))
    assert Path(new_plan("toy", 3, 2, [], "d").data_root or "").is_absolute()
    with pytest.raises(UserError, match="seeds=0"):
        new_plan("toy", 0, 0, [], None)


@pytest.mark.parametrize(
    ("seeds", "controls", "root", "expected", "news"),
    [
        (None, [], None, PLAN, []),
        (3, ["uniform"], None, PLAN, []),
        (5, [], None, Plan("toy", (5, 6, 7, 8, 9), PLAN.controls, "/data"), ["seeds 8, 9"]),
        (4, ["magnitude"], "/new", Plan("toy", (5, 6, 7, 8), ("random", "uniform", "magnitude"), "/new"),
         ["seed 8", "controls magnitude"]),
    ],
)  # fmt: skip
def test_a_command_line_adds_and_never_drops(
    seeds: int | None, controls: list[str], root: str | None, expected: Plan, news: list[str], tmp_path: Path
) -> None:
    said: list[str] = []
    assert extended(PLAN, tmp_path, seeds, controls, root, None, said.append) == expected
    assert said[0].endswith("goes on with its plan: seeds 5, 6, 7; controls random, uniform")
    assert said[1:] == [f"added to the plan: {new}" for new in news]


@pytest.mark.parametrize("seeds", [0, 1, 2])
def test_fewer_seeds_are_refused(seeds: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"plan\.json' has 3, and none of them is dropped|use at least 1"):
        extended(PLAN, tmp_path, seeds, [], None, None, silent)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"task": "toy", "seeds": [], "controls": []}',
        '{"task": "toy", "seeds": [true], "controls": []}',
        '{"task": "toy", "seeds": 3, "controls": []}',
        '{"task": "toy", "seeds": [5], "controls": "random"}',
        '{"task": "toy", "seeds": [5], "controls": [], "data_root": 1}',
        '{"task": 1, "seeds": [5], "controls": []}',
    ],
)
def test_a_damaged_one_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / PLAN_FILE).write_text(text)
    with pytest.raises(UserError, match=r"plan\.json' is damaged") as caught:
        stored_plan(tmp_path, "toy", 5, silent)
    assert "\n" not in str(caught.value)


def test_one_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    PLAN.save(tmp_path)
    with pytest.raises(UserError, match="holds an experiment of toy, not of tracking"):
        stored_plan(tmp_path, "tracking", 5, silent)
    with pytest.raises(UserError, match=r"seeds \[5, 6, 7\], but the protocol beside it begins with 0"):
        stored_plan(tmp_path, "toy", 0, silent)


def test_an_old_work_directory_shows_what_was_begun(tmp_path: Path) -> None:
    for name in ("lwdna-seed5", "random-seed5", "random-seed6"):
        (tmp_path / "widths" / f"{name}.json").parent.mkdir(exist_ok=True)
        (tmp_path / "widths" / f"{name}.json").touch()
    for name in (
        "baseline-seed5",
        "baseline-seed6",
        "baseline-seed7",
        "teacher-seed5",
        "mine-seed9",
        "notes",
    ):
        (tmp_path / "runs" / name).mkdir(parents=True)
    said: list[str] = []
    assert stored_plan(tmp_path, "toy", 5, said.append) == Plan("toy", (5, 6, 7), ("random",), schema=1)
    assert "has no plan.json; its files show seeds 5, 6, 7; controls random; mine there is unknown" in said[0]
    assert "--seeds and --controls add it" in said[0]
    # An earlier report gives the order of the methods.
    (tmp_path / "result.json").write_text(
        '{"methods": {"baseline": {}, "lwdna": {}, "uniform": {}, "random": {}}}'
    )
    assert stored_plan(tmp_path, "toy", 5, silent).controls == ("uniform", "random")
    (tmp_path / "result.json").write_text("damaged")
    assert stored_plan(tmp_path, "toy", 5, silent).controls == ("random",)


def test_a_single_training_is_no_experiment(tmp_path: Path) -> None:
    (tmp_path / "last.safetensors").touch()
    with pytest.raises(UserError, match="a single training"):
        stored_plan(tmp_path, "tracking", 0, silent)
