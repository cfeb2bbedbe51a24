"""From ranges and float weights to int8: scales, zero points, weights, biases, multipliers."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgate.core.checkpoint import Range, Ranges
from cgate.core.errors import CgateError
from cgate.core.histogram import Histogram
from cgate.export.fixedpoint import quantize_multiplier
from cgate.export.fold import FloatConv, Inputs

RANGE_CHOICES = ("minmax", "percentile", "mse")
DEFAULT_RANGES = "mse"

SHRINK = tuple(percent / 100 for percent in range(100, 19, -2))
"""Factors of the observed range among which the choice mse looks for the least error."""

WEIGHT_SHRINK = tuple(0.9**i for i in range(60))
"""The same for a row of weights, of which a few may be hundreds of times the others."""

ZERO_RELU = -128  # zero point of tensors that are never negative: all 256 codes are used

# A bias is kept below 2^23 steps: exact to 24 bits and far from int32's end.
MAX_BIAS = 1 << 23

DEAD = 1e-6  # a tensor that never leaves -DEAD .. DEAD counts as always zero


def range_choice(card: Mapping[str, Any], asked: str | None) -> str:
    """The range choice of a checkpoint with this card.

    It is what was asked for, else what the network was fine-tuned with, else the default.
    """
    tuned = card.get("qat")
    return str(asked or (tuned.get("ranges") if isinstance(tuned, dict) else "") or DEFAULT_RANGES)


def as_float32(value: float) -> float:
    """`value` rounded to float32: what a .tflite file stores and every consumer computes with."""
    return float(np.float32(value))


@dataclass(frozen=True)
class Scale:
    """real = scale * (q - zero_point)."""

    scale: float
    zero_point: int


class RangeTable:
    """Which range each tensor gets, from what was observed over all gate patterns (SPEC.md 5.6).

    Args:
        choice: one of RANGE_CHOICES.
        where: path of the ranges' file, for errors.
    """

    def __init__(
        self, ranges: Ranges, histograms: Mapping[str, Histogram], choice: str, where: str
    ) -> None:
        if choice not in RANGE_CHOICES:
            raise CgateError(
                f"range choice {choice!r} is none of {', '.join(RANGE_CHOICES)}",
                f"--ranges {DEFAULT_RANGES}",
            )
        self._ranges = ranges
        self._histograms = histograms
        self._choice = choice
        self._where = where

    def _patterns(self, name: str) -> Collection[Range]:
        patterns: Mapping[str, Range] = self._ranges.get(name, {})
        if not patterns:
            raise CgateError(
                f"{self._where}: no range for tensor {name}", "run `cgate calibrate` again"
            )
        return patterns.values()

    def _histogram(self, name: str) -> Histogram:
        if name not in self._histograms:
            raise CgateError(
                f"{self._where} holds no histogram of {name}, which the range choice mse needs: "
                "it was made by an older cgate",
                "run `cgate calibrate` on the checkpoint, or choose --ranges minmax",
            )
        return self._histograms[name]

    def widest(self, name: str) -> tuple[float, float]:
        """(low, high): the extremes of `name`, whatever the choice."""
        ends = self._patterns(name)
        return min(each.low for each in ends), max(each.high for each in ends)

    def __call__(self, name: str) -> tuple[float, float]:
        """(low, high) of tensor `name`."""
        low, high = self.widest(name)
        if self._choice == "percentile":
            ends = self._patterns(name)
            return min(each.low_quantile for each in ends), max(each.high_quantile for each in ends)
        if self._choice == "mse":
            histogram = self._histogram(name)
            floor, ceiling = min(low, 0.0), max(high, 0.0)
            step = _span(ceiling - floor) / 255
            least = round(floor / step)

            def error(shrunk: float) -> float:
                return histogram.squared_error(shrunk * step, least, least + 255)

            factor = min(SHRINK, key=error)
            return low * factor, high * factor
        return low, high

    def stream(self, names: Iterable[str], bodies: Iterable[str], positive: bool) -> Scale:
        """The scale of a stage's stream.

        Args:
            names: the tensors of the stream.
            bodies: every F that is added to it.
            positive: whether the stream is never negative, whatever the tensors are.
        """
        names, bodies = list(names), list(bodies)

        def scale(ends: Callable[[str], tuple[float, float]]) -> Scale:
            tensors = [(0.0, high) if positive else (low, high) for low, high in map(ends, names)]
            return stream_scale(tensors, [ends(name) for name in bodies])

        if self._choice != "mse":
            return scale(self)
        widest = scale(self.widest)
        least = -128 - widest.zero_point
        codes = [(self._histogram(name), least, least + 255) for name in names]
        codes += [(self._histogram(name), -128, 127) for name in bodies]

        def error(factor: float) -> float:
            step = factor * widest.scale
            return sum(each.squared_error(step, low, high) for each, low, high in codes)

        return replace(widest, scale=as_float32(min(SHRINK, key=error) * widest.scale))


def _span(width: float) -> float:
    """Width of a range; 1 for a tensor that was always zero, for which any scale is right.

    A tiny one would do, too, but its requantisation would shift accumulators out of int32.
    """
    return width if width >= DEAD else 1.0


def relu_scale(high: float) -> Scale:
    """Scale of a tensor with values 0 .. high."""
    return Scale(as_float32(_span(high) / 255), ZERO_RELU)


def stream_scale(
    ends: Iterable[tuple[float, float]], bodies: Iterable[tuple[float, float]]
) -> Scale:
    """One scale for a stage's stream and for every F that is added to it (SPEC.md 5.6).

    Args:
        ends: (low, high) of every tensor of the stream.
        bodies: (low, high) of every F; at zero point 0 it must fit in -128 .. 127 steps.
    """
    ends = list(ends)
    low, high = min(0.0, *(low for low, _ in ends)), max(0.0, *(high for _, high in ends))
    steps = [(high - low) / 255]
    for lowest, highest in bodies:
        steps += [highest / 127, -lowest / 128]
    scale = as_float32(_span(max(steps) * 255) / 255)
    return Scale(scale, _zero_point(low, scale))


def _zero_point(low: float, scale: float) -> int:
    """The code of 0.0 where `low` <= 0 is to be the least one, or near it."""
    return max(-128, min(127, round(-128 - low / scale)))


def signed_scale(low: float, high: float) -> Scale:
    """Scale for low .. high on 255 steps; 0.0 is represented exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = as_float32(_span(high - low) / 255)
    return Scale(scale, _zero_point(low, scale))


