"""Protocols of the comparison of trackers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from core.errors import UserError
from core.experiments.given import widths_file
from core.experiments.pretrained import PretrainedConfig
from core.methods.method import SearchConfig
from core.surgery.architecture import Architecture
from core.widths.config import ShrinkConfig
from tracking.dimp.backbones import trunk_architecture
from tracking.training import TrackingConfig


@dataclass(frozen=True)
class EvaluationConfig:
    """The section `evaluation` of a configuration: the data on which trained trackers are scored.

    Args:
        dataset: a name of `tracking.datasets.DATASETS`.
        split: part of it; None for its default.
        sequences: patterns of the sequences used; none for all.
        partial: use what is there of a benchmark that is not complete.
    """

    dataset: str = "demo"
    split: str | None = None
    sequences: tuple[str, ...] = ()
    partial: bool = False


@dataclass(frozen=True)
class RunConfig(TrackingConfig, PretrainedConfig):
    """A protocol of the comparison: that of a training, and how widths are found and trackers compared.

    Its entries `pretrained` and `start` are those of `PretrainedConfig`; the weights are those of the regular backbone,
    as a classifier's.

    Args:
        shrink: how the backbone's widths are found, unless `found_widths` gives them.
        search: options of single methods of finding widths.
        found_widths: widths of the backbone, a file or a name that ships, of the whole ResNet as classification finds
            it or of the trunk.
        found_weights: weights of a classifier of these widths to start from; the regular one's are `backbone.weights`.
        evaluation: the data on which trained trackers are scored.

    Raises:
        UserError: the section `backbone` names widths, although found backbones are compared with the regular one; or
            one backbone would start from trained weights and the other at random; or see `TrackingConfig` and
            `PretrainedConfig`.
    """

    shrink: ShrinkConfig = field(default_factory=ShrinkConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    found_widths: Path | None = None
    found_weights: Path | None = None
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        TrackingConfig.__post_init__(self)
        PretrainedConfig.__post_init__(self)
        if self.backbone.widths is not None or self.init is not None:
            raise UserError(
                "the comparison starts from regular widths and fresh heads: name widths with found_widths, and "
                "leave out backbone.widths and init"
            )
        if self.start == "pretrained" and (self.backbone.weights or self.found_weights):
            raise UserError(
                "--start pretrained starts all backbones from --pretrained: leave out --backbone-weights and "
                "--found-weights"
            )
        if self.found_weights is not None and self.found_widths is None:
            raise UserError("--found-weights are of given widths: name these with --widths")
        if (self.backbone.weights is None) != (self.found_weights is None):
            one, other = "--backbone-weights", "--found-weights"
            if self.backbone.weights is None:
                one, other = other, one
            raise UserError(
                f"{one} without {other}: one backbone would start from trained weights and the other at random; name "
                "both, or --pretrained FILE --start pretrained, which keeps the found channels of the regular "
                "backbone's weights"
            )


def given_architecture(config: RunConfig) -> Architecture | None:
    """The widths that the protocol gives, priced on the tracker's crops; None if they have to be found.

    Raises:
        UserError: there is no such file; ArchitectureError: a damaged one, or widths of another network.
    """
    if config.found_widths is None:
        return None
    return trunk_architecture(
        config.backbone.name, Architecture.load(widths_file(config.found_widths)), config.data.views.crop
    )
