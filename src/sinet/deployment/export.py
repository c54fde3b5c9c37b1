"""A trained network -> one ONNX file that needs nothing else.

`export_network` writes the bare network (that is what is quantized and timed against others);
`assemble` puts the preprocessing before it, the task's tail behind it and the names inside it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import timm
import torch
from onnx import compose, helper
from torch import nn

from sinet.compression.fuse import fuse
from sinet.data.preprocess import AnyShape, Preprocess
from sinet.deployment.graph import append_tail, preprocess_graph, shared_constants
from sinet.deployment.metadata import Metadata
from sinet.errors import SinetError
from sinet.files import atomic_path
from sinet.tasks.signatures import Signature, signature
from sinet.training.trained import Trained

OPSET = 20
"""The first opset in which GELU is one operator, so that INT8 leaves it whole, not in pieces."""

log = logging.getLogger("sinet.deployment.export")


def export_network(
    model: nn.Module,
    size: int | tuple[int, ...],
    channels: int,
    path: str | Path,
    names: Sequence[str] = ("logits",),
) -> Path:
    """Write the network alone: `input` float32 (N, C, height, width) -> `names`, batch first.

    torch's TorchScript exporter takes 0.1-1 s a network and folds BatchNorm; the newer one takes
    ten times as long and is asked only for what the first cannot express (such as HaloNet).

    Args:
        model: any network; it is copied, set to eval mode and re-parameterized.
        size: height and width of the input (or three sides), or one number for both, pixels; an
            `AnyShape` leaves both free, as the network must.
        channels: of the input.
        path: where to write.
        names: of the network's outputs.

    Raises:
        SinetError: neither exporter knows one of the network's operations.
    """
    network = fuse(model)
    sides = (size, size) if isinstance(size, int) else size
    example = torch.zeros(2, channels, *sides)
    free = _free(("input", *names)) if isinstance(size, AnyShape) else {}
    with atomic_path(path) as temporary, _quietly():
        try:
            _export_script(network, (example,), temporary, ("input",), names, free)
        except Exception as error:
            log.info("TorchScript export failed (%s); trying torch.export", type(error).__name__)
            _export_dynamo(network, example, temporary, names, bool(free))
    return Path(path)


def _free(names: Sequence[str]) -> dict[str, dict[int, str]]:
    """Batch, height and width of each of these tensors (N, C, H, W) may be any number."""
    return {name: {0: "batch", 2: f"{name}_high", 3: f"{name}_wide"} for name in names}


def _export_script(
    network: nn.Module,
    example: tuple[torch.Tensor, ...],
    path: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
    free: Mapping[str, Mapping[int, str]] | None = None,
) -> None:
    with tempfile.TemporaryDirectory() as folder:  # what is large gets files of its own
        whole = Path(folder) / "network.onnx"
        torch.onnx.export(
            network,
            example,
            str(whole),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={**{name: {0: "batch"} for name in (*inputs, *outputs)}, **(free or {})},
            opset_version=OPSET,
            dynamo=False,
        )
        onnx.save(shared_constants(onnx.load(str(whole))), str(path))


def _export_dynamo(
    network: nn.Module, example: torch.Tensor, path: Path, names: Sequence[str], free: bool
) -> None:
    sides = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC} if free else {}
    try:
        torch.onnx.export(
            network,
            (example,),
            str(path),
            input_names=["input"],
            output_names=list(names),
            dynamic_shapes=({0: torch.export.Dim("batch"), **sides},),
            opset_version=OPSET,
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    except Exception as error:
        raise SinetError(
            f"{type(network).__name__} cannot be exported to ONNX: {str(error)[:300]}; "
            "choose another model"
        ) from error


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Hide what the exporters warn about and print (below Python: whole graphs when they fail)."""
    sys.stdout.flush()
    kept = os.dup(1)
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere:
        warnings.simplefilter("ignore")
        os.dup2(nowhere.fileno(), 1)
        try:
            yield
        finally:
            sys.stdout.flush()
            os.dup2(kept, 1)
            os.close(kept)


def assemble(
    network: str | Path, preprocess: Preprocess, metadata: Metadata, out: str | Path
) -> Path:
    """Join preprocessing, network and the task's tail into one file that describes itself.

    Args:
        network: what `export_network` or `quantize_onnx` wrote.
        preprocess: how an image becomes the input.
        metadata: what the file shall say about itself; its task decides the tail.
        out: the file to write: `images` uint8 (N, H, W, C), any H and W, -> the raw outputs of the
            task's signature, then those of its tail (`logits` and `probabilities` for classes).
    """
    body, task = onnx.load(str(network)), signature(metadata)
    joined = _behind_front(body, task, preprocess) if task.input.in_graph else _renamed(body)
    append_tail(joined, _export_tail(body, task, preprocess))
    joined.producer_name, joined.producer_version = "sinet", metadata.version
    helper.set_model_props(joined, metadata.to_props())
    onnx.checker.check_model(joined, full_check=True)
    with atomic_path(out) as temporary:
        onnx.save(joined, str(temporary))
    return Path(out)


