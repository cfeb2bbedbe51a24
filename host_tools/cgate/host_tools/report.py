"""`cgate report`: what a bundle's runs have shown, as report.json and as one HTML page.

This module collects the figures. `page` only lays them out, so the two files agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgate.core.errors import CgateError
from cgate.core.files import write_json, write_text
from cgate.core.plan import Bundle, Decision, Plan, load_bundle
from cgate.core.targets import Target, find_target
from cgate.host_tools.arena import arena_use
from cgate.host_tools.findings import read_finding
from cgate.host_tools.inputs import load_inputs
from cgate.host_tools.inspection import op_title, variant
from cgate.host_tools.majority import against_majority
from cgate.host_tools.measure import (
    MEASUREMENT,
    Board,
    account_rows,
    board_for,
    meter_rows,
)
from cgate.host_tools.page.layout import page
from cgate.host_tools.runs import Run, choose_run, companion, find_runs
from cgate.host_tools.summary import Numbers, Records, headline, records
from cgate.host_tools.trace import Trace
from cgate.host_tools.verify import FIDELITY, VERIFICATION

SCHEMA = 1
HTML = "report.html"
JSON = "report.json"
BINS = 60
EXAMPLES = 6
ROUTES = 8  # that are shown; all others are one row


def _best(record: Records, trace: Trace) -> tuple[str, Numbers]:
    """The source that says most about an inference's cost, and the cost [n]: cycles if known."""
    if record.cycles is not None:
        return "modelled_cycles" if trace.board_cycles is None else "board_cycles", record.cycles
    return ("macs", record.macs) if record.total is None else ("instructions", record.total)


def _all_open(rows: Sequence[Mapping[str, Any]], opened: Run | None) -> Any:
    """Instructions with every gate open; None without such a run, or where none were counted."""
    counted = next((row for row in rows if row["source"] == "instructions"), None)
    if opened is None or counted is None:
        return None
    return {
        "run": opened.name,
        "images": len(opened.trace.images),
        "mean": counted["inference"]["all_open"],
        "without_gates_mean": counted["savings"]["without_gates"],
    }


def _histogram(values: Numbers, full: float) -> dict[str, Any]:
    """Images per range of cost. It begins at 0, so that a small spread looks small."""
    high = max(int(values.max()), math.ceil(full), 1)
    counts, _ = np.histogram(values, BINS, (0, high))
    return {"high": high, "counts": [int(n) for n in counts]}


def _units(plan: Plan, record: Records) -> list[dict[str, Any]]:
    """What the plan says of each unit, and how often it ran; its cost is in the accounts."""
    ran = record.ran.mean(axis=0)
    mean = float(record.macs.mean())
    return [
        {
            "index": unit.index,
            "name": unit.name,
            "role": unit.role,
            "block": unit.block,
            "conditional": unit.condition is not None,
            "ran": float(ran[unit.index]),
            "macs": unit.macs,
            "macs_share": unit.macs * float(ran[unit.index]) / mean,
            "arena": asdict(use),
        }
        for unit, use in zip(plan.units, arena_use(plan), strict=True)
    ]


def _kernels(bundle: Bundle) -> dict[str, Any]:
    """The kernel of every op and the reason for it, from the plan."""
    plan = bundle.plan
    return {
        "choice": None
        if plan.choice is None
        else {
            key: getattr(plan.choice, key)
            for key in ("kernels", "unit", "expected", "worst", "extrapolated", "unmeasured")
        },
        "ops": [
            {
                "unit": unit.index,
                "op": op_title(op, bundle.weights),
                "kernel": variant(op),
                "why": op.why,
                "cost": op.cost,
            }
            for unit in plan.units
            for op in unit.ops
            if not isinstance(op, Decision)
        ],
    }


def _classes(plan: Plan, record: Records, cost: Numbers) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for label, name in enumerate(plan.classes):
        of_class = record.labels == label
        if not of_class.any():
            continue
        right = record.classes[of_class] == label
        rows.append(
            {
                "name": name,
                "images": int(of_class.sum()),
                "accuracy": float(right.mean()),
                "macs_mean": float(record.macs[of_class].mean()),
                "cost_mean": float(cost[of_class].mean()),
            }
        )
    return rows


