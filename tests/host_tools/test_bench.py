"""`cgate bench kernels`: what it measures, where, and what it writes."""

import csv
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from cgate.core.costs import SHAPE_COLUMNS, UNITS, Shape, read_table
from cgate.core.errors import EXIT_TOOL_MISSING, CgateError
from cgate.core.targets import find_target
from cgate.host_tools.bench import LAYERS, Call, cost_calls, measure, write_costs, write_results
from cgate.host_tools.calls import kernel_rows
from cgate.host_tools.cli import cgate
from cgate.host_tools.cmsis_nn import VARIABLE, find_cmsis_nn
from tiny import needs_qemu

SMALL = (
    Call("conv2d_s8", Shape((6, 9, 8), (6, 9, 12), (3, 3))),
    Call("conv2d_s8", Shape((6, 9, 8), (3, 5, 12), (3, 3), 2)),
    Call("mean_s8", Shape((5, 4, 6), (1, 1, 6))),
    Call("residual_add_s8", Shape((5, 4, 6), (5, 4, 6))),
)


@pytest.mark.qemu
def test_every_variant_is_measured_and_no_figure_is_missing(tmp_path: Path) -> None:
    needs_qemu()
    costs = measure(find_target("cortex-m4"), SMALL)
    wanted = {
        f"{op}__{variant}"
        for op, variant, needs in kernel_rows()
        if op in {call.op for call in SMALL} and needs in ("any", "dsp")
    }
    assert {cost.kernel for cost in costs} == wanted
    for cost in costs:
        # No wait states: the flash adds nothing. Loads make a cycle model slower than a count.
        assert cost.cycles == cost.cycles_flash
        assert cost.cycles is not None and cost.cycles > cost.instructions
    write_costs(tmp_path / "board.csv", costs)
    table = read_table(tmp_path / "board.csv")
    assert table.unit == UNITS[-1]
    assert {kernel: set(rows) for kernel, rows in table.rows.items()} == {
        kernel: {cost.call.shape for cost in costs if cost.kernel == kernel} for kernel in wanted
    }
    write_results(tmp_path / "kernels.csv", {"cortex-m4": costs}, "abc")
    with (tmp_path / "kernels.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["cycles"]) for row in rows] == [cost.cycles for cost in costs]
    assert set(rows[0]) >= {"target", "kernel", *SHAPE_COLUMNS, *UNITS, "macs", "n", "commit"}


@pytest.mark.qemu
def test_wait_states_cost_cycles_and_no_instructions() -> None:
    needs_qemu()
    fast = measure(find_target("cortex-m4"), SMALL)
    slow = measure(find_target("netduinoplus2"), SMALL)
    for a, b in zip(fast, slow, strict=True):
        assert a.kernel == b.kernel
        # Others are compiled with shorter loops where the flash is slow.
        if a.kernel.endswith("__ref"):
            assert (a.instructions, a.cycles) == (b.instructions, b.cycles)
        assert b.cycles is not None and b.cycles_flash is not None and b.cycles_flash > b.cycles


@pytest.mark.qemu
def test_other_cores_have_instructions_and_no_cycles() -> None:
    needs_qemu()
    for cost in measure(find_target("cortex-m33"), SMALL[1:]):
        assert cost.instructions > 0
        assert cost.cycles is None and cost.cycles_flash is None


@pytest.mark.qemu
@pytest.mark.skipif(
    not os.environ.get(VARIABLE),
    reason="needs a copy: git clone https://github.com/ARM-software/CMSIS-NN, "
    f"and {VARIABLE}=FOLDER",
)
@pytest.mark.parametrize("target", ["cortex-m3", "cortex-m4", "cortex-m33", "cortex-m55"])
def test_cmsis_nn_equals_ref(target: str) -> None:
    """`measure` compares every output with ref's."""
    needs_qemu()
    calls = [*LAYERS, *cost_calls()]
    costs = measure(find_target(target), calls, cmsis_nn=find_cmsis_nn(None))
    theirs = [cost for cost in costs if cost.kernel.endswith("__cmsis_nn")]
    assert len(theirs) == sum(call.op in ("conv2d_s8", "residual_add_s8") for call in calls)


def test_a_missing_or_old_cmsis_nn_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(CgateError, match="no copy of CMSIS-NN is named") as error:
        find_cmsis_nn(None)
    assert error.value.code == EXIT_TOOL_MISSING and "git clone" in error.value.hint
    with pytest.raises(CgateError, match="is no copy of CMSIS-NN"):
        find_cmsis_nn(tmp_path)
    header = tmp_path / "Include" / "arm_nnfunctions.h"
    header.parent.mkdir()
    header.write_text(" * $Revision:    V.16.0.0\n")
    with pytest.raises(CgateError, match=r"too old: revision 16\.0\.0"):
        find_cmsis_nn(tmp_path)
    header.write_text(" * $Revision:    V.18.0.1\n")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert find_cmsis_nn(None).revision == "V.18.0.1"


def test_an_unknown_target_is_named() -> None:
    result = CliRunner().invoke(cgate, ["bench", "kernels", "--target", "cortex-m5"])
    assert isinstance(result.exception, CgateError)
