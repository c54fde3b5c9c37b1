"""What the engines that read ONNX files share: a look at the file before any engine trusts it."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from sinet.deployment.metadata import Metadata
from sinet.errors import UsageError


def find_model(path: Path, suffixes: tuple[str, ...] = (".onnx",)) -> Path:
    """The model file that `path` names: itself, or `model.onnx` of a run or ship folder.

    Raises:
        UsageError: there is no such file.
    """
    file = path / "model.onnx" if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"no such model: {file}; give an exported file or a run folder")
    if file.suffix not in suffixes:
        raise UsageError(f"{file} is not one of {', '.join(suffixes)}; give an exported file")
    return file


def read_metadata(file: Path) -> Metadata:
    """Check that an ONNX file is whole, keeps its weights inside and comes from SiNet.

    Raises:
        UsageError: it does not. Nothing in the file is executed to find out.
    """
    try:
        model = onnx.load(str(file), load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise damaged(file, error) from error
    if not model.graph.node:
        raise damaged(file, "it holds no graph")
    external = onnx.TensorProto.EXTERNAL
    if any(tensor.data_location == external for tensor in model.graph.initializer):
        raise UsageError(
            f"{file} points to data in other files, which SiNet's files never do; refused"
        )
    return Metadata.from_props({p.key: p.value for p in model.metadata_props}, file)


def damaged(file: Path, why: object) -> UsageError:
    """The error for a file that no engine can open."""
    return UsageError(f"{file} is not a whole ONNX file ({why}); copy it again or export it again")
