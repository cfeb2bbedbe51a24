"""What was compared with what, and where each figure is from."""

from __future__ import annotations

from html import escape

from cgate.host_tools.page.html import Value, best, kind, percent, section, table, whole


def agreement(value: Value) -> str:
    """Bit-exactness: what `cgate verify` compared."""
    agreement = value["agreement"]
    patterns = " and ".join(escape(name) for name in agreement["patterns"])
    head = [("route", ""), ("int8 values", "n"), ("decisions", "n"), ("differ", "n"), ("by", "")]
    rows = [
        [
            escape(each["route"]),
            whole(each["values"]),
            whole(each["decisions"]),
            whole(each["differing"]),
            escape(each["tool"]),
        ]
        for each in agreement["comparisons"]
    ]
    return section(
        "Bit-exactness",
        f"Every unit's output and every gate's decision on {whole(agreement['images'])} images, "
        f"gates {patterns}, against the integer reference. No tolerance.",
        table(head, rows),
    )


def fidelity(value: Value) -> str:
    """What int8 changes: what `cgate fidelity` found."""
    found = value["fidelity"]
    changed = {gate["name"]: gate for gate in found["gates"]}
    head = [("unit", ""), ("images", "n"), ("SQNR, dB", "n"), ("decisions changed", "n")]
    rows = []
    for unit in found["units"]:
        gate, ratio = changed.get(unit["name"]), unit["sqnr_db"]
        share = percent(gate["changed"] / gate["reached"]) if gate and gate["reached"] else ""
        noise = "" if ratio is None else f"{ratio:.1f}"
        rows.append([escape(unit["name"]), whole(unit["images"]), noise, share])
    accuracy = found["accuracy"]
    return section(
        "What int8 changes",
        f"Against the float network on {whole(found['images'])} {escape(found['split'])} images: "
        f"accuracy {percent(accuracy['float'])} in float, {percent(accuracy['int8'])} in int8; "
        f"{percent(found['changed'])} of the gates' decisions change. SQNR: signal to "
        "quantisation noise ratio of a unit's output, on the same path.",
        table(head, rows),
    )


def origin(value: Value) -> str:
    """How each figure was obtained."""
    run = value["run"]
    figures = [
        (
            "accuracy, gates",
            f"int8 program on {whole(run['images'])} images of the {escape(run['split'])} split, "
            f"run {escape(run['name'])}",
        ),
        (
            "MACs",
            "from the plan: units that ran, those that decide included; a mean counts one MAC per "
            "element, additions and copies count none",
        ),
    ]
    figures += [(kind(row["source"]), escape(row["what"])) for row in value["accounts"]]
    account, board = best(value), value["board"]
    if account is not None and "latency_ms" in account:
        ran = value["target"]["name"]
        same = "" if board["name"] == ran else f", a board with the core of {escape(ran)}"
        figures.append(
            (
                "latency",
                f"{kind(account['source'])} at {board['clock_hz'] / 1e6:g} MHz of "
                f"{escape(board['name'])}{same}",
            )
        )
    if board["energy"] is not None:
        figures.append(
            (
                "energy",
                f"modelled: cycles times {board['energy']['pj_per_cycle']:g} pJ, never a meter's",
            )
        )
    if run["forced_images"]:
        figures.append(
            (
                "worst case, no gates",
                f"{run['forced_images']} images with every gate forced open; without gates: the "
                "same less the units that decide",
            )
        )
    if value["verdict"] is not None:
        figures.append(
            (
                "control",
                f"the same {whole(value['verdict']['images'])} images with every gate held at its "
                "usual decision, less the gates' cost; chosen on these images, which favours it",
            )
        )
    if value["memory"]["flash"] is not None:
        figures.append(
            (
                "flash, RAM, stack",
                "sections of the linked program, wire protocol included; the stack's bound is "
                "from the compiler's call graph",
            )
        )
    rows = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in figures)
    silicon = run["runner"] == "serial" or value["meters"]
    note = (
        "Counted is what an emulator counted, modelled what a model makes of it, measured what a "
        "board or a meter said."
    )
    note += "" if silicon else " Nothing here was measured on silicon."
    return section("How each figure was obtained", note, f"<dl>{rows}</dl>")
