"""A numpy interpreter of the plan: the definition of the arithmetic (SPEC.md, section 5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from cgate.core.plan import (
    Conv2d,
    Mean,
    Plan,
    ResidualAdd,
    ShortcutPad,
    Tensor,
    Threshold,
    Unit,
    Weights,
)
from cgate.export.fixedpoint import requantize

Int8 = NDArray[np.int8]

FORCE = {"learned": None, "open": True, "shut": False}
"""What to do with gates: as they decide, all open, all shut."""

BATCH = 64  # images at a time: bounds the memory of the unfolded convolution windows


def to_input(images: NDArray[np.uint8]) -> Int8:
    """Pixels as the network's int8 input: pixel - 128, without loss (SPEC.md, section 2)."""
    return (images.astype(np.int16) - 128).astype(np.int8)


def _saturate(value: NDArray[np.int64], low: int = -128, high: int = 127) -> Int8:
    return np.clip(value, low, high).astype(np.int8)


def conv2d(x: Int8, op: Conv2d, weights: Weights, source: Tensor, target: Tensor) -> Int8:
    """SPEC 5.2 on (n, H, W, C); every sum is exact in float64."""
    top, left, bottom, right = op.padding
    kernel = weights[op.weights]
    values = x.astype(np.float64) - source.zero_point
    values = np.pad(values, ((0, 0), (top, bottom), (left, right), (0, 0)))
    rows_and_columns: Any = (1, 2)  # numpy's annotation knows single axes only
    windows = sliding_window_view(values, kernel.shape[1:3], axis=rows_and_columns)
    windows = windows[:, :: op.stride, :: op.stride]  # (n, H', W', C, kh, kw)
    sums = np.tensordot(windows, kernel.astype(np.float64), axes=([3, 4, 5], [3, 1, 2]))
    accumulator = sums.astype(np.int64) + weights[op.bias]
    scaled = requantize(accumulator, weights[op.multiplier], weights[op.shift])
    return _saturate(scaled + target.zero_point, *op.clamp)


def mean(x: Int8, op: Mean, source: Tensor, target: Tensor) -> Int8:
    """SPEC 5.3 on (n, H, W, C) -> (n, 1, 1, C)."""
    sums = (x.astype(np.int64) - source.zero_point).sum(axis=(1, 2), keepdims=True)
    return _saturate(requantize(sums, op.multiplier, op.shift) + target.zero_point)


def shortcut_pad(x: Int8, op: ShortcutPad, source: Tensor, target: Tensor) -> Int8:
    """SPEC 5.5 on (n, H, W, C)."""
    picked = x[:, :: op.stride, :: op.stride].astype(np.int64) - source.zero_point
    copied = _saturate(requantize(picked, op.multiplier, op.shift) + target.zero_point)
    output = np.full((len(x), *target.shape), target.zero_point, np.int8)
    output[..., op.channels_before : op.channels_before + copied.shape[3]] = copied
    return output


def residual_add(stream: Int8, body: Int8) -> Int8:
    """SPEC 5.4: sat8(x + f)."""
    return _saturate(stream.astype(np.int64) + body)


def run_unit(
    plan: Plan, weights: Weights, unit: Unit, inputs: Mapping[str, Int8]
) -> dict[str, Int8]:
    """Run one unit.

    Args:
        inputs: at least the tensors in `unit.inputs`, each (n, H, W, C).

    Returns:
        Every tensor that the unit computed, by name.
    """
    values = dict(inputs)
    made: dict[str, Int8] = {}
    for op in unit.ops:
        if isinstance(op, Threshold):
            continue  # a decision, not a tensor: see `decide`
        source, target = plan.tensor(op.input), plan.tensor(op.output)
        x = values[op.input]
        if isinstance(op, Conv2d):
            y = conv2d(x, op, weights, source, target)
        elif isinstance(op, Mean):
            y = mean(x, op, source, target)
        elif isinstance(op, ShortcutPad):
            y = shortcut_pad(x, op, source, target)
        else:
            y = residual_add(values[op.stream], x)
        values[op.output] = made[op.output] = y
    return made


def decide(unit: Unit, logit: Int8) -> NDArray[np.bool_]:
    """A gate's decision per image: open iff the logit exceeds the unit's integer threshold."""
    decision: NDArray[np.bool_] = logit.reshape(len(logit)) > unit.threshold
    return decision


@dataclass(frozen=True)
class Result:
    """Of n images: logits (n, classes) int8; decisions (n, gates) and ran (n, units) bool."""

    logits: Int8
    decisions: NDArray[np.bool_]
    ran: NDArray[np.bool_]

    @property
    def classes(self) -> NDArray[np.int64]:
        """The class of each image: the first of the largest logits."""
        best: NDArray[np.int64] = self.logits.argmax(axis=1)
        return best


@dataclass(frozen=True)
class UnitRun:
    """One unit's run: which images ran it, and the output of those."""

    unit: Unit
    images: NDArray[np.int64]
    output: Int8


def trace(plan: Plan, weights: Weights, x: Int8, gates: str = "learned") -> Iterator[UnitRun]:
    """Run all units in order on one batch, a skipped body not being computed at all.

    Args:
        x: input (n, H, W, C).
        gates: a key of FORCE.

    Yields:
        Each unit that ran on at least one image.
    """
    force = FORCE[gates]
    everyone = np.arange(len(x))
    values: dict[str, Int8] = {plan.input: x}
    open_: dict[str, NDArray[np.bool_]] = {}
    for unit in plan.units:
        chosen = everyone if unit.condition is None else everyone[open_[unit.condition]]
        if unit.condition is not None:
            # A body writes over its stream; images that skip it keep the stream as it is.
            add = unit.ops[-1]
            assert isinstance(add, ResidualAdd)
            values[unit.output] = values[add.stream].copy()
        if len(chosen) == 0:
            continue
        inputs = {name: values[name][chosen] for name in unit.inputs}
        output = run_unit(plan, weights, unit, inputs)[unit.output]
        if unit.condition is None:
            values[unit.output] = output
        else:
            values[unit.output][chosen] = output
        if unit.role == "gate":
            learned = decide(unit, output)
            open_[unit.name] = learned if force is None else np.full(len(x), force)
        yield UnitRun(unit, chosen, output)


def run(plan: Plan, weights: Weights, x: Int8, gates: str = "learned") -> Result:
    """Run the whole network on (n, H, W, C) int8 inputs, in batches."""
    logits = np.zeros((len(x), plan.tensor(plan.output).size), np.int8)
    ran = np.zeros((len(x), len(plan.units)), bool)
    decisions = np.zeros((len(x), len(plan.gates)), bool)
    gate_index = {gate.name: i for i, gate in enumerate(plan.gates)}
    for start in range(0, len(x), BATCH):
        for step in trace(plan, weights, x[start : start + BATCH], gates):
            rows = start + step.images
            ran[rows, step.unit.index] = True
            if step.unit.role == "gate":
                decisions[rows, gate_index[step.unit.name]] = decide(step.unit, step.output)
            if step.unit.output == plan.output:
                logits[rows] = step.output.reshape(len(rows), -1)
    return Result(logits, decisions, ran)
