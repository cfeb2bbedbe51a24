"""Traces of the reference whose costs follow a rule that a test can repeat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cgate.core.plan import Plan, load_bundle
from cgate.export.reference import Gates, to_input
from cgate.export.reference import trace as reference_trace
from cgate.host_tools.inputs import load_inputs
from cgate.host_tools.majority import held_gates
from cgate.host_tools.plugin import CLASSES
from cgate.host_tools.trace import Binary, Instructions, ModelledCycles, Trace, ran_units

OUTSIDE = {"instructions": 77, "modelled_cycles": 91}
"""What an inference spends outside of all units."""


def unit_costs(plan: Plan, source: str) -> NDArray[np.int64]:
    """Cost of each unit when it runs: linear in its MACs, another rule for cycles [units]."""
    slope, start = {"instructions": (5, 100), "modelled_cycles": (3, 2000)}[source]
    return np.array([slope * unit.macs + start + unit.index for unit in plan.units], np.int64)


def make_trace(folder: Path, gates: str, count: int) -> Trace:
    """A run of the reference on digits, its cost by a rule that a test can repeat.

    Args:
        gates: one of trace.GATES; "majority" as the same images' learned decisions have it.
    """
    bundle = load_bundle(folder)
    plan = bundle.plan
    inputs = load_inputs(plan, limit=count)
    forced: Gates = gates
    codes: NDArray[np.uint8] | None = None
    if gates == "majority":
        said = np.array(make_trace(folder, "learned", count).decisions, np.uint8)
        codes = held_gates(plan, said)
        forced = {unit.name: bool(code == 1) for unit, code in zip(plan.gates, codes, strict=True)}
    outputs = {
        run.unit.name: run
        for run in reference_trace(plan, bundle.weights, to_input(inputs.images), forced)
    }
    decisions = np.stack(
        [outputs[unit.name].output.reshape(-1) > unit.threshold for unit in plan.gates], axis=1
    )
    ran = ran_units(plan, decisions.astype(np.uint8), gates if codes is None else codes)
    counted, cycles = (ran * unit_costs(plan, source) for source in OUTSIDE)
    logits = outputs["head"].output.reshape(count, -1)
    return Trace(
        plan_sha256=bundle.sha256,
        target=plan.target,
        runner="qemu",
        gates=gates,
        data=inputs.data,
        split="test",
        images=inputs.indices.tolist(),
        labels=inputs.labels.tolist(),
        units=[unit.name for unit in plan.units],
        gated=[unit.name for unit in plan.gates],
        logits=logits.tolist(),
        classes=logits.argmax(axis=1).tolist(),
        decisions=decisions.astype(int).tolist(),
        ran=ran.tolist(),
        instructions=Instructions(
            counted.tolist(),
            (counted.sum(axis=1) + OUTSIDE["instructions"]).tolist(),
            # As if all were arithmetic.
            {name: [0] * (len(plan.units) + 1) for name in CLASSES}
            | {"alu": [*counted.sum(axis=0).tolist(), count * OUTSIDE["instructions"]]},
        ),
        binary=Binary(50_000, 9_000, 300),
        modelled_cycles=ModelledCycles(
            cycles.tolist(), (cycles.sum(axis=1) + OUTSIDE["modelled_cycles"]).tolist(), [0] * count
        ),
    )
