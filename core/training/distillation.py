"""Knowledge distillation: the student learns from labels and from a teacher's softened class probabilities.

Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network" (2015). The weights 0.6 and 0.4
and the temperature 4 are those of the heterogeneity hypothesis' reference implementation, which uses them for
MobileNets on Tiny-ImageNet.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from core.errors import UserError


@dataclass(frozen=True)
class DistillationConfig:
    """How labels and teacher are weighed.

    Args:
        temperature: T > 0, by which both networks' logits are divided before the softmax.
        hard_weight: factor of the task's own loss against the labels, >= 0.
        soft_weight: factor of the loss against the teacher, >= 0.

    Raises:
        UserError: a value is out of range.
    """

    temperature: float = 4.0
    hard_weight: float = 0.6
    soft_weight: float = 0.4

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UserError(f"distillation temperature must be above 0, got {self.temperature}")
        if self.hard_weight < 0 or self.soft_weight < 0:
            raise UserError(
                f"distillation weights must be >= 0, got {self.hard_weight} and {self.soft_weight}"
            )


def soft_target_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T² · KL(softmax(teacher/T) ‖ softmax(student/T)), summed over classes, averaged over the batch.

    T² keeps the size of the gradient independent of the temperature (Hinton et al., section 2.1).

    Args:
        student: logits [batch, classes]; gradients flow into these.
        teacher: logits of the same shape; no gradient flows into these.
        temperature: T > 0.

    Raises:
        UserError: the shapes differ or are not [batch, classes].
    """
    if student.shape != teacher.shape or student.dim() != 2:
        raise UserError(
            f"distillation needs logits [batch, classes] of one shape, got {tuple(student.shape)} from the "
            f"student and {tuple(teacher.shape)} from the teacher; use a teacher trained on the same classes"
        )
    log_student = F.log_softmax(student / temperature, dim=1)
    log_teacher = F.log_softmax(teacher.detach() / temperature, dim=1)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * temperature**2


def distillation_loss(
    hard_loss: Tensor, student: Tensor, teacher: Tensor, config: DistillationConfig
) -> Tensor:
    """Return `hard_weight` · hard_loss + `soft_weight` · soft_target_loss.

    Args:
        hard_loss: the student's loss against the labels, a scalar (cross-entropy in the reference).
        student: the student's logits [batch, classes].
        teacher: the teacher's logits [batch, classes].
        config: weights and temperature.

    Raises:
        UserError: the logits' shapes differ or are not [batch, classes].
    """
    soft_loss = soft_target_loss(student, teacher, config.temperature)
    return config.hard_weight * hard_loss + config.soft_weight * soft_loss
