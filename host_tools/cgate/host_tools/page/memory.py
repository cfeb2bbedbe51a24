"""Memory: the program against the target's, and the arena over an inference."""

from __future__ import annotations

from html import escape

from cgate.core.targets import size_text
from cgate.host_tools.page.html import Value, bar, command, percent, section, whole
from cgate.host_tools.page.svg import chart, legend, line, rect, text

PLOT, TOP, BOTTOM = 150, 22, 22  # pixels for bars, words above, numbers below
_NUMBERS = 10  # at most so many numbers along the axis


def _program(value: Value) -> str:
    memory = value["memory"]
    if memory["flash"] is None:
        return (
            "<p>The program was built for a computer: its size says nothing about the target. "
            f"{command('build BUNDLE')} tells flash, RAM and stack.</p>"
        )
    bars = "".join(
        bar(name, used / limit, f"{size_text(used)} <small>{percent(used / limit)}</small>")
        for name, used, limit in (
            ("flash", memory["flash"], memory["flash_limit"]),
            ("RAM", memory["ram"], memory["ram_limit"]),
        )
    )
    note = (
        f"Of {size_text(memory['flash_limit'])} of flash and {size_text(memory['ram_limit'])} of "
        f"RAM. RAM includes the arena and the stack, of which at most {whole(memory['stack'])} "
        "bytes are used."
    )
    return f'<div class="bars">{bars}</div><p class="note after">{note}</p>'


def _timeline(value: Value) -> str:
    units, size = value["units"], value["memory"]["arena"]
    width, bottom = 1 / len(units), TOP + PLOT
    parts = []
    for unit in units:
        tensors, scratch = unit["arena"]["tensors"], unit["arena"]["scratch"]
        x, low, high = unit["index"] * width, PLOT * tensors / size, PLOT * scratch / size
        words = (
            f"{unit['index']} {unit['name']}: {size_text(tensors)} of activations, "
            f"{size_text(scratch)} of scratch memory"
        )
        parts.append(rect(x, bottom - low, width * 0.86, low, "cost", words))
        if scratch:
            parts.append(rect(x, bottom - low - high, width * 0.86, high, "scratch", words))
        if unit["index"] % -(-len(units) // _NUMBERS) == 0:
            parts.append(text(x + width * 0.43, bottom + 15, str(unit["index"]), "tick", "middle"))
    parts.append(line(0, TOP, 1, TOP, "at worst"))
    parts.append(text(1, TOP - 6, f"arena {size_text(size)}", "label", "end"))
    parts.append(line(0, bottom, 1, bottom, "axis"))
    most = max(units, key=lambda unit: unit["arena"]["tensors"] + unit["arena"]["scratch"])
    peak = most["arena"]["tensors"] + most["arena"]["scratch"]
    description = (
        f"{len(units)} units in their order; the most, {size_text(peak)}, is used in "
        f"{most['name']}; the arena has {size_text(size)}."
    )
    return chart("arena", "Arena in use, per unit", description, bottom + BOTTOM, "".join(parts))


def memory(value: Value) -> str:
    """The section."""
    return section(
        "Memory",
        f"Of the whole program, wire protocol included, against {escape(value['target']['name'])}.",
        _program(value),
        "<h3>Arena in use, unit by unit</h3>",
        '<p class="note">What is alive at the op of a unit that needs most; numbers are the '
        "units', as in the table below. A skipped body needs nothing besides the stream.</p>",
        legend([("", "activations"), ("scratch", "scratch memory of the kernel")]),
        _timeline(value),
    )
