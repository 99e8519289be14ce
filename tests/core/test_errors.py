from __future__ import annotations

import pytest

from core.errors import MissingData, UserError, did_you_mean


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("epoch", ["batch_size", "epochs"], "did you mean 'epochs'? allowed: batch_size, epochs"),
        ("resnet5O", ["resnet50", "resnet56", "vgg"], "did you mean 'resnet56' or 'resnet50'? allowed: "),
        ("vgg", ["resnet50", "edsr"], "allowed: resnet50, edsr"),
        ("anything", [], "allowed: none"),
        ("3", (1, 2), "allowed: 1, 2"),
    ],
)
def test_a_wrong_word_is_answered_with_close_ones_and_all(
    word: str, known: list[object], expected: str
) -> None:
    assert did_you_mean(word, known).startswith(expected)


def test_a_long_list_is_cut_and_counted() -> None:
    text = did_you_mean("layer5.conv", [f"layer{i}.conv" for i in range(100)])
    assert text.startswith("did you mean 'layer5.conv'")
    assert text.endswith("layer29.conv, … (100 in all)")
    assert "layer30.conv," not in text


def test_missing_data_is_a_user_error_and_a_missing_file() -> None:
    assert issubclass(MissingData, UserError)
    assert issubclass(MissingData, FileNotFoundError)
    assert issubclass(UserError, ValueError)


@pytest.mark.parametrize("kind", [UserError, MissingData])
def test_a_message_is_one_line_of_bounded_length(kind: type[UserError]) -> None:
    assert str(kind("a file\nof two lines\u2028or three")) == "a file of two lines or three"
    text = str(kind(f"'a.json' holds {'x' * 100_000}: repair it"))
    assert text.startswith("'a.json' holds xxx")
    assert text.endswith("xxx: repair it")
    assert len(text) == 1_503
