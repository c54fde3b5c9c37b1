"""The battery that every family of models passes.

Inherit `ModelTester` in `tests/models/test_<module>.py` with the family's published figures; what a
family cannot do is said there by a flag, and the flag is tested too. Checks that need a whole
network run on the family's variants of less than a million parameters, of which it must have one;
the rest run on every variant, where numbers do not matter without its weights.
"""

from __future__ import annotations

import warnings
import zlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime as ort
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import DropPath
from timm.models import group_parameters, save_for_hf
from timm.utils import reparameterize_model
from torch import nn

import sinet.models
from sinet.errors import UsageError
from sinet.layers import ConvNorm
from sinet.measurement.cost import cost
from sinet.models import load_weights

SMALL, LARGE = 1_000_000, 60_000_000
"""Parameters below which a variant gets the whole battery, and above which only shapes are run."""
BANDS = 5
"""Image channels of the checks that run shapes only."""
NOTHING = 1e-4
"""Weights of this size start at next to nothing because they multiply or shift something else."""


def families() -> dict[str, list[str]]:
    """Module in sinet.models -> the names that it registers."""
    found: dict[str, list[str]] = {}
    for name in timm.list_models():
        module = timm.model_entrypoint(name).__module__
        if module.startswith(sinet.models.__name__ + "."):
            found.setdefault(module.rpartition(".")[2], []).append(name)
    return found


def lively(model: nn.Module) -> nn.Module:
    """Give whatever starts as a constant a random state, and weights that start small more.

    Norms then have something to fold, branches behind a layer scale of 1e-6 are heard, and what
    comes out at the end still depends on the image.
    """
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            weight = module.weight.data
            size, usual = weight.square().mean().sqrt().item(), (2 * weight[0].numel()) ** -0.5
            if size > NOTHING:
                weight *= max(1.0, usual / size)
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        vector = value.numel() == max(value.shape, default=1) and value.is_floating_point()
        if not vector or not (value == value.flatten()[:1]).all():
            continue
        # `features_only` writes `stages_0`, `body.stages.0` or `model.stages.0` for `stages.0`, and
        # omits the head
        plain = name.removeprefix("body.").removeprefix("model.")
        seed = zlib.crc32(plain.replace(".", "_").encode())
        generator = torch.Generator().manual_seed(seed)
        if name.endswith(("bias", "running_mean")):
            value.data.normal_(0, 0.1, generator=generator)
        elif isinstance(value, nn.Parameter) or name.endswith("running_var"):
            value.data.uniform_(0.5, 1.5, generator=generator)
    return model


def create(name: str, **kwargs: Any) -> nn.Module:
    """A lively network in evaluation mode, the same at every call."""
    torch.manual_seed(0)
    return lively(timm.create_model(name, **{"num_classes": 10, **kwargs})).eval()


def images(batch: int = 2, channels: int = 3, height: int = 64, width: int = 64) -> torch.Tensor:
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))


def classifiers(model: nn.Module) -> tuple[nn.Module, ...]:
    """The last layers; a network that was distilled has two."""
    found = model.get_classifier()
    return tuple(found) if isinstance(found, (tuple, nn.ModuleList)) else (found,)


def drop_paths(model: nn.Module) -> list[DropPath]:
    return [module for module in model.modules() if isinstance(module, DropPath)]


