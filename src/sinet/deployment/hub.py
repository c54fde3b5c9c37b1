"""Weights in timm's own layout, which timm and the Hugging Face hub read by themselves.

A saved folder holds `model.safetensors`, `config.json` (architecture, options, label names, input
size and normalisation), `sinet.json` (class ids and the exact preprocessing) and `README.md`.
`timm.create_model("local-dir:FOLDER", pretrained=True)` loads it; SiNet's own networks need
`import sinet` first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from timm.models import save_for_hf
from torch import nn

from sinet.deployment.export import describe
from sinet.deployment.metadata import Metadata
from sinet.errors import SinetError, UsageError
from sinet.files import read_json, write_json, write_text
from sinet.training.trained import Trained

_FACTS = "sinet.json"
_OFFLINE = (HfHubHTTPError, LocalEntryNotFoundError, ConnectionError)


def save_pretrained(trained: Trained, folder: str | Path) -> Path:
    """Write a training's result as a folder that timm can load.

    Args:
        trained: what `train` returned, or `Trained.load(folder)`.
        folder: where to write.
    """
    folder, preprocess = Path(folder), trained.preprocess
    model: Any = trained.model()  # a timm model: it knows its pretrained_cfg
    model.pretrained_cfg = {
        **model.pretrained_cfg,
        "input_size": (preprocess.channels, preprocess.size, preprocess.size),
        "mean": preprocess.mean,
        "std": preprocess.std,
        "crop_pct": preprocess.crop_pct,
        "crop_mode": "center",
        "interpolation": "bilinear",
    }
    options = {**trained.spec.kwargs, "in_chans": trained.channels}
    save_for_hf(
        model,
        str(folder),
        model_config={"label_names": trained.classes},
        model_args=options,
        safe_serialization=True,
    )
    write_json(folder / _FACTS, describe(trained).to_dict())
    write_text(folder / "README.md", _readme(trained))
    return folder


def from_pretrained(source: str | Path) -> tuple[nn.Module, Metadata]:
    """Load what `save_pretrained` or `push_to_hub` wrote.

    Args:
        source: a folder, or the name of a repository such as `me/flowers`.

    Returns:
        The network in evaluation mode, and its class names, ids and preprocessing.

    Raises:
        UsageError: neither a folder nor a repository of that kind.
    """
    folder = Path(source)
    if folder.is_dir():
        if not (folder / _FACTS).is_file():
            raise UsageError(
                f"{folder} holds no {_FACTS}, so `save_pretrained` did not write it; load timm's "
                "own folders with timm.create_model('local-dir:...', pretrained=True)"
            )
        facts, name = folder / _FACTS, f"local-dir:{folder}"
    else:
        facts, name = Path(_download(str(source))), f"hf-hub:{source}"
    model: nn.Module = timm.create_model(name, pretrained=True)
    return model.eval(), Metadata.from_dict(read_json(facts))


def push_to_hub(trained: Trained, repository: str, folder: str | Path, private: bool = True) -> str:
    """Save and upload a training's result; you must be logged in (`hf auth login`).

    Args:
        trained: what `train` returned.
        repository: `owner/name`; made if it does not exist.
        folder: where to keep the local copy.
        private: who may see it, if it is made now.

    Returns:
        The address of the upload.

    Raises:
        SinetError: no network, or no right to write there.
    """
    save_pretrained(trained, folder)
    api = HfApi(library_name="sinet")
    try:
        made = api.create_repo(repository, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=made.repo_id, folder_path=str(folder)))
    except (*_OFFLINE, HFValidationError) as error:
        raise SinetError(
            f"cannot upload to {repository}: {error}; {folder} is complete, log in with "
            "`hf auth login` and try again"
        ) from error


def _download(repository: str) -> str:
    try:
        return str(hf_hub_download(repository, _FACTS))
    except (*_OFFLINE, HFValidationError) as error:
        raise UsageError(
            f"{repository} is neither a folder nor a repository with a {_FACTS} that can be "
            f"reached now: {error}"
        ) from error


def _readme(trained: Trained) -> str:
    scores = "".join(f"- {name}: {value:.4f}\n" for name, value in trained.metrics.items())
    return (
        "---\nlibrary_name: timm\npipeline_tag: image-classification\n"
        "tags: [image-classification, timm, sinet]\n---\n\n"
        f"# {trained.spec.label}, {len(trained.classes)} classes\n\n"
        f"Trained by SiNet for {trained.epochs:g} epochs, starting from {trained.init}.\n\n"
        f"{scores}\n"
        "    import sinet, timm\n"
        '    timm.create_model("hf-hub:OWNER/NAME", pretrained=True)\n'
    )
