from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sinet.data.image import read_image
from sinet.deployment.predictor import Predictor, Source

from .making import CLASSES, IDS, pictures


@pytest.fixture(scope="module")
def predictor(model_file: Path) -> Predictor:
    return Predictor(model_file, threads=1)


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def test_every_kind_of_source_gives_the_same(predictor: Predictor, tmp_path: Path) -> None:
    image = pictures(1, 60, 80)[0]
    file = tmp_path / "a.png"
    file.write_bytes(png(image))
    sources: list[Source] = [file, str(file), png(image), image, Image.fromarray(image)]
    results = list(predictor.predict(sources))
    assert [r.source for r in results] == [str(file), str(file), "#2", "#3", "#4"]
    for result in results:
        np.testing.assert_allclose(result.probabilities, results[0].probabilities, atol=1e-6)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK", "I;16", "1"])
def test_an_open_picture_is_read_as_its_file_is(predictor: Predictor, mode: str) -> None:
    colour = Image.fromarray(pictures(1, 40, 50, channels=4)[0], "RGBA")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(colour.convert("L")).astype(np.uint16) * 257)
    else:
        image = colour.convert("RGB").convert(mode) if mode != "RGBA" else colour
    buffer = io.BytesIO()
    image.save(buffer, "TIFF")
    opened, read = predictor.predict([Image.open(buffer), buffer.getvalue()])
    np.testing.assert_allclose(opened.probabilities, read.probabilities, atol=0.02)


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_mixed_sizes_keep_their_order(predictor: Predictor, batch: int) -> None:
    sizes = [(48, 48), (48, 48), (60, 50), (48, 48), (60, 50), (60, 50), (60, 50), (60, 50)]
    images = [pictures(1, *hw, seed=i)[0] for i, hw in enumerate(sizes)]
    results = list(predictor.predict(images, batch=batch))
    for image, result in zip(images, results, strict=True):
        np.testing.assert_allclose(
            result.probabilities, predictor.run(image[None])["probabilities"][0], atol=1e-5
        )
    assert len({result.label for result in results}) > 1


def test_names_and_ids_are_the_users_own(predictor: Predictor) -> None:
    for result in predictor.predict(pictures(8, 48, 48)):
        best = int(result.probabilities.argmax())
        assert (result.label, result.id) == (CLASSES[best], IDS[best])
        assert result.score == pytest.approx(float(result.probabilities[best]))
        assert result.labels == (result.label,)


def test_unreadable_images_are_reported_and_the_rest_goes_on(
    predictor: Predictor, tmp_path: Path
) -> None:
    good = pictures(1, 48, 48)[0]
    (tmp_path / "cut.png").write_bytes(png(good)[:300])
    (tmp_path / "empty.png").touch()
    strip = np.zeros((1, 900, 3), np.uint8)
    sources: list[Source] = [
        good, tmp_path / "cut.png", tmp_path / "empty.png", tmp_path / "none.png", strip, good,
    ]  # fmt: skip
    results = list(predictor.predict(sources, batch=4))
    assert [result.error is None for result in results] == [True, False, False, False, False, True]
    assert results[0].label == results[5].label
    assert results[3].error == "the file does not exist"
    assert "times the other" in str(results[4].error)
    failed = results[1]
    assert (failed.label, failed.id, failed.labels) == ("", None, ())
    assert math.isnan(failed.score)
    assert np.isnan(failed.probabilities).all()


def test_predict_is_lazy(predictor: Predictor) -> None:
    def endless() -> object:
        while True:
            yield pictures(1, 48, 48)[0]

    assert next(predictor.predict(endless())).error is None  # type: ignore[arg-type]


def test_pixels_are_those_of_read_image(predictor: Predictor, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(png(pictures(1, 90, 40)[0]))
    result = next(predictor.predict([file]))
    expected = predictor.run(read_image(file)[None])["probabilities"][0]
    np.testing.assert_array_equal(result.probabilities, expected)
