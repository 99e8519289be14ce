"""Makes torchvision importable where basicsr needs it; does nothing where torchvision is whole.

Two things break `import basicsr`, which imports torchvision in every submodule. A torchvision built for CUDA
beside a torch without CUDA can't load its compiled operators and stops with "operator torchvision::nms does
not exist"; declaring the operators' schemas is enough for everything except calling them. And basicsr 1.4.2
imports `torchvision.transforms.functional_tensor`, which torchvision 0.17 renamed.

    from super_resolution.torchvision_shim import make_importable

    make_importable()
    from basicsr.archs.edsr_arch import EDSR
"""

from __future__ import annotations

import importlib
import importlib.util
import sys

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_OLD_NAME = "torchvision.transforms.functional_tensor"

# A library's declarations live as long as the object.
_declared: list[torch.library.Library] = []


def make_importable() -> None:
    """Import torchvision, repaired where it has to be, so that `import basicsr` works afterwards.

    Raises:
        ImportError: torchvision is not installed.
        RuntimeError: torchvision is broken in a way that is not known here.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        _declare_operators()
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]  # what the failed import left half-made
        importlib.import_module("torchvision")
    if _OLD_NAME not in sys.modules and importlib.util.find_spec(_OLD_NAME) is None:
        sys.modules[_OLD_NAME] = importlib.import_module("torchvision.transforms._functional_tensor")


def _declare_operators() -> None:
    """Declare the operators whose fake kernels torchvision registers at import, where they are missing."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    _declared.append(library)
