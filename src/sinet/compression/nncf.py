"""NNCF's quantization after training (extra `openvino`): min-max ranges and corrected biases."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from sinet.errors import SinetError, missing_extra
from sinet.files import atomic_path


def installed() -> bool:
    """Whether NNCF can be used here."""
    return importlib.util.find_spec("nncf") is not None


def quantize_nncf(
    network: Path, out: Path, images: Sequence[npt.NDArray[np.float32]], exclude: Iterable[str] = ()
) -> Path:
    """Quantize a float ONNX network: S8 weights per channel, U8 or S8 activations, in QDQ form.

    Args:
        network: the float network.
        out: the INT8 network to write.
        images: batches (N, C, H, W) as the network takes them.
        exclude: names of nodes to leave in float.

    Raises:
        UsageError: NNCF is not installed.
        SinetError: NNCF cannot quantize this network. It wants numbers at every node, and a crop of
            regions may get none: a level of a pyramid without regions.
    """
    if not installed():
        raise missing_extra("nncf", "openvino")
    # Its import makes torch warn of a missing GPU, its work is told by progress bars.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        import nncf

        logging.getLogger("nncf").setLevel(logging.ERROR)
        model = onnx.load(str(network))
        name = model.graph.input[0].name
        try:
            quantized = nncf.quantize(
                model,
                nncf.Dataset(images, lambda batch: {name: batch}),
                subset_size=len(images),
                target_device=nncf.TargetDevice.CPU,
                # what a detector computes with boxes is no layer, and INT8 is too coarse for it
                ignored_scope=nncf.IgnoredScope(
                    names=sorted(exclude), patterns=[".*/decode/.*"], validate=False
                ),
            )
        except Exception as error:  # of nncf's own kinds, which its versions name differently
            raise SinetError(
                f"NNCF cannot quantize {network}: {str(error)[:200]}; choose another method"
            ) from error
    with atomic_path(out) as temporary:
        onnx.save(quantized, str(temporary))
    return out
