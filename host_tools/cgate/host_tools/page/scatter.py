"""MACs of each unit against what they cost: where the estimate by FLOPs holds, and where not."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from cgate.host_tools.page.html import Value, best, big, kind, section
from cgate.host_tools.page.svg import across, chart, line, side, text

HEIGHT, BOTTOM = 360, 28  # pixels, of which the last are for the numbers along the axis
LANE = 0.1  # share of the width for units without MACs, which no logarithm takes
_WIDTHS = {"wide": 620, "narrow": 280}  # pixels at which words are kept from running into others
_LETTER = 6.6
_SHIFTS = (0, -9, 9, -18, 18)  # pixels up and down that words may stand beside their mark

SHAPES = {"body": "circle", "gate": "triangle", "exit": "triangle", "shortcut": "diamond"}
"""Role -> shape of the mark; all other roles are squares."""


@dataclass(frozen=True)
class _Mark:
    """Units that lie in one place: `x` is a share of the width, `y` in pixels."""

    x: float
    y: float
    role: str
    names: tuple[str, ...]
    macs: int
    cost: float

    @property
    def label(self) -> str:
        blocks = [name.rpartition(".")[0] for name in self.names]
        if len(self.names) == 1 or not all(blocks):
            return ", ".join(self.names) if len(self.names) < 3 else f"{len(self.names)} units"
        last = self.names[0].rpartition(".")[2]
        shown = ", ".join(blocks) if len(blocks) < 4 else f"{blocks[0]} … {blocks[-1]}"
        return f"{shown}: {last}"


class _Scale:
    """Logarithmic axes over all units that ran."""

    def __init__(self, units: Sequence[Value]) -> None:
        macs = [unit["macs"] for unit in units if unit["macs"]] or [1]
        costs = [max(unit["cost"]["median"], 1) for unit in units]
        self.left, self.right = _bounds(macs)
        self.low, self.high = _bounds(costs)

    def x(self, macs: float) -> float:
        if macs == 0:
            return LANE / 3
        return LANE + (1 - LANE) * math.log(macs / self.left) / math.log(self.right / self.left)

    def y(self, cost: float) -> float:
        share = math.log(max(cost, 1) / self.low) / math.log(self.high / self.low)
        return (HEIGHT - BOTTOM) * (1 - share)


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    """A range that leaves some room on both sides."""
    return min(values) / 2, max(values) * 2


def _decades(low: float, high: float) -> list[float]:
    first = math.ceil(math.log10(low))
    return [10.0**k for k in range(first, math.floor(math.log10(high)) + 1)]


def _marks(units: Sequence[Value], scale: _Scale) -> list[_Mark]:
    """One mark for units of one role whose places differ by less than its size."""
    found: dict[tuple[str, int, int], list[Value]] = {}
    for unit in units:
        x, y = scale.x(unit["macs"]), scale.y(unit["cost"]["median"])
        place = (unit["role"], round(x * _WIDTHS["wide"] / 8), round(y / 8))
        found.setdefault(place, []).append(unit)
    return [
        _Mark(
            scale.x(group[0]["macs"]),
            scale.y(group[0]["cost"]["median"]),
            role,
            tuple(unit["name"] for unit in group),
            group[0]["macs"],
            group[0]["cost"]["median"],
        )
        for (role, _, _), group in found.items()
    ]


def _shape(mark: _Mark) -> str:
    words = f"{', '.join(mark.names)}: {mark.macs:,} MACs, {big(mark.cost)}"
    note = f"<title>{escape(words)}</title>"
    shape = SHAPES.get(mark.role, "square")
    if shape == "circle":
        return (
            f'<circle class="mark body" cx="{across(mark.x)}" cy="{mark.y:.1f}" r="5.5">{note}'
            "</circle>"
        )
    # A nested picture moves by percent, which a path cannot.
    paths = {
        "triangle": "M0 -6 L6 5 L-6 5 Z",
        "diamond": "M0 -6.5 L6.5 0 L0 6.5 L-6.5 0 Z",
        "square": "M-5 -5 H5 V5 H-5 Z",
    }
    return (
        f'<svg x="{across(mark.x)}" y="{mark.y:.1f}" overflow="visible"><path class="mark '
        f'{mark.role}" d="{paths[shape]}">{note}</path></svg>'
    )


Box = tuple[float, float, float, float]


def _free(box: Box, taken: Sequence[Box], width: int) -> bool:
    inside = box[0] >= 0 and box[2] <= width and box[1] >= 0 and box[3] <= HEIGHT - BOTTOM
    return inside and not any(
        box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]
        for other in taken
    )


def _labels(marks: Sequence[_Mark], scale: _Scale, width: int, name: str) -> str:
    """Words beside the marks, wherever there is room; a mark without room keeps its tooltip.

    Args:
        width: of the chart, in pixels.
        name: class of the words, which shows them on screens of about that width only.
    """
    ticks = [scale.y(cost) for cost in _decades(scale.low, scale.high)]
    taken: list[Box] = [(0, 0, 150, 16), *((0, y - 16, 40, y) for y in ticks)]
    taken += [(m.x * width - 7, m.y - 7, m.x * width + 7, m.y + 7) for m in marks]
    parts = []
    for mark in sorted(marks, key=lambda mark: mark.y):
        length, x = _LETTER * len(mark.label), mark.x * width
        for shift, (anchor, dx) in itertools.product(_SHIFTS, (("start", 11), ("end", -11))):
            start = x + dx if anchor == "start" else x + dx - length
            box = (start, mark.y + shift - 7, start + length, mark.y + shift + 7)
            if _free(box, taken, width):
                taken.append(box)
                parts.append(text(mark.x, mark.y + shift + 4, mark.label, name, anchor, dx))
                break
    return "".join(parts)


def _axes(scale: _Scale, what: str) -> str:
    bottom = HEIGHT - BOTTOM
    parts = [line(0, bottom, 1, bottom, "axis")]
    for macs in _decades(scale.left, scale.right):
        x = scale.x(macs)
        parts.append(line(x, 0, x, bottom, "grid"))
        parts.append(text(x, bottom + 16, f"{big(macs).replace('.00', '')}", "tick", side(x)))
    for cost in _decades(scale.low, scale.high):
        y = scale.y(cost)
        parts.append(line(0, y, 1, y, "grid"))
        if y > 30:  # the title of the axis stands above
            parts.append(text(0, y - 4, big(cost).replace(".00", ""), "tick"))
    parts.append(text(0, bottom + 16, "no MACs", "tick"))
    parts.append(text(0, 12, f"{what}, when it runs", "tick strong"))
    parts.append(text(1, bottom + 27, "MACs", "tick strong", "end"))
    return "".join(parts)


def _mean_line(scale: _Scale, rate: float) -> str:
    """Where a unit would lie if all MACs cost alike: cost = rate * MACs, clipped to the chart."""
    start = max(scale.left, scale.low / rate)
    end = min(scale.right, scale.high / rate)
    if start >= end:
        return ""
    return line(scale.x(start), scale.y(rate * start), scale.x(end), scale.y(rate * end), "mean")


def scatter(value: Value) -> str:
    """The section; empty where nothing was counted."""
    account = best(value)
    if account is None:
        return ""
    what = kind(account["source"])
    units = [unit for unit in account["units"] if unit["cost"] is not None]
    scale = _Scale(units)
    rate = account["inference"]["mean"] / value["macs"]["executed"]["mean"]
    marks = _marks(units, scale)
    body = _axes(scale, what) + _mean_line(scale, rate)
    body += "".join(_shape(mark) for mark in marks)
    body += "".join(_labels(marks, scale, width, name) for name, width in _WIDTHS.items())
    costs = [unit["cost"]["median"] / unit["macs"] for unit in units if unit["macs"]]
    description = (
        f"{len(units)} units, from {min(costs):.2f} to {max(costs):.2f} {what} per MAC; "
        f"{rate:.2f} on average over an inference."
        if costs
        else "No unit has MACs."
    )
    key = "".join(
        '<span><svg class="sample" aria-hidden="true"><g transform="translate(8 8)">'
        f"{shape}</g></svg>{words}</span>"
        for shape, words in (
            ('<circle class="mark body" r="5.5"/>', "body"),
            ('<path class="mark gate" d="M0 -6 L6 5 L-6 5 Z"/>', "gate, exit"),
            ('<path class="mark shortcut" d="M0 -6.5 L6.5 0 L0 6.5 L-6.5 0 Z"/>', "shortcut"),
            ('<path class="mark stem" d="M-5 -5 H5 V5 H-5 Z"/>', "other"),
        )
    )
    return section(
        f"MACs against {what}, per unit",
        f"If MACs told the cost, all units would lie on the dashed line, the mean of an inference: "
        f"{rate:.2f} {what} per MAC. Above it MACs promise too little cost, below too much. Both "
        "axes are logarithmic.",
        f'<p class="legend">{key}</p>',
        chart("scatter", f"MACs and {what} of each unit", description, HEIGHT, body),
    )