def _examples(plan: Plan, record: Records, cost: Numbers) -> dict[str, list[dict[str, Any]]]:
    """The cheapest and the dearest images."""
    gates = [j for j, unit in enumerate(plan.gates) if unit.role == "gate"]
    left = {unit.index: unit.block if unit.role == "exit" else None for unit in plan.units}
    order = np.argsort(cost, kind="stable")
    count = min(EXAMPLES, len(order) // 2)

    def rows(places: NDArray[np.int64]) -> list[dict[str, Any]]:
        return [
            {
                "image": int(record.images[i]),
                "label": plan.classes[record.labels[i]],
                "predicted": plan.classes[record.classes[i]],
                "macs": int(record.macs[i]),
                "cost": int(cost[i]),
                "open": [int(record.decisions[i, j]) for j in gates],
                "left": left[record.answered[i]],
            }
            for i in places
        ]

    return {"cheapest": rows(order[:count]), "dearest": rows(order[::-1][:count])}


def _routes(plan: Plan, record: Records, cost: Numbers) -> dict[str, Any]:
    """The ways through the network that images took, the most frequent first."""
    ways, which = np.unique(record.ran, axis=0, return_inverse=True)
    which = which.reshape(-1)
    counts = np.bincount(which, minlength=len(ways))
    order = np.argsort(-counts, kind="stable")
    right = record.classes == record.labels
    gated = [unit for unit in plan.units if unit.role == "gate"]
    bodies = [[u.index for u in plan.units if u.condition == gate.name] for gate in gated]

    def row(chosen: NDArray[np.bool_]) -> dict[str, Any]:
        return {
            "images": int(chosen.sum()),
            "share": float(chosen.mean()),
            "accuracy": float(right[chosen].mean()),
            "cost_mean": float(cost[chosen].mean()),
        }

    left = {unit.index: unit.block if unit.role == "exit" else None for unit in plan.units}
    rows = []
    for k in order[:ROUTES]:
        chosen = which == k
        rows.append(
            {
                "open": [int(ways[k, indices].any()) for indices in bodies],
                "left": left[int(record.answered[chosen][0])],
                **row(chosen),
            }
        )
    others = np.isin(which, order[ROUTES:])
    return {"taken": len(ways), "frequent": rows, "others": row(others) if others.any() else None}


def _outside(record: Records) -> float | None:
    """Mean instructions of an inference that no unit accounts for."""
    if record.total is None or record.units is None:
        return None
    return float((record.total - record.units.sum(axis=1)).mean())


def _memory(plan: Plan, trace: Trace, target: Target) -> dict[str, int | None]:
    """Sizes in bytes against the target's; a program for this computer says only the arena's."""
    binary = trace.binary
    return {
        "flash": None if binary is None else binary.flash,
        "ram": None if binary is None else binary.ram,
        "stack": None if binary is None else binary.stack,
        "arena": plan.arena_size,
        "flash_limit": target.flash.size,
        "ram_limit": target.ram.size,
    }


def _measured_board(bundle: Bundle, target: Target) -> tuple[Board, Any]:
    """Whose clock and energy count, as `cgate measure` was told; and the duty that it found."""
    found = read_finding(bundle, MEASUREMENT)
    if found is None or found["target"] != target.name:
        return board_for(target, None), None
    return board_for(target, find_target(found["board"]["name"])), found["duty"]


def collect(bundle: Bundle, runs: Sequence[Run], chosen: Run) -> dict[str, Any]:
    """All figures of the report, as plain JSON values (the content of report.json)."""
    plan, trace = bundle.plan, chosen.trace
    record = records(plan, trace)
    target = find_target(trace.target)
    board, duty = _measured_board(bundle, target)
    opened, shut, control = (
        companion(runs, chosen, gates) for gates in ("open", "shut", "majority")
    )
    full, least = (None if run is None else run.trace for run in (opened, shut))
    rows = account_rows(plan, trace, full, least, board)
    figures = headline(plan, trace)
    if figures["instructions"] is not None:
        figures["instructions"] = {
            **figures["instructions"],
            "outside_units_mean": _outside(record),
            "all_open": _all_open(rows, opened),
        }
    source, cost = _best(record, trace)
    worst = rows[-1]["inference"].get("worst", 0) if rows else 0
    return {
        "schema": SCHEMA,
        "plan_sha256": bundle.sha256,
        "name": plan.name,
        "network": plan.network.name,
        "blocks": len(plan.network.blocks),
        "threshold": plan.threshold,
        "target": {
            "name": target.name,
            "description": target.description,
            "core": target.core,
            "clock_hz": target.clock_hz,
        },
        "board": {
            "name": board.name,
            "clock_hz": board.clock_hz,
            "energy": None if board.energy is None else asdict(board.energy),
        },
        "run": {
            "name": chosen.name,
            "runner": trace.runner,
            "gates": trace.gates,
            "data": trace.data,
            "split": trace.split,
            "images": len(trace.images),
            "forced_images": 0 if opened is None else len(opened.trace.images),
        },
        **figures,
        "accounts": rows,
        "verdict": None
        if control is None or not rows
        else against_majority(plan, trace, control.trace),
        "duty": duty,
        "meters": meter_rows(bundle.folder, bundle.sha256),
        "cost": source,
        "histogram": _histogram(cost, worst),
        "memory": _memory(plan, trace, target),
        "class_names": list(plan.classes),
        "classes": _classes(plan, record, cost),
        "units": _units(plan, record),
        "kernels": _kernels(bundle),
        "routes": _routes(plan, record, cost),
        "examples": _examples(plan, record, cost),
        "agreement": read_finding(bundle, VERIFICATION),
        "fidelity": read_finding(bundle, FIDELITY),
    }


def _pictures(
    plan: Plan, value: Mapping[str, Any], data_dir: Path | None
) -> dict[int, NDArray[np.uint8]]:
    """Pixels of the example images; none if the data set is not on this machine."""
    try:
        inputs = load_inputs(
            plan, value["run"]["data"], data_dir=data_dir, split=value["run"]["split"]
        )
    except CgateError:
        return {}
    wanted = [row["image"] for rows in value["examples"].values() for row in rows]
    return {i: inputs.images[i] for i in wanted if i < len(inputs.images)}


def write_report(
    folder: Path, *, run: str | None = None, data_dir: Path | None = None
) -> dict[str, Any]:
    """Write report.html and report.json into a bundle; the same input gives the same bytes.

    Args:
        folder: a bundle that has been run.
        run: name under runs/; None takes the longest run with learned gates.
        data_dir: where to look for the pictures; without them the page shows no thumbnails.

    Returns:
        The content of report.json.

    Raises:
        CgateError: no bundle, no run of its present plan, or the folder cannot be written.
    """
    bundle = load_bundle(folder)
    runs = find_runs(bundle)
    value = collect(bundle, runs, choose_run(bundle, runs, run))
    html = page(value, _pictures(bundle.plan, value, data_dir))
    write_json(folder / JSON, value)
    write_text(folder / HTML, html)
    return value
