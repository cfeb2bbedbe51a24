"""Pieces that all sections are made of, and how numbers are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from cgate.host_tools.summary import KINDS

Value = Mapping[str, Any]
"""report.json, or a part of it."""

NONE = "&ndash;"  # stands where there is no figure


def percent(share: float, digits: int = 1) -> str:
    """A share for people: 0.7312 -> "73.1%"."""
    return f"{100 * share:.{digits}f}%"


def big(count: float) -> str:
    """A large count, short: 25,414,003 -> "25.41 M"."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f}"


def whole(count: float) -> str:
    """A count in full: "25,414,003"."""
    return f"{count:,.0f}"


def _digits(value: float) -> str:
    """Three digits that say something, or all before the point: "0.219", "8.97", "151.5"."""
    if value >= 100:
        return f"{value:,.1f}"
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def time_text(ms: float) -> str:
    """A duration: "151.5 ms", "219 µs", "1.25 s"."""
    if ms >= 1000:
        return f"{ms / 1000:.2f} s"
    return f"{_digits(ms)} ms" if ms >= 1 else f"{1000 * ms:.0f} µs"


def joules_text(uj: float) -> str:
    """An energy: "5.34 mJ", "900.0 µJ"."""
    return f"{_digits(uj / 1000)} mJ" if uj >= 1000 else f"{_digits(uj)} µJ"


def energy_text(found: Sequence[float]) -> str:
    """A modelled energy [value, low, high] in microjoules: "5.34 mJ (5.09 to 5.77)"."""
    size, unit = (1000, "mJ") if found[0] >= 1000 else (1, "µJ")
    value, low, high = (_digits(each / size) for each in found)
    return f"{value} {unit} <small>({low} to {high})</small>"


def kind(source: str) -> str:
    """What a cost is counted in, with where it comes from: "modelled cycles"."""
    return "MACs" if source == "macs" else KINDS[source]


def best(value: Value) -> Value | None:
    """The account that says most: cycles where they are known; None where nothing was counted."""
    accounts: Sequence[Value] = value["accounts"]
    return accounts[-1] if accounts else None


def command(words: str) -> str:
    """A command to type."""
    return f"<code>cgate {escape(words)}</code>"


def bar(name: str, share: float, value: str, quiet: bool = False) -> str:
    """A labelled horizontal bar, filled to `share` (0 to 1); `name` and `value` are HTML."""
    fill = "fill quiet" if quiet else "fill"
    return (
        f'<div class="bar"><span>{name}</span><div class="track"><div class="{fill}" '
        f'style="--x:{min(max(share, 0), 1):.4f}"></div></div><span class="v">{value}</span></div>'
    )


def table(head: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> str:
    """A table in its own scrolling box.

    Args:
        head: (title, class) per column; class "n" is a number, "pair" holds bars.
        rows: cells as HTML; the first one names the row.
    """
    titles = "".join(f'<th scope="col" class="{kind}">{title}</th>' for title, kind in head)
    label = f"Table: {len(rows)} rows, {len(head)} columns"
    body = []
    for row in rows:
        cells = [f'<th scope="row">{row[0]}</th>']
        cells += [
            f'<td class="{kind}">{cell}</td>'
            for cell, (_, kind) in zip(row[1:], head[1:], strict=True)
        ]
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table><thead>'
        f"<tr>{titles}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def section(title: str, note: str, *parts: str) -> str:
    """A card of the page; `note` and `parts` are HTML."""
    return f'<section><h2>{title}</h2><p class="note">{note}</p>{"".join(parts)}</section>'


def details(title: str, *parts: str) -> str:
    """What opens on request."""
    return f"<details><summary>{title}</summary>{''.join(parts)}</details>"


def decides(value: Value) -> bool:
    """Whether the network decides anything at run time."""
    return bool(value["gates"] or value["answers"])


def deciders(value: Value) -> str:
    """What decides in this network, in words."""
    if not value["gates"]:
        return "exits"
    return "gates and exits" if value["answers"] else "gates"
