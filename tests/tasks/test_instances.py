"""The instances task: its training, what its file gives, and how that is counted."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from tester import TaskTester
from torch import nn
from torchvision.models.detection.image_list import ImageList

from sinet.data.boxes import Boxes
from sinet.data.dataset import ImageDataset, Split
from sinet.data.instances import Instances as Objects
from sinet.data.preprocess import Preprocess, PreprocessModule
from sinet.data.regions import Region
from sinet.deployment.export import assemble, export_network
from sinet.deployment.metadata import Metadata
from sinet.errors import UsageError
from sinet.measurement.bench import settled
from sinet.measurement.cost import cost
from sinet.models.spec import ModelSpec
from sinet.tasks._coco import Answers, Matches, as_coco, coco_precision
from sinet.tasks.instances import Instances
from sinet.tasks.signatures import Described, signature
from sinet.tasks.signatures.detect import MOST
from sinet.tasks.signatures.instances import LEAST, SIDE, pasted
from sinet.training.recipe import Recipe

CLASSES = ["disc", "bar"]
PREPROCESS = Preprocess(64, 3, (0.5,) * 3, (0.25,) * 3, width=96, fit="pad")


def scenes(count: int, seed: int = 0, shape: tuple[int, int] = (60, 80)) -> Split:
    """One to three bright discs and bars, their colour says their class."""
    rng = np.random.default_rng(seed)
    height, width = shape
    images = rng.integers(0, 60, (count, height, width, 3))
    y, x = np.mgrid[:height, :width] + 0.5
    targets = []
    for i, image in enumerate(images):
        regions, labels = [], rng.integers(0, 2, rng.integers(1, 4))
        for label in labels:
            middle, radius = rng.uniform((14, 14), (width - 14, height - 14)), rng.uniform(7, 13)
            away = np.abs(x - middle[0]), np.abs(y - middle[1])
            disc = np.hypot(*away) < radius
            inside = (away[0] < radius) & (away[1] < radius / 2) if label else disc
            image[inside] = [230, 40, 40] if label else [40, 230, 40]
            regions.append(Region.of(inside))
        crowd = np.zeros(len(labels), bool)
        targets.append(Objects.found(f"{i}.png", regions, labels, crowd, shape))
    names = [f"{seed}/{i}.png" for i in range(count)]
    return Split(images.astype(np.uint8), np.ones((count, 2), np.float32), names, targets=targets)


def dataset() -> ImageDataset:
    splits = {"train": scenes(24), "val": scenes(9, seed=1)}
    root = Path("scenes")
    return ImageDataset(root, "made here", CLASSES, [3, 7], True, splits, task="instances")


def build(name: str = "mask_rcnn", **options: object) -> nn.Module:
    torch.manual_seed(0)
    return ModelSpec(name, 64, {"backbone": "sinet_test", "width": 16, **options}).create(2)


def lively(name: str, **options: object) -> nn.Module:
    """A network whose proposals, classes and masks differ as those of a trained one do."""
    network = settled(build(name, **options), (64, 96))
    network.rpn.head.cls_logits.weight.data *= 20
    network.rpn.head.bbox_pred.weight.data *= 5
    network.roi_heads.box_predictor.cls_score.weight.data *= 5
    return network


class TestInstances(TaskTester):
    task = Instances
    metric_names = frozenset({"val/mask_map50", "val/mask_map"})
    preprocess = PREPROCESS

    def data(self) -> ImageDataset:
        return dataset()

    def network(self) -> nn.Module:
        return build()


def test_what_is_tried_fits_the_images() -> None:
    data = dataset()
    usual = [ModelSpec("sinet_tiny", 64), ModelSpec("levit_conv_192", 224)]
    specs = Instances.specs(usual, data)
    assert {(s.name, s.backbone) for s in specs} == {("mask_rcnn", "sinet_tiny")}
    assert Instances.recipe_name(specs[0]) == "detect"
    assert Instances.recipe_name(ModelSpec("mask_rcnn", 64, {}, "some.pth")) == "instances"
    assert Recipe.from_yaml("instances").freeze_norm


def test_a_smaller_size_moves_boxes_and_masks_along() -> None:
    task = TestInstances().make()
    images, targets = TestInstances().batch(task, 4)
    seen, moved = task.augment((images, targets), 32)
    assert seen.shape[2:] == moved.masks.shape[1:] == (32, 64)
    assert torch.allclose(moved.rows[:, 3], targets.rows[:, 3] / 2)
    shares = [masks.float().mean((1, 2)) for masks in (targets.masks, moved.masks)]
    assert torch.allclose(*shares, rtol=0.2)


def test_rows_are_the_boxes_of_their_masks_and_crowds_teach_nothing() -> None:
    task = TestInstances().make()
    _, targets = TestInstances().batch(task, 8)
    for row, mask in zip(targets.rows, targets.masks, strict=True):
        y, x = mask.nonzero(as_tuple=True)
        around = [x.min(), y.min(), x.max() + 1, y.max() + 1]
        assert row[2:].tolist() == [float(side) for side in around]
    split = scenes(1)
    whole = split.targets[0]
    crowd = Objects.found("", whole.regions, whole.labels, ~whole.crowd, whole.size)
    assert len(Instances.source.targets([crowd]).rows) == 0


def test_an_image_without_objects_teaches_too() -> None:
    task = TestInstances().make()
    images, targets = TestInstances().batch(task, 2)
    nothing = type(targets)(targets.rows[:0], targets.masks[:0])
    loss = task.training_step((images, nothing), 0)
    loss.backward()
    assert loss.isfinite()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mask_rcnn_pp", {}),
        ("mask_rcnn", {"neck": "catnet", "stages": 1, "roi": "hroie"}),
        ("mask_rcnn", {"roi": "hroie"}),
    ],
)
def test_other_necks_and_extractors_learn(name: str, options: dict[str, object]) -> None:
    task = TestInstances().make()
    task.network = build(name, **options)
    loss = task.training_step(TestInstances().batch(task, 2), 0)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in task.network.parameters())


def test_mirrored_answers_lie_where_the_others_do() -> None:
    plain, both = TestInstances().make(), TestInstances().make(tta=True)
    image = TestInstances().inputs(plain, [0])
    for task in (plain, both):
        task.network = lively("mask_rcnn")
    with torch.inference_mode():
        single = plain.outputs(image)
        double = both.outputs(image)
        other = plain.outputs(image.flip(-1))
    count = single[0].shape[1]
    for one, more in zip(single, double, strict=True):
        assert torch.equal(more[:, :count], one)
    assert torch.equal(double[2][:, count:], other[2].flip(-1))
    assert torch.allclose(double[1][:, count:, 0], 96 - other[1][..., 2])


def facts(shape: tuple[int, int] = (64, 96)) -> Described:
    fitted = Preprocess(shape[0], 3, (0.5,) * 3, (0.25,) * 3, width=shape[1], fit="pad")
    return Described("instances", CLASSES, [3, 7], True, fitted)


class Fixed(nn.Module):
    """Known boxes and masks whatever the image, as a network gives them."""

    def __init__(self, boxes: int = 60) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        start = torch.rand(1, boxes, 2, generator=draw) * torch.tensor([70.0, 40.0])
        size = 8 + 20 * torch.rand(1, boxes, 2, generator=draw)
        self.corners = nn.Parameter(torch.cat([start, start + size], -1))
        self.logits = nn.Parameter(3 * torch.randn(1, boxes, 2, generator=draw))
        self.inner = nn.Parameter(torch.randn(1, boxes, SIDE, SIDE, generator=draw))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        zero = 0 * x.mean((1, 2, 3), keepdim=True)[:, 0]
        return self.logits + zero, self.corners + zero, self.inner + zero[..., None]


def exported(network: nn.Module, known: Described, folder: Path) -> ort.InferenceSession:
    names = signature(known).raw
    body = export_network(network, known.preprocess.shape, 3, folder / "body.onnx", names)
    about = Metadata(CLASSES, [3, 7], known.preprocess, "net@64", True, task="instances")
    file = assemble(body, known.preprocess, about, folder / "model.onnx")
    return ort.InferenceSession(str(file))


@pytest.mark.parametrize("size", [(64, 96), (60, 80), (301, 200), (33, 250), (9, 8)])
def test_the_file_says_what_the_model_says(tmp_path: Path, size: tuple[int, int]) -> None:
    known, network = facts(), Fixed().eval()
    session = exported(network, known, tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (1, *size, 3), dtype=np.uint8)
    task = signature(known)
    found = dict(zip(task.names, session.run(list(task.names), {"images": image}), strict=True))
    run = task.eager(network, PreprocessModule(known.preprocess))
    with torch.inference_mode():
        expected = run(torch.from_numpy(image))
    for name, value in found.items():
        assert value.shape == expected[name].shape
        assert value.dtype == expected[name].numpy().dtype
        np.testing.assert_allclose(value, expected[name].numpy(), rtol=1e-5, atol=1e-3)
    assert found["masks"].shape == (1, MOST, SIDE, SIDE)
    assert found["size"].tolist() == [list(size)]
    assert 0 < (found["scores"] >= LEAST).sum() < 60  # doubles are gone
    assert not ((found["scores"] > 0) & (found["scores"] < LEAST)).any()
    result = task.result("a.png", {name: value[0] for name, value in found.items()})
    assert (result.boxes <= [size[1], size[0], size[1], size[0]]).all()
    assert result.masks.shape == (len(result.scores), *size)


@pytest.mark.parametrize("roi", ["align", "hroie"])
@pytest.mark.parametrize("name", ["mask_rcnn", "mask_rcnn_pp"])
def test_networks_become_files(tmp_path: Path, name: str, roi: str) -> None:
    network, names = lively(name, roi=roi), signature(facts()).raw
    assert cost(network, (64, 96)).macs > 1e7
    file = export_network(network, (64, 96), 3, tmp_path / "x.onnx", names)
    session = ort.InferenceSession(str(file))
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network(images)
    assert (expected[0] > -19).any(-1).all()
    for i in range(2):
        found = session.run(None, {"input": images[i : i + 1].numpy()})
        assert [part.shape for part in found] == [(1, 100, 2), (1, 100, 4), (1, 100, SIDE, SIDE)]
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one[0], other[i].numpy(), atol=2e-3)


@pytest.mark.parametrize("roi", ["align", "hroie"])
def test_the_fixed_regions_are_those_of_torchvision(roi: str) -> None:
    network = lively("mask_rcnn", roi=roi)
    network.rpn._pre_nms_top_n = {"testing": 2 * network.proposals}
    network.rpn._post_nms_top_n = {"testing": network.proposals}
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        maps = network.body(x)
        theirs, _ = network.rpn(ImageList(x, [(64, 96)] * 2), maps)
        ours, there = network._proposals(x, list(maps.values()), (64, 96))
        for one, real, other in zip(ours, there, theirs, strict=True):
            torch.testing.assert_close(one[real], other, atol=1e-3, rtol=0)
        heads = network.roi_heads
        for pool in (heads.box_roi_pool, heads.mask_roi_pool):
            crops = network._crops(pool, list(maps.values()), ours)
            same = pool(maps, list(ours), [(64, 96)] * 2)
            torch.testing.assert_close(crops, same, atol=1e-5, rtol=0)


@pytest.mark.parametrize("roi", ["align", "hroie"])
def test_the_fixed_answers_are_those_of_torchvision(roi: str) -> None:
    """Its own evaluation of the same regions has the same scores, boxes and masks."""
    network = lively("mask_rcnn", roi=roi)
    heads = network.roi_heads
    heads.score_thresh, heads.nms_thresh, heads.detections_per_img = 0.0, 1.0, 1000
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        maps = network.body(x)
        regions, there = network._proposals(x, list(maps.values()), (64, 96))
        assert there.all()
        found, _ = heads(maps, [regions[0]], [(64, 96)])
        logits, corners, masks = (part[0] for part in network(x))
    scores, labels = logits.sigmoid().max(1)
    for i in range(0, 100, 9):
        # one box a class there: that of the likeliest class is looked for
        mine = (found[0]["labels"] == labels[i] + 1) & (
            (found[0]["scores"] - scores[i]).abs() < 1e-5
        )
        gaps = (found[0]["boxes"][mine] - corners[i]).abs().amax(1)
        assert gaps.min() < 1e-3
        mask = found[0]["masks"][mine][gaps.argmin(), 0]
        torch.testing.assert_close(mask, masks[i].sigmoid(), atol=1e-4, rtol=0)


def test_the_extractor_has_the_papers_levels_and_directions() -> None:
    heads = build("mask_rcnn", neck="catnet", roi="hroie").roi_heads
    assert heads.box_roi_pool.strides == heads.mask_roi_pool.strides == (4, 8, 16, 32)  # not P6
    assert heads.box_roi_pool.direction == "bottom_up"
    assert heads.mask_roi_pool.direction == "top_down"
    with pytest.raises(UsageError, match="did you mean 'hroie'"):
        build(roi="hroi")


def test_pasting_is_bilinear_between_centres() -> None:
    draw = torch.Generator().manual_seed(0)
    mask = torch.rand(SIDE, SIDE, generator=draw)
    region = pasted(mask.numpy(), np.array([3.0, 5.0, 63.0, 45.0]), (60, 80))
    exact = nn.functional.interpolate(mask[None, None], (40, 60), mode="bilinear")[0, 0] >= 0.5
    whole = np.zeros((60, 80), bool)
    whole[5:45, 3:63] = exact.numpy()
    assert (region.full((60, 80)) == whole).mean() > 0.999  # ties of rounding aside


@pytest.mark.parametrize(
    "box", [(-5, -5, 100, 90), (70, 50, 95, 75), (10.2, 3, 10.3, 9), (5, 5, 5, 5)]
)
def test_masks_that_reach_out_are_cut(box: tuple[float, ...]) -> None:
    region = pasted(np.ones((SIDE, SIDE)), np.array(box, float), (60, 80))
    x1, y1, x2, y2 = (max(0, round(v)) for v in box)
    assert region.area == max(0, min(80, x2) - x1) * max(0, min(60, y2) - y1)


def sample(images: int = 20, seed: int = 0) -> tuple[list[Answers], list[Boxes]]:
    """Answers that are right, nearly right and wrong, at scores with ties; some crowds."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:60, :80]

    def blobs(count: int) -> list[Region]:
        middles, radii = rng.uniform((0, 0), (80, 60), (count, 2)), rng.uniform(3, 15, (count, 2))
        return [
            Region.of(((x - mx) / rx) ** 2 + ((y - my) / ry) ** 2 < 1)
            for (mx, my), (rx, ry) in zip(middles, radii, strict=True)
        ]

    answers, truths = [], []
    for i in range(images):
        objects = blobs(int(rng.integers(0, 6)))
        labels = rng.integers(0, 2, len(objects))
        crowd = rng.random(len(objects)) < 0.15
        truths.append(Objects.found(f"{i}", objects, labels, crowd, (60, 80)))
        near = [
            Region(r.top + 1, r.left, r.pixels) for r in objects if r.top + r.pixels.shape[0] < 60
        ]
        kept = [j for j, r in enumerate(objects) if r.top + r.pixels.shape[0] < 60]
        said = [*objects, *near, *blobs(4)]
        names = np.concatenate([labels, labels[kept], rng.integers(0, 3, 4)])
        boxes = np.array([region.corners for region in said], np.float32).reshape(-1, 4)
        scores = rng.random(len(said)).round(2)
        answers.append(Answers.of(boxes, scores, names, said))
    return answers, truths


