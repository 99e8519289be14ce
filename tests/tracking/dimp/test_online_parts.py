"""The parts of the online tracker, each against what mathematics says."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from core.errors import UserError
from tests.properties import examples
from tracking.dimp import DiMPNet, prroi_pool
from tracking.dimp.augmentation import channel_dropout, expanded_size, first_frame_samples
from tracking.dimp.backbones import backbone_trunk
from tracking.dimp.box_judge import BoxJudge
from tracking.dimp.crops import CropFrame, cut, from_centres, to_centres
from tracking.dimp.inference import InferenceNetwork
from tracking.dimp.localisation import Finding, localise
from tracking.dimp.memory import SampleMemory
from tracking.dimp.refinement import best_box, refine, starting_boxes
from tracking.dimp.settings import PRESETS, TrackerSettings, preset

DIMP50 = TrackerSettings()


@pytest.fixture(scope="module")
def net() -> DiMPNet:
    """A small network whose batch norms do something."""
    torch.manual_seed(3)
    made = DiMPNet(backbone_trunk("resnet18-small"))
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return made.eval()


# Settings


def test_published_settings() -> None:
    assert DIMP50.initial_samples == 15
    assert (DIMP50.crop_size, DIMP50.memory_size, DIMP50.random_boxes) == (288, 50, 9)
    assert preset("dimp50") == DIMP50
    assert (preset("dimp50-vot18").crop_size, preset("dimp50-vot18").memory_size) == (224, 250)
    assert (preset("dimp50-vot19").crop_size, preset("dimp50-vot19").refinement_iterations) == (256, 3)
    assert preset("small").crop_size == 144
    for settings_ in PRESETS.values():
        assert expanded_size(settings_) % 2 == settings_.crop_size % 2


def test_settings_from_a_file_and_wrong_ones() -> None:
    changed = DIMP50.replaced({"rotations": [5, 6], "blurs": [[1, 2]], "crop_size": 160})
    assert (changed.rotations, changed.blurs) == ((5, 6), ((1, 2),))
    with pytest.raises(UserError, match="no tracker setting 'crop_sise': did you mean 'crop_size'"):
        DIMP50.replaced({"crop_sise": 3})
    with pytest.raises(UserError, match="crop_size=100"):
        DIMP50.replaced({"crop_size": 100})
    with pytest.raises(UserError, match="memory_size=15: has to be more than the 15 samples"):
        DIMP50.replaced({"memory_size": 15})
    with pytest.raises(UserError, match="learning_rate=1"):
        DIMP50.replaced({"learning_rate": 1})
    with pytest.raises(UserError, match="no tracker settings 'dimp5'"):
        preset("dimp5")


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("random_boxes", -1, "a whole number of at least 0"),
        ("first_iterations", -1, "a whole number of at least 0"),
        ("update_iterations", 1.5, "a whole number of at least 0"),
        ("train_skipping", 0, "a whole number of at least 1"),
        ("memory_size", "50", "a whole number of at least 1"),
        ("crop_size", True, "a whole number of at least 1"),
        ("search_area", 0.5, "in [1, 100)"),
        ("jitter_size", -0.1, "a number of at least 0"),
        ("refinement_step", float("nan"), "a number of at least 0"),
        ("displacement", float("inf"), "a number of at least 0"),
        ("dropout", 1.0, "in [0, 1)"),
        ("blurs", ((2.0, 0.0),), "a list of pairs of numbers above 0"),
        ("blurs", (2.0,), "a list of pairs of numbers above 0"),
        ("translations", ((0.5, float("nan")),), "a list of pairs of numbers"),
        ("translations", ((0.5, 0.5, 0.5),), "a list of pairs of numbers"),
        ("rotations", ("ten",), "a list of numbers"),
        ("rotations", 10.0, "a list of numbers"),
    ],
)
def test_settings_out_of_range(name: str, value: object, wanted: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"{name}={value!r}: has to be {wanted}")):
        DIMP50.replaced({name: value})


# Memory


def make_memory(initial: int = 3, size: int = 6, minimum: float = 0.25) -> SampleMemory:
    return SampleMemory(torch.zeros(initial, 2, 3, 3), torch.zeros(initial, 4), size, minimum)


def test_memory_weights_by_hand() -> None:
    memory = make_memory(minimum=0.0)
    assert memory.weights.tolist() == [1 / 3] * 3
    assert memory.add(torch.ones(1, 2, 3, 3), torch.ones(4), 0.1) == 3
    # 1/3 / 0.9 each and 0.1, normalised: 1 / 0.9 + 0.1 = 1.2111...
    total = 1 / 0.9 + 0.1
    assert memory.weights == pytest.approx([1 / 2.7 / total] * 3 + [0.1 / total])
    before = memory.weights.copy()
    assert memory.add(torch.ones(1, 2, 3, 3), torch.ones(4), 0.1) == 4
    raw = np.append(before, before[3] / 0.9)
    assert memory.weights == pytest.approx(raw / raw.sum())


def test_memory_replaces_the_least_of_the_later_ones() -> None:
    memory = make_memory()
    for number in range(3):
        assert (
            memory.add(torch.full((1, 2, 3, 3), number + 1.0), torch.full((4,), number + 1.0), 0.1)
            == 3 + number
        )
    assert (
        memory.add(torch.full((1, 2, 3, 3), 9.0), torch.full((4,), 9.0), 0.1) == 3
    )  # the oldest weighs least
    features, boxes, weights = memory.samples()
    assert boxes[0, :, 0].tolist() == [0, 0, 0, 9, 2, 3]
    assert features[0, :, 0, 0, 0].tolist() == [0, 0, 0, 9, 2, 3]
    assert features.shape == (1, 6, 2, 3, 3)
    assert features[0].is_contiguous(memory_format=torch.channels_last)
    assert weights.dtype == torch.float32


@given(
    rates=st.lists(st.sampled_from([0.01, 0.02, 0.0075, 0.3]), min_size=1, max_size=120),
    minimum=st.sampled_from([0.0, 0.25, 0.6]),
)
@examples(40)
def test_memory_weights_sum_to_one_and_the_first_keep_their_share(rates: list[float], minimum: float) -> None:
    memory = make_memory(4, 9, minimum)
    features, box = torch.zeros(1, 2, 3, 3), torch.zeros(4)
    for rate in rates:
        slot = memory.add(features, box, rate)
        assert slot >= 4
        assert memory.weights.sum() == pytest.approx(1)
        assert memory.weights.min() > 0
        assert memory.weights[:4].sum() >= minimum - 1e-12
        assert memory.weights[slot] == memory.weights[4:].max()  # the newest counts most
    assert len(memory) == min(4 + len(rates), 9)


# Localisation: 19 x 19 cells, the middle one is (9, 9); displacement limit 7.6 cells


def score_map(**peaks: tuple[int, int, float]) -> np.ndarray:
    scores = np.zeros((19, 19))
    for row, column, value in peaks.values():
        scores[row, column] = value
    return scores


@pytest.mark.parametrize(
    ("peaks", "previous", "finding", "cell"),
    [
        ({"a": (9, 9, 0.24)}, (0, 0), Finding.NOT_FOUND, (9, 9)),
        ({"a": (9, 9, 0.25)}, (0, 0), Finding.NORMAL, (9, 9)),
        ({"a": (4, 12, 1.0)}, (0, 0), Finding.NORMAL, (4, 12)),
        # A second peak within the target's own region (2.2 * 64 / 16 = 8.8 cells) is the target's.
        ({"a": (9, 9, 1.0), "b": (9, 13, 0.9)}, (0, 0), Finding.NORMAL, (9, 9)),
        # Between the thresholds, and above not_found: a distractor to learn.
        ({"a": (9, 9, 1.0), "b": (9, 16, 0.6)}, (0, 0), Finding.HARD_NEGATIVE, (9, 9)),
        ({"a": (9, 9, 0.4), "b": (9, 16, 0.24)}, (0, 0), Finding.NORMAL, (9, 9)),
        ({"a": (9, 9, 1.0), "b": (9, 16, 0.49)}, (0, 0), Finding.NORMAL, (9, 9)),
        # Nearly as high, the second one implausibly far.
        ({"a": (9, 9, 1.0), "b": (9, 18, 0.9)}, (0, 0), Finding.HARD_NEGATIVE, (9, 9)),
        # The first one implausibly far: the second is the target.
        ({"a": (9, 18, 1.0), "b": (9, 9, 0.9)}, (0, 0), Finding.HARD_NEGATIVE, (9, 9)),
        # Both plausible, or neither.
        ({"a": (9, 12, 1.0), "b": (9, 4, 0.9)}, (0, 0), Finding.UNCERTAIN, (9, 12)),
        ({"a": (0, 0, 1.0), "b": (18, 18, 0.9)}, (0, 0), Finding.UNCERTAIN, (0, 0)),
        # Distances count from where the target was: four cells further right, the far one is near.
        ({"a": (9, 9, 1.0), "b": (9, 18, 0.9)}, (64, 0), Finding.UNCERTAIN, (9, 9)),
        ({"a": (9, 9, 1.0), "b": (18, 9, 0.9)}, (0, 64), Finding.UNCERTAIN, (9, 9)),
        ({"a": (9, 9, float("nan"))}, (0, 0), Finding.NOT_FOUND, (9, 9)),
    ],
)
def test_localisation(
    peaks: dict[str, tuple[int, int, float]],
    previous: tuple[float, float],
    finding: Finding,
    cell: tuple[int, int],
) -> None:
    found = localise(score_map(**peaks), (64.0, 64.0), previous, DIMP50)
    assert (found.finding, (found.row, found.column)) == (finding, cell)
    assert found.score == max(value for _, _, value in peaks.values()) or np.isnan(found.score)


def test_neighbourhood_follows_the_targets_shape() -> None:
    """A target 32 wide and 96 high owns 4.4 x 13.2 cells: a peak five columns away is another's, five rows away not."""
    beside, below = score_map(a=(9, 9, 1.0), b=(9, 14, 0.6)), score_map(a=(9, 9, 1.0), b=(14, 9, 0.6))
    assert localise(beside, (32.0, 96.0), (0, 0), DIMP50).finding is Finding.HARD_NEGATIVE
    assert localise(below, (32.0, 96.0), (0, 0), DIMP50).finding is Finding.NORMAL


