"""What an exported file gives for each task, and how good that is. One file a task, found by name.

Nothing here needs the training side (Lightning, metrics), so whoever runs a file does not load it.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from sinet.errors import unknown
from sinet.tasks.signatures.base import Described as Described
from sinet.tasks.signatures.base import Facts as Facts
from sinet.tasks.signatures.base import Result as Result
from sinet.tasks.signatures.base import Scorer as Scorer
from sinet.tasks.signatures.base import Signature as Signature


def list_tasks() -> list[str]:
    """Names of the tasks, in alphabetical order."""
    found = (m.name for m in pkgutil.iter_modules(__path__))
    return sorted(name for name in found if name != "base" and not name.startswith("_"))


def signature(facts: Facts) -> Signature:
    """What a file of these facts gives.

    Raises:
        UsageError: a task that this version does not know.
    """
    if facts.task not in list_tasks():
        raise unknown("task", facts.task, list_tasks())
    module: Any = importlib.import_module(f"{__name__}.{facts.task}")
    made: Signature = module.SIGNATURE(facts)
    return made
