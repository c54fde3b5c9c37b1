"""Clips: read in every form, sampled as promised, refused with a reason."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sinet.data.clips import (
    ClipCache,
    ClipInput,
    Clips,
    ClipSplit,
    centred,
    drawn,
    frame_files,
    read_clip,
)
from sinet.data.dataset import open_dataset
from sinet.data.image import ImageError
from sinet.data.inputs import preprocess_from
from sinet.data.inspection import inspect_dataset
from sinet.data.motion import CLASSES, FRAMES, SIDE, draw_motion, write_motion
from sinet.data.preprocess import PreprocessModule
from sinet.data.readers import read_any
from sinet.data.transforms import BatchAugment
from sinet.data.video import form, is_video, length, play, read_frames
from sinet.errors import DataError, UsageError
from sinet.training.recipe import Recipe

from .clip_files import bar, folder, video, walks

PREPROCESS = Clips(16, 3, (0.5,) * 3, (0.25,) * 3, frames=4, seconds=1.2)


def greys(count: int, step: int = 10, side: int = 32) -> np.ndarray:
    """Frames whose brightness says which they are."""
    return np.stack([np.full((side, side, 3), step * i, np.uint8) for i in range(count)])


@pytest.mark.parametrize("ending", ["mp4", "avi", "mov", "mkv"])
def test_frames_come_back_in_order(tmp_path: Path, ending: str) -> None:
    path = video(tmp_path / f"a.{ending}", greys(20), rate=10)
    assert length(path).frames == 20
    assert length(path).seconds == pytest.approx(2, abs=0.15)
    some = read_frames(path, lambda count: [0, 7, 7, count - 1])
    assert [round(frame.mean() / 10) for frame in some] == [0, 7, 7, 19]
    assert length(path.read_bytes()) == length(path)
    shown = list(play(path))
    assert [frame.number for frame in shown] == list(range(20))
    assert shown[0].rate == Fraction(10)
    assert "yuv420p" in form(path)


def test_time_and_odd_sides(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4", np.zeros((5, 33, 47, 3), np.uint8), rate=4)
    shown = list(play(path))
    assert [frame.seconds for frame in shown] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert shown[0].pixels.shape == (32, 46, 3)  # H.264 holds even sides


def test_a_gif_must_move(tmp_path: Path) -> None:
    pictures = [Image.fromarray(frame) for frame in greys(6, 40)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=100)
    pictures[0].save(tmp_path / "still.gif")
    (tmp_path / "bad.gif").write_bytes(b"GIF8")
    assert [is_video(tmp_path / f"{n}.gif") for n in ("a", "still", "bad")] == [True, False, False]
    assert [round(f.mean() / 40) for f in read_clip(tmp_path / "a.gif", 6)] == list(range(6))


def test_a_folder_of_frames_is_a_clip(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", greys(12))
    assert [p.stem for p in frame_files(path)][8:10] == ["frame9", "frame10"]  # not 1, 10, 11, 2
    clip = read_clip(path, 4)
    assert [int(frame.mean()) for frame in clip] == [10, 40, 70, 100]
    Image.new("RGB", (9, 9)).save(path / "frame13.png")
    with pytest.raises(ImageError, match="differ in size"):
        read_clip(path, 13)
    (tmp_path / "b").mkdir()
    with pytest.raises(ImageError, match="no pictures"):
        read_clip(tmp_path / "b", 4)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no video of a known format"),
        (b"hello", "no video of a known format"),
        (None, "does not exist"),
    ],
)
def test_what_is_no_video(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "a.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=reason) as caught:
        length(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("share", [0.3, 0.7, 0.9])
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_a_video_that_ends_early(tmp_path: Path, ending: str, share: float) -> None:
    rng = np.random.default_rng(0)
    path = video(tmp_path / f"a.{ending}", rng.integers(0, 256, (30, 64, 64, 3), np.uint8))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    split = ClipSplit([path], np.zeros(1, np.int64), ["a"])
    assert split.check(0)
    with pytest.raises(ImageError):
        split.clip(0, 4)


@pytest.mark.parametrize("ending", ["avi", "mkv"])
def test_what_is_left_of_a_video_is_shown_before_the_error(tmp_path: Path, ending: str) -> None:
    rng = np.random.default_rng(0)
    path = video(tmp_path / f"a.{ending}", rng.integers(0, 256, (30, 64, 64, 3), np.uint8))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    shown: list[int] = []
    with pytest.raises(ImageError, match=r"ends early: \d+ of about 30 frames") as caught:
        shown.extend(frame.number for frame in play(path))
    assert 8 < len(shown) < 20
    assert shown == list(range(len(shown)))
    assert f"early: {len(shown)} of" in caught.value.reason
    with pytest.raises(ImageError, match="ends early"):
        length(path)


def written(path: Path, sound: int = 0, **options: str) -> Path:
    """A video of 20 frames at 10 a second, with so many seconds of silence beside it."""
    import av

    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options=options) as container:
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        stream = container.add_stream(codec, rate=10)
        stream.pix_fmt, stream.width, stream.height = "yuv420p", 64, 64
        voice = container.add_stream("aac", rate=16000) if sound else None
        for _ in range(20):
            pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode())
        for i in range(16 * sound if voice else 0):
            silence = np.zeros((1, 1000), np.float32)
            part = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            part.rate, part.pts = 16000, 1000 * i
            container.mux(voice.encode(part))
        container.mux(voice.encode() if voice else [])
    return path


def test_sound_may_be_longer_than_the_pictures(tmp_path: Path) -> None:
    path = written(tmp_path / "a.mkv", sound=6)
    assert len(list(play(path))) == 20
    assert length(path).seconds == pytest.approx(2, abs=0.15)


def test_a_stream_that_does_not_know_its_length_just_ends(tmp_path: Path) -> None:
    path = written(tmp_path / "a.mkv", live="1")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert 3 < len(list(play(path))) < 17


@pytest.mark.parametrize("where", ["end", "middle"])
def test_a_packet_that_cannot_be_decoded(tmp_path: Path, where: str) -> None:
    """At a cut it is the last one; what comes before it is shown, frames held back as well."""
    path = written(tmp_path / "a.mp4", movflags="faststart")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    if where == "end":
        content = content[:middle]
    else:
        content[middle : middle + 5000] = bytes(5000)
    path.write_bytes(content)
    shown: list[int] = []
    with pytest.raises(ImageError, match="ends early" if where == "end" else "damaged"):
        shown.extend(frame.number for frame in play(path))
    assert 3 < len(shown) < 17


def test_cameras_and_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"webcam:77: there is no camera /dev/video77; plug"):
        next(play("webcam:77"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'sinet\[video\]'"):
        length("a.mp4")


def test_one_frame_of_each_part() -> None:
    assert centred(24, 8) == [1, 4, 7, 10, 13, 16, 19, 22]
    assert centred(3, 6) == [0, 0, 1, 1, 2, 2]  # short clips repeat frames
    rng = torch.Generator().manual_seed(0)
    chosen = drawn(24, 8, 200, rng)
    assert (chosen.diff(dim=1) > 0).all()
    assert (chosen // 3 == torch.arange(8)).all()
    assert set(chosen[:, 0].tolist()) == {0, 1, 2}


def test_preprocessing_travels_as_json() -> None:
    assert preprocess_from(PREPROCESS.to_dict()) == PREPROCESS
    assert PREPROCESS.shape == (4, 16, 16)
    assert PREPROCESS.rate == pytest.approx(4 / 1.2)
    assert PREPROCESS.still.shape == (16, 16)
    with pytest.raises(ValueError, match="of one size"):
        Clips(16, 3, (0.5,) * 3, (0.25,) * 3, fit="none")


def test_the_input_of_a_file(tmp_path: Path) -> None:
    reader = ClipInput(PREPROCESS)
    path = video(tmp_path / "clips" / "a.mp4", greys(20))
    folder(tmp_path / "clips" / "b", greys(5))
    clip = reader.read(path)
    assert clip.shape == (4, 32, 32, 3)
    assert reader.read(clip[:2]).shape == (4, 32, 32, 3)
    assert reader.picture(clip).shape == (32, 128, 3)
    assert [p.name for p in reader.inside(tmp_path / "clips")] == ["a.mp4", "b"]
    assert reader.inside(tmp_path / "clips/b") == [tmp_path / "clips/b"]
    inputs = reader.front()(torch.from_numpy(reader.stack([clip, clip])))
    assert inputs.shape == (2, 3, 4, 16, 16)
    one = PreprocessModule(PREPROCESS.still)(torch.from_numpy(clip))
    torch.testing.assert_close(inputs[1], one.transpose(0, 1))
    with pytest.raises(DataError, match=r"takes uint8 of shape \(N, 4, H, W, 3\)"):
        reader.checked(clip[None, :3])
    with pytest.raises(DataError, match=r"frames uint8 \(T, H, W, 3\) expected"):
        reader.read(clip[0])


@pytest.mark.parametrize("side", [16, 40])
def test_the_cache_gives_the_pixels_of_the_front(tmp_path: Path, side: int) -> None:
    clips = [video(tmp_path / f"{i}.mp4", bar(3, 8, 48, seed=i)) for i in range(3)]
    split = ClipSplit(clips, np.arange(3), ["a", "b", "c"])
    cache = ClipCache(split, PREPROCESS, 4, side)
    found = cache.batch([2, 0])
    assert found.shape == (2, 4, 3, side, side)
    assert found.dtype == torch.uint8
    module = PreprocessModule(Clips(side, 3, (0.5,) * 3, (0.25,) * 3).still)
    expected = module.fit(torch.from_numpy(split.clip(2, 4)).permute(0, 3, 1, 2))
    assert (found[0].float() - expected).abs().max() <= 0.5
    assert cache.labels.tolist() == [0, 1, 2]


def test_all_frames_of_a_clip_are_changed_alike() -> None:
    recipe = Recipe().replace(
        crop="resized", randaugment=5, color_jitter=0.4, random_erasing=1.0, flip="horizontal"
    )
    still = torch.randint(0, 256, (6, 1, 3, 20, 20), dtype=torch.uint8)
    torch.manual_seed(0)
    out = BatchAugment(recipe, PREPROCESS)(still.expand(6, 4, 3, 20, 20))
    assert out.shape == (6, 3, 4, 16, 16)
    assert (out == out[:, :, :1]).all()
    assert not torch.equal(out[0], out[1])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return walks(tmp_path_factory.mktemp("data") / "walks", 3, ("train", "val"))


def test_class_folders_of_videos(root: Path) -> None:
    data = open_dataset(root)
    assert (data.task, data.format, data.channels) == ("video", "class folders of clips", 3)
    assert (data.classes, data.class_ids) == (["left", "right"], ["left", "right"])
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 6, "val": 6}
    image, label = data.train[0]
    assert image.shape == (32, 32, 3)
    assert label == 0
    assert read_any(root, "video").format == data.format
    found = inspect_dataset(root)
    assert found.modes == {"h264 yuv420p": 12}
    assert found.width == (32, 32, 32)


def test_class_folders_of_frames(tmp_path: Path) -> None:
    for name, step in (("left", -3), ("right", 3)):
        for i in range(3):
            folder(tmp_path / name / f"take{i}", bar(step, 6, seed=i))
    data = open_dataset(tmp_path)
    assert data.task == "video"
    assert len(data.train) + len(data.val) == 6
    assert data.train.form(0) == "RGB"
    assert data.train.content(0)
    assert isinstance(data.train, ClipSplit)
    assert data.train.seconds(0) == 0


@pytest.mark.parametrize(
    "inside",
    [
        ["images/train/{i}.jpg", "images/val/{i}.jpg"],  # YOLO's and masks' pictures
        ["images/a/{i:03}.png", "masks/a/{i:03}_x.png"],
        ["cat/{i}.jpg", "dog/{i}.jpg"],
        ["n01/images/{i}.jpg", "n02/images/{i}.jpg"],  # Tiny ImageNet
        ["cat/indoors/{i}_07.jpg", "dog/indoors/{i}_07.jpg"],
    ],
)
def test_folders_of_pictures_are_no_clips(tmp_path: Path, inside: list[str]) -> None:
    from sinet.data.readers.clips import detect

    for pattern in inside:
        for i in range(5):
            path = tmp_path / pattern.format(i=i)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (i, 9, 9)).save(path)
    assert not detect(tmp_path)


def test_bad_clips_are_named_and_left_out(root: Path, tmp_path: Path) -> None:
    for i in range(12):
        video(tmp_path / "train" / ("left", "right")[i % 2] / f"{i}.mp4", bar(3, 6))
    video(tmp_path / "val" / "left" / "0.mp4", bar(3, 6))
    (tmp_path / "val" / "right").mkdir()
    (tmp_path / "val" / "right" / "1.mp4").write_bytes(b"broken")
    (tmp_path / "train" / "odd").mkdir()
    with pytest.raises(DataError, match=r"(?s)1 of 14 .*val/right/1.mp4: no video of a known"):
        open_dataset(tmp_path)
    data = open_dataset(tmp_path, max_bad_share=0.5)
    assert [name for name, _ in data.skipped] == ["val/right/1.mp4"]
    said = [remark.text for remark in data.remarks]
    assert "1 folders have no clip and are left out: 'odd'" in said
    Image.new("RGB", (8, 8)).save(tmp_path / "train/left/loose.png")
    with pytest.raises(DataError, match=r"loose.png; put the frames of each clip into a folder"):
        open_dataset(tmp_path)


def test_drawn_motion_is_what_it_is_called() -> None:
    for i, kind in enumerate(CLASSES):
        clip = draw_motion(kind, np.random.default_rng((0, i)))
        assert clip.shape == (FRAMES, SIDE, SIDE, 3)
        assert np.array_equal(clip, draw_motion(kind, np.random.default_rng((0, i))))
    still = draw_motion("still", np.random.default_rng(5)).astype(float)
    moved = draw_motion("left", np.random.default_rng(5)).astype(float)
    changes = [np.abs(c[-1] - c[0]).mean() for c in (still, moved)]
    assert changes[0] < changes[1]


def test_motion_is_written_as_class_folders(tmp_path: Path) -> None:
    seen: list[int] = []
    write_motion(tmp_path, 90, progress=lambda done, total: seen.append(done))
    assert seen == list(range(1, 91))
    data = open_dataset(tmp_path)
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 72, "val": 9, "test": 9,
    }  # fmt: skip
    assert data.classes == sorted(CLASSES)
    assert data.test.per_class(9) == [1] * 9
    assert "av" in sys.modules
