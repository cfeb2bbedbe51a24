"""Which blocks run for which images, and where images leave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from cgate.host_tools.page.html import NONE, Value, bar, percent, section, table, whole


def heat(value: Value, rows_of: Sequence[tuple[str, Sequence[float | None]]]) -> str:
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


def gates(value: Value) -> str:
    """How often each gate opens, in all and by class."""
    constant = {0.0: " <small>never</small>", 1.0: " <small>always</small>"}
    bars = "".join(
        bar(
            escape(gate["block"]),
            gate["open"] or 0,
            NONE
            if gate["open"] is None
            else percent(gate["open"]) + constant.get(gate["open"], ""),
        )
        for gate in value["gates"]
    )
    reached = "that reach it " if value["answers"] else ""
    return section(
        "Which blocks run",
        f"How often each gate says open (its sigmoid is above {value['threshold']:g}), over all "
        f"images {reached}and by true class. A gate that is always open or always shut has learned "
        "nothing about the image.",
        f'<div class="bars">{bars}</div>',
        "<h3>Open in % of the images of a class</h3>",
        heat(value, [(gate["block"], gate["by_class"]) for gate in value["gates"]]),
    )


def answers(value: Value) -> str:
    """Who answers, where there are exits."""
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
        bar(escape(name(row)), row["share"], percent(row["share"])) for row in value["answers"]
    )
    return section(
        "Where images leave",
        "An exit answers at once where its two largest logits differ enough; nothing behind it "
        "runs. Right is the share of correct answers among the images answered there.",
        f'<div class="bars">{bars}</div>',
        table(head, rows),
        "<h3>Answered there in % of the images of a class</h3>",
        heat(value, [(name(row), row["by_class"]) for row in value["answers"]]),
    )
