"""Videos and cameras through a model on pictures: rows, drawings, COCO, a window."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from sinet.cli import guarded
from sinet.cli.predict import predict
from sinet.data.video import Frame, length, play
from sinet.deployment.footage import Watcher, stem
from sinet.deployment.predictor import Predictor
from sinet.deployment.window import Window
from sinet.errors import UsageError

from .making import pictures

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from clip_files import turn, video


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(guarded(predict))
    return app


def called(app: typer.Typer, *words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = pictures(6, 50, 60, seed=3)
    return video(tmp_path_factory.mktemp("clips") / "clip.mp4", frames, rate=5)


def test_a_video_has_a_row_for_each_frame(
    app: typer.Typer, model_file: Path, clip: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "a.png"
    Image.fromarray(pictures(1, 50, 60)[0]).save(picture)
    out, drawn = tmp_path / "rows.csv", tmp_path / "drawn"
    gone = tmp_path / "gone.mp4"
    done = called(app, model_file, picture, clip, gone, "--out", out, "--draw", drawn)
    assert done.exit_code == 0, done.output
    assert "8 images and frames, 1 unreadable" in done.output
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:4] == ["file", "frame", "time", "label"]
    assert [row["frame"] for row in rows] == ["", *map(str, range(6)), ""]
    assert [row["time"] for row in rows[1:4]] == ["0.0", "0.2", "0.4"]
    assert {row["file"] for row in rows[1:7]} == {str(clip)}
    assert rows[7]["error"] == "the file does not exist"
    predictor = Predictor(model_file)
    for row, frame in zip(rows[1:7], play(clip), strict=True):
        (result,) = predictor.predict([frame.pixels])
        assert row["label"] == result.label  # type: ignore[attr-defined]
    assert sorted(p.name for p in drawn.iterdir()) == ["a.png", "clip.mp4"]
    again = list(play(drawn / "clip.mp4"))
    assert len(again) == 6
    assert again[0].rate == Fraction(5)
    assert again[0].pixels.shape == (50, 60, 3)


def test_the_model_sees_a_turned_video_upright(
    app: typer.Typer, model_file: Path, clip: Path, tmp_path: Path
) -> None:
    path = tmp_path / "turned.mp4"
    path.write_bytes(clip.read_bytes())
    turn(path, 0, 1, -1, 0)  # a quarter clockwise
    expected = [np.rot90(frame.pixels, -1) for frame in play(clip)]
    for frame, pixels in zip(play(path), expected, strict=True):
        assert np.array_equal(frame.pixels, pixels)
    out, drawn = tmp_path / "rows.csv", tmp_path / "drawn"
    done = called(app, model_file, path, "--out", out, "--draw", drawn)
    assert done.exit_code == 0, done.output
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    results = Predictor(model_file).predict([np.ascontiguousarray(p) for p in expected])
    for row, result in zip(rows, results, strict=True):
        (wanted,) = result.rows()
        assert {key: row[key] for key in wanted} == {k: str(v) for k, v in wanted.items()}
    assert {frame.pixels.shape for frame in play(drawn / "turned.mp4")} == {(60, 50, 3)}


def test_videos_one_after_the_other(
    app: typer.Typer, model_file: Path, clip: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.mp4"
    other.write_bytes(clip.read_bytes())
    done = called(app, model_file, clip, other, "--draw", tmp_path / "drawn")
    assert done.exit_code == 0, done.output
    assert [length(tmp_path / f"drawn/{n}.mp4").frames for n in ("clip", "other")] == [6, 6]


def test_a_video_that_ends_early_has_its_frames_and_the_error(
    app: typer.Typer, model_file: Path, tmp_path: Path
) -> None:
    path = video(tmp_path / "clip.mkv", pictures(20, 50, 60, seed=3), rate=5)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    out = tmp_path / "rows.csv"
    done = called(app, model_file, path, "--out", out)
    assert done.exit_code == 0, done.output
    with out.open(encoding="utf-8", newline="") as file:
        *rows, last = csv.DictReader(file)
    assert 5 <= len(rows) < 12
    assert [row["frame"] for row in rows] == [str(i) for i in range(len(rows))]
    assert {row["error"] for row in rows} == {""}
    assert last["error"] == f"it ends early: {len(rows)} of about 20 frames can be read"
    assert (last["frame"], last["label"]) == ("", "")
    assert f"{len(rows) + 1} images and frames, 1 unreadable" in done.output


def test_wrong_usage(app: typer.Typer, model_file: Path, clip: Path, tmp_path: Path) -> None:
    done = called(app, model_file, "webcam:77")
    assert done.exit_code == 2
    assert "there is no camera /dev/video77" in " ".join(done.output.split())
    done = called(app, model_file, clip, "--out", tmp_path / "a.coco.json")
    assert done.exit_code == 2
    assert "gives no boxes and no masks" in " ".join(done.output.split())
    assert not list(tmp_path.iterdir())


def test_show_without_a_display(
    app: typer.Typer, model_file: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    done = called(app, model_file, clip, "--show")
    assert done.exit_code == 2
    assert "no window can be opened here" in " ".join(done.output.split())
    assert "--draw FOLDER" in " ".join(done.output.split())


class Tk:
    """What of tkinter a window uses."""

    def __init__(self) -> None:
        self.updates, self.gone = 0, False

    def title(self, text: str) -> None: ...
    def protocol(self, name: str, call: Any) -> None:
        self.close = call

    def update(self) -> None:
        self.updates += 1

    def destroy(self) -> None:
        self.gone = True

    def mainloop(self) -> None:
        self.close()


class Label:
    def __init__(self, root: Tk) -> None:
        self.image: Any = None

    def pack(self) -> None: ...
    def configure(self, image: Any) -> None:
        self.image = image


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> list[Tk]:
    made: list[Tk] = []

    def tk() -> Tk:
        made.append(Tk())
        return made[-1]

    monkeypatch.setitem(sys.modules, "tkinter", SimpleNamespace(Tk=tk, Label=Label))
    monkeypatch.setitem(sys.modules, "PIL.ImageTk", SimpleNamespace(PhotoImage=lambda image: image))
    monkeypatch.setattr("PIL.ImageTk", sys.modules["PIL.ImageTk"], raising=False)
    return made


def test_a_window_shows_every_frame(
    app: typer.Typer, model_file: Path, clip: Path, screen: list[Tk]
) -> None:
    done = called(app, model_file, clip, "--show")
    assert done.exit_code == 0, done.output
    (root,) = screen
    assert (root.updates, root.gone) == (6, True)


def test_closing_the_window_ends_it(
    app: typer.Typer, model_file: Path, clip: Path, screen: list[Tk]
) -> None:
    window = Window()
    assert window.show(Image.new("RGB", (9, 9)))
    window.close()
    assert not window.show(Image.new("RGB", (9, 9)))
    window.wait()
    assert screen[0].updates == 1


def test_a_camera_is_watched_until_somebody_stops_it(
    app: typer.Typer, model_file: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def camera(source: str) -> Iterator[Frame]:
        yield from play(clip)
        raise KeyboardInterrupt

    monkeypatch.setattr("sinet.deployment.footage.play", camera)
    out, drawn = tmp_path / "rows.json", tmp_path / "drawn"
    done = called(app, model_file, "webcam:0", "--out", out, "--draw", drawn)
    assert done.exit_code == 0, done.output
    answers = json.loads(out.read_text())
    assert [answer["frame"] for answer in answers] == list(range(6))
    assert answers[0]["source"] == "webcam:0"
    assert length(drawn / "webcam0.mp4").frames == 6


def test_names(model_file: Path) -> None:
    assert [stem(s) for s in ("a/b.mp4", "scan.nii.gz", "webcam:0")] == ["b", "scan", "webcam0"]
    watcher = Watcher(Predictor(model_file), model_file)
    assert [watcher.plays(s) for s in ("a.mp4", "a.png", "a.gif", "webcam:0")] == [
        True, False, False, True,
    ]  # fmt: skip
    watcher.predictor.signature.input = object()  # type: ignore[assignment]
    with pytest.raises(UsageError, match="takes no pictures"):
        watcher.plays("a.mp4")
