"""`cgate bench`."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path

import click

from cgate.core.costs import FOLDER as COSTS
from cgate.core.files import write_text
from cgate.core.targets import Target, find_target
from cgate.core.version import commit
from cgate.host_tools import bench
from cgate.host_tools.cli import Group, Outcome, examples, progress
from cgate.host_tools.cmsis_nn import optional_cmsis_nn
from cgate.host_tools.commands.options import FOLDER, cmsis_nn_option, data_dir_option, limit_option
from cgate.host_tools.console import table


def _targets(
    context: click.Context, option: click.Parameter, names: tuple[str, ...]
) -> list[Target]:
    return [find_target(name) for name in names]


targets_option = click.option(
    *("--target", "-t", "--board", "targets"),
    multiple=True, default=["cortex-m4"], show_default=True, callback=_targets, metavar="NAME",
    help="Board or core; may be given several times.",
)  # fmt: skip

out_option = click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Also write the figures as CSV.",
)  # fmt: skip


@click.group(
    cls=Group,
    name="bench",
    epilog=examples("cgate bench kernels", "cgate bench kernels --target netduinoplus2"),
)
def command() -> None:
    """Measure kernels and networks under QEMU, and what the gates of checkpoints are worth."""


@command.command(
    "kernels",
    epilog=examples(
        "cgate bench kernels",
        "cgate bench kernels --target cortex-m4 --target cortex-m33 --out kernels.csv",
        "cgate bench kernels --target cortex-m4 --costs",
    ),
)
@targets_option
@out_option
@click.option(
    "--costs",
    is_flag=True,
    help="Measure many more shapes and write the target's table that export chooses kernels by.",
)
@cmsis_nn_option("Measure this copy of Arm's CMSIS-NN (>= 7.0.0) too.")
def kernels_command(
    targets: list[Target], out: Path | None, costs: bool, cmsis_nn: Path | None
) -> Outcome:
    """Run every kernel on the same layers and compare what it costs.

    All variants of a layer must give the same output.
    """
    calls = bench.cost_calls() if costs else bench.LAYERS
    # The exporter's tables hold what the exporter can choose.
    library = None if costs else optional_cmsis_nn(cmsis_nn)
    measured = {
        target.name: bench.measure(target, calls, cmsis_nn=library, progress=progress())
        for target in targets
    }
    lines: list[str] = []
    for name, of_target in measured.items():
        lines += [*([""] if lines else []), f"{name}:", *bench.costs_lines(of_target)]
    if costs:
        for name, of_target in measured.items():
            bench.write_costs(COSTS / f"{name}.csv", of_target)
        lines += ["", *(f"wrote {COSTS / name}.csv" for name in measured)]
    if out is not None:
        bench.write_results(out, measured, commit() or "unknown")
        lines += ["", f"wrote {out}"]
    value = {
        name: [bench.cost_value(cost) for cost in of_target] for name, of_target in measured.items()
    }
    return Outcome({"kernels": value}, lines)


@command.command(
    "network",
    epilog=examples(
        "cgate bench network",
        "cgate bench network runs/digits resnet8_int8.tflite --target nucleo-l4r5zi",
        "cgate bench network --cmsis-nn CMSIS-NN --out network.csv",
    ),
)
@click.argument("sources", nargs=-1, type=FOLDER, metavar="[SOURCE]...")
@targets_option
@out_option
@cmsis_nn_option("Measure with this copy of Arm's CMSIS-NN (>= 7.0.0) too.")
def network_command(
    sources: tuple[Path, ...], targets: list[Target], out: Path | None, cmsis_nn: Path | None
) -> Outcome:
    """Run whole networks with the kernels that export chooses, with portable C, and Arm's library.

    Always a dense ResNet-20 for 32x32 pixels with random weights, which needs torch and no data;
    then every SOURCE, a checkpoint or an int8 .tflite file. Images are random.

    "auto, int8 size" may take 48 kB more flash than portable C takes, which holds weights of one
    byte: room for code.
    """
    from cgate.host_tools import network_bench

    library = optional_cmsis_nn(cmsis_nn)
    rows = []
    with tempfile.TemporaryDirectory(prefix="cgate-") as temporary:
        dense = Path(temporary) / network_bench.DENSE
        network_bench.write_dense(dense)
        for target in targets:
            for source in (dense, *sources):
                rows += network_bench.measure(source, target, cmsis_nn=library, progress=progress())
    lines = network_bench.lines(rows)
    if out is not None:
        write_text(out, network_bench.to_csv(rows, commit() or "unknown"))
        lines += ["", f"wrote {out}"]
    return Outcome({"networks": [asdict(row) for row in rows]}, lines)


@command.command("code", epilog=examples("cgate bench code", "cgate bench code --target cortex-m7"))
@targets_option
def code_command(targets: list[Target]) -> Outcome:
    """Measure how much code each kernel takes, and write the table that export estimates by.

    Needs the ARM compiler only. Run it when a kernel has changed.
    """
    from cgate.host_tools.code_sizes import write_kernel_code

    paths = [write_kernel_code(core) for core in dict.fromkeys(each.core for each in targets)]
    return Outcome({"written": [str(path) for path in paths]}, [f"wrote {path}" for path in paths])


@command.command(
    "gates",
    epilog=examples(
        "cgate bench gates --from models --out results/gates.csv",
        "cgate bench gates --from runs/balanced --limit 1000",
    ),
)
@click.option(
    "--from", "folder", type=FOLDER, required=True, metavar="FOLDER",
    help="A checkpoint, or a folder of checkpoints.",
)  # fmt: skip
@out_option
@limit_option
@data_dir_option
def gates_command(
    folder: Path, out: Path | None, limit: int | None, data_dir: Path | None
) -> Outcome:
    """Show what gates are worth: with them, without them, and with their decisions shuffled.

    Every test image goes through each checkpoint's int8 plan, in C on this machine: the same
    figures everywhere.
    """
    from cgate.host_tools.gate_bench import bench_gates, to_csv

    rows = bench_gates(folder, data_dir, limit, progress())
    head = ["checkpoint", "gates", "accuracy", "MACs", "majority", "MACs", "shuffled", "float"]
    cells = [
        [
            row.checkpoint,
            row.kind,
            f"{row.top1:.2%}",
            f"{row.executed_macs:,.0f}",
            f"{row.top1_majority:.2%}",
            f"{row.majority_macs:,.0f}",
            f"{row.top1_shuffled:.2%}",
            f"{row.top1_float:.2%}",
        ]
        for row in rows
    ]
    lines = table(head, cells, "  rrrrrr")
    if out is not None:
        write_text(out, to_csv(rows))
        lines += ["", f"wrote {out}"]
    return Outcome({"checkpoints": [asdict(row) for row in rows]}, lines)
