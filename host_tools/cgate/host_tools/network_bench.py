"""`cgate bench network`: whole networks with several sets of kernels, in one run under QEMU.

All programs of a network must give the same answers, so that a figure never belongs to kernels that
compute something else. Images are random: costs hardly depend on them, except where gates decide.
"""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cgate.core.errors import EXIT_CHECK_FAILED, CgateError
from cgate.core.progress import Progress, Silent
from cgate.core.targets import Target, emulated
from cgate.export.bundle import Summary, export_checkpoint, export_tflite
from cgate.export.choose import Limits
from cgate.export.kernels import CMSIS_NN
from cgate.host_tools.bench import SEED
from cgate.host_tools.build import Build, build
from cgate.host_tools.cmsis_nn import CmsisNn
from cgate.host_tools.console import table
from cgate.host_tools.runner import Result, run

IMAGES = 2
DENSE = "resnet20"
"""The network that is built here: random weights, no gates, 32x32x3."""

INT8_SIZE = "auto, int8 size"
_ROOM = 48 * 1024
"""Flash of INT8_SIZE beyond the program of `ref`, which reads every weight as one byte: for the
code of faster kernels (31 kB on Cortex-M4) and for what little they add to each layer's constants,
not for many weights transformed at export."""


@dataclass(frozen=True)
class Row:
    """What an inference takes; a mean over the images where it is not the same for all.

    Args:
        kernels: `--kernels` of the export, or INT8_SIZE.
        flash_limit: bytes of flash that the export was allowed.
        instructions: executed, exact.
        cycles: modelled, zero wait states; None for a core without a model.
        cycles_flash: modelled, with the target's flash; None likewise.
        flash: bytes of the linked program.
        ram: bytes of the same, with reserved stack, input and output.
        stack: bytes of stack that it can use.
        macs: of the network with all gates open.
        n: images.
    """

    network: str
    target: str
    kernels: str
    flash_limit: int
    instructions: int
    cycles: int | None
    cycles_flash: int | None
    flash: int
    ram: int
    stack: int
    macs: int
    mac_per_cycle: float | None
    n: int
    seed: int


def write_dense(out: Path) -> None:
    """Write the checkpoint of DENSE."""
    from cgate.train.networks import Task, build_network
    from cgate.train.untrained import write_untrained

    write_untrained(out, build_network(DENSE, Task((32, 32, 3), 10, 128, 64)), SEED)


def _export(
    source: Path, out: Path, target: Target, kernels: str, limits: Limits | None = None
) -> Summary:
    if source.is_file():
        return export_tflite(source, out, target, kernels=kernels, limits=limits)
    return export_checkpoint(source, out, target, kernels=kernels, limits=limits)


def _mean(values: Sequence[int]) -> int:
    return round(sum(values) / len(values))


def _row(kernels: str, made: Summary, built: Build, results: Sequence[Result]) -> Row:
    whole = [result.modelled[-1] for result in results if result.modelled is not None]
    with_flash = _mean([int(cycles) for cycles, _ in whole]) if whole else None
    cycles = _mean([int(cycles - stalls) for cycles, stalls in whole]) if whole else None
    assert built.flash is not None and built.ram is not None and built.stack is not None
    return Row(
        made.plan.network.name,
        made.target.name,
        kernels,
        made.choice.flash_limit,
        _mean([result.total for result in results if result.total is not None]),
        cycles,
        with_flash,
        built.flash,
        built.ram,
        built.stack,
        made.plan.dense_macs,
        round(made.plan.dense_macs / cycles, 3) if cycles else None,
        len(results),
        SEED,
    )


def _pixels(made: Summary) -> NDArray[np.int8]:
    shape = (IMAGES, *made.plan.tensor(made.plan.input).shape)
    return np.random.default_rng(SEED).integers(-128, 128, shape).astype(np.int8)


def measure(
    source: Path,
    target: Target,
    *,
    cmsis_nn: CmsisNn | None = None,
    progress: Progress | None = None,
) -> list[Row]:
    """What an inference of a network costs with each set of kernels.

    A target that QEMU does not have is stood in for by a machine with its core and a model of its
    flash (`targets.stand_in`); kernels are chosen for the target itself.

    Args:
        source: a checkpoint, or an int8 .tflite file.
        cmsis_nn: also measured, if given.

    Raises:
        CgateError: what exporting, building and running raise; answers differ (1).
    """
    progress = progress or Silent()
    machine = emulated(target)
    jobs = ["ref", "auto", INT8_SIZE, *([CMSIS_NN] if cmsis_nn else [])]
    progress.start(f"measure {source.name} on {target.name}", len(jobs))
    rows: list[Row] = []
    answers: list[list[int]] | None = None
    with tempfile.TemporaryDirectory(prefix="cgate-") as temporary:
        for job in jobs:
            kernels, limits = job, None
            if job == INT8_SIZE:
                room = min(rows[0].flash + _ROOM, target.flash.size)
                kernels, limits = "auto", Limits(room, target.ram.size)
            out = Path(temporary) / job
            made = _export(source, out, target, kernels, limits)
            built = build(out, machine, cmsis_nn=cmsis_nn.folder if cmsis_nn else None)
            results = run(built, _pixels(made), jobs=1)
            found = [result.logits.tolist() for result in results]
            answers = answers or found
            if found != answers:
                raise CgateError(
                    f"{source.name} on {target.name}: the answers with the kernels {job} are not "
                    "those with ref",
                    "cgate verify says where they part",
                    EXIT_CHECK_FAILED,
                )
            rows.append(_row(job, made, built, results))
            progress.advance(note=job)
    return rows


def to_csv(rows: Sequence[Row], commit: str) -> str:
    """A line per row, and the commit that was measured."""
    stream = io.StringIO()
    columns = [*(field.name for field in fields(Row)), "commit"]
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({**asdict(row), "commit": commit} for row in rows)
    return stream.getvalue()


def _cells(row: Row) -> Iterator[str]:
    yield from (row.network, row.target, row.kernels)
    for value in (row.instructions, row.cycles, row.cycles_flash):
        yield "" if value is None else f"{value:,}"
    yield "" if row.mac_per_cycle is None else f"{row.mac_per_cycle:.2f}"
    yield from (f"{row.flash:,} B", f"{row.ram:,} B")


def lines(rows: Sequence[Row]) -> list[str]:
    """A table for people."""
    head = ["network", "target", "kernels", "instructions", "cycles", "with flash"]
    return table([*head, "MAC/cycle", "flash", "RAM"], [list(_cells(r)) for r in rows], "   rrrrrr")
