"""Scales, zero points, thresholds and weight quantisation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cgate.core.checkpoint import Range
from cgate.core.errors import CgateError
from cgate.core.histogram import Histogram
from cgate.export.fold import FloatConv, Inputs
from cgate.export.quantize import (
    MAX_BIAS,
    RANGE_CHOICES,
    SHRINK,
    RangeTable,
    Scale,
    gate_threshold,
    quantize_conv,
    relu_scale,
    signed_scale,
    stream_scale,
)


def test_relu_scale_uses_all_codes() -> None:
    scale = relu_scale(5.1)
    assert scale.zero_point == -128
    assert scale.scale * 255 == pytest.approx(5.1, rel=1e-6)


@given(st.floats(0.1, 100), st.floats(-100, -0.1), st.floats(0.1, 100))
def test_stream_and_body_both_fit_the_stream_scale(high: float, low: float, top: float) -> None:
    scale = stream_scale([(0.0, high)], [(low, top)]).scale * (1 + 1e-6)
    assert high <= 255 * scale
    assert top <= 127 * scale
    assert -low <= 128 * scale


@given(st.floats(-50, 50), st.floats(0.001, 100))
def test_signed_scale_represents_zero_and_the_range(low: float, width: float) -> None:
    scale = signed_scale(low, low + width)
    assert -128 <= scale.zero_point <= 127
    for value in (low, 0.0, low + width):
        code = round(value / scale.scale) + scale.zero_point
        assert -129 <= code <= 128  # the ends may lose half a step to the zero point's rounding


@given(st.floats(0.03, 0.97))
def test_integer_threshold_is_the_real_threshold(threshold: float) -> None:
    scale = Scale(1 / 32, 0)
    value = gate_threshold(threshold, scale)
    # The cut lies between the last shut and the first open code; half a step is its resolution.
    cut = math.log(threshold / (1 - threshold))
    assert abs((value + 0.5) / 32 - cut) <= 0.5 / 32 + 1e-9


def test_the_paper_threshold() -> None:
    assert gate_threshold(0.45, Scale(1 / 32, 0)) == -7


@pytest.mark.parametrize("threshold", [0.0, 1.0, -1.0, 0.001, 0.999, float("nan")])
def test_bad_thresholds_are_refused(threshold: float) -> None:
    with pytest.raises(CgateError, match="threshold"):
        gate_threshold(threshold, Scale(1 / 32, 0))


def test_quantized_weights_are_within_half_a_step() -> None:
    rng = np.random.default_rng(0)
    conv = FloatConv(rng.normal(0, 1, (8, 3, 3, 4)), rng.normal(0, 1, 8))
    integers = quantize_conv(conv, Scale(0.02, -128), Scale(0.05, 0), "layer")
    error = integers.weights * integers.scale[:, None, None, None].astype(np.float64) - conv.weights
    assert (np.abs(error) <= integers.scale[:, None, None, None] * 0.5001).all()
    bias = integers.bias * (0.02 * integers.scale.astype(np.float64))
    assert np.allclose(bias, conv.bias, atol=0.02 * integers.scale.max())


def test_a_channel_without_weights_keeps_its_bias() -> None:
    conv = FloatConv(np.zeros((2, 1, 1, 4)), np.array([3.0, 0.0]))
    integers = quantize_conv(conv, Scale(0.02, -128), Scale(0.05, 0), "layer")
    assert abs(int(integers.bias[0])) <= MAX_BIAS + 1
    real = integers.bias[0] * 0.02 * float(integers.scale[0])
    assert real == pytest.approx(3.0, rel=1e-5)
    assert integers.bias[1] == 0


def test_a_layer_that_cannot_be_held_in_32_bits_is_refused() -> None:
    conv = FloatConv(np.full((1, 3, 3, 512), 1e6), np.zeros(1))
    with pytest.raises(CgateError, match="layer: output channel 0 can overflow 32 bits"):
        quantize_conv(conv, Scale(0.02, -128), Scale(0.0001, 0), "layer")


def test_a_tensor_that_is_always_zero_does_not_shift_accumulators_away() -> None:
    conv = FloatConv(np.full((1, 3, 3, 64), 0.1), np.full(1, -100.0))
    for dead in (relu_scale(0.0), signed_scale(0.0, 0.0), stream_scale([(0.0, 0.0)], [(0.0, 0.0)])):
        assert (quantize_conv(conv, Scale(0.05, -128), dead, "layer").shift <= 8).all()


def test_a_factor_beyond_the_multiplier_is_a_clear_error() -> None:
    conv = FloatConv(np.full((1, 1, 1, 4), 1e30), np.zeros(1))
    with pytest.raises(CgateError, match="layer: its weights are too large"):
        quantize_conv(conv, Scale(0.02, -128), Scale(0.05, 0), "layer")


def outliers() -> tuple[NDArray[np.float64], Histogram, dict[str, Range]]:
    """Values of a tensor, few of them far out, as a checkpoint records them."""
    values = np.random.default_rng(0).normal(0, 1, 200_000)
    values[:3] = (9.0, -9.5, 10.0)
    places = np.floor(values * 32).astype(np.int64)
    counts = np.bincount(places - places.min())
    low, high = np.quantile(values, (1e-4, 1 - 1e-4))
    span = Range(float(values.min()), float(values.max()), float(low), float(high))
    return values, Histogram(-5, int(places.min()), counts, 0), {"open": span}


def rounding_error(values: NDArray[np.float64], step: float, low: int, high: int) -> float:
    return float(np.mean((np.clip(np.rint(values / step), low, high) * step - values) ** 2))


def test_choices_give_what_they_say() -> None:
    values, histogram, patterns = outliers()
    ends = {}
    for choice in RANGE_CHOICES:
        table = RangeTable({"t": patterns}, {"t": histogram}, choice, "ranges.json")
        ends[choice] = table("t")
        assert table.widest("t") == (values.min(), values.max())
    assert ends["minmax"] == (values.min(), values.max())
    assert ends["percentile"] == (patterns["open"].low_quantile, patterns["open"].high_quantile)
    errors = {}
    for choice, (low, high) in ends.items():
        scale = signed_scale(low, high)
        errors[choice] = rounding_error(
            values, scale.scale, -128 - scale.zero_point, 127 - scale.zero_point
        )
    assert errors["mse"] < min(errors["percentile"], errors["minmax"])


@pytest.mark.parametrize("spread", [0.2, 1.0, 3.0])
def test_a_stream_gets_the_scale_with_the_least_error(spread: float) -> None:
    values, histogram, patterns = outliers()
    wide = Histogram(-5, 0, np.full(int(320 * spread), 10, np.int64), 100)
    high = wide.width * len(wide.counts)
    ranges = {"s": {"open": Range(0.0, high, 0.0, high)}, "f": patterns}
    table = RangeTable(ranges, {"s": wide, "f": histogram}, "mse", "ranges.json")
    found = table.stream(["s"], ["f"], True).scale
    stream = np.repeat(wide.centres, 10)
    stream = np.concatenate([stream, np.zeros(100)])
    widest = stream_scale([(0.0, high)], [(values.min(), values.max())]).scale

    def error(step: float) -> float:
        return rounding_error(stream, step, 0, 255) + rounding_error(values, step, -128, 127)

    assert error(found) <= min(error(factor * widest) for factor in SHRINK) * 1.03


def test_mse_needs_histograms_and_says_how_to_get_them() -> None:
    _, _, patterns = outliers()
    table = RangeTable({"t": patterns}, {}, "mse", "run/ranges.json")
    with pytest.raises(CgateError, match=r"run/ranges\.json holds no histogram of t") as caught:
        table("t")
    assert "cgate calibrate" in caught.value.hint
    with pytest.raises(CgateError, match="no range for tensor x"):
        table("x")
    with pytest.raises(CgateError, match="none of minmax, percentile, mse"):
        RangeTable({}, {}, "quantile", "ranges.json")


def errors(conv: FloatConv, inputs: NDArray[np.float64], source: Scale) -> NDArray[np.float64]:
    """What the integers of a 1x1 layer say of real inputs (n, in), less what its floats say."""
    integers = quantize_conv(conv, source, Scale(0.1, 0), "layer")
    codes = np.clip(np.rint(inputs / source.scale) + source.zero_point, -128, 127)
    sums = (codes - source.zero_point) @ integers.weights[:, 0, 0, :].T.astype(np.float64)
    made: NDArray[np.float64] = (sums + integers.bias) * source.scale * integers.scale
    return made - (inputs @ conv.weights[:, 0, 0, :].T + conv.bias)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1e-12, 1e-8]))
def test_an_input_that_hardly_varies_does_not_spoil_its_row(seed: int, variance: float) -> None:
    rng = np.random.default_rng(seed)
    source = Scale(0.02, -128)
    spread = rng.uniform(0.2, 1.0, 12)
    spread[rng.integers(12)] = math.sqrt(variance)
    mean = rng.uniform(1, 3, 12)
    # As a predictor of standardised inputs has them: divided by next to nothing.
    weights = rng.normal(size=(4, 1, 1, 12)) / np.sqrt(spread**2 + 1e-5)
    inputs = np.clip(mean + spread * rng.normal(size=(200, 12)), 0, 5.1)
    bias = -(weights[:, 0, 0, :] @ mean)
    known = Inputs(mean, spread**2)
    with_it = errors(FloatConv(weights, bias, known), inputs, source)
    # Inputs vary by 1 in units of the weights; their rounding alone is worth about 0.05.
    assert np.sqrt((with_it**2).mean()) < 0.2
    without = errors(FloatConv(weights, bias), inputs, source)
    assert (with_it**2).mean() < (without**2).mean()


def test_known_inputs_that_all_vary_change_little() -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(8, 1, 1, 6))
    conv = FloatConv(weights, rng.normal(size=8))
    source = Scale(0.01, 0)
    known = Inputs(np.zeros(6), np.ones(6))
    plain, suited = (
        quantize_conv(each, source, Scale(0.1, 0), "layer")
        for each in (conv, FloatConv(conv.weights, conv.bias, known))
    )
    steps = np.abs(plain.weights.astype(int) - suited.weights).max()
    np.testing.assert_allclose(plain.scale, suited.scale, rtol=0.2)
    assert steps <= 26
