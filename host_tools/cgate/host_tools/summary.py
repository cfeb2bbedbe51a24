"""Statistics of a recorded run: what `cgate run` prints and `cgate report` draws."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgate.core.plan import Plan
from cgate.core.targets import Target, find_target
from cgate.host_tools.trace import Trace

Numbers = NDArray[np.int64]

KINDS = {
    "instructions": "instructions",
    "modelled_cycles": "modelled cycles",
    "board_cycles": "board cycles",
}
"""What is counted, by where it comes from; figures of different sources are never mixed."""

COLUMNS = {
    "mean": "mean",
    "p5": "p5",
    "median": "median",
    "p95": "p95",
    "max": "most seen",
    "all_shut": "all shut",
    "worst": "worst case",
}
"""What is said of a cost per inference, key and words, in the order of a table."""


@dataclass(frozen=True)
class Records:
    """A trace as arrays, one row per image.

    Args:
        images: indices into the split [n].
        labels: true classes [n].
        classes: predicted classes [n].
        decisions: 1 where the gate said open, 0 where it was not reached [n, gates].
        ran: whether the unit ran [n, units].
        answered: index of the unit that gave the answer: an exit or the head [n].
        macs: executed multiply-accumulates, gates included [n].
        units: instructions per unit, 0 where it did not run [n, units]; None on the host.
        total: instructions per inference [n]; None on the host.
        unit_cycles: cycles per unit, 0 where it did not run [n, units]: counted by a board, or
            modelled; None where there are neither.
        cycles: cycles per inference [n]; None likewise.
        stalls: how many of those wait for the flash, by the model [n]; None without one.
    """

    images: Numbers
    labels: Numbers
    classes: Numbers
    decisions: Numbers
    ran: NDArray[np.bool_]
    answered: Numbers
    macs: Numbers
    units: Numbers | None
    total: Numbers | None
    unit_cycles: Numbers | None = None
    cycles: Numbers | None = None
    stalls: Numbers | None = None


def records(plan: Plan, trace: Trace) -> Records:
    """The arrays of `trace`, a run of `plan`."""
    count = len(trace.images)
    ran = np.array(trace.ran, bool).reshape(count, len(plan.units))
    counted, model = trace.instructions, trace.modelled_cycles
    timed = trace.board_cycles or model
    return Records(
        np.array(trace.images, np.int64),
        np.array(trace.labels, np.int64),
        np.array(trace.classes, np.int64),
        np.array(trace.decisions, np.int64).reshape(count, len(plan.gates)),
        ran,
        # Every route ends with the unit that answers.
        len(plan.units) - 1 - ran[:, ::-1].argmax(axis=1),
        plan.executed_macs(ran),
        None if counted is None else np.array(counted.units, np.int64).reshape(ran.shape),
        None if counted is None else np.array(counted.total, np.int64),
        None if timed is None else np.array(timed.units, np.int64).reshape(ran.shape),
        None if timed is None else np.array(timed.total, np.int64),
        None if model is None else np.array(model.stalls, np.int64),
    )


def spread(values: Numbers) -> dict[str, float | int]:
    """Mean, 5 %, 50 % and 95 % quantiles (nearest rank: observed values) and extremes."""
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95], method="nearest")
    return {
        "mean": float(values.mean()),
        "p5": int(low),
        "median": int(middle),
        "p95": int(high),
        "min": int(values.min()),
        "max": int(values.max()),
    }


def accuracy(record: Records) -> dict[str, float | int]:
    """Share of right answers with its standard error.

    The error is sqrt(q (1 - q) / (n + 4)) with q = (correct + 2) / (n + 4), after Agresti and Coull
    (1998): twenty right answers of twenty are no proof that there are no wrong ones.
    """
    right = record.classes == record.labels
    share = float(right.mean())
    guarded = (int(right.sum()) + 2) / (len(right) + 4)
    return {
        "correct": int(right.sum()),
        "images": len(right),
        "value": share,
        "standard_error": math.sqrt(guarded * (1 - guarded) / (len(right) + 4)),
    }


def _by_class(plan: Plan, labels: Numbers, bits: NDArray[Any]) -> list[float | None]:
    """Mean of `bits` over the images of each true class; None for a class without images."""
    return [
        float(bits[labels == label].mean()) if (labels == label).any() else None
        for label in range(len(plan.classes))
    ]


def gate_rates(plan: Plan, record: Records) -> list[dict[str, Any]]:
    """Per gate, how often it said open: over all images that reached it and per true class.

    None stands where no image did.
    """
    rates: list[dict[str, Any]] = []
    for i, unit in enumerate(plan.gates):
        if unit.role != "gate":
            continue
        reached = record.ran[:, unit.index]
        opened, labels = record.decisions[reached, i], record.labels[reached]
        rates.append(
            {
                "name": unit.name,
                "block": unit.block,
                "open": float(opened.mean()) if len(opened) else None,
                "by_class": _by_class(plan, labels, opened),
            }
        )
    return rates


def answers(plan: Plan, record: Records) -> list[dict[str, Any]]:
    """Who answers: a row per exit, then the head; empty for a network without exits.

    `share` is of all images, `accuracy` and the means are over those that the unit answered.
    """
    rows: list[dict[str, Any]] = []
    for unit in (*plan.exits, plan.units[-1]) if plan.exits else ():
        chosen = record.answered == unit.index
        right = record.classes[chosen] == record.labels[chosen]
        any_ = bool(chosen.any())
        counted = record.total[chosen] if record.total is not None and any_ else None
        rows.append(
            {
                "name": unit.name,
                "block": unit.block,
                "images": int(chosen.sum()),
                "share": float(chosen.mean()),
                "by_class": _by_class(plan, record.labels, chosen),
                "accuracy": float(right.mean()) if any_ else None,
                "macs_mean": float(record.macs[chosen].mean()) if any_ else None,
                "instructions_mean": None if counted is None else float(counted.mean()),
            }
        )
    return rows


def cycles(record: Records, trace: Trace, target: Target) -> dict[str, Any]:
    """Cycles per inference, their time at the target's clock, and modelled energy.

    `energy_uj` is [value, low, high], null where no published run calibrates the target.
    """
    assert record.cycles is not None
    value: dict[str, Any] = {
        "source": "modelled" if trace.board_cycles is None else "board",
        **spread(record.cycles),
        "flash_stalls": None if record.stalls is None else float(record.stalls.mean()),
        "clock_hz": target.clock_hz,
        "energy_uj": None,
    }
    value["latency_ms"] = 1e3 * value["mean"] / target.clock_hz
    if target.energy is not None:
        energy = target.energy.per_inference(value["mean"])
        value["energy_uj"] = [energy.value, energy.low, energy.high]
    return value


def headline(plan: Plan, trace: Trace) -> dict[str, Any]:
    """The figures that `cgate run` prints."""
    record = records(plan, trace)
    executed = spread(record.macs)
    target = find_target(trace.target)
    return {
        "images": len(record.images),
        "accuracy": accuracy(record),
        "macs": {
            "dense": plan.dense_macs,
            "gates": sum(unit.macs for unit in plan.gates),
            "executed": executed,
            "share": float(executed["mean"]) / plan.dense_macs,
        },
        "instructions": None if record.total is None else spread(record.total),
        "cycles": None if record.cycles is None else cycles(record, trace, target),
        "gates": gate_rates(plan, record),
        "answers": answers(plan, record),
    }


def _cycle_lines(value: Mapping[str, Any]) -> list[tuple[str, str]]:
    kind = "cycles" if value["source"] == "board" else "modelled cycles"
    waiting = value["flash_stalls"]
    note = f", {waiting / value['mean']:.1%} of them waiting for flash" if waiting else ""
    clock, to_ms = value["clock_hz"], 1e3 / value["clock_hz"]
    pairs = [
        (
            kind,
            f"{value['mean']:,.0f} per inference{note}; p5 {value['p5']:,}  "
            f"median {value['median']:,}  p95 {value['p95']:,}  most {value['max']:,}",
        ),
        (
            "latency" if value["source"] == "board" else "modelled latency",
            f"{value['latency_ms']:.2f} ms at {clock / 1e6:g} MHz; p5 {value['p5'] * to_ms:.2f}  "
            f"median {value['median'] * to_ms:.2f}  p95 {value['p95'] * to_ms:.2f}  "
            f"most {value['max'] * to_ms:.2f}",
        ),
    ]
    if value["energy_uj"] is not None:
        middle, low, high = value["energy_uj"]
        pairs.append(
            ("modelled energy", f"{middle:,.1f} uJ per inference ({low:,.1f} to {high:,.1f})")
        )
    return pairs


def headline_lines(value: Mapping[str, Any], forced: bool = False) -> list[tuple[str, str]]:
    """`headline` for people, as name and text.

    Args:
        forced: gates were not obeyed, so their rates are only what they said.
    """
    right, macs, counted = value["accuracy"], value["macs"], value["instructions"]
    executed = macs["executed"]
    pairs = [
        (
            "accuracy",
            f"{right['value']:.2%} +- {right['standard_error']:.2%}"
            f"  ({right['correct']:,} of {right['images']:,} images)",
        ),
        (
            "executed MACs",
            f"{executed['mean']:,.0f} of {macs['dense']:,} dense ({macs['share']:.1%}), "
            f"gates included; p5 {executed['p5']:,}  p95 {executed['p95']:,}",
        ),
    ]
    if counted is not None:
        pairs.append(
            (
                "instructions",
                f"{counted['mean']:,.0f} per inference (QEMU, not latency); "
                f"p5 {counted['p5']:,}  p95 {counted['p95']:,}",
            )
        )
    if value["cycles"] is not None:
        pairs += _cycle_lines(value["cycles"])
    said = "said open" if forced else "open"
    for gate in value["gates"]:
        rate = "not reached" if gate["open"] is None else f"{gate['open']:.1%}"
        pairs.append((f"{gate['name']} {said}", rate))
    for row in value["answers"]:
        place = "went to the end" if row["block"] is None else f"left behind {row['block']}"
        right = "" if row["accuracy"] is None else f", {row['accuracy']:.1%} of them right"
        pairs.append((place, f"{row['share']:.1%}{right}"))
    return pairs
