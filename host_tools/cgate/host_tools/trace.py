"""The record of a run: what every image did and what it cost (SPEC.md, section 8)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cgate.core.errors import CgateError
from cgate.core.files import read_json, write_text
from cgate.core.plan import Bundle, Plan
from cgate.host_tools.build import Build
from cgate.host_tools.plugin import CLASSES
from cgate.host_tools.runner import FORCE, Result

SCHEMA = 1
UNITS = "units.csv"
"""Beside a trace of a run under QEMU."""
OUTSIDE = "(outside)"
"""In it, what an inference spends outside of all units."""

RUNNERS = ("qemu", "host", "serial", "renode")
GATES = ("learned", "open", "shut", "majority")


@dataclass(frozen=True)
class Instructions:
    """Executed instructions.

    Args:
        units: [image][unit], 0 where a unit did not run.
        total: [image], a whole inference.
        classes: {class: [in each unit, in all images together; last outside of all units]}, with
            the names of plugin.CLASSES.
    """

    units: list[list[int]]
    total: list[int]
    classes: dict[str, list[int]]


@dataclass(frozen=True)
class BoardCycles:
    """Cycles that a board's own counter measured: [image][unit], and [image] of whole inferences.

    A whole inference is measured undisturbed; its units in a second run, with a stop after each.
    """

    units: list[list[int]]
    total: list[int]


@dataclass(frozen=True)
class ModelledCycles:
    """Cycles by the plugin's model of the core, with the target's flash. Modelled, not measured.

    Args:
        units: [image][unit], 0 where a unit did not run.
        total: [image], a whole inference.
        stalls: [image], how many of `total` are waiting for the flash.
    """

    units: list[list[int]]
    total: list[int]
    stalls: list[int]


@dataclass(frozen=True)
class Binary:
    """Bytes of flash and of RAM (buffers, arena and reserved stack), and the bound on stack use."""

    flash: int
    ram: int
    stack: int


@dataclass(frozen=True)
class Trace:
    """SPEC.md, section 8, explains the fields. Lists have a row per image.

    Args:
        instructions: None except under QEMU, where they are counted.
        binary: None on the host, whose program says nothing about a microcontroller.
        board_cycles: None except on a board that counts them.
        modelled_cycles: None except under QEMU, for a core that there is a model of.
    """

    plan_sha256: str
    target: str
    runner: str
    gates: str
    data: str
    split: str
    images: list[int]
    labels: list[int]
    units: list[str]
    gated: list[str]
    logits: list[list[int]]
    classes: list[int]
    decisions: list[list[int]]
    ran: list[list[int]]
    instructions: Instructions | None
    binary: Binary | None
    board_cycles: BoardCycles | None = None
    modelled_cycles: ModelledCycles | None = None


def ran_units(
    plan: Plan, decisions: NDArray[np.uint8], gates: str | NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Which units run, by the plan's conditions.

    Args:
        decisions: uint8 [n, gates], what the gates themselves said; 0 where not reached.
        gates: "learned", or "open" or "shut" for all; or uint8 [gates] with the codes of FORCE.

    Returns:
        uint8 [n, units], 1 where the unit ran.
    """
    force = np.full(len(plan.gates), FORCE[gates]) if isinstance(gates, str) else gates
    opened = np.where(force == FORCE["learned"], decisions == 1, force == FORCE["open"])
    return plan.ran(opened).astype(np.uint8)


def _class_sums(results: Sequence[Result], units: int) -> dict[str, list[int]]:
    """`Instructions.classes` of runs under QEMU."""
    sums = np.zeros((units + 1, len(CLASSES)), np.int64)
    for result in results:
        assert result.classes is not None
        sums += result.classes
    sums[-1] -= sums[:-1].sum(axis=0)  # of the whole inference, what the units leave
    return dict(zip(CLASSES, sums.T.tolist(), strict=True))


