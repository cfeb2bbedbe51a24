"""`cgate inspect`."""

from __future__ import annotations

from pathlib import Path

import click

from cgate.core.files import write_text
from cgate.core.plan import load_bundle
from cgate.host_tools.cli import Command, Outcome, examples
from cgate.host_tools.commands.options import FOLDER


@click.command(
    cls=Command,
    epilog=examples(
        "cgate inspect runs/bundle",
        "cgate inspect runs/bundle --svg network.svg",
        "cgate inspect runs/bundle --json",
    ),
)
@click.argument("bundle", type=FOLDER)
@click.option("--svg", type=FOLDER, metavar="FILE", help="Also draw the network and its gates.")
def command(bundle: Path, svg: Path | None) -> Outcome:
    """Show the plan of BUNDLE: units, ops, shapes, scales, costs, kernels, places in memory."""
    from cgate.host_tools import inspection, picture

    loaded = load_bundle(bundle)
    lines = inspection.lines(loaded)
    value = inspection.to_json(loaded)
    if svg is not None:
        write_text(svg, picture.svg(loaded))
        value["svg"] = str(svg)
        lines += ["", f"picture  {svg}"]
    return Outcome(value, lines)
