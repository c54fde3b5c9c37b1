"""Tasks: one file each, from a batch to its loss, metrics, predictions and export signature."""

from __future__ import annotations

from sinet.tasks.base import ImageTask as ImageTask
from sinet.tasks.classify import Classify as Classify
