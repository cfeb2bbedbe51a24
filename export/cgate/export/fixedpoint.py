"""The rounding of TFLite's int8 reference kernels ("tflite-double"), in numpy (SPEC.md 5.1)."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Int64 = NDArray[np.int64]

ADD_SHIFT = 20
"""Bits by which an addition magnifies both inputs before it rescales them."""


def quantize_multiplier(factor: float) -> tuple[int, int]:
    """(multiplier, shift) with factor ~ multiplier * 2^(shift - 31), multiplier in [2^30, 2^31).

    Source: QuantizeMultiplier in tensorflow/lite/kernels/internal/quantization_util.cc. As there,
    factors below 2^-32 become zero.

    Raises:
        ValueError: factor is negative, not finite, or 2^30 or more.
    """
    if not (0.0 <= factor < 2.0**30):
        raise ValueError(f"factor {factor} is not in 0 .. 2^30")
    mantissa, shift = math.frexp(factor)
    # Away from zero at .5, as std::round; Python's round() would go to even.
    multiplier = math.floor(mantissa * (1 << 31) + 0.5)
    if multiplier == 1 << 31:
        multiplier //= 2
        shift += 1
    if shift < -31:
        return 0, 0
    return multiplier, shift


def add_multipliers(
    first: float, second: float, target: float
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """(multiplier, shift) of both inputs and of the output of an addition (SPEC.md 5.10).

    Args:
        first, second, target: float32 scales of the inputs and of the output.

    Source: Prepare in tensorflow/lite/kernels/add.cc.

    Raises:
        ValueError: the output's scale is so small that the sum would have to be magnified.
    """
    twice = 2 * max(first, second)
    rescale = twice / ((1 << ADD_SHIFT) * target)
    if rescale >= 1:
        raise ValueError(f"scales {first:g} and {second:g} are too large for {target:g}")
    return (
        quantize_multiplier(first / twice),
        quantize_multiplier(second / twice),
        quantize_multiplier(rescale),
    )


def activation_clamp(name: str, scale: float, zero_point: int) -> tuple[int, int]:
    """The least and the largest code of an output with this activation (SPEC.md 5.11).

    Args:
        name: NONE, RELU or RELU6.

    Source: CalculateActivationRangeQuantized in tensorflow/lite/kernels/kernel_util.cc.
    """
    low = -128 if name == "NONE" else max(-128, zero_point)
    if name != "RELU6":
        return low, 127
    six = math.floor(float(np.float32(6) / np.float32(scale)) + 0.5)
    return low, min(127, zero_point + six)


def mean_multiplier(factor: float, count: int) -> tuple[int, int]:
    """(multiplier, shift) for a sum over `count` elements that is to be averaged and rescaled.

    1 / count is folded into the multiplier, as EvalMean in tensorflow/lite/kernels/reduce.cc does.
    """
    multiplier, shift = quantize_multiplier(factor)
    # Negative only for factors so small that the mean vanishes anyway.
    fold = max(min(count.bit_length() - 1, 32, 31 + shift), 0)
    return (multiplier << fold) // count, shift - fold


def requantize(value: ArrayLike, multiplier: ArrayLike, shift: ArrayLike) -> Int64:
    """M(value, multiplier, shift) of SPEC.md 5.1, elementwise.

    Args:
        value: int32 accumulators; value * 2^max(shift, 0) must fit in int32.
        multiplier: 0 .. 2^31 - 1.
        shift: -31 .. 30.

    Returns:
        int64 values within int32's range.
    """
    value = np.asarray(value, np.int64)
    shift = np.asarray(shift, np.int64)
    left, right = np.maximum(shift, 0), np.maximum(-shift, 0)
    # SaturatingRoundingDoublingHighMul. gemmlowp's nudge follows the product's sign and its
    # division truncates; that is rounding to nearest, ties upward.
    high = (value << left) * np.asarray(multiplier, np.int64)
    high += 1 << 30
    high >>= 31
    # RoundingDivideByPOT: to nearest, ties away from zero.
    half = (np.int64(1) << right) >> 1
    result: Int64 = high + half
    result -= (high < 0) & (right > 0)
    result >>= right
    return result