def scale_at(low: float, high: float, zero_point: int) -> Scale:
    """The finest scale at which low .. high fits around this zero point."""
    steps = [0.0]
    if zero_point < 127:
        steps.append(high / (127 - zero_point))
    if zero_point > -128:
        steps.append(-low / (zero_point + 128))
    return Scale(as_float32(_span(max(steps) * 255) / 255), zero_point)


def mean_scale(low: float, high: float, source: Scale) -> Scale:
    """Scale of means, low .. high, of a tensor at the scale `source`."""
    return relu_scale(high) if source.zero_point == ZERO_RELU else signed_scale(low, high)


NEVER = 255
"""Two int8 values differ by at most this: a margin that no image exceeds."""


def exit_margin(margin: float | None, scale: Scale) -> int:
    """The integer T such that an exit is left iff its two largest int8 logits differ by > T.

    Args:
        margin: in real units; None never leaves, and so does what int8 cannot express.
    """
    return NEVER if margin is None else min(NEVER, math.floor(margin / scale.scale))


@dataclass(frozen=True)
class QuantConv:
    """A convolution's integers: weights (out, kh, kw, in), the rest (out)."""

    weights: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: NDArray[np.int32]
    multiplier: NDArray[np.int32]
    shift: NDArray[np.int8]


def check_accumulators(
    weights: NDArray[Any], bias: NDArray[Any], shift: NDArray[Any], name: str
) -> None:
    """Refuse integers of a convolution, output channels first, with which int32 can overflow.

    Raises:
        CgateError: names the layer and the channel.
    """
    # Worst accumulator: inputs are at most 255 steps from their zero point.
    magnitudes = np.abs(weights.astype(np.float64)).reshape(len(bias), -1).sum(axis=1)
    worst = magnitudes * 255 + np.abs(bias.astype(np.float64))
    left = np.maximum(shift, 0)
    if (worst * 2.0**left >= 2**31).any():
        channel = int(np.argmax(worst * 2.0**left))
        raise CgateError(
            f"{name}: output channel {channel} can overflow 32 bits "
            f"(|accumulator| up to {worst[channel]:.3g}, shifted left by {left[channel]})",
            "its weights are far larger than its output's range: check the training",
        )


