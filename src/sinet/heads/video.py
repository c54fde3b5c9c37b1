"""Classification of clips on any backbone: attention over frames, and factorised 3D convolution.

`video_attention` sees every frame by itself and compares small maps of them afterwards, so that a
camera's next frame costs one pass of the backbone. `video_conv21d` lets neighbouring frames speak
between the stages of the backbone: a convolution over space, one over time, and so on (R(2+1)D,
Tran et al., arXiv:1711.11248; P3D, Qiu et al., arXiv:1711.10305). As in TSM (Lin et al.,
arXiv:1811.08383) the convolution over time is a residual branch around which the frame-wise network
stays as it was; its last norm starts at zero, so that training starts from that network. Motion
shows where something is, so that neither pools a map to one number before time was looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from timm.models.vision_transformer import Block
from torch import nn
from torch.nn import functional as F

from sinet.errors import UsageError
from sinet.heads._base import mean_cells
from sinet.layers import ConvNorm
from sinet.models._backbone import create_backbone, create_body
from sinet.models._networks import register_for

STRIDE = 16
"""Image pixels per position of the map that attention reads, or the coarsest that is finer."""
GRID = 8
"""Cells on either side to which that map is pooled."""
HEAD_WIDTH = 32
LAST_STAGES = 4
"""Behind so many stages, the last ones, frames are convolved over time."""


class ClipLogits(NamedTuple):
    """What a network says of clips."""

    logits: torch.Tensor
    """(B, num_classes)."""
    features: torch.Tensor
    """Of every frame, (B, T, width)."""


class VideoAttention(nn.Module):
    """A small map of every frame; neighbouring maps are compared; attention over the frames; mean.

    Neighbours are compared place by place, before places are averaged: whoever first makes one
    vector of a frame hardly learns which way something went.

    Shape: (B, in_chans, T, H, W) -> `ClipLogits`
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        frames: int,
        width: int = 192,
        depth: int = 2,
        drop_rate: float = 0.0,
    ) -> None:
        """Build the head on a backbone.

        Args:
            backbone: of `create_backbone`, with one map.
            num_classes: channels of the logits.
            frames: T, which has a learned position each.
            width: of the tokens, one a frame.
            depth: transformer blocks.
            drop_rate: dropout before the classifier.
        """
        super().__init__()
        self.backbone = backbone
        info: Any = backbone.feature_info
        self.last = str(getattr(backbone, "output_fmt", "NCHW")).endswith("NHWC")  # Swin's kind
        self.narrow = width // 4
        reduce = ConvNorm(info.channels()[-1], self.narrow)
        self.reduce = nn.Sequential(reduce, nn.ReLU(inplace=True))
        self.compare = nn.Sequential(
            ConvNorm(3 * self.narrow, self.narrow, 3),
            nn.ReLU(inplace=True),
            ConvNorm(self.narrow, self.narrow, 3),
        )
        # normalised, so that what a frame shows does not drown its position
        self.project = nn.Sequential(nn.Linear(self.narrow, width), nn.LayerNorm(width))
        self.positions = nn.Parameter(torch.empty(1, frames, width))
        nn.init.trunc_normal_(self.positions, std=0.02)
        heads = max(1, width // HEAD_WIDTH)
        blocks = [Block(width, heads, mlp_ratio=2.0, qkv_bias=True) for _ in range(depth)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(drop_rate)
        self.classifier = nn.Linear(width, num_classes)

    def no_weight_decay(self) -> set[str]:
        """The positions."""
        return {"positions"}

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """The maps of single frames, (N, in_chans, H, W) -> (N, channels * GRID ** 2)."""
        x = self.backbone(frames)[-1]
        x = self.reduce(x.permute(0, 3, 1, 2) if self.last else x)
        cells: torch.Tensor = x.flatten(2) @ grid(int(x.shape[-2]), int(x.shape[-1])).to(x)
        return cells.flatten(1)

    def forward(self, clips: torch.Tensor) -> ClipLogits:
        """Logits of clips, and the maps of their frames."""
        features = frame_wise(self.encode, clips)
        frames = int(self.positions.shape[1])
        maps = features.reshape(-1, frames, self.narrow, GRID, GRID)
        x = maps.flatten(0, 1)
        x = F.relu(x + self.compare(neighbours(maps))).mean((2, 3))
        tokens = self.project(x).reshape(-1, frames, self.positions.shape[2])
        x = self.norm(self.blocks(tokens + self.positions)).mean(1)
        return ClipLogits(self.classifier(self.drop(x)), features)


def neighbours(maps: torch.Tensor) -> torch.Tensor:
    """Each frame's channels with those of the one before and the one behind it; zeros at the ends.

    Shape: (B, T, C, H, W) -> (B * T, 3 C, H, W)
    """
    around = F.pad(maps, (0, 0, 0, 0, 0, 0, 1, 1))
    return torch.cat([around[:, :-2], maps, around[:, 2:]], 2).flatten(0, 1)


class TemporalConv(nn.Module):
    """x + W2 relu(W1 x) over three frames: 1 x 1 to fewer channels, 3 x 1 x 1 back.

    The second is a 1 x 1 convolution over the channels of a frame and of its two neighbours, which
    is the same and is what engines are quick at, in INT8 too. Beyond the ends there is nothing.

    Shape: (B * T, channels, H, W) -> the same
    """

    def __init__(self, channels: int, frames: int, ratio: float = 0.25) -> None:
        """Build the branch; it starts as nothing.

        Args:
            channels: of the map.
            frames: T.
            ratio: channels in between, as a share.
        """
        super().__init__()
        self.channels, self.frames = channels, frames
        narrow = max(8, round(channels * ratio / 8) * 8)
        self.reduce = nn.Sequential(ConvNorm(channels, narrow), nn.ReLU(inplace=True))
        self.mix = ConvNorm(3 * narrow, channels, zero_init=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add what the neighbours say."""
        if not isinstance(x, torch.Tensor) or x.ndim != 4 or x.shape[1] != self.channels:
            given = tuple(x.shape) if isinstance(x, torch.Tensor) else type(x).__name__
            raise UsageError(
                f"frames can only be convolved over time where a stage gives maps (B, "
                f"{self.channels}, H, W), and this backbone's gives {given}; choose another, such "
                "as sinet_small or resnet18, or video_attention, which takes any"
            )
        narrow = self.reduce(x)
        clips = narrow.reshape(-1, self.frames, *narrow.shape[1:])
        added: torch.Tensor = x + self.mix(neighbours(clips))
        return added


class VideoConv21d(nn.Module):
    """A backbone with a `TemporalConv` behind each of its last stages; the mean of the frames.

    Shape: (B, in_chans, T, H, W) -> `ClipLogits`
    """

    def __init__(
        self, body: nn.Module, num_classes: int, frames: int, drop_rate: float = 0.0
    ) -> None:
        """Build the network; `body` is changed.

        Args:
            body: of `create_body`.
            num_classes: channels of the logits.
            frames: T.
            drop_rate: dropout before the classifier.

        Raises:
            UsageError: the body does not say where its stages end.
        """
        super().__init__()
        stages: Sequence[dict[str, Any]] = getattr(body, "feature_info", ())
        if not stages:
            raise UsageError(
                f"{type(body).__name__} does not say where its stages end, so nothing can be put "
                "between them; choose another backbone, or video_attention"
            )
        for stage in stages[-LAST_STAGES:]:
            _put_behind(body, stage["module"], TemporalConv(stage["num_chs"], frames))
        self.body = body
        width: Any = body.head_hidden_size
        self.drop = nn.Dropout(drop_rate)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, clips: torch.Tensor) -> ClipLogits:
        """Logits of clips, and the features of their frames."""
        features = frame_wise(self.body, clips)
        return ClipLogits(self.classifier(self.drop(features.mean(1))), features)


def _put_behind(network: nn.Module, name: str, module: nn.Module) -> None:
    """Let a module of a network be followed by another."""
    parent, _, leaf = name.rpartition(".")
    found = nn.Sequential(network.get_submodule(name), module)
    setattr(network.get_submodule(parent), leaf, found)


def frame_wise(
    network: Callable[[torch.Tensor], torch.Tensor], clips: torch.Tensor
) -> torch.Tensor:
    """What a network says of every frame: (B, C, T, H, W) -> (B, T, width).

    In an exported file T is not fixed up to here: the part of a file that ends with `features`
    also takes one frame at a time.
    """
    features = network(clips.transpose(1, 2).flatten(0, 1))
    return features.reshape(clips.shape[0], -1, features.shape[-1])


def grid(high: int, wide: int) -> torch.Tensor:
    """Weights of the mean over `GRID` x `GRID` cells of a map, (high * wide, GRID ** 2).

    The cells are those of adaptive average pooling, which ONNX has for whole ratios only.
    """
    rows, columns = (mean_cells(GRID, side) for side in (high, wide))
    return torch.from_numpy(np.kron(rows, columns).T.astype(np.float32))


@register_for("video")
def video_attention(
    backbone: str = "sinet_small",
    num_classes: int = 10,
    in_chans: int = 3,
    frames: int = 8,
    width: int = 192,
    depth: int = 2,
    drop_rate: float = 0.0,
    weights: str | None = None,
    **options: Any,
) -> VideoAttention:
    """Frames one by one, then attention over them."""
    body = create_backbone(backbone, in_chans, weights, (4, 8, STRIDE), **options)
    return VideoAttention(body, num_classes, frames, width, depth, drop_rate)


@register_for("video")
def video_conv21d(
    backbone: str = "sinet_small",
    num_classes: int = 10,
    in_chans: int = 3,
    frames: int = 8,
    drop_rate: float = 0.0,
    weights: str | None = None,
    **options: Any,
) -> VideoConv21d:
    """Convolutions over space and time in turn."""
    body = create_body(backbone, in_chans, weights, **options)
    return VideoConv21d(body, num_classes, frames, drop_rate)
