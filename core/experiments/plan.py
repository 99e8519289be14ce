"""The plan of an experiment: its trials, and which seeds, controls and method it compares.

The work directory keeps it, so that a resume without these arguments goes on with exactly this plan.

    work_dir/plan.json      {"task", "seeds", "controls", "data_root", "method", "schema", "pretrained"}
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from core.errors import UserError
from core.methods.registry import BASELINE, METHODS
from core.storage.files import read_json, write_json
from core.storage.schema import lower
from core.widths.config import ShrinkConfig

PLAN_FILE = "plan.json"
EARLIER = (
    "begun by an earlier release, whose found networks started by other rules: trainings of that time keep their "
    "start, those that are added do not share it"
)
# Raised when a change of the code changes the result of a trial with the same key. 2: networks start as their factory
# would start them; 1: by rules read off values.
SCHEMA = 2
Start = Literal["scratch", "pretrained"]
FROM_SCRATCH = "-scratch"  # after a method's name: the network of its widths, trained from fresh weights
_NO_CONTROLS = ("baseline", "lwdna", "lwdna-scratch", "teacher")


def finder_of(method: str) -> str:
    """The method that finds the widths of a trial with this method name."""
    return method.removesuffix(FROM_SCRATCH)


@dataclass(frozen=True)
class Trial:
    """One method at one setting with one seed: the unit of all experiments.

    Attributes:
        method: "baseline", a method's name, or "lwdna" for the found network of a `run` command. `FROM_SCRATCH` is
            added if the network of these widths is trained from fresh weights while the others are fine-tuned.
        shrink: how widths are found; methods override the settings that define them.
        seed: of widths, weights and the order of the data.
    """

    method: str
    shrink: ShrinkConfig
    seed: int

    def __str__(self) -> str:
        return f"{self.method}, seed {self.seed}"

    @property
    def from_scratch(self) -> bool:
        """Whether it is the control of a trial that starts from trained weights."""
        return self.method.endswith(FROM_SCRATCH)

    @property
    def finder(self) -> Trial:
        """The trial whose widths this one has."""
        return replace(self, method=finder_of(self.method))


def grid(methods: Sequence[str], settings: Sequence[ShrinkConfig], seeds: Sequence[int]) -> list[Trial]:
    """All trials, seed by seed, so that a run that is stopped early has compared every method with the baseline.

    The baseline has no settings and is listed once per seed.
    """
    return [
        Trial(method, setting, seed)
        for seed in seeds
        for method in methods
        for setting in (settings[:1] if method == BASELINE else settings)
    ]


@dataclass(frozen=True)
class Plan:
    """What an experiment compares, beside its protocol.

    Attributes:
        task: whose experiment it is: "classification", ...
        seeds: of the repetitions, one after the other.
        controls: methods to compare with.
        data_root: `--data-root`, if it was given.
        method: `--method`, if it was given.
        schema: of the trials; an earlier one if an earlier release began the directory.
        pretrained: checksum of the trained weights; None without.
    """

    task: str
    seeds: tuple[int, ...]
    controls: tuple[str, ...] = ()
    data_root: str | None = None
    method: str | None = None
    schema: int = SCHEMA
    pretrained: str | None = None

    def __str__(self) -> str:
        controls = f"controls {', '.join(self.controls)}" if self.controls else "no controls"
        method = f"; method {self.method}" if self.method else ""
        return f"{_seeds_text(self.seeds)}; {controls}{method}"

    def save(self, folder: Path) -> None:
        """Write it into a work directory, atomically."""
        content = asdict(self)
        if self.pretrained is None:
            del content["pretrained"]
        write_json(folder / PLAN_FILE, content)


def new_plan(
    task: str,
    first_seed: int,
    seeds: int | None,
    controls: Sequence[str],
    data_root: str | None,
    method: str | None = None,
) -> Plan:
    """The plan of a fresh experiment: one seed and no controls unless they are asked for.

    Raises:
        UserError: fewer than one seed.
    """
    count = 1 if seeds is None else seeds
    if count < 1:
        raise UserError(f"seeds={count}: use at least 1")
    root = None if data_root is None else str(Path(data_root).expanduser().absolute())
    return Plan(
        task, tuple(range(first_seed, first_seed + count)), tuple(dict.fromkeys(controls)), root, method
    )


def stored_plan(folder: Path, task: str, first_seed: int, say: Callable[[str], object]) -> Plan:
    """The plan of a work directory; if an earlier release left none, the plan that its files show.

    Args:
        folder: the work directory.
        task: whose experiment is to go on.
        first_seed: the protocol's.
        say: called with a line about a plan that was derived.

    Raises:
        UserError: the plan is damaged, belongs to another task, or has other seeds than the protocol; or the directory
            holds no experiment.
    """
    path = folder / PLAN_FILE
    if not path.exists():
        return _derived(folder, task, first_seed, say)
    try:
        content = read_json(path)
        plan: Plan = lower(
            {"controls": None, "schema": 1, **content}, Plan
        )  # a file has to name its controls, even if there are none
        if not plan.seeds:
            raise ValueError("it has no seeds")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"'{path}' is damaged ({error}): it holds 'task', 'seeds' and 'controls'; restore it, or remove it to go "
            f"by the files that are there"
        ) from error
    if plan.task != task:
        raise UserError(f"'{path}' says that '{folder}' holds an experiment of {plan.task}, not of {task}")
    if plan.seeds != tuple(range(first_seed, first_seed + len(plan.seeds))):
        raise UserError(
            f"'{path}' names the seeds {list(plan.seeds)}, but the protocol beside it begins with {first_seed}"
        )
    return plan


def with_weights(plan: Plan, checksum: str | None, source: str | None, folder: Path) -> Plan:
    """A plan with the trained weights of its experiment.

    Args:
        plan: a new plan, or a stored one.
        checksum: of the weights as they are now; None without weights.
        source: what the user calls them.
        folder: the work directory, for the message.

    Raises:
        UserError: the experiment was begun with other weights.
    """
    if plan.pretrained not in (None, checksum):
        raise UserError(
            f"the weights in '{source}' are others than those that the run in '{folder}' began with: put these back, "
            f"or use another --work-dir"
        )
    return replace(plan, pretrained=checksum)


def extended(
    plan: Plan,
    folder: Path,
    seeds: int | None,
    controls: Sequence[str],
    data_root: str | None,
    method: str | None,
    say: Callable[[str], object],
) -> Plan:
    """A stored plan with the additions of a command line; nothing is ever removed.

    Args:
        plan: from `stored_plan`.
        folder: where it is kept, for messages.
        seeds: number of seeds afterwards; None for the planned number.
        controls: controls that the plan has to include.
        data_root: where the data are now; None for where they were.
        method: the found network's; None for the planned one.
        say: called with lines about the plan and the additions.

    Raises:
        UserError: fewer seeds than planned are asked for, or another method.
    """
    if method not in (None, plan.method):
        planned = f"--method {plan.method}" if plan.method else "the method of the protocol's section shrink"
        raise UserError(
            f"--method {method}: '{folder}' was begun with {planned}: leave --method out to go on, or use another "
            f"--work-dir; as a control it can be added"
        )
    say(f"'{folder}' goes on with its plan: {plan}")
    if plan.schema < SCHEMA:
        say(f"'{folder}': {EARLIER}")
    asked = new_plan(
        plan.task, plan.seeds[0], len(plan.seeds) if seeds is None else seeds, controls, data_root
    )
    if len(asked.seeds) < len(plan.seeds):
        raise UserError(
            f"--seeds {seeds}: '{folder / PLAN_FILE}' has {len(plan.seeds)}, and none of them is dropped: leave "
            f"--seeds out to go on, give more to add some, or use another --work-dir"
        )
    more_seeds = asked.seeds[len(plan.seeds) :]
    more_controls = tuple(name for name in asked.controls if name not in plan.controls)
    if more_seeds:
        say(f"added to the plan: {_seeds_text(more_seeds)}")
    if more_controls:
        say(f"added to the plan: controls {', '.join(more_controls)}")
    return replace(
        plan,
        seeds=plan.seeds + more_seeds,
        controls=plan.controls + more_controls,
        data_root=asked.data_root or plan.data_root,
    )


def _derived(folder: Path, task: str, first_seed: int, say: Callable[[str], object]) -> Plan:
    if (folder / "last.safetensors").exists():
        raise UserError(f"'{folder}' holds a single training, not an experiment: go on with tracking.train")
    found = {path.stem for path in folder.glob("widths/*.json")} | {
        path.name for path in folder.glob("runs/*")
    }
    parts = [match for name in sorted(found) if (match := re.fullmatch(r"(.+)-seed(\d+)", name))]
    methods = list(dict.fromkeys([*_reported_methods(folder), *(part[1] for part in parts)]))
    controls = tuple(name for name in methods if name in METHODS)
    others = [name for name in methods if name not in (*controls, *_NO_CONTROLS)]
    last = max((int(part[2]) for part in parts if part[1] not in others), default=first_seed)
    plan = Plan(task, tuple(range(first_seed, max(first_seed, last) + 1)), controls, schema=1)
    say(
        f"'{folder}' has no {PLAN_FILE}; its files show {plan}"
        + (f"; {', '.join(others)} there is unknown and left out" if others else "")
        + ". What had not begun is not known: --seeds and --controls add it"
    )
    return plan


def _reported_methods(folder: Path) -> list[str]:
    """The methods of an earlier result, in its order."""
    try:
        return [str(name) for name in read_json(folder / "result.json")["methods"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _seeds_text(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds))}"
