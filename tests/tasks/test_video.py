"""Classification of clips: its training, what its file gives, and answers at a camera's rate."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tester import TaskTester
from torch import nn

from sinet.compression.quantize import quantize_onnx
from sinet.data.clips import Clips, ClipSplit, read_clip
from sinet.data.dataset import ImageDataset
from sinet.deployment.export import assemble, export_network
from sinet.deployment.metadata import Metadata
from sinet.deployment.predictor import Predictor
from sinet.deployment.stream import StreamPredictor
from sinet.errors import UsageError
from sinet.heads.video import ClipLogits
from sinet.measurement.bench import settled
from sinet.measurement.evaluate import evaluate_file
from sinet.measurement.latency import feed, session
from sinet.measurement.verify import verify
from sinet.models import create_network
from sinet.models.spec import ModelSpec
from sinet.tasks.signatures import Described, signature
from sinet.tasks.video import ClipStats, Video
from sinet.training.recipe import Recipe

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from clip_files import bar, folder, video, walks

CLASSES = ["left", "right"]
PREPROCESS = Clips(16, 3, (0.2,) * 3, (0.3,) * 3, frames=4, seconds=1.2)


@pytest.fixture(scope="module", autouse=True)
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    TestVideo.root = walks(tmp_path_factory.mktemp("data") / "walks", 6, ("train", "val"))
    return TestVideo.root


def split(root: Path) -> ClipSplit:
    paths = sorted(root.glob("*/*.mp4"))
    labels = np.array([CLASSES.index(p.parent.name) for p in paths], dtype=np.int64)
    return ClipSplit(list(paths), labels, [str(p.relative_to(root)) for p in paths])


class Tiny(nn.Module):
    """A dense layer a frame and one over all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.each = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 24), nn.ReLU())
        self.all = nn.Linear(4 * 24, 2)

    def forward(self, clips: torch.Tensor) -> ClipLogits:
        frames = self.each(clips.transpose(1, 2).flatten(0, 1))
        features = frames.reshape(clips.shape[0], -1, 24)
        return ClipLogits(self.all(features.flatten(1)), features)


class TestVideo(TaskTester):
    task = Video
    metric_names = frozenset({"val/loss", "val/top1", "val/f1"})
    preprocess = PREPROCESS
    root = Path()
    known: ImageDataset | None = None

    def data(self) -> ImageDataset:
        if TestVideo.known is None:
            splits = {name: split(self.root / name) for name in ("train", "val")}
            ids: list[int | str] = list(CLASSES)
            TestVideo.known = ImageDataset(
                self.root, "made here", CLASSES, ids, False, dict(splits), task="video"
            )
        return TestVideo.known

    def network(self) -> nn.Module:
        return Tiny()


def test_sources_give_clips_of_random_and_of_middle_frames() -> None:
    task = TestVideo().make()
    clips, labels = task.train_source().__getitems__([0, 1, 2, 3])
    assert (clips.shape, clips.dtype) == ((4, 4, 3, 20, 20), torch.uint8)
    assert labels.tolist() == [0, 0, 0, 0]
    others, _ = task.train_source().__getitems__([1, 0, 2, 3])
    assert not torch.equal(clips[2], others[2])  # other frames in another batch
    inputs, _ = task.val_source().__getitems__([3])
    expected = task.signature.input.front()(torch.from_numpy(task.data.val.clip(3, 4)[None]))
    assert inputs.shape == (1, 3, 4, 16, 16)
    torch.testing.assert_close(inputs, expected, atol=0.5 / 255 / 0.3 + 1e-6, rtol=0)


@pytest.mark.parametrize("mixing", [{"mixup": 0.5}, {"cutmix": 0.5}])
def test_clips_are_blended_as_wholes(mixing: dict[str, float]) -> None:
    task = TestVideo().make(**mixing, color_jitter=0.0, crop="none", flip="none")
    torch.manual_seed(0)
    images, targets = task.augment(TestVideo().batch(task), 16)
    assert images.shape == (8, 3, 4, 16, 16)
    assert targets.shape == (8, 2)


def test_what_is_tried_and_how_clips_are_seen() -> None:
    data = TestVideo().data()
    usual = [
        ModelSpec("sinet_tiny", 64, {"stem_stride": 1}),
        ModelSpec("sinet_tiny", 48),
        ModelSpec("levit_conv_192", 224),
        ModelSpec("resnet18", 64, weights="hub:x"),
    ]
    specs = Video.specs(usual, data)
    assert [(s.name, s.backbone, s.size) for s in specs] == [
        ("video_conv21d", "sinet_tiny", 64), ("video_attention", "sinet_tiny", 64),
        ("video_conv21d", "resnet18", 64), ("video_attention", "resnet18", 64),
    ]  # fmt: skip
    assert {s.weights for s in specs[2:]} == {"hub:x"}
    stats = Video.stats(data)
    assert stats.seconds == pytest.approx(1.2)
    spec = ModelSpec("video_attention", 32, {"backbone": "sinet_test", "frames": 6})
    fitted = Video.preprocessing(spec, data, stats)
    assert fitted.shape == (6, 32, 32)
    known = ClipStats(((0.5,) * 3, (0.2,) * 3), 0.0)
    assert Video.preprocessing(specs[0], data, known).shape == (8, 64, 64)


def test_the_recipe_mirrors_nothing() -> None:
    assert Recipe.from_yaml(Video.recipe_name(ModelSpec("video_attention", 64))).flip == "none"


