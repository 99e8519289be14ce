from __future__ import annotations

import itertools
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.errors import MissingData, NonFiniteOutput, UserError
from tests.tracking.training.trees import sequence_folder, small_config
from tracking.dimp.roi import pool_boxes
from tracking.training import TrackingConfig, build_network, dimp_loss, make_loader, make_validation
from tracking.training.config import CacheConfig, JitterConfig, SourceConfig
from tracking.training.loader import SequenceLoader
from tracking.training.losses import LossConfig, found_rate


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrackingConfig:
    folder = tmp_path_factory.mktemp("data") / "sequences"
    for target in ("face", "badge", "helmet"):
        sequence_folder(folder, target)
    return small_config(folder)


def loader(config: TrackingConfig, batch_size: int = 4, seed: int = 0, **data: object) -> SequenceLoader:
    return make_loader(replace(config, data=replace(config.data, **data)), Path("/none"), batch_size, seed)


def flat(batch: object) -> list[torch.Tensor]:
    inputs, targets = batch  # type: ignore[misc]
    return [*inputs, targets["labels"], targets["ious"]]


def equal(first: object, second: object) -> bool:
    return all(torch.equal(a, b) for a, b in zip(flat(first), flat(second), strict=True))


def test_shapes_and_types(config: TrackingConfig) -> None:
    made = loader(config)
    assert len(made) == 2
    batches = list(made.epoch(0))
    assert len(batches) == 2
    (train, test, boxes, proposals), targets = batches[0]
    assert (train.shape, test.shape) == ((4, 2, 3, 64, 64), (4, 1, 3, 64, 64))
    assert (train.dtype, test.dtype) == (torch.uint8, torch.uint8)
    assert (boxes.shape, proposals.shape) == ((4, 2, 4), (4, 1, 4, 4))
    assert (targets["labels"].shape, targets["ious"].shape) == ((4, 1, 5, 5), (4, 1, 4))
    assert {tensor.dtype for tensor in (boxes, proposals, *targets.values())} == {torch.float32}


def test_batches_depend_on_seed_epoch_and_number_alone(config: TrackingConfig) -> None:
    made = loader(config)
    first, second = made.epoch(3)
    assert equal(next(made.epoch(3, start=1)), second)
    assert equal(next(loader(config).epoch(3)), first)
    assert not equal(first, second)
    assert not equal(next(made.epoch(4)), first)
    assert not equal(next(loader(config, seed=1).epoch(3)), first)
    state = torch.get_rng_state()
    list(made.epoch(0))
    assert torch.equal(torch.get_rng_state(), state)  # the run's own randomness is left alone


def test_workers_change_nothing(config: TrackingConfig) -> None:
    alone, with_worker = loader(config).epoch(1), loader(config, workers=1).epoch(1)
    assert all(equal(a, b) for a, b in zip(alone, with_worker, strict=True))


@pytest.mark.parametrize("world", [2, 3])
def test_shards_put_together_are_the_batch(config: TrackingConfig, world: int) -> None:
    whole = loader(config, batch_size=7)
    parts = [flat(next(whole.shard(rank, world).epoch(0))) for rank in range(world)]
    for index, tensor in enumerate(flat(next(whole.epoch(0)))):
        assert torch.equal(torch.cat([part[index] for part in parts]), tensor)


def test_two_sequences_per_process_are_needed(config: TrackingConfig) -> None:
    with pytest.raises(UserError, match=r"a batch of 1 sequences for 1 process.*at least 2.*batch norm"):
        loader(config, batch_size=1)
    with pytest.raises(UserError, match=r"a batch of 4 sequences for 3 process\(es\): each needs at least 2"):
        loader(config).shard(0, 3)
    with pytest.raises(UserError, match="an epoch of 3 sequences holds no batch of 4"):
        loader(config, sequences_per_epoch=3)


def test_crops_show_the_target_where_the_boxes_say(config: TrackingConfig) -> None:
    """Without jitter the target is in the middle, and a flip mirrors image and box alike."""
    still = JitterConfig(0.0, 0.0)
    views = replace(
        config.data.views, train_jitter=still, test_jitter=still, grey=0.0, brightness=0.0, area_factor=1.5
    )
    plain = loader(config, views=views)
    (train, _, boxes, _), targets = next(plain.epoch(0))
    middle = boxes[..., :2] + boxes[..., 2:] / 2
    assert (middle - 31.5).abs().max() < 2  # crops start at whole pixels
    assert boxes[..., 2:].prod(-1).sqrt() == pytest.approx(64 / 1.5, rel=0.06)
    assert (targets["labels"].flatten(-2).argmax(-1) == 12).all()
    (mirrored, _, mirrored_boxes, _), _ = next(loader(config, views=replace(views, flip=1.0)).epoch(0))
    assert torch.equal(mirrored, train.flip(-1))
    assert mirrored_boxes[..., 0] == pytest.approx(63 - boxes[..., 0] - boxes[..., 2], abs=1e-4)


