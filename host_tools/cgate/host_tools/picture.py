"""A network and its gates as an SVG picture: what always runs, what may be skipped, at what cost.

The stream runs down the middle. To its right stand the bodies, each below the gate that it waits
for; to its left the exits. A bar under a unit is its share of the costliest unit's MACs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from cgate.core.imported import ImportedNetwork
from cgate.core.plan import Bundle, Decision, Margin, Plan, Unit, Weights
from cgate.host_tools.inspection import op_title, shape_text, variant

BOX = 250  # width of a unit's box, in SVG units (pixels at 100 %)
SPACE = 70  # between columns: room for what a line says
LINE, HEADER, FOOTER = 17, 26, 12  # heights within a box
GAP = 34  # between what stands below each other
LANE = 12  # between lines that pass by on the left of a chain
MARGIN, TITLE = 24, 58

STYLE = """
svg { --page: #ffffff; --box: #f7f6f3; --text: #1d2126; --soft: #5d656e; --line: #a9afb6;
  --track: #e2e0da; --accent: #0d7377; --cut: #b3541e; background: var(--page); }
@media (prefers-color-scheme: dark) { svg { --page: #131619; --box: #1b1f24; --text: #e4e7ea;
  --soft: #9aa3ad; --line: #5f6974; --track: #282e34; --accent: #4db6ac; --cut: #e8955f; } }
text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif;
  fill: var(--text); }
.title { font-size: 17px; font-weight: 600; }
.name { font-weight: 600; }
.soft { fill: var(--soft); }
.end { text-anchor: end; }
.middle { text-anchor: middle; }
rect.unit { fill: var(--box); stroke: var(--line); }
rect.gate { stroke: var(--accent); stroke-width: 1.5; }
rect.conditional { stroke-dasharray: 5 3; }
rect.exit { stroke: var(--cut); stroke-width: 1.5; }
rect.track { fill: var(--track); }
rect.share { fill: var(--accent); }
path { fill: none; stroke: var(--line); stroke-width: 1.5; }
path.control { stroke: var(--accent); stroke-dasharray: 4 3; }
path.leave { stroke: var(--cut); }
circle { fill: var(--page); stroke: var(--line); stroke-width: 1.5; }
marker path { fill: var(--line); stroke: none; }
"""


@dataclass(frozen=True)
class _Box:
    """A unit and its place."""

    x: float
    y: float
    unit: Unit

    @property
    def height(self) -> float:
        return HEADER + LINE * len(self.unit.ops) + FOOTER

    @property
    def bottom(self) -> float:
        return self.y + self.height

    @property
    def middle(self) -> float:
        return self.x + BOX / 2


class _Picture:
    def __init__(self, plan: Plan, weights: Weights) -> None:
        self.plan = plan
        self.weights = weights
        self.largest = max(1, *(unit.macs for unit in plan.units))
        # An imported network: a unit per operator, which may read what any earlier one left.
        self.layered = isinstance(plan.network, ImportedNetwork)
        self.parts: list[str] = []
        self.lanes: list[float] = []  # where the lowest line of each lane ends
        widest = self._count_lanes()
        exits = bool(plan.exits)
        self.left = MARGIN
        # Lines that pass by need room of their own on the left, and so do exits.
        self.center = MARGIN + (BOX + SPACE if exits else widest * LANE + (LANE if widest else 0))
        sides = any(unit.role in ("gate", "body") for unit in plan.units)
        self.right = self.center + BOX + SPACE
        self.width = self.center + BOX + (SPACE + BOX if sides else 0) + MARGIN
        self.stream = self.center + BOX / 2
        self.y: float = TITLE + 18

    def text(self, x: float, y: float, words: str, kind: str = "") -> None:
        self.parts.append(f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(words)}</text>')

    def path(
        self, points: Sequence[tuple[float, float]], kind: str = "", arrow: bool = True
    ) -> None:
        steps = " L".join(f"{x:g} {y:g}" for x, y in points)
        end = ' marker-end="url(#arrow)"' if arrow else ""
        self.parts.append(f'<path class="{kind}" d="M{steps}"{end}/>')

    def box(self, box: _Box) -> _Box:
        """Draw a unit: name and cost, a line per op, its bar."""
        unit, right = box.unit, box.x + BOX
        kind = {"gate": " gate", "exit": " exit"}.get(unit.role, "")
        kind += " conditional" if unit.condition is not None else ""
        self.parts.append(
            f'<rect class="unit{kind}" x="{box.x:g}" y="{box.y:g}" width="{BOX}" '
            f'height="{box.height:g}" rx="6"/>'
        )
        self.text(box.x + 10, box.y + 18, unit.name, "name")
        self.text(right - 10, box.y + 18, f"{unit.macs:,} MAC", "soft end")
        for i, op in enumerate(unit.ops):
            y = box.y + HEADER + LINE * i + 12
            self.text(box.x + 10, y, op_title(op, self.weights))
            self.text(right - 10, y, variant(op), "soft end")
        y, width = box.bottom - 9, BOX - 20
        for name, share in (("track", 1.0), ("share", unit.macs / self.largest)):
            self.parts.append(
                f'<rect class="{name}" x="{box.x + 10:g}" y="{y:g}" width="{width * share:.1f}" '
                'height="3"/>'
            )
        return box

    def end(self, name: str, words: str) -> None:
        """The network's input or output, on the stream."""
        shape = self.plan.tensor(name).shape
        self.text(self.stream, self.y, f"{words} {shape_text(shape)}", "soft middle")

    def down(self, to: float) -> None:
        """The stream from where the picture has got to, down to `to`."""
        self.path([(self.stream, self.y), (self.stream, to)])

    def shape(self, name: str) -> None:
        """Beside the stream: the shape of what it carries now."""
        words = shape_text(self.plan.tensor(name).shape)
        self.text(self.stream + 8, self.y + GAP / 2 + 4, words, "soft")

    def _count_lanes(self) -> int:
        """How many lines pass by at most, before anything is drawn."""
        rows = {unit.output: i for i, unit in enumerate(self.plan.units)}
        spans = [
            (rows[name], i)
            for i, unit in enumerate(self.plan.units)
            for name in unit.inputs
            if self.layered and rows.get(name, i - 1) != i - 1
        ]
        return max((sum(a < end <= b for a, b in spans) for _, end in spans), default=0)

    def chain(self, unit: Unit, made: dict[str, _Box]) -> None:
        """A unit on the stream, with the lines that reach it from earlier ones."""
        box = _Box(self.center, self.y + GAP, unit)
        before = self.plan.units[unit.index - 1] if unit.index else None
        if before is None or not self.layered or before.output in unit.inputs:
            self.down(box.y)
        else:
            self.path([(self.stream, self.y), (self.stream, self.y + 8)], arrow=False)
        near = () if before is None else (before.output, self.plan.input)
        for i, name in enumerate(unit.inputs if self.layered else ()):
            if name in near or name not in made:
                continue
            start, end = made[name].bottom + GAP / 4, box.y + 12 + 8 * i
            lane = next((k for k, low in enumerate(self.lanes) if low <= start), len(self.lanes))
            self.lanes[lane : lane + 1] = [end]
            x = self.center - LANE * (lane + 1)
            self.path([(self.stream, start), (x, start), (x, end), (self.center, end)])
        made[unit.output] = self.box(box)
        self.y = box.bottom
        self.shape(unit.output)

    def exit(self, unit: Unit) -> None:
        """A unit that may end the inference: beside the stream, which goes on."""
        box = self.box(_Box(self.left, self.y + GAP, unit))
        y = box.y + 18
        self.path([(self.stream, y), (box.x + BOX, y)])
        cut = next(op.value for op in unit.ops if isinstance(op, Margin))
        self.path([(box.middle, box.bottom), (box.middle, box.bottom + GAP - 12)], "leave")
        self.text(box.middle + 8, box.bottom + 16, f"answers if its margin > {cut}", "soft")
        end = box.bottom + GAP
        self.path([(self.stream, self.y), (self.stream, end)], arrow=False)
        self.y = end

    def block(self, units: Sequence[Unit]) -> None:
        """Gate, shortcut and body of a block, and the sum of the last two."""
        top = self.y + GAP
        named = {unit.role: unit for unit in units}
        right = top
        gate = named.get("gate")
        if gate is not None:
            box = self.box(_Box(self.right, top, gate))
            self.path([(self.stream, top + 18), (self.right, top + 18)])
            right = box.bottom + GAP
            if "body" in named:
                self.path([(box.middle, box.bottom), (box.middle, right)], "control")
            cut = next(op.value for op in gate.ops if isinstance(op, Decision))
            self.text(box.middle + 8, box.bottom + GAP / 2 + 4, f"if its logit > {cut}", "soft")
        start, end = self.y, right - GAP / 2
        body = named.get("body")
        entry = right + 18
        if "shortcut" in named:
            below = _Box(self.center, (entry if body else top) + 18, named["shortcut"])
            self.path([(self.stream, start), (self.stream, below.y)])
            self.box(below)
            start = end = below.bottom
        if body is not None:
            box = self.box(_Box(self.right, right, body))
            self.path([(self.stream, entry), (self.right, entry)])
            end = max(box.bottom, end) + GAP / 2 + 4
            self.path([(box.middle, box.bottom), (box.middle, end), (self.stream + 10, end)])
            self.path([(self.stream, start), (self.stream, end - 10)])
            self.parts.append(f'<circle cx="{self.stream:g}" cy="{end:g}" r="9"/>')
            self.text(self.stream, end + 4, "+", "middle")
            end += 9
        else:
            self.path([(self.stream, start), (self.stream, end)], arrow=False)
        self.y = end
        self.shape(units[-1].output)

    def draw(self) -> str:
        plan = self.plan
        self.text(MARGIN, MARGIN + 8, plan.network.name, "title")
        gates = sum(unit.macs for unit in plan.gates)
        extra = f", gates and exits {gates:,}" if gates else ""
        note = f"{plan.target}, int8; {plan.dense_macs:,} MAC dense{extra}"
        self.text(MARGIN, MARGIN + 26, note, "soft")
        self.end(plan.input, "input")
        self.y += 6
        made: dict[str, _Box] = {}
        units = list(plan.units)
        while units:
            unit = units.pop(0)
            if unit.role in ("gate", "shortcut", "body"):
                block = [unit]
                while units and units[0].block == unit.block and units[0].role != "exit":
                    block.append(units.pop(0))
                self.block(block)
            elif unit.role == "exit":
                self.exit(unit)
            else:
                self.chain(unit, made)
        self.down(self.y + GAP)
        self.y += GAP + 16
        self.end(plan.output, "output")
        height = self.y + MARGIN
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width:g} {height:g}" '
            f'width="{self.width:g}" height="{height:g}" role="img" '
            f'aria-label="{escape(plan.network.name)}: units, gates and costs">\n'
            f"<style>{STYLE}</style>\n"
            '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 Z"/></marker></defs>\n'
            + "\n".join(self.parts)
            + "\n</svg>\n"
        )


def svg(bundle: Bundle) -> str:
    """The picture, a text that needs nothing else: no script, no font, no link."""
    return _Picture(bundle.plan, bundle.weights).draw()
