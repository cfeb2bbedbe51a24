"""`cgate run`."""

from __future__ import annotations

from pathlib import Path

import click

from cgate.core.plan import load_bundle
from cgate.core.targets import Target
from cgate.host_tools.cli import Command, Outcome, examples, progress
from cgate.host_tools.commands.options import (
    FOLDER,
    data_options,
    io_option,
    jobs_option,
    library_option,
    limit_option,
    target_option,
)
from cgate.host_tools.console import facts


@click.command(
    cls=Command,
    epilog=examples(
        "cgate run runs/bundle",
        "cgate run runs/bundle --limit 20 --gates open",
        "cgate run runs/bundle --on host --split validation",
        "cgate run runs/bundle --board nucleo-l4r5zi --on serial --limit 100",
    ),
)
@click.argument("bundle", type=FOLDER)
@target_option("Another machine than the bundle was exported for.")
@click.option(
    "--on",
    type=click.Choice(["qemu", "host", "serial", "renode"]),
    default="qemu",
    show_default=True,
    help="The emulated target, this machine, a board on a serial line, or Renode.",
)
@click.option(
    "--port", default="auto", show_default=True, metavar="PORT", help="The board's serial port."
)
@io_option
@limit_option
@click.option(
    "--gates",
    type=click.Choice(["learned", "open", "shut"]),
    default="learned",
    show_default=True,
    help="Let gates and exits decide, or force all: open runs everything, shut the least.",
)
@click.option("--name", metavar="NAME", help="Folder under runs/. Default: made from the options.")
@jobs_option
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="Longest time for one image.",
)
@library_option
@data_options
def command(
    bundle: Path,
    target: Target | None,
    on: str,
    port: str,
    io: str,
    limit: int | None,
    gates: str,
    name: str | None,
    jobs: int | None,
    timeout: float,
    cmsis_nn: Path | None,
    data: str | None,
    data_dir: Path | None,
    split: str,
    chosen: Path | None,
) -> Outcome:
    """Run images through the firmware of BUNDLE and record a trace.

    Builds it first where needed. The result is in runs/NAME/trace.json; `cgate report` draws it.
    Under QEMU, units.csv beside it has the instructions of every unit by class.
    """
    from cgate.host_tools.evaluate import evaluate
    from cgate.host_tools.inputs import load_inputs
    from cgate.host_tools.summary import headline, headline_lines

    plan = load_bundle(bundle).plan
    inputs = load_inputs(plan, data, data_dir=data_dir, split=split, limit=limit, chosen=chosen)
    trace, path = evaluate(
        bundle,
        inputs,
        target=target,
        on=on,
        port=port,
        io=io,
        gates=gates,
        name=name,
        jobs=jobs,
        timeout_s=timeout,
        cmsis_nn=cmsis_nn,
        progress=progress(),
    )
    figures = headline(plan, trace)
    value = {
        "trace": str(path),
        "target": trace.target,
        "runner": on,
        "gates_forced": gates,
        "data": inputs.data,
        "split": split,
        **figures,
    }
    places = {"qemu": " under QEMU", "serial": "", "renode": " in Renode"}
    where = trace.target + places[on] if on in places else "this machine"
    part = f"{len(inputs.indices):,} of {inputs.available:,} {split} images of {inputs.data}"
    pairs = [
        ("ran", f"{part} on {where}"),
        *headline_lines(figures, forced=gates != "learned"),
        ("trace", str(path)),
        ("report", f"cgate report {bundle}"),
    ]
    return Outcome(value, facts(pairs))
