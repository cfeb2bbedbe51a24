"""The recorded runs of a bundle, and which of them speaks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cgate.core.errors import CgateError
from cgate.core.plan import Bundle
from cgate.host_tools.trace import Trace, read_trace


@dataclass(frozen=True)
class Run:
    """A trace and the name of its folder under runs/."""

    name: str
    trace: Trace


def find_runs(bundle: Bundle) -> list[Run]:
    """The traces under the bundle's runs/ that belong to its present plan, by name."""
    runs = [
        Run(path.parent.name, read_trace(path))
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
        raise CgateError(f"no run {name!r} of this bundle's present plan; there are: {known}", hint)
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