def _suited(conv: FloatConv, inputs: Inputs, source: Scale) -> FloatConv:
    """A 1x1 layer with the weights that int8 inputs and weights serve best (SPEC.md, 5.6).

    Training divides an input that hardly varies by next to nothing. Such a weight would set the
    scale of all others of its row, and multiply what is the input's rounding alone.
    """
    # Least mean squares for inputs that carry their rounding as noise, taken as independent.
    variance = np.maximum(inputs.variance, 0)
    seen = variance + source.scale**2 / 12
    wanted = conv.weights * (variance / seen)
    largest = np.abs(wanted).max(axis=3, keepdims=True)
    best, least = wanted, np.full_like(largest, np.inf)
    for share in WEIGHT_SHRINK:
        step = np.where(largest > 0, largest * share / 127, 1.0)
        weights = np.clip(np.rint(wanted / step), -127, 127) * step
        error = (seen * (weights - wanted) ** 2).sum(axis=3, keepdims=True)
        best, least = np.where(error < least, weights, best), np.minimum(error, least)
    return FloatConv(best, conv.bias + ((conv.weights - best) @ inputs.mean)[:, 0, 0])


def quantize_conv(conv: FloatConv, source: Scale, target: Scale, name: str) -> QuantConv:
    """Quantise weights per output channel and derive bias and requantisation.

    Args:
        source: scale of the input.
        target: scale of the output.
        name: the layer, for errors.

    Raises:
        CgateError: an accumulator could leave int32: the layer cannot be computed in int8.
    """
    if conv.inputs is not None:
        conv = _suited(conv, conv.inputs, source)
    largest = np.abs(conv.weights).reshape(len(conv.bias), -1).max(axis=1)
    # A channel whose weights (almost) vanish still has its bias to represent.
    floor = np.abs(conv.bias) / (source.scale * MAX_BIAS)
    scales = np.maximum(largest / 127, floor)
    scales = np.where(scales > 0, scales, 1.0).astype(np.float32)
    steps = scales.astype(np.float64)
    weights = np.clip(np.rint(conv.weights / steps[:, None, None, None]), -127, 127)
    bias = np.rint(conv.bias / (source.scale * steps))
    factors = [source.scale * float(step) / target.scale for step in steps]
    try:
        pairs = [quantize_multiplier(factor) for factor in factors]
    except ValueError as error:
        raise CgateError(
            f"{name}: its weights are too large for its output's range ({error})",
            "check the training, or run `cgate calibrate` again",
        ) from error
    check_accumulators(weights, bias, np.array([shift for _, shift in pairs]), name)
    return QuantConv(
        weights.astype(np.int8),
        scales,
        bias.astype(np.int32),
        np.array([multiplier for multiplier, _ in pairs], np.int32),
        np.array([shift for _, shift in pairs], np.int8),
    )


def gate_threshold(threshold: float, scale: Scale) -> int:
    """The integer T such that a gate is open iff its int8 logit > T (SPEC.md, section 4).

    Args:
        threshold: the cut on sigmoid(logit).

    Raises:
        CgateError: the cut lies outside the logit's int8 range.
    """
    if not 0.0 < threshold < 1.0:
        raise CgateError(f"threshold {threshold} is not between 0 and 1", "--threshold 0.45")
    cut = math.log(threshold / (1 - threshold))
    value = math.floor(cut / scale.scale) + scale.zero_point
    if not -128 <= value <= 127:
        low, high = (1 / (1 + math.exp(-scale.scale * q)) for q in (-128, 127))
        raise CgateError(
            f"threshold {threshold} is beyond what an int8 logit can express "
            f"({low:.3f} to {high:.3f})",
            "--threshold 0.45",
        )
    return value
