"""`cgate margins`."""

from __future__ import annotations

from pathlib import Path

import click

from cgate.host_tools.cli import Command, Outcome, examples, progress
from cgate.host_tools.commands.options import FOLDER, data_dir_option
from cgate.host_tools.commands.train import card_lines


@click.command(
    cls=Command,
    epilog=examples(
        "cgate margins runs/exit --share 0.6 --out runs/exit-60",
        "cgate margins runs/exit --loss 0.002 --out runs/exit-careful",
    ),
)
@click.argument("checkpoint", type=FOLDER)
@click.option(
    "--share",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Of the dense network's MACs, to execute at most.",
)
@click.option(
    "--loss",
    type=click.FloatRange(0, 1),
    metavar="LOSS",
    help="Accuracy to lose at most against never leaving; 0.005 is half a point.",
)
@click.option(
    "--out", type=FOLDER, required=True, metavar="FOLDER", help="Checkpoint folder to write."
)
@data_dir_option
def command(
    checkpoint: Path,
    share: float | None,
    loss: float | None,
    out: Path,
    data_dir: Path | None,
) -> Outcome:
    """Choose anew how sure the exits of CHECKPOINT must be, for another budget.

    Validation images decide. Nothing is trained.
    """
    if (share is None) == (loss is None):
        raise click.UsageError("give either --share or --loss")
    from cgate.train.margins import choose_margins

    card = choose_margins(checkpoint, out, share, loss, data_dir, progress())
    return Outcome({"folder": str(out), "card": card}, card_lines(card, out))