def test_window_prefers_the_middle() -> None:
    scores = score_map(a=(9, 9, 0.6), b=(9, 18, 1.0))
    vot = preset("dimp50-vot18")
    found = localise(scores, (64.0, 64.0), (0, 0), vot)
    assert (found.row, found.column) == (9, 9)
    assert localise(-np.ones((19, 19)), (64.0, 64.0), (0, 0), vot).finding is Finding.NOT_FOUND


# Crops and the first frame's samples


@given(
    x=st.floats(-50, 400),
    y=st.floats(-50, 300),
    side=st.floats(3, 2000),
    box=st.tuples(st.floats(-100, 500), st.floats(-100, 500), st.floats(0.1, 400), st.floats(0.1, 400)),
)
@examples(60)
def test_boxes_come_back_from_the_crop(x: float, y: float, side: float, box: tuple[float, ...]) -> None:
    _, place = cut(torch.zeros(3, 12, 16), x, y, side, 32)
    boxes = torch.tensor([box], dtype=torch.float64)
    assert torch.allclose(place.boxes_to_image(place.boxes_to_crop(boxes)), boxes, atol=1e-4)
    assert torch.allclose(from_centres(to_centres(boxes)), boxes)


def scene(size: int, centre: tuple[float, float], spread: float = 6.0) -> Tensor:
    """A smooth blob on a gradient: (3, size, size)."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    blob = torch.exp(-((columns - centre[0]) ** 2 + (rows - centre[1]) ** 2) / (2 * spread**2))
    return torch.stack([200 * blob, 100 * blob, 50 * blob])


def test_every_sample_holds_the_target_where_its_box_says() -> None:
    """The blob's centre of gravity is the middle of the box, in all of the samples."""
    size = expanded_size(DIMP50)
    centre = (size / 2 - 0.5 + 7, size / 2 - 0.5 - 3)  # off the middle: mirroring and turning have to move it
    box = torch.tensor([centre[0] - 20, centre[1] - 15, 40.0, 30.0])
    samples = list(first_frame_samples(scene(size, centre), box, DIMP50, torch.Generator().manual_seed(5)))
    assert len(samples) == DIMP50.initial_samples - DIMP50.dropout_samples == 13
    moved = []
    for pixels, found in samples:
        assert pixels.shape == (3, 288, 288)
        weight = pixels[0] / pixels[0].sum()
        line = torch.arange(288.0)
        middle = torch.stack([(weight.sum(0) * line).sum(), (weight.sum(1) * line).sum()])
        assert torch.allclose(middle, found[:2] + found[2:] / 2, atol=0.05)
        assert found[2:].tolist() == [40, 30]
        moved.append((middle - 143.5).tolist())
    assert moved[0] == pytest.approx([7, -3], abs=0.05)
    assert sorted(np.round(np.array(moved[1:5]) - [7, -3]).tolist()) == [
        [-86, -86],
        [-86, 86],
        [86, -86],
        [86, 86],
    ]
    shifts = np.abs(np.array(moved[5:]) - [7, -3])
    assert shifts.max() < 48 + 12
    assert len({tuple(np.round(shift)) for shift in shifts.tolist()}) > 4