def test_proposals_overlap_as_stated(config: TrackingConfig) -> None:
    (_, _, _, proposals), targets = next(loader(config, batch_size=8).epoch(0))
    assert (targets["ious"] > 0.1).all()
    assert (targets["ious"] <= 1).all()
    # The target is where the labels peak; the mean of its own proposals is near it.
    centres = (proposals[..., :2] + proposals[..., 2:] / 2).mean(dim=2) / 16
    peak = targets["labels"].flatten(-2).argmax(-1)
    rows, columns = peak // 5, peak % 5
    inside = targets["labels"].amax(dim=(-1, -2)) > 0.8
    assert (centres[..., 0] - columns)[inside].abs().max() < 1.5
    assert (centres[..., 1] - rows)[inside].abs().max() < 1.5


def test_grey_samples_lose_all_colour_together(config: TrackingConfig) -> None:
    views = replace(config.data.views, grey=0.5, brightness=0.5)
    made = loader(config, batch_size=8, views=views)
    (train, test, _, _), _ = next(made.epoch(0))
    images = torch.cat([train, test], dim=1)
    grey = (images.float().std(dim=2).amax(dim=(-1, -2)) < 1e-3).sum(dim=1)
    assert set(grey.tolist()) == {0, 3}
    means = images.float().mean(dim=(2, 3, 4))
    assert (means.std(dim=1) > 1).any()  # a brightness of its own for each frame


def test_a_tint_is_one_factor_per_colour_in_all_frames_alike(config: TrackingConfig) -> None:
    views = replace(config.data.views, grey=0.0, brightness=0.0)
    (train, test, _, _), _ = next(loader(config, batch_size=8, views=views).epoch(0))
    tinted = replace(views, tint=0.3)
    (tinted_train, tinted_test, _, _), _ = next(loader(config, batch_size=8, views=tinted).epoch(0))
    plain, found = (
        torch.cat([train, test], dim=1).float(),
        torch.cat([tinted_train, tinted_test], dim=1).float(),
    )
    factors = torch.zeros(8, 3)
    for sample, colour in itertools.product(range(8), range(3)):
        before, after = plain[sample, :, colour], found[sample, :, colour]
        clear = after < 255  # not clipped
        factors[sample, colour] = after[clear].sum() / before[clear].sum()
        # Half a grey level of rounding before, times the factor, and half a level after.
        assert (after - factors[sample, colour] * before)[clear].abs().max() < 1.3
    assert ((factors > 0.73) & (factors < 1.36)).all()
    assert factors.std(dim=0).min() > 0.02
    assert factors.std(dim=1).max() > 0.05


def test_colours_change_places_in_all_frames_alike(config: TrackingConfig) -> None:
    views = replace(config.data.views, grey=0.0, brightness=0.0)
    (plain, plain_test, _, _), _ = next(loader(config, batch_size=8, views=views).epoch(0))
    swapped = replace(views, swap_colours=1.0)
    (train, test, _, _), _ = next(loader(config, batch_size=8, views=swapped).epoch(0))
    orders = set()
    for sample in range(8):
        fitting = [
            order
            for order in itertools.permutations(range(3))
            if torch.equal(train[sample], plain[sample][:, list(order)])
        ]
        assert len(fitting) == 1
        assert torch.equal(test[sample], plain_test[sample][:, list(fitting[0])])
        orders.add(fitting[0])
    assert len(orders) > 2


def test_direct_decoding_gives_the_very_same_crops(config: TrackingConfig) -> None:
    large = CacheConfig(enabled=True, target=64, reach=30)
    cached, direct = loader(config, cache=large), loader(config, cache=CacheConfig(enabled=False))
    assert all(equal(a, b) for a, b in zip(cached.epoch(0), direct.epoch(0), strict=True))


def damaged(config: TrackingConfig, tmp_path: Path, frames: int = 5) -> TrackingConfig:
    folder = tmp_path / "sequences"
    shutil.copytree(config.data.sources[0].folder, folder, ignore=shutil.ignore_patterns(".lwdna_cache"))
    for frame in range(3, 3 + frames):
        (folder / f"face/img/{frame:04d}.png").write_bytes(b"no image")
    return replace(config, data=replace(config.data, sources=(SourceConfig("folder", folder=folder),)))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_frame_is_named(config: TrackingConfig, tmp_path: Path, workers: int) -> None:
    config = damaged(config, tmp_path)
    direct = CacheConfig(enabled=False)
    with pytest.raises(UserError, match=r"^image '\S*face/img/000\d.png' cannot be read: [^\n]*$"):
        list(loader(config, cache=direct, workers=workers, sequences_per_epoch=40).epoch(0))
    skipping = loader(config, cache=direct, workers=workers, sequences_per_epoch=40, bad_images="skip")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert len(list(skipping.epoch(0))) == 10
    messages = [str(warning.message) for warning in caught if warning.category is UserWarning]
    assert len(messages) == len(skipping.unreadable)  # each file once
    assert all("cannot be read" in message for message in messages)
    assert messages[0].endswith("skipped (1 so far)")
    names = {Path(path).name for path in skipping.unreadable}
    assert names
    assert names <= {f"{frame:04d}.png" for frame in range(3, 8)}


