"""Energy: modelled per unit, with its uncertainty, and what meters measured."""

from __future__ import annotations

from html import escape

from cgate.host_tools.page.html import (
    Value,
    best,
    command,
    energy_text,
    percent,
    section,
    table,
    whole,
)


def _bar(unit: Value, top: float) -> str:
    value, low, high = unit["energy_uj"]["median"]
    often = "" if unit["ran"] == 1 else f' <small class="soft">{percent(unit["ran"], 0)}</small>'
    return (
        f'<div class="bar"><span>{escape(unit["name"])}{often}</span>'
        f'<div class="track open"><div class="fill" style="--x:{value / top:.4f}"></div>'
        f'<i class="whisker" style="--a:{low / top:.4f};--b:{high / top:.4f}"></i></div>'
        f'<span class="v">{energy_text((value, low, high))}</span></div>'
    )


def _meters(value: Value) -> str:
    """What was measured, apart from what was modelled."""
    if not value["meters"]:
        return ""
    rows = [
        [escape(row["meter"]), escape(row["board"]), whole(row["windows"]), _joules(row)]
        for row in value["meters"]
    ]
    head = [("measured by", ""), ("board", ""), ("windows", "n"), ("per inference", "n")]
    return "<h3>Measured</h3>" + table(head, rows)


def _joules(row: Value) -> str:
    return f"{row['energy_uj']:,.1f} µJ"


def _duty(value: Value) -> str:
    found = value["duty"]
    if found is None:
        return ""
    value_, low, high = (each / 1000 for each in found["power_uw"])
    text = (
        f"Inferences per second: {found['per_second']:g}, asleep between them: {value_:,.2f} mW "
        f"({low:,.2f} to {high:,.2f}), busy {percent(found['busy'])} of the time."
    )
    if found["battery"] is not None:
        days, least, most = found["battery"]["days"]
        text += (
            f" A battery of {found['battery']['mah']:g} mAh lasts {days:,.1f} days at most "
            f"({least:,.1f} to {most:,.1f})."
        )
    return f"<h3>Duty cycle, modelled</h3><p>{text}</p>"


def energy(value: Value) -> str:
    """The section; it says what to run where there is no energy."""
    account, board = best(value), value["board"]
    title = "Energy"
    meters = _meters(value)
    if account is None or "energy_uj" not in account:
        text = f"Not modelled: that needs cycles, {command('measure BUNDLE')} for a Cortex-M4"
        return section(title, f"{text}; {command('power BUNDLE')} measures it.", meters)
    if account["energy_uj"] is None:
        text = (
            f"Not modelled: nothing published calibrates {escape(board['name'])}. "
            f"{command('measure BUNDLE --as-board nucleo-l4r5zi')} takes another board's clock and "
            f"energy; {command('power BUNDLE')} measures it."
        )
        return section(title, text, meters)
    units = [unit for unit in account["units"] if unit["energy_uj"] is not None]
    top = max(unit["energy_uj"]["median"][2] for unit in units)
    model = board["energy"]
    note = (
        f"Of a unit when it runs, modelled: {model['pj_per_cycle']:g} pJ per cycle of "
        f"{escape(board['name'])} at {model['supply_v']:g} V; whiskers span {model['pj_low']:g} to "
        f"{model['pj_high']:g} pJ, the range of published runs ({escape(model['runs'])}). A share "
        "beside a name says how often the unit runs, where that is not always."
    )
    bars = f'<div class="bars tight">{"".join(_bar(unit, top) for unit in units)}</div>'
    return section(title, note, bars, _duty(value), meters)
