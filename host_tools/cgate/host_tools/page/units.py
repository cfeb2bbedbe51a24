"""A row per unit: its cost when it runs, and its share of the mean inference."""

from __future__ import annotations

from html import escape

from cgate.core.targets import size_text
from cgate.host_tools.page.html import (
    NONE,
    Value,
    best,
    details,
    kind,
    percent,
    section,
    table,
    whole,
)
from cgate.host_tools.page.svg import legend


def units(value: Value) -> str:
    """The section."""
    account = best(value)
    counted = [None] * len(value["units"]) if account is None else account["units"]
    what = "" if account is None else kind(account["source"])
    head = [("unit", ""), ("runs", "n"), ("MACs", "n")]
    head += [(what, "n"), ("per MAC", "n")] if account else []
    head += [("share of an average inference", "pair"), ("of MACs", "n")]
    head += [("of cost", "n")] if account else []
    head += [("arena", "n")]
    shares = [unit["macs_share"] for unit in value["units"]]
    shares += [row["share"] for row in counted if row is not None]
    top = max(shares)

    def track(share: float, fill: str) -> str:
        return f'<div class="track"><div class="{fill}" style="--x:{share / top:.4f}"></div></div>'

    rows = []
    for unit, found in zip(value["units"], counted, strict=True):
        row = [
            f'<span class="idx">{unit["index"]}</span>{escape(unit["name"])}',
            percent(unit["ran"]),
            whole(unit["macs"]),
        ]
        bars = track(unit["macs_share"], "fill hollow")
        if found is not None:
            spent = None if found["cost"] is None else found["cost"]["median"]
            row.append(NONE if spent is None else whole(spent))
            row.append(f"{spent / unit['macs']:.2f}" if spent and unit["macs"] else NONE)
            bars += track(found["share"], "fill")
        row += [bars, percent(unit["macs_share"])]
        row += [] if found is None else [percent(found["share"])]
        rows.append([*row, size_text(unit["arena"]["tensors"] + unit["arena"]["scratch"])])
    note = "A unit's own cost when it runs (median), and its share of the average inference. "
    key = [("hollow", "share of MACs")]
    if account is not None:
        key.append(("", f"share of {what}"))
        note += "Where the two shares differ, counting MACs misjudges the cost. "
    if value["instructions"] is not None:
        outside = value["instructions"]["outside_units_mean"]
        note += f"{whole(outside)} instructions per inference are outside all units."
    return section("Where the cost is", note, legend(key), table(head, rows), _mix(value))


def _mix(value: Value) -> str:
    """Instructions by class, of units that ran; empty where they were not counted."""
    counted = next((row for row in value["accounts"] if row["source"] == "instructions"), None)
    ran = (
        [(i, unit) for i, unit in enumerate(counted["units"]) if unit["classes"]] if counted else []
    )
    if not ran:
        return ""
    names = [name for name in ran[0][1]["classes"] if any(u["classes"][name] for _, u in ran)]
    rows = []
    for i, unit in ran:
        total = sum(unit["classes"].values())
        shares = (percent(unit["classes"][name] / total) for name in names)
        rows.append([f'<span class="idx">{i}</span>{escape(unit["name"])}', whole(total), *shares])
    head = [("unit", ""), ("instructions", "n"), *((name, "n") for name in names)]
    return details("Instructions by class, counted in QEMU", table(head, rows))