def make_trace(
    bundle: Bundle,
    build: Build,
    results: Sequence[Result],
    *,
    gates: str,
    force: NDArray[np.uint8] | None = None,
    data: str,
    split: str,
    images: Sequence[int],
    labels: Sequence[int],
) -> Trace:
    """Put a run together.

    Args:
        results: one per image, from `runner.run` without `show`.
        gates: how gates were treated, one of GATES.
        force: uint8 [gates] with the codes of FORCE, where `gates` does not say it.
        images: indices into the split.
        labels: true classes.

    Raises:
        CgateError: the instructions counted contradict the gates' decisions.
    """
    plan = bundle.plan
    # Not -1: without gates the array is empty, and numpy could not tell the number of rows.
    shape = (len(results), len(plan.gates))
    decisions = np.array([r.decisions for r in results], np.uint8).reshape(shape)
    ran = ran_units(plan, decisions, gates if force is None else force)
    instructions = None
    if build.on == "qemu":
        units = np.array([r.instructions for r in results], np.int64).reshape(ran.shape)
        if ((units > 0) != ran.astype(bool)).any():
            image, unit = np.argwhere((units > 0) != ran.astype(bool))[0]
            raise CgateError(
                f"image {images[image]}: unit {plan.units[unit].name} "
                f"{'ran' if units[image, unit] else 'did not run'} against its gate's decision",
                "export and build the bundle again",
            )
        instructions = Instructions(
            units.tolist(), [int(r.total or 0) for r in results], _class_sums(results, ran.shape[1])
        )
    board_cycles = None
    if results and all(r.cycles is not None for r in results):
        table = np.array([r.cycles for r in results], np.int64)
        board_cycles = BoardCycles(table[:, :-1].tolist(), table[:, -1].tolist())
    modelled_cycles = None
    if results and all(r.modelled is not None for r in results):
        model = np.array([r.modelled for r in results], np.int64)
        modelled_cycles = ModelledCycles(
            model[:, :-1, 0].tolist(), model[:, -1, 0].tolist(), model[:, -1, 1].tolist()
        )
    binary = None
    if build.flash is not None and build.ram is not None and build.stack is not None:
        binary = Binary(build.flash, build.ram, build.stack)
    return Trace(
        bundle.sha256,
        plan.target if build.target is None else build.target.name,
        build.on,
        gates,
        data,
        split,
        [int(i) for i in images],
        [int(label) for label in labels],
        [unit.name for unit in plan.units],
        [unit.name for unit in plan.gates],
        [r.logits.tolist() for r in results],
        [r.label for r in results],
        decisions.tolist(),
        ran.tolist(),
        instructions,
        binary,
        board_cycles,
        modelled_cycles,
    )


def write_trace(path: Path, trace: Trace) -> None:
    """Write trace.json, a field per line, so that it stays readable at 10,000 images."""
    value = {"schema": SCHEMA, **asdict(trace)}
    lines = [
        f'"{key}": {json.dumps(item, ensure_ascii=False, separators=(",", ":"))}'
        for key, item in value.items()
    ]
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def write_units(path: Path, trace: Trace) -> None:
    """Write units.csv (SPEC.md, section 8): what the images of a run under QEMU took, per unit."""
    counted, model = trace.instructions, trace.modelled_cycles
    assert counted is not None
    shape = (len(trace.images), len(trace.units))
    ran = np.array(trace.ran, np.int64).reshape(shape).sum(axis=0).tolist()
    classes = list(zip(*counted.classes.values(), strict=True))
    cycles: list[object] = [""] * len(classes)
    if model is not None:
        of_units = np.array(model.units, np.int64).reshape(shape).sum(axis=0).tolist()
        cycles = [*of_units, sum(model.total) - sum(of_units)]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("unit", "images", "ran", "instructions", *counted.classes, "modelled_cycles"))
    names, times = [*trace.units, OUTSIDE], [*ran, shape[0]]
    for name, ran_times, row, took in zip(names, times, classes, cycles, strict=True):
        writer.writerow((name, shape[0], ran_times, sum(row), *row, took))
    write_text(path, stream.getvalue())


