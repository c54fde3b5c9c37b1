"""The task of volumes: patches are learned, whole volumes judged, answers have a place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import onnxruntime as ort
import pytest
import torch
from tester import TaskTester
from torch import nn

from sinet.data.dataset import ImageDataset
from sinet.data.masks import VOID
from sinet.data.patches import Patches
from sinet.data.volumes import LabelMap, Volume, VolumeInput, VolumeSplit
from sinet.deployment.export import assemble, export_network
from sinet.deployment.metadata import Metadata
from sinet.deployment.predictor import Predictor
from sinet.measurement.verify import verify
from sinet.models.spec import ModelSpec
from sinet.tasks._volume_stats import volume_stats
from sinet.tasks.base import ImageTask
from sinet.tasks.signatures import Described, signature
from sinet.tasks.signatures.volume import dices, hausdorff, mean_dice
from sinet.tasks.volume import Volumes, patch_sides

CLASSES = ["background", "body", "core"]
AFFINE = np.diag([-1.0, 1.0, 2.0, 1.0])
PREPROCESS = Patches(8, 1, (), (), sides=(8, 8, 8))


class Given(LabelMap):
    """Labels that are there already."""

    def __init__(self, array: np.ndarray) -> None:
        super().__init__("given", Path("given"), (0, 1, 2))
        object.__setattr__(self, "array", array)

    def read(self) -> np.ndarray:
        return self.array  # type: ignore[attr-defined]


def scans(count: int, folder: Path, seed: int = 0, scale: float = 1.0) -> VolumeSplit:
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.zeros((count, 12, 11, 9), np.uint8)
    paths, maps = [], []
    for i, label in enumerate(labels):
        x = int(rng.integers(1, 4))
        label[x : x + 6, 2:9, 2:7] = 1
        label[x : x + 3, 2:6, 2:6] = 2
        values = label * 100.0 + 50 + rng.normal(0, 8, label.shape)
        image = (values * (1 + (scale - 1) * i)).astype(np.float32)
        paths.append(folder / f"{seed}-{i}.nii.gz")
        nib.save(nib.Nifti1Image(image, AFFINE), paths[-1])
        maps.append(Given(label))
    there = np.ones((count, 3), np.float32)
    return VolumeSplit(paths, there, [p.name for p in paths], channels=1, targets=maps)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    TestVolumes.folder = tmp_path_factory.mktemp("scans")
    return TestVolumes.folder


class TestVolumes(TaskTester):
    task = Volumes
    metric_names = frozenset({"val/loss", "val/dice"})
    preprocess = PREPROCESS
    folder = Path()
    known: ImageDataset | None = None

    def data(self) -> ImageDataset:
        if TestVolumes.known is None:
            splits = {
                "train": scans(8, self.folder / "train"),
                "val": scans(4, self.folder / "val", 1),
            }
            TestVolumes.known = ImageDataset(
                self.folder, "made here", CLASSES, [0, 1, 7], True, dict(splits), 1, task="volume"
            )
        return TestVolumes.known

    def network(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv3d(1, 8, 3, 1, 1), nn.InstanceNorm3d(8, affine=True), nn.ReLU(),
            nn.Conv3d(8, 3, 3, 1, 1),
        )  # fmt: skip

    def inputs(self, task: ImageTask, indices: list[int]) -> Any:
        return task.val_source().__getitems__(indices)

    def make(self, **recipe: Any) -> ImageTask:
        return super().make(**{"channels_last": False, **recipe})


class Both(nn.Module):
    """Two outputs in training, one in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 3, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        out: torch.Tensor = self.conv(x)
        return [out, nn.functional.avg_pool3d(out, 2)] if self.training else out


@pytest.mark.parametrize("loss", ["ce", "dice", "ce+dice", "focal"])
def test_deep_supervision_with_any_loss(loss: str) -> None:
    task = TestVolumes().make(loss=loss, color_jitter=0.1)
    task.network = Both()
    task.training_step(TestVolumes().batch(task), 0).backward()
    assert task.network.conv.weight.grad.isfinite().all()


