"""Plan -> one .tflite file per unit, exact under TFLite's reference kernels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

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
from cgate.export.tflite import Model, Subgraph

DECISION = "open"
"""Name of a gate file's second output: bool [1,1,1,1], true where the body runs."""


class _UnitEmitter:
    """Builds the subgraph of one unit; plan tensors are added at first use."""

    def __init__(self, plan: Plan, weights: Weights, unit: Unit, graph: Subgraph) -> None:
        self.plan = plan
        self.weights = weights
        self.unit = unit
        self.graph = graph
        self.known: dict[str, int] = {}

    def activation(self, name: str) -> int:
        if name not in self.known:
            self.known[name] = self.like(self.plan.tensor(name), name)
        return self.known[name]

    def like(self, tensor: Tensor, name: str, shape: tuple[int, int, int] | None = None) -> int:
        return self.graph.tensor(
            name, (1, *(shape or tensor.shape)), scale=tensor.scale, zero_point=tensor.zero_point
        )

    def conv2d(self, op: Conv2d) -> None:
        source, target = self.plan.tensor(op.input), self.plan.tensor(op.output)
        kernel = self.weights[op.weights]
        scales = self.weights[op.scale]
        weights = self.graph.tensor(op.weights, kernel.shape, scale=scales, data=kernel)
        bias = self.graph.tensor(
            op.bias,
            (len(scales),),
            np.int32,
            scale=np.float32(source.scale) * scales,
            data=self.weights[op.bias],
        )
        x = self.activation(op.input)
        same = op.stride == 1
        if not same:
            # TensorFlow's SAME pads only after the map at stride 2; the plan pads on both sides.
            top, left, bottom, right = op.padding
            height, width, channels = source.shape
            shape = (height + top + bottom, width + left + right, channels)
            padded = self.like(source, f"{op.output}/padded", shape)
            self.graph.pad(x, [(0, 0), (top, bottom), (left, right), (0, 0)], padded)
            x = padded
        self.graph.conv2d(
            x,
            weights,
            bias,
            self.activation(op.output),
            stride=op.stride,
            same=same,
            relu=op.clamp[0] == target.zero_point,
        )

    def shortcut_pad(self, op: ShortcutPad) -> None:
        source, target = self.plan.tensor(op.input), self.plan.tensor(op.output)
        height, width, channels = (*target.shape[:2], source.shape[2])
        picked = self.like(source, f"{op.output}/picked", (height, width, channels))
        self.graph.subsample(self.activation(op.input), op.stride, picked)
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
        decision = self.graph.tensor(DECISION, (1, 1, 1, 1), np.bool_)
        self.graph.greater(self.activation(op.input), cut, decision)
        return decision

    def emit(self) -> None:
        inputs = [self.activation(name) for name in self.unit.inputs]
        outputs = []
        for op in self.unit.ops:
            if isinstance(op, Conv2d):
                self.conv2d(op)
            elif isinstance(op, Mean):
                self.graph.mean(self.activation(op.input), self.activation(op.output))
            elif isinstance(op, ShortcutPad):
                self.shortcut_pad(op)
            elif isinstance(op, ResidualAdd):
                stream, body = self.activation(op.stream), self.activation(op.input)
                # Same scale, zero points -128 and 0: RELU's clamp is int8's own (SPEC.md 5.4).
                self.graph.add(stream, body, self.activation(op.output), relu=True)
            else:
                outputs.append(self.threshold(op))
        self.graph.interface(inputs, [self.activation(self.unit.output), *outputs])


def unit_file(unit: Unit) -> str:
    """File name of a unit's .tflite, within the bundle."""
    return f"units/{unit.index:02d}_{unit.name}.tflite"


def emit_tflite(plan: Plan, weights: Weights) -> Mapping[str, bytes]:
    """All units' files, by name within the bundle.

    A file's inputs are the unit's inputs, its outputs the unit's output and, for a gate, the
    decision.
    """
    files = {}
    for unit in plan.units:
        model = Model(f"cgate {plan.network.name} {unit.name}")
        _UnitEmitter(plan, weights, unit, model.subgraph(unit.name)).emit()
        files[unit_file(unit)] = model.pack()
    return files
