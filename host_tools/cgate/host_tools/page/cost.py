"""What an image costs."""

from __future__ import annotations

from cgate.host_tools.page.html import Value, bar, big, deciders, percent, section, table, whole


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


def cost(value: Value) -> str:
    """What an image costs: means, distribution."""
    macs, counted = value["macs"], value["instructions"]
    executed = macs["executed"]
    head = [("", ""), ("mean", "n"), ("p5", "n"), ("p95", "n"), ("min", "n"), ("max", "n")]
    keys = ("mean", "p5", "p95", "min", "max")
    rows = [["MACs executed", *(whole(executed[key]) for key in keys)]]
    if counted is not None:
        rows.append(["instructions (QEMU)", *(whole(counted[key]) for key in keys)])
    bars = [
        bar(f"without {deciders(value)}", 1, f"{big(macs['dense'])} MAC", True),
        bar(
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
            bar("all gates open", 1, big(full), True),
            bar(
                f"the same minus {deciders(value)}",
                rest / full,
                f"{big(rest)} <small>{percent(rest / full)}</small>",
                True,
            ),
            bar(
                "as learned, mean",
                mean / full,
                f"{big(mean)} <small>{percent(mean / full)}</small>",
            ),
        ]
        groups.append(f"<h3>Instructions</h3><div class='bars'>{''.join(bars)}</div>")
    what = "Instructions" if value["cost"] == "instructions" else "MACs"
    return section(
        "What an image costs",
        "Every inference takes its own route through the network. All figures include the "
        f"{deciders(value)} themselves, which are {percent(macs['gates'] / macs['dense'])} of the "
        "MACs.",
        *groups,
        f"<h3>{what} per inference, number of images</h3>",
        _histogram(value),
        table(head, rows),
    )
