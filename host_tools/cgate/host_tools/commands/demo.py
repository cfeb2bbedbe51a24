"""`cgate demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cgate.core.targets import Target, size_text
from cgate.host_tools.cli import Command, Outcome, examples, progress
from cgate.host_tools.commands.options import FOLDER, data_dir_option, target_option
from cgate.host_tools.console import facts


@click.command(
    cls=Command,
    epilog=examples("cgate demo", "cgate demo --data cifar10 --target netduinoplus2"),
)
@click.option(
    "--data",
    type=click.Choice(["digits", "cifar10"]),
    default="digits",
    show_default=True,
    help="digits comes with scikit-learn; cifar10 see `cgate data`.",
)
@click.option("--out", type=FOLDER, metavar="FOLDER", help="Default: runs/demo-DATA.")
@target_option("Board or core, see `cgate targets`.", default="cortex-m4")
@click.option(
    "--limit",
    type=click.IntRange(2),
    metavar="N",
    help="Test images under QEMU. Default: all of digits, 500 of cifar10.",
)
@click.option("--epochs", type=click.IntRange(1), metavar="N", help="Instead of the recipe's.")
@data_dir_option
def command(
    data: str,
    out: Path | None,
    target: Target,
    limit: int | None,
    epochs: int | None,
    data_dir: Path | None,
) -> Outcome:
    """Do all of it: train, export, build, run under QEMU, verify bit for bit, report.

    The last line is the path of the HTML report. A second call reuses the trained checkpoint.
    """
    from cgate.host_tools.demo import demo
    from cgate.host_tools.summary import headline_lines

    value = demo(
        data,
        out or Path("runs") / f"demo-{data}",
        target,
        data_dir=data_dir,
        limit=limit,
        epochs=epochs,
        progress=progress(),
    )
    memory, opened = value["memory"], value["instructions"]["all_open"]
    saved = 1 - value["instructions"]["mean"] / opened["without_gates_mean"]
    pairs = [
        ("network", f"{value['network']} on {value['target']['name']} ({value['target']['core']})"),
        *headline_lines(value),
        (
            "saved",
            f"{saved:.1%} of the instructions of the same network without gates "
            f"({opened['without_gates_mean']:,.0f})",
        ),
        *_control(value),
        ("flash, RAM", f"{size_text(memory['flash'])}, {size_text(memory['ram'])}"),
        ("bit-exact", f"{value['agreement']['images']} images, every unit: equal"),
    ]
    texts = [value["accounts"][-1]["savings"]["text"]]
    texts += [value["verdict"]["text"]] if value["verdict"] else []
    return Outcome(value, [*facts(pairs), "", *texts, "", value["html"]])


def _control(value: dict[str, Any]) -> list[tuple[str, str]]:
    """The static network inside the gated one: the comparison that gates have to win."""
    frozen = value["controls"].get("majority")
    if frozen is None:
        return []
    share = frozen["executed_macs"] / value["macs"]["dense"]
    text = f"{frozen['accuracy']:.2%} at {share:.1%} of the MACs if each gate is frozen (float)"
    return [("control", text)]
