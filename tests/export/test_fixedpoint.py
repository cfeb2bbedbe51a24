"""The integer arithmetic against exact rational arithmetic and the C definition."""

import math
from fractions import Fraction

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from cgate.export.fixedpoint import mean_multiplier, quantize_multiplier, requantize

INT32 = st.integers(-(2**31), 2**31 - 1)


def requantize_by_definition(value: int, multiplier: int, shift: int) -> int:
    """SPEC 5.1 word for word, with Python's unbounded integers and exact fractions."""
    product = (value << max(shift, 0)) * multiplier
    nudge = 2**30 if product >= 0 else 1 - 2**30
    high = math.trunc(Fraction(product + nudge, 2**31))
    exact = Fraction(high, 2 ** max(-shift, 0))
    magnitude = math.floor(abs(exact) + Fraction(1, 2))  # ties away from zero
    return magnitude if exact >= 0 else -magnitude


@given(INT32, st.integers(0, 2**31 - 1), st.integers(-31, 0))
@example(-(2**31), 2**31 - 1, 0)
@example(2**31 - 1, 2**31 - 1, -31)
def test_requantize_is_the_definition(value: int, multiplier: int, shift: int) -> None:
    assert int(requantize(value, multiplier, shift)) == requantize_by_definition(
        value, multiplier, shift
    )


@given(st.integers(-1000, 1000), st.integers(0, 2**31 - 1), st.integers(1, 20))
def test_requantize_shifts_left_first(value: int, multiplier: int, shift: int) -> None:
    assert int(requantize(value, multiplier, shift)) == requantize_by_definition(
        value, multiplier, shift
    )


@given(st.floats(2.0**-31, 2.0**29))
def test_multiplier_represents_the_factor(factor: float) -> None:
    multiplier, shift = quantize_multiplier(factor)
    assert 2**30 <= multiplier < 2**31
    assert abs(multiplier * 2.0 ** (shift - 31) / factor - 1) <= 2.0**-31


def test_tiny_factors_vanish() -> None:
    assert quantize_multiplier(2.0**-40) == (0, 0)
    assert quantize_multiplier(0.0) == (0, 0)


@given(st.floats(0.01, 100.0), st.integers(1, 4096), st.integers(-255, 255))
def test_mean_is_close_to_the_real_mean(factor: float, count: int, value: int) -> None:
    multiplier, shift = mean_multiplier(factor, count)
    result = int(requantize(value * count, multiplier, shift))
    # Two roundings: half a step, and half of what the second one halves again.
    assert abs(result - value * factor) <= 0.75 + abs(value * factor) * 2.0**-20 + 1e-6


def test_requantize_broadcasts_per_channel() -> None:
    values = np.arange(-6, 6).reshape(2, 2, 3) * 1000
    result = requantize(values, np.array([2**30, 2**30, 0]), np.array([0, -1, -5]))
    assert result[..., 0].tolist() == [[-3000, -1500], [0, 1500]]
    assert result[..., 2].tolist() == [[0, 0], [0, 0]]
