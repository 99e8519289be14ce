from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import rel_entr, softmax
from torch.nn import functional as F

from core.errors import UserError
from core.training.distillation import DistillationConfig, distillation_loss, soft_target_loss
from tests.properties import examples


@examples(50)
@given(
    seed=st.integers(0, 10**6),
    batch=st.integers(1, 5),
    classes=st.integers(1, 6),
    temperature=st.floats(0.5, 20),
    hard=st.floats(0, 1),
)
def test_loss_equals_scipys_entropies(seed, batch, classes, temperature, hard):
    generator = np.random.default_rng(seed)
    student, teacher = generator.normal(size=(2, batch, classes)) * 5
    labels = generator.integers(classes, size=batch)
    kl = rel_entr(softmax(teacher / temperature, 1), softmax(student / temperature, 1)).sum(1).mean()
    cross_entropy = -np.log(softmax(student, 1)[np.arange(batch), labels]).mean()
    config = DistillationConfig(temperature, hard, 1 - hard)
    logits = torch.tensor(student)
    found = distillation_loss(
        F.cross_entropy(logits, torch.tensor(labels)), logits, torch.tensor(teacher), config
    )
    assert found.item() == pytest.approx(
        hard * cross_entropy + (1 - hard) * temperature**2 * kl, rel=1e-9, abs=1e-12
    )


def test_reference_weights():
    config = DistillationConfig()
    assert (config.temperature, config.hard_weight, config.soft_weight) == (4.0, 0.6, 0.4)


def test_no_loss_and_no_gradient_where_the_student_is_the_teacher():
    teacher = torch.tensor([[1.0, -2.0, 0.5]])
    student = teacher.clone().requires_grad_()
    loss = soft_target_loss(student, teacher, 4.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-7)
    assert student.grad.abs().max() < 1e-6


def test_gradient_is_the_difference_of_the_softened_probabilities():
    """d/ds T²·KL = T·(softmax(s/T) − softmax(t/T)) / batch; none reaches the teacher."""
    torch.manual_seed(0)
    student, teacher = (torch.randn(3, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    soft_target_loss(student, teacher, 4.0).backward()
    expected = 4 * (F.softmax(student / 4, 1) - F.softmax(teacher / 4, 1)) / 3
    torch.testing.assert_close(student.grad, expected)
    assert teacher.grad is None


def test_extreme_logits_stay_finite():
    student, teacher = torch.tensor([[1e4, -1e4]]), torch.tensor([[-1e4, 1e4]])
    assert math.isfinite(soft_target_loss(student, teacher, 1.0).item())


@pytest.mark.parametrize("shapes", [((2, 10), (2, 100)), ((2, 3, 8, 8), (2, 3, 8, 8))])
def test_other_shapes_are_refused(shapes):
    with pytest.raises(UserError, match=r"logits \[batch, classes\] of one shape"):
        soft_target_loss(torch.zeros(shapes[0]), torch.zeros(shapes[1]), 4.0)


@pytest.mark.parametrize(
    "arguments", [{"temperature": 0.0}, {"hard_weight": -1.0}, {"temperature": math.nan}]
)
def test_values_out_of_range(arguments):
    with pytest.raises(UserError, match="distillation"):
        DistillationConfig(**arguments)
