"""How the temperature of relaxed gates moves over a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

Schedule = Callable[[float, float, float], float]
"""(value at first, value in the end, progress 0..1) -> value now."""


def _constant(first: float, last: float, progress: float) -> float:
    return first


def _linear(first: float, last: float, progress: float) -> float:
    return first + progress * (last - first)


def _cosine(first: float, last: float, progress: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2


def _exponential(first: float, last: float, progress: float) -> float:
    return first * math.exp(progress * math.log(last / first))


SCHEDULES: Mapping[str, Schedule] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "exponential": _exponential,
}
