"""The tracker on videos: it follows, repeats itself, needs no more memory over time, and takes whatever frames come."""

from __future__ import annotations

import copy
import dataclasses
import gc
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from core.errors import MissingData, NonFiniteOutput, UserError
from tracking import eval as command
from tracking import track
from tracking.datasets.demo_rendering import SCENES
from tracking.dimp import DiMPConfig, DiMPNet
from tracking.dimp.backbones import backbone_trunk
from tracking.dimp.checkpoint import Description, save_network
from tracking.dimp.localisation import Finding
from tracking.dimp.settings import TrackerSettings
from tracking.dimp.tracker import STAGES, DiMPTracker
from tracking.online.trackers import TrackerSpec, make_tracker
from tracking.online.video import open_video

CONFIG = DiMPConfig(classification_channels=32, iou_channels=16)
# Whatever a network without training sees counts as found, so that every stage runs in every frame.
EAGER = TrackerSettings(
    crop_size=96, memory_size=18, train_skipping=3, target_not_found=-1e9, distractor=1e9, hard_negative=1e9
)


class Colours(nn.Module):
    """Mean colours, and their negatives, around every sixteenth pixel: enough to tell red from grey."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.strides = {"layer2": 6, "layer3": 6}, {"layer2": 8, "layer3": 16}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        both = torch.cat([images, -images], dim=1).clamp_min(0)
        return {
            "layer2": functional.avg_pool2d(both, 9, 8, 4),
            "layer3": functional.avg_pool2d(both, 17, 16, 8),
        }


@pytest.fixture(scope="module")
def net() -> DiMPNet:
    torch.manual_seed(0)
    return DiMPNet(backbone_trunk("resnet18-small"), CONFIG).eval()


def video(frames: int, size: tuple[int, int] = (120, 160), seed: int = 0) -> list[np.ndarray]:
    """Noise under a red square that goes to the right."""
    generator = np.random.default_rng(seed)
    made = []
    for number in range(frames):
        frame = generator.integers(90, 130, (*size, 3), np.uint8)
        x = 30 + 2 * number
        frame[40:64, x : x + 24] = (220, 30, 30)
        made.append(frame)
    return made


def run(
    tracker: DiMPTracker, frames: list[np.ndarray], box: tuple[float, ...] = (30, 40, 24, 24)
) -> np.ndarray:
    tracker.init(frames[0], box)
    return np.array([tracker.update(frame)[0] for frame in frames[1:]])


@pytest.mark.parametrize(("filter_size", "legacy"), [(4, False), (3, False), (4, True)])
def test_follows_a_colour_to_within_a_cell(filter_size: int, legacy: bool) -> None:
    """Places are score cells: a box that is not refined is at most about half a cell off, wherever the target goes."""
    torch.manual_seed(1)
    own = DiMPNet(Colours(), DiMPConfig(classification_channels=16, iou_channels=8, filter_size=filter_size))
    still = TrackerSettings(
        crop_size=288,
        random_boxes=0,
        refinement_iterations=0,
        first_iterations=30,
        target_not_found=0.0,
        legacy_coordinates=legacy,
    )
    tracker = DiMPTracker(own, still)
    generator = np.random.default_rng(0)
    places = [(60.0, 50.0)]
    for _ in range(15):
        places.append(tuple(np.clip(np.array(places[-1]) + generator.integers(-12, 13, 2), 10, [180, 120])))
    frames = []
    for x, y in places:
        frame = generator.integers(100, 120, (180, 240, 3), np.uint8)
        frame[int(y) : int(y) + 30, int(x) : int(x) + 30] = (230, 20, 20)
        frames.append(frame)
    boxes = run(tracker, frames, (60, 50, 30, 30))
    error = np.abs(boxes[:, :2] - np.array(places[1:]))
    cell = 16 * 5 * 30 / 288
    assert error.max() < 0.5 * cell + 1.5 + (0.5 * cell if filter_size == 3 else 0)
    assert boxes[:, 2:] == pytest.approx(30)


def test_the_same_seed_gives_the_same_boxes(net: DiMPNet) -> None:
    frames = video(8)
    first = run(DiMPTracker(net, EAGER, seed=4), frames)
    again = DiMPTracker(net, EAGER, seed=4)
    assert np.array_equal(first, run(again, frames))
    assert np.array_equal(first, run(again, frames))  # `init` starts anew
    assert not np.array_equal(first, run(DiMPTracker(net, EAGER, seed=5), frames))
    assert np.isfinite(first).all()


def test_every_stage_is_timed(net: DiMPNet) -> None:
    ticks = iter(range(10**6))
    tracker = DiMPTracker(net, EAGER, clock=lambda: float(next(ticks)))
    frames = video(3)
    tracker.init(frames[0], (30, 40, 24, 24))
    assert tuple(tracker.seconds) == STAGES
    assert tracker.seconds["backbone"] == 13  # crops, one after the other
    tracker.update(frames[1])
    assert tracker.seconds == dict.fromkeys(STAGES, 1.0)


def tensor_bytes() -> int:
    gc.collect()
    return sum(
        item.nbytes for item in gc.get_objects() if type(item) is Tensor and item.layout == torch.strided
    )


@pytest.mark.parametrize("factor", [1.5, 1 / 1.5])
def test_a_box_neither_grows_nor_shrinks_for_ever(
    net: DiMPNet, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    def inflated(judge: object, boxes: Tensor, settings: TrackerSettings) -> tuple[Tensor, Tensor]:
        middle, size = boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:] * factor
        return torch.cat([middle - size / 2, size], dim=1), torch.zeros(len(boxes))

    monkeypatch.setattr("tracking.dimp.tracker.refine", inflated)
    tracker = DiMPTracker(net, EAGER)
    frames = video(1)
    tracker.init(frames[0], (30, 40, 24, 24))
    for _ in range(120):  # 1.5^120 is 1e21
        box, _ = tracker.update(frames[0])
    if factor > 1:
        assert box[2:] == (2 * 160, 2 * 120)
    else:
        assert min(box[2:]) >= 1
        assert max(box[2:]) < 3


def test_a_long_run_needs_no_more_memory(net: DiMPNet) -> None:
    settings = EAGER.replaced({"crop_size": 64, "refinement_iterations": 1})
    tracker = DiMPTracker(net, settings)
    frames = video(40)
    tracker.init(frames[0], (30, 40, 24, 24))
    held = []
    for number in range(150):
        tracker.update(frames[number % 40])
        if number in (10, 149):
            held.append((tensor_bytes(), len(tracker._memory)))
    assert held[0][1] == held[1][1] == settings.memory_size
    assert held[0][0] == held[1][0]


def test_not_found_changes_nothing(net: DiMPNet) -> None:
    tracker = DiMPTracker(net, EAGER.replaced({"target_not_found": 1e9}))
    boxes = run(tracker, video(4))
    assert tracker.finding is Finding.NOT_FOUND
    assert boxes == pytest.approx(np.tile([30.0, 40, 24, 24], (3, 1)))
    assert len(tracker._memory) == EAGER.initial_samples
    assert tracker.seconds["refinement"] == tracker.seconds["learning"] == 0


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("classifier", r"^frame 2: 49 of 49 cells of the tracker's score map are NaN or infinite$"),
        ("bb_regressor", r"^frame 2: the 10 overlaps that the tracker predicts are NaN or infinite$"),
    ],
)
def test_a_network_that_answers_nan_is_not_said_to_have_lost_the_target(
    net: DiMPNet, part: str, message: str
) -> None:
    first, second = video(2)
    blind = copy.deepcopy(net)
    with torch.no_grad():
        for weight in getattr(blind, part).parameters():
            weight.fill_(torch.nan)
    spoilt = DiMPTracker(blind, EAGER)
    spoilt.init(first, (30, 40, 24, 24))
    with pytest.raises(NonFiniteOutput, match=message):
        spoilt.update(second)


@pytest.fixture
def always_find(monkeypatch: pytest.MonkeyPatch) -> Callable[[Finding], None]:
    """Lets score maps say the same thing from now on, whatever is in them."""
    from tracking.dimp import tracker as module

    real = module.localise

    def always(finding: Finding) -> None:
        monkeypatch.setattr(
            module, "localise", lambda *given: dataclasses.replace(real(*given), finding=finding)
        )

    return always


def test_findings_decide_what_is_learned(
    net: DiMPNet, monkeypatch: pytest.MonkeyPatch, always_find: Callable[[Finding], None]
) -> None:
    """Iterations: 2 every third frame, 1 for a hard negative at any time, none and no sample when uncertain."""
    tracker = DiMPTracker(net, EAGER)
    frames = video(9)
    tracker.init(frames[0], (30, 40, 24, 24))
    steps: list[int] = []
    optimiser = tracker._net.net.classifier.filter_optimizer
    original = optimiser.forward

    def count(*arguments: object, iterations: int) -> object:
        steps.append(iterations)
        return original(*arguments, iterations=iterations)

    monkeypatch.setattr(optimiser, "forward", count)
    for frame in frames[1:4]:  # frames 2, 3, 4: 4 - 1 is a multiple of 3
        tracker.update(frame)
    assert (steps, len(tracker._memory)) == ([2], 18)

    weights = tracker._memory.weights.copy()
    always_find(Finding.UNCERTAIN)
    tracker.update(frames[4])
    assert steps == [2]
    assert np.array_equal(tracker._memory.weights, weights)
    assert tracker.seconds["refinement"] > 0
    always_find(Finding.HARD_NEGATIVE)
    tracker.update(frames[5])
    assert steps == [2, 1]
    assert not np.array_equal(tracker._memory.weights, weights)


@pytest.mark.parametrize("refined", [True, False])
def test_uncertain_boxes_are_refined_only_where_that_is_wanted(
    net: DiMPNet, always_find: Callable[[Finding], None], refined: bool
) -> None:
    tracker = DiMPTracker(net, EAGER.replaced({"update_scale_when_uncertain": refined}))
    frames = video(2)
    tracker.init(frames[0], (30, 40, 24, 24))
    always_find(Finding.UNCERTAIN)
    box, _ = tracker.update(frames[1])
    assert (box[2:] == (24, 24)) != refined
    assert box[:2] != (30, 40)  # the place is taken over in any case
    assert (tracker.seconds["refinement"] > 0) == refined


@pytest.mark.parametrize(
    "box",
    [
        (30, 40, 1, 1),
        (0, 0, 160, 120),
        (-100, -50, 400, 300),
        (159, 119, 1, 1),
        (150, 110, 24, 24),
        (-10, -10, 12, 12),
        (30.5, 40.25, 0.3, 60),
        (1000, 1000, 50, 50),
    ],
)
def test_any_box_in_the_first_frame(net: DiMPNet, box: tuple[float, ...]) -> None:
    settings = EAGER.replaced({"crop_size": 64})
    boxes = run(DiMPTracker(net, settings), video(4), box)
    assert np.isfinite(boxes).all()
    assert (boxes[:, 2:] > 0).all()


def test_a_target_that_leaves_the_image_stays_near_its_border(net: DiMPNet) -> None:
    """The centre is clamped to 0.3 of the box beyond the border, wherever the scores point."""
    still = EAGER.replaced({"random_boxes": 0, "refinement_iterations": 0})
    tracker = DiMPTracker(net, still)
    frames = video(1, (60, 60)) + [np.zeros((60, 60, 3), np.uint8)] * 12
    boxes = run(tracker, frames, (50, 40, 24, 24))
    centres = boxes[:, :2] + boxes[:, 2:] / 2
    # Centres of pixels are half a pixel further left and up than their numbers.
    assert (centres >= -0.3 * 24 + 0.5 - 1e-3).all()
    assert (centres <= 60 + 0.3 * 24 + 0.5 + 1e-3).all()


def test_grey_deep_and_transparent_frames_are_the_same_frames(net: DiMPNet) -> None:
    generator = np.random.default_rng(0)
    grey = [generator.integers(0, 255, (90, 100), np.uint8) for _ in range(4)]
    box = (30.0, 40, 24, 24)
    tracker = DiMPTracker(net, EAGER)
    wanted = run(tracker, [np.dstack([frame] * 3) for frame in grey], box)
    assert np.array_equal(run(tracker, grey, box), wanted)
    assert np.array_equal(run(tracker, [frame[..., None] for frame in grey], box), wanted)
    assert np.array_equal(run(tracker, [np.dstack([frame] * 4) for frame in grey], box), wanted)
    deep = [frame.astype(np.uint16) * 257 for frame in grey]
    assert run(tracker, deep, box) == pytest.approx(wanted, abs=0.01)
    backwards = [np.dstack([frame] * 3)[..., ::-1] for frame in grey]  # as a BGR frame is turned by hand
    assert np.array_equal(run(tracker, backwards, box), wanted)
    for frame in grey:
        frame.flags.writeable = False
    assert np.array_equal(run(tracker, grey, box), wanted)


def test_frames_may_change_their_size(net: DiMPNet) -> None:
    frames = [*video(2, (120, 160)), *video(1, (80, 140)), *video(1, (30, 20)), *video(1, (1, 1))]
    assert np.isfinite(run(DiMPTracker(net, EAGER), frames)).all()


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((4, 5, 2), np.uint8), r"shape \(4, 5, 2\) and type uint8"),
        (np.zeros((4, 5, 3), np.float32), "type float32: expected uint8 or uint16"),
        (np.zeros((0, 5, 3), np.uint8), "has no pixels"),
    ],
)
def test_frames_that_are_none(net: DiMPNet, frame: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        DiMPTracker(net, EAGER).init(frame, (1, 1, 2, 2))


@pytest.mark.parametrize("box", [(1, 2, 3), (1, 2, 0, 4), (1, 2, 3, -4), (float("nan"), 2, 3, 4)])
def test_boxes_that_are_none(net: DiMPNet, box: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="expected x, y, width, height"):
        DiMPTracker(net, EAGER).init(video(1)[0], box)


def test_an_identity_refinement_drifts_only_in_legacy_coordinates(net: DiMPNet) -> None:
    """The published trackers shift the target by half a crop pixel with every box that they refine."""
    for legacy in (False, True):
        settings = EAGER.replaced(
            {"random_boxes": 0, "refinement_iterations": 0, "legacy_coordinates": legacy}
        )
        tracker = DiMPTracker(net, settings)
        tracker.init(video(1)[0], (30, 40, 24, 24))
        frame = tracker._load(video(1)[0])
        from tracking.dimp.crops import cut

        crop, place = cut(frame, *tracker._centre, tracker._scale * 96, 96)
        before = tracker._box()
        tracker._refine(tracker._net.stages(crop[None]), place, (160, 120))
        moved = (tracker._box() - before).numpy()
        assert moved == pytest.approx([0.5 * place.scale * legacy] * 2 + [0, 0], abs=1e-4)


# On the command line


@pytest.fixture
def checkpoint(net: DiMPNet, tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    settings = {"crop_size": 64, "target_not_found": -1e9, "memory_size": 40}
    save_network(path, net, Description("resnet18-small", None, CONFIG, settings))
    return path


def test_evaluates_a_checkpoint(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SCENES, "test", tuple(dataclasses.replace(s, frames=6) for s in SCENES["test"][:1]))
    start = ["--dataset", "demo", "--tracker", "dimp50", "--output", str(tmp_path / "out"), "--workers", "1"]
    start += ["--device", "cpu"]
    assert command.main([*start, "--checkpoint", str(checkpoint), "--seed", "3"]) == 0
    assert "| dimp50 |" in capsys.readouterr().out
    record = json.loads((tmp_path / "out/dimp50/run.json").read_text())
    assert (record["tracker"], record["seed"], len(record["checkpoint_sha256"])) == ("dimp50", 3, 64)
    stored = (tmp_path / "out/dimp50/face.txt").read_bytes()
    # Boxes of the data set count from 1, those of the tracker from 0.
    tracker = make_tracker(TrackerSpec("dimp50", str(checkpoint), "cpu", 3))
    from tracking.datasets import load
    from tracking.online.runner import track_sequence

    (sequence,) = load("demo", frames=True, patterns=["face"]).sequences
    assert sequence.frames is not None
    track = track_sequence(tracker, sequence.frames.paths(), sequence.boxes[0].tolist(), sequence.first_pixel)
    from tracking.files.boxes import format_boxes, parse_boxes

    assert np.abs(parse_boxes(stored, "face").boxes - track.boxes).max() < 0.01
    assert format_boxes(track.boxes[:1]) == format_boxes(sequence.boxes[:1])

    assert command.main([*start, "--checkpoint", str(checkpoint), "--seed", "4"]) == 2
    assert "holds results of 'dimp50' with another seed: choose another --name" in capsys.readouterr().err
    other = tmp_path / "other.safetensors"
    torch.manual_seed(9)
    small = {"crop_size": 64}
    save_network(
        other,
        DiMPNet(backbone_trunk("resnet18-small"), CONFIG),
        Description("resnet18-small", None, CONFIG, small),
    )
    assert command.main([*start, "--checkpoint", str(other), "--seed", "3"]) == 2
    assert "with another checkpoint" in capsys.readouterr().err


def test_tracks_a_folder_with_a_checkpoint(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "frames").mkdir()
    for number, frame in enumerate(video(3)):
        assert cv2.imwrite(str(tmp_path / f"frames/{number}.png"), frame[..., ::-1])

    def boxes(name: str, seed: int) -> np.ndarray:
        out, save = tmp_path / f"{name}.mp4", tmp_path / f"{name}.txt"
        arguments = [str(tmp_path / "frames"), "--box", "30,40,24,24", "--checkpoint", str(checkpoint)]
        arguments += ["--device", "cpu", "--seed", str(seed), "--out", str(out), "--save", str(save)]
        assert track.main(arguments) == 0
        assert "3 frames" in capsys.readouterr().out
        assert len(list(open_video(out).frames())) == 3
        return np.loadtxt(save, delimiter=",")

    first = boxes("first", 3)
    assert first.shape == (3, 4)
    assert first[0].tolist() == [30, 40, 24, 24]
    assert (first[1:] != first[0]).any()
    assert np.array_equal(boxes("again", 3), first)
    assert not np.array_equal(boxes("other", 4), first)


def test_boxes_reach_trackers_in_their_own_numbering() -> None:
    from tracking.online.runner import track_sequence

    class Zero:
        first_pixel = 0

        def init(self, frame: np.ndarray, box: list[float]) -> None:
            self.box = tuple(box)

        def update(self, frame: np.ndarray) -> tuple[float, ...]:
            return self.box

    class AsItIs(Zero):
        first_pixel = None

    import skimage

    frames = [Path(skimage.data_dir) / "coffee.png"] * 2
    for tracker, first_pixel, seen in ((Zero(), 1, 9), (Zero(), 0, 10), (AsItIs(), 1, 10), (AsItIs(), 0, 10)):
        track = track_sequence(tracker, frames, [10, 20, 30, 40], first_pixel)
        assert tracker.box == (seen, seen + 10, 30, 40)
        assert track.boxes.tolist() == [[10, 20, 30, 40]] * 2


def test_trackers_without_a_network_and_networks_without_a_tracker(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tracker 'dimp50' needs a network: name one with --checkpoint"):
        TrackerSpec("dimp50")
    with pytest.raises(UserError, match="tracker 'ncc' takes none"):
        TrackerSpec("ncc", "x.safetensors")
    with pytest.raises(MissingData, match="nothing"):
        make_tracker(TrackerSpec("dimp50", str(tmp_path / "nothing.safetensors"), "cpu"))
    with pytest.raises(UserError, match="device 'cuda:99'"):
        make_tracker(TrackerSpec("dimp50", str(checkpoint), "cuda:99"))
    tracker = make_tracker(TrackerSpec("dimp50-vot18", str(checkpoint), "cpu", 1))
    assert isinstance(tracker, DiMPTracker)
    assert (tracker.settings.crop_size, tracker.settings.window) == (64, True)


@pytest.mark.parametrize("part", ["classifier", "bb_regressor"])
def test_a_network_that_has_diverged_fails_the_run(
    net: DiMPNet, tmp_path: Path, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    """Whichever head it is: a box that stands still would look like a result."""
    (tmp_path / "frames").mkdir()
    for number, frame in enumerate(video(3)):
        assert cv2.imwrite(str(tmp_path / f"frames/{number}.png"), frame[..., ::-1])
    broken = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in getattr(broken, part).parameters():
            parameter.fill_(torch.nan)
    path = tmp_path / "broken.safetensors"
    save_network(
        path, broken, Description("resnet18-small", None, CONFIG, {"crop_size": 64, "target_not_found": -1e9})
    )
    arguments = [
        str(tmp_path / "frames"),
        "--box",
        "30,40,24,24",
        "--checkpoint",
        str(path),
        "--device",
        "cpu",
    ]
    assert track.main([*arguments, "--save", str(tmp_path / "boxes.txt")]) == 1
    message = capsys.readouterr().err
    assert "frame 2" in message
    assert "finite" in message
    assert len(np.loadtxt(tmp_path / "boxes.txt", delimiter=",", ndmin=2)) == 1
