"""`cgate targets`."""

from __future__ import annotations

from dataclasses import asdict

import click

from cgate.core.targets import Target, all_targets, size_text
from cgate.host_tools.cli import Command, Outcome, examples
from cgate.host_tools.console import table


def _value(target: Target) -> dict[str, object]:
    return {
        "name": target.name,
        "aliases": list(target.aliases),
        "description": target.description,
        "core": target.core,
        "clock_hz": target.clock_hz,
        "flash": {"origin": target.flash.origin, "size": target.flash.size},
        "ram": {"origin": target.ram.origin, "size": target.ram.size},
        "code_ram": asdict(target.code_ram) if target.code_ram else None,
        "qemu_machine": target.qemu_machine or None,
        "board": asdict(target.board) if target.board else None,
        "verified": target.verified,
    }


def _row(target: Target) -> list[str]:
    return [
        target.name,
        ", ".join(target.aliases),
        target.core,
        size_text(target.flash.size),
        size_text(target.ram.size),
        f"{target.clock_hz / 1e6:g} MHz",
        "QEMU" if target.qemu_machine else "serial",
        target.verified,
    ]


@click.command(cls=Command, epilog=examples("cgate targets", "cgate targets --json"))
def command() -> Outcome:
    """List the boards and emulated machines that bundles can be made for."""
    head = ["name", "also called", "core", "flash", "RAM", "clock", "runner", "verified"]
    return Outcome(
        {"targets": [_value(target) for target in all_targets()]},
        table(head, [_row(target) for target in all_targets()], "   rrr"),
    )
