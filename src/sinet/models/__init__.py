"""Model families, each in one file; importing this package registers them with timm."""

from __future__ import annotations

import importlib
import pkgutil

from sinet.models._networks import create_network as create_network
from sinet.models._networks import list_networks as list_networks
from sinet.models.spec import ModelSpec as ModelSpec
from sinet.models.weights import LoadReport as LoadReport
from sinet.models.weights import find_pretrained as find_pretrained
from sinet.models.weights import load_state as load_state
from sinet.models.weights import load_weights as load_weights
from sinet.models.weights import pretrained_stats as pretrained_stats

_HELPERS = {"spec", "weights"}

for _module in pkgutil.iter_modules(__path__):
    if _module.name not in _HELPERS and not _module.name.startswith("_"):
        importlib.import_module(f"{__name__}.{_module.name}")
