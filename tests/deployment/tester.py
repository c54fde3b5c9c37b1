"""What every engine must do. A new engine is one subclass of `EngineTester`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sinet.deployment.predictor import Predictor
from sinet.errors import DataError, SinetError, UsageError
from sinet.training.trained import Trained

from .making import CLASSES, IDS, make_file, make_trained, pictures

SIZES = [(48, 48), (1, 1), (3, 2), (53, 47), (47, 480), (301, 200), (31, 33), (97, 48)]


class EngineTester:
    """Set `engine`, and `path` to turn a training and its ONNX file into what it reads."""

    engine: str
    suffix: str = ".onnx"

    def path(self, trained: Trained, onnx_file: Path) -> Path:
        return onnx_file

    @pytest.fixture
    def predictor(self, trained: Trained, model_file: Path) -> Predictor:
        return Predictor(self.path(trained, model_file), self.engine, threads=1, spinning=False)

    @pytest.mark.parametrize("hw", SIZES)
    def test_same_as_torch_for_any_size(
        self, predictor: Predictor, trained: Trained, hw: tuple[int, int]
    ) -> None:
        images = pictures(2, *hw)
        exact = Predictor(trained.folder, "torch").run(images, raw=True)
        ours = predictor.run(images, raw=True)
        assert np.abs(exact["logits"]).max() > 0.1
        np.testing.assert_allclose(ours["logits"], exact["logits"], atol=1e-3)
        np.testing.assert_allclose(ours["probabilities"], exact["probabilities"], atol=1e-3)

    @pytest.mark.parametrize("count", [1, 2, 5])
    def test_batch_is_dynamic_and_images_do_not_mix(self, predictor: Predictor, count: int) -> None:
        images = pictures(count, 60, 70)
        together = predictor.run(images, raw=True)["logits"]
        assert together.shape == (count, len(CLASSES))
        assert together.dtype == np.float32
        alone = np.concatenate([predictor.run(image[None], raw=True)["logits"] for image in images])
        np.testing.assert_allclose(together, alone, atol=1e-4)

    def test_sizes_can_alternate(self, predictor: Predictor) -> None:
        first = {hw: predictor.run(pictures(1, *hw), raw=True)["logits"] for hw in SIZES}
        for hw in reversed(SIZES):
            np.testing.assert_allclose(
                predictor.run(pictures(1, *hw), raw=True)["logits"], first[hw], atol=1e-5
            )

    def test_probabilities_sum_to_one(self, predictor: Predictor) -> None:
        probabilities = predictor.run(pictures(3, 48, 48))["probabilities"]
        np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)

    def test_knows_names_and_typed_ids(self, predictor: Predictor) -> None:
        facts = predictor.metadata
        assert facts.classes == CLASSES
        assert facts.class_ids == IDS
        assert [type(i) for i in facts.class_ids] == [type(i) for i in IDS]
        assert (facts.model, facts.precision) == ("test_efficientnet@48", "fp32")

    def test_grey_and_several_labels(self, tmp_path: Path) -> None:
        trained = make_trained(tmp_path / "training", channels=1, multilabel=True)
        file = make_file(trained, tmp_path / "model.onnx")
        predictor = Predictor(self.path(trained, file), self.engine)
        images = pictures(4, 50, 60, channels=1)
        found = predictor.run(images, raw=True)
        np.testing.assert_allclose(
            found["probabilities"], 1 / (1 + np.exp(-found["logits"])), atol=1e-5
        )
        results = list(predictor.predict(images))
        for result, row in zip(results, found["probabilities"], strict=True):
            names = {name for name, p in zip(CLASSES, row, strict=True) if p >= 0.5}
            assert set(result.labels) == names
        assert {len(result.labels) for result in results} != {1}

    @pytest.mark.parametrize(
        "images",
        [
            np.zeros((1, 8, 8, 1), np.uint8),
            np.zeros((8, 8, 3), np.uint8),
            np.zeros((1, 8, 8, 3), np.float32),
        ],
    )
    def test_other_input_is_refused(self, predictor: Predictor, images: np.ndarray) -> None:
        with pytest.raises(DataError, match=r"takes uint8 of shape \(N, H, W, 3\)"):
            predictor.run(images)

    def test_strips_are_refused(self, predictor: Predictor) -> None:
        with pytest.raises(DataError, match="times the other"):
            predictor.run(np.zeros((1, 1, 500, 3), np.uint8))

    @pytest.mark.parametrize("damage", ["absent", "empty", "half", "text", "pickle"])
    def test_damaged_files_give_a_clear_error(
        self, trained: Trained, model_file: Path, tmp_path: Path, damage: str
    ) -> None:
        file = tmp_path / f"model{self.suffix}"
        whole = model_file.read_bytes()
        bad = {
            "empty": b"",
            "half": whole[: len(whole) // 2],
            "text": b"not a model",
            "pickle": b"cos\nsystem\n(S'touch " + str(tmp_path / "pwned").encode() + b"'\ntR.",
        }
        if damage != "absent":
            file.write_bytes(bad[damage])
        with pytest.raises(SinetError) as caught:
            Predictor(file, self.engine)
        assert isinstance(caught.value, UsageError)
        assert file.name in str(caught.value)
        assert not (tmp_path / "pwned").exists()
