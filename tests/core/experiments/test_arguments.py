"""What a command line changes in a protocol."""

from argparse import Namespace
from pathlib import Path

import pytest

from core.errors import UserError
from core.experiments.arguments import overrides_of


def of(*options: str, epochs: int | None = None, **given: object) -> list[str]:
    return overrides_of(Namespace(cfg_options=list(options), epochs=epochs), given)


def test_what_is_said_besides_comes_last() -> None:
    assert of("data.flip=False", epochs=3, model=Path("net")) == [
        "data.flip=False",
        "train.epochs=3",
        "model='net'",
    ]
    assert of("train.epochs=3", "model=net", epochs=3, model="net")[:2] == ["train.epochs=3", "model=net"]
    # Of two --cfg-options the last one counts, as in mmengine.
    assert of("train.epochs=5", "train.epochs=3", epochs=3)[-1] == "train.epochs=3"


@pytest.mark.parametrize(
    ("options", "given"),
    [
        (["train.epochs=5"], {"epochs": 3}),
        (["model=other"], {"model": "net"}),
        (["train.epochs=3", "train.epochs=5"], {"epochs": 3}),
    ],
)
def test_two_values_for_one_key_are_refused(options: list[str], given: dict[str, object]) -> None:
    with pytest.raises(
        UserError,
        match=r"the command line says (.*)=.* by --cfg-options and \1=.* by an option of its own: leave one out",
    ):
        of(*options, **given)  # type: ignore[arg-type]