@pytest.mark.parametrize("seed", [0, 1])
def test_the_count_is_that_of_pycocotools(seed: int) -> None:
    coco = pytest.importorskip("pycocotools.coco").COCO
    cocoeval = pytest.importorskip("pycocotools.cocoeval").COCOeval
    answers, truths = sample(seed=seed)
    known, said = as_coco(answers, truths, 3, "segm")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco()
        truth.dataset = {"info": {}, **known}
        truth.createIndex()
        count = cocoeval(truth, truth.loadRes(said), "segm")
        count.evaluate()
        count.accumulate()
        count.summarize()
    assert coco_precision(answers, truths, 3, "segm") == pytest.approx(count.stats[:2], abs=1e-6)
    ours = Matches(3)
    for found, objects in zip(answers, truths, strict=True):
        ours.add(found, objects)
    each = ours.precision()[0]
    theirs = count.eval["precision"][:, :, :, 0, -1].mean(1)  # IoU, class
    there = theirs[0] > -1
    np.testing.assert_allclose(each[there], theirs.T[there], atol=1e-6)


def said(truth: Objects, score: float) -> dict[str, np.ndarray]:
    """A file's answer with these objects, each filling its box."""
    count = len(truth)
    boxes, masks = np.zeros((1, MOST, 4), np.float32), np.zeros((1, MOST, SIDE, SIDE), np.float32)
    scores, labels = np.zeros((1, MOST), np.float32), np.zeros((1, MOST), np.int64)
    boxes[0, :count], scores[0, :count], masks[0, :count] = truth.corners, score, 1
    labels[0, :count] = truth.labels
    size = np.array([truth.size])
    return {"boxes": boxes, "scores": scores, "labels": labels, "masks": masks, "size": size}


