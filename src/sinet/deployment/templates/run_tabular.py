"""Classify rows: `python run.py new.csv ...`; needs only onnxruntime and numpy.

The CSV (UTF-8, commas, semicolons or tabs) has the columns of training by their names.
"""

import contextlib
import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(str(Path(__file__).with_name("model.onnx")))
props = session.get_modelmeta().custom_metadata_map.items()
facts = {key.removeprefix("sinet."): json.loads(text) for key, text in props}
columns = facts["preprocess"]["columns"]
EMPTY = {"", "?", "na", "n/a", "nan", "null", "none", "<null>"}


def code(cell: str, column: dict[str, Any]) -> float:
    """A number, the place of a category (-1: not known), NaN for an empty cell."""
    cell = cell.strip()
    if cell.lower() in EMPTY:
        return float("nan")
    if not column["categories"]:
        return value if abs(value := float(cell)) < 1e38 else float("nan")
    with contextlib.suppress(ValueError):  # 1.0 is 1
        cell = str(int(value)) if (value := float(cell)).is_integer() else cell
    return column["categories"].index(cell) if cell in column["categories"] else -1.0


def read(path: str) -> np.ndarray:
    """Rows float32 (N, columns)."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        file.seek(0)
        lines = csv.DictReader(file, delimiter=max(",\t;", key=first.count), skipinitialspace=True)
        lines.fieldnames = [name.strip() for name in lines.fieldnames or ()]
        return np.array([[code(row[c["name"]], c) for c in columns] for row in lines], np.float32)


for path in sys.argv[1:]:
    try:
        scores = session.run(["probabilities"], {"images": read(path)})[0]
    except Exception as error:
        print(path, "error", repr(error), sep="\t")
        continue
    for number, row in enumerate(scores, 1):
        best = row.argmax()
        print(path, number, facts["classes"][best], facts["class_ids"][best], f"{row[best]:.4f}",
              sep="\t")  # fmt: skip
