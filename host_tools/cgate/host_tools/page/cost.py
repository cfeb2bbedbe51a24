"""What an image costs: the distribution and the worst case."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cgate.host_tools.page.html import (
    NONE,
    Value,
    best,
    big,
    command,
    deciders,
    decides,
    joules_text,
    kind,
    percent,
    section,
    table,
    time_text,
    whole,
)
from cgate.host_tools.page.svg import chart, line, rect, side, text, ticks
from cgate.host_tools.summary import COLUMNS

TOP, PLOT, BOTTOM = 58, 150, 24  # pixels for words, bars, numbers


def _histogram(value: Value) -> str:
    """Images per range of cost, with median, 95% and the worst case marked."""
    counts, high, source = value["histogram"]["counts"], value["histogram"]["high"], value["cost"]
    account = best(value)
    stats: Value = value["macs"]["executed"] if account is None else account["inference"]
    write: Callable[[float], str] = big
    scale, unit = 1.0, kind(source)
    if account is not None and "latency_ms" in account:
        scale, unit = 1e3 / value["board"]["clock_hz"], "ms"

        def write(ms: float) -> str:
            return time_text(ms)

    bottom, width, most = TOP + PLOT, 1 / len(counts), max(counts)
    parts = [
        rect(
            i * width, bottom - PLOT * n / most, width * 0.9, PLOT * n / most, "cost",
            f"{n} images: {write(scale * high * i * width)} to "
            f"{write(scale * high * (i + 1) * width)}",
        )
        for i, n in enumerate(counts)
        if n
    ]  # fmt: skip
    parts.append(line(0, bottom, 1, bottom, "axis"))
    for tick in ticks(high * scale):
        x = tick / (high * scale)
        words = f"{tick:g} {unit}" if scale != 1 else big(tick).replace(".00", "")
        parts.append(text(x, bottom + 16, words, "tick", side(x)))
    # The rightmost first: its words then pass above the lines of the others.
    marks = [("worst", "worst case"), ("p95", "95% within"), ("median", "median")]
    for row, (key, words) in enumerate(mark for mark in marks if mark[0] in stats):
        x, y = min(stats[key] / high, 1), 12 + 16 * row
        parts.append(line(x, y + 4, x, bottom, f"at {key}"))
        anchor = "start" if x < 0.4 else "end"
        parts.append(text(x, y, f"{words} {write(scale * stats[key])}", "label", anchor, 0))
    description = (
        f"{sum(counts)} images, from {write(scale * stats['min'])} to "
        f"{write(scale * stats['max'])}, median {write(scale * stats['median'])}, 95% within "
        f"{write(scale * stats['p95'])}"
        + (f", worst case {write(scale * stats['worst'])}." if "worst" in stats else ".")
    )
    return chart(
        "histogram", f"Images by their {unit}", description, TOP + PLOT + BOTTOM, "".join(parts)
    )


def _rows(value: Value) -> list[list[str]]:
    """A row per source and per figure made from it; nothing is mixed."""

    def row(title: str, figures: Mapping[str, float], write: Callable[[float], str]) -> list[str]:
        cells = (write(figures[key]) if key in figures else NONE for key in COLUMNS)
        return [title, *cells]

    rows = [row("MACs executed", value["macs"]["executed"], whole)]
    for account in value["accounts"]:
        what = kind(account["source"])
        rows.append(row(what, account["inference"], whole))
        if "latency_ms" in account:
            modelled = "modelled " if account["source"] == "modelled_cycles" else ""
            rows.append(row(f"{modelled}latency", account["latency_ms"], time_text))
            if account["energy_uj"] is not None:
                for i, words in enumerate(("modelled energy", "at least", "at most")):
                    joules = {key: each[i] for key, each in account["energy_uj"].items()}
                    rows.append(row(words, joules, joules_text))
    return rows


def cost(value: Value) -> str:
    """The section."""
    account, macs = best(value), value["macs"]
    timed = account is not None and "latency_ms" in account
    note = "Every inference runs all of the network. "
    if decides(value):
        note = (
            "Every inference takes its own route through the network. All figures include the "
            f"{deciders(value)} themselves, which are {percent(macs['gates'] / macs['dense'])} of "
            "the MACs. "
        )
    if account is None:
        note += f"The cost was not counted: {command('measure BUNDLE')} runs it under QEMU."
    elif "worst" in account["inference"]:
        note += "The worst case is the dearest that each unit was ever seen, all in one inference."
    else:
        note += f"The worst case is not known: {command('measure BUNDLE')}."
    return section(
        "Latency of an image" if timed else "Cost of an image",
        note,
        _histogram(value),
        table([("per inference", ""), *((title, "n") for title in COLUMNS.values())], _rows(value)),
    )
