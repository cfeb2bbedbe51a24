"""Single images with their routes, and means by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from cgate.host_tools.page.html import (
    Value,
    best,
    big,
    command,
    kind,
    percent,
    section,
    table,
    time_text,
    whole,
)
from cgate.host_tools.page.png import png_uri

Pictures = Mapping[int, NDArray[np.uint8]]
"""Pixels [H, W, C] by image index."""


def _price(value: Value, cost: float) -> str:
    """What an image cost: time where cycles are known."""
    account = best(value)
    if account is not None and "latency_ms" in account:
        return time_text(1e3 * cost / value["board"]["clock_hz"])
    return f"{big(cost)} {kind(value['cost'])}"


def _route(blocks: Sequence[str], opened: Sequence[int]) -> str:
    """A square per gate, filled where it opened; empty without gates."""
    if not blocks:
        return ""
    states = [
        (f"{block} {'open' if bit else 'shut'}", "on" if bit else "off")
        for block, bit in zip(blocks, opened, strict=True)
    ]
    squares = "".join(f'<i class="{bit}" title="{escape(text)}"></i>' for text, bit in states)
    words = ", ".join(text for text, _ in states)
    return f'<div class="route" role="img" aria-label="{escape(words)}">{squares}</div>'


def routes(value: Value) -> str:
    """The ways through the network that images took."""
    found, blocks = value["routes"], [gate["block"] for gate in value["gates"]]
    what = "latency" if "ms" in _price(value, 1e6) else kind(value["cost"])
    head = [("route", ""), ("images", "n"), ("share", "n"), ("right", "n"), (f"{what}, mean", "n")]

    def cells(row: Value) -> list[str]:
        return [
            whole(row["images"]),
            percent(row["share"]),
            percent(row["accuracy"]),
            _price(value, row["cost_mean"]),
        ]

    rows = []
    for row in found["frequent"]:
        left = f"left behind {escape(row['left'])}" if row["left"] else ""
        if value["answers"] and not left:
            left = "to the end"
        rows.append([f"{_route(blocks, row['open'])}{left}", *cells(row)])
    if found["others"]:
        rows.append(["all others", *cells(found["others"])])
    order = ", ".join(escape(block) for block in blocks)
    squares = f" A filled square is a block that ran; from left to right {order}." if blocks else ""
    return section(
        "Routes that images took",
        f"{found['taken']} different ones.{squares}",
        table(head, rows),
    )


def examples(value: Value, pictures: Pictures) -> str:
    """The cheapest and the dearest images with their routes."""
    blocks = [gate["block"] for gate in value["gates"]]

    def card(row: Value) -> str:
        image = pictures.get(row["image"])
        picture = ""
        if image is not None and image.shape[2] in (1, 3):
            picture = f'<img alt="{escape(row["label"])}" src="{png_uri(image)}">'
        answer = f"{escape(row['label'])}"
        if row["predicted"] != row["label"]:
            answer += f', <span class="bad">seen as {escape(row["predicted"])}</span>'
        left = f" left behind {escape(row['left'])}" if row["left"] else ""
        return (
            f'<div class="card">{picture}<div>{answer} <span class="soft">no. {row["image"]}'
            f'{left}</span></div><div class="num">{_price(value, row["cost"])}</div>'
            f"{_route(blocks, row['open'])}</div>"
        )

    groups = "".join(
        f'<h3>{title}</h3><div class="cards">{"".join(card(row) for row in value["examples"][key])}'
        "</div>"
        for title, key in (("Cheapest", "cheapest"), ("Dearest", "dearest"))
        if value["examples"][key]
    )
    order = ", ".join(escape(block) for block in blocks)
    note = f"A filled square is a gate that opened; from left to right {order}." if blocks else ""
    if not pictures:
        note += f" Without the data set there are no pictures: {command('report --data-dir')}."
    return section("Cheap and dear images", note, groups)


def classes(value: Value) -> str:
    """Means by true class."""
    counted = best(value) is not None
    head = [("class", ""), ("images", "n"), ("accuracy", "n"), ("MACs, mean", "n")]
    head += [(f"{kind(value['cost'])}, mean", "n")] if counted else []
    rows = [
        [
            escape(row["name"]),
            whole(row["images"]),
            percent(row["accuracy"]),
            whole(row["macs_mean"]),
            *([whole(row["cost_mean"])] if counted else []),
        ]
        for row in value["classes"]
    ]
    return section("By class", "Means over the images of each true class.", table(head, rows))
