"""Plan -> one .tflite file per unit, exact under TFLite's reference kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from cgate.core.plan import (
    Add,
    AvgPool2d,
    Conv2d,
    Convolution,
    DepthwiseConv2d,
    FullyConnected,
    Margin,
    MaxPool2d,
    Mean,
    MeanMax,
    Plan,
    Pool,
    ResidualAdd,
    ShortcutPad,
    Softmax,
    Tensor,
    Threshold,
    Unit,
    Weights,
)
from cgate.export.fixedpoint import activation_clamp
from cgate.export.tflite import Model, Subgraph


def decision_name(unit: str) -> str:
    """Name of a gate's or an exit's second output: bool [1,1,1,1], true where what follows runs."""
    return f"{unit}.open"


def plan_tensor(
    graph: Subgraph, tensor: Tensor, name: str, shape: tuple[int, ...] | None = None
) -> int:
    """Add a tensor with the scale and zero point of a plan's, for one image; returns its index.

    Args:
        shape: without the image's axis; None takes the plan's.
    """
    return graph.tensor(
        name,
        (1, *(shape or tensor.shape)),
        scale=tensor.scale,
        zero_point=tensor.zero_point,
    )


class _UnitEmitter:
    """Adds one unit's ops to a subgraph; plan tensors that it does not know yet are added."""

    def __init__(
        self, plan: Plan, weights: Weights, unit: Unit, graph: Subgraph, known: dict[str, int]
    ) -> None:
        self.plan = plan
        self.weights = weights
        self.unit = unit
        self.graph = graph
        self.known = known

    def activation(self, name: str) -> int:
        if name not in self.known:
            self.known[name] = self.like(self.plan.tensor(name), name)
        return self.known[name]

    def like(self, tensor: Tensor, name: str, shape: tuple[int, int, int] | None = None) -> int:
        return plan_tensor(self.graph, tensor, name, shape)

    def conv2d(self, op: Conv2d | DepthwiseConv2d) -> None:
        source = self.plan.tensor(op.input)
        depthwise = isinstance(op, DepthwiseConv2d)
        kernel = self.weights[op.weights]
        scales = self.weights[op.scale]
        weights = self.graph.tensor(
            op.weights, kernel.shape, scale=scales, data=kernel, axis=3 if depthwise else 0
        )
        bias = self.graph.tensor(
            op.bias,
            (len(scales),),
            np.int32,
            scale=np.float32(source.scale) * scales,
            data=self.weights[op.bias],
        )
        x, same = self.padded(op, (kernel.shape[1], kernel.shape[2]))
        emit = self.graph.depthwise_conv2d if depthwise else self.graph.conv2d
        emit(
            x,
            weights,
            bias,
            self.activation(op.output),
            stride=op.stride,
            same=same,
            activation=self.clamped(op),
        )

    def fully_connected(self, op: FullyConnected) -> None:
        source, target = self.plan.tensor(op.input), self.plan.tensor(op.output)
        outputs, height, width, channels = self.weights[op.weights].shape
        shape = (outputs, height * width * channels)
        scale = self.weights[op.scale][0]
        weights = self.graph.tensor(
            op.weights, shape, scale=scale, data=self.weights[op.weights].reshape(shape)
        )
        bias = self.graph.tensor(
            op.bias,
            (outputs,),
            np.int32,
            scale=np.float32(source.scale) * scale,
            data=self.weights[op.bias],
        )
        # TFLite takes the axes for a batch and its values, and so does away with them.
        flat = self.graph.tensor(
            f"{op.output}/flat",
            (target.shape[0] * target.shape[1], outputs),
            scale=target.scale,
            zero_point=target.zero_point,
        )
        self.graph.fully_connected(
            self.activation(op.input), weights, bias, flat, activation=self.clamped(op)
        )
        self.graph.reshape(flat, self.activation(op.output))

    def pool(self, op: MaxPool2d | AvgPool2d) -> None:
        x, same = self.padded(op, op.size)
        self.graph.pool(
            "MAX_POOL_2D" if isinstance(op, MaxPool2d) else "AVERAGE_POOL_2D",
            x,
            self.activation(op.output),
            size=op.size,
            stride=(op.stride, op.stride),
            same=same,
            activation=self.clamped(op),
        )

    def padded(self, op: Convolution | Pool, size: tuple[int, int]) -> tuple[int, bool]:
        """The input of an op with a window, padded where TFLite needs that, and whether SAME."""
        source, target = self.plan.tensor(op.input), self.plan.tensor(op.output)
        x = self.activation(op.input)
        # After the map, only what the last window reaches matters; without padding SAME is VALID.
        need = [
            max((out - 1) * op.stride + each - length, 0)
            for out, each, length in zip(target.shape[:2], size, source.shape[:2], strict=True)
        ]
        outputs = [-(-length // op.stride) for length in source.shape[:2]]
        before = [op.padding[0], op.padding[1]]
        if outputs == list(target.shape[:2]) and before == [total // 2 for total in need]:
            return x, True
        if not any(op.padding):
            return x, False
        if isinstance(op, AvgPool2d):
            raise ValueError(f"{op.output}: TFLite has no average with padding {op.padding}")
        top, left, bottom, right = op.padding
        height, width, channels = source.shape
        shape = (height + top + bottom, width + left + right, channels)
        padded = self.like(source, f"{op.output}/padded", shape)
        edges = [(0, 0), (top, bottom), (left, right), (0, 0)]
        self.graph.pad(x, edges, padded, -128 if isinstance(op, MaxPool2d) else None)
        return padded, False

    def clamped(self, op: Convolution | Pool | Add) -> str:
        """The activation whose clamp the op has (SPEC.md 5.11)."""
        target = self.plan.tensor(op.output)
        for name in ("NONE", "RELU", "RELU6"):
            if op.clamp == activation_clamp(name, target.scale, target.zero_point):
                return name
        raise ValueError(f"{op.output}: no activation of TFLite clamps to {op.clamp}")

    def mean_max(self, op: MeanMax) -> None:
        source, target = self.plan.tensor(op.input), self.plan.tensor(op.output)
        x, shape = self.activation(op.input), (1, 1, source.shape[2])
        fine = replace(target, scale=op.mean_scale)
        mean = self.like(fine, f"{op.output}/mean", shape)
        self.graph.mean(x, mean)
        # Times the quotient of the two scales: the real value grows, the integers stay.
        factor = self.graph.tensor(
            f"{op.output}/factor",
            (1, 1, 1, 1),
            scale=target.scale / op.mean_scale,
            data=np.ones((1, 1, 1, 1), np.int8),
        )
        scaled = self.like(target, f"{op.output}/scaled", shape)
        self.graph.multiply(mean, factor, scaled)
        peak = self.like(target, f"{op.output}/peak", shape)
        whole = source.shape[:2]
        self.graph.pool("MAX_POOL_2D", x, peak, size=whole, stride=whole)
        self.graph.concatenate([scaled, peak], self.activation(op.output))

    def shortcut_pad(self, op: ShortcutPad) -> None:
        source, target = self.plan.tensor(op.input), self.plan.tensor(op.output)
        height, width, channels = (*target.shape[:2], source.shape[2])
        picked = self.like(source, f"{op.output}/picked", (height, width, channels))
        self.graph.pool(
            "AVERAGE_POOL_2D",
            self.activation(op.input),
            picked,
            size=(1, 1),
            stride=(op.stride, op.stride),
        )
        scaled = self.like(target, f"{op.output}/scaled", (height, width, channels))
        self.graph.quantize(picked, scaled)
        after = target.shape[2] - channels - op.channels_before
        self.graph.pad(
            scaled,
            [(0, 0), (0, 0), (0, 0), (op.channels_before, after)],
            self.activation(op.output),
        )

    def threshold(self, op: Threshold) -> int:
        logit = self.plan.tensor(op.input)
        cut = self.graph.tensor(
            f"{self.unit.name}.threshold",
            (1, 1, 1, 1),
            scale=logit.scale,
            zero_point=logit.zero_point,
            data=np.full((1, 1, 1, 1), op.value, np.int8),
        )
        decision = self.graph.tensor(decision_name(self.unit.name), (1, 1, 1, 1), np.bool_)
        self.graph.greater(self.activation(op.input), cut, decision)
        return decision

    def margin(self, op: Margin) -> int:
        logits = self.plan.tensor(op.input)
        name = op.input
        pair = (1, 1, 2)
        largest = self.like(logits, f"{name}/largest", pair)
        indices = self.graph.tensor(f"{name}/indices", (1, *pair), np.int32)
        self.graph.largest_two(self.activation(name), largest, indices)
        # In int32, because the difference of two int8 codes does not fit in int8.
        codes = self.graph.tensor(f"{name}/codes", (1, *pair), np.int32)
        self.graph.to_int32(largest, codes)
        shape = (1, 1, 1, 1)
        first, second, difference = (
            self.graph.tensor(f"{name}/{what}", shape, np.int32)
            for what in ("first", "second", "margin")
        )
        self.graph.halves(codes, 3, first, second)
        self.graph.sub_int32(first, second, difference)
        data = np.full(shape, op.value, np.int32)
        cut = self.graph.tensor(f"{self.unit.name}.threshold", shape, np.int32, data=data)
        decision = self.graph.tensor(decision_name(self.unit.name), shape, np.bool_)
        self.graph.less_equal(difference, cut, decision)
        return decision

    def emit(self) -> int | None:
        decision = None
        for op in self.unit.ops:
            if isinstance(op, FullyConnected):
                self.fully_connected(op)
            elif isinstance(op, Conv2d | DepthwiseConv2d):
                self.conv2d(op)
            elif isinstance(op, MaxPool2d | AvgPool2d):
                self.pool(op)
            elif isinstance(op, Mean):
                self.graph.mean(self.activation(op.input), self.activation(op.output))
            elif isinstance(op, MeanMax):
                self.mean_max(op)
            elif isinstance(op, ShortcutPad):
                self.shortcut_pad(op)
            elif isinstance(op, Softmax):
                x, y = self.activation(op.input), self.activation(op.output)
                self.graph.softmax(x, y, op.beta)
            elif isinstance(op, Add | ResidualAdd):
                stream, body = self.activation(op.stream), self.activation(op.input)
                # A stream that is never negative ends where int8 does (SPEC.md 5.4).
                positive = self.plan.tensor(op.output).zero_point == -128
                plain = "RELU" if positive else "NONE"
                activation = self.clamped(op) if isinstance(op, Add) else plain
                self.graph.add(stream, body, self.activation(op.output), activation=activation)
            elif isinstance(op, Margin):
                decision = self.margin(op)
            else:
                decision = self.threshold(op)
        return decision


def emit_unit(
    plan: Plan, weights: Weights, unit: Unit, graph: Subgraph, known: dict[str, int]
) -> int | None:
    """Add a unit's ops to a subgraph.

    Args:
        known: index of the subgraph's plan tensors by name; the unit's own are added.

    Returns:
        Index of the decision of a gate or an exit, else None.
    """
    return _UnitEmitter(plan, weights, unit, graph, known).emit()


def unit_file(unit: Unit) -> str:
    """File name of a unit's .tflite, within the bundle."""
    return f"units/{unit.index:02d}_{unit.name}.tflite"


def emit_tflite(plan: Plan, weights: Weights) -> Mapping[str, bytes]:
    """All units' files, by name within the bundle.

    A file's inputs are the unit's inputs, its outputs the unit's output and, for a gate or an
    exit, the decision.
    """
    files = {}
    for unit in plan.units:
        model = Model(f"cgate {plan.network.name} {unit.name}")
        graph = model.subgraph(unit.name)
        known = {name: plan_tensor(graph, plan.tensor(name), name) for name in unit.inputs}
        inputs = list(known.values())
        decision = emit_unit(plan, weights, unit, graph, known)
        outputs = [known[unit.output]]
        graph.interface(inputs, outputs if decision is None else [*outputs, decision])
        files[unit_file(unit)] = model.pack()
    return files
