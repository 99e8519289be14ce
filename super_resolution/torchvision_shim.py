"""Makes torchvision importable for basicsr; does nothing if torchvision is intact.

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

# A library's declarations live as long as this object.
_declared: list[torch.library.Library] = []


def make_importable() -> None:
    """Import torchvision, repaired if necessary, so that `import basicsr` works afterwards.

    Raises:
        ImportError: torchvision is not installed.
        RuntimeError: torchvision is broken in an unknown way.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        _declare_operators()
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]  # modules that the failed import left half-loaded
        importlib.import_module("torchvision")
    if _OLD_NAME not in sys.modules and importlib.util.find_spec(_OLD_NAME) is None:
        sys.modules[_OLD_NAME] = importlib.import_module("torchvision.transforms._functional_tensor")


def _declare_operators() -> None:
    """Declare the missing operators for which torchvision registers fake kernels at import."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    _declared.append(library)
