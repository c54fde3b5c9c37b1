"""What predictions tell: confusions, worst mistakes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sinet.report.predictions import (
    Predictions,
    load_predictions,
    save_predictions,
    worst_mistakes,
)


def single(labels: list[int], probability: list[list[float]]) -> Predictions:
    none = np.zeros(0, np.int64)
    names = np.array([str(i) for i in range(len(labels))])
    return Predictions(names, np.array(labels), np.array(probability), none, none)


def test_confusions_are_counted_by_label_and_answer() -> None:
    found = single([0, 0, 0, 1], [[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.3, 0.7]])
    assert found.confusion().tolist() == [[1, 2], [0, 1]]
    assert found.pairs() == [(0, 1, 2, pytest.approx(2 / 3))]
    assert found.accuracy == 0.5


def test_the_surest_mistake_comes_first() -> None:
    found = single([0, 0, 0, 1], [[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.3, 0.7]])
    assert worst_mistakes(found) == [1, 2]


def test_a_class_without_images_has_no_recall() -> None:
    rows = single([0, 0], [[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]]).per_class()
    assert rows[0]["recall"] == 0.5
    assert np.isnan(rows[2]["recall"])
    assert rows[1]["precision"] == 0.0


def test_several_labels_an_image() -> None:
    none = np.zeros(0, np.int64)
    labels = np.array([[1, 0, 1], [0, 1, 0]], np.float32)
    probability = np.array([[0.9, 0.2, 0.1], [0.1, 0.8, 0.3]])
    found = Predictions(np.array(["a", "b"]), labels, probability, none, none)
    assert found.multilabel
    assert found.wrong.tolist() == [True, False]
    assert [row["recall"] for row in found.per_class()] == [1.0, 1.0, 0.0]


def test_pictures_of_mistakes_travel_with_the_predictions(tmp_path: Path) -> None:
    sizes = {0: (40, 20, 3), 1: (10, 10, 1), 2: (300, 200, 3)}
    probability = np.array([[0.1, 0.9], [0.9, 0.1], [0.3, 0.7]])
    path = save_predictions(
        tmp_path, ["a", "b", "c"], np.array([0, 0, 0]), probability,
        lambda i: np.full(sizes[i], 7, np.uint8),
    )  # fmt: skip
    found = load_predictions(path)
    assert found.picture_index.tolist() == [0, 2]
    assert found.pictures.shape == (2, 96, 96, 3)  # the larger of the two, made to fit
    assert found.pictures[0, 48, 48].tolist() == [7, 7, 7]
    assert found.pictures[0, 0, 0].tolist() == [255, 255, 255]


def test_a_split_without_mistakes_can_be_saved(tmp_path: Path) -> None:
    save_predictions(
        tmp_path, ["a"], np.array([1]), np.array([[0.2, 0.8]]), lambda _: pytest.fail("no picture")
    )
    assert len(load_predictions(tmp_path / "predictions.npz").pictures) == 0
