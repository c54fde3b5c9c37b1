from __future__ import annotations

from typing import ClassVar

import pytest
import timm
import torch
from torch import nn

from sinet.errors import UsageError
from sinet.models.deep_fcn import convert

from .tester import ModelTester, create


class TestDeepFCN(ModelTester):
    module = "deep_fcn"
    figures: ClassVar = {
        "deep_fcn_test": (205_994, None),
        "deep_fcn": (359_788_520, None),
        "wide_fcn": (1_375_609_832, None),
    }
    no_drop_path: ClassVar = dict.fromkeys(figures, "no layer has a way around it")
    size = 32
    last_map = ()
    fixed_size = True
    oblong = ()

    def test_maps_of_every_variant(self, variant: str) -> None:
        with pytest.raises(UsageError, match=f"{variant} is fully connected and has no maps"):
            self.shapes(variant, features_only=True)
        assert self.shapes(variant)(self.shape_of_images()).shape == (1, 10)

    @pytest.mark.parametrize("odd", [False])
    def test_features_only_agrees_with_feature_info(self, name: str, odd: bool) -> None:
        with pytest.raises(UsageError, match="no maps"):
            self.create(name, features_only=True)

    def test_out_indices(self, name: str) -> None:
        with pytest.raises(UsageError, match="no maps"):
            self.create(name, features_only=True, out_indices=(1, 2))


def test_the_deep_network_has_48_hidden_layers_and_the_wide_one_three() -> None:
    with torch.device("meta"):
        deep, wide = timm.create_model("deep_fcn"), timm.create_model("wide_fcn")
    assert [len(deep.layers), len(wide.layers)] == [48, 3]
    assert [m.p for m in deep.modules() if isinstance(m, nn.Dropout)] == [0.0] + [0.1] * 48
    assert {m.p for m in wide.modules() if isinstance(m, nn.Dropout)} == {0.0}


def test_the_authors_names_are_converted() -> None:
    model = create("deep_fcn_test")
    ours = model.state_dict()
    theirs = {}
    for name, value in ours.items():
        parts = name.split(".")
        if parts[0] == "fc":
            theirs[f"output_layer.0.{parts[1]}"] = value
            continue
        layer, part = int(parts[1]), {"fc": "0", "norm": "1"}[parts[2]]
        place = f"intermediate_layers.{layer - 1}" if layer else "initial_layer"
        theirs[f"{place}.{part}.{parts[3]}"] = value
    found = convert(theirs)
    assert found.keys() == ours.keys()
    assert all(found[name] is ours[name] for name in ours)
    assert convert(ours) == ours
