"""Options of a tracker's training: where the sequences come from, which frames are drawn, how they are cut."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from core.errors import UserError
from core.training.recipe import require_range

BadImages = Literal["error", "skip"]


@dataclass(frozen=True)
class SourceConfig:
    """One source of training sequences.

    Args:
        dataset: a name of `tracking.datasets.DATASETS`, "coco", or "folder".
        split: part of the data set; None for its training part.
        folder: the path for dataset="folder", under the data root unless it is absolute.
        weight: how often it is drawn, in relation to the other sources.
        sequences: patterns of the sequences used; none for all.
        names: a text file of sequence names, one a line, to which the source is confined.
        partial: use what is there of a benchmark that is not complete.

    Raises:
        UserError: a value is out of range, or `folder` and `dataset` do not belong together.
    """

    dataset: str
    split: str | None = None
    folder: Path | None = None
    weight: float = 1.0
    sequences: tuple[str, ...] = ()
    names: Path | None = None
    partial: bool = False

    def __post_init__(self) -> None:
        require_range("weight", self.weight, 0, math.inf)
        if (self.dataset == "folder") != (self.folder is not None):
            raise UserError(
                f"folder=PATH belongs to dataset='folder', got {self.folder} for '{self.dataset}'"
            )


@dataclass(frozen=True)
class SamplingConfig:
    """Which frames of a sequence make a training sample (DiMP: Bhat et al., ICCV 2019, section 4.1).

    Args:
        train_frames: N, the frames that the target model is made from: a base frame and earlier ones.
        test_frames: M, the frames on which it is tested, later than the base.
        max_gap: largest distance from the base frame, in frames.
        gap_step: growth of that distance if no frame can be used.
        min_frames: shorter videos are left out.
        min_visible: videos with fewer usable frames are left out.
        min_target: smallest sqrt(width * height) of a usable target, in image pixels.

    Raises:
        UserError: a value is out of range.
    """

    train_frames: int = 3
    test_frames: int = 3
    max_gap: int = 30
    gap_step: int = 5
    min_frames: int = 20
    min_visible: int = 13
    min_target: float = 4.0

    def __post_init__(self) -> None:
        for name, least in (
            ("train_frames", 1),
            ("test_frames", 1),
            ("max_gap", 1),
            ("gap_step", 1),
            ("min_frames", 2),
            ("min_visible", 3),
            ("min_target", 1),
        ):
            require_range(name, getattr(self, name), least, math.inf)


@dataclass(frozen=True)
class JitterConfig:
    """How far a crop is from the target that it shows.

    Args:
        scale: the crop's width and height are each times exp(`scale` * N(0, 1)).
        shift: its centre moves by up to `shift` / 2 of its mean side, per axis.
    """

    scale: float
    shift: float

    def __post_init__(self) -> None:
        for name in ("scale", "shift"):
            require_range(name, getattr(self, name), 0, math.inf)


@dataclass(frozen=True)
class ViewConfig:
    """How a sample's frames are cropped and varied. The defaults are DiMP-50's.

    Args:
        crop: side of a crop in pixels, a multiple of 16.
        area_factor: side of the square around the target, in units of sqrt(width * height).
        train_jitter: of the frames that the target model is made from.
        test_jitter: of the frames on which it is tested.
        grey: probability that all frames of a sample lose their colours.
        brightness: each frame is times a factor between 1 - `brightness` and 1 + `brightness`.
        flip: probability that all frames of a sample are mirrored.
        swap_colours: probability that red, green and blue change places, in all frames of a sample alike: more colours
            where there are few targets to learn from.
        tint: red, green and blue of all frames of a sample are each times a factor, exp(-`tint`) to exp(`tint`).
        label_sigma: standard deviation of the label's peak, in score cells of 16 pixels.
        proposals: boxes per test frame whose overlap is to be predicted.
        proposal_sigmas: spreads of the proposals, in units of sqrt(width * height); each draws one of them.
        min_iou: smallest overlap of a proposal with the target.

    Raises:
        UserError: a value is out of range.
    """

    crop: int = 288
    area_factor: float = 5.0
    train_jitter: JitterConfig = JitterConfig(0.25, 3.0)
    test_jitter: JitterConfig = JitterConfig(0.5, 4.5)
    grey: float = 0.05
    brightness: float = 0.2
    flip: float = 0.0
    swap_colours: float = 0.0
    tint: float = 0.0
    label_sigma: float = 0.9
    proposals: int = 8
    proposal_sigmas: tuple[float, ...] = (0.01, 0.05, 0.1, 0.2, 0.3)
    min_iou: float = 0.1

    def __post_init__(self) -> None:
        if self.crop < 32 or self.crop % 16:
            raise UserError(f"crop must be a multiple of 16 from 32 on, got {self.crop}")
        require_range("area_factor", self.area_factor, 1, math.inf)
        for name in ("grey", "flip", "swap_colours", "brightness", "tint"):
            require_range(name, getattr(self, name), 0, 1)
        require_range("min_iou", self.min_iou, 0, 0.9)
        require_range("proposals", self.proposals, 1, math.inf)
        if not self.label_sigma > 0:
            raise UserError(f"label_sigma must be above 0, got {self.label_sigma}")
        if not self.proposal_sigmas or not all(0 < sigma < math.inf for sigma in self.proposal_sigmas):
            raise UserError(f"proposal_sigmas must be numbers above 0, got {self.proposal_sigmas}")


@dataclass(frozen=True)
class CacheConfig:
    """Frames decoded once into a memory-mapped file, reduced and cropped to the surroundings of the target.

    Args:
        enabled: False decodes the frames during training, for data sets that are too large to be kept decoded.
        target: larger targets are reduced to this sqrt(width * height), in pixels. Below crop / area_factor, crops are
            blurred.
        reach: how much of the image is kept to each side of the target, in units of sqrt(width * height); a crop
            that reaches further repeats the border there.
        folder: where it lies; None keeps it beside the frames if that folder can be written.
    """

    enabled: bool = False
    target: float = 64.0
    reach: float = 8.0
    folder: Path | None = None

    def __post_init__(self) -> None:
        require_range("target", self.target, 4, math.inf)
        require_range("reach", self.reach, 1, math.inf)


@dataclass(frozen=True)
class DataConfig:
    """The section `data` of a configuration.

    Args:
        sources: where samples are drawn from.
        sequences_per_epoch: samples of one epoch, drawn with replacement.
        validation: sources of the samples on which the losses are watched; none for no validation.
        validation_sequences: how many of them.
        sampling: which frames.
        views: how they are cut.
        cache: whether and how frames are kept decoded.
        bad_images: "error" stops at a frame that cannot be read, "skip" draws another sample and counts.
        workers: processes that prepare batches, no more than there are cores; 0 prepares them in the training process.

    Raises:
        UserError: a value is out of range.
    """

    RENAMED: ClassVar[dict[str, str]] = {"bad_frames": "bad_images"}

    sources: tuple[SourceConfig, ...] = ()
    sequences_per_epoch: int = 26_000
    validation: tuple[SourceConfig, ...] = ()
    validation_sequences: int = 5_000
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    views: ViewConfig = field(default_factory=ViewConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    bad_images: BadImages = "error"
    workers: int = 8

    def __post_init__(self) -> None:
        require_range("workers", self.workers, 0, math.inf)
        for name in ("sequences_per_epoch", "validation_sequences"):
            require_range(name, getattr(self, name), 1, math.inf)
        if not any(source.weight > 0 for source in self.sources):
            raise UserError("sources names nothing to train on: give at least one with a weight above 0")
