"""Small networks, one per operation and combination, with channel groups that were derived by hand.

A toy is its modules and a forward function of them; `groups` says, for every free group, its width in channels and the
channels per independent choice. Whatever is not listed has to keep its size. The tables lie in `toys_*.py`.
"""

from __future__ import annotations

from tests.toy_parts import IMAGE, Net, Toy, channels, conv
from tests.toys_attention import ATTENTION
from tests.toys_blocks import BLOCKS
from tests.toys_computed import COMPUTED
from tests.toys_frozen import FROZEN
from tests.toys_inexact import INEXACT
from tests.toys_layers import LAYERS
from tests.toys_movement import MOVEMENT
from tests.toys_sizes import SIZES

__all__ = ["IMAGE", "TOYS", "Net", "Toy", "channels", "conv"]

TOYS: dict[str, Toy] = {**LAYERS, **MOVEMENT, **BLOCKS, **SIZES, **COMPUTED, **INEXACT, **ATTENTION, **FROZEN}