def test_flip_and_blur_against_plain_formulas() -> None:
    from scipy.ndimage import gaussian_filter

    still = DIMP50.replaced(
        {"translations": (), "rotations": (), "blurs": ((3.0, 1.0),), "random_shift": 0.0}
    )
    size = expanded_size(still)
    patch = torch.rand(3, size, size, generator=torch.Generator().manual_seed(1)) * 255
    box = torch.tensor([260.0, 270, 40, 30])
    plain, flipped, blurred = (
        pixels for pixels, _ in first_frame_samples(patch, box, still, torch.Generator())
    )
    assert torch.equal(plain, patch[:, 144:432, 144:432])
    assert torch.equal(flipped, plain.flip(-1))
    wanted = gaussian_filter(patch.double().numpy(), (0, 1, 3), truncate=2)[:, 144:432, 144:432]
    assert np.abs(blurred.numpy() - wanted).max() < 1e-3


def test_a_quarter_turn_is_exact() -> None:
    still = DIMP50.replaced(
        {"translations": (), "flip": False, "rotations": (90.0,), "blurs": (), "random_shift": 0}
    )
    size = expanded_size(still)
    patch = torch.rand(3, size, size)
    (plain, _), (turned, box) = first_frame_samples(
        patch, torch.tensor([300.0, 280, 40, 20]), still, torch.Generator()
    )
    assert torch.allclose(turned, plain.rot90(-1, (1, 2)), atol=1e-4)
    # The centre (320, 290), or (32.5, 2.5) off the middle, goes to (-2.5, 32.5).
    assert (box[:2] + box[2:] / 2 - 143.5).tolist() == pytest.approx([-2.5, 32.5], abs=1e-4)


