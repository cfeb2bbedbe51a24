"""`cgate build`."""

from __future__ import annotations

from pathlib import Path

import click

from cgate.core.plan import load_bundle
from cgate.core.targets import Target, find_target, size_text
from cgate.host_tools.cli import Command, Outcome, examples, progress
from cgate.host_tools.commands.options import FOLDER, io_option, on_option, target_option
from cgate.host_tools.console import facts


@click.command(
    cls=Command,
    epilog=examples("cgate build runs/bundle", "cgate build runs/bundle --on host"),
)
@click.argument("bundle", type=FOLDER)
@target_option("Another machine than the bundle was exported for.")
@on_option
@io_option
def command(bundle: Path, target: Target | None, on: str, io: str) -> Outcome:
    """Compile BUNDLE for its target, or for this machine with --on host."""
    from cgate.host_tools.build import build

    plan = load_bundle(bundle).plan
    built = build(bundle, target or find_target(plan.target), on=on, io=io, progress=progress())
    machine = built.target
    value = {
        "program": str(built.program),
        "on": built.on,
        "target": machine.name if machine else None,
        "io": built.io,
        "flash": built.flash,
        "ram": built.ram,
        "stack": built.stack,
    }
    pairs = [("program", str(built.program))]
    if machine is not None:
        for name, used, limit in (
            ("flash", built.flash, machine.flash.size),
            ("RAM", built.ram, machine.ram.size),
        ):
            if used is not None:
                share = f"{size_text(used)} of {size_text(limit)} ({used / limit:.1%})"
                pairs.append((name, share))
        pairs.append(("stack", f"at most {built.stack} B, part of the RAM"))
    return Outcome(value, facts(pairs))
