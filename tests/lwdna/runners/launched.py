"""mmengine trains found widths in two processes: `torchrun --nproc_per_node=2 launched.py FOLDER`.

The test trains the same in one process, with batches of twice the size, and compares.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import core
from lwdna.runners.mmengine import LWDNANet
from tests.lwdna.runners import page


class Bare(nn.Module):
    """Without batch norm, whose statistics are of a process' own part of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU())
        self.head = nn.Linear(8, page.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class Weighed(BaseModel):
    """A complete model that weighs its losses in a way of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Bare()

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        outputs = self.backbone(inputs)
        return {"loss": nn.functional.cross_entropy(outputs, data_samples)} if mode == "loss" else outputs

    def parse_losses(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        loss, log = super().parse_losses(losses)
        return 0.25 * loss, log


def photos() -> TensorDataset:
    images = torch.stack([torch.from_numpy(image.copy()) for image in page.photographs()[:12]])
    return TensorDataset(images.permute(0, 3, 1, 2)[:, :, ::4, ::4] / 255, torch.arange(12) % page.CLASSES)


def train(folder: Path, base: type[nn.Module], batch_size: int, **options: Any) -> None:
    """Two epochs at the widths in FOLDER/NAME.json; the first process leaves FOLDER/NAME/weights.pth."""
    name = base.__name__
    torch.manual_seed(0)
    model = LWDNANet(
        base, folder.parent / f"{name}.json", None if issubclass(base, BaseModel) else nn.CrossEntropyLoss()
    )
    data = photos()
    runner = Runner(
        model,
        str(folder / name),
        DataLoader(data, batch_size, sampler=DefaultSampler(data, shuffle=False)),
        train_cfg={"by_epoch": True, "max_epochs": 2},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9}},
        randomness={"seed": 3},
        log_level="ERROR",
        experiment_name=f"{folder.name}-{name}",
        **options,
    )
    runner.train()
    if runner.rank == 0:
        trained = runner.model.module if runner.distributed else runner.model
        torch.save(trained.state_dict(), folder / name / "weights.pth")


def write_widths(folder: Path) -> None:
    for base in (Bare, Weighed):
        found = core.shrink(
            base(), torch.zeros(1, 3, 16, 16), [], nn.L1Loss(), score="random", budget=core.Budget(flops=0.7)
        )
        found.save(folder / f"{base.__name__}.json")


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")  # mmengine's own start asks for GPUs
    config = Config({"model_wrapper_cfg": {"device_ids": None}})
    for network in (Bare, Weighed):
        train(Path(sys.argv[1]), network, 2, launcher="pytorch", cfg=config)
    torch.distributed.destroy_process_group()  # gloo's threads end before the interpreter, which may else abort
