"""`cgate verify`."""

from __future__ import annotations

from pathlib import Path

import click

from cgate.core.errors import EXIT_CHECK_FAILED, CgateError
from cgate.core.files import write_json
from cgate.core.plan import load_bundle
from cgate.core.targets import Target
from cgate.host_tools.cli import Command, Outcome, examples, progress
from cgate.host_tools.commands.options import (
    FOLDER,
    data_options,
    library_option,
    limit_option,
    target_option,
)


@click.command(
    cls=Command,
    epilog=examples(
        "cgate verify runs/bundle --limit 200",
        "cgate verify runs/bundle --limit 50 --on tflite --on host",
    ),
)
@click.argument("bundle", type=FOLDER)
@target_option("Another machine than the bundle was exported for.")
@limit_option
@click.option(
    "--on",
    multiple=True,
    type=click.Choice(["tflite", "network", "host", "qemu", "litert"]),
    help="Compare this route only; may be repeated. Default: all but litert, which is the units "
    "under another TFLite package.",
)
@click.option(
    "--gates",
    type=click.Choice(["both", "learned", "open"]),
    default="both",
    show_default=True,
    help="With gates as learned, with all of them open, or both in turn.",
)
@library_option
@data_options
def command(
    bundle: Path,
    target: Target | None,
    limit: int | None,
    on: tuple[str, ...],
    gates: str,
    cmsis_nn: Path | None,
    data: str | None,
    data_dir: Path | None,
    split: str,
    chosen: Path | None,
) -> Outcome:
    """Compare TFLite, host C and emulated target with the integer reference, bit for bit.

    Every unit's output and every gate's decision is compared, with gates as learned and with all
    gates open; of "network", the one .tflite with IF, the answers and decisions, as learned.
    Writes verify.json; the exit code is 1 if one value differs.
    """
    from cgate.host_tools.inputs import load_inputs
    from cgate.host_tools.verify import PATTERNS, ROUTES, VERIFICATION, verify

    inputs = load_inputs(
        load_bundle(bundle).plan, data, data_dir=data_dir, split=split, limit=limit, chosen=chosen
    )
    found = verify(
        bundle,
        inputs.images,
        data=inputs.data,
        target=target,
        on=on or ROUTES,
        patterns=PATTERNS if gates == "both" else (gates,),
        cmsis_nn=cmsis_nn,
        progress=progress(),
    )
    write_json(bundle / VERIFICATION, found.to_json())
    if found.equal:
        return Outcome(found.to_json(), found.lines())
    routes = ", ".join(each.route for each in found.comparisons if each.differing)
    error = CgateError(f"{routes} differs from the reference", code=EXIT_CHECK_FAILED)
    return Outcome(found.to_json(), found.lines(), EXIT_CHECK_FAILED, error)
