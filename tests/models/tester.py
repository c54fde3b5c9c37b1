"""The battery that every family of models passes.

Inherit `ModelTester` in `tests/models/test_<module>.py` to add what is special about a family; one
without such a file gets the battery all the same (`test_families.py`). Checks that need a whole
network run on the family's variants of less than a million parameters, of which it must have one.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime as ort
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import group_parameters
from timm.utils import reparameterize_model
from torch import nn

import sinet.models
from sinet.layers import ConvNorm
from sinet.models import load_weights

TABLE: dict[str, int] = json.loads((Path(__file__).parent / "parameters.json").read_text())
SIZE = 64


def families() -> dict[str, list[str]]:
    """Module in sinet.models -> the names that it registers."""
    found: dict[str, list[str]] = {}
    for name in timm.list_models():
        module = timm.model_entrypoint(name).__module__
        if module.startswith(sinet.models.__name__ + "."):
            found.setdefault(module.rpartition(".")[2], []).append(name)
    return found


def lively(model: nn.Module) -> nn.Module:
    """Give every norm a random state, so that no branch is silent and folding has work to do."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model


def create(name: str, **kwargs: Any) -> nn.Module:
    """A small lively network in evaluation mode, the same at every call."""
    torch.manual_seed(0)
    return lively(timm.create_model(name, **{"num_classes": 10, **kwargs})).eval()


def images(
    batch: int = 2, channels: int = 3, height: int = SIZE, width: int = SIZE
) -> torch.Tensor:
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))


