"""Random number generators: one seed for all, and their state as tensors that a checkpoint can hold."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's generators (all devices) with `seed` (any integer >= 0)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - third-party augmentations use the legacy generator
    torch.manual_seed(seed)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The state of Python's, numpy's, torch's CPU and (on CUDA) `device`'s generators, as CPU tensors.

    Every tensor's shape is the same in every process, so that the states of several ranks can be gathered.
    """
    version, words, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002
    assert isinstance(numpy_state, dict)  # tells the type checker that legacy=False gives the dict form
    mersenne = numpy_state["state"]
    state = {
        "python": torch.tensor([version, *words], dtype=torch.int64),
        "python_gauss": torch.tensor([gauss is not None, gauss or 0.0], dtype=torch.float64),
        "numpy": torch.tensor([*mersenne["key"].tolist(), mersenne["pos"], numpy_state["has_gauss"]]),
        "numpy_gauss": torch.tensor([numpy_state["gauss"]], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Put the generators back into the state that `random_state` read."""
    version, *words = state["python"].tolist()
    has_gauss, gauss = state["python_gauss"].tolist()
    random.setstate((version, tuple(words), gauss if has_gauss else None))
    *numpy_words, position, numpy_has_gauss = state["numpy"].tolist()
    numpy_state = ("MT19937", np.array(numpy_words, dtype=np.uint32), position, numpy_has_gauss)
    np.random.set_state((*numpy_state, state["numpy_gauss"].item()))  # noqa: NPY002
    # torch reads a generator's state from the start of its memory, even where the tensor is a view into it.
    torch.set_rng_state(state["torch"].cpu().clone())
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"].cpu().clone(), device)
