"""Statistics of a recorded run: what `cgate run` prints and `cgate report` draws."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgate.core.plan import Plan
from cgate.host_tools.trace import Trace

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Records:
    """A trace as arrays, one row per image.

    Args:
        images: indices into the split [n].
        labels: true classes [n].
        classes: predicted classes [n].
        decisions: 1 where the gate said open [n, gates].
        ran: whether the unit ran [n, units].
        macs: executed multiply-accumulates, gates included [n].
        units: instructions per unit, 0 where it did not run [n, units]; None on the host.
        total: instructions per inference [n]; None on the host.
    """

    images: Numbers
    labels: Numbers
    classes: Numbers
    decisions: Numbers
    ran: NDArray[np.bool_]
    macs: Numbers
    units: Numbers | None
    total: Numbers | None


def records(plan: Plan, trace: Trace) -> Records:
    """The arrays of `trace`, a run of `plan`."""
    count = len(trace.images)
    ran = np.array(trace.ran, bool).reshape(count, len(plan.units))
    counted = trace.instructions
    return Records(
        np.array(trace.images, np.int64),
        np.array(trace.labels, np.int64),
        np.array(trace.classes, np.int64),
        np.array(trace.decisions, np.int64).reshape(count, len(plan.gates)),
        ran,
        plan.executed_macs(ran),
        None if counted is None else np.array(counted.units, np.int64).reshape(ran.shape),
        None if counted is None else np.array(counted.total, np.int64),
    )


def spread(values: Numbers) -> dict[str, float | int]:
    """Mean, 5 % and 95 % quantiles (nearest rank, so they are observed values) and extremes."""
    low, high = np.quantile(values, [0.05, 0.95], method="nearest")
    return {
        "mean": float(values.mean()),
        "p5": int(low),
        "p95": int(high),
        "min": int(values.min()),
        "max": int(values.max()),
    }


def accuracy(record: Records) -> dict[str, float | int]:
    """Share of right answers with its binomial standard error, sqrt(p (1 - p) / n)."""
    right = record.classes == record.labels
    share = float(right.mean())
    return {
        "correct": int(right.sum()),
        "images": len(right),
        "value": share,
        "standard_error": math.sqrt(share * (1 - share) / len(right)),
    }


def gate_rates(plan: Plan, record: Records) -> list[dict[str, Any]]:
    """Per gate, how often it said open: over all images and per true class (None: no image)."""
    rates: list[dict[str, Any]] = []
    for i, unit in enumerate(plan.gates):
        opened = record.decisions[:, i]
        by_class = [
            float(opened[record.labels == label].mean()) if (record.labels == label).any() else None
            for label in range(len(plan.classes))
        ]
        rates.append(
            {
                "name": unit.name,
                "block": unit.block,
                "open": float(opened.mean()),
                "by_class": by_class,
            }
        )
    return rates


def headline(plan: Plan, trace: Trace) -> dict[str, Any]:
    """The figures that `cgate run` prints."""
    record = records(plan, trace)
    executed = spread(record.macs)
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
        "gates": gate_rates(plan, record),
    }


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
    said = "said open" if forced else "open"
    return pairs + [(f"{gate['name']} {said}", f"{gate['open']:.1%}") for gate in value["gates"]]
