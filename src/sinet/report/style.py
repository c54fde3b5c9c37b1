"""Colours, type and output of every figure: matplotlib's object interface, inline SVG."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from io import StringIO
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, FAINT, GRID = "#16191d", "#6b7280", "#c3c9d1", "#e8ebef"
ACCENT, ALERT = "#0f6b5c", "#c2410c"

STYLE = {
    "svg.fonttype": "none",  # text stays text: searchable, and set in the page's own font
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "lines.solid_capstyle": "round",
}


def as_svg(name: str, draw: Callable[[], Figure]) -> str:
    """The figure as an `<svg>` element; `name` keeps its ids apart from those of other figures."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # The reader's own fonts draw the text, so what this machine's fonts lack does not matter.
        warnings.filterwarnings("ignore", r"Glyph \d+")
        text = StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        draw().savefig(text, format="svg", transparent=True, metadata=nothing)
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'id="(figure|axes|patch|text|matplotlib|ytick|xtick|line2d)[^"]*"', "", svg)
    return svg[svg.index("<svg") :]


def note(
    axes: Axes, text: str, point: tuple[Any, float], offset: tuple[float, float], **style: Any
) -> None:
    """Write `text` beside a data point, `offset` printer's points away."""
    place: dict[str, Any] = {"xytext": offset, "textcoords": "offset points"}
    axes.annotate(text, point, **place, **style)
