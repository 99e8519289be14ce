"""The three tasks as one of several launched processes: `-m tests.launched_tasks FOLDER`, by srun or in its place.

What a process trains and scores is as small as it can be. Each writes down which samples it has scored.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

CLASSIFICATION = ["--train-limit", "60", "--epochs", "1", "--cfg-options", "train.batch_size=30"]
SUPER_RESOLUTION = ["--scale", "4", "--epochs", "2", "--cfg-options", "options.n_blocks=1", "options.n_feats=8",
                    "data.crops_per_epoch=16", "data.patch=32", "shrink.round_to=1"]  # fmt: skip
TRACKING = ["--epochs", "1", "--cfg-options", "data.sequences_per_epoch=4", "data.views.crop=64", "data.workers=0",
            "train.batch_size=4", "shrink.batch_size=2", "shrink.batches=1", "network.classification_channels=8",
            "network.iou_channels=8", "network.optimizer_iterations=1", "evaluation.split=test"]  # fmt: skip
SCENES = {"test": 2, "train": 3, "random": 3}


def noted(scored: list[str], name: Callable[..., str], function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function; what it is called for is added to `scored`."""

    @wraps(function)
    def call(*arguments: Any) -> Any:
        scored.append(name(*arguments))
        return function(*arguments)

    return call


def main(folder: Path) -> None:
    import torch

    from classification.run import main as classify
    from core.training.devices import is_first_process
    from super_resolution import evaluation
    from super_resolution.run import main as upscale
    from tracking.datasets.demo_rendering import SCENES as DEMO
    from tracking.experiment import tryout
    from tracking.run import main as track

    torch.set_num_threads(1)
    for split, count in SCENES.items():
        DEMO[split] = DEMO[split][:count]
    common = ["--device", "cpu", "--no-progress", "--work-dir"]
    always = ["--stages", "baseline", *common]
    scored: list[str] = []
    statuses = [classify([*common, str(folder / "classification"), *CLASSIFICATION])]
    sets = f"data.benchmarks=({str(folder / 'photos')!r},)"
    names = partial(noted, scored, lambda upscaler, images, pair: pair.name)
    with patch.object(evaluation, "score_pair", names(evaluation.score_pair)):
        statuses.append(upscale([*always, str(folder / "super_resolution"), *SUPER_RESOLUTION, sets]))
    names = partial(noted, scored, lambda place, sequence, stored: f"{place.name}/{sequence}")
    with patch.object(tryout, "store_track", names(tryout.store_track)):
        statuses.append(track([*always, str(folder / "tracking"), *TRACKING]))
    rank = 1 - is_first_process()
    (folder / f"process{rank}.json").write_text(json.dumps({"statuses": statuses, "scored": scored}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
