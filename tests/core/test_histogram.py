"""Histograms: no value is lost, and the error they predict is the error that rounding makes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgate.core.errors import CgateError
from cgate.core.histogram import BINS, Histogram, histogram_from_json, merge

COUNTS = st.lists(st.integers(0, 1000), max_size=40).map(lambda counts: np.array(counts, np.int64))
HISTOGRAMS = st.builds(
    Histogram, st.integers(-30, 10), st.integers(-100_000, 100_000), COUNTS, st.integers(0, 50)
)


def counted(histogram: Histogram, exponent: int) -> dict[int, int]:
    """Values by bin of width 2^exponent: bin by bin, with exact integers."""
    found: dict[int, int] = {}
    for place, count in enumerate(histogram.counts.tolist()):
        k = (histogram.first + place) >> (exponent - histogram.exponent)
        found[k] = found.get(k, 0) + count
    return {k: count for k, count in found.items() if count}


@given(st.lists(HISTOGRAMS, min_size=1, max_size=4))
def test_merging_moves_no_value_to_another_bin(parts: list[Histogram]) -> None:
    merged = merge(parts)
    assert len(merged.counts) <= BINS
    assert merged.zeros == sum(part.zeros for part in parts)
    wanted: dict[int, int] = {}
    for part in parts:
        if len(part.counts):
            for k, count in counted(part, merged.exponent).items():
                wanted[k] = wanted.get(k, 0) + count
    assert counted(merged, merged.exponent) == wanted


@given(HISTOGRAMS)
def test_json_and_back(histogram: Histogram) -> None:
    again = histogram_from_json(histogram.to_json(), "file")
    assert (again.counts == histogram.counts).all()
    assert again.to_json() == histogram.to_json()


@pytest.mark.parametrize(
    "change",
    [
        {"counts": "1 -2"},
        {"counts": "1  2"},
        {"counts": [1, 2]},
        {"counts": " ".join(["1"] * (BINS + 1))},
        {"counts": "9" * 16},
        {"exponent": 1000},
        {"first": 1 << 60},
        {"zeros": -1},
        {"zeros": True},
    ],
)
def test_damage_is_a_clear_error(change: dict[str, object]) -> None:
    good = Histogram(-3, 2, np.array([1, 2]), 3).to_json()
    with pytest.raises(CgateError, match="file is no histogram"):
        histogram_from_json({**good, **change}, "file")
    values: tuple[object, ...] = (None, [], {})
    for value in values:
        with pytest.raises(CgateError, match="file is no histogram"):
            histogram_from_json(value, "file")


@pytest.mark.parametrize("step", [0.004, 0.01, 0.02, 0.04])
def test_predicted_error_is_that_of_rounding_the_values(step: float) -> None:
    values = np.random.default_rng(0).gamma(2.0, 0.5, 100_000)
    values[::3] = 0.0
    exponent = -8
    nonzero = values[values != 0]
    places = np.floor(nonzero / 2.0**exponent).astype(np.int64)
    histogram = Histogram(
        exponent,
        int(places.min()),
        np.bincount(places - places.min()),
        len(values) - len(nonzero),
    )
    rounded = np.clip(np.rint(values / step), 0, 255) * step
    truth = float(np.mean((values - rounded) ** 2))
    assert histogram.squared_error(step, 0, 255) == pytest.approx(truth, rel=0.05)
