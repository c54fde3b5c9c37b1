"""Training-time branches folded into single kernels.

What is left, a BatchNorm behind a convolution, is folded by the ONNX exporter itself (a test
holds it to that), and where BatchNorm stands before the convolution no exact fold exists because
of the zero padding. So re-parameterization is all there is to do here.
"""

from __future__ import annotations

import copy

from timm.utils import reparameterize_model
from torch import nn


def fuse(model: nn.Module) -> nn.Module:
    """A copy of `model` for inference: eval mode, on the CPU, in float32, branches merged.

    Args:
        model: any network that timm can build; those with `reparameterize()` or `fuse()` blocks
            (RepVGG, MobileOne, RepViT, LeViT, SiNet ...) lose their parallel branches.

    Returns:
        A new module whose outputs equal those of `model.eval()` to rounding (1e-5).
    """
    inference = copy.deepcopy(model).cpu().float().eval()
    merged: nn.Module = reparameterize_model(inference, inplace=True)
    return merged.eval()
