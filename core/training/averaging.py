"""The running average of a network's weights, and the batch-norm statistics that belong to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def warmed_up(decay: float, updates: int) -> float:
    """The decay after `updates` updates: min(decay, (1 + updates) / (10 + updates)).

    The rule of TensorFlow's `tf.train.ExponentialMovingAverage` (`num_updates`): without it an average over few
    steps consists mostly of the first step's weights, which have learned nothing.
    """
    return min(decay, (1 + updates) / (10 + updates))


def running_average(model: nn.Module, decay: float) -> AveragedModel:
    """An average of `model`'s parameters, its decay warmed up; buffers are the model's at the last update.

    Counters and the vectors of spectral norm are right as they are; running statistics of normalisation layers are not
    (see `recompute_statistics`).
    """

    def update(averages: Any, weights: Any, _: Any) -> None:
        # Counted on the CPU: reading the counter in the arguments would wait for a GPU at every step.
        now = warmed_up(decay, int(average.n_averaged))
        get_ema_multi_avg_fn(now)(averages, weights, average.n_averaged)

    average = AveragedModel(model, multi_avg_fn=update)
    return average


@torch.no_grad()
def recompute_statistics(
    module: nn.Module,
    forward: Callable[[nn.Module, Any], object],
    batches: Iterable[Any],
    mean: Callable[[Tensor], Tensor] = lambda value: value,
) -> int:
    """Measure the running statistics of normalisation layers anew, as the plain mean over batches.

    Statistics that a network gathered with other weights do not fit averaged ones (Izmailov et al., UAI 2018, section
    3.2). Only layers that normalise by batches in training do so here; all others are in eval mode, so that nothing
    random is drawn and no other buffer changes. Layers that no batch reaches keep their statistics.

    Args:
        module: changed in place, left in eval mode.
        forward: calls it with a batch's inputs.
        batches: inputs; not touched where no layer has statistics.
        mean: the mean of a tensor over all processes.

    Returns:
        How many layers were measured.
    """
    module.train()  # a network may keep frozen layers in eval mode even then
    norms = [
        part
        for part in module.modules()
        if isinstance(part, _NormBase) and part.training and part.running_mean is not None
    ]
    module.eval()
    calls: Counter[nn.Module] = Counter()
    momenta = [norm.momentum for norm in norms]

    def count(norm: Any, inputs: Any) -> None:
        if not calls[norm]:
            norm.reset_running_stats()  # otherwise statistics that are not finite would stay so
        calls[norm] += 1
        norm.momentum = 1 / calls[norm]

    handles = [norm.register_forward_pre_hook(count) for norm in norms]
    try:
        for norm in norms:
            norm.training = True
        if norms:
            for inputs in batches:
                forward(module, inputs)
    finally:
        for norm, momentum, handle in zip(norms, momenta, handles, strict=True):
            handle.remove()
            norm.momentum = momentum
        module.eval()
    for norm in norms:
        if calls[norm]:
            for statistic in (norm.running_mean, norm.running_var):
                assert statistic is not None
                statistic.copy_(mean(statistic))
    return len(calls)
