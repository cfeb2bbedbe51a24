"""A numpy interpreter of the plan: the definition of the arithmetic (SPEC.md, section 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from cgate.core.plan import (
    Add,
    AvgPool2d,
    Conv2d,
    Decision,
    DepthwiseConv2d,
    MaxPool2d,
    Mean,
    MeanMax,
    Plan,
    ShortcutPad,
    Softmax,
    Tensor,
    Unit,
    Weights,
)
from cgate.export.fixedpoint import ADD_SHIFT, requantize
from cgate.export.softmax import softmax

Int8 = NDArray[np.int8]

FORCE = {"learned": None, "open": True, "shut": False}
"""What to do with gates: as they decide, all open (no exit is left), all shut (the first is)."""

BATCH = 64  # images at a time: bounds the memory of the unfolded convolution windows


def to_input(images: NDArray[np.uint8]) -> Int8:
    """Pixels as the network's int8 input: pixel - 128, without loss (SPEC.md, section 2)."""
    return (images.astype(np.int16) - 128).astype(np.int8)


def _saturate(value: NDArray[np.int64], low: int = -128, high: int = 127) -> Int8:
    return np.clip(value, low, high).astype(np.int8)


def _windows(
    values: NDArray[Any],
    size: tuple[int, ...],
    stride: int,
    padding: tuple[int, int, int, int],
    fill: float = 0,
) -> NDArray[Any]:
    """All windows of (n, H, W, C) values after padding: (n, H', W', C, height, width)."""
    top, left, bottom, right = padding
    edges = ((0, 0), (top, bottom), (left, right), (0, 0))
    padded = np.pad(values, edges, constant_values=fill)
    rows_and_columns: Any = (1, 2)  # numpy's annotation knows single axes only
    return sliding_window_view(padded, size, axis=rows_and_columns)[:, ::stride, ::stride]


Accumulate = Callable[[Int8, Conv2d, Int8, int], NDArray[np.float64]]
"""(x (n, H, W, C), op, kernel (out, kh, kw, C), zero point of x) -> sum of kernel * (x - zero
point), (n, H', W', out): whole numbers, exact."""


def accumulate(x: Int8, op: Conv2d, kernel: Int8, zero_point: int) -> NDArray[np.float64]:
    """See Accumulate; every sum is exact in float64."""
    windows = _windows(x.astype(np.float64) - zero_point, kernel.shape[1:3], op.stride, op.padding)
    sums: NDArray[np.float64] = np.tensordot(
        windows, kernel.astype(np.float64), axes=([3, 4, 5], [3, 1, 2])
    )
    return sums


def conv2d(
    x: Int8,
    op: Conv2d,
    weights: Weights,
    source: Tensor,
    target: Tensor,
    sums: Accumulate = accumulate,
) -> Int8:
    """SPEC 5.2 on (n, H, W, C)."""
    return _convolved(sums(x, op, weights[op.weights], source.zero_point), op, weights, target)


