"""The two-stage training of LightCNN: what each stage learns from what."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch.nn import functional as F

from sinet.data.dataset import ImageDataset, Split
from sinet.data.preprocess import Preprocess
from sinet.papers.base import Setting
from sinet.papers.lightcnn import (
    ARMS,
    RECIPE,
    STAGES,
    DualInput,
    HalfAltered,
    _Study,
    altered,
    whole,
)
from sinet.training.progress import Unfreezer

PREPROCESS = Preprocess(28, 1, (0.5,), (0.5,))


def data(train: int = 20, val: int = 8, test: int = 6) -> ImageDataset:
    draw = np.random.default_rng(0)
    splits = {}
    for name, count in (("train", train), ("val", val), ("test", test)):
        pixels = draw.integers(1, 256, (count, 28, 28)).astype(np.uint8)
        labels = np.arange(count) % 10
        splits[name] = Split(pixels, labels, [f"{name}/{i}" for i in range(count)], 1)
    names = [str(i) for i in range(10)]
    return ImageDataset(Path("made"), "made", names, list(range(10)), False, splits, 1)


def test_altered_images_stay_within_the_ranges() -> None:
    torch.manual_seed(0)
    square = torch.zeros(400, 1, 28, 28)
    square[:, :, 10:18, 10:18] = 100.0
    seen = altered(square)
    rows = torch.arange(28) + 0.5
    mass = seen.sum((1, 2, 3))
    middle = (seen.sum((1, 3)) * rows).sum(1) / mass - 14
    assert 3 < middle.abs().max() < 4.4  # 2.8 pixels both ways, turned, zoomed by 1.1
    light = seen.amax((1, 2, 3))
    assert 79.9 <= light.min() < 82
    assert 118 < light.max() <= 120.1
    area = mass / light  # of 64 pixels, zoomed by 0.9 to 1.1 a side
    assert 64 * 0.8 < area.min() < 56
    assert 74 < area.max() < 64 * 1.25
    corner = torch.zeros(400, 1, 28, 28)
    corner[:, :, 13:15, 23:26] = 100.0  # right of the centre: its angle is how far it was turned
    spots = altered(corner)
    y = (spots.sum((1, 3)) * rows).sum(1) / spots.sum((1, 2, 3)) - 14
    assert 6 < y.abs().max() < 1.1 * 10.5 * 0.59 + 4.4  # sin 36 degrees, and the moving


def test_half_of_the_images_are_altered() -> None:
    made = data(400)
    task = HalfAltered(timm.create_model("lightcnn"), made, RECIPE, PREPROCESS)
    torch.manual_seed(0)
    batch = task.train_source().__getitems__(list(range(400)))
    images, labels = task.augment(batch, 28)
    as_they_are = torch.from_numpy(made.train.items)[:, None] / 127.5 - 1
    same = (images - as_they_are).abs().amax((1, 2, 3)) < 1e-5
    assert 160 < same.sum() < 240
    assert torch.equal(labels, batch[1])


def test_each_branch_learns_apart_from_its_own_copy() -> None:
    torch.manual_seed(0)
    network = timm.create_model("lightcnn")
    task = DualInput(network, data(), RECIPE, PREPROCESS)
    batch = task.train_source().__getitems__(list(range(8)))
    both, labels = task.augment(batch, 28)
    plain = torch.from_numpy(task.data.train.items)[:8, None] / 127.5 - 1
    torch.testing.assert_close(both[:, :1], plain)
    assert ((both[:, 1:] - plain).abs().amax((1, 2, 3)) > 0.1).all()
    first, second = network.branch_logits(both[:, :1], both[:, 1:]).unbind(1)
    expected = F.cross_entropy(first, labels) + F.cross_entropy(second, labels)
    loss = task.learn(both, labels)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    learns = {n.split(".")[0] for n, p in network.named_parameters() if p.grad is not None}
    assert learns == {"stages", "dense", "votes"}  # the head waits for the second stage
    said = task.logits(plain).exp()
    torch.testing.assert_close(said.sum(1), torch.ones(8))


def test_layers_are_freed_from_the_head_backwards() -> None:
    network = timm.create_model("lightcnn")
    freed = Unfreezer(network, RECIPE.replace(unfreeze=0.85), 120)
    first = {name.split(".weight")[0]: group for name, group in freed.group.items()}
    assert first["mix.0"] == first["fc"] == 5
    assert [first[n] for n in ("votes", "dense.0", "stages.2.0", "stages.1.0", "stages.0.0")] == [
        4, 3, 2, 1, 0
    ]  # fmt: skip
    assert [freed.first(step) for step in (0, 20, 21, 101, 102)] == [5, 5, 4, 1, 0]


def test_all_images_are_learned_from_and_the_test_images_judge() -> None:
    made = data()
    found = whole(made)
    assert {name: len(split) for name, split in found.splits.items()} == {"train": 28, "val": 6}
    assert found.train.names == made.train.names + made.val.names
    assert np.array_equal(found.train.items[20:], made.val.items)
    assert np.array_equal(found.train.labels[20:], made.val.labels)
    assert len(made.train) == 20
    del made.splits["test"]
    assert whole(made) is made


def test_the_arms_learn_as_long_and_begin_where_they_should(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}

    def noted(spec, data, recipe, out, device, task, init):  # type: ignore[no-untyped-def]
        seen[out.name] = spec.name, recipe, task, init

    monkeypatch.setattr("sinet.papers.lightcnn.learned", noted)
    study = _Study(Setting(False, tmp_path), data(), (0,), STAGES)
    for arm in ("stage_1", *ARMS):
        study.do(arm, 0)
    epochs = {arm: seen[f"{arm}-0"][1].epochs for arm in ("stage_1", *ARMS)}
    begun = {arm: seen[f"{arm}-0"][3] for arm in ARMS}
    assert begun["two_stages"] == begun["all_at_once"] == tmp_path / "stage_1-0"
    total = {arm: epochs[arm] + (epochs["stage_1"] if begun[arm] else 0) for arm in ARMS}
    assert set(total.values()) == {sum(STAGES)}
    one, other = seen["two_stages-0"][1], seen["all_at_once-0"][1]
    assert one.unfreeze > 0 == other.unfreeze
    assert one.replace(unfreeze=0.0, layer_decay=1.0) == other
    assert seen["stage_1-0"][2] is DualInput
    assert seen["end_to_end-0"][0] == "lightcnn"
    assert seen["one_wide_network-0"][0] == "arm-one_wide_network"
