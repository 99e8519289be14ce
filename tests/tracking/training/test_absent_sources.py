"""Sources of which nothing is there: left out where they may be incomplete, and where others remain."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from core.command_line.config import load_config
from core.errors import MissingData
from tests.tracking.training.trees import sequence_folder, small_config
from tracking.datasets.demo_rendering import SCENES
from tracking.train import CONFIGS, DEFAULT_CONFIG
from tracking.training import SourceConfig, TrackingConfig, make_loader, make_validation

ABSENT = SourceConfig("otb", weight=0.25, partial=True)


@pytest.fixture
def present(tmp_path: Path) -> tuple[SourceConfig, ...]:
    """Two folders of sequences, drawn 3 : 1."""
    for name, target in (("one", "face"), ("two", "badge")):
        sequence_folder(tmp_path / name, target)
    return (
        SourceConfig("folder", folder=tmp_path / "one", weight=0.6),
        SourceConfig("folder", folder=tmp_path / "two", weight=0.2),
    )


def protocol(*sources: SourceConfig) -> TrackingConfig:
    config = small_config(Path("unused"))
    return replace(config, data=replace(config.data, sources=sources))


def test_the_others_are_drawn_in_their_ratios(present: tuple[SourceConfig, ...], tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"left out: OTB not found under .*--data-root") as caught:
        loader = make_loader(protocol(present[0], ABSENT, present[1]), tmp_path, 4, 0)
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert [source.weight for source in loader.sources] == [0.6, 0.2]
    alone = make_loader(protocol(*present), tmp_path, 4, 0)
    for found, wanted in zip(loader.batch(0, 0).inputs, alone.batch(0, 0).inputs, strict=True):
        assert found.equal(wanted)


@pytest.mark.parametrize(
    ("absent", "message"),
    [
        (SourceConfig("coco", partial=True), "COCO not found"),
        (SourceConfig("folder", folder=Path("none"), partial=True), "no sequences in"),
    ],
)
def test_of_any_kind(
    present: tuple[SourceConfig, ...], tmp_path: Path, absent: SourceConfig, message: str
) -> None:
    with pytest.warns(UserWarning, match=message):
        assert len(make_loader(protocol(*present, absent), tmp_path, 4, 0).sources) == 2


def test_what_has_to_be_there_is_an_error(present: tuple[SourceConfig, ...], tmp_path: Path) -> None:
    with pytest.raises(MissingData, match="no source of sequences is there: OTB not found"):
        make_loader(protocol(ABSENT), tmp_path, 4, 0)
    with pytest.raises(MissingData, match=r"^OTB not found"):
        make_loader(protocol(*present, replace(ABSENT, partial=False)), tmp_path, 4, 0)
    names = replace(present[0], partial=True, names=tmp_path / "none.txt")
    with pytest.raises(MissingData, match="list of sequences"):
        make_loader(protocol(names, present[1]), tmp_path, 4, 0)
    config = protocol(*present)
    with pytest.raises(MissingData, match="no source of sequences is there"):
        make_validation(replace(config, data=replace(config.data, validation=(ABSENT,))), tmp_path)


def test_the_small_protocol_needs_no_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train", "random"):
        monkeypatch.setitem(SCENES, split, tuple(replace(scene, frames=20) for scene in SCENES[split][:1]))
    config = load_config(CONFIGS / DEFAULT_CONFIG, TrackingConfig)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loader = make_loader(config, tmp_path, config.train.batch_size, config.train.seed)
    assert ["OTB not found" in str(warning.message) for warning in caught] == [True]
    assert [source.usable.source.name for source in loader.sources] == ["Demo train", "Demo random"]
    first, second = (source.weight for source in loader.sources)
    assert first / second == pytest.approx(0.35 / 0.5)
    assert len(loader.batch(0, 0).inputs[0]) == config.train.batch_size
