"""Segment volumes: `python run.py scan.nii.gz ...`; needs only onnxruntime, numpy and nibabel.

Writes `scan.labels.nii.gz` beside each volume: the label of every voxel, with the scan's affine.
"""

import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(str(Path(__file__).with_name("model.onnx")))
props = session.get_modelmeta().custom_metadata_map.items()
facts = {key.removeprefix("sinet."): json.loads(text) for key, text in props}
how = facts["preprocess"]
sides = how["sides"] if len(how["sides"]) == 3 else [*how["sides"], 1]


def resampled(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """(C, X, Y, Z) on another grid of the same extent, linear between the middles of voxels."""
    for axis, size in enumerate(shape, start=1):
        given = array.shape[axis]
        at = ((np.arange(size) + 0.5) * given / size - 0.5).clip(0, given - 1)
        low = np.floor(at).astype(int)
        share = (at - low).reshape([-1 if a == axis else 1 for a in range(4)])
        high = np.minimum(low + 1, given - 1)
        array = array.take(low, axis) * (1 - share) + array.take(high, axis) * share
    return array


def normalised(values: np.ndarray) -> np.ndarray:
    """By the numbers of the training data, or by what is not zero in the volume itself."""
    if how["low"] is not None:
        values = values.clip(how["low"], how["high"])
    for i, channel in enumerate(values):
        if how["mean"]:
            values[i] = (channel - how["mean"][i]) / how["std"][i]
        elif (there := channel != 0).any():
            known = channel[there]
            values[i] = np.where(there, (channel - known.mean()) / max(known.std(), 1e-6), 0)
    return values.astype(np.float32)


def segment(values: np.ndarray) -> np.ndarray:
    """Logits (classes, X, Y, Z): windows slide, a Gaussian weighs their answers."""
    spare = [max(0, n - given) for n, given in zip(sides, values.shape[1:], strict=True)]
    padded = np.pad(values, [(0, 0), *((s // 2, s - s // 2) for s in spare)])
    starts = []
    for given, n in zip(padded.shape[1:], sides, strict=True):
        step = n if n == given else max(1, int(n * (1 - how["overlap"])))
        count = -(-(given - n) // step) + 1
        starts.append([min(i * step, given - n) for i in range(count)])
    bells = [np.exp(-((np.arange(n) - (n - 1) / 2) ** 2) / (2 * (0.125 * n) ** 2)) for n in sides]
    weight = np.einsum("i,j,k->ijk", *bells).astype(np.float32)
    weight = np.maximum(weight, max(weight.min(), 1e-3))
    total = np.zeros((len(facts["classes"]), *padded.shape[1:]), np.float32)
    weights = np.zeros(padded.shape[1:], np.float32)
    for corner in itertools.product(*starts):
        place = tuple(slice(at, at + n) for at, n in zip(corner, sides, strict=True))
        patch = padded[(slice(None), *place)][None]
        flat = patch[..., 0] if len(how["sides"]) == 2 else patch
        logits = session.run(["logits"], {"images": np.ascontiguousarray(flat)})[0][0]
        total[(slice(None), *place)] += logits.reshape(len(total), *sides) * weight
        weights[place] += weight
    inside = tuple(slice(s // 2, s // 2 + n) for s, n in zip(spare, values.shape[1:], strict=True))
    whole: np.ndarray = (total / weights)[(slice(None), *inside)]
    return whole


for path in sys.argv[1:]:
    try:
        scan = nibabel.load(path)
        turned = nibabel.as_closest_canonical(scan)
        values = np.asarray(turned.dataobj).astype(np.float32)
        values = values[None] if values.ndim == 3 else np.moveaxis(values, -1, 0)
        own = values.shape[1:]
        zooms = np.array(turned.header.get_zooms()[:3], float)
        grid = np.round(own * zooms / (how["spacing"] or zooms)).astype(int).tolist()
        logits = resampled(segment(normalised(resampled(values, grid))), own)
        labels = np.array(facts["class_ids"])[logits.argmax(0)].astype(np.uint8)
        orient = nibabel.orientations
        back = orient.ornt_transform(orient.axcodes2ornt("RAS"), orient.io_orientation(scan.affine))
        labels = orient.apply_orientation(labels, back)
        out = Path(path).with_name(Path(path).name.split(".")[0] + ".labels.nii.gz")
        nibabel.save(nibabel.Nifti1Image(labels, scan.affine), out)
    except Exception as error:
        print(path, "error", error, sep="\t")
        continue
    for value, name in zip(facts["class_ids"], facts["classes"], strict=True):
        millilitres = (labels == value).sum() * abs(np.linalg.det(scan.affine[:3, :3])) / 1000
        print(path, name, f"{millilitres:.3f}", sep="\t")