def depthwise_conv2d(
    x: Int8, op: DepthwiseConv2d, weights: Weights, source: Tensor, target: Tensor
) -> Int8:
    """SPEC 5.8 on (n, H, W, C); every sum is exact in float64."""
    kernel = weights[op.weights][0].astype(np.float64)
    values = x.astype(np.float64) - source.zero_point
    windows = _windows(values, kernel.shape[:2], op.stride, op.padding)
    windows = windows.repeat(kernel.shape[2] // x.shape[3], axis=3)
    return _convolved(np.einsum("nhwcij,ijc->nhwc", windows, kernel), op, weights, target)


def _convolved(
    sums: NDArray[np.float64], op: Conv2d | DepthwiseConv2d, weights: Weights, target: Tensor
) -> Int8:
    accumulator = sums.astype(np.int64) + weights[op.bias]
    scaled = requantize(accumulator, weights[op.multiplier], weights[op.shift])
    return _saturate(scaled + target.zero_point, *op.clamp)


def max_pool2d(x: Int8, op: MaxPool2d) -> Int8:
    """SPEC 5.9 on (n, H, W, C)."""
    windows = _windows(x.astype(np.int64), op.size, op.stride, op.padding, -128)
    return _saturate(windows.max(axis=(4, 5)), *op.clamp)


def avg_pool2d(x: Int8, op: AvgPool2d) -> Int8:
    """SPEC 5.9 on (n, H, W, C)."""
    sums = _windows(x.astype(np.int64), op.size, op.stride, op.padding).sum(axis=(4, 5))
    ones = np.ones((1, *x.shape[1:3], 1), np.int64)
    counts = _windows(ones, op.size, op.stride, op.padding).sum(axis=(4, 5))
    # Divides toward zero, as C does.
    means = np.sign(sums) * ((np.abs(sums) + counts // 2) // counts)
    return _saturate(means, *op.clamp)


def mean(x: Int8, op: Mean, source: Tensor, target: Tensor) -> Int8:
    """SPEC 5.3 on (n, H, W, C) -> (n, 1, 1, C)."""
    sums = (x.astype(np.int64) - source.zero_point).sum(axis=(1, 2), keepdims=True)
    return _saturate(requantize(sums, op.multiplier, op.shift) + target.zero_point)


def mean_max(x: Int8, op: MeanMax, source: Tensor) -> Int8:
    """SPEC 5.7 on (n, H, W, C) -> (n, 1, 1, 2 C)."""
    sums = (x.astype(np.int64) - source.zero_point).sum(axis=(1, 2), keepdims=True)
    means = _saturate(requantize(sums, op.multiplier, op.shift) + source.zero_point)
    return np.concatenate([means, x.max(axis=(1, 2), keepdims=True)], axis=3)


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


def add(x: Int8, stream: Int8, op: Add, sources: tuple[Tensor, Tensor], target: Tensor) -> Int8:
    """SPEC 5.10; `sources` are the tensors of `x` and of `stream`."""
    total = np.zeros(x.shape, np.int64)
    for i, (value, source) in enumerate(zip((x, stream), sources, strict=True)):
        magnified = (value.astype(np.int64) - source.zero_point) << ADD_SHIFT
        total += requantize(magnified, op.multiplier[i], op.shift[i])
    scaled = requantize(total, op.multiplier[2], op.shift[2])
    return _saturate(scaled + target.zero_point, *op.clamp)


def run_unit(
    plan: Plan,
    weights: Weights,
    unit: Unit,
    inputs: Mapping[str, Int8],
    sums: Accumulate = accumulate,
) -> dict[str, Int8]:
    """Run one unit.

    Args:
        inputs: at least the tensors in `unit.inputs`, each (n, H, W, C).
        sums: what adds up the products of convolutions.

    Returns:
        Every tensor that the unit computed, by name.
    """
    values = dict(inputs)
    made: dict[str, Int8] = {}
    for op in unit.ops:
        if isinstance(op, Decision):
            continue  # a decision, not a tensor: see `decide`
        source, target = plan.tensor(op.input), plan.tensor(op.output)
        x = values[op.input]
        if isinstance(op, Conv2d):
            y = conv2d(x, op, weights, source, target, sums)
        elif isinstance(op, DepthwiseConv2d):
            y = depthwise_conv2d(x, op, weights, source, target)
        elif isinstance(op, MaxPool2d):
            y = max_pool2d(x, op)
        elif isinstance(op, AvgPool2d):
            y = avg_pool2d(x, op)
        elif isinstance(op, Mean):
            y = mean(x, op, source, target)
        elif isinstance(op, MeanMax):
            y = mean_max(x, op, source)
        elif isinstance(op, ShortcutPad):
            y = shortcut_pad(x, op, source, target)
        elif isinstance(op, Softmax):
            y = softmax(x, weights[op.table])
        elif isinstance(op, Add):
            sources = source, plan.tensor(op.stream)
            y = add(x, values[op.stream], op, sources, target)
        else:
            y = residual_add(values[op.stream], x)
        values[op.output] = made[op.output] = y
    return made


def margin(logits: Int8) -> NDArray[np.int64]:
    """Largest minus second largest of each image's logits (n, ..., classes): 0..255."""
    ordered = np.sort(logits.reshape(len(logits), -1).astype(np.int64), axis=1)
    difference: NDArray[np.int64] = ordered[:, -1] - ordered[:, -2]
    return difference


def decide(unit: Unit, output: Int8) -> NDArray[np.bool_]:
    """A gate's decision per image, from the integers that it left: SPEC 4.

    A gate is open iff its logit exceeds the unit's threshold. An exit is open, so that the rest
    of the network runs, iff the margin of its logits does not.
    """
    if unit.role == "exit":
        return margin(output) <= unit.threshold
    decision: NDArray[np.bool_] = output.reshape(len(output)) > unit.threshold
    return decision


@dataclass(frozen=True)
class Result:
    """Of n images: logits (n, classes) int8; decisions (n, gates) and ran (n, units) bool.

    The decision of a gate that was not reached is False.
    """

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
    """One unit's run: which images ran it, the output of those, and a gate's own decisions."""

    unit: Unit
    images: NDArray[np.int64]
    output: Int8
    decision: NDArray[np.bool_] | None


Gates = str | Mapping[str, bool]
"""A key of FORCE for all, or what single gates are forced to by name; the others decide."""

RunUnit = Callable[[Unit, Mapping[str, Int8]], tuple[Int8, NDArray[np.bool_] | None]]
"""(unit, its inputs by name) -> its output and, for a gate, its decision per image."""


def walk(plan: Plan, x: Int8, gates: Gates, run_unit: RunUnit) -> Iterator[UnitRun]:
    """Run all units in order on one batch, a unit only on those images that need it.

    Args:
        x: input (n, H, W, C).
        gates: what they do.
        run_unit: computes a unit on the images that run it; never called without images.

    Yields:
        Each unit that ran on at least one image.
    """
    values: dict[str, Int8] = {plan.input: x}
    open_: dict[str, NDArray[np.bool_]] = {}
    going = np.ones(len(x), bool)
    for unit in plan.units:
        if not going.any():
            return
        running = going if unit.condition is None else going & open_[unit.condition]
        chosen = np.flatnonzero(running)
        if unit.condition is not None:
            # A body writes over its stream; images that skip it keep the stream as it is.
            values[unit.output] = values[unit.stream].copy()
        if len(chosen) == 0:
            continue
        output, decision = run_unit(unit, {name: values[name][chosen] for name in unit.inputs})
        if unit.condition is None:
            # Images that have left keep zeros, which nothing reads.
            values[unit.output] = np.zeros((len(x), *output.shape[1:]), np.int8)
        values[unit.output][chosen] = output
        if decision is not None:
            opened = np.zeros(len(x), bool)
            force = FORCE[gates] if isinstance(gates, str) else gates.get(unit.name)
            opened[chosen] = decision if force is None else force
            open_[unit.name] = opened
            if unit.role == "exit":
                going = going & opened
        yield UnitRun(unit, chosen, output, decision)


def trace(plan: Plan, weights: Weights, x: Int8, gates: Gates = "learned") -> Iterator[UnitRun]:
    """`walk` with the arithmetic of this module."""

    def compute(unit: Unit, inputs: Mapping[str, Int8]) -> tuple[Int8, NDArray[np.bool_] | None]:
        output = run_unit(plan, weights, unit, inputs)[unit.output]
        return output, decide(unit, output) if unit in plan.gates else None

    return walk(plan, x, gates, compute)


def run(plan: Plan, weights: Weights, x: Int8, gates: Gates = "learned") -> Result:
    """Run the whole network on (n, H, W, C) int8 inputs, in batches."""
    logits = np.zeros((len(x), plan.tensor(plan.output).size), np.int8)
    ran = np.zeros((len(x), len(plan.units)), bool)
    decisions = np.zeros((len(x), len(plan.gates)), bool)
    gate_index = {gate.name: i for i, gate in enumerate(plan.gates)}
    for start in range(0, len(x), BATCH):
        for step in trace(plan, weights, x[start : start + BATCH], gates):
            rows = start + step.images
            ran[rows, step.unit.index] = True
            if step.decision is not None:
                decisions[rows, gate_index[step.unit.name]] = step.decision
            if step.unit.role in ("exit", "head"):
                # Of those that go on, a later unit writes over it, as the firmware does.
                logits[rows] = step.output.reshape(len(rows), -1)
    return Result(logits, decisions, ran)
