"""BasicSR: `LWDNANet` in `ARCH_REGISTRY`, and training with it: `python -m lwdna.runners.basicsr -opt train.yml`.

    network_g:
      type: LWDNANet
      base: {type: EDSR, num_in_ch: 3, num_out_ch: 3, num_feat: 64, num_block: 16, upscale: 4}
      widths: widths.json

A user's own training script imports this module before it calls BasicSR's `train_pipeline`. Checkpoints have the names
of the base network, and `python -m super_resolution.convert` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from core.errors import UserError, check_known
from lwdna.runners.found import found_network
from super_resolution.torchvision_shim import make_importable

make_importable()

# All modules of basicsr import torchvision, which may have to be repaired first.
from basicsr.train import train_pipeline  # noqa: E402
from basicsr.utils.registry import ARCH_REGISTRY  # noqa: E402


@ARCH_REGISTRY.register()
def LWDNANet(base: Mapping[str, Any], widths: str | Path | None = None) -> nn.Module:
    """A network of `ARCH_REGISTRY` at found widths, which starts as that network starts itself.

    Args:
        base: the network's options, as `network_g` would have them.
        widths: a widths file, relative to the folder in which the training is started, or the name of one that ships;
            None trains the baseline.

    Returns:
        A plain network of the base's class.

    Raises:
        UserError: the base names no network, or one that is not registered.
        ArchitectureError: the widths file cannot be read, or does not fit the base.
    """
    options = dict(base)
    name = options.pop("type", None)
    if name is None:
        raise UserError("LWDNANet: its base has no type; write it as network_g would be: type, num_feat, ...")
    check_known("ARCH_REGISTRY has no network", [name], ARCH_REGISTRY.keys())
    return found_network(partial(ARCH_REGISTRY.get(name), **options), widths)


def main() -> None:
    """BasicSR's own training command; experiments are written below the current folder."""
    train_pipeline(str(Path.cwd()))


if __name__ == "__main__":
    main()
