from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from sinet.errors import UsageError
from sinet.models import ModelSpec
from sinet.models._networks import check_task


def test_create_passes_options_on() -> None:
    spec = ModelSpec("sinet_test", 32, {"stem_stride": 1})
    model = spec.create(5, in_chans=1, drop_rate=0.1)
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 5)
    assert model.feature_info[0]["reduction"] == 2
    assert model.drop_rate == 0.1


def test_create_loads_starting_weights_unless_told_not_to(tmp_path: Path) -> None:
    source = timm.create_model("sinet_test", num_classes=3)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    spec = ModelSpec("sinet_test", 32, weights=str(tmp_path / "w.safetensors"))
    stem = source.stem[0].conv.weight
    assert spec.create(5).stem[0].conv.weight.equal(stem)
    assert not spec.create(5, load=False).stem[0].conv.weight.equal(stem)


def test_networks_of_one_fixed_size_are_built_for_the_size() -> None:
    model = ModelSpec("test_vit", 64).create(5)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


def test_label_says_what_it_started_from() -> None:
    assert ModelSpec("sinet_small", 64).label == "sinet_small@64"
    assert ModelSpec("sinet_small", 64, weights="x.pth").label == "sinet_small@64 pretrained"


def test_dict_round_trip_and_hash() -> None:
    spec = ModelSpec("sinet_tiny", 64, {"stem_stride": 1}, "hub:timm/x")
    assert ModelSpec.from_dict(spec.to_dict()) == spec
    assert len({spec, ModelSpec.from_dict(spec.to_dict())}) == 1


def test_mistakes_are_explained() -> None:
    with pytest.raises(UsageError, match=r"unknown model 'sinet_smal'; did you mean.*sinet_small"):
        ModelSpec("sinet_smal", 64).create(5)
    with pytest.raises(UsageError, match=r"sinet_test.*cannot be built.*stem_strid"):
        ModelSpec("sinet_test", 64, {"stem_strid": 1}).create(5)
    with pytest.raises(UsageError, match="unknown model option 'sise'; did you mean 'size'"):
        ModelSpec.from_dict({"name": "sinet_test", "sise": 64})


def test_a_backbone_in_place_of_a_network_is_told_where_it_goes() -> None:
    with pytest.raises(UsageError, match=r"model.backbone=resnet18 of mask_rcnn, mask_rcnn_pp$"):
        check_task("resnet18", "instances")
    with pytest.raises(UsageError, match=r"for volume there are [^;]*$"):
        check_task("resnet18", "volume")


@pytest.mark.parametrize(
    ("text", "said"), [("name: [", "cannot read"), ("size: 3", "lacks"), ("- a", "lacks")]
)
def test_a_file_that_is_no_spec(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "found.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        ModelSpec.from_file(path)


def test_a_spec_from_its_file(tmp_path: Path) -> None:
    spec = ModelSpec("sinet_test", 32, {"stem_stride": 1})
    path = tmp_path / "found.json"
    path.write_text(json.dumps(spec.to_dict()))
    assert ModelSpec.from_file(path) == spec