def test_dropout_keeps_the_mean_and_repeats_itself() -> None:
    features = torch.ones(1, 4000, 2, 2)
    first = channel_dropout(features, 0.2, torch.Generator().manual_seed(0))
    assert torch.equal(first, channel_dropout(features, 0.2, torch.Generator().manual_seed(0)))
    assert set(first.unique().tolist()) == {0.0, 1.25}
    assert first.mean().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(first.amax((2, 3)), first.amin((2, 3)))  # whole channels


# Refinement


def quadratic(best: Tensor) -> object:
    """An overlap that falls off with the squared distance to `best`, in units of its size."""

    def judge(boxes: Tensor) -> tuple[Tensor, Tensor]:
        size = best[2:].repeat(2)
        difference = (boxes - best) / size
        return 1 - difference.square().sum(1), -2 * difference / size

    return judge


def test_refinement_climbs_to_the_best_box() -> None:
    best = torch.tensor([100.0, 90, 60, 40])
    start = torch.tensor([[110.0, 80, 50, 52], [95.0, 95, 70, 36]])
    judge = quadratic(best)
    boxes, overlaps = refine(judge, start, DIMP50.replaced({"refinement_step": 15.0}))  # type: ignore[arg-type]
    assert (judge(boxes)[0] > overlaps).all()  # type: ignore[operator]
    assert (overlaps > judge(start)[0]).all()  # type: ignore[operator]
    many = DIMP50.replaced({"refinement_step": 15.0, "refinement_iterations": 60})
    assert torch.allclose(refine(judge, start, many)[0], best.expand(2, 4), atol=0.01)  # type: ignore[arg-type]


