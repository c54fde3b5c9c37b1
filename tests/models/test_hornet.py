from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import onnx
import pytest
import timm
import torch

from sinet.deployment.export import export_network
from sinet.models import load_state
from sinet.models.hornet import Block, HorNet, convert

from .tester import ModelTester, create, images


class TestHornet(ModelTester):
    module = "hornet"
    figures: ClassVar = {
        "hornet_test": (519_072, None),
        "hornet_tiny_7x7": (22_409_512, 3.98e9),
        "hornet_tiny_gf": (22_991_848, 3.90e9),
        "hornet_small_7x7": (49_528_264, 8.83e9),
        "hornet_small_gf": (50_401_768, 8.71e9),
        "hornet_base_7x7": (87_256_680, 15.6e9),
        "hornet_base_gf": (88_421_352, 15.5e9),
        "hornet_large_7x7": (194_542_504, 34.8e9),
        "hornet_large_gf": (196_289_512, 34.7e9),
    }

    def side(self, size: int, reduction: int) -> int:
        """Patches that do not fill up are left out, as in ConvNeXt."""
        return size // reduction


def authors_state(model: HorNet) -> dict[str, torch.Tensor]:
    """The network's state under the authors' names."""
    back = {
        "stem.": "downsample_layers.0.", "head.norm.": "norm.", "head.fc.": "head.",
        ".ls1.gamma": ".gamma1", ".ls2.gamma": ".gamma2", ".mlp.fc": ".pwconv", ".filter.": ".",
    }  # fmt: skip
    renamed = {}
    for name, value in model.state_dict().items():
        head, *rest = name.split(".")
        if head == "stages":
            stage, place, *rest = rest
            if place == "0":
                name = ".".join(["downsample_layers", stage, *rest])
            else:
                name = ".".join(["stages", stage, str(int(place) - 1), *rest])
        for ours, theirs in back.items():
            name = name.replace(ours, theirs)
        renamed[name] = value
    return renamed


def test_authors_weights_load_and_ours_stay_as_they_are() -> None:
    model, other = create("hornet_test"), create("hornet_test", in_chans=1, num_classes=3)
    state = authors_state(model)
    assert convert(model.state_dict()).keys() == model.state_dict().keys()
    report = load_state(create("hornet_test"), state, "theirs")
    assert report.converted
    assert report.tensors == len(state)
    assert len(load_state(other, state, "theirs").adapted) == 2  # channels and classes


def test_orders_and_filters_are_where_the_paper_has_them() -> None:
    for name, filters in (("hornet_tiny_7x7", 0), ("hornet_tiny_gf", 20)):
        with torch.device("meta"):
            model = timm.create_model(name)
        for i, order in enumerate((2, 3, 4, 5)):
            for block in list(model.stages[i])[1:]:
                assert len(block.gnconv.pws) == order - 1
                assert block.gnconv.dims[0] == 32
                assert block.gnconv.scale == pytest.approx(1 / 3)
        found = [n for n, _ in model.named_parameters() if n.endswith("complex_weight")]
        assert len(found) == filters
        assert all(n.startswith(("stages.2", "stages.3")) for n in found)


def test_a_fresh_block_is_nearly_the_identity() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 16, 8, 8)
    assert (Block(16, 3, None, 0.0, 1e-6)(x) - x).abs().max() < 1e-4
    assert (Block(16, 3, None, 0.0, 1.0)(x) - x).abs().max() > 1e-3


def test_the_exported_file_needs_no_fourier_operator(tmp_path: Path) -> None:
    """ONNX Runtime's DFT operator is slow and not in every engine; products are everywhere."""
    path = export_network(create("hornet_test"), 64, 3, tmp_path / "network.onnx")
    kinds = {node.op_type for node in onnx.load(str(path)).graph.node}
    assert "DFT" not in kinds
    assert not kinds & {"Cos", "Sin", "Range", "Mod"}, "the matrices are constants of the file"


def test_filters_fit_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 224 px no filter is resized; elsewhere each is, for oblong maps too."""
    seen: list[tuple[int, ...]] = []
    resize = torch.nn.functional.interpolate

    def watched(x: torch.Tensor, **kwargs: object) -> torch.Tensor:
        assert kwargs["align_corners"] is True
        seen.append(tuple(kwargs["size"]))  # type: ignore[arg-type]
        return resize(x, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.nn.functional, "interpolate", watched)
    model = create("hornet_test")
    with torch.inference_mode():
        model(images(1, 3, 224, 224))
        assert seen == []
        model(images(1, 3, 96, 160))
    assert seen == [(6, 6), (6, 6), (3, 3)]
