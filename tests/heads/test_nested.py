"""UNet++'s grid as a neck; what every neck must do is in test_necks.py."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from heads.necks import WIDTH, create, maps


def test_nodes_hear_all_before_them_and_the_next_coarser_one() -> None:
    neck = create("unetpp")
    given = maps(13, 19)
    with torch.inference_mode():
        a, b, c = (conv(x) for conv, x in zip(neck.lateral, given, strict=True))
        (h01, h11), (h02,) = neck.columns

        def up(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
            return F.interpolate(x, like.shape[2:], mode="bilinear")

        x01 = h01(torch.cat([a, up(b, a)], 1))
        x11 = h11(torch.cat([b, up(c, b)], 1))
        x02 = h02(torch.cat([a, x01, up(x11, a)], 1))
        for one, other in zip(neck(given), (x02, x11, c), strict=True):
            torch.testing.assert_close(one, other)


def test_more_levels_than_maps() -> None:
    with torch.inference_mode():
        found = create("unetpp", num_outs=5)(maps(16, 16))
    assert [x.shape for x in found[2:]] == [(2, WIDTH, n, n) for n in (4, 2, 1)]
    assert torch.equal(found[3], found[2][..., ::2, ::2])