def read_trace(path: Path) -> Trace:
    """Read and check trace.json.

    Raises:
        CgateError: it is missing, no JSON, of another schema, or its columns do not fit.
    """
    value = read_json(path, "the trace")
    hint = "run `cgate run` again"
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise CgateError(f"{path}: schema is not {SCHEMA}", hint)
    names = [field.name for field in fields(Trace)]
    if set(value) != {"schema", *names}:
        odd = sorted(set(value) ^ {"schema", *names})
        raise CgateError(f"{path}: field {odd[0]!r} is missing or unknown", hint)
    del value["schema"]
    try:
        if value["instructions"] is not None:
            value["instructions"] = Instructions(**value["instructions"])
        if value["board_cycles"] is not None:
            value["board_cycles"] = BoardCycles(**value["board_cycles"])
        if value["modelled_cycles"] is not None:
            value["modelled_cycles"] = ModelledCycles(**value["modelled_cycles"])
        if value["binary"] is not None:
            value["binary"] = Binary(**value["binary"])
        trace = Trace(**value)
        _check(trace)
    except (TypeError, ValueError, OverflowError) as error:
        raise CgateError(f"{path}: {error}", hint) from error
    return trace


def _check(trace: Trace) -> None:
    """ValueError where a column has a wrong shape or range."""
    count = len(trace.images)
    if trace.runner not in RUNNERS or trace.gates not in GATES:
        raise ValueError(f"runner {trace.runner!r}, gates {trace.gates!r}")
    texts = (trace.plan_sha256, trace.target, trace.data, trace.split, *trace.units, *trace.gated)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a name is no text")
    binary = trace.binary
    if binary is not None and not all(type(n) is int for n in asdict(binary).values()):
        raise ValueError("binary should be whole numbers")
    counted = trace.instructions
    if (counted is not None) != (trace.runner == "qemu"):
        raise ValueError("instructions belong to runs under qemu, and only to them")
    timed = trace.board_cycles
    if timed is not None and trace.runner != "serial":
        raise ValueError("board_cycles belong to runs on a board, and only to them")
    model = trace.modelled_cycles
    if model is not None and trace.runner != "qemu":
        raise ValueError("modelled_cycles belong to runs under qemu, and only to them")
    for name, column, shape, low, high in (
        ("images", trace.images, (count,), 0, None),
        ("labels", trace.labels, (count,), 0, None),
        ("classes", trace.classes, (count,), 0, None),
        ("logits", trace.logits, (count, None), -128, 127),
        ("decisions", trace.decisions, (count, len(trace.gated)), 0, 1),
        ("ran", trace.ran, (count, len(trace.units)), 0, 1),
        ("instructions.units", counted and counted.units, (count, len(trace.units)), 0, None),
        ("instructions.total", counted and counted.total, (count,), 0, None),
        *_class_columns(trace),
        ("board_cycles.units", timed and timed.units, (count, len(trace.units)), 0, None),
        ("board_cycles.total", timed and timed.total, (count,), 0, None),
        ("modelled_cycles.units", model and model.units, (count, len(trace.units)), 0, None),
        ("modelled_cycles.total", model and model.total, (count,), 0, None),
        ("modelled_cycles.stalls", model and model.stalls, (count,), 0, None),
    ):
        if column is not None:
            _check_column(name, column, shape, low, high)


def _class_columns(trace: Trace) -> Iterator[tuple[str, object, tuple[int], int, None]]:
    """The columns of `Instructions.classes`, as `_check` has them; ValueError for other classes."""
    if trace.instructions is None:
        return
    if tuple(trace.instructions.classes) != CLASSES:
        raise ValueError(f"instructions.classes should be {', '.join(CLASSES)}")
    for name, column in trace.instructions.classes.items():
        yield f"instructions.classes.{name}", column, (len(trace.units) + 1,), 0, None


def _check_column(
    name: str, column: object, shape: tuple[int | None, ...], low: int, high: int | None
) -> None:
    """ValueError unless `column` is whole numbers in low..high; None in `shape` is any size."""
    array = np.array(column)  # a ragged list raises ValueError
    if array.size == 0:
        # An empty list has no type, and says nothing about the sizes of the rows it has not.
        array = np.zeros([n or 0 for n in shape], np.int64) if 0 in shape else array
    fits = array.ndim == len(shape) and all(
        wanted is None or n == wanted for n, wanted in zip(array.shape, shape, strict=True)
    )
    if not fits or array.dtype != np.int64:
        raise ValueError(f"{name} should be whole numbers of shape {shape}")
    if array.size and (array.min() < low or (high is not None and array.max() > high)):
        raise ValueError(f"{name} has a value out of range")
