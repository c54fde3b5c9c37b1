"""Volumes to learn grey and white matter from: blocks of the MNI152 template that nilearn brings.

    python benchmarks/make_mni152.py path/to/mni152
    sinet fit path/to/mni152/dataset.json --task volume --model swin_unetr_small --minutes 30

The averaged brain at 1 mm is cut into blocks of 64 x 64 x 64 voxels, those with less than a tenth
of brain left out. One block in four is held out to test on and one in eight to choose by, evenly
over the brain; no voxel is in two blocks. It is one brain: what is measured is whether tissue is
told apart in parts of it that training did not see, not how well that carries over to other people.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Annotated

import nibabel
import nilearn
import numpy as np
import typer

from sinet.files import write_json

SIDE = 64
LEAST = 0.1  # share of a block that is grey or white matter
NAMES = {"0": "background", "1": "grey matter", "2": "white matter"}
TEMPLATE = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"


def main(out: Annotated[Path, typer.Argument(help="Folder to write.")]) -> None:
    """Cut the blocks and list them."""
    folder = Path(nilearn.__file__).parent / "datasets" / "data"
    images = {kind: nibabel.load(folder / TEMPLATE.format(kind)) for kind in ("t1", "gm", "wm")}
    t1, grey, white = (np.asarray(images[kind].dataobj, np.float32) for kind in images)
    half = max(grey.max(), white.max()) / 2
    label = np.where(np.maximum(grey, white) < half, 0, np.where(grey >= white, 1, 2))
    lists: dict[str, list[dict[str, str]]] = {"training": [], "validation": [], "test": []}
    count = 0
    for corner in product(*(range(0, side - SIDE // 2, SIDE) for side in t1.shape)):
        place = tuple(slice(at, at + SIDE) for at in corner)
        if (label[place] > 0).mean() < LEAST:
            continue
        affine = images["t1"].affine.copy()
        affine[:3, 3] += affine[:3, :3] @ corner
        split = {0: "test", 4: "test", 2: "validation"}.get(count % 8, "training")
        entry = {kind: f"{kind}s/block{count:03}.nii.gz" for kind in ("image", "label")}
        for array, name in ((t1, entry["image"]), (label.astype(np.uint8), entry["label"])):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array[place], affine), out / name)
        lists[split].append(entry)
        count += 1
    write_json(out / "dataset.json", {"labels": NAMES, "modality": {"0": "T1"}, **lists})
    sizes = ", ".join(f"{len(entries)} {name}" for name, entries in lists.items())
    typer.echo(f"{count} blocks of {SIDE} voxels a side: {sizes}; {out / 'dataset.json'}")


if __name__ == "__main__":
    typer.run(main)