def facts() -> Described:
    return Described("video", CLASSES, list(CLASSES), False, PREPROCESS)


def shipped(network: nn.Module, preprocess: Clips, folder: Path, int8: bool = False) -> Path:
    """The file of a network."""
    task = signature(facts())
    body = export_network(network, preprocess.shape, 3, folder / "body.onnx", task.raw)
    if int8:
        noise = np.random.default_rng(0).standard_normal((4, 3, *preprocess.shape))
        body = quantize_onnx(body, folder / "int8.onnx", [noise.astype(np.float32)])
    about = Metadata(CLASSES, list(CLASSES), preprocess, "net@16", task="video")
    return assemble(body, preprocess, about, folder / "model.onnx")


def test_a_file_takes_clips_of_any_height_and_width(root: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Tiny().eval()
    file = shipped(network, PREPROCESS, tmp_path)
    opened = session(file)
    (entry,) = opened.get_inputs()
    assert (entry.name, entry.type) == ("images", "tensor(uint8)")
    assert entry.shape == ["batch", 4, "height", "width", 3]
    assert feed(opened, hw=(20, 30))["images"].shape == (1, 4, 20, 30, 3)
    clips = np.random.default_rng(0).integers(0, 256, (3, 4, 21, 34, 3), dtype=np.uint8)
    predictor = Predictor(file)
    found = predictor.run(clips, raw=True)
    task = signature(facts())
    with torch.inference_mode():
        expected = task.eager(network, task.input.front())(torch.from_numpy(clips))
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name].numpy(), atol=1e-4)
    good, framed, bad = predictor.predict(
        [
            root / "val/left/0.mp4",
            folder(tmp_path / "frames", bar(2)),
            tmp_path / "absent.mp4",
        ]
    )
    assert good.rows()[0]["label"] in CLASSES
    assert framed.error is None
    assert bad.to_json()["error"] == "the file does not exist"
    clip = predictor.read(root / "val/left/0.mp4")
    assert good.draw(predictor.signature.input.picture(clip)).size == (128, 32)


def test_openvino_agrees(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    file = shipped(Tiny().eval(), PREPROCESS, tmp_path)
    clips = np.random.default_rng(0).integers(0, 256, (1, 4, 21, 34, 3), dtype=np.uint8)
    ours, theirs = (
        Predictor(file, engine).run(clips)["probabilities"]
        for engine in ("onnxruntime", "openvino")
    )
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_the_chain_and_the_evaluation_of_a_file(root: Path, tmp_path: Path) -> None:
    network, data = Tiny().eval(), TestVideo().data()
    file = shipped(network, PREPROCESS, tmp_path)
    verdict = verify(network, facts(), {"fp32": file}, data.val, threads=1, seconds=0.1)
    assert verdict.metric_name == "val/top1"
    assert verdict.rows[1].max_difference < 1e-4
    assert verdict.images == 12
    found = evaluate_file(Predictor(file), root, "val")
    assert found.metric == pytest.approx(verdict.row.metric)


def real(head: str, frames: int = 4) -> tuple[nn.Module, Clips]:
    torch.manual_seed(0)
    network = create_network(head, backbone="sinet_test", num_classes=2, frames=frames)
    preprocess = Clips(64, 3, (0.2,) * 3, (0.3,) * 3, frames=frames, seconds=1.2)
    return settled(network, preprocess.shape), preprocess


@pytest.mark.parametrize("int8", [False, True])
def test_streaming_equals_whole_clips(tmp_path: Path, int8: bool) -> None:
    file = shipped(*real("video_attention"), tmp_path, int8)
    stream, predictor = StreamPredictor(tmp_path, threads=1), Predictor(file)
    assert stream.rate == pytest.approx(4 / 1.2)
    frames = bar(3, 9, 40)
    for i, frame in enumerate(frames):
        result = stream.push(frame)
        if i < 3:
            assert result is None
            continue
        (whole,) = predictor.predict([frames[i - 3 : i + 1]])
        np.testing.assert_allclose(result.probabilities, whole.probabilities, atol=1e-5)
    stream.forget()
    assert stream.push(frames[0]) is None


def test_what_cannot_be_streamed(tmp_path: Path) -> None:
    shipped(*real("video_conv21d"), tmp_path)
    with pytest.raises(UsageError, match=r"look at their neighbours.*--model video_attention"):
        StreamPredictor(tmp_path)


def test_short_clips_are_read_too(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4", bar(3, 2))
    assert read_clip(path, 4).shape == (4, 32, 32, 3)


@pytest.mark.parametrize("head", ["video_conv21d", "video_attention"])
def test_both_heads_learn_which_way_things_go(head: str) -> None:
    """Frames alone say nothing here: whoever learns this looks at several."""
    torch.manual_seed(0)
    network = create_network(head, backbone="sinet_test", num_classes=2, frames=4)
    steps = torch.tensor([1, -1]).repeat(8)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    rng = np.random.default_rng(0)
    right = []
    for _ in range(220):
        clips = np.stack([bar(4 * int(s), 4, 32, int(rng.integers(1e9))) for s in steps])
        inputs = torch.from_numpy(clips).permute(0, 4, 1, 2, 3).float() / 128 - 1
        logits = network(inputs).logits
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, (steps < 0).long()).backward()
        optimizer.step()
        right.append((logits.argmax(1) == (steps < 0)).float().mean().item())
    assert np.mean(right[-20:]) > 0.95
