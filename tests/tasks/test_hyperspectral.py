"""The task of hyperspectral scenes: strata, patches, and what a file makes of a scene."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tester import TaskTester
from torch import nn

from sinet.data import open_dataset
from sinet.data.dataset import ImageDataset
from sinet.data.masks import VOID
from sinet.data.patches import Patches
from sinet.deployment.export import assemble, export_network
from sinet.deployment.metadata import Metadata
from sinet.deployment.predictor import Predictor
from sinet.measurement.verify import verify
from sinet.models.spec import ModelSpec
from sinet.tasks.base import ImageTask
from sinet.tasks.hyperspectral import SpectralTask, Strata, samplers
from sinet.tasks.signatures.hyperspectral import accuracies

BANDS, SIDES = 6, (20, 24)
WINDOW = Patches(32, BANDS, (0.0,) * BANDS, (1.0,) * BANDS, sides=(32, 32))
PATCH = Patches(5, BANDS, (0.0,) * BANDS, (1.0,) * BANDS, sides=(5, 5), centre=True)


def write(root: Path, scenes: int = 1) -> Path:
    """Scenes of four fields."""
    spectra = np.random.default_rng(9).normal(0, 1, (6, BANDS))
    root.mkdir(parents=True, exist_ok=True)
    for i in range(scenes):
        rng = np.random.default_rng(i)
        labels = np.zeros(SIDES, np.uint8)
        labels[:9, :11], labels[:9, 12:], labels[10:, :11], labels[10:, 12:] = 1, 2, 3, 4
        cube = spectra[labels] + rng.normal(0, 0.3, (*SIDES, BANDS))
        np.save(root / f"s{i}.npy", cube.astype(np.float32))
        np.save(root / f"s{i}_gt.npy", labels)
    return root


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    Shared.root = write(tmp_path_factory.mktemp("cubes") / "many", 8)
    return Shared.root


class Shared(TaskTester):
    task = SpectralTask
    metric_names = frozenset({"val/loss", "val/oa", "val/aa", "val/kappa"})
    root = Path()

    def data(self) -> ImageDataset:
        return open_dataset(self.root)

    def inputs(self, task: ImageTask, indices: list[int]) -> Any:
        return task.val_source().__getitems__(indices)

    def batch(self, task: ImageTask, size: int = 8) -> Any:
        source = task.train_source(limit=size)
        return source.__getitems__(list(range(size)))

    def network(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(BANDS, 8, 3, 1, 1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 4, 1)
        )


class TestScenes(Shared):
    preprocess = WINDOW


class TestPatches(Shared):
    preprocess = PATCH

    def network(self) -> nn.Module:
        return nn.Sequential(*super().network(), nn.AdaptiveAvgPool2d(1))


def test_every_pixel_counts_once_an_epoch() -> None:
    data = open_dataset(Shared.root)
    task = SpectralTask(nn.Conv2d(BANDS, 4, 1), data, TestScenes().make().recipe, WINDOW)
    source = Strata(data.train, WINDOW, None)
    assert len(source) == sum(map(len, samplers(data.train, WINDOW.sides)))
    assert len(source) == SpectralTask.epoch_samples(data, ModelSpec("freenet_test", 32))
    seen = sum(
        (task._strata(source.__getitems__([i]))[1] != VOID).sum().item() for i in range(len(source))
    )
    assert seen == sum((t.read() != VOID).sum() for t in data.train.targets)


def test_another_epoch_has_other_strata() -> None:
    (sampler, *_) = samplers(open_dataset(Shared.root).train, WINDOW.sides)
    first, second = (np.concatenate(sampler.order(epoch)) for epoch in (0, 1))
    assert (np.sort(first) == np.sort(second)).all()
    assert (first != second).any()


def test_what_is_tried_fits_the_scene() -> None:
    data = open_dataset(Shared.root)
    specs = SpectralTask.specs([], data)
    assert {spec.name for spec in specs} == {"freenet_paviau", "spectral_patch"}
    whole, patch = specs[0], specs[-1]
    fitted = SpectralTask.preprocessing(whole, data)
    assert fitted.shape == (32, 32)
    assert len(fitted.mean) == BANDS
    assert SpectralTask.preprocessing(patch, data).shape == (9, 9)
    assert SpectralTask.recipe_name(whole) == "hyperspectral"
    assert SpectralTask.recipe_name(patch) == "hyperspectral_patch"
    for spec in (whole, patch):
        assert spec.create(4, BANDS)(torch.zeros(1, BANDS, 16, 16)).shape[1] == 4


@pytest.mark.parametrize("kind", [TestScenes, TestPatches])
def test_a_file_names_every_pixel(tmp_path: Path, kind: type[Shared]) -> None:
    data, network, fitted = open_dataset(Shared.root), kind().network().eval(), kind.preprocess
    body = export_network(network, fitted.shape, BANDS, tmp_path / "body.onnx")
    about = Metadata(data.classes, data.class_ids, fitted, "net", True, task="hyperspectral")
    file = assemble(body, fitted, about, tmp_path / "model.onnx")
    predictor = Predictor(file)
    (found,) = predictor.predict([Shared.root / "s0.npy"])
    assert found.classes.shape == SIDES  # type: ignore[attr-defined]
    path = found.save(tmp_path / "out")
    assert path is not None
    with Image.open(path) as picture:
        assert (np.asarray(picture) == found.classes).all()  # type: ignore[attr-defined]
    verdict = verify(
        network, about, {"fp32": file, "int8": None}, data.test, threads=1, seconds=0.1
    )
    assert verdict.rows[1].max_difference < 1e-4
    assert verdict.images == 8
    rows = verdict.scorer.per_class()
    assert sum(row["pixels"] for row in rows) == pytest.approx(1)
    assert 0 <= verdict.row.low <= verdict.row.metric <= verdict.row.high <= 1
    inside = predictor.signature.input.inside(Shared.root)
    assert [p.name for p in inside] == [f"s{i}.npy" for i in range(8)]


def test_accuracies_by_hand() -> None:
    counts = np.array([[8, 2, 0], [1, 4, 0], [0, 0, 0]])
    found = accuracies(counts)
    chance = (10 * 9 + 5 * 6) / 15**2
    assert found["oa"] == pytest.approx(12 / 15)
    assert found["aa"] == pytest.approx((0.8 + 0.8) / 2)
    assert found["kappa"] == pytest.approx((12 / 15 - chance) / (1 - chance))
