"""What each block's gate saves, by MACs and as it was counted: for the page, and as a file."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from cgate.host_tools.page.html import (
    NONE,
    Value,
    best,
    command,
    deciders,
    kind,
    percent,
    section,
    table,
)
from cgate.host_tools.page.svg import chart, legend, line, rect, text

ROW = 40  # pixels per block: a line of words, two bars
_BAR = 8
_TOTAL = 20  # pixels for the total

_WIDTH, _HEAD, _EDGE = 720, 84, 24

_STYLE = """
svg { --page: #ffffff; --text: #1d2126; --soft: #5d656e; --line: #c9cdd2; --quiet: #8b939b;
  --accent: #0d7377; background: var(--page); }
@media (prefers-color-scheme: dark) { svg { --page: #0d1117; --text: #e4e7ea; --soft: #9aa3ad;
  --line: #39414a; --quiet: #7b858f; --accent: #4db6ac; } }
text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif;
  fill: var(--text); }
.head { font-size: 16px; font-weight: 600; } .soft { fill: var(--soft); }
.name { font-weight: 600; }
.macs { fill: none; stroke: var(--quiet); stroke-width: 1.2; } .cost { fill: var(--accent); }
.zero { stroke: var(--line); }
"""


def _rows(found: Value) -> list[tuple[str, str, float, float]]:
    """Name, a note, and what is saved by MACs and by the cost, from the first block to the total.

    The gates' own cost is taken off, so a gate that never skips has a saving below 0.
    """
    rows = []
    for row in found["blocks"]:
        note = "never reached" if row["open"] is None else f"open {percent(row['open'], 0)}"
        rows.append((row["block"], note, row["macs"]["saved"], row["cost"]["saved"]))
    for name in ("exits", "total"):
        if found[name] is not None:
            rows.append((name, "", found[name]["macs"], found[name]["cost"]))
    return rows


def _share(value: float) -> str:
    """A share that may be a little below 0, without "-0.0"."""
    return percent(value if abs(value) >= 0.0005 else 0.0).replace("-", "\N{MINUS SIGN}")


def _bars(found: Value) -> tuple[str, int]:
    """The bars, and their height in pixels.

    The total is told in numbers: a bar of it would leave those of thirty blocks no length.
    """
    rows = _rows(found)
    values = [value for row in rows[:-1] for value in row[2:]]
    low, high = min([0.0, *values]), max([0.01, *values])

    def place(value: float) -> float:
        return (value - low) / (high - low)

    parts = []
    for i, (name, note, macs, cost) in enumerate(rows):
        y = i * ROW
        parts.append(text(0, y + 13, name, "name"))
        if note:
            parts.append(text(0, y + 13, note, "soft", dx=7.6 * len(name) + 8))
        total = i == len(rows) - 1
        words = f"{_share(macs)} / {_share(cost)}"
        parts.append(text(1, y + 13, words, "name" if total else "", "end"))
        if total:
            break
        for value, kind_, top in ((macs, "macs", 19), (cost, "cost", 19 + _BAR + 2)):
            start, end = sorted((place(0), place(value)))
            parts.append(rect(start, y + top, max(end - start, 0.002), _BAR, kind_))
        parts.append(line(place(0), y + 17, place(0), y + 39, "zero"))
    height = (len(rows) - 1) * ROW + _TOTAL
    return "".join(parts), height


def _describe(found: Value) -> str:
    what = kind(found["source"])
    return "; ".join(
        f"{name}: {_share(macs)} of the MACs, {_share(cost)} of the {what}"
        for name, _, macs, cost in _rows(found)
    )


def savings(value: Value) -> str:
    """The section; without a run with all gates open it says how to get one."""
    account = best(value)
    title = f"What {deciders(value)} save" if value["answers"] else "What each gate saves"
    if account is None or account["savings"] is None:
        return section(
            title,
            f"Needs counted runs, one of them with all gates open: {command('measure BUNDLE')}.",
        )
    found, what = account["savings"], kind(account["source"])
    body, height = _bars(found)
    head = [("block", ""), ("open", "n"), ("skipped MACs", "n"), ("gate's MACs", "n")]
    head += [(f"skipped {what}", "n"), ("gate's", "n"), ("MACs mislead by", "n")]
    rows = [
        [
            escape(row["block"]),
            NONE if row["open"] is None else percent(row["open"]),
            *(
                percent(row[key][part], 2)
                for key in ("macs", "cost")
                for part in ("skipped", "gate")
            ),
            f"{100 * (row['macs']['saved'] - row['cost']['saved']):+.2f} points",
        ]
        for row in found["blocks"]
    ]
    return section(
        title,
        "As shares of the network without gates and exits, less what deciding costs. Where the two "
        "bars differ, counting MACs (or FLOPs) misjudges what the block is worth.",
        legend([("hollow", "by MACs"), ("", f"by {what}, {deciders(value)} included")]),
        chart("savings", f"Saved per block, by MACs and by {what}", _describe(found), height, body),
        table(head, rows) if rows else "",
    )


def savings_svg(measurement: Mapping[str, Any]) -> str:
    """The chart as a file of its own, light and dark; a pure function of measure.json.

    Args:
        measurement: its content.
    """
    account = measurement["accounts"][-1]
    found, what = account["savings"], kind(account["source"])
    body, height = _bars(found)
    bottom = _HEAD + height + _EDGE
    words = (
        f"{measurement['network']} on {measurement['target']}, {measurement['images']:,} "
        f"{measurement['split']} images of {measurement['data']}"
    )
    inner = _WIDTH - 2 * _EDGE
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{bottom}" role="img" '
        f'viewBox="0 0 {_WIDTH} {bottom}" aria-labelledby="title text">'
        f'<title id="title">{what.capitalize()} saved against MACs saved, per block</title>'
        f'<desc id="text">{escape(_describe(found))}</desc><style>{_STYLE}</style>\n'
        f'<text class="head" x="{_EDGE}" y="30">{what.capitalize()} saved against MACs saved, per '
        f'block</text>\n<text class="soft" x="{_EDGE}" y="50">{escape(words)}</text>\n'
        f'<rect class="macs" x="{_EDGE}" y="62" width="12" height="8"/>'
        f'<text class="soft" x="{_EDGE + 18}" y="71">by MACs</text>'
        f'<rect class="cost" x="{_EDGE + 90}" y="62" width="12" height="8"/>'
        f'<text class="soft" x="{_EDGE + 108}" y="71">by {what}, {deciders(measurement)} included'
        "</text>\n"
        f'<svg x="{_EDGE}" y="{_HEAD}" width="{inner}" height="{height}">\n'
        + body.replace("><", ">\n<")
        + "\n</svg></svg>\n"
    )
