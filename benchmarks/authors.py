"""How long do our networks take in eager PyTorch on the CPU, against their authors' own code?

    python benchmarks/authors.py --repos repos/                 # every family, half an hour
    python benchmarks/authors.py --repos repos/ --only spartan  # one; the others' rows are kept

`repos/SLUG` is a checkout of the origin named in `PAIRS`, at the commit named there.
Both networks get the same weights, and are not timed unless they have equally many parameters and
give the same numbers. They are called in turn (A B A B ...), batch 1 and 16, in evaluation and in
the form they are trained in; a ratio is ours / theirs in one round. Writes
docs/results/eager_vs_authors.json: the worst median ratio, and why a family was not measured.
"""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from io import StringIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Annotated, Any
from unittest.mock import MagicMock

import numpy as np
import timm
import torch
import typer
from rich.progress import track
from torch import nn

from sinet.errors import UsageError, unknown
from sinet.files import read_json
from sinet.measurement.bench import default_size
from sinet.measurement.results import record, results_dir
from sinet.models import load_state
from sinet.models.convfirst import ConvFirstBlock, ConvFirstStack

THREADS, BATCHES, WARMUP, ROUNDS, TARGET = 2, (1, 16), 3, 15, 1.05
ALIKE = 1e-3
"""Largest difference of single precision outputs, relative to the largest of them."""


class BaseModule(nn.Module):
    """Stands in for mmcv's, of which FDConv's ResNet only uses the constructor."""

    def __init__(self, init_cfg: Any = None) -> None:
        super().__init__()


class Sequential(nn.Sequential):
    """Stands in for mmcv's."""

    def __init__(self, *layers: nn.Module, init_cfg: Any = None) -> None:
        super().__init__(*layers)


def build_conv_layer(cfg: dict[str, Any] | None, *args: Any, **kwargs: Any) -> nn.Module:
    """Stands in for mmcv's: FDConv with what `cfg` says, an ordinary convolution without it."""
    if cfg is None:
        return nn.Conv2d(*args, **kwargs)
    made: nn.Module = importlib.import_module("mmdet_custom.FDConv").FDConv(*args, **cfg, **kwargs)
    return made


def build_norm_layer(cfg: Any, width: int, postfix: int | str = "") -> tuple[str, nn.Module]:
    """Stands in for mmcv's."""
    return f"bn{postfix}", nn.BatchNorm2d(width)


_REGISTRY = SimpleNamespace(register_module=lambda *_: lambda kind: kind)
_BUILD = {"build_conv_layer": build_conv_layer, "build_norm_layer": build_norm_layer}
_MM: dict[str, dict[str, Any]] = {
    "mmcv.cnn": {"CONV_LAYERS": _REGISTRY, **_BUILD},
    "mmcv.runner": {"BaseModule": BaseModule, "Sequential": Sequential},
    "mmdet.models.builder": {"BACKBONES": _REGISTRY},
}
_SPIO = (
    "pandas", "spio.transform", "spio.util", "spio.kernels", "spio.compiler", "spio.src_tests",
    "spio.cuda.driver",
)  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """One network, by us and by its authors.

    Attributes:
        origin: GitHub repository and commit, or an installed package.
        module: the file of theirs to import, dotted.
        theirs: builds their network, given that module.
        ours: registered name, or what builds our network.
        options: of our registered network.
        folders: of `repos` to import from, if not SLUG.
        shape: of one input, if not the registered network's.
        missing: stand-ins for packages that are not needed to compute: module -> its contents.
    """

    origin: str
    module: str
    theirs: Callable[[Any], nn.Module]
    ours: str | Callable[..., nn.Module]
    options: dict[str, Any] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    missing: dict[str, dict[str, Any]] = field(default_factory=dict)


