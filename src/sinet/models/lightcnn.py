"""LightCNN: two tiny branches whose predictions a small head weighs; 14,862 parameters.

"Building Efficient Lightweight CNN Models", arXiv 2501.15547. No code of the author is public and
no layer list could be read: this is a reconstruction that meets all three published counts, the
only one with the conventional widths 8, 16 and 32. One branch is

    3 x (conv 3x3 without padding, ReLU, max pooling 2), dense 24, ReLU, dense classes, softmax

and the head is dense 32, ReLU, dense classes on both branches' probabilities. Undetermined by what
is published, and chosen here: the head sees probabilities, not logits; Glorot-uniform weights and
zero biases; dropout only before the last layer.

The article first trains the branches apart, one on the images and one on altered copies
(`branch_logits`), then the whole. Both branches are one row of convolutions in two groups, which
computes the same and runs once.

Reported / parameters / multiply-adds: `lightcnn` MNIST 99 %, Fashion-MNIST 89 % / 14,862 / 0.46 M;
`lightcnn_cifar` CIFAR-10 65 % / 19,758 (published: less than 20,000) / 0.93 M.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.models import checkpoint_seq, generate_default_cfgs, register_model
from torch import nn

from sinet.errors import UsageError
from sinet.models._base import FlatNet, build, default_cfg, refuse_other_size

__all__ = ["LightCNN"]

BRANCHES = 2


def glorot_(conv: nn.Module) -> None:
    """Glorot-uniform weights, each branch counted alone, and zero biases, in place."""
    if isinstance(conv, (nn.Conv2d, nn.Linear)):
        groups = conv.groups if isinstance(conv, nn.Conv2d) else 1
        for weight in conv.weight.data.chunk(groups):
            nn.init.xavier_uniform_(weight)
        assert conv.bias is not None
        nn.init.zeros_(conv.bias)


class Twice(nn.Module):
    """`cat(x, x)`: the same image for each branch.

    Shape: (B, C, H, W) -> (B, 2 C, H, W)
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Twice the channels."""
        return x.repeat(1, BRANCHES, 1, 1)


class LightCNN(FlatNet):
    """Two branches and the head that weighs them.

    Shape: (B, in_chans, img_size, img_size) -> (B, num_classes)
    """

    def __init__(
        self,
        widths: Sequence[int] = (8, 16, 32),
        branch_width: int = 24,
        head_width: int = 32,
        branch_classes: int | None = None,
        drop_rate: float = 0.0,
        num_classes: int = 10,
        in_chans: int = 1,
        img_size: int | tuple[int, int] = 28,
        global_pool: str = "",
    ) -> None:
        """Build the network.

        Args:
            widths: channels of a branch's convolutions.
            branch_width: hidden units of a branch.
            head_width: hidden units of the head.
            branch_classes: what each branch predicts; as many as `num_classes` if None.
            drop_rate: dropout before the classifier.
            num_classes: 0 leaves the classifier out.
            in_chans: image channels.
            img_size: height and width, or one number for both, pixels; at least 22.
            global_pool: accepted because every network of timm takes it; nothing is left to pool.
        """
        super().__init__(num_classes, in_chans, drop_rate, img_size)
        self.branch_classes = branch_classes or num_classes or 10
        width, sides, stages = in_chans, self.img_size, []
        for i, out in enumerate(widths):
            conv = nn.Conv2d(BRANCHES * width, BRANCHES * out, 3, groups=BRANCHES)
            stages.append(nn.Sequential(conv, nn.ReLU(inplace=True), nn.MaxPool2d(2)))
            width, sides = out, ((sides[0] - 2) // 2, (sides[1] - 2) // 2)
            info = {"num_chs": BRANCHES * out, "reduction": 2 ** (i + 1), "module": f"stages.{i}"}
            self.feature_info.append(info)
        if min(sides) < 1:
            raise UsageError(f"img_size {img_size} leaves no map after {len(widths)} poolings")
        self.twice = Twice()
        self.stages = nn.Sequential(*stages)
        # a dense layer over the whole map is a convolution with a kernel of the map's size
        dense = nn.Conv2d(BRANCHES * width, BRANCHES * branch_width, sides, groups=BRANCHES)
        votes = BRANCHES * self.branch_classes
        self.dense = nn.Sequential(dense, nn.ReLU(inplace=True))
        self.votes = nn.Conv2d(BRANCHES * branch_width, votes, 1, groups=BRANCHES)
        self.mix = nn.Sequential(nn.Linear(votes, head_width), nn.ReLU(inplace=True))
        self.drop = nn.Dropout(drop_rate)
        self.num_features = head_width
        self.set_classifier()
        self.apply(self.start)

    def start(self, module: nn.Module) -> None:
        """Glorot-uniform weights, biases zero."""
        glorot_(module)

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer-wise learning rates: each layer of both branches is one.

        The head is the last: all of it learns first when the layers are freed one by one.
        """
        later = [(r"^dense", (1000,)), (r"^votes", (1001,))]
        return {"stem": r"^stages\.0", "blocks": [(r"^stages\.(\d+)", None), *later]}

    def _branches(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of the branches.

        Shape: (B, 2 * in_chans, H, W), one image for each branch -> (B, 2, branch_classes)
        """
        refuse_other_size(x, self.img_size)
        if self.grad_checkpointing and self.training:
            x = checkpoint_seq(self.stages, x)
        else:
            x = self.stages(x)
        votes: torch.Tensor = self.votes(self.dense(x))
        return votes.reshape(-1, BRANCHES, self.branch_classes)

    def branch_logits(self, image: torch.Tensor, altered: torch.Tensor) -> torch.Tensor:
        """Each branch's own prediction from its own copy of the image, for training them apart.

        Shape: two of (B, in_chans, H, W) -> (B, 2, branch_classes)
        """
        return self._branches(torch.cat((image, altered), 1))

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Image to the head's hidden layer, (B, num_features)."""
        votes = self._branches(self.twice(x)).softmax(-1)
        return self.mix(votes.flatten(1))  # type: ignore[no-any-return]


def convert(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights in their origin's naming -> ours; no code of the origin is public."""
    return state_dict


_VARIANTS: dict[str, dict[str, Any]] = {
    "lightcnn_test": {"widths": (4, 8, 8), "branch_width": 8, "head_width": 16},
    "lightcnn": {},
    "lightcnn_cifar": {"in_chans": 3, "img_size": 32},
}


def _cfg(variant: str) -> dict[str, Any]:
    numbers = _VARIANTS[variant]
    side = numbers.get("img_size", 28)
    return default_cfg(
        num_classes=10,
        input_size=(numbers.get("in_chans", 1), side, side),
        fixed_input_size=True,
        pool_size=None,
        crop_pct=1.0,
        first_conv="stages.0.0",
        classifier="fc",
    )


default_cfgs = generate_default_cfgs({name: _cfg(name) for name in _VARIANTS})


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build(LightCNN, variant, pretrained, 3, **{**_VARIANTS[variant], **kwargs})


@register_model  # type: ignore[untyped-decorator]
def lightcnn_test(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """For tests: 2,670 parameters."""
    return _create("lightcnn_test", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def lightcnn(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """For images of 28 x 28 x 1: 14,862 parameters."""
    return _create("lightcnn", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def lightcnn_cifar(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """For images of 32 x 32 x 3: 19,758 parameters."""
    return _create("lightcnn_cifar", pretrained, **kwargs)
