"""What our own networks share: the methods that timm expects of a stem-stages-head network."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import NormMlpClassifierHead, to_2tuple
from timm.models import FeatureInfo, build_model_with_cfg, checkpoint_seq
from torch import nn

from sinet.errors import UsageError


class StagedNet(nn.Module):
    """A stem, stages in order and an MLP head; the subclass builds them and calls `set_head`.

    Shape: (B, in_chans, H, W) -> (B, num_classes)
    """

    stem: nn.Sequential
    stages: nn.Sequential

    def __init__(self, num_classes: int, in_chans: int, drop_rate: float) -> None:
        super().__init__()
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.grad_checkpointing = False
        self.feature_info: list[dict[str, Any]] = []

    def set_head(self, width: int, head: NormMlpClassifierHead) -> None:
        """Attach the head that reads `width` channels, its layers starting small."""
        self.num_features = width
        self.head = head
        self.head_hidden_size: int = head.num_features
        for module in head.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def no_weight_decay(self) -> set[str]:
        """Names that weight decay must skip besides norms and biases: none."""
        return set()

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer-wise learning rates."""
        blocks = r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"
        return {"stem": r"^stem", "blocks": [(blocks, None), (r"^fusion", (99999,))]}

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass to save memory."""
        self.grad_checkpointing = enable

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        classifier: nn.Module = self.head.fc
        return classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last layer, and the pooling if given."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)

    def forward_stage(self, stage: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """One stage, its activations recomputed in the backward pass when that is on."""
        if self.grad_checkpointing and self.training:
            return checkpoint_seq(stage, x)  # type: ignore[no-any-return]
        return stage(x)  # type: ignore[no-any-return]

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Image to the last map of `num_features` channels."""
        x = self.stem(x)
        for stage in self.stages:
            x = self.forward_stage(stage, x)
        return x

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Pool and classify; `pre_logits` stops at (B, head_hidden_size)."""
        return self.head(x, pre_logits=pre_logits)  # type: ignore[no-any-return]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Image to logits."""
        return self.forward_head(self.forward_features(x))


class FlatNet(nn.Module):
    """A network of one image size whose last layer, `fc`, reads a row of features.

    The subclass builds its layers, sets `num_features` and calls `set_classifier`.

    Shape: (B, in_chans, *img_size) -> (B, num_classes)
    """

    num_features: int
    drop: nn.Module

    def __init__(
        self, num_classes: int, in_chans: int, drop_rate: float, img_size: int | tuple[int, int]
    ) -> None:
        super().__init__()
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.img_size: tuple[int, int] = to_2tuple(img_size)
        self.grad_checkpointing = False
        self.feature_info: list[dict[str, Any]] = []

    def set_classifier(self) -> None:
        """Attach the last layer, or nothing for no classes."""
        self.head_hidden_size = self.num_features
        count = self.num_classes
        self.fc: nn.Module = nn.Linear(self.num_features, count) if count else nn.Identity()

    def start(self, module: nn.Module) -> None:
        """Draw the weights of a layer, where not as torch does."""

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def no_weight_decay(self) -> set[str]:
        """Names that weight decay must skip besides norms and biases: none."""
        return set()

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass to save memory."""
        self.grad_checkpointing = enable

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last layer."""
        self.num_classes = num_classes
        like = next(self.parameters())
        self.set_classifier()
        self.fc.to(like.device, like.dtype)
        self.start(self.fc)

    @abstractmethod
    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Image to (B, num_features)."""

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Classify; `pre_logits` stops before the last layer."""
        x = self.drop(x)
        return x if pre_logits else self.fc(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Image to logits."""
        return self.forward_head(self.forward_features(x))


def refuse_other_size(x: torch.Tensor, img_size: tuple[int, int]) -> None:
    """Hold the images of a network whose layers depend on their size to that size.

    Raises:
        UsageError: they are of another.
    """
    if tuple(x.shape[-2:]) != img_size:
        given, wanted = ("x".join(map(str, s)) for s in (x.shape[-2:], img_size))
        raise UsageError(
            f"this network was built for images of {wanted}, not {given}; resize the images or "
            "build it with img_size"
        )


def refuse_small(variant: str, least: int, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    """Before `forward`: hold the images of a network to the least side that leaves it a map.

    Raises:
        UsageError: one side is shorter.
    """
    if not inputs:  # given by name
        return
    height, width = inputs[0].shape[-2:]
    if height < least or width < least:
        raise UsageError(
            f"{variant} needs images of at least {least} x {least} pixels, not {height} x {width}; "
            "enlarge them or choose another network"
        )


def _runs_whole(model: Any) -> bool:
    """Whether it runs to its last map; `features_only` cuts off what comes after those asked."""
    info = model.feature_info
    if not isinstance(info, FeatureInfo):
        return True
    count = len(info.info)
    return any(index % count == count - 1 for index in info.out_indices)


def default_cfg(**overrides: Any) -> dict[str, Any]:
    """The description for timm of a network that has no published weights yet.

    A network that fails on small images states `min_input_size`; `build` holds images to it.
    """
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.95,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.0.conv",
        "classifier": "head.fc",
        "license": "apache-2.0",
        **overrides,
    }


def build(
    cls: type[nn.Module],
    variant: str,
    pretrained: bool,
    features: int = 4,
    *,
    feature_cfg: dict[str, Any] | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Build a variant as timm does, one that explains what its `min_input_size` refuses.

    Args:
        cls: the network.
        variant: its registered name.
        pretrained: load published weights.
        features: number of maps that `features_only` gives.
        feature_cfg: how timm takes the maps, where the usual way does not do.
        kwargs: of the network, and timm's own.

    Raises:
        UsageError: `out_indices` names a map that is not there, or `drop_path_rate` is given to a
            network without stochastic depth.
    """
    usual = {"out_indices": tuple(range(features)), "flatten_sequential": True}
    try:
        model: nn.Module = build_model_with_cfg(
            cls, variant, pretrained, feature_cfg=feature_cfg or usual, **kwargs
        )
    except TypeError as error:
        if "'drop_path_rate'" not in str(error):
            raise
        raise UsageError(
            f"drop_path_rate {kwargs['drop_path_rate']} given; {variant} has no stochastic depth, "
            "leave it out"
        ) from error
    except IndexError as error:
        if "out_indices" not in kwargs:
            raise
        asked = kwargs.pop("out_indices")
        with torch.device("meta"):
            plain: Any = build_model_with_cfg(
                cls, variant, False, **{**kwargs, "features_only": False}
            )
        raise UsageError(
            f"out_indices {asked} given; {variant} has the feature maps 0 to "
            f"{len(plain.feature_info) - 1}"
        ) from error
    least = model.pretrained_cfg.get("min_input_size")  # type: ignore[operator, union-attr]
    if least and _runs_whole(model):
        model.register_forward_pre_hook(partial(refuse_small, variant, max(least[1:])))
    return model
