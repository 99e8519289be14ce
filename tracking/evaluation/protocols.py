"""How each benchmark's own toolkit scores: one record per protocol, eight presets.

Two protocols that differ in only one of these fields can differ by several points on identical boxes (invalid ground
truth on UAV123, absent frames on LaSOT), so a score is only comparable under the same record.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from core.errors import check_known
from tracking.evaluation.metrics import Normalisation

FirstFrame = Literal["replace", "drop", "keep"]
Absent = Literal["fail", "drop", "ignore"]
Valid = Literal["positive", "positive_size", "positive_centre", "finite", "any"]
Invalid = Literal["fail", "correct", "drop"]
Score = Literal["mean", "area", "at", "none"]
Length = Literal["cut", "zero_pad", "shorter", "nan_pad", "exact"]


@dataclass(frozen=True)
class Protocol:
    """Everything in which the toolkits differ.

    Attributes:
        name: the preset's name.
        title: the source of these numbers.
        dataset: the data set that is scored unless another is named.
        overlap_thresholds: of the success curve, ascending.
        error_thresholds: of the precision curve, in pixels, ascending.
        norm_thresholds: of the normalised precision curve, ascending.
        first_frame: the first prediction is replaced by the ground truth, dropped, or kept.
        absent: frames in which the target is absent count as failures, are dropped, or are treated as any other.
        valid_overlap: which ground-truth boxes have an overlap: `x, y, w, h > 0`, `w, h > 0`, no NaN, or all.
        valid_error: which ground-truth boxes have a centre error.
        invalid_overlap: the value of the other frames' overlap.
        invalid_error: the value of the other frames' centre error.
        invalid_norm: the value of the other frames' normalised error.
        inclusive_success: success is overlap `>=` threshold instead of `>`.
        success_score: `success_auc` is the mean of the curve or the trapezoid area under it.
        precision_score: `precision` is the value at 20 px, the area over 0..50 px, or not defined.
        norm_score: `norm_precision` is the value at 0.20, the mean or the area over 0..0.5, or not defined.
        norm_integral: how `norm_precision_auc` is integrated over 0..0.5.
        normalisation: order of the arithmetic of the normalised error (`metrics.normalised_error`).
        norm_floor: smaller ground-truth sizes are raised to this in the normalised error.
        rounding: all coordinates are rounded (half to even) first.
        clip: both boxes are clipped to the image first.
        repair_nan: rows that are not finite take the previous row's box, raise, or stay as they are.
        repair_negative: the same for rows with a negative width or height.
        repair_empty: the same for rows with a zero width or height.
        length: what happens if a result has more or fewer rows than the ground truth. More: all cut it, except that
            `"exact"` raises. Fewer: `"cut"` and `"exact"` raise, `"zero_pad"` adds empty boxes, `"nan_pad"` adds
            failures, `"shorter"` cuts the ground truth too.
        missing: a sequence without a result raises or is scored as all-zero boxes.
        averaging: curves are averaged over sequences, or all frames are pooled.
        drop_zero_curves: sequences whose whole curve is zero are left out of the average (per curve).
    """

    name: str
    title: str
    dataset: str
    overlap_thresholds: tuple[float, ...]
    error_thresholds: tuple[float, ...]
    norm_thresholds: tuple[float, ...]
    first_frame: FirstFrame = "replace"
    absent: Absent = "ignore"
    valid_overlap: Valid = "positive"
    valid_error: Valid = "positive"
    invalid_overlap: Invalid = "fail"
    invalid_error: Invalid = "correct"
    invalid_norm: Invalid = "correct"
    inclusive_success: bool = False
    success_score: Score = "mean"
    precision_score: Score = "at"
    norm_score: Score = "at"
    norm_integral: Score = "mean"
    normalisation: Normalisation = "quotients"
    norm_floor: float = 0.0
    rounding: bool = False
    clip: bool = False
    repair_nan: Literal["previous", "raise", "none"] = "previous"
    repair_negative: Literal["previous", "raise", "none"] = "previous"
    repair_empty: Literal["previous", "raise", "none"] = "previous"
    length: Length = "cut"
    missing: Literal["raise", "zeros"] = "raise"
    averaging: Literal["sequence", "frame"] = "sequence"
    drop_zero_curves: bool = False


TWENTIETHS = tuple(k / 20 for k in range(21))
HUNDREDTHS = tuple(k / 100 for k in range(51))
PIXELS = tuple(float(k) for k in range(51))


def _linspace(stop: float, count: int) -> tuple[float, ...]:
    # NumPy-based toolkits compare with k * step, an ulp away from k / n: this matters for frames exactly on a
    # threshold.
    return tuple(np.linspace(0, stop, count).tolist())


LASOT = Protocol(
    name="lasot",
    title="LaSOT evaluation toolkit",
    dataset="lasot",
    overlap_thresholds=TWENTIETHS,
    error_thresholds=PIXELS,
    norm_thresholds=HUNDREDTHS,
    absent="fail",
    drop_zero_curves=True,
)

PYTRACKING = Protocol(
    name="pytracking",
    title="pytracking analysis",
    dataset="lasot",
    overlap_thresholds=TWENTIETHS,
    error_thresholds=PIXELS,
    norm_thresholds=HUNDREDTHS,
    absent="fail",
    invalid_error="fail",
    repair_nan="raise",
    repair_negative="raise",
)

PYSOT = Protocol(
    name="pysot",
    title="pysot toolkit",
    dataset="lasot",
    overlap_thresholds=tuple(np.arange(0, 1.05, 0.05).tolist()),
    error_thresholds=PIXELS,
    norm_thresholds=HUNDREDTHS,
    first_frame="keep",
    absent="fail",
    valid_overlap="positive_size",
    valid_error="positive_centre",
    norm_floor=1e-16,
    repair_nan="none",
    repair_negative="none",
    repair_empty="none",
)

GOT10K_OTB = Protocol(
    name="got10k-otb",
    title="got10k toolkit, experiments on OTB, UAV123 and LaSOT",
    dataset="lasot",
    overlap_thresholds=_linspace(1, 21),
    error_thresholds=PIXELS,
    norm_thresholds=_linspace(0.5, 51),
    valid_overlap="finite",
    valid_error="finite",
    invalid_overlap="drop",
    invalid_error="drop",
    invalid_norm="drop",
    norm_score="mean",
    normalisation="difference",
    norm_floor=1.0,
    repair_nan="none",
    repair_negative="none",
    repair_empty="none",
    length="shorter",
)

GOT10K = Protocol(
    name="got10k",
    title="got10k toolkit, experiment on GOT-10k",
    dataset="got10k",
    overlap_thresholds=_linspace(1, 101),
    error_thresholds=PIXELS,
    norm_thresholds=_linspace(0.5, 51),
    first_frame="drop",
    absent="drop",
    valid_overlap="any",
    valid_error="any",
    precision_score="none",
    norm_score="none",
    norm_integral="none",
    clip=True,
    repair_nan="none",
    repair_negative="none",
    repair_empty="none",
    length="exact",
    averaging="frame",
)

TRACKINGNET = Protocol(
    name="trackingnet",
    title="TrackingNet development kit and evaluation server",
    dataset="trackingnet",
    overlap_thresholds=_linspace(1, 21),
    error_thresholds=_linspace(50, 21),
    norm_thresholds=_linspace(0.5, 21),
    valid_overlap="any",
    valid_error="any",
    inclusive_success=True,
    success_score="area",
    precision_score="area",
    norm_score="area",
    norm_integral="area",
    normalisation="products",
    rounding=True,
    repair_nan="none",
    repair_negative="none",
    repair_empty="none",
    length="nan_pad",
    missing="zeros",
)

OTB = replace(LASOT, name="otb", title="OTB benchmark code", dataset="otb", absent="ignore")

# UAV123 ships OTB's code; only its ground truth differs, which is NaN where the target is out of view.
UAV = replace(OTB, name="uav", title="UAV123 benchmark code", dataset="uav123")

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (LASOT, PYTRACKING, PYSOT, GOT10K_OTB, GOT10K, TRACKINGNET, OTB, UAV)
}

# The data set's own rules, unless the user names others.
PROTOCOL_OF = {
    "lasot": "lasot",
    "trackingnet": "trackingnet",
    "got10k": "got10k",
    "otb": "otb",
    "uav123": "uav",
    "demo": "otb",
}


def get_protocol(name: str, dataset: str | None = None) -> Protocol:
    """The preset `name` as its toolkit applies it to `dataset` (default: the preset's own data set).

    Raises:
        UserError: no such preset.
    """
    check_known("no protocol", [name], PROTOCOLS)
    protocol = PROTOCOLS[name]
    dataset = dataset or protocol.dataset
    if name == "pytracking" and dataset != "lasot":
        protocol = replace(protocol, length="zero_pad", absent="ignore")
        if dataset == "uav123":
            protocol = replace(protocol, invalid_error="correct")
    elif name in ("lasot", "pysot") and dataset != "lasot":
        protocol = replace(protocol, absent="ignore")
    return replace(protocol, dataset=dataset)


def score_labels(protocol: Protocol) -> dict[str, str]:
    """The names of scores in tables, so that no name stands for two definitions."""
    labels: dict[str, str] = {}
    if protocol.averaging == "frame":
        labels |= {"ao": "AO", "op50": "SR0.50", "op75": "SR0.75"}
        return labels
    labels["success_auc"] = "AUC" if protocol.success_score == "mean" else "Success (area)"
    labels |= {"op50": "OP50", "op75": "OP75"}
    labels["precision"] = "P@20px" if protocol.precision_score == "at" else "Precision (area 0-50 px)"
    if protocol.norm_score == "at":
        labels["norm_precision"] = "NP@0.20"
    labels["norm_precision_auc"] = f"NP-AUC ({protocol.norm_integral} 0-0.5)"
    if protocol.norm_score != "at":
        labels["norm_precision_at_0.2"] = "NP@0.20"
    return labels
