"""`cgate build`."""

from __future__ import annotations

from pathlib import Path

import click

from cgate.core.plan import load_bundle
from cgate.core.targets import Target, find_target, size_text
from cgate.host_tools.cli import Command, Outcome, examples, progress
from cgate.host_tools.commands.options import (
    FOLDER,
    app_option,
    io_option,
    library_option,
    on_option,
    target_option,
)
from cgate.host_tools.console import facts


@click.command(
    cls=Command,
    epilog=examples("cgate build runs/bundle", "cgate build runs/bundle --on host"),
)
@click.argument("bundle", type=FOLDER)
@target_option("Another machine than the bundle was exported for.")
@on_option
@io_option
@app_option
@library_option
def command(
    bundle: Path, target: Target | None, on: str, io: str, app: str, cmsis_nn: Path | None
) -> Outcome:
    """Compile BUNDLE for its target, or for this machine with --on host."""
    from cgate.host_tools.build import build

    machine = target or find_target(load_bundle(bundle).plan.target)
    io = io if app == "stream" else "uart"
    built = build(bundle, machine, on=on, io=io, app=app, cmsis_nn=cmsis_nn, progress=progress())
    made_for = built.target
    value = {
        "program": str(built.program),
        "on": built.on,
        "target": made_for.name if made_for else None,
        "io": built.io,
        "app": app,
        "flash": built.flash,
        "ram": built.ram,
        "stack": built.stack,
    }
    pairs = [("program", str(built.program))]
    if made_for is not None:
        for name, used, limit in (
            ("flash", built.flash, made_for.flash.size),
            ("RAM", built.ram, made_for.ram.size),
        ):
            if used is not None:
                share = f"{size_text(used)} of {size_text(limit)} ({used / limit:.1%})"
                pairs.append((name, share))
        pairs.append(("stack", f"at most {built.stack} B, part of the RAM"))
    return Outcome(value, facts(pairs))
