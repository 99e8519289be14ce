"""What all tests share: one thread, the examples of properties, the shipped networks, timm and basicsr.

Every test lies beneath this folder, so that any selection loads this file first. It holds fixtures; what tests import
stands in ordinary modules, such as `tests.subjects`.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import random
import types
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from tests.properties import load_profiles
from tests.subjects import Traced, traced_subject

load_profiles()
torch.set_num_threads(1)  # small networks run no faster on more, and the results stay the same everywhere
os.environ.setdefault("OMP_NUM_THREADS", "1")  # likewise in the processes that tests start


def _same_start() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - whoever draws from it
    torch.manual_seed(0)


def pytest_collectstart(collector: pytest.Collector) -> None:
    """What a test module draws while it is imported does not depend on the modules before it."""
    _same_start()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """What a test and its fixtures draw does not depend on the tests before it."""
    _same_start()


def pytest_collection_finish() -> None:
    """What the import of all tests leaves, half a million objects, is not looked through again by each collection."""
    gc.freeze()


@pytest.fixture(scope="module")
def unfrozen() -> Iterator[None]:
    """For modules of whose own tensors a trace has to learn that they existed before it: it sees no frozen objects."""
    gc.unfreeze()
    yield
    gc.freeze()


@pytest.fixture(autouse=True)
def _gradients_stay_on() -> Iterator[None]:
    """Names the test that switches gradients off for good, not the one that trains after it."""
    for when in ("before this test", "by this test"):
        off = not torch.is_grad_enabled() or torch.is_inference_mode_enabled()
        torch.set_grad_enabled(True)
        assert not off, f"gradients were left switched off {when}"
        if when == "before this test":
            yield


@pytest.fixture(scope="session")
def traced() -> Callable[[str], Traced]:
    """Name of a shipped network -> the network with its groups, built once."""
    return traced_subject


@pytest.fixture(scope="module")
def unarranged() -> Iterator[None]:
    """For modules that make reports and look at no picture: all is drawn, where it lies is not worked out.

    That takes half of the time of a small run. Modules that test pictures and reports do without.
    """
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConstrainedLayoutEngine, "execute", lambda engine, figure: None)
        yield


def _behind_torchvision(name: str) -> types.ModuleType:
    """Torchvision or a package that needs it, also where its compiled operators do not fit torch."""
    if importlib.util.find_spec(name) is None:
        extra = "basicsr" if name == "basicsr" else "timm"
        pytest.skip(f"{name} is not installed: it comes with the extra '{extra}'")
    from super_resolution.torchvision_shim import make_importable

    try:
        make_importable()
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"{name} cannot be imported: {error}")


@pytest.fixture(scope="session")
def timm() -> types.ModuleType:
    """timm, imported even where torchvision's compiled operators do not fit torch."""
    return _behind_torchvision("timm")


@pytest.fixture(scope="session")
def torchvision() -> types.ModuleType:
    """torchvision, likewise."""
    return _behind_torchvision("torchvision")


@pytest.fixture(scope="session")
def onnxruntime() -> types.ModuleType:
    """onnxruntime, with what writes the files that it runs."""
    for name in ("onnx", "onnxruntime", "onnxscript"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: it comes with the extra 'export'")
    return importlib.import_module("onnxruntime")


@pytest.fixture(scope="session")
def basicsr() -> types.ModuleType:
    """The package basicsr, likewise."""
    return _behind_torchvision("basicsr")
