"""`cgate flash`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from cgate.core.plan import load_bundle
from cgate.core.targets import Target, find_target
from cgate.host_tools.cli import Command, Outcome, examples, progress
from cgate.host_tools.commands.options import FOLDER, app_option, library_option, target_option
from cgate.host_tools.console import facts
from cgate.host_tools.flash import TOOLS, flash_command, run_flash


@click.command(
    cls=Command,
    epilog=examples(
        "cgate flash runs/bundle --board nucleo-l4r5zi",
        "cgate flash runs/bundle --board nrf52840-dk --tool probe-rs --dry-run",
    ),
)
@click.argument("bundle", type=FOLDER)
@target_option("The board. Default: what the bundle was exported for.")
@app_option
@library_option
@click.option(
    "--tool", type=click.Choice(TOOLS), help="Default: the first of these that is installed."
)
@click.option("--dry-run", is_flag=True, help="Build, and print the command instead of running it.")
def command(
    bundle: Path,
    target: Target | None,
    app: str,
    cmsis_nn: Path | None,
    tool: str | None,
    dry_run: bool,
) -> Outcome:
    """Build BUNDLE for a board's UART and write the program into its flash.

    Then run images on it: cgate run BUNDLE --board NAME --on serial.
    """
    from cgate.host_tools.build import build

    machine = target or find_target(load_bundle(bundle).plan.target)
    flash_command(machine, bundle, tool)  # refuses what is no board before anything is built
    built = build(bundle, machine, io="uart", app=app, cmsis_nn=cmsis_nn, progress=progress())
    words = flash_command(machine, built.program, tool)
    if not dry_run:
        run_flash(words)
    assert machine.board is not None
    value = {"program": str(built.program), "command": words, "flashed": not dry_run, "app": app}
    pairs = [
        ("would run" if dry_run else "ran", shlex.join(words)),
        ("UART", machine.board.serial),
        ("power pin", machine.board.pulse_label),
    ]
    return Outcome(value, facts(pairs))
