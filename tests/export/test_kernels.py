"""Which kernel an exported op gets, and why."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgate.core.errors import CgateError
from cgate.core.plan import Conv2d, Plan
from cgate.core.targets import Region, Target, find_target
from cgate.export.kernels import (
    CONV_KERNELS,
    DIRECT,
    WINOGRAD,
    ConvLayer,
    constants_size,
    reference,
)
from cgate.export.lower import lower
from synthetic import small_network, write_checkpoint

M4 = find_target("cortex-m4")


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
        (layer(cin=6), "multiples of 4"),
        (layer(cout=6), "multiples of 4"),
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


def convolutions(plan: Plan) -> Mapping[str, Conv2d]:
    return {op.output: op for unit in plan.units for op in unit.ops if isinstance(op, Conv2d)}


def planned(folder: Path, target: Target = M4, kernels: str = "auto") -> tuple[Plan, int]:
    plan, weights = lower(
        write_checkpoint(folder, small_network(), images=4), target, kernels=kernels
    )
    return plan, constants_size(plan, weights)


def test_the_fastest_kernel_is_chosen(tmp_path: Path) -> None:
    plan, _ = planned(tmp_path)
    ops = convolutions(plan)
    assert ops["s1b0.conv1"].kernel == WINOGRAD.name
    assert ops["s2b0.conv1"].kernel == DIRECT.name
    assert "stride" in ops["s2b0.conv1"].why
    for op in ops.values():
        assert op.scratch is not None and op.scratch[0] + op.scratch[1] <= plan.arena_size
    assert {reference(name) for name in CONV_KERNELS} == {"conv2d_s8__ref"}


@pytest.mark.parametrize(("target", "kernels"), [("cortex-m3", "auto"), ("cortex-m4", "ref")])
def test_ref_where_nothing_else_can_be(target: str, kernels: str, tmp_path: Path) -> None:
    plan, _ = planned(tmp_path, find_target(target), kernels)
    ops = [op for unit in plan.units for op in unit.ops if hasattr(op, "kernel")]
    assert ops and all(op.kernel.endswith("__ref") for op in ops)


def test_dsp_kernels_need_a_core_with_dsp(tmp_path: Path) -> None:
    with pytest.raises(CgateError, match="no DSP"):
        planned(tmp_path, find_target("cortex-m3"), "dsp")


def test_flash_bounds_the_choice(tmp_path: Path) -> None:
    _, most = planned(tmp_path)
    _, least = planned(tmp_path, kernels="ref")
    for flash in (least + 16384, (least + most) // 2 + 16384):
        small = replace(M4, flash=Region(0, flash))
        plan, size = planned(tmp_path, small)
        assert size + 16384 <= flash
        assert any("no flash left" in op.why for op in convolutions(plan).values())


def test_ram_bounds_the_choice(tmp_path: Path) -> None:
    plan, _ = planned(tmp_path)
    small = replace(M4, ram=Region(0, plan.arena_size + 4096))
    fewer, _ = planned(tmp_path, small)
    assert fewer.arena_size + 64 + 10 <= plan.arena_size
    assert any("no RAM left" in op.why for op in convolutions(fewer).values())
