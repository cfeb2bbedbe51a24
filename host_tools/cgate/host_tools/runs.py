"""The recorded runs of a bundle, and which of them speaks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cgate.core.errors import CgateError
from cgate.core.plan import Bundle, Plan
from cgate.core.targets import find_target
from cgate.host_tools.trace import Trace, read_trace


@dataclass(frozen=True)
class Run:
    """A trace and the name of its folder under runs/."""

    name: str
    trace: Trace


def _check(plan: Plan, trace: Trace) -> None:
    """ValueError where a trace that names this plan cannot be of it."""
    if trace.units != [unit.name for unit in plan.units]:
        raise ValueError("its units are not the plan's")
    if trace.gated != [unit.name for unit in plan.gates]:
        raise ValueError("its gates are not the plan's")
    if trace.images and max(*trace.labels, *trace.classes) >= len(plan.classes):
        raise ValueError("it names a class that the plan does not have")
    for column in (trace.instructions, trace.board_cycles, trace.modelled_cycles):
        if column is not None and trace.images and min(column.total) < 1:
            raise ValueError("an inference cost nothing")
    find_target(trace.target)


def _read(bundle: Bundle, path: Path) -> Trace:
    try:
        trace = read_trace(path)
        if trace.plan_sha256 == bundle.sha256:
            _check(bundle.plan, trace)
    except (CgateError, ValueError) as error:
        why = error.message if isinstance(error, CgateError) else str(error)
        raise CgateError(
            why if str(path) in why else f"{path}: {why}",
            f"remove the folder {path.parent}, then run it again (cgate run {bundle.folder})",
        ) from error
    return trace


def find_runs(bundle: Bundle) -> list[Run]:
    """The traces under the bundle's runs/ that belong to its present plan, by name.

    Raises:
        CgateError: one is damaged; it names the file, and what to do.
    """
    runs = [
        Run(path.parent.name, _read(bundle, path))
        for path in sorted((bundle.folder / "runs").glob("*/trace.json"))
    ]
    return [run for run in runs if run.trace.plan_sha256 == bundle.sha256 and run.trace.images]


def choose_run(bundle: Bundle, runs: Sequence[Run], name: str | None) -> Run:
    """The run to report: the one called `name`, else the learned one under QEMU with most images.

    Raises:
        CgateError: there is none.
    """
    hint = f"cgate run {bundle.folder}"
    if name is not None:
        for run in runs:
            if run.name == name:
                return run
        known = ", ".join(run.name for run in runs) or "none"
        raise CgateError(
            f"no run {name!r} of this bundle's present plan; there are: {known}",
            f"{hint} --name {name}, or leave --run out",
        )
    learned = [run for run in runs if run.trace.gates == "learned"]
    if not learned:
        raise CgateError(
            f"{bundle.folder} has no run with learned gates that belongs to its present plan", hint
        )
    return max(learned, key=lambda run: (run.trace.runner == "qemu", len(run.trace.images)))


def companion(runs: Sequence[Run], chosen: Run, gates: str) -> Run | None:
    """The longest run with gates forced that was made as `chosen` was; None without one.

    Same machine, same data; of `majority`, which speaks of certain images, the same images.
    """
    mine = chosen.trace
    fitting = [
        run
        for run in runs
        if run.trace.gates == gates
        and all(
            getattr(run.trace, what) == getattr(mine, what)
            for what in ("runner", "target", "data", "split")
        )
        and (gates != "majority" or run.trace.images == mine.images)
    ]
    return max(fitting, key=lambda run: len(run.trace.images), default=None)
