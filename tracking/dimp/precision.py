"""Full precision where half precision fails: differences in pooling, the filter's optimisation, energies of maps."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(like: Tensor) -> AbstractContextManager[object]:
    """Autocasting is off inside, on the device of `like`; the meta device has none."""
    kind = like.device.type
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)
