"""Lays the figures of report.json out as one HTML page that needs nothing else.

No script, no font, no link: styles and pictures are inside. Nothing is computed here except
positions of marks and how a number is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgate.core.targets import size_text
from cgate.host_tools.report_png import png_uri
from cgate.host_tools.report_style import CSS

Value = Mapping[str, Any]
Pictures = Mapping[int, NDArray[np.uint8]]

NONE = "&ndash;"  # stands where there is no figure


def percent(share: float) -> str:
    """A share for people: 0.7312 -> "73.1 %"."""
    return f"{100 * share:.1f} %"


def big(count: float) -> str:
    """A large count, short: 25,414,003 -> "25.41 M"."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f}"


def whole(count: float) -> str:
    """A count in full: "25,414,003"."""
    return f"{count:,.0f}"


def _bar(name: str, share: float, value: str, quiet: bool = False) -> str:
    kind = "fill quiet" if quiet else "fill"
    return (
        f'<div class="bar"><span>{name}</span><div class="track"><div class="{kind}" '
        f'style="--x:{min(max(share, 0), 1):.4f}"></div></div><span class="v">{value}</span></div>'
    )


def _table(head: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> str:
    """A table in its own scrolling box.

    Args:
        head: (title, class) per column; class "n" is a number, "pair" and "wrap" are layouts.
        rows: cells as HTML; the first one names the row.
    """
    titles = "".join(f'<th scope="col" class="{kind}">{title}</th>' for title, kind in head)
    body = []
    for row in rows:
        cells = [f'<th scope="row">{row[0]}</th>']
        cells += [
            f'<td class="{kind}">{cell}</td>'
            for cell, (_, kind) in zip(row[1:], head[1:], strict=True)
        ]
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{titles}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _section(title: str, note: str, *parts: str) -> str:
    return f'<section><h2>{title}</h2><p class="note">{note}</p>{"".join(parts)}</section>'


def _choices(value: Value) -> str:
    """Where the network decides what to run, in words."""
    if not value["blocks"]:
        return "Everything runs: the network has no gates"
    text = f"{len(value['gates'])} of {value['blocks']} blocks have a gate"
    exits = len(value["answers"]) - 1
    if exits < 1:
        return text
    return f"{text}; there {'is one exit' if exits == 1 else f'are {exits} exits'}"


def _deciders(value: Value) -> str:
    return "gates and exits" if value["answers"] else "gates"


def _header(value: Value) -> str:
    target, run = value["target"], value["run"]
    where = "QEMU" if run["runner"] == "qemu" else "this computer, not the target"
    return (
        f"<header><h1>{escape(value['network'])} on {escape(target['name'])}</h1>"
        f'<p class="soft">{whole(run["images"])} {escape(run["split"])} images of '
        f"{escape(run['data'])}, one by one, on {where}: {escape(target['description'])}. "
        f"{_choices(value)}.</p></header>"
    )


def _tile(name: str, number: str, note: str, kind: str = "") -> str:
    return f'<div class="tile {kind}"><span>{name}</span><b>{number}</b><span>{note}</span></div>'


def _tiles(value: Value) -> str:
    right, macs, counted = value["accuracy"], value["macs"], value["instructions"]
    tiles = [
        _tile(
            "Accuracy, int8",
            f"{100 * right['value']:.2f} %",
            f"± {100 * right['standard_error']:.2f} %, n = {whole(right['images'])}",
        ),
        _tile(
            "MACs executed",
            percent(macs["share"]),
            f"of the network without {_deciders(value)}, which are included: "
            f"{big(macs['executed']['mean'])} "
            f"of {big(macs['dense'])}",
            "key",
        ),
    ]
    if counted is not None:
        opened = counted["all_open"]
        note = "per inference, QEMU; not latency"
        if opened is not None:
            ratio = counted["mean"] / opened["without_gates_mean"]
            note = f"{percent(ratio)} of the network without {_deciders(value)}; QEMU, not latency"
        tiles.append(_tile("Instructions, mean", big(counted["mean"]), note, "key"))
    else:
        tiles.append(_tile("Instructions", NONE, "not counted: this run was not under QEMU"))
    agreement = value["agreement"]
    if agreement is None:
        tiles.append(_tile("Bit-exactness", NONE, "not checked yet: <code>cgate verify</code>"))
    else:
        equal = bool(agreement["equal"])
        tiles.append(
            _tile(
                "Bit-exactness",
                "equal" if equal else "differs",
                f"{whole(agreement['images'])} images, integer reference and "
                + ", ".join(escape(each["route"]) for each in agreement["comparisons"]),
                "good" if equal else "bad",
            )
        )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _histogram(value: Value) -> str:
    high, counts = value["histogram"]["high"], value["histogram"]["counts"]
    unit = value["cost"]
    stats = value["instructions"] if unit == "instructions" else value["macs"]["executed"]
    opened = value["instructions"]["all_open"] if unit == "instructions" else None
    width, top = 1000 / len(counts), max(counts)
    bars = "".join(
        f'<rect x="{i * width:.2f}" y="{100 - 98 * n / top:.2f}" width="{width - 1.5:.2f}" '
        f'height="{98 * n / top:.2f}"/>'
        for i, n in enumerate(counts)
        if n
    )

    def mark(place: float, kind: str) -> str:
        x = min(1000 * place / high, 999)
        return f'<line class="{kind}" x1="{x:.2f}" x2="{x:.2f}" y1="0" y2="100"/>'

    lines = mark(stats["mean"], "mean") + (mark(opened["mean"], "open") if opened else "")
    key = f'<span class="rule"></span>mean {whole(stats["mean"])}'
    if opened:
        key += f'<span class="dash"></span>all gates open {whole(opened["mean"])}'
    return (
        f'<div class="hist"><svg viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" '
        f'aria-label="Histogram of {unit} per inference, from {whole(stats["min"])} to '
        f'{whole(stats["max"])}, mean {whole(stats["mean"])}">{bars}{lines}</svg>'
        f'<div class="axis"><span>0</span><span>{big(high / 2)}</span>'
        f'<span>{big(high)}</span></div></div><p class="key-line">{key}</p>'
    )


def _cost(value: Value) -> str:
    macs, counted = value["macs"], value["instructions"]
    executed = macs["executed"]
    head = [("", ""), ("mean", "n"), ("p5", "n"), ("p95", "n"), ("min", "n"), ("max", "n")]
    keys = ("mean", "p5", "p95", "min", "max")
    rows = [["MACs executed", *(whole(executed[key]) for key in keys)]]
    if counted is not None:
        rows.append(["instructions (QEMU)", *(whole(counted[key]) for key in keys)])
    bars = [
        _bar(f"without {_deciders(value)}", 1, f"{big(macs['dense'])} MAC", True),
        _bar(
            "executed, mean",
            macs["share"],
            f"{big(executed['mean'])} <small>{percent(macs['share'])}</small>",
        ),
    ]
    groups = [f"<h3>Multiply-accumulates</h3><div class='bars'>{''.join(bars)}</div>"]
    if counted is not None and counted["all_open"] is not None:
        opened = counted["all_open"]
        full = opened["mean"]
        rest = opened["without_gates_mean"]
        mean = counted["mean"]
        bars = [
            _bar("all gates open", 1, big(full), True),
            _bar(
                f"the same minus {_deciders(value)}",
                rest / full,
                f"{big(rest)} <small>{percent(rest / full)}</small>",
                True,
            ),
            _bar(
                "as learned, mean",
                mean / full,
                f"{big(mean)} <small>{percent(mean / full)}</small>",
            ),
        ]
        groups.append(f"<h3>Instructions</h3><div class='bars'>{''.join(bars)}</div>")
    what = "Instructions" if value["cost"] == "instructions" else "MACs"
    return _section(
        "What an image costs",
        "Every inference takes its own route through the network. All figures include the "
        f"{_deciders(value)} themselves, which are {percent(macs['gates'] / macs['dense'])} of the "
        "MACs.",
        *groups,
        f"<h3>{what} per inference, number of images</h3>",
        _histogram(value),
        _table(head, rows),
    )


def _heat(value: Value, rows_of: Sequence[tuple[str, Sequence[float | None]]]) -> str:
    """A table of shares by class.

    Args:
        rows_of: name of a row, and its share for every class of the network.
    """
    names = "".join(f'<th scope="col">{escape(row["name"])}</th>' for row in value["classes"])
    present = [value["class_names"].index(row["name"]) for row in value["classes"]]
    rows = []
    for name, shares in rows_of:
        cells = []
        for label in present:
            share = shares[label]
            if share is None:
                cells.append(f"<td>{NONE}</td>")
                continue
            kind = "hot" if share > 0.5 else ""
            cells.append(
                f'<td><div class="{kind}" style="--x:{share:.4f}">{100 * share:.0f}</div></td>'
            )
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    return (
        '<div class="scroll" tabindex="0"><table class="heat"><thead><tr><th scope="col">block</th>'
        f"{names}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _gates(value: Value) -> str:
    constant = {0.0: " <small>never</small>", 1.0: " <small>always</small>"}
    bars = "".join(
        _bar(
            escape(gate["block"]),
            gate["open"] or 0,
            NONE
            if gate["open"] is None
            else percent(gate["open"]) + constant.get(gate["open"], ""),
        )
        for gate in value["gates"]
    )
    reached = "that reach it " if value["answers"] else ""
    return _section(
        "Which blocks run",
        f"How often each gate says open (its sigmoid is above {value['threshold']:g}), over all "
        f"images {reached}and by true class. A gate that is always open or always shut has learned "
        "nothing about the image.",
        f'<div class="bars">{bars}</div>',
        "<h3>Open in % of the images of a class</h3>",
        _heat(value, [(gate["block"], gate["by_class"]) for gate in value["gates"]]),
    )


def _answers(value: Value) -> str:
    counted = value["instructions"] is not None

    def name(row: Value) -> str:
        return "the end" if row["block"] is None else row["block"]

    def text(number: float | None, write: Callable[[float], str]) -> str:
        return NONE if number is None else write(number)

    head = [("answered behind", ""), ("images", "n"), ("share", "n"), ("right", "n")]
    head += [("MACs, mean", "n")] + ([("instructions, mean", "n")] if counted else [])
    rows = [
        [
            escape(name(row)),
            whole(row["images"]),
            percent(row["share"]),
            text(row["accuracy"], percent),
            text(row["macs_mean"], whole),
            *([text(row["instructions_mean"], whole)] if counted else []),
        ]
        for row in value["answers"]
    ]
    bars = "".join(
        _bar(escape(name(row)), row["share"], percent(row["share"])) for row in value["answers"]
    )
    return _section(
        "Where images leave",
        "An exit answers at once where its two largest logits differ enough; nothing behind it "
        "runs. Right is the share of correct answers among the images answered there.",
        f'<div class="bars">{bars}</div>',
        _table(head, rows),
        "<h3>Answered there in % of the images of a class</h3>",
        _heat(value, [(name(row), row["by_class"]) for row in value["answers"]]),
    )


def _units(value: Value) -> str:
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
    return _section("Where the cost is", note, key + "</p>", _table(head, rows))


def _memory(value: Value) -> str:
    memory, target = value["memory"], value["target"]
    bars = "".join(
        _bar(name, used / limit, f"{size_text(used)} <small>{percent(used / limit)}</small>")
        for name, used, limit in (
            ("flash", memory["flash"], memory["flash_limit"]),
            ("RAM", memory["ram"], memory["ram_limit"]),
        )
    )
    return _section(
        "Memory",
        f"Of the whole program, against {size_text(memory['flash_limit'])} of flash and "
        f"{size_text(memory['ram_limit'])} of RAM of {escape(target['name'])}. RAM includes the "
        f"arena of {size_text(memory['arena'])} and the stack, of which at most "
        f"{whole(memory['stack'])} bytes are used.",
        f'<div class="bars">{bars}</div>',
    )


def _examples(value: Value, pictures: Pictures) -> str:
    blocks = [gate["block"] for gate in value["gates"]]

    def card(row: Value) -> str:
        image = pictures.get(row["image"])
        picture = ""
        if image is not None and image.shape[2] in (1, 3):
            picture = f'<img alt="{escape(row["label"])}" src="{png_uri(image)}">'
        cost = row["macs"] if row["instructions"] is None else row["instructions"]
        unit = "MAC" if row["instructions"] is None else "instr."
        answer = f"{escape(row['label'])}"
        if row["predicted"] != row["label"]:
            answer += f', <span class="bad">seen as {escape(row["predicted"])}</span>'
        states = [
            (f"{block} {'open' if bit else 'shut'}", "on" if bit else "off")
            for block, bit in zip(blocks, row["open"], strict=True)
        ]
        squares = "".join(f'<i class="{kind}" title="{escape(text)}"></i>' for text, kind in states)
        words = ", ".join(text for text, _ in states)
        left = f" left behind {escape(row['left'])}" if row["left"] else ""
        route = f'<div class="route" role="img" aria-label="{escape(words)}">{squares}</div>'
        return (
            f'<div class="card">{picture}<div>{answer} <span class="soft">no. {row["image"]}'
            f'{left}</span></div><div class="num">{big(cost)} {unit}</div>'
            f"{route if states else ''}</div>"
        )

    groups = "".join(
        f'<h3>{title}</h3><div class="cards">{"".join(card(row) for row in value["examples"][key])}'
        "</div>"
        for title, key in (("Cheapest", "cheapest"), ("Dearest", "dearest"))
        if value["examples"][key]
    )
    order = ", ".join(escape(block) for block in blocks)
    note = f"A filled square is a gate that opened; from left to right {order}." if blocks else ""
    return _section("Cheap and dear images", note, groups)


def _classes(value: Value) -> str:
    counted = value["instructions"] is not None
    head = [("class", ""), ("images", "n"), ("accuracy", "n"), ("MACs, mean", "n")]
    head += [("instructions, mean", "n")] if counted else []
    rows = [
        [
            escape(row["name"]),
            whole(row["images"]),
            percent(row["accuracy"]),
            whole(row["macs_mean"]),
            *([whole(row["instructions_mean"])] if counted else []),
        ]
        for row in value["classes"]
    ]
    return _section("By class", "Means over the images of each true class.", _table(head, rows))


def _agreement(value: Value) -> str:
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
    return _section(
        "Bit-exactness",
        f"Every unit's output and every gate's decision on {whole(agreement['images'])} images, "
        f"gates {patterns}, against the integer reference. No tolerance.",
        _table(head, rows),
    )


def _fidelity(value: Value) -> str:
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
    return _section(
        "What int8 changes",
        f"Against the float network on {whole(found['images'])} {escape(found['split'])} images: "
        f"accuracy {percent(accuracy['float'])} in float, {percent(accuracy['int8'])} in int8; "
        f"{percent(found['changed'])} of the gates' decisions change. SQNR: signal to "
        "quantisation noise ratio of a unit's output, on the same path.",
        _table(head, rows),
    )


def _origin(value: Value) -> str:
    run, counted = value["run"], value["instructions"]
    figures = [
        (
            "accuracy, gates",
            f"int8 program on {whole(run['images'])} images of the {escape(run['split'])} split, "
            f"run {escape(run['name'])}",
        ),
        (
            "MACs",
            "from the plan: units that ran, gates included; a mean counts one MAC per element, "
            "additions and copies count none",
        ),
    ]
    if counted is not None:
        figures.append(
            (
                "instructions",
                "counted in QEMU between markers around every unit: exact and repeatable, but "
                "neither cycles nor time",
            )
        )
    if counted is not None and counted["all_open"] is not None:
        opened = counted["all_open"]
        figures.append(
            (
                "all gates open",
                f"{whole(opened['images'])} images with every gate forced open, "
                f"run {escape(opened['run'])}; without gates: the same less the gate units",
            )
        )
    if value["memory"] is not None:
        figures.append(
            (
                "flash, RAM, stack",
                "sections of the linked program, wire protocol included; the stack's bound is "
                "from the compiler's call graph",
            )
        )
    rows = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in figures)
    return _section(
        "How each figure was obtained", "Nothing here was measured on silicon.",
        f"<dl>{rows}</dl>",
    )  # fmt: skip


def page(value: Value, pictures: Pictures) -> str:
    """The whole page.

    Args:
        value: the content of report.json.
        pictures: uint8 [H, W, C] by image index, for the examples; may be empty.
    """
    sections = [_cost(value)]
    if value["gates"]:
        sections.append(_gates(value))
    if value["answers"]:
        sections.append(_answers(value))
    sections += [_units(value), _classes(value)]
    if value["memory"] is not None:
        sections.append(_memory(value))
    if value["agreement"] is not None:
        sections.append(_agreement(value))
    if value["fidelity"] is not None:
        sections.append(_fidelity(value))
    if value["examples"]["cheapest"] and (value["gates"] or value["answers"]):
        sections.append(_examples(value, pictures))
    sections.append(_origin(value))
    title = f"{escape(value['network'])} on {escape(value['target']['name'])}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>cgate: {title}</title><style>{CSS}</style></head><body><main>"
        + _header(value)
        + _tiles(value)
        + "\n".join(sections)
        + f'<footer>Plan <span class="mono">{value["plan_sha256"]}</span>. '
        "The same figures as data: report.json.</footer></main></body></html>\n"
    )
