"""Is each SiNet at least as accurate as its peer when both learn by one recipe?

    python benchmarks/sinet_proxy.py cifar10/ --model sinet_tiny --epochs 10 --images 10000

The same recipe, images, size (64 px), epochs and seeds for both. Killed and started again, it goes
on: trainings lie in runs/proxy. Writes docs/results/sinet_{tiny,...}_proxy_gain.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sinet.data import open_dataset
from sinet.errors import unknown
from sinet.measurement.proxy import equal_recipe, paired_gain, shortened
from sinet.measurement.results import record
from sinet.models.spec import ModelSpec
from sinet.training.recipe import Recipe

PEERS = {
    "sinet_tiny": "mobilenetv3_large_100",
    "sinet_small": "mobilenetv4_conv_medium",
    "sinet_base": "resnet50",
    "sinet_large": "vit_base_patch16_224",
}


def main(
    data: Annotated[Path, typer.Argument(help="CIFAR-10 as folders, or any data set.")],
    model: Annotated[list[str] | None, typer.Option(help="Of SiNet's; default: all.")] = None,
    epochs: Annotated[float, typer.Option(help="Passes over the images.")] = 10.0,
    images: Annotated[int, typer.Option(help="Training images; 0 = all.")] = 10_000,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0, 1, ...")] = 3,
    size: Annotated[int, typer.Option(help="Input height and width.")] = 64,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 128,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-3,
    work: Annotated[Path, typer.Option(help="Where trainings are kept.")] = Path("runs/proxy"),
    out: Annotated[Path | None, typer.Option(help="Default: docs/results.")] = None,
) -> None:
    """Train each pair with each seed and record the gain in points."""
    loaded = shortened(open_dataset(data), images or None)
    recipe = Recipe(epochs=epochs, batch_size=batch_size, lr=lr, label_smoothing=0.1, warmup=0.2)
    for ours in model or PEERS:
        if ours not in PEERS:
            raise unknown("model", ours, PEERS)
        peer = PEERS[ours]
        folder = work / f"{len(loaded.train)}x{epochs:g}-{batch_size}-{lr:g}"
        results = equal_recipe(
            {ours: ModelSpec(ours, size), peer: ModelSpec(peer, size)},
            loaded,
            recipe,
            folder,
            seeds=range(seeds),
            on_result=lambda name, seed, top1: print(f"{name} seed {seed}: {top1:.2f}"),
        )
        gain, low, high = paired_gain(results[ours], results[peer])
        path = record(
            f"{ours}_proxy_gain",
            gain,
            "points",
            0,
            "higher",
            seeds=range(seeds),
            spread=(low, high) if seeds > 1 else None,
            command=f"python benchmarks/sinet_proxy.py {loaded.root.name}/ --model {ours} "
            f"--epochs {epochs:g} --images {images} --batch-size {batch_size} --lr {lr:g}",
            extra={
                **results,
                "train_images": len(loaded.train),
                "val_images": len(loaded.val),
                "epochs": epochs,
                "size": size,
                "recipe": recipe.to_dict(),
            },
            out=out,
        )
        print(f"{ours} against {peer}: {gain:+.2f} points ({low:+.2f} to {high:+.2f}) -> {path}")


if __name__ == "__main__":
    typer.run(main)
