"""Runs trackers with a network in memory on a data set: tracked once, stored, scored."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.training import devices
from tracking.datasets import TrackingDataset, TrackingSequence
from tracking.dimp.inference import InferenceNetwork
from tracking.dimp.net import DiMPNet
from tracking.dimp.settings import TrackerSettings
from tracking.dimp.tracker import DiMPTracker
from tracking.evaluation.evaluation import Evaluation, average_curve, evaluate_trackers
from tracking.evaluation.protocols import Protocol
from tracking.evaluation.stored_results import find_trackers
from tracking.online.runner import is_finished, store_track, track_sequence
from tracking.online.trackers import Tracker, make_tracker

SHOWN = ("success_auc", "precision", "norm_precision")


@dataclass(frozen=True)
class Tryout:
    """Runs and scores trackers on one data set.

    Attributes:
        dataset: with frames.
        protocol: how they are scored.
        folder: where boxes and times are stored, a folder for each tracker. Stored sequences are not tracked again, so
            an interrupted evaluation goes on.
        changes: entries of the tracker's settings in which it differs from DiMP-50's.
        references: trackers of `tracking.online.trackers` to show beside those with a network.
        device: where networks run.
        say: is told of each sequence that was tracked.
    """

    dataset: TrackingDataset
    protocol: Protocol
    folder: Path
    changes: Mapping[str, Any]
    references: tuple[str, ...]
    device: torch.device
    say: Callable[[str], None] = lambda line: None

    @property
    def settings(self) -> TrackerSettings:
        """The settings of trackers with a network."""
        return TrackerSettings().replaced(self.changes)

    def network(self, network: nn.Module, *, in_all: bool = False) -> Evaluation:
        """The scores of a tracker's network; its folder is named after a checksum of its weights.

        Args:
            network: the same in all processes.
            in_all: launched processes share out the sequences, and each is tracked once; all have to call this.
        """
        assert isinstance(network, DiMPNet)
        prepared = InferenceNetwork(network, self.device)
        name = self.folder_of(network).name
        return self._try(name, lambda: DiMPTracker(prepared, self.settings), in_all, "evaluation")

    def folder_of(self, network: nn.Module) -> Path:
        """The folder of the boxes of a tracker's network, after it was run."""
        return self.folder / f"{weights_checksum(network):08x}"

    def built_in(self, name: str, *, in_all: bool = False) -> Evaluation:
        """The scores of a tracker of `tracking.online.trackers`; for `in_all` see `network`."""
        return self._try(name, lambda: make_tracker(name), in_all, name)

    def _try(self, name: str, make: Callable[[], Tracker], in_all: bool, called: str) -> Evaluation:
        place = self.folder / name
        if in_all:
            rank, world = devices.place_among_processes()
            devices.in_all(lambda: self._track(place, make, self.dataset.sequences[rank::world], called))
        else:
            self._track(place, make, self.dataset.sequences, called)
        (stored,) = find_trackers(place, self.dataset.sequences)
        (evaluation,) = evaluate_trackers(self.dataset, [stored], self.protocol)
        return evaluation

    def _track(
        self, place: Path, make: Callable[[], Tracker], sequences: Sequence[TrackingSequence], called: str
    ) -> None:
        waiting = [
            sequence for sequence in sequences if not is_finished(place, sequence.name, len(sequence.boxes))
        ]
        for number, sequence in enumerate(waiting, 1):
            assert sequence.frames is not None  # the data set was read with frames
            frames = sequence.frames.paths()[: len(sequence.boxes)]
            box = sequence.boxes[0].tolist()
            track = track_sequence(make(), frames, box, sequence.first_pixel)
            store_track(place, sequence.name, track)
            speed = len(frames) / track.seconds.sum()
            self.say(
                f"{called}: {number}/{len(waiting)} {sequence.name}: {len(frames)} frames, {speed:.1f} frames/s"
            )


def percentages(evaluation: Evaluation) -> dict[str, float]:
    """AUC, precision and normalised precision, in percent."""
    scores = evaluation.scores()
    return {key: 100 * value for key in SHOWN if (value := scores[key]) is not None}


def success_curve(evaluation: Evaluation) -> list[float]:
    """Share of frames above each overlap threshold of the protocol, in percent, to two digits."""
    curves, protocol = evaluation.curves, evaluation.protocol
    return [round(100 * float(v), 2) for v in average_curve(curves.success, curves.frames, protocol)]


def weights_checksum(module: nn.Module) -> int:
    """CRC32 of all parameters and buffers."""
    value = 0
    for name, tensor in module.state_dict().items():
        value = zlib.crc32(name.encode(), value)
        value = zlib.crc32(
            tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data, value
        )
    return value