def test_bad_frames_are_left_out_of_the_cache(config: TrackingConfig, tmp_path: Path) -> None:
    config = damaged(config, tmp_path)
    with pytest.raises(UserError, match=r"face/img/0003.png.*data.bad_images='skip'"):
        loader(config)
    with pytest.warns(UserWarning, match=r"sequences: 5 frames skipped, the first: .*0003.png"):
        made = loader(config, bad_images="skip")
    assert len(list(made.epoch(0))) == 2


def test_nothing_but_bad_frames_ends(config: TrackingConfig, tmp_path: Path) -> None:
    config = damaged(config, tmp_path, frames=21)
    source = replace(config.data.sources[0], sequences=("face",))
    for frame in range(24):
        (source.folder / f"face/img/{frame:04d}.png").write_bytes(b"no image")
    made = loader(config, sources=(source,), cache=CacheConfig(enabled=False), bad_images="skip")
    with pytest.raises(UserError, match=r"100 samples in turn with a frame that cannot be read.*face/img"):
        list(made.epoch(0))


def test_a_source_that_is_missing_says_where_it_belongs(config: TrackingConfig) -> None:
    with pytest.raises(MissingData, match=r"GOT-10k not found under '/none'"):
        loader(config, sources=(SourceConfig("got10k"),))


def test_a_photograph_is_a_sequence(config: TrackingConfig, tmp_path: Path) -> None:
    from tests.tracking.training.test_sources import coco_tree

    coco_tree(tmp_path)
    views = replace(config.data.views, brightness=0.0)
    data = replace(
        config.data, sources=(SourceConfig("coco"),), views=views, cache=CacheConfig(enabled=False)
    )
    made = make_loader(replace(config, data=data), tmp_path, 2, 0)
    (train, _, boxes, _), _ = next(made.epoch(0))
    assert (train.int() - 90).abs().max() <= 2  # the grey of these images, as JPEG keeps it
    assert not torch.equal(boxes[:, 0], boxes[:, 1])  # the same frame, another jitter


def test_a_batch_can_be_learned(config: TrackingConfig) -> None:
    torch.manual_seed(0)
    network = build_network(config)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    inputs, targets = next(loader(config, batch_size=4).epoch(0))
    losses = []
    for _ in range(25):
        loss, parts = dimp_loss(network(*inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert float(parts["iou"]) < 0.3


def test_every_weight_learns(config: TrackingConfig) -> None:
    network = build_network(config)
    inputs, targets = next(loader(config).epoch(0))
    dimp_loss(network(*inputs), targets)[0].backward()
    without = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert without == []  # several processes would wait for such gradients


def test_validation_is_the_loss_on_other_sequences(config: TrackingConfig) -> None:
    source = replace(config.data.sources[0], sequences=("badge",))
    data = replace(config.data, validation=(source,), validation_sequences=8)
    config = replace(config, data=data, loss=LossConfig(iou=3.0, final=1.0, initial=1.0, iterates=1.0))
    assert make_validation(replace(config, data=replace(data, validation=())), Path("/none")) is None
    evaluate = make_validation(config, Path("/none"))
    assert evaluate is not None
    network = build_network(config).eval()
    with torch.no_grad():
        metrics = evaluate(network)
        assert metrics == evaluate(network)
    expected = 3 * metrics["iou"] + metrics["scores"] + metrics["initial_scores"]
    assert metrics["loss"] > expected  # and the iterate in between
    assert 0 <= metrics["found"] <= 1
    with torch.no_grad():
        network.classifier.feature_extractor[0].weight.fill_(torch.nan)
        with pytest.raises(NonFiniteOutput, match="the loss on sequences for validation is nan"):
            evaluate(network)


def test_a_matched_start_finds_the_target_with_fresh_features(config: TrackingConfig) -> None:
    found = {}
    batches = [loader(config, batch_size=8, seed=seed).batch(0, 0) for seed in range(3)]
    for gain in (None, 0.5):
        network = build_network(replace(config, matched_filter=gain))
        initializer = network.classifier.filter_initializer
        if gain is not None:
            features = torch.rand(2, 1, 16, 4, 4)
            boxes = torch.tensor([[[8.0, 8.0, 24.0, 24.0]]] * 2)
            pooled = pool_boxes(features.flatten(0, 1), boxes, 4, 1 / 16)
            torch.testing.assert_close(initializer(features, boxes), gain * pooled[:, 0])
        with torch.no_grad():
            scores = [network(*batch.inputs).scores[0] for batch in batches]
        labels = [batch.targets["labels"] for batch in batches]
        found[gain] = float(found_rate(torch.cat(scores), torch.cat(labels)))
    assert found[0.5] > found[None]
