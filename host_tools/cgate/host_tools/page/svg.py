"""Charts that fit any width without a script.

Across, places are shares of the width (percent, which SVG takes as a length); down, they are
pixels. So marks and letters keep their size on a phone, and only the distances shrink.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape


def across(share: float) -> str:
    """A place or a length as a share of the width: 0.25 -> "25.00%"."""
    return f"{100 * share:.2f}%"


def rect(x: float, y: float, width: float, height: float, kind: str = "", title: str = "") -> str:
    """A rectangle; `x` and `width` are shares of the width, the others pixels."""
    note = f"<title>{escape(title)}</title>" if title else ""
    return (
        f'<rect class="{kind}" x="{across(x)}" y="{y:.1f}" width="{across(width)}" '
        f'height="{height:.1f}">{note}</rect>'
    )


def line(x1: float, y1: float, x2: float, y2: float, kind: str = "") -> str:
    """A straight line."""
    return f'<line class="{kind}" x1="{across(x1)}" y1="{y1:.1f}" x2="{across(x2)}" y2="{y2:.1f}"/>'


def text(
    x: float, y: float, words: str, kind: str = "", anchor: str = "start", dx: float = 0
) -> str:
    """Words; `anchor` is start, middle or end, `dx` moves them by pixels."""
    return (
        f'<text class="{kind}" x="{across(x)}" y="{y:.1f}" dx="{dx:g}" '
        f'text-anchor="{anchor}">{escape(words)}</text>'
    )


def side(x: float) -> str:
    """The anchor that keeps words inside of the chart."""
    return "start" if x < 0.12 else "end" if x > 0.88 else "middle"


def chart(name: str, title: str, description: str, height: float, body: str) -> str:
    """The picture.

    Args:
        name: of the chart, unique in the page.
        title, description: what it shows, in words, for those who do not see it.
        height: in pixels.
        body: what is drawn.
    """
    return (
        f'<svg class="chart" role="img" aria-labelledby="{name}-title {name}-text" '
        f'style="height:{height:g}px"><title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-text">{escape(description)}</desc>{body}</svg>'
    )


def ticks(high: float, count: int = 5) -> list[float]:
    """About `count` round numbers from 0 up to `high`."""
    step = 10 ** math.floor(math.log10(high / count))
    step *= next(k for k in (1, 2, 5, 10) if high / (k * step) <= count)
    return [i * step for i in range(math.floor(high / step + 1e-9) + 1)]


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """Words to marks, below or above a chart: (class of the swatch, words)."""
    items = "".join(f'<span><i class="swatch {kind}"></i>{words}</span>' for kind, words in entries)
    return f'<p class="legend">{items}</p>'
