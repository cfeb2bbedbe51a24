"""Build a bundle, run images through it, keep the trace: the step that run and demo share."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cgate.core.errors import CgateError
from cgate.core.plan import load_bundle
from cgate.core.progress import Progress, Silent
from cgate.core.targets import Target, emulated, find_target
from cgate.export.reference import to_input
from cgate.host_tools import runner
from cgate.host_tools.build import Build, build
from cgate.host_tools.inputs import Inputs
from cgate.host_tools.resume import PARTIAL, run_resumable
from cgate.host_tools.serial_link import session_on
from cgate.host_tools.trace import UNITS, Trace, make_trace, write_trace, write_units


def default_name(inputs: Inputs, gates: str, on: str, io: str, target: Target | None) -> str:
    """Folder of a run under runs/: what differs from the usual is in the name.

    So a short run does not overwrite the one over the whole split, nor do chosen images the first
    ones.
    """
    count = len(inputs.indices)
    parts = [inputs.split, "" if count == inputs.available else str(count)]
    parts.append("" if np.array_equal(inputs.indices, np.arange(count)) else "chosen")
    parts += ["" if gates == "learned" else gates, "" if on == "qemu" else on]
    parts.append("uart" if io == "uart" and on == "qemu" else "")
    return "-".join(part for part in [*parts, target.name if target else ""] if part)


def evaluate(
    folder: Path,
    inputs: Inputs,
    *,
    target: Target | None = None,
    on: str = "qemu",
    io: str = "semihosting",
    gates: str = "learned",
    force: NDArray[np.uint8] | None = None,
    name: str | None = None,
    jobs: int | None = None,
    timeout_s: float = 120.0,
    port: str = "auto",
    cmsis_nn: Path | None = None,
    keep_partial: bool = False,
    progress: Progress,
) -> tuple[Trace, Path]:
    """Run `inputs` on a bundle and write its trace; goes on with a stopped run.

    In runs/<name>: trace.json, and units.csv where instructions were counted.

    Args:
        folder: the bundle.
        target: another machine than the plan's. One that QEMU does not have runs there in a
            machine with its core and a model of its flash.
        on: "qemu", "host", "serial" (a board) or "renode".
        io: "semihosting" or "uart", under QEMU.
        gates: "learned", or "open" or "shut" for all; or "majority", which `force` explains.
        force: uint8 [gates] with the codes of `runner.FORCE`.
        name: of the run; None makes one.
        jobs: processes side by side; None takes one per core.
        timeout_s: seconds that an image may take.
        port: the board's serial port; "auto" for the only one.
        cmsis_nn: as of `build`.
        keep_partial: what makes the next call go on at the end of this one; the caller removes
            it (resume.PARTIAL, beside the trace).

    Returns:
        The trace and its file.

    Raises:
        CgateError: what building, running and writing raise; a bad name.
    """
    bundle = load_bundle(folder)
    chosen = name or default_name(inputs, gates, on, io, target)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", chosen):
        raise CgateError(
            f"{chosen!r} cannot name a run; allowed are letters, digits, '.', '_' and '-'"
        )
    machine = target or find_target(bundle.plan.target)
    opened: Callable[[Build, threading.Event], runner.Session] = runner.Session
    if on in ("serial", "renode"):
        opened, io, jobs = session_on(on, port, machine), "uart", 1
    # A second at most, and nothing if it is built already: not worth a stage of its own.
    place = "host" if on == "host" else "qemu"
    runs_on = emulated(machine) if on == "qemu" else machine
    built = build(folder, runs_on, on=place, io=io, cmsis_nn=cmsis_nn, progress=Silent())
    done = replace(built, on=on)
    if runs_on is not machine:
        if gates == "learned":
            progress.message(
                f"QEMU has no {machine.name}: the program runs in {runs_on.name}, and the board's "
                "flash is modelled"
            )
        # What it weighs is asked of the board's own program, which has its clock and pins.
        own = build(folder, machine, io="uart", cmsis_nn=cmsis_nn, progress=Silent())
        done = replace(done, target=machine, flash=own.flash, ram=own.ram, stack=own.stack)
    path = folder / "runs" / chosen / "trace.json"
    results = run_resumable(
        path.parent,
        replace(built, on=on),
        to_input(inputs.images),
        gates=gates if force is None else force,
        jobs=jobs,
        timeout_s=timeout_s,
        progress=progress,
        open_session=opened,
    )
    trace = make_trace(
        bundle,
        done,
        results,
        gates=gates,
        force=force,
        data=inputs.data,
        split=inputs.split,
        images=inputs.indices.tolist(),
        labels=inputs.labels.tolist(),
    )
    write_trace(path, trace)
    if trace.instructions is not None:
        write_units(path.with_name(UNITS), trace)
    if not keep_partial:
        (path.parent / PARTIAL).unlink(missing_ok=True)
    return trace, path
