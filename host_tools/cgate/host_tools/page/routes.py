"""Which blocks run for which images, and where images leave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from cgate.host_tools.page.html import NONE, Value, bar, percent, section, table, whole


def _heat(value: Value, rows_of: Sequence[tuple[str, float | None, Sequence[float | None]]]) -> str:
    """A table of shares by class.

    Args:
        rows_of: name of a row, its share of all images, and of those of every class.
    """
    names = "".join(f'<th scope="col">{escape(row["name"])}</th>' for row in value["classes"])
    present = [value["class_names"].index(row["name"]) for row in value["classes"]]

    def cell(share: float | None, strong: str = "") -> str:
        if share is None:
            return f"<td>{NONE}</td>"
        hot = "hot" if share > 0.5 else ""
        return (
            f'<td class="{strong}"><div class="{hot}" style="--x:{share:.4f}">'
            f"{100 * share:.0f}</div></td>"
        )

    rows = [
        f'<tr><th scope="row">{escape(name)}</th>{cell(all_, "all")}'
        f"{''.join(cell(shares[label]) for label in present)}</tr>"
        for name, all_, shares in rows_of
    ]
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Shares by class">'
        '<table class="heat"><thead><tr><th scope="col">block</th>'
        f'<th scope="col">all</th>{names}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _rest(share: float | None) -> float | None:
    return None if share is None else 1 - share


def gates(value: Value) -> str:
    """How often each block is skipped, in all and by class."""
    always = [g["block"] for g in value["gates"] if g["open"] == 1]
    never = [g["block"] for g in value["gates"] if g["open"] == 0]
    reached = "that reach it " if value["answers"] else ""
    words = []
    for blocks, what in ((always, "always open"), (never, "never open")):
        if blocks:
            words.append(f"{what}: {escape(', '.join(blocks))}")
    constant = (
        f" Gates that have learned nothing about the image: {'; '.join(words)}." if words else ""
    )
    return _skipped(value, reached, constant)


def _skipped(value: Value, reached: str, constant: str) -> str:
    rows = [
        (gate["block"], _rest(gate["open"]), [_rest(share) for share in gate["by_class"]])
        for gate in value["gates"]
    ]
    return section(
        "Which blocks are skipped",
        f"In % of the images {reached}of a true class; a block is skipped where its gate's "
        f"sigmoid is not above {value['threshold']:g}.{constant}",
        _heat(value, rows),
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
        _heat(value, [(name(row), row["share"], row["by_class"]) for row in value["answers"]]),
    )