class ModelTester:
    """`variant` runs over all names of the family, `name` over the small ones (see conftest)."""

    module: ClassVar[str]
    figures: ClassVar[dict[str, tuple[int, float | None]]]
    """Every name: parameters, and multiply-adds at its own input size where they are published."""
    size: ClassVar[int] = 64
    """Height and width at which the battery runs."""
    fixed_size: ClassVar[bool] = False
    """The network is built for one image size (`img_size`) and refuses others."""
    oblong: ClassVar[tuple[tuple[int, int], ...]] = ((33, 47), (64, 96), (97, 65))
    """Odd and oblong (height, width) that must work."""
    odd: ClassVar[int] = 75
    """Another side at which the maps of `features_only` are checked."""
    no_drop_path: ClassVar[dict[str, str]] = {}
    """Names that refuse `drop_path_rate`, each with the reason."""
    last_map: ClassVar[tuple[int, ...]] = (2, 2)
    """Height and width of a map that the head takes, none if it takes vectors."""
    drop_path_after_last: ClassVar[bool] = False
    """The rate is that of a block after the last one, so that the last has less."""

    @classmethod
    def variants(cls) -> list[str]:
        return families()[cls.module]

    @classmethod
    def small_variants(cls) -> list[str]:
        return [name for name in cls.variants() if cls.figures.get(name, (SMALL,))[0] < SMALL]

    def create(self, name: str, **kwargs: Any) -> nn.Module:
        """The network, for images of `self.size` if it is built for one size."""
        if self.fixed_size:
            kwargs = {"img_size": self.size, **kwargs}
        return create(name, **kwargs)

    def shapes(self, name: str, **kwargs: Any) -> nn.Module:
        """The network without its weights, for as many channels as no network has by default."""
        options = {"img_size": self.size} if self.fixed_size else {}
        with torch.device("meta"):
            model = timm.create_model(name, in_chans=BANDS, num_classes=10, **options, **kwargs)
        return model.eval()  # type: ignore[no-any-return]

    def shape_of_images(self) -> torch.Tensor:
        return torch.empty(1, BANDS, self.size, self.size, device="meta")

    def images(self, batch: int = 2, channels: int = 3, *shape: int) -> torch.Tensor:
        height, width = shape or (self.size, self.size)
        return images(batch, channels, height, width)

    def side(self, size: int, reduction: int) -> int:
        """Side of the map of this reduction: rounded up, as padded strided convolutions do."""
        return -(-size // reduction)

    def test_has_a_small_variant(self) -> None:
        assert self.small_variants()

    def test_parameters_and_multiply_adds_are_the_published_ones(self, variant: str) -> None:
        params, macs = self.figures[variant]
        with torch.device("meta"):
            model = timm.create_model(variant)
        assert sum(p.numel() for p in model.parameters()) == params
        if macs is not None:
            channels, size, _ = model.pretrained_cfg["input_size"]
            assert cost(model, size, channels).macs == pytest.approx(macs, rel=0.01)

    def test_forward_is_finite(self, variant: str) -> None:
        if self.figures[variant][0] > LARGE:  # its shapes, without a gigabyte of weights
            options = {"img_size": self.size} if self.fixed_size else {}
            with torch.device("meta"):
                model = timm.create_model(variant, num_classes=10, **options).eval()
            assert model(self.images(1).to("meta")).shape == (1, 10)
            return
        with torch.inference_mode():
            logits = self.create(variant)(self.images(1))
        assert logits.shape == (1, 10)
        assert logits.isfinite().all()

    def test_configuration_names_real_layers(self, variant: str) -> None:
        with torch.device("meta"):
            model = timm.create_model(variant)
        cfg = model.pretrained_cfg
        channels, height, width = cfg["input_size"]
        assert height == width
        first, last = cfg["first_conv"], cfg["classifier"]
        for layer in (first,) if isinstance(first, str) else first:
            assert model.get_submodule(layer).weight.shape[1] == channels
        for layer in (last,) if isinstance(last, str) else last:
            assert model.get_submodule(layer).weight.shape[0] == cfg["num_classes"]
        assert cfg.get("fixed_input_size", False) == self.fixed_size

    def test_maps_of_every_variant(self, variant: str) -> None:
        backbone = self.shapes(variant, features_only=True)
        info = backbone.feature_info
        maps = backbone(self.shape_of_images())
        for level, channels, reduction in zip(maps, info.channels(), info.reduction(), strict=True):
            side = self.side(self.size, reduction)
            assert level.shape == (1, channels, side, side)

    def test_classifier_of_every_variant(self, variant: str) -> None:
        model = self.shapes(variant)
        assert {layer.weight.shape[0] for layer in classifiers(model)} == {10}
        model.reset_classifier(7)
        assert model.num_classes == 7
        assert {layer.weight.shape[0] for layer in classifiers(model)} == {7}
        last = torch.empty(1, model.num_features, *self.last_map, device="meta")
        assert model.forward_head(last).shape == (1, 7)  # the new layer is where the network is

    def test_drop_path_grows_linearly(self, variant: str) -> None:
        if variant in self.no_drop_path:
            with pytest.raises(UsageError, match=f"{variant} has no stochastic depth"):
                self.shapes(variant, drop_path_rate=0.3)
            return
        layers = drop_paths(self.shapes(variant, drop_path_rate=0.3))
        rates = [layer.drop_prob for layer in layers]
        assert rates == sorted(rates)
        steps = np.diff(sorted({0.0, *rates}))
        np.testing.assert_allclose(steps, steps[0], rtol=1e-3)
        assert rates[-1] + self.drop_path_after_last * steps[0] == pytest.approx(0.3)

    def test_logits_depend_on_the_image(self, name: str) -> None:
        """Else all that follows would compare constants."""
        one, other = self.create(name)(self.images(2))
        assert (one - other).abs().max() > 1e-3 * one.abs().max()

    def test_wrong_size_is_explained(self, name: str) -> None:
        if not self.fixed_size:
            return  # every size is right; see test_odd_and_oblong_sizes
        model = self.create(name)
        with pytest.raises(UsageError, match=str(self.size)):
            model(self.images(1, 3, self.size + 32, self.size + 32))

    @pytest.mark.parametrize("features_only", [False, True])
    def test_too_small_images_are_explained(self, name: str, features_only: bool) -> None:
        if self.fixed_size:
            return  # see test_wrong_size_is_explained
        least = (timm.get_pretrained_cfg(name).min_input_size or (3, 1, 1))[-1]
        model = self.create(name, features_only=True) if features_only else self.create(name)
        out = model(self.images(1, 3, least, least))
        assert all(values.isfinite().all() for values in out)
        if least > 1:
            message = f"{name} needs images of at least {least} x {least} pixels"
            with pytest.raises(UsageError, match=message):
                model(self.images(1, 3, least - 1, least))

    def test_bfloat16_is_finite(self, name: str) -> None:
        model = self.create(name).to(torch.bfloat16)
        assert model(self.images(1).to(torch.bfloat16)).isfinite().all()

    def test_double_precision(self, name: str) -> None:
        """Nothing inside is bound to float32; the reference cases are checked in float64."""
        model = self.create(name)
        x = self.images(1)
        exact = self.create(name).double()(x.double())
        assert exact.dtype == torch.float64
        torch.testing.assert_close(model(x).double(), exact, atol=1e-3, rtol=1e-3)

    def test_compiles_to_one_graph(self, name: str) -> None:
        torch.compiler.reset()  # else graphs of other networks with this `forward` count as ours
        model, x = self.create(name), self.images(1)
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x), model(x), atol=1e-5, rtol=1e-5)

    def test_save_pretrained_round_trip(self, name: str, tmp_path: Path) -> None:
        model = self.create(name)
        options = {"img_size": self.size} if self.fixed_size else {}
        save_for_hf(model, str(tmp_path), model_args=options, safe_serialization=True)
        again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
        assert again(self.images()).equal(model(self.images()))

    def test_gradient_reaches_every_parameter(self, name: str) -> None:
        model = self.create(name).train()
        model(self.images(4)).square().sum().backward()
        for parameter_name, parameter in model.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name
            assert parameter.grad.any(), parameter_name

    def test_odd_and_oblong_sizes(self, name: str) -> None:
        assert bool(self.oblong) != self.fixed_size
        for height, width in self.oblong:
            with torch.inference_mode():
                logits = self.create(name)(self.images(1, 3, height, width))
            assert logits.shape == (1, 10)
            assert logits.isfinite().all()

    @pytest.mark.parametrize("channels", [1, 4])
    def test_in_chans(self, name: str, channels: int) -> None:
        assert self.create(name, in_chans=channels)(self.images(1, channels)).shape == (1, 10)

    def test_head_options(self, name: str) -> None:
        model = self.create(name, drop_rate=0.5)
        x = self.images(1)
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
        assert self.create(name, num_classes=0)(x).shape == hidden.shape
        model.reset_classifier(0, "")
        assert model(x).shape[2:] == features.shape[2:]
        assert self.create(name, global_pool="max")(x).shape == (1, 10)

    def test_dropout_only_while_training(self, name: str) -> None:
        model, x = self.create(name, drop_rate=0.5), self.images(1)
        assert model(x).equal(model(x))
        hidden = model.forward_features(x)
        model.train()
        assert not model.forward_head(hidden).equal(model.forward_head(hidden))

    def test_drop_path_only_while_training(self, name: str) -> None:
        if name in self.no_drop_path:
            return  # see test_drop_path_grows_linearly
        model, x = self.create(name, drop_path_rate=0.5), self.images(16)
        assert model(x).equal(model(x))
        assert not drop_paths(self.create(name))
        for layer in drop_paths(model):
            layer.train()
        assert not model(x).equal(model(x))

    def test_dropped_branch_leaves_the_shortcut(self, name: str) -> None:
        """A path that drops without a way around it would make all images the same."""
        if name in self.no_drop_path:
            return  # see test_drop_path_grows_linearly
        model, x = self.create(name, drop_path_rate=0.5), self.images(2)
        for layer in drop_paths(model):
            layer.train().drop_prob = 1.0
            with torch.inference_mode():
                one, other = model(x)
            assert not torch.allclose(one, other, atol=1e-4, rtol=1e-4)
            layer.eval()

    def test_channels_last(self, name: str) -> None:
        x = self.images()
        expected = self.create(name)(x)
        model = self.create(name).to(memory_format=torch.channels_last)
        found = model(x.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("odd", [False, True])
    def test_features_only_agrees_with_feature_info(self, name: str, odd: bool) -> None:
        if odd and self.fixed_size:
            return  # other sizes are refused; see test_wrong_size_is_explained
        size = self.odd if odd else self.size
        x = self.images(1, 3, size, size)
        plain = self.create(name)
        backbone = self.create(name, features_only=True)
        info = backbone.feature_info
        with torch.inference_mode():
            maps = backbone(x)
            assert len(maps) == len(info)
            for level, channels, reduction in zip(
                maps, info.channels(), info.reduction(), strict=True
            ):
                side = self.side(size, reduction)
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
        backbone = self.create(name, features_only=True, out_indices=(1, 2))
        maps = backbone(self.images(1))
        assert [m.shape[1] for m in maps] == backbone.feature_info.channels()
        assert len(maps) == 2
        count = len(self.create(name).feature_info)
        with pytest.raises(UsageError, match=f"has the feature maps 0 to {count - 1}$"):
            self.create(name, features_only=True, out_indices=(0, count))

    def test_image_does_not_depend_on_its_batch(self, name: str) -> None:
        model, x = self.create(name), self.images(3)
        with torch.inference_mode():
            together, alone = model(x), torch.cat([model(image[None]) for image in x])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)

    def test_grad_checkpointing_changes_nothing(self, name: str) -> None:
        gradients = []
        for enable in (False, True):
            model = self.create(name, drop_rate=0.0).train()
            model.set_grad_checkpointing(enable)
            out = model(self.images(4))
            out.square().sum().backward()
            gradients.append([out.detach(), *(p.grad for p in model.parameters())])
        torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)

    def test_reparameterize_changes_no_output(self, name: str) -> None:
        model, x = self.create(name).double(), self.images().double()
        fused = reparameterize_model(model)
        assert not any(isinstance(m, ConvNorm) for m in fused.modules())
        with torch.inference_mode():
            torch.testing.assert_close(fused(x), model(x), atol=1e-9, rtol=1e-9)

    def test_weights_round_trip(self, name: str, tmp_path: Path) -> None:
        model = self.create(name)
        save_file(model.state_dict(), tmp_path / "model.safetensors")
        other = self.create(name)
        for parameter in other.parameters():
            parameter.data.zero_()
        report = load_weights(other, tmp_path / "model.safetensors")
        assert report.tensors == len(model.state_dict())
        assert other(self.images()).equal(model(self.images()))

    def test_parameter_groups_cover_the_network(self, name: str) -> None:
        model = self.create(name)
        names = {n for n, _ in model.named_parameters()}
        assert model.no_weight_decay() <= names
        for coarse in (False, True):
            groups = group_parameters(model, model.group_matcher(coarse))
            assert sorted(n for group in groups.values() for n in group) == sorted(names)
            assert len(groups) >= 3

    def test_torch_export(self, name: str) -> None:
        model, x = self.create(name), self.images()
        program = torch.export.export(model, (x,))
        torch.testing.assert_close(program.module()(x), model(x), atol=1e-5, rtol=1e-5)

    def test_onnx_runtime_agrees(self, name: str, tmp_path: Path) -> None:
        model, x = self.create(name), self.images()
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
            x = self.images(batch)
            (logits,) = session.run(None, {"x": x.numpy()})
            np.testing.assert_allclose(logits, model(x).detach().numpy(), atol=2e-4, rtol=2e-4)
