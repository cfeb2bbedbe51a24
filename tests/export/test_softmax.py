"""The integer softmax against TFLite's reference kernel and against real arithmetic."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cgate.export.golden import GoldenUnit
from cgate.export.softmax import MAX_DEPTH, ONE, exp_table, reciprocal, softmax
from tflite_files import Net

SCALES = st.floats(2.0**-20, 8.0).map(lambda scale: float(np.float32(scale)))


@settings(max_examples=60, deadline=None)
@given(SCALES, st.sampled_from([1.0, 0.5, 2.0]), st.integers(1, MAX_DEPTH), st.integers(0, 2**32))
@example(float(np.float32(0.17185351)), 1.0, 10, 0)
@example(1.0, 1.0, 1, 0)
@example(8.0, 1.0, MAX_DEPTH, 0)
def test_is_tflites(scale: float, beta: float, depth: int, seed: int) -> None:
    pytest.importorskip("tflite_runtime", reason='pip install "cgate[golden]"')
    net = Net((1, 1), seed)
    x, y = net.tensor((1, depth), scale), net.tensor((1, depth), 1 / 256, -128)
    net.graph.softmax(x, y, beta)
    net.input, net.x = x, y
    rng = np.random.default_rng(seed)
    spread = rng.choice([1.0, 20.0, 300.0], (12, 1))
    values = np.clip(rng.normal(0, spread, (12, depth)), -128, 127).astype(np.int8)
    values[0] = values[0, 0]  # all alike: the largest sum there is
    (want,) = GoldenUnit(net.file())([values])
    np.testing.assert_array_equal(softmax(values, exp_table(scale, beta)), want)


@given(SCALES)
def test_table_is_the_exponential(scale: float) -> None:
    table = exp_table(scale, 1.0)
    assert table[0] == ONE
    for distance in (1, 2, 17, 255):
        real = math.exp(-scale * distance)
        # Below 2^-44 TFLite has no code left and takes 0.
        assert abs(table[distance] / 2**31 - real) < 2.0**-22


@given(st.integers(1 << 19, (512 << 19) - 1))
def test_reciprocal(total: int) -> None:
    (mantissa,), (bits,) = reciprocal(np.array([total]))
    assert abs(mantissa / 2**31 / 2.0**bits * (total / 2**19) - 1) < 2.0**-26


@pytest.mark.parametrize(("scale", "beta"), [(16.0, 1.0), (2.0**-26, 1.0), (1.0, 0.0)])
def test_what_cannot_be_rescaled_is_refused(scale: float, beta: float) -> None:
    with pytest.raises(ValueError, match="beyond a softmax"):
        exp_table(scale, beta)
