"""Cost per unit."""

from __future__ import annotations

from html import escape

from cgate.host_tools.page.html import NONE, Value, percent, section, table, whole


def units(value: Value) -> str:
    """A row per unit: its cost, and its share of the mean inference."""
    counted = value["instructions"] is not None
    head = [("unit", ""), ("runs", "n"), ("MACs", "n")]
    head += [("instructions", "n"), ("per MAC", "n")] if counted else []
    head += [("share of an average inference", "pair"), ("MACs", "n")]
    head += [("instr.", "n")] if counted else []
    shares = [
        share
        for unit in value["units"]
        for share in (unit["macs_share"], unit["instructions_share"])
        if share is not None
    ]
    top = max(shares)

    def track(share: float, quiet: bool) -> str:
        kind = "fill quiet" if quiet else "fill"
        return f'<div class="track"><div class="{kind}" style="--x:{share / top:.4f}"></div></div>'

    rows = []
    for unit in value["units"]:
        row = [
            f'<span class="idx">{unit["index"]}</span>{escape(unit["name"])}',
            percent(unit["ran"]),
            whole(unit["macs"]),
        ]
        bars = track(unit["macs_share"], True)
        if counted:
            instructions = unit["instructions"]
            known = instructions is not None
            row.append(whole(instructions) if known else NONE)
            row.append(f"{instructions / unit['macs']:.2f}" if known and unit["macs"] else NONE)
            bars += track(unit["instructions_share"], False)
        row += [bars, percent(unit["macs_share"])]
        row += [percent(unit["instructions_share"])] if counted else []
        rows.append(row)
    key = '<p class="key-line"><span class="swatch quiet"></span>share of MACs'
    note = "A unit's own cost when it runs, and its share of the average inference. "
    if counted:
        key += ' &ensp;<span class="swatch"></span>share of instructions'
        outside = value["instructions"]["outside_units_mean"]
        note += (
            "Where the two shares differ, counting MACs misjudges the cost. "
            f"{whole(outside)} instructions per inference are outside all units."
        )
    return section("Where the cost is", note, key + "</p>", table(head, rows))
