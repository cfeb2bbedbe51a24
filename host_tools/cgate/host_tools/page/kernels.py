"""The kernel of every op, and why it was chosen."""

from __future__ import annotations

from html import escape

from cgate.host_tools.page.html import Value, details, section, table, whole

UNITS = {
    "instructions": "instructions",
    "cycles": "modelled cycles without wait states",
    "cycles_flash": "modelled cycles with the target's flash",
}
"""What a plan's costs count (SPEC.md, section 12)."""


def kernels(value: Value) -> str:
    """The section."""
    found = value["kernels"]
    groups: dict[tuple[str, str, str], int] = {}
    for op in found["ops"]:
        key = (op["op"].split()[0], op["kernel"], op["why"])
        groups[key] = groups.get(key, 0) + 1
    # Not a table: the reasons are long, and a phone is narrow.
    reasons = "".join(
        f"<dt>{escape(op)} &times; {count}: <b>{escape(kernel)}</b></dt><dd>{escape(why)}</dd>"
        for (op, kernel, why), count in groups.items()
    )
    names = {unit["index"]: unit["name"] for unit in value["units"]}
    every = [
        [
            f'<span class="idx">{op["unit"]}</span>{escape(names[op["unit"]])}',
            escape(op["op"]),
            escape(op["kernel"]),
            whole(op["cost"]) if op["cost"] else "",
        ]
        for op in found["ops"]
    ]
    choice = found["choice"]
    note, unit = "From the plan: what each op runs, and the reason.", "cost"
    if choice is not None:
        unit = UNITS[choice["unit"]]
        note += (
            f" Asked for: {escape(choice['kernels'])}. Estimated at export, in {unit}: "
            f"{whole(choice['expected'])} per inference at the card's open rates, "
            f"{whole(choice['worst'])} if all units run."
        )
        if choice["unmeasured"]:
            note += f" {choice['unmeasured']} ops have no measured cost and count as 0."
    return section(
        "Kernels chosen",
        note,
        f'<dl class="wide">{reasons}</dl>',
        details(
            f"All {len(every)} ops",
            table([("unit", ""), ("op", ""), ("kernel", ""), ("estimated cost", "n")], every),
        ),
    )
