"""Which kernels exist, what each can do, and the constants it reads from flash.

A kernel's name is `<op>__<variant>`, as in firmware/include/cg_kernels.inc; the C function is
`cg_<name>`. Kernels other than `ref` read packed weights: made here, once, at export, from the
plan's integers. They are no part of the plan: they can be made again from it. Which kernel an op
gets is choose.py's business.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgate.core.plan import (
    Add,
    AvgPool2d,
    Conv2d,
    Convolution,
    DepthwiseConv2d,
    FullyConnected,
    MaxPool2d,
    Mean,
    MeanMax,
    Op,
    Plan,
    ResidualAdd,
    ShortcutPad,
    Softmax,
    Tensor,
    Weights,
)

Words = NDArray[np.int32]


@dataclass(frozen=True)
class ConvLayer:
    """Everything that a convolution kernel may depend on (SPEC.md 5.2)."""

    in_shape: tuple[int, int, int]
    out_shape: tuple[int, int, int]
    stride: int
    pad_top: int
    pad_left: int
    in_zero_point: int
    out_zero_point: int
    weights: NDArray[np.int8]
    bias: NDArray[np.int32]
    multiplier: NDArray[np.int32]
    shift: NDArray[np.int8]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the direct algorithm, padding included."""
        return self.out_shape[0] * self.out_shape[1] * self.weights.size

    @property
    def plain_size(self) -> int:
        """Bytes of flash that the reference kernel reads."""
        arrays: tuple[NDArray[Any], ...] = (self.weights, self.bias, self.multiplier, self.shift)
        return sum(array.nbytes for array in arrays)


@dataclass(frozen=True)
class ConvKernel:
    """A convolution kernel that reads packed weights.

    Args:
        name: `<op>__<variant>`.
        why: for the plan, where it is chosen.
        refuses: why it cannot do a layer, or None.
        pack: the words it reads in place of weights, bias, multiplier and shift.
        scratch: bytes of scratch memory; the C function <name>_scratch() says the same.
        needs: what a core must have, in the words of cg_kernels.inc.
    """

    name: str
    why: str
    refuses: Callable[[ConvLayer], str | None]
    pack: Callable[[ConvLayer], Words]
    scratch: Callable[[ConvLayer], int]
    needs: str = "dsp"


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def _magnitudes(layer: ConvLayer) -> NDArray[np.int64]:
    """Sum of |w| per output channel."""
    sums: NDArray[np.int64] = np.abs(layer.weights.astype(np.int64)).sum(axis=(1, 2, 3))
    return sums


def _doubling_refused(layer: ConvLayer) -> str | None:
    """Both kernels hold twice the accumulator, and parts of it, in int32."""
    sums = 255 * _magnitudes(layer) + np.abs(layer.bias.astype(np.int64))
    if sums.max() >= 1 << 30 or layer.multiplier.min() < 0:
        return "accumulators may reach 2^30"
    return None


def _channels(layer: ConvLayer, bias: NDArray[np.int64]) -> Words:
    """The cg_dsp_channel of every output channel: bias2, multiplier, offset, right."""
    right = -layer.shift.astype(np.int64)
    inside = np.clip(right, 1, 22)
    offset = (1 << (inside - 1)) + (layer.out_zero_point << inside)
    offset[inside != right] = 0  # not used: the general requantisation applies
    words: Words = np.stack(
        [2 * bias, layer.multiplier.astype(np.int64), offset, right], axis=1
    ).astype(np.int32)
    return words


def _pairs(values: NDArray[np.int64]) -> Words:
    """The last axis, a multiple of four numbers, as words of int16 (0, 2) and (1, 3)."""
    groups = values.reshape(*values.shape[:-1], -1, 4)[..., [0, 2, 1, 3]]
    halves = np.ascontiguousarray(groups, "<i2").reshape(*values.shape[:-1], -1)
    words = halves.view("<i4").astype(np.int32)
    return words


def _direct_refuses(layer: ConvLayer) -> str | None:
    return _doubling_refused(layer)


def _direct_column(layer: ConvLayer) -> int:
    return _round_up(int(np.prod(layer.weights.shape[1:])), 4)


def _direct_taps(layer: ConvLayer) -> NDArray[np.int64]:
    """Weights [outputs, taps] in a column's order.

    Of each row of the kernel the whole words of four, then what is left over of all rows.
    """
    outputs, height, width, inputs = layer.weights.shape
    rows = layer.weights.astype(np.int64).reshape(outputs, height, width * inputs)
    whole = width * inputs // 4 * 4
    parts = [rows[..., :whole], rows[..., whole:]]
    return np.concatenate([part.reshape(outputs, -1) for part in parts], axis=1)


