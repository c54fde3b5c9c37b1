"""Tasks: one file each for how a network learns it, one in `signatures` for what its file gives."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sinet.errors import unknown
from sinet.tasks.signatures import list_tasks as list_tasks

if TYPE_CHECKING:
    from sinet.tasks.base import ImageTask


def learner(task: str) -> type[ImageTask]:
    """The training side of a task, by its name.

    Raises:
        UsageError: no such task; the nearest name is offered.
    """
    if task not in list_tasks():
        raise unknown("task", task, list_tasks())
    module: Any = importlib.import_module(f"{__name__}.{task}")
    found: type[ImageTask] = module.LEARNER
    return found
