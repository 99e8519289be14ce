"""Error rates against counting by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from classification.data import open_dataset
from classification.evaluation import error_rates, judge
from classification.task import loss_and_error
from core.errors import NonFiniteOutput, UserError
from tests.properties import examples


class Batches:
    """A loader of given logits: the model is the identity."""

    def __init__(self, logits: torch.Tensor, targets: torch.Tensor, batch_size: int):
        self.batches = list(zip(logits.split(batch_size), targets.split(batch_size)))

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, epoch: int, start: int = 0):
        assert epoch == 0
        return iter(self.batches[start:])

    def shard(self, rank: int, world: int):
        raise AssertionError("evaluation reads the whole loader")


@examples(50)
@given(st.integers(1, 40), st.integers(2, 12), st.integers(1, 15), st.integers(0, 2**31))
def test_counts_equal_sorting_by_hand_whatever_the_batches(count, classes, batch_size, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=generator)
    targets = torch.randint(0, classes, (count,), generator=generator)
    result = error_rates(nn.Identity(), Batches(logits, targets, batch_size), "cpu")
    order = np.argsort(-logits.numpy(), axis=1)
    ranks = [row.tolist().index(target) for row, target in zip(order, targets.tolist())]
    assert result["top1_error"] == 100 * sum(rank >= 1 for rank in ranks) / count
    if classes > 5:  # of five or fewer, one of five guesses is always right
        assert result["top5_error"] == 100 * sum(rank >= 5 for rank in ranks) / count
    else:
        assert "top5_error" not in result
    rows = logits.double().numpy()
    losses = [math.log(np.exp(row).sum()) - row[target] for row, target in zip(rows, targets.tolist())]
    assert result["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_the_smaller_last_batch_weighs_by_its_images():
    # Eight right answers in two batches of four, then one wrong answer alone: 1 of 9, not 1 of 3.
    logits = torch.eye(2)[torch.zeros(9, dtype=torch.int64)]
    targets = torch.tensor([0] * 8 + [1])
    assert error_rates(nn.Identity(), Batches(logits, targets, 4), "cpu")["top1_error"] == 100 / 9


def test_of_equal_logits_the_first_counts_as_in_training():
    """Whatever the number of classes: `topk` takes others of many equal ones than `argmax`."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randint(0, 2, (64, 100), generator=generator).float()  # some fifty are the largest
    targets = torch.randint(0, 100, (64,), generator=generator)
    in_training = loss_and_error(logits, targets)[1]["top1_error"]
    assert error_rates(nn.Identity(), Batches(logits, targets, 7), "cpu")["top1_error"] == in_training
    judged = judge(nn.Identity(), Batches(logits, targets, 7), "cpu", keep=100)
    assert judged.best[:, 0].equal(logits.argmax(1))
    assert judged.best.equal(torch.from_numpy(np.argsort(-logits.numpy(), axis=1, kind="stable")[:, :5]))
    equal = judge(nn.Identity(), Batches(torch.zeros(300, 2), torch.zeros(300).long(), 300), "cpu", keep=3)
    assert [row for row, _ in equal.worst] == [0, 1, 2]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_outputs_that_are_not_finite_are_no_error_rate(value):
    logits = torch.zeros(9, 6)
    logits[[1, 2, 7], 3] = value
    with pytest.raises(NonFiniteOutput, match="3 of 9 images have logits that are NaN or infinite"):
        error_rates(nn.Identity(), Batches(logits, torch.arange(9) % 6, 4), "cpu")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(288, 10)
    )


def test_modes_are_put_back_and_running_statistics_left_alone():
    model = network()
    model[1].eval()  # a frozen batch norm in a network that trains
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    loader = open_dataset("digits", "nowhere").test_loader(50)
    first, second = error_rates(model, loader, "cpu"), error_rates(model, loader, "cpu")
    assert first == second  # dropout is off
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())


def test_modes_are_put_back_when_the_network_fails():
    model = network()
    with pytest.raises(RuntimeError):
        error_rates(model, Batches(torch.zeros(2, 5, 8, 8), torch.zeros(2, dtype=torch.int64), 2), "cpu")
    assert model.training


def test_channels_last_changes_nothing():
    loader = open_dataset("digits", "nowhere").test_loader(100)
    expected = error_rates(network(), loader, "cpu")
    found = error_rates(network().to(memory_format=torch.channels_last), loader, "cpu")
    assert found == pytest.approx(expected, rel=1e-6)


def test_an_empty_loader_is_an_error():
    loader = Batches(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), 1)
    with pytest.raises(UserError, match="no images"):
        error_rates(nn.Identity(), loader, "cpu")