def test_patches_are_cut_around_every_class() -> None:
    small = Patches(4, 1, (), (), sides=(4, 4, 4))
    recipe = TestVolumes().make(flip="none").recipe
    task = Volumes(nn.Conv3d(1, 3, 1), TestVolumes().data(), recipe, small)
    batch = TestVolumes().batch(task)
    torch.manual_seed(0)
    seen = [task.augment(batch, 4) for _ in range(12)]
    assert all(image.shape == (8, 1, 4, 4, 4) for image, _ in seen)
    middle = torch.stack([label[:, 2, 2, 2] for _, label in seen])
    assert all(float((middle == c).float().mean()) > 0.15 for c in range(3))
    image, label = seen[0]  # values still belong to their labels
    means = [float(image[:, 0][label == c].mean()) for c in range(3)]
    assert means == sorted(means)


def test_slices_lose_their_third_axis() -> None:
    flat = Patches(8, 1, (), (), sides=(8, 8))
    task = Volumes(nn.Conv2d(1, 3, 1), TestVolumes().data(), TestVolumes().make().recipe, flat)
    image, label = task.augment(TestVolumes().batch(task), 8)
    assert image.shape == (8, 1, 8, 8)
    assert label.shape == (8, 8, 8)
    task.validation_step(task.val_source().__getitems__([0]), 0)
    assert 0 <= task.metrics()["val/dice"] <= 1


def test_calibration_gives_patches() -> None:
    task = TestVolumes().make()
    batches = list(task.calibration(task.data.train))
    assert len(batches) == 128
    assert {b.shape for b in batches} == {(1, 1, 8, 8, 8)}


@pytest.mark.parametrize(
    ("name", "size", "typical", "sides"),
    [
        ("swin_unetr_small", 64, (36, 50, 35), (32, 64, 32)),
        ("swin_unetr_tiny", 64, (30, 32, 20), (32, 64, 32)),
        ("swin_unetr", 96, (200, 230, 190), (96, 96, 96)),
        ("unetpp_monai_3d", 64, (36, 50, 35), (32, 48, 32)),
        ("hdenseunet", 64, (512, 512, 30), (64, 64, 32)),
        ("hdenseunet_3d", 64, (512, 512, 9), (64, 64, 8)),
        ("swin_unetr_2d", 96, (200, 230, 190), (96, 96)),
    ],
)
def test_patches_suit_network_and_volumes(
    name: str, size: int, typical: tuple[int, ...], sides: tuple[int, ...]
) -> None:
    assert patch_sides(name, size, typical) == sides


def test_values_of_one_scale_are_normalised_together(tmp_path: Path) -> None:
    data = TestVolumes().data()
    same = volume_stats(data)
    assert len(same.mean) == 1
    assert same.sides == (12, 11, 9)
    assert same.spacing == ()
    other = scans(6, tmp_path, scale=2.0)
    root = tmp_path
    varied = ImageDataset(root, "", CLASSES, [0, 1, 7], True, {"train": other}, 1, task="volume")
    assert volume_stats(varied).mean == ()


def test_what_is_tried_fits_the_volumes() -> None:
    data = TestVolumes().data()
    specs = Volumes.specs([], data)
    assert specs[0].name == "swin_unetr_small"
    assert {spec.size for spec in specs} == {64}
    fitted = Volumes.preprocessing(ModelSpec("unetpp_test_3d", 64), data, Volumes.stats(data))
    assert fitted.shape == (16, 16, 16)


def facts() -> Described:
    return Described("volume", CLASSES, [0, 1, 7], True, PREPROCESS)


