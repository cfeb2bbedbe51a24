"""The runs that a measurement is made of; one that was broken off goes on where it stopped."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cgate.core.plan import load_bundle
from cgate.core.progress import Progress
from cgate.core.targets import Target
from cgate.host_tools.evaluate import evaluate
from cgate.host_tools.inputs import Inputs
from cgate.host_tools.majority import held_gates
from cgate.host_tools.resume import PARTIAL
from cgate.host_tools.trace import Trace

FORCED = 8
"""Images with all gates open, and with all shut: their cost hardly depends on the image."""


@dataclass(frozen=True)
class MeasuredRuns:
    """What was run.

    Args:
        opened, shut: FORCED images with all gates open, and with all shut.
        learned: all images.
        majority: the same with every gate held at its usual decision; None without gates.
        name: folder of `learned` under runs/.
        partials: what makes the next call go on behind these runs.
    """

    opened: Trace
    shut: Trace
    learned: Trace
    majority: Trace | None
    name: str
    partials: tuple[Path, ...]

    def forget(self) -> None:
        """To be called when the measurement is written: the next one begins anew."""
        for path in self.partials:
            path.unlink(missing_ok=True)


def run_all(
    folder: Path,
    inputs: Inputs,
    *,
    target: Target | None = None,
    on: str = "qemu",
    port: str = "auto",
    jobs: int | None = None,
    progress: Progress,
) -> MeasuredRuns:
    """Run a bundle with its gates as learned, held, all open and all shut.

    Args:
        folder: the bundle.
        target, on, port, jobs: as of `evaluate`.

    Raises:
        CgateError: as `evaluate` does.
    """
    few = replace(
        inputs,
        indices=inputs.indices[:FORCED],
        images=inputs.images[:FORCED],
        labels=inputs.labels[:FORCED],
    )
    paths: list[Path] = []

    def run(gates: str, images: Inputs, force: NDArray[np.uint8] | None = None) -> Trace:
        # What is finished stays at hand until all is: then Ctrl-C never costs a whole run.
        trace, path = evaluate(
            folder,
            images,
            target=target,
            on=on,
            port=port,
            gates=gates,
            force=force,
            jobs=jobs,
            keep_partial=True,
            progress=progress,
        )
        paths.append(path)
        return trace

    opened, shut, learned = run("open", few), run("shut", few), run("learned", inputs)
    name, majority = paths[-1].parent.name, None
    plan = load_bundle(folder).plan
    if any(unit.role == "gate" for unit in plan.units):
        said = np.array(learned.decisions, np.uint8)
        majority = run("majority", inputs, held_gates(plan, said))
    partials = tuple(path.parent / PARTIAL for path in paths)
    return MeasuredRuns(opened, shut, learned, majority, name, partials)
