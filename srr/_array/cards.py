"""What a notebook shows of a result: a small table beside a small picture, as HTML without scripts or files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

Numbers = np.ndarray[Any, np.dtype[Any]]
WIDTH, HEIGHT = 240, 120
COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")
LARGEST_GRID = 40  # rows of a grid that are still drawn


def card(title: str, rows: Mapping[str, object], picture: str = "") -> str:
    """A titled table of names and values, and a picture beside it."""
    cells = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th><td style="text-align:left">{escape(str(value))}</td></tr>'
        for name, value in rows.items()
    )
    side_by_side = "display:flex;gap:0.5em 1.5em;flex-wrap:wrap;align-items:center"  # one above the other on a phone
    return f'<div><b>{escape(title)}</b><div style="{side_by_side}"><table>{cells}</table>{picture}</div></div>'


def lines(series: Mapping[str, Sequence[float] | Numbers]) -> str:
    """Curves over their index, each on its own scale, with a legend of their first and last values; as SVG."""
    drawn, legend = [], []
    for i, (name, values) in enumerate(series.items()):
        y = np.asarray(values, dtype=float)
        kept = np.flatnonzero(np.isfinite(y))
        kept = kept[np.unique(np.linspace(0, len(kept) - 1, min(len(kept), WIDTH)).astype(int))] if len(kept) else kept
        color = COLORS[i % len(COLORS)]
        if len(kept):
            low, high = float(y[kept].min()), float(y[kept].max())
            xs = 4 + (WIDTH - 8) * kept / max(len(y) - 1, 1)
            ys = HEIGHT - 4 - (HEIGHT - 8) * (y[kept] - low) / ((high - low) or 1.0)
            points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(xs, ys, strict=True))
            drawn.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.5"/>')
            name = f"{name}: {y[kept[0]]:.4g} to {y[kept[-1]]:.4g}"
        legend.append(f'<span style="color:{color}">{escape(name)}</span>')
    frame = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>'
    picture = f'<svg width="{WIDTH}" height="{HEIGHT}" role="img">{frame}{"".join(drawn)}</svg>'
    return f"<div>{picture}<br>{'<br>'.join(legend)}</div>"


def grid(values: Numbers, caption: str) -> str:
    """Numbers between 0 and 1 as gray squares, dark for 1, of the first 40 rows and columns at most; as SVG."""
    cells = np.clip(np.asarray(values, dtype=float), 0.0, 1.0)[:LARGEST_GRID, :LARGEST_GRID]
    size = HEIGHT / max(len(cells), 1)
    squares = "".join(
        f'<rect x="{j * size:.1f}" y="{i * size:.1f}" width="{size:.1f}" height="{size:.1f}" '
        f'fill="rgb({shade},{shade},{shade})"/>'
        for i, row in enumerate(cells)
        for j, shade in enumerate((255 * (1 - row)).round().astype(int))
    )
    return f'<div><svg width="{HEIGHT}" height="{HEIGHT}" role="img">{squares}</svg><br>{escape(caption)}</div>'
