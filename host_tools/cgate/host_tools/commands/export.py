"""`cgate export`."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from cgate.core.network import THRESHOLD
from cgate.core.targets import Target
from cgate.export.choose import CHOICES, Limits
from cgate.export.kernels import CMSIS_NN
from cgate.export.quantize import RANGE_CHOICES
from cgate.host_tools.cli import Command, Outcome, examples, progress
from cgate.host_tools.cmsis_nn import find_cmsis_nn
from cgate.host_tools.commands.options import (
    FOLDER,
    cmsis_nn_option,
    data_dir_option,
    limit_option,
    limit_options,
    target_option,
    within,
)


def _thresholds(
    context: click.Context, option: click.Parameter, value: str | None
) -> tuple[float, ...] | None:
    if value is None:
        return None
    try:
        found = tuple(float(word) for word in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no list of numbers such as 0.3,0.45") from error
    if not all(0 < each < 1 for each in found):
        raise click.BadParameter("thresholds lie between 0 and 1")
    return found


def _import(
    path: Path, out: Path, target: Target, name: str, kernels: str, limits: Limits
) -> Outcome:
    """Export a network file, for which the options of gates and ranges mean nothing."""
    context = click.get_current_context()
    for parameter in ("threshold", "ranges", "onnx", "sweeping"):
        if context.get_parameter_source(parameter) is ParameterSource.COMMANDLINE:
            option = {"sweeping": "threshold-sweep"}.get(parameter, parameter)
            raise click.UsageError(
                f"--{option} is for checkpoints; {path} has its integers already"
            )
    from cgate.export.bundle import export_tflite
    from cgate.host_tools import footprint

    summary = export_tflite(
        path, out, target, name=name, kernels=kernels, limits=limits, progress=progress()
    )
    return Outcome(summary.to_json(), footprint.lines(summary))


@click.command(
    cls=Command,
    epilog=examples(
        "cgate export runs/digits --target cortex-m4 --out runs/bundle",
        "cgate export runs/digits --target stm32f405 --flash 512K --ram 96K --out runs/half",
        "cgate export --checkpoint runs/digits --board netduinoplus2 --out runs/small",
        "cgate export resnet8_int8.tflite --target cortex-m4 --out runs/resnet8",
        "cgate export runs/digits --out runs/cheaper --threshold 0.6",
        "cgate export runs/digits --out runs/bundle --threshold-sweep",
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
    help="How scales follow from what was observed: extremes, 0.01 % cut off, least squared error. "
    "Default: mse, or what the checkpoint was fine-tuned with.",
)
@click.option(
    "--kernels",
    type=click.Choice(CHOICES),
    default="auto",
    show_default=True,
    help="auto: the fastest that fit; dsp: the same, on a core with DSP only; ref: portable C; "
    "cmsis-nn: Arm's library for convolutions and residual additions, to compare with.",
)
@cmsis_nn_option("Of --kernels cmsis-nn: a copy of Arm's CMSIS-NN (>= 7.0.0).")
@click.option("--onnx", is_flag=True, help="Write the float network as ONNX too, with If.")
@click.option(
    "--threshold-sweep",
    "sweeping",
    is_flag=True,
    help="Also measure accuracy against executed MACs over thresholds: threshold_sweep.csv, .json.",
)
@click.option(
    "--thresholds",
    metavar="A,B,C",
    callback=_thresholds,
    help="Of the sweep. Default: 14 from 0.02 to 0.98.",
)
@click.option("--data", metavar="NAME", help="Of the sweep. Default: what fits the network.")
@data_dir_option
@click.option(
    "--split",
    type=click.Choice(["train", "validation", "test"]),
    default="validation",
    show_default=True,
    help="Of the sweep. A threshold chosen on the test images has no honest test accuracy.",
)
@limit_option
@limit_options
def command(
    source: Path | None,
    checkpoint: Path | None,
    target: Target,
    out: Path,
    name: str,
    threshold: float,
    ranges: str | None,
    kernels: str,
    cmsis_nn: Path | None,
    onnx: bool,
    sweeping: bool,
    thresholds: tuple[float, ...] | None,
    data: str | None,
    data_dir: Path | None,
    split: str,
    limit: int | None,
    flash: int | None,
    ram: int | None,
) -> Outcome:
    """Turn SOURCE, a checkpoint or an int8 .tflite file, into a bundle: plan, C and TFLite.

    Needs neither data nor torch (a sweep runs labelled images). The same checkpoint gives the
    same bytes on every machine.
    """
    if (source is None) == (checkpoint is None):
        raise click.UsageError("give one checkpoint or .tflite file: SOURCE or --checkpoint FOLDER")
    folder = source or checkpoint
    assert folder is not None
    if thresholds is not None and not sweeping:
        raise click.UsageError("--thresholds belongs to --threshold-sweep")
    if cmsis_nn is not None and kernels != CMSIS_NN:
        raise click.UsageError("--cmsis-nn belongs to --kernels cmsis-nn")
    if kernels == CMSIS_NN:
        find_cmsis_nn(cmsis_nn)  # said now, and not when the bundle is built
    limits = Limits(within("flash", flash, target.flash.size), within("ram", ram, target.ram.size))
    if folder.suffix == ".tflite" or folder.is_file():
        return _import(folder, out, target, name, kernels, limits)
    from cgate.export.bundle import export_checkpoint
    from cgate.host_tools import footprint

    summary = export_checkpoint(
        folder,
        out,
        target,
        name=name,
        threshold=threshold,
        ranges=ranges,
        kernels=kernels,
        onnx=onnx,
        limits=limits,
        progress=progress(),
    )
    value, lines = summary.to_json(), footprint.lines(summary)
    if sweeping:
        from cgate.host_tools.inputs import load_inputs
        from cgate.host_tools.threshold_sweep import THRESHOLDS, sweep, sweep_lines, write_sweep

        inputs = load_inputs(summary.plan, data, data_dir=data_dir, split=split, limit=limit)
        curve = sweep(
            folder,
            inputs,
            thresholds=thresholds or THRESHOLDS,
            ranges=ranges,
            progress=progress(),
        )
        paths = write_sweep(out, curve)
        value["threshold_sweep"] = curve
        lines = [*lines, "", *sweep_lines(curve), *map(str, paths)]
    return Outcome(value, lines)
