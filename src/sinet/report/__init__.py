"""The report of a run: one self-contained HTML page, and one picture for a README."""

from __future__ import annotations

from sinet.report.evidence import save_evidence as save_evidence
from sinet.report.html import render as render
from sinet.report.plots import draw_summary as draw_summary

__all__ = ["draw_summary", "render", "save_evidence"]
