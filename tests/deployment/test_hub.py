from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch

from sinet.deployment import hub
from sinet.deployment.hub import from_pretrained, push_to_hub, save_pretrained
from sinet.errors import SinetError, UsageError
from sinet.training.trained import Trained

from .making import CLASSES, IDS, make_trained


@pytest.mark.parametrize(
    ("name", "channels"), [("test_efficientnet", 3), ("minspnet_minimal", 1), ("test_vit", 1)]
)
def test_timm_and_sinet_load_what_was_saved(tmp_path: Path, name: str, channels: int) -> None:
    trained = make_trained(tmp_path / "training", name, size=64, channels=channels)
    folder = save_pretrained(trained, tmp_path / "saved")
    images = torch.randn(2, channels, 64, 64)
    by_timm = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    by_us, facts = from_pretrained(folder)
    with torch.inference_mode():
        expected = trained.model()(images)
        assert torch.equal(by_timm(images), expected)
        assert torch.equal(by_us(images), expected)
    assert facts.class_ids == IDS
    assert facts.preprocess == trained.preprocess
    config = timm.data.resolve_data_config(model=by_timm)
    assert config["input_size"] == (channels, 64, 64)
    assert tuple(config["mean"]) == trained.preprocess.mean
    assert config["crop_pct"] == trained.preprocess.crop_pct


def test_layout_is_that_of_the_hub(trained: Trained, tmp_path: Path) -> None:
    folder = save_pretrained(trained, tmp_path / "saved")
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "sinet.json", "README.md"}
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["architecture"] == "test_efficientnet"
    assert (config["num_classes"], config["label_names"]) == (len(CLASSES), CLASSES)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no sinet\.json"):
        from_pretrained(tmp_path)


def test_a_name_that_is_neither_is_refused() -> None:
    with pytest.raises(UsageError, match="neither a folder nor a repository"):
        from_pretrained("no such//name")


class FakeApi:
    """The two calls of the hub that a push makes."""

    def __init__(self, **_: object) -> None: ...

    def create_repo(self, name: str, **_: object) -> FakeApi:
        if name == "denied/x":
            raise ConnectionError("offline")
        self.repo_id = name
        return self

    def upload_folder(self, repo_id: str, folder_path: str) -> str:
        assert (Path(folder_path) / "model.safetensors").is_file()
        return f"https://hub/{repo_id}"


def test_push_uploads_the_folder(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "HfApi", FakeApi)
    assert push_to_hub(trained, "me/pets", tmp_path / "saved") == "https://hub/me/pets"


def test_a_failed_push_keeps_the_folder(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "HfApi", FakeApi)
    with pytest.raises(SinetError, match="cannot upload to denied/x: offline"):
        push_to_hub(trained, "denied/x", tmp_path / "saved")
    assert (tmp_path / "saved" / "config.json").is_file()
