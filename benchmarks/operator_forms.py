"""Which form of an operator does ONNX Runtime run fastest? LS convolution and HorNet's filter.

    python benchmarks/operator_forms.py          # about a minute

Each form is exported by itself and run on random maps of the sizes that the networks give it at
224 px, batch 1; all forms of an operator in turn in one run. The gathering of LS convolution: nine
shifted multiply-adds (ours), the neighbourhoods unfolded, and nine slices stacked and summed at
once. The global filter: products with matrices (ours) and ONNX's Fourier transform. Writes
docs/results/operator_forms.json: the least factor by which another form is slower than ours.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn
from torch.nn import functional as F

from sinet.deployment.export import export_network
from sinet.layers.gn_conv import GlobalFilter
from sinet.layers.ls_conv import SIDE, TAPS, aggregate
from sinet.measurement.latency import compare, feed, session
from sinet.measurement.results import record

OURS = "ours"
SHARE = 8
LS_MAPS = {
    "lsnet_t stage 2": (128, 14), "lsnet_t stage 3": (256, 7),
    "lsnet_b stage 1": (128, 28), "lsnet_b stage 2": (256, 14), "lsnet_b stage 3": (384, 7),
}  # fmt: skip
"""Channels and side of the maps that LS convolution works on."""
FILTER_MAPS = {
    "hornet_tiny_gf stage 3": (240, 14), "hornet_tiny_gf stage 4": (496, 7),
    "hornet_base_gf stage 3": (480, 14), "hornet_base_gf stage 4": (992, 7),
}  # fmt: skip
"""Channels and side of the maps that the global filter works on."""
Gather = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def weighed(patches: torch.Tensor, weight: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The sum of each pixel's nine neighbours, (B, C, 9, H, W) or flatter, by its own kernels."""
    batch, channels, height, width = shape
    kernels = weight.shape[1] // TAPS
    patches = patches.reshape(batch, channels // kernels, kernels, TAPS, height, width)
    weight = weight.reshape(batch, 1, kernels, TAPS, height, width)
    return (patches * weight).sum(3).flatten(1, 2)


def unfolded(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`aggregate` by PyTorch's unfold."""
    return weighed(F.unfold(x, SIDE, padding=1), weight, x.shape)


def stacked(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`aggregate` by nine slices, one product and one sum."""
    height, width = x.shape[-2:]
    padded = F.pad(x, (1, 1, 1, 1))
    shifts = [divmod(tap, SIDE) for tap in range(TAPS)]
    slices = [padded[..., u : u + height, v : v + width] for u, v in shifts]
    return weighed(torch.stack(slices, 2), weight, x.shape)


class Gathering(nn.Module):
    """A form of `aggregate` with one input: the map and its kernels, one after the other."""

    def __init__(self, gather: Gather, channels: int) -> None:
        super().__init__()
        self.gather, self.channels = gather, channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Split and gather."""
        return self.gather(x[:, : self.channels], x[:, self.channels :])


class ByFFT(GlobalFilter):
    """The filter by its definition, in exported files too."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Filter every channel over the whole map."""
        return self.by_fft(x)


def times(
    forms: dict[str, nn.Module], channels: int, side: int, seconds: float, threads: int
) -> dict[str, float]:
    """Median of each form, ms, after a check that all give the same."""
    image = torch.randn(1, channels, side, side)
    expected = forms[OURS](image)
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, form in forms.items():
            torch.testing.assert_close(form(image), expected, atol=1e-4, rtol=1e-4)
            path = export_network(form, side, channels, Path(folder) / f"{len(runs)}.onnx")
            opened = session(path, threads)
            given = feed(opened, 1, (side, side))
            runs[name] = lambda opened=opened, given=given: opened.run(None, given)
        found = compare(runs, seconds=seconds, threads=threads)
    return {name: round(latency.median_ms, 4) for name, latency in found.items()}


def main(
    seconds: Annotated[float, typer.Option(help="Time for each size.")] = 5.0,
    threads: Annotated[int, typer.Option(help="Threads of each run.")] = 1,
) -> None:
    """Measure and record."""
    torch.manual_seed(0)
    found: dict[str, dict[str, float]] = {}
    for label, (dim, side) in LS_MAPS.items():
        gathers = {OURS: aggregate, "unfolded": unfolded, "stacked": stacked}
        gathering = {name: Gathering(gather, dim) for name, gather in gathers.items()}
        width = dim + dim // SHARE * TAPS
        found[label] = times(gathering, width, side, seconds, threads)
    for label, (dim, side) in FILTER_MAPS.items():
        ours, other = (kind(dim, (side, side // 2 + 1)).eval() for kind in (GlobalFilter, ByFFT))
        other.load_state_dict(ours.state_dict())
        forms = {OURS: ours, "fourier transform": other}
        found[label] = times(forms, dim, side, seconds, threads)
    factors = [ms / of[OURS] for of in found.values() for name, ms in of.items() if name != OURS]
    print(record("operator_forms", min(factors), "x the time of our form, another at best", 1,
                 threads=threads, extra={"ms": found}))  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