def _direct_pack(layer: ConvLayer) -> Words:
    outputs, column = layer.weights.shape[0], _direct_column(layer)
    taps = _direct_taps(layer)
    padded = np.zeros((_round_up(outputs, 2), column), np.int64)
    padded[:outputs, : taps.shape[1]] = 2 * taps
    words = _pairs(padded).reshape(-1, 2, column // 2).transpose(0, 2, 1)
    head = _channels(layer, layer.bias.astype(np.int64))
    return np.concatenate([head.ravel(), words.ravel()])


def _direct_scratch(layer: ConvLayer) -> int:
    return 9 * _direct_column(layer)


DIRECT = ConvKernel(
    "conv2d_s8__dsp_direct",
    "2 channels x 4 pixels by SMLAD",
    _direct_refuses,
    _direct_pack,
    _direct_scratch,
)

# Rows of the weight transform of Winograd's F(4, 3), scaled to integers, the outer ones by 3;
# firmware/src/dsp/cg_dsp_winograd.h says how the scales are undone.
_G = np.array([(3, 0, 0), (1, 1, 1), (1, -1, 1), (1, 2, 4), (1, -2, 4), (0, 0, 3)], np.int64)


def _winograd_refuses(layer: ConvLayer) -> str | None:
    if layer.weights.shape[1:3] != (3, 3) or layer.stride != 1:
        return "not 3x3 with stride 1"
    same = layer.in_shape[:2] == layer.out_shape[:2]
    if not same or (layer.pad_top, layer.pad_left) != (1, 1):
        return "padding is not 1"
    if layer.out_shape[2] % 4 != 0:
        return "output channels are no multiple of 4"
    if (255 * _magnitudes(layer)).max() >= 1 << 25:
        return "accumulators may reach 2^25"
    # bias2 holds the input zero point's share too: bound it with the accumulator.
    if np.abs(_winograd_bias(layer)).max() >= 1 << 30:
        return "biases may reach 2^30"
    return _doubling_refused(layer)


def _winograd_bias(layer: ConvLayer) -> NDArray[np.int64]:
    """The kernel multiplies x + 128, padding included, instead of x - zero point."""
    sums = layer.weights.astype(np.int64).sum(axis=(1, 2, 3))
    bias: NDArray[np.int64] = layer.bias - (layer.in_zero_point + 128) * sums
    return bias


def _winograd_weights(layer: ConvLayer) -> NDArray[np.int8]:
    """Weights with zeros for the channels that fill up those of the input to a multiple of 4."""
    return np.pad(layer.weights, ((0, 0), (0, 0), (0, 0), (0, -layer.in_shape[2] % 4)))


def _winograd_pack(layer: ConvLayer) -> Words:
    weights = _winograd_weights(layer)
    outputs, _, _, inputs = weights.shape
    transformed = np.einsum("ia,oabc,jb->oijc", _G, weights.astype(np.int64), _G)
    words = _pairs(transformed.reshape(outputs // 4, 4, 36, inputs)).transpose(0, 2, 3, 1)
    return np.concatenate([_channels(layer, _winograd_bias(layer)).ravel(), words.ravel()])


def _winograd_sizes(layer: ConvLayer) -> tuple[int, int, int, int]:
    """Words of a strip, of the rows it is made of, and of a span's inputs; number of spans.

    Strip and inputs are transformed; a span is two tiles side by side.
    """
    height, width, inputs = layer.in_shape
    inputs = _round_up(inputs, 4)
    across = -(-width // 8)
    strip = (8 * across + 2) * inputs // 2 * 6
    return strip, 6 * width * inputs // 4, 36 * inputs, across * -(-height // 4)


def _winograd_scratch(layer: ConvLayer) -> int:
    strip, rows, span, _ = _winograd_sizes(layer)
    return 4 * (strip + max(span, rows) + 36 * 8)


WINOGRAD = ConvKernel(
    "conv2d_s8__dsp_winograd",
    "Winograd F(4x4,3x3)",
    _winograd_refuses,
    _winograd_pack,
    _winograd_scratch,
)


def _winograd_int8_pack(layer: ConvLayer) -> Words:
    weights = _winograd_weights(layer)
    outputs, _, _, inputs = weights.shape
    groups = weights.reshape(outputs, 9, inputs // 4, 4).transpose(0, 2, 1, 3)
    words = np.ascontiguousarray(groups).view("<i4").astype(np.int32)
    return np.concatenate([_channels(layer, _winograd_bias(layer)).ravel(), words.ravel()])


_PASS_BYTES = 18432  # as in firmware/src/dsp/cg_conv2d_s8_winograd.c


def _winograd_int8_scratch(layer: ConvLayer) -> int:
    strip, rows, span, spans = _winograd_sizes(layer)
    passes = -(-spans // max(_PASS_BYTES // (4 * span), 1))
    weights = 36 * _round_up(layer.in_shape[2], 4) // 2 * 4
    return 4 * (max(strip, weights) + rows + -(-spans // passes) * span + 36 * 8)


WINOGRAD_INT8 = ConvKernel(
    "conv2d_s8__dsp_winograd_int8",
    "Winograd F(4x4,3x3), int8 weights transformed at run time",
    _winograd_refuses,
    _winograd_int8_pack,
    _winograd_int8_scratch,
)

# Stride 2 by its phases: what weights rows and columns 0..4 of a tile's window meet, and which of
# these parts make up each sum; firmware/src/dsp/cg_conv2d_s8_phases.c says why.
_PHASES = np.array([(1, 0, 0), (0, 1, 0), (1, 0, 1), (0, 1, 0), (0, 0, 1)], np.int64)
_PHASE_ROWS: Mapping[str, tuple[int, ...]] = {"A": (0, 1), "B": (2,), "C": (3, 4)}
_PHASE_SUMS = [
    [5 * row + column for row in _PHASE_ROWS[down] for column in _PHASE_ROWS[across]]
    for down, across in ("AA", "AC", "CA", "CC", "AB", "CB", "BA", "BC", "BB")
]


def _phases_refuses(layer: ConvLayer) -> str | None:
    if layer.weights.shape[1:3] != (3, 3) or layer.stride != 2:
        return "not 3x3 with stride 2"
    if layer.in_shape[2] % 4 != 0 or layer.out_shape[2] % 4 != 0:
        return "channels are no multiples of 4"
    if np.abs(_phases_bias(layer)).max() >= 1 << 30:
        return "biases may reach 2^30"
    return _doubling_refused(layer)


def _phases_bias(layer: ConvLayer) -> NDArray[np.int64]:
    """The kernel multiplies x, padding included, instead of x - zero point."""
    sums = layer.weights.astype(np.int64).sum(axis=(1, 2, 3))
    bias: NDArray[np.int64] = layer.bias - layer.in_zero_point * sums
    return bias


def _phases_pack(layer: ConvLayer) -> Words:
    outputs, _, _, inputs = layer.weights.shape
    doubled = 2 * layer.weights.astype(np.int64)
    parts = np.einsum("ia,oabc,jb->oijc", _PHASES, doubled, _PHASES).reshape(outputs, 25, inputs)
    words = _pairs(parts.reshape(outputs // 4, 4, 25, inputs)).transpose(0, 3, 2, 1)
    sums = [words[:, :, chosen].reshape(outputs // 4, -1) for chosen in _PHASE_SUMS]
    head = _channels(layer, _phases_bias(layer))
    return np.concatenate([head.ravel(), np.concatenate(sums, axis=1).ravel()])


def _phases_scratch(layer: ConvLayer) -> int:
    inputs = layer.in_shape[2]
    return 4 * (25 * inputs + max(5 * 9 * inputs // 4, 9 * 8))


PHASES = ConvKernel(
    "conv2d_s8__dsp_phases",
    "25 products for 36, by the phases of stride 2",
    _phases_refuses,
    _phases_pack,
    _phases_scratch,
)

_LANES = 16  # int8 in a vector of Helium


def _mve_vectors(layer: ConvLayer) -> int:
    return -(-int(np.prod(layer.weights.shape[1:])) // _LANES)


def _mve_pack(layer: ConvLayer) -> Words:
    """Channels, then of every four the weights of the even ones, then those of the odd ones."""
    outputs, vectors = layer.weights.shape[0], _mve_vectors(layer)
    groups = -(-outputs // 4)
    shift = layer.shift.astype(np.int64)
    # It multiplies x, padding included, instead of x - zero point. Biases wrap, as all sums do.
    bias = layer.bias - layer.in_zero_point * layer.weights.astype(np.int64).sum(axis=(1, 2, 3))
    head = np.zeros((4 * groups, 4), np.int64)
    head[:outputs] = np.stack(
        [bias, layer.multiplier.astype(np.int64), np.maximum(shift, 0), -shift], axis=1
    )
    taps = np.zeros((4 * groups, vectors * _LANES), np.int8)
    taps[:outputs, : layer.weights[0].size] = layer.weights.reshape(outputs, -1)
    blocks = taps.reshape(groups, 2, 2, vectors, _LANES).transpose(0, 2, 3, 1, 4)
    words = np.ascontiguousarray(blocks).view("<i4").astype(np.int32)
    return np.concatenate([head.astype(np.uint32).view(np.int32).ravel(), words.ravel()])


def _mve_scratch(layer: ConvLayer) -> int:
    return 8 * _LANES * _mve_vectors(layer)


MVE = ConvKernel(
    "conv2d_s8__mve",
    "16 products an instruction by VMLADAVA",
    lambda layer: None,
    _mve_pack,
    _mve_scratch,
    "mve",
)

CONV_KERNELS: Mapping[str, ConvKernel] = {
    kernel.name: kernel for kernel in (WINOGRAD, WINOGRAD_INT8, PHASES, DIRECT, MVE)
}
"""Packed convolution kernels: those for DSP, the fastest first, then those for Helium."""

DSP_KERNELS: Mapping[type[Op], tuple[str, str]] = {
    MaxPool2d: ("max_pool2d_s8__dsp", "four maxima a register"),
    AvgPool2d: ("avg_pool2d_s8__dsp", "two sums a register"),
    Mean: ("mean_s8__dsp", "two sums a register"),
    ResidualAdd: ("residual_add_s8__dsp", "four additions by QADD8"),
    ShortcutPad: ("shortcut_pad_s8__dsp", "requantised in five instructions"),
    MeanMax: ("mean_max_s8__dsp", "two sums or four maxima a register"),
    Add: ("add_s8__dsp", "one of its requantisations from a table"),
    DepthwiseConv2d: ("depthwise_conv2d_s8__dsp", "four channels by SMLABB and SMLATT"),
}
"""Kernels that need no packed weights: name and reason, by kind of op."""

MVE_KERNELS: Mapping[type[Op], tuple[str, str]] = {
    DepthwiseConv2d: ("depthwise_conv2d_s8__mve", "four channels a vector"),
}
"""The same for cores with Helium, besides those for DSP."""

DSP_SCRATCH: Mapping[type[Op], int] = {Add: 1024}
"""Bytes of scratch memory that these need, if any; C says the same in <name>_scratch()."""

CMSIS_NN = "cmsis-nn"
"""What `cgate export --kernels` calls Arm's library."""

CMSIS_NN_KERNELS: Mapping[type[Op], str] = {
    Conv2d: "conv2d_s8__cmsis_nn",
    FullyConnected: "conv2d_s8__cmsis_nn",
    DepthwiseConv2d: "depthwise_conv2d_s8__cmsis_nn",
    ResidualAdd: "residual_add_s8__cmsis_nn",
}
"""Kernels of Arm's library, by kind of op. They read the plan's weights as they are."""

NEEDS_CMSIS_NN = frozenset(CMSIS_NN_KERNELS.values())

_HELIUM_CHANNELS = 124  # that the library's depthwise kernel takes at a time


def cmsis_nn_scratch(taps: tuple[int, int, int], outputs: int, depthwise: bool) -> int:
    """Bytes of scratch memory of the library's convolutions, on any core: an upper bound.

    Shifts as int32, and what the functions *_get_buffer_size() of release 7.0.0 and of the
    library's present state ask for.

    Args:
        taps: kernel rows, columns and input channels.
    """
    window = math.prod(taps[:2])
    columns = 64 * -(-math.prod(taps) // 16)
    if depthwise:
        # With one input channel it is rewritten as a convolution, weights included.
        columns = 64 * -(-window // 16) + window * outputs
        columns = max(columns, max(2 * outputs, 4 * _HELIUM_CHANNELS) * window)
    return _round_up(4 * outputs, 16) + columns


NEEDS: Mapping[str, str] = {
    **{name: "dsp" for name, _ in DSP_KERNELS.values()},
    **{name: "mve" for name, _ in MVE_KERNELS.values()},
    **{name: kernel.needs for name, kernel in CONV_KERNELS.items()},
}
"""What a core must have, by kernel; those of Arm's library and `ref` are not here."""


def reference(name: str) -> str:
    """The kernel that computes the same without any special instructions."""
    return name.split("__", 1)[0] + "__ref"


def conv_layer(op: Convolution, tensors: Mapping[str, Tensor], weights: Weights) -> ConvLayer:
    """What the kernels of a plan's convolution see."""
    source, target = tensors[op.input], tensors[op.output]
    return ConvLayer(
        source.shape,
        target.shape,
        op.stride,
        op.padding[0],
        op.padding[1],
        source.zero_point,
        target.zero_point,
        weights[op.weights],
        weights[op.bias],
        weights[op.multiplier],
        weights[op.shift],
    )


def constants_sizes(plan: Plan, weights: Weights) -> tuple[int, ...]:
    """Bytes of tables in flash, of each unit."""
    tensors = {tensor.name: tensor for tensor in plan.tensors}

    def size(op: Op) -> int:
        if isinstance(op, Convolution):
            layer = conv_layer(op, tensors, weights)
            packed = CONV_KERNELS.get(op.kernel)
            return layer.plain_size if packed is None else packed.pack(layer).nbytes
        return weights[op.table].nbytes if isinstance(op, Softmax) else 0

    return tuple(sum(size(op) for op in unit.ops) for unit in plan.units)


def constants_size(plan: Plan, weights: Weights) -> int:
    """Bytes of tables in flash."""
    return sum(constants_sizes(plan, weights))
