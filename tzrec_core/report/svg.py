"""Figures as SVG inside a page: small, and in the colours of the page, light or dark."""

import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Each stands for a colour that the page defines; figures are drawn once for light and dark.
INK, MUTED, GRID = "#010101", "#020202", "#030303"
MODEL, OTHER, LIMIT = "#040404", "#050505", "#060606"
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    MODEL: "model",
    OTHER: "other",
    LIMIT: "limit",
}
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.formatter.useoffset": False,
    "axes.unicode_minus": True,
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "legend.handlelength": 1.3,
    "lines.linewidth": 1.6,
    "patch.linewidth": 0,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.major.pad": 4.5,
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "xtick.labelcolor": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "ytick.labelcolor": MUTED,
    "ytick.labelsize": 8.5,
}


def draw(paint: Callable[[Axes], None], *, name: str, label: str, height: float = 2.6) -> str:
    """Returns a figure, as wide as a phone, as an ``<svg>`` element.

    Args:
        paint: Draws on the axes.
        name: Different for each figure of a page: ids begin with it.
        label: What the figure shows, for those who cannot see it.
        height: In inches, of which a figure is 4.1 wide.
    """
    name = re.sub(r"[^\w-]", "-", name)
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}):
        figure = Figure(figsize=(4.1, height), layout="constrained")
        paint(figure.add_subplot())
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return _embedded(buffer.getvalue(), name, label)


def _embedded(text: str, name: str, label: str) -> str:
    text = text[text.index("<svg") :]
    of_document = r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->"
    text = re.sub(of_document, "", text, flags=re.DOTALL)
    text = re.sub(r"<[^>]*>", lambda tag: _short(tag[0], name), text)
    text = re.sub(r"\s*\n\s*", " ", text)
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    label = label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    body = text[text.index(">") + 1 :].strip()
    return f'<svg {box[0]} role="img" aria-label="{label}">{body}'


def _short(tag: str, name: str) -> str:
    """Returns a tag with the page's colours and font, ids of its own, and short numbers."""
    tag = re.sub(r'<g id="[^"]*"', "<g", tag)
    tag = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", tag).replace("xlink:", "")
    # A tenth of a point is less than a pixel.
    tag = re.sub(r"(\d+\.\d)\d+", r"\1", tag)
    tag = re.sub(r"(\d)\.0(?=[^\d.])", r"\1", tag)
    tag = re.sub(r"'DejaVu Sans'(, *('[^']*'|[a-z-]+))*", "var(--font)", tag)
    for stand_in, variable in _VARIABLES.items():
        tag = tag.replace(stand_in, f"var(--{variable})")
    return tag