def test_scores_of_a_perfect_and_of_a_blind_answer() -> None:
    split, task = scenes(6), signature(facts())
    perfect, blind = task.scorer(), task.scorer()
    for i in range(6):
        truth = task.truth(split, i)
        full = [Region(r.top, r.left, np.ones_like(r.pixels)) for r in truth.regions]
        square = Objects.found("", full, truth.labels, truth.crowd, truth.size)
        perfect.update(said(square, 0.9), [square])
        blind.update(said(square, 0.0), [square])
    assert perfect.value() == pytest.approx(1.0)
    assert perfect.interval() == pytest.approx((1.0, 1.0))
    assert all(row["ap"] == pytest.approx(1) == row["recall"] for row in perfect.per_class())
    assert (perfect.per_input() == 1).all()
    assert (blind.value(), blind.interval()) == (0, (0, 0))
    assert (blind.per_input() == 0).all()


def test_pixels_are_compared_and_not_boxes() -> None:
    triangle = Region.of(np.tri(30))
    truth = Objects.found("", [triangle], np.zeros(1, int), np.zeros(1, bool), (40, 40))
    other = Region.of(np.tri(30)[:, ::-1])  # the same box
    box = np.array([triangle.corners], np.float32)
    answers = Answers.of(box, np.ones(1), np.zeros(1, int), [other])
    assert coco_precision([answers], [truth], 1, "bbox")[1] == pytest.approx(1)
    assert coco_precision([answers], [truth], 1, "segm")[1] == 0