class ModelTester:
    """`variant` runs over all names of the family, `name` over the small ones (see conftest)."""

    module: ClassVar[str]

    @classmethod
    def variants(cls) -> list[str]:
        return families()[cls.module]

    @classmethod
    def small_variants(cls) -> list[str]:
        return [name for name in cls.variants() if TABLE.get(name, 0) < 1_000_000]

    def test_has_a_small_variant(self) -> None:
        assert self.small_variants()

    def test_parameter_count_is_in_the_table(self, variant: str) -> None:
        with torch.device("meta"):
            model = timm.create_model(variant)
        assert sum(p.numel() for p in model.parameters()) == TABLE[variant]

    def test_forward_is_finite(self, variant: str) -> None:
        with torch.inference_mode():
            logits = create(variant)(images(1))
        assert logits.shape == (1, 10)
        assert logits.isfinite().all()

    def test_configuration_names_real_layers(self, variant: str) -> None:
        with torch.device("meta"):
            model = timm.create_model(variant)
        cfg = model.pretrained_cfg
        assert cfg["input_size"] == (3, 224, 224)
        assert model.get_submodule(cfg["first_conv"]).in_channels == 3
        assert model.get_submodule(cfg["classifier"]) is model.get_classifier()

    def test_gradient_reaches_every_parameter(self, name: str) -> None:
        model = create(name).train()
        model(images(4)).square().sum().backward()
        for parameter_name, parameter in model.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name
            assert parameter.grad.any(), parameter_name

    @pytest.mark.parametrize(("height", "width"), [(33, 47), (64, 96), (97, 65)])
    def test_odd_and_oblong_sizes(self, name: str, height: int, width: int) -> None:
        with torch.inference_mode():
            logits = create(name)(images(1, 3, height, width))
        assert logits.shape == (1, 10)
        assert logits.isfinite().all()

    @pytest.mark.parametrize("channels", [1, 4])
    def test_in_chans(self, name: str, channels: int) -> None:
        assert create(name, in_chans=channels)(images(1, channels)).shape == (1, 10)

    def test_head_options(self, name: str) -> None:
        model = create(name, drop_rate=0.5)
        x = images(1)
        features = model.forward_features(x)
        assert features.shape[:2] == (1, model.num_features)
        hidden = model.forward_head(features, pre_logits=True)
        assert hidden.shape == (1, model.head_hidden_size)
        assert model.forward_head(features).equal(model(x))
        assert model.get_classifier()(hidden).equal(model(x))
        model.reset_classifier(7)
        assert model.num_classes == 7
        assert model(x).shape == (1, 7)
        model.reset_classifier(0)
        assert model(x).equal(hidden)
        assert create(name, num_classes=0)(x).shape == hidden.shape
        model.reset_classifier(0, "")
        assert model(x).shape[2:] == features.shape[2:]
        assert create(name, global_pool="max")(x).shape == (1, 10)

    def test_dropout_only_while_training(self, name: str) -> None:
        model, x = create(name, drop_rate=0.5), images(1)
        assert model(x).equal(model(x))
        hidden = model.forward_features(x)
        model.train()
        assert not model.forward_head(hidden).equal(model.forward_head(hidden))

    @pytest.mark.parametrize("size", [SIZE, 75])
    def test_features_only_agrees_with_feature_info(self, name: str, size: int) -> None:
        x = images(1, 3, size, size)
        plain = create(name)
        backbone = create(name, features_only=True)
        info = backbone.feature_info
        with torch.inference_mode():
            maps = backbone(x)
            assert len(maps) == len(info)
            for level, channels, reduction in zip(
                maps, info.channels(), info.reduction(), strict=True
            ):
                side = -(-size // reduction)
                assert level.shape == (1, channels, side, side)
            kept: dict[str, torch.Tensor] = {}
            for module in info.module_name():
                plain.get_submodule(module).register_forward_hook(
                    lambda _, __, out, module=module: kept.__setitem__(module, out)
                )
            plain(x)
        for level, module in zip(maps, info.module_name(), strict=True):
            torch.testing.assert_close(level, kept[module], atol=1e-5, rtol=1e-5)

    def test_out_indices(self, name: str) -> None:
        backbone = create(name, features_only=True, out_indices=(1, 3))
        maps = backbone(images(1))
        assert [m.shape[1] for m in maps] == backbone.feature_info.channels()
        assert len(maps) == 2

    def test_image_does_not_depend_on_its_batch(self, name: str) -> None:
        model, x = create(name), images(3)
        with torch.inference_mode():
            together, alone = model(x), torch.cat([model(image[None]) for image in x])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)

    def test_grad_checkpointing_changes_nothing(self, name: str) -> None:
        gradients = []
        for enable in (False, True):
            model = create(name, drop_rate=0.0).train()
            model.set_grad_checkpointing(enable)
            out = model(images(4))
            out.square().sum().backward()
            gradients.append([out.detach(), *(p.grad for p in model.parameters())])
        torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)

    def test_reparameterize_changes_no_output(self, name: str) -> None:
        model, x = create(name), images()
        fused = reparameterize_model(model)
        assert not any(isinstance(m, ConvNorm) for m in fused.modules())
        with torch.inference_mode():
            torch.testing.assert_close(fused(x), model(x), atol=1e-5, rtol=1e-5)

    def test_weights_round_trip(self, name: str, tmp_path: Path) -> None:
        model = create(name)
        save_file(model.state_dict(), tmp_path / "model.safetensors")
        other = timm.create_model(name, num_classes=10).eval()
        report = load_weights(other, tmp_path / "model.safetensors")
        assert report.tensors == len(model.state_dict())
        assert other(images()).equal(model(images()))

    def test_parameter_groups_cover_the_network(self, name: str) -> None:
        model = create(name)
        names = {n for n, _ in model.named_parameters()}
        assert model.no_weight_decay() <= names
        for coarse in (False, True):
            groups = group_parameters(model, model.group_matcher(coarse))
            assert sorted(n for group in groups.values() for n in group) == sorted(names)
            assert len(groups) >= 4
            first = min(groups)
            assert all(n.startswith("stem") for n in groups[first])

    def test_torch_export(self, name: str) -> None:
        model, x = create(name), images()
        program = torch.export.export(model, (x,))
        torch.testing.assert_close(program.module()(x), model(x), atol=1e-5, rtol=1e-5)

    def test_onnx_runtime_agrees(self, name: str, tmp_path: Path) -> None:
        model, x = create(name), images()
        path = str(tmp_path / "model.onnx")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model,
                (x,),
                path,
                dynamo=False,
                input_names=["x"],
                dynamic_axes={"x": {0: "batch"}},
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for batch in (1, 3):
            x = images(batch)
            (logits,) = session.run(None, {"x": x.numpy()})
            np.testing.assert_allclose(logits, model(x).detach().numpy(), atol=1e-4, rtol=1e-4)
