"""What `--model` and `model.KEY=VALUE` come to: heads on backbones, sizes that fit, refusals."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sinet.errors import UsageError
from sinet.models import ModelSpec
from sinet.search.specs import task_specs
from sinet.tasks import learner
from sinet.tasks.base import ImageTask

DATA: Any = SimpleNamespace(channels=3)


@pytest.fixture(autouse=True)
def photos_of_one_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageTask, "typical", staticmethod(lambda data: (352, 480)))


def specs(task: str, *patterns: str, folder: Path | None = None, **options: Any) -> list[ModelSpec]:
    return task_specs(learner(task), DATA, patterns, 352, options=options, folder=folder)


@pytest.mark.parametrize(
    ("task", "head"),
    [
        ("detect", "retinanet"),
        ("detect", "faster_rcnn"),
        ("instances", "mask_rcnn_pp"),
        ("segment", "smp_unet"),
        ("video", "video_attention"),
    ],
)
def test_a_named_head_is_tried_on_the_usual_backbones(task: str, head: str, tmp_path: Path) -> None:
    (tmp_path / "resnet18.safetensors").touch()
    found = specs(task, head, folder=tmp_path)
    usual = specs(task, folder=tmp_path)
    assert {s.name for s in found} == {head}
    assert {(s.size, s.backbone) for s in found} == {(s.size, s.backbone) for s in usual}
    first = {s.backbone: s for s in reversed(found)}
    assert first["resnet18"].weights == str(tmp_path / "resnet18.safetensors")
    assert len(set(found)) == len(found)


def test_options_go_to_every_network(tmp_path: Path) -> None:
    (tmp_path / "resnet18.safetensors").touch()
    found = specs("detect", "retinanet", folder=tmp_path, backbone="resnet1[08]*", neck="catnet")
    assert {s.backbone for s in found} >= {"resnet18", "resnet10t"}
    assert all(s.kwargs["neck"] == "catnet" for s in found)
    assert {bool(s.weights) for s in found if s.backbone == "resnet18"} == {True}
    (plain,) = {s.name for s in specs("detect", backbone="resnet18")}
    assert plain == "light_detect"
    assert all(s.kwargs["norm"] is False for s in specs("classify", "resnet18", norm=False))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("attswinunet", (448, 672)),
        ("swinunet_lite", (448, 672)),
        ("attswinunet_test", (384, 512)),
    ],
)
def test_a_network_with_a_size_rule_gets_a_size_that_fits(
    name: str, shape: tuple[int, int]
) -> None:
    (found,) = specs("segment", name)
    assert found.size == shape[0]
    fitted = learner("segment").preprocessing(found, DATA, ((0.5,) * 3, (0.2,) * 3))
    assert fitted.shape == shape


@pytest.mark.parametrize(
    ("task", "pattern", "options", "message"),
    [
        ("segment", "retinanet", {}, "retinanet is a network for detect, not for segment; .*smp_u"),
        ("segment", "mask_rcnn*", {}, "network for instances, not for segment"),
        ("detect", "mask_rcnn", {}, "for detect there are fas.*, fcos, light_detect, retinanet$"),
        ("instances", "smp_unet", {}, "for instances there are mask_rcnn, mask_rcnn_pp$"),
        ("classify", "pyramid_seg", {}, "network for segment, not for classify"),
        ("volume", "resnet18", {}, "for classify, not for volume; for volume there are [^;]*$"),
        ("segment", "smp_unett", {}, "unknown model 'smp_unett'; did you mean 'smp_unet'"),
        ("segment", "levit_conv_192", {}, "levit_conv_192 cannot be the backbone.*one size"),
        ("detect", "retinanet", {"backbone": "levit_conv_192"}, "cannot be the backbone"),
        ("detect", "retinanet", {"backbone": "resnet8"}, "unknown model 'resnet8'"),
        ("segment", "attswinunet", {"backbone": "resnet18"}, "attswinunet is built on no back"),
        ("detect", "resnet34", {"backbone": "resnet18"}, "exclude each other"),
    ],
)
def test_what_does_not_suit_is_refused_with_what_does(
    task: str,
    pattern: str,
    options: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if task == "volume":
        usual = staticmethod(lambda usual, data: [ModelSpec("swin_unetr_tiny", 64)])
        monkeypatch.setattr(learner("volume"), "specs", usual)
    with pytest.raises(UsageError, match=message):
        specs(task, pattern, **options)
