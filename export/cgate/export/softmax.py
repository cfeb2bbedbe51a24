"""The int8 softmax of TFLite's reference kernels, in integers (SPEC.md 5.12).

The exponential of the distance to the largest value has 256 arguments at most: a table, made once
at export. What is left for run time is a sum, one reciprocal and one product per value.

Source: Softmax in tensorflow/lite/kernels/internal/reference/softmax.h, with gemmlowp's fixed
point arithmetic. `m` integer bits of a value below mean: it stands for raw / 2^(31 - m).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cgate.export.fixedpoint import Int64, quantize_multiplier, requantize

Int8 = NDArray[np.int8]

DISTANCE_BITS = 5  # integer bits of the distance to the largest value
SUM_BITS = 12  # integer bits of the sum of exponentials
MAX_DEPTH = 511
"""Values of one softmax: more could shift the result by more bits than it has."""
ONE = (1 << 31) - 1  # 1.0 with 0 integer bits, saturated

# exp(-2^e) with 0 integer bits, for e = -2 .. 4.
_POWERS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)


def _product(a: Int64, b: Int64 | int) -> Int64:
    """Gemmlowp's SaturatingRoundingDoublingHighMul."""
    return requantize(a, b, 0)


def _times_power_of_two(a: Int64, exponent: int) -> Int64:
    """A * 2^exponent, saturated to int32, or rounded where the exponent is negative."""
    if exponent < 0:
        return requantize(a * 2, 1 << 30, exponent)
    return np.clip(a << exponent, -(1 << 31), ONE)


def _exp_of_a_quarter(a: Int64) -> Int64:
    """exp(a) for a in -1/4 .. 0, with 0 integer bits: a polynomial around -1/8."""
    x = a + (1 << 28)
    x2 = _product(x, x)
    x3, x4 = _product(x2, x), _product(x2, x2)
    inner = _product(_times_power_of_two(x4, -2) + x3, 715827883) + x2
    rest = x + _times_power_of_two(inner, -1)
    return np.int64(1895147668) + _product(rest, 1895147668)


def exp_table(scale: float, beta: float) -> NDArray[np.int32]:
    """exp(-beta * scale * d) for d = 0 .. 255, with 0 integer bits; 0 where TFLite ignores it.

    Args:
        scale: float32 scale of the input.
        beta: float32 factor of the softmax.

    Raises:
        ValueError: beta * scale is not in 2^-26 .. 16.
    """
    factor = beta * scale * (1 << (31 - DISTANCE_BITS))
    if not 1.0 < factor < 2.0**30:
        raise ValueError(f"scale {scale:g} with beta {beta:g} is beyond a softmax")
    multiplier, shift = quantize_multiplier(factor)
    furthest = math.floor(((1 << DISTANCE_BITS) - 1) * 2.0 ** (31 - DISTANCE_BITS - shift))
    distance = np.arange(min(furthest, 255) + 1)
    a = requantize(-distance, multiplier, shift)
    fraction = (a & ((1 << 24) - 1)) - (1 << 24)
    result = _exp_of_a_quarter(_times_power_of_two(fraction, DISTANCE_BITS))
    remainder = fraction - a
    for place, power in enumerate(_POWERS, 24):
        result = np.where(remainder >> place & 1, _product(result, power), result)
    result = np.where(a == 0, ONE, result)
    table = np.zeros(256, np.int32)
    table[: len(result)] = result
    return table


def reciprocal(total: Int64) -> tuple[Int64, Int64]:
    """(mantissa with 0 integer bits, bits): 1 / total = mantissa / 2^31 / 2^bits.

    Args:
        total: sums with SUM_BITS integer bits, at least 1.0.
    """
    zeros = 32 - np.frexp(total.astype(np.float64))[1].astype(np.int64)
    x = (total << zeros) - (1 << 31)
    half = (x + ONE + 1) >> 1
    # Newton's division with 2 integer bits: 48/17 - 32/17 * half, three times refined.
    y = 1515870810 + _product(half, -1010580540)
    for _ in range(3):
        y = y + _times_power_of_two(_product(y, (1 << 29) - _product(half, y)), 2)
    return _times_power_of_two(y, 1), SUM_BITS - zeros


def softmax(x: Int8, table: NDArray[np.int32]) -> Int8:
    """Softmax over the last axis, at scale 1/256 and zero point -128; each axis as `x`'s."""
    distance = x.max(axis=-1, keepdims=True).astype(np.int64) - x
    exponentials = table.astype(np.int64)[distance]
    total = _times_power_of_two(exponentials, -SUM_BITS).sum(axis=-1, keepdims=True)
    mantissa, bits = reciprocal(total)
    share = requantize(_product(exponentials, mantissa) * 2, 1 << 30, -(bits + 31 - 8))
    return np.clip(share - 128, -128, 127).astype(np.int8)
