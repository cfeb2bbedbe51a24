"""What each kernel refuses."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cgate.export.kernels import CONV_KERNELS, DIRECT, PHASES, WINOGRAD, ConvLayer, reference


def layer(cin: int = 8, cout: int = 8, weight: int = 3, **fields: Any) -> ConvLayer:
    kernel = fields.pop("kernel", 3)
    made = ConvLayer(
        *((6, 7, cin), (6, 7, cout), 1, 1, 1, -128, 0),
        weights=np.full((cout, kernel, kernel, cin), weight, np.int8),
        bias=np.zeros(cout, np.int32),
        multiplier=np.full(cout, 1 << 30, np.int32),
        shift=np.full(cout, -8, np.int8),
    )
    return replace(made, **fields)


@pytest.mark.parametrize(
    ("case", "why"),
    [
        (layer(), None),
        (layer(kernel=5), "3x3"),
        (layer(stride=2), "stride"),
        (layer(pad_top=0), "padding"),
        (layer(cin=3), None),
        (layer(cout=6), "multiple of 4"),
        # 255 * 127 * 9 * cin stays below 2^25 up to 115 channels.
        (layer(cin=112, weight=127), None),
        (layer(cin=116, weight=127), "2^25"),
        (layer(cin=116, weight=-127), "2^25"),
        (layer(bias=np.full(8, 1 << 30, np.int32)), "2^30"),
    ],
)
def test_winograd_is_refused_where_it_would_be_wrong(case: ConvLayer, why: str | None) -> None:
    refusal = WINOGRAD.refuses(case)
    assert refusal is None if why is None else refusal is not None and why in refusal


def test_direct_needs_headroom_only() -> None:
    assert DIRECT.refuses(layer(cin=5, cout=3, kernel=1, stride=3)) is None
    refusal = DIRECT.refuses(layer(bias=np.full(8, -(1 << 30), np.int32)))
    assert refusal is not None and "2^30" in refusal


@pytest.mark.parametrize(
    ("case", "why"),
    [
        (layer(stride=2), None),
        (layer(stride=2, pad_top=0, pad_left=2), None),
        (layer(cin=116, weight=127, stride=2), None),
        (layer(), "stride 2"),
        (layer(kernel=1, stride=2), "3x3"),
        (layer(cin=6, stride=2), "multiples of 4"),
        (layer(cout=6, stride=2), "multiples of 4"),
        (layer(stride=2, bias=np.full(8, (1 << 30) - 1, np.int32)), "biases"),
        (
            layer(stride=2, in_zero_point=0, bias=np.full(8, (1 << 30) - 1, np.int32)),
            "accumulators",
        ),
    ],
)
def test_phases_are_refused_where_they_would_be_wrong(case: ConvLayer, why: str | None) -> None:
    refusal = PHASES.refuses(case)
    assert refusal is None if why is None else refusal is not None and why in refusal


def test_every_kernel_has_a_reference() -> None:
    assert {reference(name) for name in CONV_KERNELS} == {"conv2d_s8__ref"}
