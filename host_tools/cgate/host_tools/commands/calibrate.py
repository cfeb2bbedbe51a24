"""`cgate calibrate`."""

from __future__ import annotations

from pathlib import Path

import click

from cgate.host_tools.cli import Command, Outcome, examples, progress
from cgate.host_tools.commands.options import FOLDER, data_dir_option


@click.command(cls=Command, epilog=examples("cgate calibrate runs/digits"))
@click.argument("checkpoint", type=FOLDER)
@data_dir_option
def command(checkpoint: Path, data_dir: Path | None) -> Outcome:
    """Measure the activation ranges of CHECKPOINT again, on training images."""
    from cgate.core.checkpoint import RANGES
    from cgate.train.ranges import calibrate

    calibrate(checkpoint, data_dir, progress())
    path = checkpoint / RANGES
    return Outcome({"folder": str(checkpoint), "ranges": str(path)}, [str(path)])