PAIRS = {
    "attnet": Pair("price112/Attentive-Convolution@f4f5a39", "models.AttNet",
        lambda m: m.AttNet_XXS(), "attnet_xxs"),
    "convfirst": Pair(
        "andravin/spio@6f95a0e", "scripts.profile_block",  # its blocks; it has no network
        lambda m: m.StackedBlocks(64, expansion_ratio=6, block_cls=m.ConvFirst, extra_depth=2),
        lambda: ConvFirstStack(64, extra_depth=2, expansion=6, block=ConvFirstBlock),
        shape=(64, 64, 64), missing={name: {} for name in _SPIO}),
    "convnext": Pair(
        "facebookresearch/ConvNeXt@048efce", "models.convnext_isotropic",
        lambda m: m.convnext_isotropic_small(), "convnext_isotropic_small"),
    "dcls": Pair(
        "K-H-Ismail/ConvNeXt-dcls@aad45f3 and, as dcls_layer, "
        "K-H-Ismail/Dilated-Convolution-with-Learnable-Spacings-PyTorch@83de562",
        "models.convnext_dcls", lambda m: m.convnext_dcls_tiny(), "convnext_dcls_tiny",
        folders=("dcls", "dcls_layer")),
    "fcaformer": Pair(
        "hkzhang-git/FcaFormer@7dcd8e0", "models.fcaformer", lambda m: m.fcaformer_l1(),
        "fcaformer_l1", folders=("fcaformer/image_classification",),
        # it asks for nothing but b c h w -> b (h w) c
        missing={"einops": {"rearrange": lambda x, _: x.flatten(2).transpose(1, 2)}}),
    "fdconv": Pair(
        "Linwei-Chen/FDConv@bf7a33d", "mmdet_custom.resnet",
        lambda m: m.ResNet(18, conv_cfg={"kernel_num": 64}), "fdconv_resnet18",
        {"num_classes": 0, "global_pool": ""}, ("fdconv/FDConv_detection",), missing=_MM),
    "halonet": Pair(
        "timm 1.0.31, halonet_h1; the authors published no code", "timm.models.byoanet",
        lambda m: m.halonet_h1(), "halonet_h1_paper", {"heads": (8, 8, 8, 8)}),
    "hornet": Pair(
        "raoyongming/HorNet@ac9e210", "hornet", lambda m: m.hornet_tiny_7x7(), "hornet_tiny_7x7"),
    "hornet_gf": Pair(
        "raoyongming/HorNet@ac9e210", "hornet", lambda m: m.hornet_tiny_gf(), "hornet_tiny_gf",
        folders=("hornet",)),
    "ibnnet": Pair("XingangPan/IBN-Net@d167338", "ibnnet",
        lambda m: m.resnet50_ibn_a(), "resnet50_ibn_a"),
    "inceptionv4": Pair(
        "timesler/facenet-pytorch@787da06", "models.inception_resnet_v1",
        lambda m: m.InceptionResnetV1(classify=True, num_classes=1000), "inception_resnet_v1"),
    "metamixer": Pair("ysj9909/FFNet@f3c3e4c", "models.ffnet", lambda m: m.ffnet_1(), "ffnet_1",
        missing={"timm.models._builder": {"_update_default_kwargs": lambda *_, **__: None}}),
    "nasnet": Pair(
        "Cadene/pretrained-models.pytorch@8aae3d8", "nasnet_mobile",
        lambda m: m.nasnetamobile(pretrained=None), "nasnet_mobile",
        folders=("nasnet/pretrainedmodels/models",)),
    "patnet": Pair("haiduo/PartialNet@679cfc0", "models.partialnet",
        lambda m: m.PartialNet(embed_dim=32, act_layer="GELU"), "patnet_t0",
        missing={"easydict": {"EasyDict": SimpleNamespace}}),
    "simplenet": Pair(
        "Coderx7/SimpleNet_Pytorch@4334c57", "simplenet", lambda m: m.simplenetv1_small_m1_05(),
        "simplenetv1_small_m1_05", folders=("simplenet/imagenet",)),
    "spartan": Pair(
        "henry-pay/SpaRTAN@1715a43", "model.spartan",
        lambda m: m.SpaRTAN(1000, 4, [3, 3, 12, 2], [4, 4, 2, 2], [64, 128, 256]), "spartan",
        folders=("spartan/src",), missing={"omegaconf": {"DictConfig": dict}}),
    "unireplknet": Pair("AILab-CVC/UniRepLKNet@b5677d8", "unireplknet",
        lambda m: m.unireplknet_a(), "unireplknet_a"),
}  # fmt: skip
NOT_RUN = {
    "ghostnetv2": "timm's own network, not ours",
    "fmvit": "no code was published: tany0699/FMViT holds a licence only",
    "lightcnn": "no code was published",
    "lsnet": "its aggregation exists as a Triton kernel only, which needs a CUDA device",
    "moat": "TensorFlow code: the ratio would compare frameworks, not networks",
    "snn": "notebooks under the GPL, no module to import",
}


def stand_in(name: str, contents: dict[str, Any]) -> None:
    """Make importable what is not installed; where the package is, add to it."""
    parts = name.split(".")
    for end in range(1, len(parts)):
        sys.modules.setdefault(".".join(parts[:end]), ModuleType(parts[0]))
    vars(sys.modules.setdefault(name, MagicMock())).update(contents)


