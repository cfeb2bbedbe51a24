"""Accuracy against executed MACs of one checkpoint, over the threshold of its gates.

Every threshold is baked into a plan of its own, whose generated C runs on this computer: the
curve is that of what would be deployed, and every point of it can be.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cgate.core.checkpoint import load_checkpoint
from cgate.core.errors import CgateError
from cgate.core.files import write_json, write_text
from cgate.core.plan import load_bundle
from cgate.core.progress import Progress, Silent
from cgate.core.targets import roomiest
from cgate.export.bundle import export_checkpoint
from cgate.export.quantize import range_choice
from cgate.export.reference import to_input
from cgate.host_tools import runner
from cgate.host_tools.build import build
from cgate.host_tools.console import table
from cgate.host_tools.inputs import Inputs
from cgate.host_tools.summary import headline
from cgate.host_tools.trace import make_trace

SCHEMA = 1
SWEEP = "threshold_sweep"
THRESHOLDS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
"""From nearly all that an int8 logit can express: 0.018 to 0.982."""


def _point(
    checkpoint: Path, threshold: float, inputs: Inputs, ranges: str, jobs: int | None
) -> dict[str, Any]:
    """One threshold: export, build, run."""
    with tempfile.TemporaryDirectory(prefix="cgate-sweep-") as temporary:
        folder = Path(temporary) / "bundle"
        # The integers are the same on every target and with all kernels.
        target = roomiest()
        export_checkpoint(
            checkpoint, folder, target, threshold=threshold, ranges=ranges, kernels="ref"
        )
        bundle = load_bundle(folder)
        built = build(folder, target, on="host", progress=Silent())
        results = runner.run(built, to_input(inputs.images), jobs=jobs)
        trace = make_trace(
            bundle,
            built,
            results,
            gates="learned",
            data=inputs.data,
            split=inputs.split,
            images=inputs.indices.tolist(),
            labels=inputs.labels.tolist(),
        )
    figures = headline(bundle.plan, trace)
    cuts = [unit.threshold for unit in bundle.plan.gates if unit.role == "gate"]
    right, macs = figures["accuracy"], figures["macs"]
    return {
        "threshold": threshold,
        "cut": cuts[0] if cuts else None,
        "accuracy": right["value"],
        "standard_error": right["standard_error"],
        "correct": right["correct"],
        "images": right["images"],
        "executed_macs": macs["executed"]["mean"],
        "share": macs["share"],
        "open": {gate["block"]: gate["open"] for gate in figures["gates"]},
    }


def sweep(
    checkpoint: Path,
    inputs: Inputs,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    ranges: str | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure the curve.

    Args:
        inputs: labelled images of one split.
        thresholds: on sigmoid(logit); taken in rising order.
        ranges: as for `export_checkpoint`.
        jobs: processes side by side; None takes one per core.

    Returns:
        The content of threshold_sweep.json.

    Raises:
        CgateError: what exporting, building and running raise; the network has no gates.
    """
    progress = progress or Silent()
    ranges = range_choice(load_checkpoint(checkpoint).card, ranges)
    chosen = sorted(set(thresholds))
    progress.start("threshold sweep", len(chosen))
    points = []
    for threshold in chosen:
        point = _point(checkpoint, threshold, inputs, ranges, jobs)
        if not point["open"]:
            raise CgateError(
                "there is no threshold to sweep: no gate of this network decides by image",
                "train with --gate controller",
            )
        points.append(point)
        progress.advance(note=f"threshold {threshold:g}")
    return {
        "schema": SCHEMA,
        "data": inputs.data,
        "split": inputs.split,
        "images": len(inputs.images),
        "ranges": ranges,
        "points": points,
    }


def write_sweep(folder: Path, value: dict[str, Any]) -> list[Path]:
    """Write threshold_sweep.json and threshold_sweep.csv, a line per threshold, into `folder`."""
    points = value["points"]
    blocks = list(points[0]["open"])
    plain = [key for key in points[0] if key != "open"]
    lines = [",".join([*plain, *(f"open_{block}" for block in blocks)])]
    for point in points:
        cells = [point[key] for key in plain] + [point["open"][block] for block in blocks]
        lines.append(",".join("" if cell is None else f"{cell:.10g}" for cell in cells))
    paths = [folder / f"{SWEEP}.json", folder / f"{SWEEP}.csv"]
    write_json(paths[0], value)
    write_text(paths[1], "\n".join(lines) + "\n")
    return paths


def sweep_lines(value: dict[str, Any]) -> list[str]:
    """The curve for people."""
    rows = [
        [
            f"{point['threshold']:g}",
            f"{point['accuracy']:.2%}",
            f"{point['standard_error']:.2%}",
            f"{point['executed_macs']:,.0f}",
            f"{point['share']:.1%}",
        ]
        for point in value["points"]
    ]
    head = ["threshold", "accuracy", "+-", "executed MACs", "of dense"]
    title = f"{value['images']:,} {value['split']} images of {value['data']}, int8, host C"
    return [title, "", *table(head, rows, "rrrrr")]
