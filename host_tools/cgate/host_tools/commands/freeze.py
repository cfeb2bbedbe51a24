"""`cgate freeze`."""

from __future__ import annotations

from pathlib import Path

import click

from cgate.host_tools.cli import Command, Outcome, examples, progress
from cgate.host_tools.commands.options import FOLDER, data_dir_option
from cgate.host_tools.commands.train import card_lines
from cgate.host_tools.console import facts


@click.command(cls=Command, epilog=examples("cgate freeze runs/balanced --out runs/static"))
@click.argument("checkpoint", type=FOLDER)
@click.option(
    "--out", type=FOLDER, required=True, metavar="FOLDER", help="Checkpoint folder to write."
)
@data_dir_option
def command(checkpoint: Path, out: Path, data_dir: Path | None) -> Outcome:
    """Make CHECKPOINT static: fix each gate at its more frequent decision.

    If the result is as good at no more MACs, the gates do not pay. Nothing is trained.
    """
    from cgate.train.freeze import freeze

    card = freeze(checkpoint, out, data_dir, progress())
    before = card["frozen_from"]
    fixed = ", ".join(f"{name} {'open' if on else 'shut'}" for name, on in before["open"].items())
    lines = facts(
        [
            ("fixed", fixed),
            (
                "with its gates",
                f"{before['accuracy']['test']:.2%} of the test images at "
                f"{before['executed_macs']:,.0f} executed MACs",
            ),
        ]
    )
    return Outcome({"folder": str(out), "card": card}, [*card_lines(card, out), *lines])
