"""The decathlon's hippocampus volumes as one list, with every fifth of them held out.

    python benchmarks/make_hippocampus.py path/to/folder
    python benchmarks/fit.py hippocampus path/to/folder

The folder holds `images/` and `labels/` of NIfTI files (Medical Segmentation Decathlon, task 4, CC
BY-SA 4.0; 260 pairs in all). Files without a partner are left out. Writes dataset.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sinet.files import write_json

HELD_OUT = 5  # one of so many
LABELS = {"0": "background", "1": "anterior", "2": "posterior"}


def main(folder: Annotated[Path, typer.Argument(help="With images and labels.")]) -> None:
    """Pair, split, write."""
    both = [{p.name for p in (folder / part).glob("*.nii.gz")} for part in ("images", "labels")]
    lists: dict[str, list[dict[str, str]]] = {"training": [], "test": []}
    for i, name in enumerate(sorted(both[0] & both[1])):
        entry = {"image": f"images/{name}", "label": f"labels/{name}"}
        lists["test" if i % HELD_OUT == 0 else "training"].append(entry)
    write_json(folder / "dataset.json", {"labels": LABELS, "modality": {"0": "MRI"}, **lists})
    typer.echo(f"{len(lists['training'])} volumes to learn from, {len(lists['test'])} to test on")


if __name__ == "__main__":
    typer.run(main)
