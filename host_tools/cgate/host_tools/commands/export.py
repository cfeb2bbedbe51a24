"""`cgate export`."""

from __future__ import annotations

from pathlib import Path

import click

from cgate.core.network import THRESHOLD
from cgate.core.targets import Target
from cgate.export.quantize import DEFAULT_RANGES, RANGE_CHOICES
from cgate.host_tools.cli import Command, Outcome, examples, progress
from cgate.host_tools.commands.options import FOLDER, target_option


@click.command(
    cls=Command,
    epilog=examples(
        "cgate export runs/digits --target cortex-m4 --out runs/bundle",
        "cgate export --checkpoint runs/digits --board netduinoplus2 --out runs/small",
    ),
)
@click.argument("source", type=FOLDER, required=False)
@click.option("--checkpoint", type=FOLDER, metavar="FOLDER", help="Another way to give SOURCE.")
@target_option("Board or core, see `cgate targets`.", default="cortex-m4")
@click.option("--out", required=True, type=FOLDER, metavar="FOLDER", help="Bundle folder to write.")
@click.option(
    "--name", default="model", show_default=True, metavar="NAME", help="Prefix of the generated C."
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=THRESHOLD,
    show_default=True,
    help="A gate is open where its sigmoid is above this.",
)
@click.option(
    "--ranges",
    type=click.Choice(RANGE_CHOICES),
    default=DEFAULT_RANGES,
    show_default=True,
    help="How scales follow from what was observed: extremes, 0.01 % cut off, least squared error.",
)
@click.option(
    "--kernels",
    type=click.Choice(["auto", "dsp", "ref"]),
    default="auto",
    show_default=True,
    help="auto: the fastest that fit; dsp: the same, on a core with DSP only; ref: portable C.",
)
@click.option("--onnx", is_flag=True, help="Write the float network as ONNX too, with If.")
def command(
    source: Path | None,
    checkpoint: Path | None,
    target: Target,
    out: Path,
    name: str,
    threshold: float,
    ranges: str,
    kernels: str,
    onnx: bool,
) -> Outcome:
    """Turn the checkpoint SOURCE into an int8 bundle: plan, C and TFLite.

    Needs neither data nor torch. The same checkpoint gives the same bytes on every machine.
    """
    if (source is None) == (checkpoint is None):
        raise click.UsageError("give one checkpoint: SOURCE or --checkpoint FOLDER")
    folder = source or checkpoint
    assert folder is not None
    from cgate.export.bundle import export_checkpoint

    summary = export_checkpoint(
        folder,
        out,
        target,
        name=name,
        threshold=threshold,
        ranges=ranges,
        kernels=kernels,
        onnx=onnx,
        progress=progress(),
    )
    return Outcome(summary.to_json(), summary.lines())
