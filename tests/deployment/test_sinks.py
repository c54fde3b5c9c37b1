"""Where answers go: each sink alone, what it leaves behind, and what it leaves after an error."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sinet.data.preprocess import Preprocess
from sinet.data.regions import Region, from_rle
from sinet.data.video import Frame, length
from sinet.deployment.footage import Answer
from sinet.deployment.records import SHOWN, CocoFile, CsvFile, JsonFile, Table
from sinet.deployment.sink import Sink, Sinks
from sinet.deployment.sinks import Drawings, Folder, Screen, sinks_for
from sinet.errors import UsageError
from sinet.tasks.signatures import Described, Result, signature
from sinet.tasks.signatures.detect import Detections
from sinet.tasks.signatures.hyperspectral import Scene
from sinet.tasks.signatures.instances import Instances
from sinet.tasks.signatures.segment import Segmentation

PICTURE = np.full((20, 30, 3), 90, np.uint8)


def facts(task: str) -> Described:
    return Described(task, ["cat", "dog"], [7, 9], False, Preprocess(8, 3, (0.5,) * 3, (1,) * 3))


def found(task: str, source: str = "a.png") -> Result:
    """What a model of each kind may say of `PICTURE`."""
    known, boxes = facts(task), np.array([[1, 2, 5, 10]], np.float32)
    scores, labels = np.array([0.5], np.float32), np.array([1])
    if task == "classify":
        row = np.array([0.25, 0.75], np.float32)
        return signature(known).result(source, {"probabilities": row})
    if task == "detect":
        return Detections(source, boxes, scores, labels, known)
    if task == "instances":
        region = Region.of(np.ones((3, 2), bool), 4, 2)
        return Instances(source, boxes, scores, labels, known, None, (region,), (20, 30))
    classes = np.zeros((20, 30), np.uint8)
    classes[12:, 5:] = 1
    return Segmentation(source, classes, known)


def still(result: Result) -> Answer:
    return Answer(result.source, result, look=lambda: PICTURE)


def moving(result: Result, number: int) -> Answer:
    return Answer("clip.mp4", result, Frame(number, number / 10, Fraction(10), PICTURE))


def unread(task: str) -> Answer:
    return Answer("b.png", signature(facts(task)).failed("b.png", "zero bytes"))


def fed(sink: Sink, *answers: Answer) -> None:
    with Sinks([sink]) as both:
        for answer in answers:
            both.add(answer)


@pytest.mark.parametrize("task", ["classify", "detect", "instances", "segment"])
def test_json_is_what_results_say(task: str, tmp_path: Path) -> None:
    out = tmp_path / "a.json"
    result, frame = found(task), found(task, "clip-000012")
    fed(JsonFile(out, moving=True), still(result), moving(frame, 12), unread(task))
    first, second, last = json.loads(out.read_text(encoding="utf-8"))
    said = json.loads(json.dumps(result.to_json()))
    assert first == {**said, "frame": None, "time": None}
    assert second == {**said, "source": "clip.mp4", "frame": 12, "time": 1.2}
    assert list(second)[:3] == ["source", "frame", "time"]
    assert (last["source"], last["error"]) == ("b.png", "zero bytes")
    assert len(out.read_text().splitlines()) == 5  # one an answer, and the brackets
    fed(JsonFile(out), still(result))
    assert json.loads(out.read_text(encoding="utf-8")) == [said]


def test_json_holds_masks(tmp_path: Path) -> None:
    out = tmp_path / "a.json"
    fed(JsonFile(out), still(found("segment")), unread("segment"))
    whole, failed = json.loads(out.read_text())
    assert sum(count for _, count in whole["runs"]) == 600
    assert (failed["runs"], failed["shares"]) == ([], {})
    fed(JsonFile(out), still(found("instances")))
    ((box,),) = (answer["boxes"] for answer in json.loads(out.read_text()))
    assert from_rle(box["mask"]).sum() == 6


def objects(path: Path) -> list[dict[str, Any]]:
    stored: list[dict[str, Any]] = json.loads(path.read_text())["annotations"]
    return stored


def test_boxes_as_coco(tmp_path: Path) -> None:
    out = tmp_path / "a.coco.json"
    known = facts("detect")
    none = np.zeros(0)
    nothing = Detections("a.png", np.zeros((0, 4), np.float32), none, none.astype(int), known)
    frame = moving(found("detect", "clip-000012"), 12)
    fed(CocoFile(out, known), still(nothing), unread("detect"), frame)
    written = json.loads(out.read_text())
    assert [image["file_name"] for image in written["images"]] == ["a.png", "clip-000012.png"]
    assert written["images"][1] == {
        "id": 2, "file_name": "clip-000012.png", "height": 20, "width": 30,
    }  # fmt: skip
    (row,) = written["annotations"]
    assert (row["image_id"], row["category_id"]) == (2, 9)
    assert (row["bbox"], row["area"], row["iscrowd"]) == ([1, 2, 4, 8], 32, 0)
    assert written["categories"] == [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}]


def test_masks_as_coco_have_the_box_and_area_of_their_pixels(tmp_path: Path) -> None:
    out = tmp_path / "a.coco.json"
    fed(CocoFile(out, facts("segment")), still(found("segment")))
    around, inside = objects(out)
    assert (around["category_id"], around["bbox"], around["area"]) == (7, [0, 0, 30, 20], 400)
    assert (inside["category_id"], inside["bbox"], inside["area"]) == (9, [5, 12, 25, 8], 200)
    assert from_rle(inside["segmentation"])[12:, 5:].all()
    some = found("instances")
    lost = Instances(
        "b.png", some.boxes, some.scores, some.labels, facts("instances"), None,
        (Region.of(np.zeros((2, 2))),), (20, 30),
    )  # fmt: skip
    fed(CocoFile(out, facts("instances")), still(some), still(lost))
    seen, empty = objects(out)
    assert (seen["bbox"], seen["area"]) == ([2, 4, 2, 3], 6)
    assert (empty["bbox"], empty["area"]) == ([1, 2, 4, 8], 0)


def test_coco_is_not_for_classes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="gives no boxes and no masks"):
        fed(CocoFile(tmp_path / "a.coco.json", facts("classify")), still(found("classify")))
    assert not list(tmp_path.iterdir())


def test_rows_are_written_as_they_come(tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    with CsvFile(out, moving=True) as sink:
        for number in range(5000):
            sink.add(moving(found("classify"), number))
        (hidden,) = tmp_path.iterdir()
        assert hidden != out
        assert hidden.stat().st_size > 100_000
        sink.add(unread("classify"))
    assert list(tmp_path.iterdir()) == [out]
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "frame", "time", "label", "id", "score", "error"]
    assert (rows[4999]["frame"], rows[4999]["time"], rows[4999]["id"]) == ("4999", "499.9", "9")
    assert (rows[5000]["file"], rows[5000]["error"]) == ("b.png", "zero bytes")


def test_files_without_answers(tmp_path: Path) -> None:
    fed(CsvFile(tmp_path / "a.csv"))
    fed(JsonFile(tmp_path / "a.json"))
    assert (tmp_path / "a.csv").read_text().split() == ["file,error"]
    assert json.loads((tmp_path / "a.json").read_text()) == []


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.coco.json"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, UsageError])
def test_after_an_error_nothing_is_left(
    tmp_path: Path, name: str, error: type[BaseException]
) -> None:
    def stopped() -> None:
        with Sinks(sinks_for(tmp_path / name, facts("detect"))) as sinks:
            sinks.add(still(found("detect")))
            raise error("stopped")

    with pytest.raises(error):
        stopped()
    assert not list(tmp_path.iterdir())


def test_what_cannot_begin_undoes_what_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(UsageError, match="no window"):
        fed(Sinks([CsvFile(tmp_path / "a.csv"), Screen()]))
    assert not list(tmp_path.iterdir())


def test_a_table_shows_the_first_rows(capsys: pytest.CaptureFixture[str]) -> None:
    fed(Table(), *[still(found("detect", f"{i}.png")) for i in range(SHOWN + 7)])
    shown = capsys.readouterr().out
    assert f"{SHOWN - 1}.png" in shown
    assert f"{SHOWN}.png" not in shown
    assert "... and 7 more" in shown


def test_drawings_of_pictures_and_videos(tmp_path: Path) -> None:
    frames = [moving(found("segment"), i) for i in range(4)]
    fed(Drawings(tmp_path), still(found("segment")), *frames, unread("segment"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "clip.mp4"]
    assert length(tmp_path / "clip.mp4").frames == 4


def test_sources_that_share_a_name_are_kept_apart(tmp_path: Path) -> None:
    sources = ["a/x.png", "b/x.jpg", "b/x.v2.jpg", "c/x-2.png", "c/X.png", "a/x.png"]
    fed(Drawings(tmp_path), *[still(found("segment", source)) for source in sources])
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == ["X-4.png", "x-2-2.png", "x-2.png", "x-3.png", "x.png"]


def test_answers_in_files_are_kept_apart_too(tmp_path: Path) -> None:
    scenes = [Scene(f"{folder}/x.npy", np.zeros((4, 5), np.uint8), facts("hyperspectral"))
              for folder in "ab"]  # fmt: skip
    fed(Folder(tmp_path), *map(still, scenes))
    assert len(list(tmp_path.iterdir())) == 2


def test_videos_that_share_a_name_are_kept_apart(tmp_path: Path) -> None:
    frames = [moving(found("segment"), i) for i in range(2)]
    other = [replace(frame, source="b/clip.avi") for frame in frames]
    fed(Drawings(tmp_path), *frames, *other)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip-2.mp4", "clip.mp4"]


def test_a_picture_is_read_once_and_only_if_it_is_wanted(tmp_path: Path) -> None:
    looked: list[int] = []

    def look() -> np.ndarray:
        looked.append(1)
        return PICTURE

    answer = Answer("a.png", found("detect"), look=look)
    fed(CsvFile(tmp_path / "a.csv"), answer)
    assert not looked
    out = CocoFile(tmp_path / "a.coco.json", facts("detect"))
    fed(Sinks([out, Drawings(tmp_path)]), answer)
    assert len(looked) == 1


def test_answers_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"answers in rows, not files; give --out .*\.csv"):
        fed(Folder(tmp_path / "a"), still(found("detect")))


class Full(Sink):
    """Has enough after the first."""

    def add(self, answer: Answer) -> None:
        self.closed = True


def test_counting_and_closing(tmp_path: Path) -> None:
    with Sinks([Full(), JsonFile(tmp_path / "a.json")]) as sinks:
        assert isinstance(sinks, Sinks)
        sinks.add(unread("detect"))
        assert not sinks.closed  # it was not given that
        sinks.add(still(found("detect")))
        assert sinks.closed
    assert (sinks.count, sinks.bad) == (2, 1)
    assert len(json.loads((tmp_path / "a.json").read_text())) == 2


def test_what_an_ending_means(tmp_path: Path) -> None:
    known = facts("detect")
    names = {"a.csv": [CsvFile], "a.json": [JsonFile], "a.coco.json": [CocoFile],
             "a": [Folder, CsvFile]}  # fmt: skip
    for name, kinds in names.items():
        assert [type(sink) for sink in sinks_for(tmp_path / name, known)] == kinds
    assert [type(sink) for sink in sinks_for(None, known)] == [Table]
    with pytest.raises(UsageError, match=r"neither \.csv nor \.json"):
        sinks_for(Path("a.txt"), known)
