"""What a bundle's plan holds, for `cgate inspect`: plain values, and a table for people."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from cgate.core.plan import Bundle, Decision, Margin, Op, Plan, Unit, Weights
from cgate.core.targets import find_target, size_text
from cgate.export.kernels import constants_size
from cgate.host_tools.console import facts, table

HEAD = ("unit", "runs if", "op", "input", "output", "scale", "zero", "MACs", "arena", "kernel")
RIGHT = "     rrrr"


def shape_text(shape: tuple[int, ...]) -> str:
    """A tensor's shape: "8x8x16"."""
    return "x".join(str(size) for size in shape)


def op_title(op: Op, weights: Weights) -> str:
    """An op with what tells it from others of its kind: "conv2d 3x3 /2", "threshold > -7"."""
    if isinstance(op, Decision):
        return f"{op.op} {'<=' if isinstance(op, Margin) else '>'} {op.value}"
    words = [op.op]
    kernel = weights.get(getattr(op, "weights", ""))
    size = getattr(op, "size", None) if kernel is None else kernel.shape[1:3]
    if size is not None:
        words.append(shape_text(size))
    if (stride := getattr(op, "stride", 1)) not in (1, (1, 1)):
        words.append(f"/{stride if isinstance(stride, int) else shape_text(stride)}")
    return " ".join(words)


def variant(op: Op) -> str:
    """The kernel without the name of its op: "dsp_winograd"; a decision has none."""
    kernel: str = getattr(op, "kernel", "")
    return kernel.partition("__")[2]


def _place(plan: Plan, name: str) -> str:
    tensor = plan.tensor(name)
    if tensor.offset is None:
        return "caller's"
    return f"{tensor.offset}..{tensor.offset + tensor.size}"


def _row(plan: Plan, weights: Weights, op: Op) -> list[str]:
    source = shape_text(plan.tensor(op.input).shape)
    if isinstance(op, Decision):
        return [op_title(op, weights), source, *[""] * 6]
    target = plan.tensor(op.output)
    macs: int = getattr(op, "macs", 0)
    return [
        op_title(op, weights),
        source,
        shape_text(target.shape),
        f"{target.scale:.6g}",
        str(target.zero_point),
        f"{macs:,}" if macs else "",
        _place(plan, op.output),
        variant(op),
    ]


def _condition(unit: Unit) -> str:
    return "" if unit.condition is None else f"{unit.condition} is open"


def _reasons(plan: Plan) -> list[str]:
    """Why each kernel was chosen, with the ops that it was chosen for."""
    found: dict[tuple[str, str], list[str]] = {}
    for unit in plan.units:
        for op in unit.ops:
            if not isinstance(op, Decision):
                found.setdefault((op.kernel, op.why), []).append(op.output)
    return facts(
        [
            (f"{kernel} ({len(names)})", why if len(names) > 3 else f"{why}: {', '.join(names)}")
            for (kernel, why), names in sorted(found.items())
        ]
    )


def _unit_json(unit: Unit, weights: Weights) -> dict[str, Any]:
    ops = []
    for op in unit.ops:
        kernel = weights.get(getattr(op, "weights", ""))
        more = {} if kernel is None else {"weights_shape": list(kernel.shape)}
        ops.append({"kind": op.op, **asdict(op), **more})
    return {**asdict(unit), "ops": ops}


def to_json(bundle: Bundle) -> dict[str, Any]:
    """The plan as plain JSON values, with sizes in bytes and costs in MACs."""
    plan, weights = bundle.plan, bundle.weights
    return {
        "bundle": str(bundle.folder),
        "plan_sha256": bundle.sha256,
        "source_sha256": plan.source_sha256,
        "name": plan.name,
        "network": plan.network.name,
        "target": plan.target,
        "rounding": plan.rounding,
        "threshold": plan.threshold,
        "input": plan.input,
        "output": plan.output,
        "classes": list(plan.classes),
        "dense_macs": plan.dense_macs,
        "weights_bytes": constants_size(plan, weights),
        "arena_bytes": plan.arena_size,
        "tensors": [asdict(tensor) for tensor in plan.tensors],
        "units": [_unit_json(unit, weights) for unit in plan.units],
    }


def lines(bundle: Bundle) -> list[str]:
    """For people: what it is, a row per op, and why each kernel was chosen."""
    plan, weights = bundle.plan, bundle.weights
    target = find_target(plan.target)
    source, result = plan.tensor(plan.input), plan.tensor(plan.output)
    deciders = sum(unit.macs for unit in plan.gates)
    extra = f", gates and exits {deciders:,}" if deciders else ""
    pairs = [
        ("network", f"{plan.network.name} for {plan.target} ({target.core}), C prefix {plan.name}"),
        ("plan", bundle.sha256),
        ("source", plan.source_sha256),
        ("input", _ends(source.shape, source.scale, source.zero_point)),
        ("output", _ends(result.shape, result.scale, result.zero_point)),
        ("MACs", f"{plan.dense_macs:,} dense{extra}"),
        ("tables", f"{size_text(constants_size(plan, weights))} of flash"),
        ("arena", f"{size_text(plan.arena_size)} of RAM"),
    ]
    if any(unit.role == "gate" for unit in plan.units):
        pairs.append(("gates", f"open where sigmoid(logit) > {plan.threshold:g}"))
    rows = []
    for unit in plan.units:
        for i, op in enumerate(unit.ops):
            name = (f"{unit.index} {unit.name}", _condition(unit)) if i == 0 else ("", "")
            rows.append([*name, *_row(plan, weights, op)])
    return [*facts(pairs), "", *table(HEAD, rows, RIGHT), "", *_reasons(plan)]


def _ends(shape: tuple[int, int, int], scale: float, zero_point: int) -> str:
    return f"int8 {shape_text(shape)}, scale {np.float32(scale):.9g}, zero point {zero_point}"
