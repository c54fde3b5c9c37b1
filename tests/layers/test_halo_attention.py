from __future__ import annotations

import pytest
import torch
from timm.layers.halo_attn import HaloAttn

from sinet.layers.halo_attention import HaloAttention, convert, halo_windows


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def layer(*args: object, **kwargs: object) -> HaloAttention:
    torch.manual_seed(0)
    return HaloAttention(*args, **kwargs).double()  # type: ignore[arg-type]


@pytest.mark.parametrize(("block", "halo"), [(4, 0), (4, 1), (4, 2), (2, 3), (1, 2), (3, 3)])
def test_windows_are_the_blocks_with_their_ring(block: int, halo: int) -> None:
    x = random(2, 3, 2 * block, 3 * block)
    window = block + 2 * halo
    out = halo_windows(x, block, halo)
    assert out.shape == (2, 3, 2, window, 3, window)
    padded = torch.nn.functional.pad(x, (halo,) * 4)
    for i in range(2):
        for j in range(3):
            expected = padded[..., i * block :, j * block :][..., :window, :window]
            assert out[:, :, i, :, j].equal(expected)


@pytest.mark.parametrize(
    ("block", "halo", "stride"), [(8, 3, 1), (8, 3, 2), (4, 2, 1), (6, 1, 2), (5, 2, 2), (5, 2, 1)]
)
def test_is_timms_layer(block: int, halo: int, stride: int) -> None:
    theirs = HaloAttn(
        24, 32, stride=stride, num_heads=4, dim_head=6, block_size=block, halo_size=halo
    ).double()
    ours = layer(24, 32, 4, 6, block, halo, stride)
    ours.load_state_dict(theirs.state_dict())
    # an odd block cannot be halved: attended as a whole, then averaged, if the sizes are even
    x = random(2, 24, 2 * block, 4 * block if block % 2 else 3 * block)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-12, rtol=1e-12)


def plain(attention: HaloAttention, x: torch.Tensor) -> torch.Tensor:
    """One query after the other, as the formula has it; stride 1, one image."""
    _, _, h, w = x.shape
    n, dim, b = attention.num_heads, attention.key_dim, attention.block_size
    halo, window = attention.halo_size, attention.block_size + 2 * attention.halo_size
    q = attention.q(x)[0].unflatten(0, (n, dim))
    k, v = attention.kv(x)[0].unflatten(0, (n, -1)).split([dim, attention.value_dim], dim=1)
    out = x.new_zeros(n, attention.value_dim, h, w)
    for head in range(n):
        for y in range(h):
            for z in range(w):
                top, left = y // b * b - halo, z // b * b - halo
                query, logits, values = q[head, :, y, z], [], []
                for u in range(window):
                    for t in range(window):
                        row, col = top + u, left + t
                        inside = 0 <= row < h and 0 <= col < w
                        if attention.mask and not inside:
                            continue
                        key = k[head, :, row, col] if inside else query * 0
                        place = attention.pos_embed.height_rel[u - y % b + window - 1]
                        place = place + attention.pos_embed.width_rel[t - z % b + window - 1]
                        scale = dim**-0.5 if attention.scale_position else 1.0
                        logits.append(query @ key * dim**-0.5 + query @ place * scale)
                        values.append(v[head, :, row, col] if inside else v[head, :, 0, 0] * 0)
                out[head, :, y, z] = torch.stack(logits).softmax(0) @ torch.stack(values)
    return attention.proj(out.flatten(0, 1)[None])


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("size", [(6, 3), (5, 4)])
def test_is_the_formula_at_any_size(size: tuple[int, int], mask: bool) -> None:
    attention = layer(8, 4, 2, 3, 3, 1, mask=mask, scale_position=mask, project=mask)
    x = random(1, 8, *size)
    with torch.no_grad():
        torch.testing.assert_close(attention(x), plain(attention, x), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("block", [4, 3])
def test_strides_round_up(block: int) -> None:
    attention = layer(8, 8, 2, None, block, 1, 2)
    for h, w in ((8, 8), (7, 9), (1, 5)):
        out = attention(random(1, 8, h, w))
        assert out.shape == (1, 8, -(-h // 2), -(-w // 2))
        assert out.isfinite().all()


def test_a_pixel_reaches_its_block_and_those_whose_halo_holds_it() -> None:
    attention, x = layer(8, None, 1, None, 8, 3), random(1, 8, 40, 40)
    other = x.clone()
    other[:, :, 16, 16] += 1
    changed = (attention(x) != attention(other)).any(1)[0].nonzero()
    assert changed.min(0).values.tolist() == [8, 8]
    assert changed.max(0).values.tolist() == [23, 23]


def test_only_shifts_by_whole_blocks_shift_the_output() -> None:
    attention = layer(8, None, 2, None, 4, 1)
    x = random(1, 8, 16, 16)
    x[:, :, :8] = x[:, :, -4:] = 0

    def moved(step: int) -> torch.Tensor:
        return attention(x.roll(-step, 2))[:, :, 4 - step + 4 : 12 - step]

    torch.testing.assert_close(moved(4), moved(0))
    assert (moved(2) - moved(0)).abs().max() > 1e-3


def test_masked_padding_has_no_weight() -> None:
    """A constant map stays constant only where zeros beyond the border do not count."""
    x = random(1, 8, 1, 1).expand(1, 8, 8, 8)
    for mask in (True, False):
        out = layer(8, None, 2, None, 4, 2, mask=mask)(x)
        same = torch.allclose(out, out[:, :, :1, :1].expand_as(out))
        assert same == mask


def test_keys_and_values_are_ordered_by_head() -> None:
    state = {
        "to_q.weight": torch.zeros(4, 5),
        "to_kv.weight": torch.arange(8.0)[:, None].expand(8, 5),
        "to_out.weight": torch.zeros(5, 4),
        "to_out.bias": torch.zeros(5),
        "rel_pos_emb.rel_height": torch.zeros(15, 2),
        "rel_pos_emb.rel_width": torch.zeros(15, 2),
    }
    ours = convert(state)
    # keys of head 0, values of head 0, keys of head 1, values of head 1
    assert ours["kv.weight"][:, 0, 0, 0].tolist() == [0, 1, 4, 5, 2, 3, 6, 7]
    assert convert(ours) is ours


def test_products_grow_with_the_window_and_parameters_hardly() -> None:
    counts = [sum(p.numel() for p in layer(16, None, 2, 8, 4, h).parameters()) for h in (0, 1, 3)]
    assert counts[1] - counts[0] == 4 * 1 * 2 * 8
    assert counts[2] - counts[0] == 4 * 3 * 2 * 8
