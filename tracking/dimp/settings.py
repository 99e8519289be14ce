"""All settings of online tracking that are chosen, not learned, with the published presets.

The presets' values are those of the settings files that were published with DiMP-50 (Bhat et al., ICCV 2019); the VOT
presets belong to the VOT 2018 and 2019 challenges.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from core.errors import UserError, check_known

STRIDE = 16  # stride of the classification features
# Settings, their type, their least value, and the value that they have to stay below.
_RANGES: tuple[tuple[str, type, float, float], ...] = (
    # Memory and time grow with these, and a checkpoint may name them.
    ("crop_size", int, 1, 4096),
    ("memory_size", int, 1, 2**16),
    ("first_iterations update_iterations hard_negative_iterations refinement_iterations", int, 0, 2**16),
    ("dropout_samples random_boxes", int, 0, 2**12),
    ("augmentation_expansion search_area", float, 1, 100),
    ("train_skipping refinement_average", int, 1, math.inf),
    ("maximal_aspect_ratio", float, 1, math.inf),
    ("random_shift target_neighbourhood displacement target_inside", float, 0, math.inf),
    ("jitter_position jitter_size refinement_step refinement_decay", float, 0, math.inf),
    ("learning_rate hard_negative_learning_rate initial_minimum_weight dropout", float, 0, 1),
)


@dataclass(frozen=True)
class TrackerSettings:
    """How a DiMP tracker works on a video; the defaults are DiMP-50's.

    Attributes:
        crop_size: side of the search crop in pixels, a multiple of 16.
        search_area: its side in the image, in units of sqrt(w h) of the target.
        memory_size: number of training samples kept, including those of the first frame.
        learning_rate: weight of a new sample.
        hard_negative_learning_rate: the same when a distractor was seen.
        initial_minimum_weight: the least share of the total weight that the first frame's samples keep together.
        train_skipping: frames between two regular improvements of the filter.
        first_iterations: steepest-descent steps in the first frame.
        update_iterations: the same in a regular improvement.
        hard_negative_iterations: the same when a distractor was seen.
        augmentation_expansion: side of the patch that first-frame augmentations are cut from, in crops.
        random_shift: range of the random shift of augmented samples, from end to end, as a fraction of the crop's side.
        translations: shifts of the first frame's samples, in halves of the crop's side.
        flip: whether a mirror image is among them.
        blurs: standard deviations (x, y) of Gaussian blurs, in crop pixels.
        rotations: angles, in degrees.
        dropout_samples: copies of the first sample's features with channels missing.
        dropout: the probability that one is missing.
        window: weigh scores by a Hann window around the last position.
        target_not_found: scores below this mean that the target is not there.
        distractor: a second peak above this fraction of the first makes the localisation ambiguous.
        hard_negative: a second peak above this fraction is learned as a distractor.
        target_neighbourhood: side of the region that belongs to the first peak, in target sizes.
        displacement: distance up to which a move counts as plausible, in halves of the score map's side.
        update_scale_when_uncertain: whether the box is refined when the localisation is ambiguous.
        target_inside: the fraction of the target that has to stay within the image; its centre is moved accordingly.
        random_boxes: further starting boxes of the refinement, beside the last frame's box.
        jitter_position: their random shift, in sqrt(w h), from one end to the other.
        jitter_size: their random change of width and height, in sqrt(w h), from one end to the other.
        refinement_iterations: steps of gradient ascent on the predicted overlap.
        refinement_step: length of a step, in box sizes per unit of gradient.
        refinement_decay: its factor from step to step.
        refinement_average: number of best boxes that are averaged.
        maximal_aspect_ratio: boxes that are more elongated are discarded.
        legacy_coordinates: hand boxes to the network half a pixel further right and down, as the published trackers
            do, without taking it back. For checkpoints that were trained with it.

    Raises:
        UserError: values with which no tracker can work.
    """

    crop_size: int = 288
    search_area: float = 5.0
    memory_size: int = 50
    learning_rate: float = 0.01
    hard_negative_learning_rate: float = 0.02
    initial_minimum_weight: float = 0.25
    train_skipping: int = 20
    first_iterations: int = 10
    update_iterations: int = 2
    hard_negative_iterations: int = 1
    augmentation_expansion: float = 2.0
    random_shift: float = 1 / 3
    translations: tuple[tuple[float, float], ...] = ((0.6, 0.6), (-0.6, 0.6), (0.6, -0.6), (-0.6, -0.6))
    flip: bool = True
    blurs: tuple[tuple[float, float], ...] = ((3.0, 1.0), (1.0, 3.0), (2.0, 2.0))
    rotations: tuple[float, ...] = (10.0, -10.0, 45.0, -45.0)
    dropout_samples: int = 2
    dropout: float = 0.2
    window: bool = False
    target_not_found: float = 0.25
    distractor: float = 0.8
    hard_negative: float = 0.5
    target_neighbourhood: float = 2.2
    displacement: float = 0.8
    update_scale_when_uncertain: bool = True
    target_inside: float = 0.2
    random_boxes: int = 9
    jitter_position: float = 0.1
    jitter_size: float = 0.5
    refinement_iterations: int = 5
    refinement_step: float = 1.0
    refinement_decay: float = 1.0
    refinement_average: int = 3
    maximal_aspect_ratio: float = 6.0
    legacy_coordinates: bool = False

    def __post_init__(self) -> None:
        for names, kind, low, high in _RANGES:
            for name in names.split():
                self._check(name, kind, low, high)
        self._check_list("translations", 2, -math.inf, "pairs of numbers")
        self._check_list("blurs", 2, 0, "pairs of numbers above 0")
        self._check_list("rotations", 1, -math.inf, "numbers")
        if self.crop_size < 2 * STRIDE or self.crop_size % STRIDE:
            raise UserError(
                f"crop_size={self.crop_size}: has to be a multiple of {STRIDE}, at least {2 * STRIDE}"
            )
        if self.memory_size <= self.initial_samples:
            raise UserError(
                f"memory_size={self.memory_size}: has to be more than the {self.initial_samples} samples of the "
                "first frame"
            )

    def _check(self, name: str, kind: type, low: float, high: float) -> None:
        """Refuse a setting that is not a number of its kind in [low, high); NaN is refused, too."""
        value = getattr(self, name)
        number = isinstance(value, (kind, int)) and not isinstance(value, bool)
        if not (number and low <= value < high):
            wanted = "a whole number of at least" if kind is int else "a number of at least"
            limits = f"{wanted} {low}"
            if high < math.inf:
                limits = f"in [{low}, {high})" if kind is float else f"{limits} and below {high}"
            raise UserError(f"{name}={value!r}: has to be {limits}")

    def _check_list(self, name: str, length: int, above: float, wanted: str) -> None:
        """Refuse a list whose entries are not `length` finite numbers each, all above a limit."""
        value = getattr(self, name)
        entries = value if isinstance(value, tuple) else (None,)
        for entry in entries:
            numbers = entry if isinstance(entry, tuple) else (entry,)
            finite = [
                isinstance(number, (int, float)) and math.isfinite(number) and number > above
                for number in numbers
            ]
            if len(numbers) != length or not all(finite):
                raise UserError(f"{name}={value!r}: has to be a list of {wanted}")

    @property
    def initial_samples(self) -> int:
        """Number of samples from the first frame."""
        crops = 1 + len(self.translations) + self.flip + len(self.blurs) + len(self.rotations)
        return crops + self.dropout_samples

    def replaced(self, changes: Mapping[str, Any]) -> TrackerSettings:
        """These settings with some values changed; lists become tuples.

        Raises:
            UserError: there is no such setting.
        """
        check_known("no tracker setting", changes, [item.name for item in fields(self)])
        return replace(self, **{name: _frozen(value) for name, value in changes.items()})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value


_VOT = TrackerSettings(
    learning_rate=0.0075,
    initial_minimum_weight=0.0,
    train_skipping=10,
    window=True,
    target_not_found=0.0,
    distractor=100.0,
    hard_negative=0.45,
    displacement=0.7,
)
PRESETS: dict[str, TrackerSettings] = {
    "dimp50": TrackerSettings(),
    # The challenges' lists of augmentations are not in the paper; known is that 2018's was longer and 2019's shorter.
    "dimp50-vot18": replace(
        _VOT,
        crop_size=224,
        search_area=4.0,
        memory_size=250,
        first_iterations=25,
        update_iterations=3,
        hard_negative_iterations=3,
        rotations=(5.0, -5.0, 10.0, -10.0, 20.0, -20.0, 30.0, -30.0, 45.0, -45.0, 60.0, -60.0),
    ),
    "dimp50-vot19": replace(
        _VOT,
        crop_size=256,
        search_area=4.5,
        memory_size=100,
        first_iterations=15,
        update_iterations=2,
        hard_negative_iterations=2,
        augmentation_expansion=1.4,
        blurs=((2.0, 2.0),),
        rotations=(10.0, -10.0),
        refinement_iterations=3,
    ),
    "small": TrackerSettings(crop_size=144),
}


def preset(name: str) -> TrackerSettings:
    """Named settings.

    Raises:
        UserError: there is no such preset.
    """
    check_known("no tracker settings", [name], PRESETS)
    return PRESETS[name]
