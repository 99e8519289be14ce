"""A tracker's whole training as one configuration, and the parts that run it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from core.command_line.factories import is_factory, title
from core.errors import MissingData, NonFiniteOutput, UserError
from core.training.devices import in_all, place_among_processes
from core.training.seeding import seed_everything
from core.training.train import TrainConfig
from tracking.dimp.net import DiMPConfig, DiMPNet
from tracking.dimp.settings import TrackerSettings
from tracking.training.config import DataConfig, SourceConfig
from tracking.training.frame_cache import open_frame_cache
from tracking.training.frames import DecodedFrames
from tracking.training.loader import Inputs, SequenceLoader, Source
from tracking.training.losses import LossConfig, dimp_loss
from tracking.training.network import BackboneConfig, make_network
from tracking.training.sources import NothingThere, open_source


@dataclass(frozen=True)
class TrackingConfig:
    """A protocol of `shared_configs/tracking`.

    Args:
        name: of the run's folder.
        backbone: the trunk.
        network: sizes of the heads.
        init: weights of a whole tracker's network to start from.
        matched_filter: let fresh heads start with the target's own features, times this factor, as the first filter;
            None for the published random start.
        data: where sequences come from and how samples are made of them.
        loss: weights of the parts of the loss.
        train: the recipe. Groups of the optimiser are `feature_extractor` (the trunk), `classifier` with its
            `feature_extractor`, `filter_initializer` and `filter_optimizer`, and `bb_regressor`.
        tracker: settings of the trained tracker, beside those that follow from `data.views`.

    Raises:
        UserError: `tracker` holds an unknown setting, or a value with which no tracker can work.
    """

    name: str = "dimp"
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    network: DiMPConfig = field(default_factory=DiMPConfig)
    init: Path | None = None
    matched_filter: float | None = None
    data: DataConfig = field(default_factory=lambda: DataConfig(sources=(SourceConfig("demo"),)))
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    tracker: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        TrackerSettings().replaced(self.tracker)  # else the error would come after the training


def run_title(config: TrackingConfig, name: str | None = None) -> str:
    """The name of a run's folder: `name` (`--name`), else the protocol's, with that of a backbone of the user's own.

    Raises:
        UserError: `name` cannot be a folder's name.
    """
    backbone = config.backbone.name
    if name is not None:
        return title(backbone, name)
    return f"{config.name}-{title(backbone)}" if is_factory(backbone) else config.name


def trained_on(config: TrackingConfig) -> str:
    """The sources of a protocol's sequences, for checkpoints."""
    return ", ".join(
        f"{source.folder or source.dataset} {source.split or ''}".rstrip() for source in config.data.sources
    )


def build_network(config: TrackingConfig) -> DiMPNet:
    """The network that a protocol trains. Its fresh weights depend on `config.train.seed` alone.

    Raises:
        MissingData: a file of widths or weights is not there.
        UserError: it does not fit.
    """
    seed_everything(config.train.seed)
    return make_network(config.backbone, config.network, config.init, matched_filter=config.matched_filter)


def make_loader(config: TrackingConfig, root: Path, batch_size: int, seed: int) -> SequenceLoader:
    """The training batches of a protocol: reads annotations, and opens or makes the cache of frames.

    Args:
        config: the protocol.
        root: the data root (`core.storage.data.data_root`).
        batch_size: sequences per batch, over all processes.
        seed: of all random numbers.

    Raises:
        UserError: the sources or the protocol are wrong.
    """
    return _loader(config, config.data.sources, root, batch_size, config.data.sequences_per_epoch, seed)


def make_validation(config: TrackingConfig, root: Path) -> Callable[[nn.Module], Mapping[str, float]] | None:
    """The evaluation for `core.training.train.fit`: the losses on samples of other sequences, always the same ones.

    Returns:
        network -> `loss` and the parts that `dimp_loss` gives; None if the protocol names no sequences for it. It
        raises `NonFiniteOutput` if a loss is NaN or infinite. Launched processes share out the batches, and all
        have to call it.

    Raises:
        UserError: the sources are wrong.
    """
    data = config.data
    if not data.validation:
        return None
    batch_size = min(config.train.batch_size, data.validation_sequences)
    loader = _loader(config, data.validation, root, batch_size, data.validation_sequences, seed=0)

    def evaluate(network: nn.Module) -> dict[str, float]:
        device = next(network.parameters()).device

        def judge(inputs: Inputs, targets: Mapping[str, Tensor]) -> dict[str, float]:
            outputs = network(*(part.to(device, non_blocking=True) for part in inputs))
            loss, parts = dimp_loss(
                outputs, {name: part.to(device) for name, part in targets.items()}, config.loss
            )
            if not loss.isfinite():
                raise NonFiniteOutput(f"the loss on sequences for validation is {float(loss)}")
            return {name: float(value) for name, value in {"loss": loss, **parts}.items()}

        rank, world = place_among_processes()
        own = range(rank, len(loader), world)
        told = in_all(lambda: [judge(*batch) for batch in loader.batches(0, own)])
        # Summed in the order of a single process, whichever process evaluated them.
        batches = [told[number % world][number // world] for number in range(len(loader))]
        return {name: sum(batch[name] for batch in batches) / len(loader) for name in batches[0]}

    return evaluate


def make_loss(
    config: TrackingConfig,
) -> Callable[[tuple[Tensor, Tensor], Mapping[str, Tensor]], tuple[Tensor, dict[str, Tensor]]]:
    """`dimp_loss` with the protocol's weights."""
    return lambda outputs, targets: dimp_loss(outputs, targets, config.loss)


def _loader(
    config: TrackingConfig,
    sources: Sequence[SourceConfig],
    root: Path,
    batch_size: int,
    sequences: int,
    seed: int,
) -> SequenceLoader:
    data = config.data
    return SequenceLoader(
        sources=_open_all([source for source in sources if source.weight > 0], root, data),
        sampling=data.sampling,
        views=data.views,
        filter_size=config.network.filter_size,
        batch_size=batch_size,
        sequences_per_epoch=sequences,
        seed=seed,
        bad_images=data.bad_images,
        workers=data.workers,
    )


def _open_all(sources: Sequence[SourceConfig], root: Path, data: DataConfig) -> list[Source]:
    """The sources that have data. Those that may be incomplete are left out, with a warning, if they have none.

    The weights of the others keep their ratios: they count in relation to each other.
    """
    opened: list[Source] = []
    absent: list[NothingThere] = []
    for source in sources:
        try:
            opened.append(_open(source, root, data))
        except NothingThere as error:
            absent.append(error)
    if absent and not opened:
        raise MissingData(f"no source of sequences is there: {absent[0]}")
    for reason in absent:
        warnings.warn(f"a source of sequences is left out: {reason}", stacklevel=4)
    return opened


def _open(source: SourceConfig, root: Path, data: DataConfig) -> Source:
    usable = open_source(source, root).confined_to(data.sampling)
    if not data.cache.enabled:
        return Source(usable, DecodedFrames(usable.source), source.weight)
    frames = open_frame_cache(usable, data.cache)
    if frames.bad:
        reason = next(iter(frames.bad.values()))
        if data.bad_images == "error":
            raise UserError(f"{reason}; or leave such frames out with data.bad_images='skip'")
        warnings.warn(
            f"{usable.source.name}: {len(frames.bad)} frames skipped, the first: {reason}", stacklevel=2
        )
        usable = usable.without(frames.bad_rows(usable.rows), data.sampling)
    return Source(usable, frames, source.weight)