def networks(slug: str, repos: Path) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """Ours, theirs with the same weights, and one input.

    Raises:
        UsageError: no checkout, or theirs has another number of parameters.
    """
    pair = PAIRS[slug]
    # ours first, for their files may register networks of the same names
    build = pair.ours if callable(pair.ours) else partial(timm.create_model, pair.ours)
    ours = build(**pair.options)
    shape = pair.shape or (3, *[default_size(str(pair.ours))] * 2)
    paths = [repos / folder for folder in pair.folders or (slug,)]
    if "@" in pair.origin and not all(path.is_dir() for path in paths):
        raise UsageError(f"no {paths[0]}; it is for {pair.origin}")
    sys.path[:0] = map(str, paths)
    for name, contents in pair.missing.items():
        stand_in(name, contents)
    with redirect_stdout(StringIO()):
        theirs = pair.theirs(importlib.import_module(pair.module))
    counts = [sum(p.numel() for p in network.parameters()) for network in (ours, theirs)]
    if counts[0] != counts[1]:
        raise UsageError(f"{slug}: {counts[0]} parameters of ours, {counts[1]} of theirs")
    load_state(ours, theirs.state_dict(), pair.origin)
    ours.eval()
    theirs.eval()  # mmdet's returns nothing
    return ours, theirs, torch.randn(1, *shape)


def difference(ours: nn.Module, theirs: nn.Module, x: torch.Tensor) -> float:
    """Largest error of our output relative to the largest of theirs."""
    a, b = ours(x), theirs(x)
    b = b[-1] if isinstance(b, (tuple, list)) else b
    return float((a - b).abs().max() / b.abs().max())


def in_turn(ours: nn.Module, theirs: nn.Module, x: torch.Tensor, seconds: float) -> dict[str, Any]:
    """Median times, the median of the rounds' ratios and its quartiles."""
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 2 * (WARMUP + ROUNDS) or time.perf_counter() - begin < seconds:
        for network in (ours, theirs):
            start = time.perf_counter()
            network(x)
            times.append(time.perf_counter() - start)
    rounds = 1e3 * np.reshape(times[2 * WARMUP :], (-1, 2))
    ratios = np.percentile(rounds[:, 0] / rounds[:, 1], [25, 50, 75]).round(4).tolist()
    mine, other = np.median(rounds, axis=0).round(3).tolist()
    row = {"ours_ms": mine, "theirs_ms": other, "ratio": ratios[1], "quartiles": ratios[::2]}
    return {**row, "rounds": len(rounds)}


def measure(slug: str, repos: Path, seconds: float) -> dict[str, Any]:
    """One family's row.

    Raises:
        UsageError: they are not the same network.
    """
    pair = PAIRS[slug]
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    logging.disable()  # DCLS says at length that it has no CUDA kernel
    ours, theirs, x = networks(slug, repos)
    with torch.inference_mode():
        error = difference(ours, theirs, x)
        if not error <= ALIKE:
            raise UsageError(f"{slug}: outputs differ by {error:.1e} of the largest")
        batches = {n: in_turn(ours, theirs, x.repeat(n, 1, 1, 1), seconds) for n in BATCHES}
    return {
        "variant": pair.ours if isinstance(pair.ours, str) else type(ours).__name__,
        "origin": pair.origin,
        "params": sum(p.numel() for p in ours.parameters()),
        "shape": list(x.shape[1:]),
        "difference": error,
        **{f"batch_{n}": times for n, times in batches.items()},
    }


def save(rows: dict[str, Any]) -> None:
    """Write what there is; the worst of all medians is the result."""
    found = [row[f"batch_{n}"] for row in rows.values() if "origin" in row for n in BATCHES]
    worst = max(found, key=lambda times: times["ratio"])
    extra = {"engine": "pytorch, eager", "families": dict(sorted(rows.items()))}
    record("eager_vs_authors", worst["ratio"], "x", TARGET, "lower", threads=THREADS,
           spread=worst["quartiles"], command="python benchmarks/authors.py --repos repos/",
           extra=extra)  # fmt: skip


def main(
    repos: Annotated[Path, typer.Option(help="Folder with a checkout for each family.")],
    only: Annotated[str, typer.Option(help="One family.")] = "",
    seconds: Annotated[float, typer.Option(help="Least time for a family and batch.")] = 10.0,
) -> None:
    """Measure and record."""
    if only and only not in PAIRS:
        raise unknown("family", only, list(PAIRS))
    path = results_dir() / "eager_vs_authors.json"
    rows: dict[str, Any] = read_json(path)["extra"]["families"] if path.is_file() else {}
    rows = {slug: row for slug, row in rows.items() if slug in PAIRS}
    rows |= {slug: {"not_run": reason} for slug, reason in NOT_RUN.items()}
    spawn = multiprocessing.get_context("spawn")
    for slug in track([only] if only else list(PAIRS), "families"):
        # a process each, for the repositories share names of modules
        with ProcessPoolExecutor(1, spawn) as pool:
            rows[slug] = pool.submit(measure, slug, repos.resolve(), seconds).result()
        save(rows)


if __name__ == "__main__":
    typer.run(main)
