"""`cgate fidelity`."""

from __future__ import annotations

from pathlib import Path

import click

from cgate.core.files import write_json
from cgate.core.plan import load_bundle
from cgate.host_tools.cli import Command, Outcome, examples, progress
from cgate.host_tools.commands.options import FOLDER, data_options, limit_option


@click.command(
    cls=Command,
    epilog=examples(
        "cgate fidelity runs/digits runs/bundle",
        "cgate fidelity runs/digits runs/bundle --split validation --limit 500",
    ),
)
@click.argument("checkpoint", type=FOLDER)
@click.argument("bundle", type=FOLDER)
@limit_option
@data_options
def command(
    checkpoint: Path,
    bundle: Path,
    limit: int | None,
    data: str | None,
    data_dir: Path | None,
    split: str,
    chosen: Path | None,
) -> Outcome:
    """Say what int8 changes: BUNDLE's integers against CHECKPOINT's float network.

    Accuracy of both, the share of gate decisions that change, and the signal to quantisation
    noise ratio of every unit's output. The int8 side is the generated C on this machine. Writes
    fidelity.json into BUNDLE.
    """
    from cgate.host_tools.fidelity import measure
    from cgate.host_tools.inputs import load_inputs
    from cgate.host_tools.verify import FIDELITY

    plan = load_bundle(bundle).plan
    inputs = load_inputs(plan, data, data_dir=data_dir, split=split, limit=limit, chosen=chosen)
    found = measure(checkpoint, bundle, inputs, progress())
    write_json(bundle / FIDELITY, found.to_json())
    return Outcome(found.to_json(), found.lines())
