"""The report of a run: one self-contained HTML page, and one picture for a README."""

from __future__ import annotations

from sinet.report.html import render as render
from sinet.report.plots import draw_summary as draw_summary
from sinet.report.predictions import save_predictions as save_predictions

__all__ = ["draw_summary", "render", "save_predictions"]