def test_the_interval_holds_the_value() -> None:
    scorer = signature(facts()).scorer()
    scorer.answers, scorer.truths = sample(30)  # type: ignore[attr-defined]
    scorer.classes = ["a", "b", "c"]  # type: ignore[attr-defined]
    low, high = scorer.interval()
    assert 0 < low < scorer.value() < high < 1


def test_classes_are_put_into_the_models_order() -> None:
    split, task = scenes(8), signature(facts())
    plain = task.truth(split, 2)
    turned = task.truth(split, 2, np.array([1, -1]))
    assert (turned.labels == 1).all()
    assert len(turned) == len(turned.regions) == (plain.labels == 0).sum()


def test_results_as_rows_json_coco_and_picture() -> None:
    split, task = scenes(1), signature(facts())
    truth = task.truth(split, 0)
    result = task.truth_result("a.png", truth)
    rows = result.rows()
    assert [row["id"] for row in rows] == [[3, 7][label] for label in truth.labels]
    assert [row["pixels"] for row in rows] == [region.area for region in truth.regions]
    entry = result.to_coco(5)[0]
    assert entry["image_id"] == 5
    encode = pytest.importorskip("pycocotools.mask").encode
    expected = encode(np.asfortranarray(truth.masks()[0].astype(np.uint8)))
    assert entry["segmentation"]["counts"] == expected["counts"].decode()
    assert result.to_json()["boxes"][0]["mask"] == entry["segmentation"]
    assert (result.masks == truth.masks()).all()
    image = split.image(0)
    drawn = np.asarray(result.draw(image))
    assert (drawn != image)[truth.masks()[0]].any(1).mean() > 0.9
    failed = task.failed("b.png", "zero bytes")
    assert set(failed.rows()[0].values()) == {""}
    assert failed.to_json()["boxes"] == failed.to_coco(1) == []


def test_proposals_may_change_places_but_not_values() -> None:
    task = signature(facts())
    network = build()
    why = task.reordered(network)
    assert "97%" in why
    assert task.reordered(network.body) == ""
    rng = np.random.default_rng(0)
    eager = {
        "logits": rng.normal(size=(1, 100, 2)).astype(np.float32),
        "corners": rng.uniform(0, 90, (1, 100, 4)).astype(np.float32),
        "mask_logits": rng.normal(size=(1, 100, SIDE, SIDE)).astype(np.float32),
    }
    turned = np.r_[1, 0, 3:100, 2]
    other = {name: part[:, turned] + 1e-6 for name, part in eager.items()}
    assert task.gap(other, eager, why) < 1e-4
    one = {name: part.copy() for name, part in eager.items()}
    one["corners"][0, 7] += 30  # rounding took another proposal
    assert task.gap(one, eager, why) < 1e-6
    assert task.gap(one, eager) == pytest.approx(30, rel=0.01)
    for name, part in eager.items():
        assert task.gap({**eager, name: part + 0.5}, eager, why) == pytest.approx(0.5, rel=0.01)
    assert np.isnan(task.gap({**eager, "corners": eager["corners"] * np.nan}, eager, why))
