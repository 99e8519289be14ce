"""DHP's hypernetwork (Li et al., ECCV 2020, section 3): a layer's weight is generated from two latent vectors.

For output channel j, input channel i and a k x k kernel, with embedding size m:

    latent layer      Z[j, i] = z_out[j] · z_in[i] + B0[j, i]
    embedding layer   E[j, i] = Z[j, i] · w1[j, i] + b1[j, i]          w1, b1 in R^m
    explicit layer    O[j, i] = W2[j, i] E[j, i] + b2[j, i]            W2 in R^(k² x m)

Deviation: the authors leave B0, b1, b2 in place where a latent is zero, so a channel that is switched off still has
weights, and cutting it changes the function. Here O is multiplied by [z_out ≠ 0] · [z_in ≠ 0]. Input and output
dimensions read the constant 1 in place of a latent that is never pruned. Linear layers whose outputs are frozen
(classifiers) stay ordinary parameters, as in the authors' code, and are only masked.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from core.graph.channels import ChannelGraph
from core.modules import copy_model
from core.surgery.gates import LATENTS, Latents, RowsOfLatents, governed_weights, parametrize_weight_
from core.surgery.initialise import seeded


class HyperWeight(RowsOfLatents):
    """Generates one weight from the latents of its rows and columns."""

    def __init__(
        self, latents: Latents, tables: dict[int, NDArray[np.int64]], shape: torch.Size, embedding: int
    ) -> None:
        super().__init__(latents, tables, len(shape))
        self.shape = tuple(shape)
        self.embedding = embedding

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Fresh hypernetwork parameters (B0, w1, b1, W2, b2) for a weight of this shape; its values are not used."""
        kernel = math.prod(self.shape[2:])
        pairs = self.shape[:2]
        bound = math.sqrt(3 / (self.embedding * pairs[1] * kernel))
        w1 = torch.empty(*pairs, self.embedding).uniform_(-math.sqrt(3), math.sqrt(3))
        w2 = torch.empty(*pairs, kernel, self.embedding).uniform_(-bound, bound)
        zeros = torch.zeros(pairs), torch.zeros(*pairs, self.embedding), torch.zeros(*pairs, kernel)
        made = zeros[0], w1, zeros[1], w2, zeros[2]
        return tuple(item.to(weight) for item in made)  # type: ignore[return-value]

    def forward(self, b0: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        """(B0, w1, b1, W2, b2) -> weight of the layer's shape."""
        latent, mask = torch.ones_like(b0), torch.ones_like(b0)
        for dim in self.dims:
            z = self.along(dim).reshape([-1, 1] if dim == 0 else [1, -1])
            latent = latent * z
            mask = mask * (z != 0)
        embedded = (latent + b0)[..., None] * w1 + b1
        explicit = torch.einsum("jikm,jim->jik", w2, embedded) + b2
        return (explicit * mask[..., None]).reshape(self.shape)


class MaskedWeight(RowsOfLatents):
    """W · [z ≠ 0]: an ordinary weight whose switched-off channels are really off."""

    def forward(self, weight: Tensor) -> Tensor:
        """Weight of any rank -> masked weight of the same shape."""
        for dim in self.dims:
            weight = weight * (self.along(dim) != 0)
        return weight


def attach_hypernetwork(
    model: nn.Module, graph: ChannelGraph, *, embedding: int = 8, seed: int | None = None
) -> nn.Module:
    """A copy of `model` whose weights are generated from one latent vector per channel group, z ~ N(0, 1).

    Args:
        model: the network that `graph` was traced from; it is not changed and its weights are not used.
        graph: its channel groups.
        embedding: m, the size of the embedding (8 in DHP, 2 in LW-DNA's ResNet50).
        seed: for latents and hypernetworks; None draws from torch's global generator.

    Returns:
        A module of the same interface; its latents are `result.channel_latents`. `core.surgery.gates.detach` bakes the
        generated weights into a plain network.
    """
    hyper = copy_model(model)
    reference = next(model.parameters())
    with seeded(seed):
        latents = Latents(graph, torch.randn(graph.choices, dtype=reference.dtype)).to(reference.device)
        for name, tables in governed_weights(model, graph).items():
            owner, _, leaf = name.rpartition(".")
            module = hyper.get_submodule(owner)
            shape = getattr(module, leaf).shape
            classifier = isinstance(module, nn.Linear) and 0 not in tables
            generate: RowsOfLatents = (
                MaskedWeight(latents, tables, len(shape))
                if classifier
                else HyperWeight(latents, tables, shape, embedding)
            )
            parametrize_weight_(hyper, name, generate.to(reference.device))
    hyper.add_module(LATENTS, latents)
    return hyper


@torch.no_grad()
def soft_threshold_(
    latents: Latents, amount: float, *, keep: int | dict[str, int] = 4, threshold: float = 0.0
) -> None:
    """The proximal step of DHP (section 3.3): z <- sign(z) · max(|z| - amount, 0), in place.

    Args:
        latents: of a network with hypernetworks.
        amount: regularisation factor times learning rate.
        keep: a group is left alone once no more than this many of its latents are alive.
        threshold: a latent is alive from this magnitude on; 0 counts those that are not zero.
    """
    z = latents.z
    alive = alive_latents(latents, threshold)
    least = [keep[name] if isinstance(keep, dict) else keep for name in latents.names]
    # All groups at once, and no number is read back: on a GPU this costs a training step nothing.
    sizes = torch.tensor(latents.sizes, device=z.device)
    free = (alive > torch.tensor(least, device=z.device)).repeat_interleave(sizes, output_size=len(z))
    z.copy_(torch.where(free, torch.sign(z) * (z.abs() - amount).clamp_min(0), z))


@torch.no_grad()
def alive_latents(latents: Latents, threshold: float = 0.0) -> Tensor:
    """How many latents of each group are at least `threshold` (0: not zero), (G,) int64, on the latents' device."""
    alive = latents.z.abs() >= threshold if threshold else latents.z != 0
    return torch.stack([part.sum() for part in alive.split(latents.sizes)])
