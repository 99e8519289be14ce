"""Training of trackers: sequences, samples, batches, losses. `python -m tracking.train` is the command."""

from tracking.training.assembly import (
    TrackingConfig,
    build_network,
    make_loader,
    make_loss,
    make_validation,
    run_title,
    trained_on,
)
from tracking.training.config import DataConfig, SourceConfig
from tracking.training.loader import SequenceLoader
from tracking.training.losses import LossConfig, dimp_loss

__all__ = [
    "DataConfig",
    "LossConfig",
    "SequenceLoader",
    "SourceConfig",
    "TrackingConfig",
    "build_network",
    "dimp_loss",
    "make_loader",
    "make_loss",
    "make_validation",
    "run_title",
    "trained_on",
]
