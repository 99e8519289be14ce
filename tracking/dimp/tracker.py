"""DiMP on a video (Bhat et al., ICCV 2019, section 3.5): find the target, refine its box, learn from it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from core.errors import NonFiniteOutput, UserError
from tracking.dimp.augmentation import channel_dropout, expanded_size, first_frame_samples
from tracking.dimp.box_judge import BoxJudge
from tracking.dimp.crops import CropFrame, cut, from_centres, normalise, to_centres
from tracking.dimp.inference import InferenceNetwork, Stages
from tracking.dimp.localisation import Finding, Localisation, localise
from tracking.dimp.memory import SampleMemory
from tracking.dimp.net import DiMPNet
from tracking.dimp.refinement import best_box, refine, starting_boxes
from tracking.dimp.settings import STRIDE, TrackerSettings
from tracking.files.images import as_rgb

STAGES = ("crop", "backbone", "classification", "localisation", "iou features", "refinement", "learning")
LEGACY_SHIFT = 0.5
SMALLEST_SIDE = 1.0  # least side of a refined box, in image pixels
LARGEST_SIDE = 2.0  # the largest, in sides of the image (or of the first box, if that is larger)


class DiMPTracker:
    """Tracks one target at a time; `init` starts anew.

    Frames are uint8 RGB `(height, width, 3)`; grey, RGBA and 16-bit frames are taken too, and their size may change.
    The same network, settings, seed and frames give the same boxes. Memory does not grow with the number of frames.

    Args:
        net: a trained network, or a prepared one that several trackers share.
        settings: see `TrackerSettings`.
        seed: of the first frame's augmentation and of the refinement's starting boxes.
        device: where to run; for a prepared network, its own.
        clock: the clock for `seconds`. On a GPU they are the host's times, as the device works on while the clock is
            read.

    Attributes:
        first_pixel: boxes count the image's first pixel as number 0.
        seconds: stage to time spent in it in the last frame, all of `STAGES`.
        finding: how the target was found in the last frame.
    """

    first_pixel = 0

    def __init__(
        self,
        net: DiMPNet | InferenceNetwork,
        settings: TrackerSettings | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.settings = settings or TrackerSettings()
        self._net = net if isinstance(net, InferenceNetwork) else InferenceNetwork(net, device)
        self._seed, self._clock = seed, clock
        self._generator = torch.Generator()
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.finding = Finding.NORMAL
        # Where score cell 0 lies in the crop.
        self._first_cell = STRIDE // 2 * (self._net.net.config.filter_size % 2)
        self._shift = LEGACY_SHIFT if self.settings.legacy_coordinates else 0.0
        self._size: Tensor  # the target's size: (2,), width and height in image pixels; `init` sets it

    @torch.inference_mode()
    def init(self, frame: np.ndarray, box: Sequence[float]) -> None:
        """Learn the target.

        Args:
            frame: the first frame.
            box: x, y, width, height of the target in pixels.

        Raises:
            UserError: no box, or no frame.
        """
        values = torch.tensor([float(value) for value in box], dtype=torch.float64)
        if values.shape != (4,) or not bool(torch.isfinite(values).all()) or bool((values[2:] <= 0).any()):
            raise UserError(f"box {tuple(box)}: expected x, y, width, height with a size above 0")
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.finding = Finding.NORMAL
        self._generator.manual_seed(self._seed)
        self._frame_number = 1
        self._keep(to_centres(values))
        self._first_size = self._size
        samples, boxes, reference = self._first_samples(self._load(frame))
        classifier = self._net.net.classifier
        with self._stage("learning"):
            copies = [
                channel_dropout(samples[:1], self.settings.dropout, self._generator)
                for _ in range(self.settings.dropout_samples)
            ]
            samples = torch.cat([samples, *copies]).contiguous(memory_format=torch.channels_last)
            boxes = torch.cat([boxes, boxes[:1].expand(len(copies), 4)])
            weight = classifier.filter_initializer(samples[None], boxes[None])
            iterates, _ = classifier.filter_optimizer(
                weight, samples[None], boxes[None], iterations=self.settings.first_iterations
            )
            self._filter = iterates[-1]
            self._memory = SampleMemory(
                samples, boxes, self.settings.memory_size, self.settings.initial_minimum_weight
            )
        with self._stage("iou features"):
            modulation = self._net.modulation(reference, boxes[:1])
            self._judge = BoxJudge(self._net.net.bb_regressor, modulation)

    def _first_samples(self, image: Tensor) -> tuple[Tensor, Tensor, Stages]:
        """Classification features and boxes of the first frame's crops, and the backbone's stages on the plain crop."""
        settings = self.settings
        size = expanded_size(settings)
        with self._stage("crop"):
            patch, place = cut(image, *self._centre, self._scale * size, size)
            box = place.boxes_to_crop(self._box()).to(patch) + self._half_pixel(patch)
            crops, boxes = zip(*first_frame_samples(patch, box, settings, self._generator), strict=True)
            images = normalise(torch.stack(crops))
        # One by one on a CPU: the maps of a single crop fit into its caches.
        batches = images.split(1) if images.device.type == "cpu" else (images,)
        features: list[Tensor] = []
        reference: Stages = {}
        for batch in batches:
            with self._stage("backbone"):
                stages = self._net.stages(batch)
            with self._stage("classification"):
                features.append(self._net.classification_features(stages))
            if not reference:
                reference = stages if len(batch) == 1 else {name: map_[:1] for name, map_ in stages.items()}
        return torch.cat(features), torch.stack(boxes), reference

    @torch.inference_mode()
    def update(self, frame: np.ndarray) -> tuple[tuple[float, float, float, float], float]:
        """Find the target in the next frame.

        Returns:
            Its box x, y, width, height in pixels, not clipped to the image, and the score of its place.

        Raises:
            NonFiniteOutput: the network's score map, or all the overlaps that it predicts, are not finite.
        """
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._frame_number += 1
        image = self._load(frame)
        with self._stage("crop"):
            size = self.settings.crop_size
            crop, place = cut(image, *self._centre, self._scale * size, size)
            crop = normalise(crop)[None]
        with self._stage("backbone"):
            stages = self._net.stages(crop)
        with self._stage("classification"):
            features = self._net.classification_features(stages)
        with self._stage("localisation"):
            found = self._localise(features, place)
        self.finding = found.finding
        if found.finding is not Finding.NOT_FOUND:
            self._move_to(found, place, (image.shape[2], image.shape[1]))
            if self.settings.update_scale_when_uncertain or found.finding is not Finding.UNCERTAIN:
                self._refine(stages, place, (image.shape[2], image.shape[1]))
            if found.finding is not Finding.UNCERTAIN:
                with self._stage("learning"):
                    self._learn(features, place)
        box = from_centres(self._box()).tolist()
        return (box[0], box[1], box[2], box[3]), found.score

    def _localise(self, features: Tensor, place: CropFrame) -> Localisation:
        scores = self._net.net.classifier.scores(self._filter, features[None])[0, 0]
        width, height = (self._size / place.scale).tolist()
        x, y = self._centre
        previous = (x - place.x) / place.scale, (y - place.y) / place.scale
        values = scores.float().cpu().numpy()
        if not np.isfinite(values).all():
            # Else every later frame would be "not found": the tracker is blind, and its box stands still.
            raise NonFiniteOutput(
                f"frame {self._frame_number}: {(~np.isfinite(values)).sum()} of {values.size} cells of the tracker's "
                "score map are NaN or infinite"
            )
        return localise(values, (width, height), previous, self.settings)

    def _move_to(self, found: Localisation, place: CropFrame, image_size: tuple[int, int]) -> None:
        """Put the target's centre on a score cell, but not further out of the image than the settings allow."""
        middle = (place.size - 1) / 2 + self._shift
        centre = []
        for cell, origin, limit, extent in zip(
            (found.column, found.row), (place.x, place.y), image_size, self._size.tolist(), strict=True
        ):
            value = origin + (cell * STRIDE + self._first_cell - middle) * place.scale
            outside = (0.5 - self.settings.target_inside) * extent
            centre.append(min(max(value, -outside), limit + outside))
        self._centre = (centre[0], centre[1])

    def _refine(self, stages: Stages, place: CropFrame, image_size: tuple[int, int]) -> None:
        with self._stage("iou features"):
            maps = self._net.iou_features(stages)
        with self._stage("refinement"):
            box = (place.boxes_to_crop(self._box()) + self._half_pixel(self._size)).to(torch.float32)
            boxes = starting_boxes(box, self.settings, self._generator).to(self._net.device)

            def judge(boxes: Tensor) -> tuple[Tensor, Tensor]:
                overlaps, gradient = self._judge(maps, boxes)
                if overlaps.device.type == "cpu":  # on others asking costs time: once, after the last step
                    self._require_overlaps(overlaps)
                return overlaps, gradient

            boxes, overlaps = refine(judge, boxes, self.settings)
            self._require_overlaps(overlaps)
            best = best_box(boxes.cpu(), overlaps.cpu(), self.settings)
            if best is not None:
                # The half pixel is not taken back: this is how the published trackers move.
                self._keep(self._bounded(place.boxes_to_image(best.to(torch.float64)), image_size))

    def _require_overlaps(self, overlaps: Tensor) -> None:
        """Refuse predictions if none is finite: the box would stand still for ever, and nobody would know why."""
        if not bool(overlaps.isfinite().any()):
            raise NonFiniteOutput(
                f"frame {self._frame_number}: the {len(overlaps)} overlaps that the tracker predicts are NaN or "
                "infinite"
            )

    def _bounded(self, box: Tensor, image_size: tuple[int, int]) -> Tensor:
        """The box with bounded sides and the same middle: a network that always errs could let it grow for ever."""
        largest = torch.maximum(LARGEST_SIDE * box.new_tensor(image_size), self._first_size)
        size = torch.minimum(box[2:].clamp_min(SMALLEST_SIDE), largest)
        return torch.cat([box[:2] + (box[2:] - size) / 2, size])

    def _learn(self, features: Tensor, place: CropFrame) -> None:
        settings = self.settings
        hard = self.finding is Finding.HARD_NEGATIVE
        rate = settings.hard_negative_learning_rate if hard else settings.learning_rate
        box = place.boxes_to_crop(self._box()) + self._half_pixel(self._size)
        self._memory.add(features, box, rate)
        regular = (self._frame_number - 1) % settings.train_skipping == 0
        steps = settings.hard_negative_iterations if hard else settings.update_iterations if regular else 0
        if steps:
            samples, boxes, weights = self._memory.samples()
            iterates, _ = self._net.net.classifier.filter_optimizer(
                self._filter, samples, boxes, weights, iterations=steps
            )
            self._filter = iterates[-1]

    def _load(self, frame: np.ndarray) -> Tensor:
        """A frame as (3, H, W) on the device."""
        pixels = np.ascontiguousarray(as_rgb(frame))
        if not pixels.flags.writeable:
            pixels = pixels.copy()
        return torch.from_numpy(pixels).to(self._net.device).permute(2, 0, 1)

    def _keep(self, box: Tensor) -> None:
        """Take over a box in coordinates of pixel centres."""
        centre = (box[:2] + box[2:] / 2).tolist()
        self._centre = (centre[0], centre[1])
        self._size = box[2:]

    def _box(self) -> Tensor:
        return torch.cat([self._size.new_tensor(self._centre) - self._size / 2, self._size])

    @property
    def _scale(self) -> float:
        """Image pixels per crop pixel."""
        return self.settings.search_area * float(self._size.prod().sqrt()) / self.settings.crop_size

    def _half_pixel(self, like: Tensor) -> Tensor:
        return like.new_tensor([self._shift, self._shift, 0, 0])

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        start = self._clock()
        yield
        self.seconds[name] += self._clock() - start