def _behind_front(
    body: onnx.ModelProto, task: Signature, preprocess: Preprocess
) -> onnx.ModelProto:
    opset = next(entry.version for entry in body.opset_import if entry.domain in ("", "ai.onnx"))
    if preprocess.fit == "table":  # no picture: its own torch module says it all
        front = _export_front(task)
    else:
        front = preprocess_graph(
            preprocess, output="pixels", opset=opset, ir_version=body.ir_version
        )
    front = compose.add_prefix(front, "preprocess/", rename_inputs=False)
    ready = [("preprocess/pixels", "input")]
    return compose.merge_models(front, body, io_map=ready, name="sinet")


def _export_front(task: Signature) -> onnx.ModelProto:
    """What comes before the network as a graph of its own: `images` -> `pixels`."""
    with tempfile.TemporaryDirectory() as folder, _quietly():
        path = Path(folder) / "front.onnx"
        blank = (task.input.blank(2),)
        _export_script(task.input.front(), blank, path, ("images",), ("pixels",))
        return onnx.load(str(path))


def _renamed(body: onnx.ModelProto) -> onnx.ModelProto:
    """The network alone, its input called as that of every file."""
    model = onnx.ModelProto()
    model.CopyFrom(body)
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name == "input":
                node.input[place] = "images"
    model.graph.input[0].name = "images"
    model.graph.name = "sinet"
    return model


def _export_tail(body: onnx.ModelProto, task: Signature, preprocess: Preprocess) -> onnx.ModelProto:
    """The task's tail as a graph of its own, from `images` and the network's outputs."""
    count, any_size = 2 if task.batched else 1, preprocess.fit == "none"
    raw = _examples(body, task.raw, count, preprocess.shape)
    images = task.input.blank(count)
    free = _free(task.raw) if any_size else {}
    free["images"] = {0: "batch", **task.input.free}
    with tempfile.TemporaryDirectory() as folder, _quietly():
        path = Path(folder) / "tail.onnx"
        inputs = ("images", *task.raw)
        _export_script(task.tail().eval(), (images, *raw), path, inputs, task.names, free)
        return onnx.load(str(path))


def _examples(
    body: onnx.ModelProto, names: Sequence[str], count: int, sides: tuple[int, ...]
) -> list[torch.Tensor]:
    """Tensors of the shapes that the network's outputs have, for an input with these sides."""
    known = {
        entry.name: [count, *(axis.dim_value for axis in entry.type.tensor_type.shape.dim[1:])]
        for entry in body.graph.output
    }
    if all(0 not in known[name] for name in names):
        return [torch.zeros(known[name]) for name in names]
    # The exporter lost track of the sizes, or they are free: run the network once to learn them.
    entry = body.graph.input[0]
    shape = [count, entry.type.tensor_type.shape.dim[1].dim_value, *sides]
    running = ort.InferenceSession(body.SerializeToString(), providers=["CPUExecutionProvider"])
    found = running.run(list(names), {entry.name: np.zeros(shape, np.float32)})
    return [torch.from_numpy(np.asarray(output)) for output in found]


def shipped(trained: Trained, network: nn.Module | None = None) -> nn.Module:
    """The network as files hold it: with the recipe's `tta` it sees the mirrored image too.

    Args:
        trained: what `train` returned.
        network: in the place of `trained.model()`, such as a smaller one made of it.
    """
    network = network or trained.model()
    return signature(trained).mirrored(network) if trained.recipe.tta else network


def describe(trained: Trained, **changes: Any) -> Metadata:
    """The metadata of a training's result; `changes` such as `precision="int8"` override."""
    spec = trained.spec
    # What was learned from published weights is under their licence; the rest is its owner's.
    cfg = timm.get_pretrained_cfg(spec.backbone) if timm.is_model(spec.backbone) else None
    published = cfg.license if cfg and spec.weights else None
    facts = Metadata(
        classes=trained.classes,
        class_ids=trained.class_ids,
        preprocess=trained.preprocess,
        model=spec.label,
        multilabel=trained.multilabel,
        task=trained.task,
        recipe=trained.recipe.to_dict(),
        licence=published or "unstated",
    )
    return facts.replace(**changes)
