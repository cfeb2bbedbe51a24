"""How often a tensor took which values: what a range can be chosen from without data."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgate.core.errors import CgateError

BINS = 1024
"""At most so many bins, and more than half as many once values differ that much."""

MAX_EXPONENT = 100  # of a bin's width; beyond it values come from a damaged file


@dataclass(frozen=True)
class Histogram:
    """Counts of float values in equal bins.

    Bin k holds the values in [k * width, (k + 1) * width). Widths are powers of two and bins start
    at multiples of them, so that two histograms add up without loss.

    Args:
        exponent: width = 2^exponent.
        first: k of the first bin.
        counts: int64 [bins].
        zeros: values that are exactly 0, which stand in no bin: int8 represents them exactly.
    """

    exponent: int
    first: int
    counts: NDArray[np.int64]
    zeros: int

    @property
    def width(self) -> float:
        """Width of a bin."""
        return math.ldexp(1.0, self.exponent)

    @property
    def centres(self) -> NDArray[np.float64]:
        """The middle of each bin."""
        return (self.first + np.arange(len(self.counts)) + 0.5) * self.width

    @property
    def total(self) -> int:
        """Values in all."""
        return int(self.counts.sum()) + self.zeros

    def widened(self, exponent: int) -> Histogram:
        """The same values in bins of width 2^exponent, which must not be narrower."""
        factor = 1 << (exponent - self.exponent)
        first = self.first // factor
        places = (self.first + np.arange(len(self.counts))) // factor - first
        counts = np.zeros(int(places[-1]) + 1 if len(places) else 0, np.int64)
        np.add.at(counts, places, self.counts)
        return Histogram(exponent, first, counts, self.zeros)

    def squared_error(self, step: float, low: int, high: int) -> float:
        """Mean squared error of the values rounded to multiples of `step`.

        Args:
            low, high: least and greatest multiple; values beyond are clipped.
        """
        # The integral of the squared error up to x: step^3 / 12 per whole step. Exact for values
        # spread evenly within a bin, however bins and steps lie to each other.
        edges = (self.first + np.arange(len(self.counts) + 1)) * self.width
        inside = np.clip(edges, low * step, high * step)
        codes = np.rint(inside / step)
        whole = codes * step**3 / 12 + (inside - codes * step) ** 3 / 3
        integral = whole + (edges - inside) ** 3 / 3
        return float(np.diff(integral) @ self.counts) / self.width / max(self.total, 1)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; counts as one string, a line in the file rather than a thousand."""
        counts = " ".join(str(int(count)) for count in self.counts)
        return {
            "exponent": self.exponent,
            "first": self.first,
            "zeros": self.zeros,
            "counts": counts,
        }


def merge(histograms: Iterable[Histogram]) -> Histogram:
    """All values of some histograms, at least one, in bins wide enough that BINS of them do."""
    parts = list(histograms)
    zeros = sum(part.zeros for part in parts)
    parts = [part for part in parts if len(part.counts)] or parts[:1]
    exponent = max(part.exponent for part in parts)
    while True:
        parts = [part.widened(exponent) for part in parts]
        first = min(part.first for part in parts)
        end = max(part.first + len(part.counts) for part in parts)
        if end - first <= BINS:
            break
        exponent += 1
    counts = np.zeros(end - first, np.int64)
    for part in parts:
        counts[part.first - first : part.first - first + len(part.counts)] += part.counts
    return Histogram(exponent, first, counts, zeros)


def histogram_from_json(value: Any, where: str) -> Histogram:
    """Check and read what `Histogram.to_json` wrote.

    Raises:
        CgateError: it is damaged; `where` begins the message.
    """
    fields = value if isinstance(value, dict) else {}
    numbers = [fields.get(key) for key in ("exponent", "first", "zeros")]
    text = fields.get("counts")
    words = text.split(" ") if isinstance(text, str) and text else []
    good = (
        isinstance(text, str)
        and all(type(number) is int for number in numbers)
        and all(word.isascii() and word.isdigit() and len(word) <= 15 for word in words)
        and len(words) <= BINS
        and abs(fields["exponent"]) <= MAX_EXPONENT
        and abs(fields["first"]) < 1 << 53
        and 0 <= fields["zeros"] < 1 << 53
    )
    if not good:
        raise CgateError(f"{where} is no histogram", "run `cgate calibrate` again")
    counts = np.array([int(word) for word in words], np.int64)
    return Histogram(fields["exponent"], fields["first"], counts, fields["zeros"])
