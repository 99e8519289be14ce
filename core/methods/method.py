"""A way of finding widths: its request, its result, and which settings it obeys, refuses and needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from core.errors import MissingData, UserError
from core.methods.candidates import ProxyConfig
from core.methods.dhp import DhpConfig
from core.methods.subject import Subject
from core.surgery.architecture import Architecture
from core.surgery.initialise import seeded
from core.training.train import TrainConfig
from core.widths.config import ShrinkConfig
from core.widths.space import Space, open_space

NO_SCORES = frozenset({"allocation", "vanish", "latency"})  # meaningless where nothing is scored
YOUNG: dict[str, Any] = {
    "vanish": 0.0,
    "taps": (),
    "outputs": "single",
    "keep_weights": False,
    "inexact": False,
}  # of `ShrinkConfig`; see `without_young`


@dataclass(frozen=True)
class SearchConfig:
    """What methods need beyond `ShrinkConfig`.

    Args:
        dhp: DHP's proximal gradient.
        proxy: candidates for the training-free proxies.
        accumulate_epochs: epochs of the baseline's training over which `accumulated` adds up.
        tilt: logarithm of the ratio of widths between the ends of a hand-made tilt.
        depth: what depth is worth beside widths; see `core.methods.depth_and_width`.
    """

    dhp: DhpConfig = field(default_factory=DhpConfig)
    proxy: ProxyConfig = field(default_factory=ProxyConfig)
    accumulate_epochs: int = 3
    tilt: float = 0.5
    depth: float = 1.0


@dataclass(frozen=True)
class Request:
    """One search for widths.

    Attributes:
        subject: what is trained.
        shrink: space, floors, budget, batches.
        train: the recipe, for methods that train while they search; its seed is the repetition's.
        search: see `SearchConfig`.
        fabric: device and processes.
        work_dir: for the checkpoints of methods that train.
        progress: show bars.
    """

    subject: Subject
    shrink: ShrinkConfig
    train: TrainConfig
    search: SearchConfig
    fabric: Fabric
    work_dir: Path
    progress: bool = False

    @property
    def seed(self) -> int:
        """The seed of the repetition."""
        return self.train.seed

    def epochs(self, batches: int) -> float:
        """A number of scoring batches, in epochs of the training set."""
        loader = self.subject.train_loader(self.train.batch_size, self.seed)
        return batches * self.shrink.batch_size / (len(loader) * self.train.batch_size)


@dataclass(frozen=True)
class Found:
    """Widths and what they cost to find.

    Attributes:
        architecture: the widths.
        epochs: images that went forward and backward through some network, in epochs of the training set.
        baseline_epochs: these epochs, weighed by what that network costs over the baseline: of a widened one nearly, by
            the square of the widening, as if no layer were frozen; of candidates, by the budget's ratio.
    """

    architecture: Architecture
    epochs: float = 0.0
    baseline_epochs: float = 0.0


@dataclass(frozen=True)
class Method:
    """A way of finding widths; docs/methods.md lists them all.

    Attributes:
        summary: one line for tables.
        find: the search.
        change: entries of `ShrinkConfig` that make the method what it is.
        refuses: those of "allocation", "vanish", "latency" (of the budget) and "weights" (that are kept) that mean
            nothing to it. It obeys all others.
        whole: whether it runs the whole network while it searches, so that no part can be searched alone.
        uses: entries of `SearchConfig` that its result depends on.
        trains: whether its result depends on the training recipe.
        needs: limits of the budget without which it cannot search: "flops".
        adapt: further changes to the configuration. Keys of stored results are made before these.
        package: the import name of an optional package that it needs, and the extra that installs it.
    """

    summary: str
    find: Callable[[Request], Found]
    change: Mapping[str, Any] = field(default_factory=dict)
    refuses: frozenset[str] = frozenset()
    whole: bool = False
    uses: tuple[str, ...] = ()
    trains: bool = False
    needs: tuple[str, ...] = ()
    adapt: Callable[[ShrinkConfig], ShrinkConfig] = lambda config: config
    package: tuple[str, str] | None = None

    @property
    def leaves_blocks_out(self) -> bool:
        """Whether it changes depth, whatever the protocol says."""
        return bool(self.config(ShrinkConfig()).vanish) or "depth" in self.uses

    def settings(self, shrink: ShrinkConfig) -> ShrinkConfig:
        """The configuration with the method's own entries in it; widths are multiples of both round_to."""
        change = dict(self.change)
        if "round_to" in change and isinstance(shrink.round_to, int):
            change["round_to"] = math.lcm(change["round_to"], max(1, shrink.round_to))
        return replace(shrink, **change)

    def check_config(self, name: str, shrink: ShrinkConfig, subject: Subject | None = None) -> None:
        """Find out beforehand which settings of a protocol the search cannot honour.

        Args:
            name: the method's, for the message.
            shrink: the protocol's.
            subject: whose widths are searched, if that is known.

        Raises:
            UserError: a setting means nothing to the method or is not allowed, or the subject is a part and the method
                runs whole networks.
        """
        if shrink.keep_weights and "weights" in self.refuses:
            raise UserError(
                f"method '{name}' makes networks with weights of its own and cannot choose among trained channels: use "
                f"a score, a control, a tilt or Torch-Pruning"
            )
        try:
            shrink = self.settings(shrink)
        except UserError as error:
            raise UserError(f"method '{name}': {error}") from error
        if shrink.vanish and "vanish" in self.refuses:
            raise UserError(f"method '{name}' cannot leave blocks out: set shrink.vanish to 0")
        if shrink.allocation != "threshold" and "allocation" in self.refuses:
            raise UserError(
                f"method '{name}' allocates no channels by their scores, so that shrink.allocation="
                f"'{shrink.allocation}' says nothing to it: set it to 'threshold'"
            )
        if shrink.budget.latency is not None and "latency" in self.refuses:
            raise UserError(f"method '{name}' knows no clock: leave latency out of shrink.budget")
        if self.whole and subject is not None and subject.part is not None:
            raise UserError(
                f"method '{name}' runs the whole network and cannot search a part of it, such as the backbone of "
                f"{subject.model_name}: use a score, a control or a tilt"
            )

    def check(self, name: str, shrink: ShrinkConfig, subject: Subject) -> None:
        """Find out beforehand what would stop the search for a subject, except a budget that cannot be reached.

        Raises:
            UserError: see `check_config`; or the budget lacks a limit that the search needs.
            MissingData: see `check_installed`.
        """
        self.check_installed()
        self.check_config(name, shrink, subject)
        for kind in self.needs:
            if getattr(shrink.budget, kind) is None:
                raise UserError(f"method '{name}' needs a limit on {kind}: add {kind}=... to the budget")

    def check_installed(self) -> None:
        """Find out beforehand what would stop the search after hours of other methods' trainings.

        Raises:
            MissingData: the package is not there.
        """
        if self.package is not None and find_spec(self.package[0]) is None:
            name, extra = self.package[0].replace("_", "-"), self.package[1]
            raise MissingData(
                f"{name} is not installed: install the extra, pip install -e '.[{extra}]', or leave the method out"
            )

    def config(self, shrink: ShrinkConfig) -> ShrinkConfig:
        """The settings with which it searches."""
        return self.adapt(self.settings(shrink))

    def decided_by(self, request: Request) -> dict[str, Any]:
        """Everything in the configuration that decides the widths, as plain data."""
        parts, recipe = asdict(request.search), request.train.decisive()
        del recipe["seed"]
        return {
            "shrink": {
                # The order of patterns counts.
                key: list(value.items())
                if key in ("floor", "ceiling") and isinstance(value, Mapping)
                else value
                for key, value in without_young(asdict(self.settings(request.shrink)), YOUNG).items()
            },
            "search": {name: parts[name] for name in self.uses},
            "train": recipe if self.trains else None,
            "seed": request.seed,
        }


def without_young(parts: dict[str, Any], young: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data without the entries that are at their defaults and younger than the first stores.

    Keys of stored results are made of such data, so results stored before an entry existed are still found.

    Args:
        parts: the data.
        young: entry -> its default.
    """
    return {key: value for key, value in parts.items() if key not in young or value != young[key]}


def open_request(request: Request) -> Space:
    """The space of a request; its limits are checked before anything is trained.

    Raises:
        UserError: see `core.widths.bounds.group_bounds`.
    """
    with seeded(request.seed):
        baseline, inputs = request.subject.searched(request.shrink.keep_weights)
    config = request.subject.traced(request.shrink)
    factory = request.subject.searched_factory
    space = open_space(baseline.to(request.fabric.device), inputs, config, seed=request.seed, factory=factory)
    config.bounds(space.graph)
    return space
