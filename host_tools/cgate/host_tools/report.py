"""`cgate report`: what a bundle's runs have shown, as report.json and as one HTML page.

This module collects the figures. `page` only lays them out, so the two files agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgate.core.errors import CgateError
from cgate.core.files import read_json, write_json, write_text
from cgate.core.plan import Bundle, Plan, load_bundle
from cgate.core.targets import Target, find_target
from cgate.host_tools.inputs import load_inputs
from cgate.host_tools.page.layout import page
from cgate.host_tools.runs import Run, choose_run, find_runs
from cgate.host_tools.summary import Numbers, Records, headline, records
from cgate.host_tools.trace import Trace
from cgate.host_tools.verify import FIDELITY, VERIFICATION

SCHEMA = 1
HTML = "report.html"
JSON = "report.json"
BINS = 60
EXAMPLES = 6


def _all_open(plan: Plan, runs: Sequence[Run], chosen: Run) -> dict[str, Any] | None:
    """Instructions with every gate open, from the longest such run on the same machine."""
    candidates = [
        run
        for run in runs
        if run.trace.gates == "open"
        and (run.trace.runner, run.trace.target) == (chosen.trace.runner, chosen.trace.target)
    ]
    if not candidates:
        return None
    run = max(candidates, key=lambda run: len(run.trace.images))
    record = records(plan, run.trace)
    if record.total is None or record.units is None:
        return None
    gates = record.units[:, [unit.index for unit in plan.gates]].sum(axis=1)
    return {
        "run": run.name,
        "images": len(record.total),
        "mean": float(record.total.mean()),
        "without_gates_mean": float((record.total - gates).mean()),
    }


def _histogram(values: Numbers, full: float) -> dict[str, Any]:
    """Images per range of cost. It begins at 0, so that a small spread looks small."""
    high = max(int(values.max()), math.ceil(full), 1)
    counts, _ = np.histogram(values, BINS, (0, high))
    return {"high": high, "counts": [int(n) for n in counts]}


def _units(plan: Plan, record: Records) -> list[dict[str, Any]]:
    """Cost per unit: when it runs, and as a share of the mean inference."""
    ran = record.ran.mean(axis=0)
    macs_mean = float(record.macs.mean())
    rows: list[dict[str, Any]] = []
    for unit in plan.units:
        row: dict[str, Any] = {
            "index": unit.index,
            "name": unit.name,
            "role": unit.role,
            "block": unit.block,
            "conditional": unit.condition is not None,
            "ran": float(ran[unit.index]),
            "macs": unit.macs,
            "macs_share": unit.macs * float(ran[unit.index]) / macs_mean,
            "instructions": None,
            "instructions_share": None,
        }
        if record.units is not None and record.total is not None:
            counted = record.units[:, unit.index]
            runs = counted[record.ran[:, unit.index]]
            row["instructions"] = float(runs.mean()) if len(runs) else None
            row["instructions_share"] = float(counted.mean() / record.total.mean())
        rows.append(row)
    return rows


def _classes(plan: Plan, record: Records) -> list[dict[str, Any]]:
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
                "instructions_mean": None
                if record.total is None
                else float(record.total[of_class].mean()),
            }
        )
    return rows


def _examples(plan: Plan, record: Records) -> dict[str, list[dict[str, Any]]]:
    """The cheapest and the dearest images, by instructions if counted, else by MACs."""
    cost = record.macs if record.total is None else record.total
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
                "instructions": None if record.total is None else int(record.total[i]),
                "open": [int(record.decisions[i, j]) for j in gates],
                "left": left[record.answered[i]],
            }
            for i in places
        ]

    return {"cheapest": rows(order[:count]), "dearest": rows(order[::-1][:count])}


def _outside(record: Records) -> float | None:
    """Mean instructions of an inference that no unit accounts for."""
    if record.total is None or record.units is None:
        return None
    return float((record.total - record.units.sum(axis=1)).mean())


def _memory(plan: Plan, trace: Trace, target: Target) -> dict[str, int] | None:
    """Sizes in bytes against the target's; None on the host, which says nothing about it."""
    if trace.binary is None:
        return None
    return {
        "flash": trace.binary.flash,
        "ram": trace.binary.ram,
        "stack": trace.binary.stack,
        "arena": plan.arena_size,
        "flash_limit": target.flash.size,
        "ram_limit": target.ram.size,
    }


def _finding(bundle: Bundle, name: str) -> dict[str, Any] | None:
    """What another command left in the bundle; None if it did not, or found it on another plan."""
    path = bundle.folder / name
    value = read_json(path, "a finding on the bundle") if path.is_file() else None
    if not isinstance(value, dict) or value.get("plan_sha256") != bundle.sha256:
        return None
    return value


def collect(bundle: Bundle, runs: Sequence[Run], chosen: Run) -> dict[str, Any]:
    """All figures of the report, as plain JSON values (the content of report.json)."""
    plan, trace = bundle.plan, chosen.trace
    record = records(plan, trace)
    target = find_target(trace.target)
    figures = headline(plan, trace)
    cost, full = record.macs, 0.0
    if record.total is not None:
        opened = _all_open(plan, runs, chosen)
        cost, full = record.total, opened["mean"] if opened else 0.0
        figures["instructions"] = {
            **figures["instructions"],
            "outside_units_mean": _outside(record),
            "all_open": opened,
        }
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
        },
        "run": {
            "name": chosen.name,
            "runner": trace.runner,
            "gates": trace.gates,
            "data": trace.data,
            "split": trace.split,
            "images": len(trace.images),
        },
        **figures,
        "cost": "macs" if record.total is None else "instructions",
        "histogram": _histogram(cost, full),
        "memory": _memory(plan, trace, target),
        "class_names": list(plan.classes),
        "classes": _classes(plan, record),
        "units": _units(plan, record),
        "examples": _examples(plan, record),
        "agreement": _finding(bundle, VERIFICATION),
        "fidelity": _finding(bundle, FIDELITY),
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
