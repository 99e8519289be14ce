"""What is exported: its inputs of other sizes, and what counts as the same outputs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from core.errors import NonFiniteOutput, UserError
from core.export.subject import Case, batch, case, cases, one_line, other_size, outputs_of, photographs
from tests.core.export.toys import Flat, Pooled, Rounded, Squares, images, subject


def test_a_grown_image_begins_anew() -> None:
    grown = subject(Pooled()).grown(3)["images"]
    assert grown.shape == (2, 3, 19, 30)
    torch.testing.assert_close(grown[..., :16, :24], images()[:2], rtol=0, atol=0)
    torch.testing.assert_close(grown[..., 16:, 24:], images()[:2, :, :3, :6], rtol=0, atol=0)
    assert subject(Pooled()).grown(32)["images"].shape == (2, 3, 48, 88)  # more than once over


def test_other_inputs_stay_as_they_are() -> None:
    two = replace(subject(Pooled()), inputs={"images": images(), "filter": torch.ones(3, 2)})
    assert two.grown(1)["filter"].shape == (2, 2)
    assert list(two.rows(1)) == ["images", "filter"]


@pytest.mark.parametrize(("network", "step"), [(Pooled(), 1), (Squares(), 4), (Flat(), None)])
def test_sizes_that_a_network_takes(network: nn.Module, step: int | None) -> None:
    found = other_size(subject(network))
    assert (found and found[0]) == step
    if found:
        assert found[1].inputs["images"].shape[-2:] == (16 + found[0], 24 + 2 * found[0])


def test_a_task_may_allow_fewer_sizes() -> None:
    found = other_size(subject(Pooled(), steps=(8,)))
    assert found is not None
    assert found[0] == 8


def test_differences_are_relative_above_one() -> None:
    own = torch.tensor([[-4.0, 2.0]])
    known = Case({}, (own,), 0.0)
    assert known.difference((own,)) == 0
    assert known.difference((own + torch.tensor([[0.0, 1.0]]),)) == 0.25
    small = Case({}, (own / 16,), 0.0)
    assert small.difference((own / 16 + 0.5,)) == 0.5
    assert known.difference((own[:, :1],)) == float("inf")
    assert known.difference((own * float("nan"),)) == float("inf")
    assert known.difference((own, own)) == float("inf")


def test_rounding_alone_is_no_difference() -> None:
    network = Squares()
    rounded = subject(Rounded(network), exact=Rounded(network, rounded=False).eval())
    known = case(rounded, rounded.inputs)
    found = outputs_of(rounded.graph(images()))
    assert found[0].dtype == torch.uint8
    assert known.difference(found) == 0
    moved = (found[0].to(torch.int16) + 1,)
    assert known.difference(moved) == pytest.approx(1 / float(known.expected[0].max()), rel=0.05)


def test_outputs_that_are_not_finite_stop_it() -> None:
    network = Pooled()
    with torch.no_grad():
        network.last.bias[2] = float("nan")
    with pytest.raises(NonFiniteOutput, match="output 'out' of Pooled is not finite on real input"):
        cases(subject(network))


def test_a_network_that_does_not_run_is_named() -> None:
    with pytest.raises(UserError, match=r"Flat fails on images \(3, 3, 8, 8\): mat1 and mat2"):
        cases(subject(Flat(), inputs={"images": images(3, 8, 8)}))


def test_one_image_makes_two() -> None:
    assert batch([images()[0]]).shape == (2, 3, 16, 24)
    assert batch(list(images())).shape == (3, 3, 16, 24)


def test_photographs_are_there() -> None:
    assert [path.is_file() for path in photographs()] == [True] * 3


def test_errors_in_a_line() -> None:
    assert one_line(ValueError("\n first \nsecond")) == "first"
    assert one_line(ValueError()) == "ValueError"
    assert len(one_line(ValueError("x" * 1000))) == 200
