"""SiNet: from your images and your hardware to a small, fast, measured vision model.

    import sinet, timm
    model = timm.create_model("sinet_small", features_only=True)

    run = sinet.fit("photos/", budget="10ms")
    for result in sinet.Predictor(run / "model.onnx").predict(["new.jpg"]):
        print(result.label, result.score)

`import sinet` alone loads neither torch nor timm, so the command line answers at once; the models
are registered the moment timm is imported, whichever of the two comes first.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sinet import _register

if TYPE_CHECKING:
    from sinet import layers as layers
    from sinet.data import open_dataset as open_dataset
    from sinet.deployment.predictor import Predictor as Predictor
    from sinet.models.weights import load_weights as load_weights
    from sinet.road import fit as fit
    from sinet.training.recipe import Recipe as Recipe

__version__ = "0.1.0"

_LAZY = {
    "Predictor": "sinet.deployment.predictor",
    "Recipe": "sinet.training.recipe",
    "fit": "sinet.road",
    "load_weights": "sinet.models.weights",
    "open_dataset": "sinet.data",
}
__all__ = sorted([*_LAZY, "layers"])

_register.when_timm_is_imported()


def __getattr__(name: str) -> Any:
    if name == "layers":
        return importlib.import_module("sinet.layers")
    if name not in _LAZY:
        raise AttributeError(f"module 'sinet' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
