"""`cgate doctor`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from cgate.core.errors import EXIT_OK, EXIT_TOOL_MISSING, CgateError
from cgate.host_tools.cli import Command, Outcome, examples
from cgate.host_tools.commands.options import data_dir_option
from cgate.host_tools.console import table


@click.command(cls=Command, epilog=examples("cgate doctor", "cgate doctor --json"))
@data_dir_option
def command(data_dir: Path | None) -> Outcome:
    """Check the tools and packages that cgate needs, and say how to get what is missing.

    The exit code is 3 if something is missing that training, building or running needs.
    """
    from cgate.host_tools.doctor import examine

    checks = examine(data_dir)
    rows = [
        [
            "ok" if check.ok else "MISSING" if check.required else "absent",
            check.name,
            check.found or "-",
            check.wanted,
            check.purpose,
            "" if check.ok else check.fix,
        ]
        for check in checks
    ]
    missing = [check for check in checks if check.required and not check.ok]
    lines = table(["", "what", "found", "wanted", "for", "get it by"], rows)
    error = None
    if missing:
        names = ", ".join(check.name for check in missing)
        error = CgateError(f"missing: {names}", missing[0].fix, EXIT_TOOL_MISSING)
    return Outcome(
        {"checks": [{**asdict(check), "ok": check.ok} for check in checks]},
        lines,
        EXIT_TOOL_MISSING if missing else EXIT_OK,
        error,
    )
