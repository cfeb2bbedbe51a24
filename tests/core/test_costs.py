"""Cost tables: what they hold, and how far estimates from them can be trusted."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgate.core.costs import (
    FOLDER,
    MAX_ERROR,
    SHAPE_COLUMNS,
    UNITS,
    CostTable,
    Shape,
    _fit,
    _least_squares,
    _terms,
    cost_table,
    read_table,
)
from cgate.core.errors import CgateError
from cgate.core.network import Gate
from cgate.core.targets import all_targets, find_target

TABLES = sorted(path.stem for path in FOLDER.glob("*.csv"))


def table(name: str) -> CostTable:
    return read_table(FOLDER / f"{name}.csv")


def test_every_target_has_costs() -> None:
    assert set(TABLES) <= {target.name for target in all_targets()}
    for target in all_targets():
        assert cost_table(target).rows


@pytest.mark.parametrize("name", TABLES)
def test_an_estimate_is_near_what_was_measured(name: str) -> None:
    """Each row within the range of the others, estimated from the others alone."""
    measured = table(name)
    # Where there is nothing to choose from, only the total that export prints depends on it.
    limit = 0.1 if all("__ref" in kernel for kernel in measured.rows) else MAX_ERROR[measured.unit]
    for kernel, rows in measured.rows.items():
        for shape, cost in rows.items():
            others = {key: value for key, value in rows.items() if key != shape}
            fit = _fit(kernel, others)
            terms = _terms(kernel)(shape)
            ends = zip(fit.low, terms, fit.high, strict=True)
            if all(low <= term <= high for low, term, high in ends):
                value = float(sum(f * t for f, t in zip(fit.factors, terms, strict=False)))
                assert abs(value / cost - 1) < limit, (
                    kernel,
                    shape,
                    cost,
                    value,
                )


def test_a_measured_shape_costs_what_was_measured() -> None:
    measured = table("mps2-an386")
    for kernel, rows in measured.rows.items():
        for shape, value in rows.items():
            cost = measured.cost(kernel, shape)
            assert cost is not None and (cost.value, cost.how) == (value, "measured")


def test_estimates_say_what_they_are() -> None:
    measured = table("mps2-an386")
    between = Shape((13, 12, 24), (13, 12, 24), (3, 3))
    beyond = Shape((512, 512, 512), (512, 512, 512), (3, 3))
    for shape, how in ((between, "fitted"), (beyond, "extrapolated")):
        cost = measured.cost("conv2d_s8__dsp_winograd", shape)
        assert cost is not None and cost.how == how
    assert measured.cost("conv2d_s8__none", between) is None


def cheapest(costs: CostTable, op: str, shape: Shape) -> int:
    """Of the kernels of an op that were measured on exactly or about this shape."""
    found = [costs.cost(name, shape) for name in costs.rows if name.startswith(f"{op}__")]
    return min(cost.value for cost in found if cost is not None and cost.how != "extrapolated")


@pytest.mark.parametrize("target", ["mps2-an386", "netduinoplus2"])
@pytest.mark.parametrize(("size", "channels"), [(32, 16), (16, 32), (8, 64)])
def test_a_gate_is_cheap_beside_the_block_it_guards(target: str, size: int, channels: int) -> None:
    """Pool, both layers of the gate; two 3x3 convolutions with the fastest kernel, addition."""
    costs = table(target)
    stream = (size, size, channels)
    block = cheapest(costs, "residual_add_s8", Shape(stream, stream))
    block += 2 * costs.rows["conv2d_s8__dsp_winograd"][Shape(stream, stream, (3, 3))]
    for op, statistics, limit in (("mean_s8", 1, 0.01), ("mean_max_s8", 2, 0.025)):
        hidden = statistics * Gate().hidden
        pooled = (1, 1, statistics * channels)
        gate = cheapest(costs, op, Shape(stream, pooled))
        gate += cheapest(costs, "conv2d_s8", Shape(pooled, (1, 1, hidden)))
        gate += cheapest(costs, "conv2d_s8", Shape((1, 1, hidden), (1, 1, 1)))
        assert gate <= limit * block, (op, gate, block)


def test_a_target_without_a_table_takes_its_cores() -> None:
    m4 = find_target("cortex-m4")
    assert cost_table(replace(m4, name="another-board")).target == "mps2-an386"
    assert cost_table(find_target("nucleo-f446re")).target == "netduinoplus2"  # the same flash
    with pytest.raises(CgateError, match="no measured costs"):
        cost_table(replace(m4, name="another-board", core="cortex-m23"))


@given(
    st.lists(st.lists(st.integers(0, 50), min_size=3, max_size=3), min_size=3, max_size=8),
    st.lists(st.integers(1, 9), min_size=3, max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_the_fit_finds_exact_factors(rows: list[list[int]], factors: list[int]) -> None:
    """Costs that are linear in the terms are reproduced, whether or not the terms are distinct."""
    rows = [row for row in rows if any(row)]
    if not rows:
        return
    costs = [sum(a * b for a, b in zip(row, factors, strict=True)) for row in rows]
    found = _least_squares(rows, costs)
    assert [sum(a * b for a, b in zip(row, found, strict=True)) for row in rows] == costs


HEADER = ",".join(["kernel", *SHAPE_COLUMNS, *UNITS])


@pytest.mark.parametrize(
    ("line", "unit"),
    [
        ("a__ref,1,1,1,1,1,1,1,1,1,5,,", "instructions"),
        ("a__ref,1,1,1,1,1,1,1,1,1,5,6,7", UNITS[2]),
    ],
)
def test_the_last_filled_column_decides(line: str, unit: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"{HEADER}\n{line}\n")
    assert read_table(path).unit == unit


@pytest.mark.parametrize(
    "text",
    ["", HEADER, "a,b\n1,2\n", f"{HEADER}\na__ref,1,1,x,1,1,1,1,1,1,5,,\n",
     f"{HEADER}\na__ref,1,1,1,1,1,1,1,1,1,0,,\n", f"{HEADER}\na__ref,1\n"],
)  # fmt: skip
def test_a_broken_table_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(CgateError, match=r"cost table t\.csv"):
        read_table(path)
