"""Random crops as boxes: drawn for a whole batch at once, cut by one sampling of the batch."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

ASPECT = (3 / 4, 4 / 3)  # of random resized crops, as in Inception's and everybody's since


def random_areas(
    h: Tensor,
    w: Tensor,
    scale: tuple[float | Tensor, float | Tensor],
    aspect: tuple[float, float] = ASPECT,
    generator: Generator | None = None,
) -> Tensor:
    """Boxes of random area, aspect and place.

    Args:
        h: heights of the images (N,), float.
        w: widths (N,), float.
        scale: least and greatest area, as a share of the image; (N,) if each has its own.
        aspect: least and greatest width / height; drawn evenly on the logarithmic scale.
        generator: where the random numbers come from; None = torch's own state.

    Returns:
        (N, 4) float: top, left, height, width in pixels, inside the image.
    """
    draw = torch.rand(4, len(h), generator=generator)
    area = h * w * (scale[0] + draw[0] * (scale[1] - scale[0]))
    low, high = math.log(aspect[0]), math.log(aspect[1])
    ratio = torch.exp(low + draw[1] * (high - low))
    height = torch.minimum((area / ratio).sqrt(), h)
    width = torch.minimum((area * ratio).sqrt(), w)
    return torch.stack([draw[2] * (h - height), draw[3] * (w - width), height, width], 1)


def squares(
    h: Tensor,
    w: Tensor,
    share: float,
    overhang: float | None,
    generator: Generator | None = None,
) -> Tensor:
    """Square boxes of `share` of the short side.

    Args:
        h: heights (N,), float.
        w: widths (N,), float.
        share: side of the square / short side of the image.
        overhang: how far the square may reach out of the image, as a share of its side; None puts
            it in the centre.
        generator: where the random numbers come from; None = torch's own state.

    Returns:
        (N, 4) float: top, left, height, width in pixels; whole numbers when moved at random, so
        that a shift without resizing leaves the pixels as they are.
    """
    side = torch.minimum(h, w) * share
    if overhang is None:
        return torch.stack([(h - side) / 2, (w - side) / 2, side, side], 1)
    reach = (side * overhang).floor()
    draw = torch.rand(2, len(h), generator=generator)
    # An equal chance for each of the whole positions -reach ... h - side + reach.
    top = (draw[0] * ((h - side).floor() + 2 * reach + 1)).floor() - reach
    left = (draw[1] * ((w - side).floor() + 2 * reach + 1)).floor() - reach
    return torch.stack([top, left, side, side], 1)


def random_boxes(
    kind: str,
    h: Tensor,
    w: Tensor,
    least: float,
    overhang: bool = True,
    generator: Generator | None = None,
) -> Tensor:
    """The boxes of a recipe's `crop`: `resized`, `pad` or `none`.

    Args:
        kind: `resized` (random area and aspect), `pad` (a shift of up to an eighth), `none`.
        h: heights (N,), float.
        w: widths (N,), float.
        least: smallest area that `resized` cuts, as a share of the image.
        overhang: whether `pad` may reach out of the image; if not, it moves 7/8 of the short side.
        generator: where the random numbers come from; None = torch's own state.
    """
    if kind == "resized":
        return random_areas(h, w, (least, 1.0), generator=generator)
    if kind == "pad":
        share, reach = (1.0, 0.125) if overhang else (0.875, 0.0)
        return squares(h, w, share, reach, generator)
    return squares(h, w, 1.0, None)


def cut(images: Tensor, boxes: Tensor, mirrored: Tensor, size: int) -> Tensor:
    """Crop, mirror and resize a whole batch in one bilinear sampling; outside, edges are reflected.

    Args:
        images: (N, C, H, W), any type.
        boxes: (N, 4) top, left, height, width in pixels.
        mirrored: (N,) bool.
        size: height and width of the result.

    Returns:
        float32 (N, C, size, size).
    """
    h, w = images.shape[-2:]
    x = images.float()
    shrink = min(h, w) / size
    if shrink > 1.5:  # bilinear sampling alone would alias; boxes keep their share of the image
        small = round(h * 1.25 / shrink), round(w * 1.25 / shrink)
        x = F.interpolate(x, small, mode="bilinear", antialias=True)
    top, left, height, width = boxes.to(x.device).unbind(1)
    flip = 1 - 2 * mirrored.to(x.device, torch.float32)
    zero = torch.zeros_like(top)
    # Maps the output square [-1, 1]^2 to the box, in the coordinates of grid_sample.
    rows = [
        torch.stack([width / w * flip, zero, (2 * left + width) / w - 1], 1),
        torch.stack([zero, height / h, (2 * top + height) / h - 1], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), [len(x), 1, size, size], align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
