"""Pieces that all sections are made of, and how numbers are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Value = Mapping[str, Any]
"""report.json, or a part of it."""

NONE = "&ndash;"  # stands where there is no figure


def percent(share: float) -> str:
    """A share for people: 0.7312 -> "73.1 %"."""
    return f"{100 * share:.1f} %"


def big(count: float) -> str:
    """A large count, short: 25,414,003 -> "25.41 M"."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f}"


def whole(count: float) -> str:
    """A count in full: "25,414,003"."""
    return f"{count:,.0f}"


def bar(name: str, share: float, value: str, quiet: bool = False) -> str:
    """A labelled horizontal bar, filled to `share` (0 to 1); `value` is HTML."""
    kind = "fill quiet" if quiet else "fill"
    return (
        f'<div class="bar"><span>{name}</span><div class="track"><div class="{kind}" '
        f'style="--x:{min(max(share, 0), 1):.4f}"></div></div><span class="v">{value}</span></div>'
    )


def table(head: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> str:
    """A table in its own scrolling box.

    Args:
        head: (title, class) per column; class "n" is a number, "pair" and "wrap" are layouts.
        rows: cells as HTML; the first one names the row.
    """
    titles = "".join(f'<th scope="col" class="{kind}">{title}</th>' for title, kind in head)
    body = []
    for row in rows:
        cells = [f'<th scope="row">{row[0]}</th>']
        cells += [
            f'<td class="{kind}">{cell}</td>'
            for cell, (_, kind) in zip(row[1:], head[1:], strict=True)
        ]
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{titles}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def section(title: str, note: str, *parts: str) -> str:
    """A card of the page; `note` and `parts` are HTML."""
    return f'<section><h2>{title}</h2><p class="note">{note}</p>{"".join(parts)}</section>'


def deciders(value: Value) -> str:
    """What decides in this network, in words."""
    return "gates and exits" if value["answers"] else "gates"
