"""A made-up messy folder: everything that is wrong with it is found and said in plain words."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sinet.data import draw_sheet, inspect_dataset
from sinet.data.sheet import suspects
from sinet.errors import DataError

from .writers import folders, idx, png, samples


def picture(seed: int, h: int = 40, w: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def messy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 cats, 150 dogs and an empty class in train; 3 + 3 in val; and a lot of dirt."""
    root = tmp_path_factory.mktemp("messy")
    files = {
        **{f"train/cat/{i}.png": picture(i) for i in range(9)},
        **{f"train/dog/{i}.png": picture(100 + i) for i in range(150)},
        **{f"val/cat/{i}.png": picture(300 + i) for i in range(3)},
        **{f"val/dog/{i}.png": picture(400 + i) for i in range(3)},
        "train/dog/copy.png": picture(100),  # an exact copy of train/dog/0.png
        "val/dog/leak.png": picture(101),  # also in train, as train/dog/1.png
        "val/dog/conflict.png": picture(300),  # in val as a cat, too
        "train/dog/strip.png": picture(500, 20, 200),
        "train/dog/tiny.png": picture(501, 6, 6),
        "train/dog/huge.png": picture(502, 400, 400),
    }
    for name, pixels in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(pixels))
    (root / "train" / "fox").mkdir()
    stream = io.BytesIO()
    Image.fromarray(picture(102)).save(stream, "BMP")
    (root / "train/dog/same.bmp").write_bytes(stream.getvalue())  # pixels of train/dog/2.png
    (root / "train/dog/empty.jpg").touch()
    (root / "train/dog/cut.png").write_bytes(png(picture(7))[:300])
    content = png(picture(8))
    (root / "train/dog/spoilt.png").write_bytes(content[:900] + bytes(90) + content[990:])
    Image.fromarray(picture(9)[..., 0]).save(root / "train/dog/grey.png")
    return root


def test_everything_is_found(messy: Path) -> None:
    found = inspect_dataset(messy)
    assert found.samples == {"train": 165, "val": 8}
    assert found.counts == {"train": [9, 156], "val": [3, 5]}
    assert dict(found.unreadable).keys() == {
        "train/dog/empty.jpg", "train/dog/cut.png", "train/dog/spoilt.png"}  # fmt: skip
    assert dict(found.unreadable)["train/dog/empty.jpg"] == "zero bytes"
    assert found.duplicates == [
        ["train/dog/0.png", "train/dog/copy.png"],
        ["train/dog/1.png", "val/dog/leak.png"],
        ["val/cat/0.png", "val/dog/conflict.png"],
    ]
    assert found.same_pixels == [["train/dog/2.png", "train/dog/same.bmp"]]
    assert found.leaked == [["train/dog/1.png", "val/dog/leak.png"]]
    assert found.conflicts == [["val/cat/0.png", "val/dog/conflict.png"]]
    assert {name.rpartition("/")[2] for name, _ in found.odd} == {
        "strip.png", "tiny.png", "huge.png"}  # fmt: skip
    assert found.empty_classes == ["fox"]
    assert found.modes == {"RGB": 172, "L": 1}
    assert (found.width, found.height) == ((6, 40, 400), (6, 40, 400))
    assert found.problem == ""


@pytest.mark.parametrize(
    "words",
    [
        "1 pictures lie in more than one split, so the accuracy looks too good: train/dog/1.png",
        "1 pictures have copies with another label: val/cat/0.png = val/dog/conflict.png",
        "3 files are exact copies of another: train/dog/0.png = train/dog/copy.png",
        "1 pictures exist as different files with equal pixels: train/dog/2.png",
        "3 files cannot be read and are left out: train/dog/cut.png (truncated)",
        "train/dog/strip.png (200 x 20: one side 10.0 times the other)",
        "classes without a picture: 'fox'",
        "different pixel formats: 172 RGB, 1 L",
        "the classes are unbalanced: 156 training pictures of 'dog', 9 of 'cat'",
        "fewer than 10 training pictures of 'cat'",
    ],
)
def test_warnings_in_plain_words(messy: Path, words: str) -> None:
    assert any(words in warning.text for warning in inspect_dataset(messy).warnings)


def test_a_clean_set_has_no_warnings(tmp_path: Path) -> None:
    root = idx(tmp_path, [(s, k, picture(100 * j + k)[..., 0]) for j in range(12) for s in
                          ("train", "test") for k in range(2)])  # fmt: skip
    (root / "t10k-images-idx3-ubyte").unlink()
    (root / "t10k-labels-idx1-ubyte").unlink()
    found = inspect_dataset(root)
    assert found.modes == {"L": 24}
    assert found.samples == {"train": 20, "val": 4}
    assert found.warnings == []


def test_too_many_bad_files_are_a_problem(messy: Path) -> None:
    found = inspect_dataset(messy, max_bad_share=0.001)
    assert "3 of 176 images cannot be read, more than the share of 0.001" in found.problem


def test_progress(messy: Path) -> None:
    seen: list[tuple[int, int]] = []
    inspect_dataset(messy, progress=lambda *done: seen.append(done))
    assert seen == [(174, 174)]


@pytest.mark.parametrize("classes", [2, 40])
def test_sheet(classes: int, tmp_path: Path) -> None:
    names = [f"{i:02d} a rather long name of a class" for i in range(classes)]
    root = folders(tmp_path / "data", samples(names, ("train", "val"), 2))
    path = draw_sheet(inspect_dataset(root), tmp_path / "out" / "sheet.png")
    with Image.open(path) as sheet:
        assert sheet.format == "PNG"
        assert sheet.height == min(classes, 24) * 102 + 6
        assert len(set(np.asarray(sheet.convert("L")).ravel().tolist())) > 10
    assert [p.name for p in path.parent.iterdir()] == ["sheet.png"]