def test_a_file_answers_on_the_volumes_own_grid(tmp_path: Path) -> None:
    data, network = TestVolumes().data(), TestVolumes().network().eval()
    body = export_network(network, PREPROCESS.shape, 1, tmp_path / "body.onnx")
    about = Metadata(CLASSES, [0, 1, 7], PREPROCESS, "net@8", True, task="volume")
    file = assemble(body, PREPROCESS, about, tmp_path / "model.onnx")
    (entry,) = ort.InferenceSession(str(file)).get_inputs()
    assert (entry.name, entry.type) == ("images", "tensor(float)")
    assert entry.shape[1:] == [1, 8, 8, 8]
    predictor = Predictor(file)
    path = data.val.items[0]
    good, bad = predictor.predict([path, tmp_path / "absent.nii.gz"])
    assert bad.error is not None
    assert set(bad.rows()[0].values()) == {""}
    assert good.classes.shape == (12, 11, 9)  # type: ignore[attr-defined]
    total = sum(good.rows()[0].values())
    assert total == pytest.approx(12 * 11 * 9 * 2 / 1000, abs=1e-3)
    saved = nib.load(good.save(tmp_path / "out"))
    assert np.allclose(saved.affine, AFFINE)
    assert set(np.unique(saved.dataobj)) <= {0, 1, 7}
    verdict = verify(network, about, {"fp32": file, "int8": None}, data.val, threads=1, seconds=0.1)
    assert verdict.rows[1].max_difference < 1e-4
    assert verdict.metric_name == "val/dice"
    outputs = predictor.run([predictor.read(path)], raw=True)
    assert outputs["logits"].shape == (1, 3, 12, 11, 9)
    with torch.inference_mode():
        network_on = VolumeInput(PREPROCESS)
        ready = network_on.ready(predictor.read(path))
        expected = network_on.slide(lambda p: network(torch.from_numpy(p)).numpy(), ready)
    there = network_on.own_grid(expected, predictor.read(path))
    assert np.abs(outputs["logits"][0] - there).max() < 1e-4


def test_scores_of_a_perfect_and_of_a_blind_answer() -> None:
    split, task = TestVolumes().data().val, signature(facts())
    truths = [task.truth(split, i) for i in range(4)]
    affine = np.stack([AFFINE] * 4)
    perfect, blind = task.scorer(), task.scorer()
    perfect.update({"classes": np.stack(truths), "affine": affine}, truths)
    blind.update({"classes": np.zeros_like(np.stack(truths)), "affine": affine}, truths)
    assert perfect.value() == 1.0
    assert perfect.interval() == (1.0, 1.0)
    assert [row["dice"] for row in perfect.per_class()] == [1.0] * 3
    assert [row["hd95 mm"] for row in perfect.per_class()] == ["", "0.00", "0.00"]
    assert blind.value() == 0.0
    assert blind.per_class()[2]["hd95 mm"] == ""
    assert (blind.per_input() < perfect.per_input()).all()


def test_dice_leaves_out_void_and_what_is_not_there() -> None:
    truth = np.array([0, 0, 1, 1, VOID, VOID], np.uint8)
    found = np.array([0, 1, 1, 1, 2, 2], np.uint8)
    scores = dices(found, truth, 3)
    assert scores[1] == pytest.approx(4 / 5)
    assert np.isnan(scores[2])
    assert mean_dice(scores[None]) == pytest.approx(4 / 5)


def test_the_distance_of_surfaces_is_in_millimetres() -> None:
    truth = np.zeros((12, 12, 12), np.uint8)
    truth[2:8, 2:8, 2:8] = 1
    found = np.roll(truth, 2, 2)
    assert hausdorff(found, truth, 2, (1.0, 1.0, 1.0))[1] == pytest.approx(2)
    assert hausdorff(found, truth, 2, (1.0, 1.0, 3.0))[1] == pytest.approx(6)
    assert np.isnan(hausdorff(found, truth, 2, (1.0, 1.0, 1.0))[0])


def test_classes_are_put_into_the_models_order_and_drawn() -> None:
    split, task = TestVolumes().data().val, signature(facts())
    plain = task.truth(split, 0)
    turned = task.truth(split, 0, np.array([2, -1, 0]))
    assert (turned[plain == 0] == 2).all()
    assert (turned[plain == 1] == VOID).all()
    result = task.truth_result("a.nii.gz", plain)
    picture = VolumeInput(PREPROCESS).picture(Volume(plain[None].astype(np.float32), AFFINE))
    assert result.draw(picture).size == picture.shape[1::-1]
    assert result.to_json()["size"] == [12, 11, 9]