def test_one_step_moves_in_units_of_the_box() -> None:
    box = torch.tensor([[10.0, 20, 30, 40]])
    gradient = torch.tensor([[0.1, -0.2, 0.3, 0.4]])
    settings_ = DIMP50.replaced({"refinement_iterations": 2, "refinement_decay": 0.5})
    boxes, overlaps = refine(lambda boxes: (torch.zeros(1), gradient), box, settings_)
    first = [10 + 3, 20 - 8, 30 + 9, 40 + 16]
    second = [13 + 0.05 * 39, 12 - 0.1 * 56, 39 + 0.15 * 39, 56 + 0.2 * 56]
    assert first == [13, 12, 39, 56]
    assert boxes[0].tolist() == pytest.approx(second)
    assert overlaps.tolist() == [0]


def test_best_boxes_are_averaged_and_slivers_left_out() -> None:
    boxes = torch.tensor(
        [
            [0.0, 0, 10, 10],
            [2.0, 0, 10, 12],
            [4.0, 0, 10, 14],
            [9.0, 9, 10, 10],
            [0.0, 0, 61, 10],
            [0.0, 0, 0.2, 5.9],
        ]
    )
    overlaps = torch.tensor([0.5, 0.6, 0.7, 0.1, 0.9, 0.0])
    best = best_box(boxes, overlaps, DIMP50)
    assert best is not None
    assert best.tolist() == pytest.approx([2, 0, 10, 12])
    assert best_box(boxes[4:5], overlaps[4:5], DIMP50) is None
    assert best_box(boxes[:1] * float("nan"), overlaps[:1], DIMP50) is None
    tiny = best_box(boxes[5:], overlaps[5:], DIMP50)
    assert tiny is not None
    assert tiny.tolist() == pytest.approx([0, 0, 1, 5.9])  # a width below a pixel counts as one


def test_starting_boxes_stay_within_the_jitter() -> None:
    box = torch.tensor([50.0, 60, 16, 64])
    boxes = starting_boxes(box, DIMP50.replaced({"random_boxes": 2000}), torch.Generator().manual_seed(0))
    assert torch.equal(boxes[0], box)
    unit = 32.0
    centres = (boxes[:, :2] + boxes[:, 2:] / 2 - box[:2] - box[2:] / 2).abs()
    assert 0.049 * unit < centres.max() <= 0.05 * unit
    assert (boxes[:, 3] - 64).abs().max() <= 0.25 * unit
    assert boxes[:, 2].min() == pytest.approx(16 - 0.25 * unit, abs=0.2)
    slim = starting_boxes(torch.tensor([0.0, 0, 4, 64]), DIMP50, torch.Generator())
    assert slim[:, 2].min() >= 4 / 3


