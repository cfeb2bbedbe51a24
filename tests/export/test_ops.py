"""Single ops with random parameters: the numpy reference against TFLite's reference kernels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cgate.core.network import Conv, Network
from cgate.core.plan import (
    ROUNDING,
    Add,
    AvgPool2d,
    Conv2d,
    DepthwiseConv2d,
    MaxPool2d,
    Op,
    Plan,
    Tensor,
    Unit,
)
from cgate.export import reference
from cgate.export.emit_tflite import emit_tflite, unit_file
from cgate.export.fixedpoint import activation_clamp, add_multipliers, quantize_multiplier
from cgate.export.golden import INTERPRETERS, GoldenUnit
from cgate.export.quantize import as_float32

ACTIVATIONS = ("NONE", "RELU", "RELU6")


@dataclass
class Draw:
    """Random parts of an op, and the tensors and arrays that they need."""

    rng: np.random.Generator
    tensors: list[Tensor] = field(default_factory=list)
    weights: dict[str, NDArray[Any]] = field(default_factory=dict)

    def whole(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def tensor(self, name: str, shape: tuple[int, int, int], like: str | None = None) -> Tensor:
        scale, zero_point = as_float32(self.rng.uniform(0.004, 0.1)), self.whole(-128, 127)
        for each in self.tensors:
            if each.name == like:
                scale, zero_point = each.scale, each.zero_point
        self.tensors.append(Tensor(name, shape, scale, zero_point, 0))
        return self.tensors[-1]

    def clamp(self, target: Tensor) -> tuple[int, int]:
        name = ACTIVATIONS[self.whole(0, 2)]
        return activation_clamp(name, target.scale, target.zero_point)


def window(
    draw: Draw, length: int, size: int, stride: int, same: bool, padding: bool
) -> tuple[int, int, int]:
    """Padding before and after, and the output's length."""
    if same:
        out = -(-length // stride)
        total = max((out - 1) * stride + size - length, 0)
        return total // 2, total - total // 2, out
    before, after = (draw.whole(0, size - 1) if padding else 0 for _ in range(2))
    after = max(after, size - length - before)
    return before, after, (length + before + after - size) // stride + 1


def windows(
    draw: Draw, size: tuple[int, int], shape: tuple[int, int, int], padding: bool
) -> dict[str, Any]:
    """Stride, padding and output size of an op with a window."""
    stride, same = draw.whole(1, 3), draw.whole(0, 1) == 1
    top, bottom, height = window(draw, shape[0], size[0], stride, same, padding)
    left, right, width = window(draw, shape[1], size[1], stride, same, padding)
    return {
        "stride": stride,
        "padding": (top, left, bottom, right),
        "shape": (height, width),
    }


def convolution(draw: Draw, depthwise: bool) -> Op:
    shape = (draw.whole(1, 9), draw.whole(1, 9), draw.whole(1, 5))
    size = (draw.whole(1, 5), draw.whole(1, 5))
    geometry = windows(draw, size, shape, True)
    outputs = shape[2] * draw.whole(1, 3) if depthwise else draw.whole(1, 6)
    source = draw.tensor("x", shape)
    target = draw.tensor("y", (*geometry.pop("shape"), outputs))
    kernel = (1, *size, outputs) if depthwise else (outputs, *size, shape[2])
    scales = draw.rng.uniform(0.001, 0.02, outputs).astype(np.float32)
    pairs = [quantize_multiplier(source.scale * float(each) / target.scale) for each in scales]
    draw.weights |= {
        "w": draw.rng.integers(-127, 128, kernel).astype(np.int8),
        "s": scales,
        "b": draw.rng.integers(-3000, 3000, outputs).astype(np.int32),
        "m": np.array([multiplier for multiplier, _ in pairs], np.int32),
        "r": np.array([shift for _, shift in pairs], np.int8),
    }
    kind = DepthwiseConv2d if depthwise else Conv2d
    names = ("w", "s", "b", "m", "r")
    geometry |= {"clamp": draw.clamp(target), "macs": 0, "kernel": "", "why": ""}
    return kind("x", "y", *names, **geometry)


def pool(draw: Draw, kind: type[MaxPool2d] | type[AvgPool2d]) -> Op:
    shape = (draw.whole(2, 9), draw.whole(2, 9), draw.whole(1, 5))
    size = (draw.whole(1, min(5, shape[0])), draw.whole(1, min(5, shape[1])))
    geometry = windows(draw, size, shape, kind is MaxPool2d)
    draw.tensor("x", shape)
    target = draw.tensor("y", (*geometry.pop("shape"), shape[2]), like="x")
    geometry |= {"clamp": draw.clamp(target), "macs": 0, "kernel": "", "why": ""}
    return kind("x", "y", size, **geometry)


def add(draw: Draw) -> Op:
    shape = (16, 16, 256)
    f, stream, target = (draw.tensor(name, shape) for name in ("f", "x", "y"))
    pairs = add_multipliers(f.scale, stream.scale, target.scale)
    multipliers, shifts = zip(*pairs, strict=True)
    return Add("f", "x", "y", multipliers, shifts, draw.clamp(target), "", "")


OPS: Mapping[str, Callable[[Draw], Op]] = {
    "conv2d": lambda draw: convolution(draw, False),
    "depthwise_conv2d": lambda draw: convolution(draw, True),
    "max_pool2d": lambda draw: pool(draw, MaxPool2d),
    "avg_pool2d": lambda draw: pool(draw, AvgPool2d),
    "add": add,
}


def single(op: Op, draw: Draw) -> Plan:
    """A plan of one unit, which is this op."""
    inputs = tuple(each.name for each in draw.tensors[:-1])
    unit = Unit(0, "op", "body", None, None, inputs, "y", 0, (op,))
    network = Network("op", (1, 1, 1), 0, 1, 2, Conv(1, 1), ())
    names = ("op", "", "", ROUNDING, 0.45, inputs[0], "y", 0, 0, ("a", "b"))
    return Plan(*names, network, tuple(draw.tensors), (unit,))


@pytest.mark.parametrize("package", INTERPRETERS)
@pytest.mark.parametrize("name", OPS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_op_equals_tflite(name: str, package: str, seed: int) -> None:
    if package == "tflite-runtime":
        pytest.importorskip("tflite_runtime", reason="needs pip install 'cgate[golden]'")
    draw = Draw(np.random.default_rng(seed))
    op = OPS[name](draw)
    plan = single(op, draw)
    (unit,) = plan.units
    values = {
        tensor.name: draw.rng.integers(-128, 128, (2, *tensor.shape)).astype(np.int8)
        for tensor in plan.tensors[:-1]
    }
    if name == "add":
        # All pairs of codes.
        codes = np.arange(-128, 128, dtype=np.int8)
        pairs = np.meshgrid(codes, codes)
        values = {
            key: each.reshape(1, 16, 16, 256) for key, each in zip(values, pairs, strict=True)
        }
    expected = reference.run_unit(plan, draw.weights, unit, values)["y"]
    golden = GoldenUnit(emit_tflite(plan, draw.weights)[unit_file(unit)], package)
    (actual,) = golden([values[each] for each in unit.inputs])
    np.testing.assert_array_equal(actual, expected)
