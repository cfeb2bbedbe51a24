"""The control that gating has to beat: the same network with every gate at its usual decision.

A gate that always decides alike is a static network in disguise, and the static network needs no
gates. So the question is not what gates skip, but what they gain over skipping the same blocks for
every image.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgate.core.plan import Plan
from cgate.host_tools.compare import Side, image_weights, verdict
from cgate.host_tools.runner import FORCE
from cgate.host_tools.summary import KINDS, Numbers, Records, accuracy, records
from cgate.host_tools.trace import Trace

Bits = NDArray[np.uint8]


def majority_of(plan: Plan, decisions: Bits) -> Bits:
    """The more frequent decision of each gate [gates], of the images [n, gates] that reach it."""
    reached = plan.ran(decisions.astype(bool))[:, [unit.index for unit in plan.gates]]
    opened = (decisions * reached).sum(axis=0)
    majority: Bits = (2 * opened > reached.sum(axis=0)).astype(np.uint8)
    return majority


def held_gates(plan: Plan, decisions: Bits) -> Bits:
    """What holds every gate at its majority: codes of FORCE [gates]. Exits go on deciding."""
    opened = majority_of(plan, decisions)
    held = np.where(opened == 1, FORCE["open"], FORCE["shut"])
    gate = np.array([unit.role == "gate" for unit in plan.gates], bool)
    codes: Bits = np.where(gate, held, FORCE["learned"]).astype(np.uint8)
    return codes


def without_gates(plan: Plan, record: Records) -> Records:
    """`record` as if the gates were not there; what they would have said was forced anyway."""
    gates = [unit.index for unit in plan.units if unit.role == "gate"]
    ran = record.ran.copy()
    ran[:, gates] = False

    def less(total: Numbers | None, units: Numbers | None) -> Numbers | None:
        return None if total is None or units is None else total - units[:, gates].sum(axis=1)

    def none(units: Numbers | None) -> Numbers | None:
        return None if units is None else np.where(ran, units, 0)

    return replace(
        record,
        ran=ran,
        macs=plan.executed_macs(ran),
        total=less(record.total, record.units),
        cycles=less(record.cycles, record.unit_cycles),
        units=none(record.units),
        unit_cycles=none(record.unit_cycles),
    )


def _text(found: dict[str, Any], gated: float, control: float) -> str:
    """The verdict for people.

    Args:
        found: of `compare.verdict`.
        gated, control: accuracies.
    """
    start = {
        "wins": "Gating pays here",
        "loses": "Gating does not pay here",
        "level": "Gating neither pays nor costs here",
        "trades": "Gating is a trade here",
    }[found["state"]]
    ratio, unit = found["cost_ratio"], found["unit"]
    cost = f"about as many {unit} as"
    if found["cheaper"]:
        cost = f"{abs(1 - ratio):.1%} {'fewer' if ratio < 1 else 'more'} {unit} than"
    clear = found["better"] != 0
    return (
        f"{start}: with its gates the network takes {cost} with every gate held at its usual "
        f"decision, at an accuracy of {gated:.2%} against {control:.2%}, "
        f"{'a clear difference' if clear else 'no clear difference'} "
        f"({found['accuracy_difference']:+.2%} ± {found['standard_error']:.2%})."
    )


def against_majority(plan: Plan, learned: Trace, control: Trace) -> dict[str, Any]:
    """Whether gates pay against the same network without them, each at its usual decision.

    The decisions were chosen on the same images, which favours the control a little.

    Args:
        learned: a run with the network's own gates.
        control: the same images with every gate held at its majority of that run.

    Returns:
        `open` (per gated block), `accuracy`, `macs` and `cost` (means by source) of the control,
        and the verdict: `state` (as of `compare.verdict`), `source` and `cost_ratio`,
        `accuracy_difference` with its `standard_error` (of pairs), `text`.
    """
    with_gates, held = records(plan, learned), without_gates(plan, records(plan, control))
    gated = Side("gated", plan, learned, with_gates, None)
    without = Side("held", plan, control, held, None)
    weights = image_weights(with_gates.labels, {})
    source = "instructions"
    if held.cycles is not None:
        source = "modelled_cycles" if control.board_cycles is None else "board_cycles"
    cost = {}
    if held.total is not None:
        cost["instructions"] = float(held.total.mean())
    if held.cycles is not None:
        cost[source] = float(held.cycles.mean())
    found = {**verdict(gated, without, weights), "unit": KINDS[source]}
    right = accuracy(held)
    votes = majority_of(plan, np.array(learned.decisions, np.uint8).reshape(len(weights), -1))
    return {
        "open": {
            str(unit.block): bool(vote)
            for unit, vote in zip(plan.gates, votes, strict=True)
            if unit.role == "gate"
        },
        "images": len(control.images),
        "accuracy": right,
        "macs": float(held.macs.mean()),
        "cost": cost,
        "source": source,
        "state": found["state"],
        "cost_ratio": found["cost_ratio"],
        "accuracy_difference": found["accuracy_difference"],
        "standard_error": found["standard_error"],
        "text": _text(found, float(accuracy(with_gates)["value"]), float(right["value"])),
    }
