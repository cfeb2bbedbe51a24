"""`cgate compare`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from cgate.core.errors import CgateError
from cgate.core.targets import size_text
from cgate.host_tools.cli import Command, Outcome, examples
from cgate.host_tools.commands.options import FOLDER
from cgate.host_tools.console import table

MISLED = 3
"""Units per bundle that the text shows; --json has all."""


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _energy(value: list[float] | None) -> str:
    if value is None:
        return "-"
    return f"{value[0]:,.0f} ({value[1]:,.0f} to {value[2]:,.0f})"


def lines(value: Mapping[str, Any]) -> list[str]:
    """A comparison for people."""
    columns = value["columns"]
    unit = columns[0]["cost"]["unit"]
    kind = "modelled cycles" if unit == "cycles" else "instructions"
    rows = [["", *(column["bundle"] for column in columns)]]

    def row(title: str, texts: list[str]) -> None:
        rows.append([title, *texts])

    row("accuracy", [f"{c['accuracy']:.2%}" for c in columns])
    row("dense MACs", [_number(c["dense_macs"]) for c in columns])
    row("MACs as papers count", [_number(c["paper_macs"]) for c in columns])
    row("executed MACs", [_number(c["executed_macs"]) for c in columns])
    row("instructions", [_number(c["instructions"]) for c in columns])
    if unit == "cycles":
        row("modelled cycles", [_number(c["cycles"]) for c in columns])
    for key, title in (("p5", "p5"), ("p50", "median"), ("p95", "p95"), ("max", "dearest seen")):
        row(f"{kind}, {title}", [_number(c["cost"][key]) for c in columns])
    row(f"{kind}, all gates open", [_number(c["cost"]["all_open"]) for c in columns])
    if any(c["energy_uj"] for c in columns):
        row("energy, modelled, uJ", [_energy(c["energy_uj"]) for c in columns])
    for key in ("flash", "ram"):
        row(key, ["-" if c[key] is None else size_text(c[key]) for c in columns])
    made = [
        f"{value['images']:,} {value['split']} images of {value['data']} on {value['target']}",
    ]
    if value["prior"]:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in value["prior"].items())
        made.append(f"weighted as where it is deployed: {shares}, the rest pro rata")
    made += ["", *table(rows[0], rows[1:], " " + "r" * len(columns)), ""]
    made += [verdict["text"] for verdict in value["verdicts"]]
    made += ["", f"where MACs mislead, share of MACs against share of {kind}:"]
    for name, units in value["misled"].items():
        worst = ", ".join(
            f"{each['unit']} {each['predicted']:.1%} / {each['measured']:.1%}"
            for each in units[:MISLED]
        )
        made.append(f"  {name}: {worst}")
    return made


@click.command(
    cls=Command,
    epilog=examples(
        "cgate compare runs/gated runs/static",
        "cgate compare runs/gated runs/static --prior cat=0.02",
    ),
)
@click.argument("bundles", type=FOLDER, nargs=-1, required=True)
@click.option(
    "--run", metavar="NAME", help="The run to compare. Default: the longest under QEMU of each."
)
@click.option(
    "--prior",
    multiple=True,
    metavar="CLASS=SHARE",
    help="How often a class comes where the network is deployed; the rest pro rata. Repeatable.",
)
def command(bundles: tuple[Path, ...], run: str | None, prior: tuple[str, ...]) -> Outcome:
    """Compare BUNDLES on the same images: accuracy, cost, worst case, and who pays.

    Needs a run of each: `cgate run BUNDLE`; one with `--gates open` adds the worst case.
    """
    from cgate.host_tools.compare import compare, load_side, read_prior

    if len(bundles) < 2:
        raise CgateError("one bundle alone compares with nothing", "cgate compare BUNDLE BUNDLE")
    sides = [load_side(bundle, run) for bundle in bundles]
    value = compare(sides, read_prior(prior, sides[0].plan.classes))
    return Outcome(value, lines(value))
