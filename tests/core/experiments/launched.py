"""Trials in two launched processes: `torchrun --nproc_per_node=2 launched.py FOLDER [alone]`.

The found network's widths file is a folder, so that its trial fails in the first process; the control's does not.
One of the controls trains while it searches, which the first process does alone. With the argument "alone" the second
process fails in the midst of a training, which the first one cannot know of.
"""

from __future__ import annotations

import sys
from pathlib import Path

from torch import Tensor
from torch.nn import functional

from core.experiments import executors
from core.experiments.experiment import run_experiment
from core.experiments.settings import Settings
from core.training.train import OptimizerConfig, TrainConfig, make_fabric
from core.widths.budget import Budget
from core.widths.config import ShrinkConfig
from tests.toys import toy_task


def main(folder: Path, alone: bool) -> None:
    executors.PATIENCE = 2
    fabric = make_fabric("cpu", devices=2)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        if alone and fabric.global_rank == 1:
            raise RuntimeError("this process alone")
        return functional.cross_entropy(outputs, targets)

    (folder / "widths" / "lwdna-seed0.json").mkdir(parents=True, exist_ok=True)
    recipe = TrainConfig(epochs=1, batch_size=4, optimizer=OptimizerConfig(lr=0.01))
    shrink = ShrinkConfig(budget=Budget(flops=0.7), floor=0.2, batch_size=4)
    settings = Settings(recipe, shrink, folder, controls=("uniform", "accumulated"), progress=False)
    outcome = run_experiment(toy_task(loss_fn=loss), settings, fabric, lambda line: None)
    failed = [f"{failure.trial}: {failure.kind}" for failure in outcome.failed]
    (folder / f"failed{fabric.global_rank}.txt").write_text("\n".join(failed))


if __name__ == "__main__":
    main(Path(sys.argv[1]), len(sys.argv) > 2)
