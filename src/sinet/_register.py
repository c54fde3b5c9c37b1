"""Registers SiNet's models as soon as timm is imported.

timm takes about three seconds to import and `sinet --help` must answer within one, so `import
sinet` cannot import it; `import sinet, timm; timm.create_model("sinet_small")` must work all the
same. A finder on `sys.meta_path` therefore waits for timm and imports `sinet.models` after it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _ThenModels(Loader):
    """Loads timm as its own loader does, then our models."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        importlib.import_module("sinet.models")


class _WaitForTimm(MetaPathFinder):
    """Steps in for the one import of timm, then out of the way."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "timm":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenModels(spec.loader)
        return spec


def when_timm_is_imported() -> None:
    """Register our models now if timm is loaded, else when it is."""
    if "timm" in sys.modules:
        importlib.import_module("sinet.models")
    else:
        sys.meta_path.insert(0, _WaitForTimm())
