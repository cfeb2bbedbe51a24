"""`cgate report`."""

from __future__ import annotations

from pathlib import Path

import click

from cgate.host_tools.cli import Command, Outcome, examples
from cgate.host_tools.commands.options import FOLDER, data_dir_option


@click.command(
    cls=Command,
    epilog=examples("cgate report runs/bundle", "cgate report runs/bundle --run validation"),
)
@click.argument("bundle", type=FOLDER)
@click.option(
    "--run", metavar="NAME", help="Folder under runs/. Default: the longest with learned gates."
)
@data_dir_option
def command(bundle: Path, run: str | None, data_dir: Path | None) -> Outcome:
    """Write report.html and report.json of the runs of BUNDLE.

    The page is one file, needs no network and can be sent to anybody.
    """
    from cgate.host_tools.report import HTML, JSON, write_report

    value = write_report(bundle, run=run, data_dir=data_dir)
    page = bundle / HTML
    return Outcome({"html": str(page), "json": str(bundle / JSON), "report": value}, [str(page)])