def boxed(root: Path) -> Path:
    """YOLO: 12 pictures for training, 4 for validation; no fox, two wrong boxes in val/1."""
    for split, count in (("train", 12), ("val", 4)):
        for i in range(count):
            for kind in ("images", "labels"):
                (root / kind / split).mkdir(parents=True, exist_ok=True)
            grey = np.full((30, 60, 3), 8 * i + 100 * (split == "val"), np.uint8)
            (root / f"images/{split}/{i}.png").write_bytes(png(grey))
            (root / f"labels/{split}/{i}.txt").write_text(f"{i % 2} 0.5 0.5 0.3 0.3\n")
    wrong = "0 0.5 0.5 0.2 0.2\n0 0.9 0.5 0.4 0.4\n1 0.5 -0.2 0.1 0.1\n"
    (root / "labels/val/1.txt").write_text(wrong)
    (root / "labels/val/lonely.txt").write_text("0 0.5 0.5 0.3 0.3\n")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\n"
                                    "names: [cat, dog, fox]\n")  # fmt: skip
    return root


def red(pixels: np.ndarray) -> np.ndarray:
    return np.asarray((pixels == [255, 0, 0]).all(-1))


def test_what_was_repaired_or_left_out_is_found(tmp_path: Path) -> None:
    found = inspect_dataset(boxed(tmp_path))
    for said in (
        "1 text files have no image and are left out: 'labels/val/lonely.txt'",
        "1 boxes lie outside of their image and are left out: labels/val/1.txt, box 3 (27 -7.5",
        "1 boxes reach out of their image and are cut at its border: labels/val/1.txt, box 2 (42",
    ):
        assert sum(remark.text.startswith(said) for remark in found.warnings) == 1
        assert not any(remark.text.startswith(said) for remark in found.notes)
    bad = suspects(found.warnings)
    assert list(bad) == ["labels/val/lonely.txt", "images/val/1.png"]
    assert bad["images/val/1.png"].why == ["box outside", "box cut"]
    wrong = [(27, -7.5, 33, -4.5), (42, 9, 66, 21)]
    np.testing.assert_allclose(bad["images/val/1.png"].boxes, wrong, atol=1e-4)
    assert "nothing found that is wrong" not in run(str(tmp_path))[0]


def test_wrong_boxes_are_marked_and_an_empty_class_has_its_row(tmp_path: Path) -> None:
    found = inspect_dataset(boxed(tmp_path / "data"))
    with Image.open(draw_sheet(found, tmp_path / "sheet.png")) as image:
        sheet = np.asarray(image.convert("RGB"))
    assert len(sheet) == 6 + 132 + 3 * 102  # to look at, cat, dog, fox
    left = 190 + 102  # after the text file without an image
    first = red(sheet[6 + 24 : 6 + 72, left : left + 96])  # 96 x 48 of a tile of 96 x 96
    rows, columns = np.nonzero(first)
    assert (columns.max(), rows.min()) == (95, 0)  # both wrong boxes are cut at the border
    assert first[0, 43:53].all()  # the one outside, above
    assert first[14:34, 67].all()  # the one cut, at the right
    assert not first[:, :40].any()  # the right box is not drawn
    assert (sheet[6 + 132 + 204 :, 190:] == 255).all()  # no fox


def test_pictures_to_look_at_come_from_every_kind(messy: Path, tmp_path: Path) -> None:
    found = inspect_dataset(messy)
    first = list(suspects(found.warnings).items())[:10]
    assert {why for _, suspect in first for why in suspect.why} == {
        "unreadable", "in two splits", "labels differ", "odd size"}  # fmt: skip
    with Image.open(draw_sheet(found, tmp_path / "sheet.png")) as sheet:
        assert sheet.height == 6 + 132 + 2 * 102


def run(*arguments: str) -> tuple[str, Exception | None]:
    """The verb as `sinet inspect` runs it: its output, and what it raised."""
    import typer

    from sinet.cli.inspect import inspect

    app = typer.Typer()
    app.command()(inspect)
    result = CliRunner().invoke(app, list(arguments))
    error = result.exception
    return result.stdout, error if isinstance(error, Exception) else None


def test_verb_writes_sheet_and_json(messy: Path, tmp_path: Path) -> None:
    text, error = run(str(messy), "--out", str(tmp_path / "out"))
    assert error is None
    assert "unbalanced" in text
    assert "dog" in text
    written = json.loads((tmp_path / "out" / "inspection.json").read_text())
    assert written["leaked"] == [["train/dog/1.png", "val/dog/leak.png"]]
    assert (tmp_path / "out" / "sheet.png").stat().st_size > 1000


def test_verb_prints_json(messy: Path) -> None:
    text, error = run(str(messy), "--json")
    assert error is None
    assert json.loads(text) == json.loads(json.dumps(inspect_dataset(messy).to_dict()))


def test_verb_ends_with_the_exit_code_of_bad_data(tmp_path: Path) -> None:
    root = folders(tmp_path, samples(["a", "b"], ("train", "val"), 4))
    for path in (root / "train" / "a").iterdir():
        if path.name != "0.png":
            path.write_bytes(b"")
    text, error = run(str(root))
    assert isinstance(error, DataError)
    assert error.exit_code == 3
    assert "3 of 16 images cannot be read" in str(error)
    assert "cannot be read" in text  # the table is shown all the same