@pytest.mark.parametrize("size", [(40.0, 60.0), (3.0, 2.0), (200.0, 180.0)])
def test_closed_form_is_the_networks_own_overlap_and_gradient(
    net: DiMPNet, size: tuple[float, float]
) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 144, 144)
    with torch.no_grad():
        stages = net.extract(images)
        first = {name: map_[:1] for name, map_ in stages.items()}
        modulation = net.bb_regressor.modulation(first, torch.tensor([[60.0, 60, 28, 28]]))
        maps = net.bb_regressor.iou_features({name: map_[1:] for name, map_ in stages.items()})
    boxes = torch.tensor([70.0 - size[0] / 2, 66.0 - size[1] / 2, *size]) + 4 * torch.randn(6, 4)
    boxes[:, 2:].clamp_(min=0.5)
    boxes[0, :2] -= 300  # outside: zero features
    boxes.requires_grad_(True)
    wanted = net.bb_regressor.predict_iou(modulation, maps, boxes[None])[0]
    (gradient,) = torch.autograd.grad(wanted.sum(), boxes)
    overlap, slope = BoxJudge(net.bb_regressor, modulation)(maps, boxes.detach())
    assert torch.allclose(overlap, wanted, atol=1e-5, rtol=1e-5)
    assert torch.allclose(slope, gradient, atol=1e-5 * gradient.abs().max().item(), rtol=1e-4)
    assert slope[0].abs().max() == 0


def test_boxes_without_area_have_finite_gradients(net: DiMPNet) -> None:
    modulation = (torch.ones(1, 256), torch.ones(1, 256))
    maps = (torch.rand(1, 256, 18, 18), torch.rand(1, 256, 9, 9))
    overlap, slope = BoxJudge(net.bb_regressor, modulation)(
        maps, torch.tensor([[50.0, 50, 0, 10], [50, 50, -3, 0]])
    )
    assert torch.isfinite(overlap).all()
    assert torch.isfinite(slope).all()
    pooled = prroi_pool(maps[0], torch.tensor([[0.0, 50, 50, 50, 60]]), 5, 1 / 8)
    assert pooled.abs().max() == 0


# The network that trackers run


@pytest.mark.parametrize("fast", [True, False])
def test_inference_gives_what_the_network_gives(net: DiMPNet, fast: bool) -> None:
    torch.manual_seed(1)
    images = torch.randn(1, 3, 144, 144)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    prepared = InferenceNetwork(net, fast=fast)
    stages = prepared.stages(images)
    with torch.no_grad():
        own = net.extract(images)
        pairs = [(prepared.classification_features(stages), net.classifier.features(own))]
        pairs += zip(prepared.iou_features(stages), net.bb_regressor.iou_features(own), strict=True)
        box = torch.tensor([[50.0, 55, 30, 28]])
        pairs += zip(prepared.modulation(stages, box), net.bb_regressor.modulation(own, box), strict=True)
    for found, wanted in pairs:
        assert found.layout == torch.strided
        assert torch.allclose(found, wanted, atol=1e-5 * wanted.abs().max().item(), rtol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_backbone_of_ones_own_is_run_as_it_is() -> None:
    """Its batch norm is defined after a convolution that it does not follow: folding would be wrong."""

    class Own(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.channels, self.strides = {"layer2": 8, "layer3": 8}, {"layer2": 8, "layer3": 16}
            self.conv = torch.nn.Conv2d(3, 8, 8, 8)
            self.norm = torch.nn.BatchNorm2d(3)

        def forward(self, images: Tensor) -> dict[str, Tensor]:
            fine = self.conv(self.norm(images))
            return {"layer2": fine, "layer3": torch.nn.functional.avg_pool2d(fine, 2)}

    torch.manual_seed(0)
    own = DiMPNet(Own()).eval()
    own.feature_extractor.norm.running_mean.fill_(0.5)
    images = torch.randn(1, 3, 64, 64)
    prepared = InferenceNetwork(own)
    with torch.no_grad():
        wanted = own.classifier.features(own.extract(images))
    assert torch.allclose(prepared.classification_features(prepared.stages(images)), wanted, atol=1e-6)


def test_crop_frame_of_a_centred_target() -> None:
    place = CropFrame(100.0, 80.0, 2.0, 144)
    box = place.boxes_to_crop(torch.tensor([90.0, 70, 20, 20]))
    assert (box[:2] + box[2:] / 2).tolist() == [71.5, 71.5]
