"""The arena in use, against a plan's bytes looked at one by one."""

from pathlib import Path

import numpy as np
import pytest

from cgate.core.plan import Op, Plan, load_bundle
from cgate.core.targets import find_target
from cgate.export.bundle import export_checkpoint
from cgate.host_tools.arena import arena_use
from synthetic import SHAPES, write_checkpoint


def arena_by_bytes(plan: Plan) -> list[int]:
    """Per unit, the most bytes in use at one op: a bit per byte, and every op looked at."""
    ops = [(unit.index, op) for unit in plan.units for op in unit.ops]

    def touched(op: Op) -> set[str]:
        return {getattr(op, name) for name in ("input", "output", "stream") if hasattr(op, name)}

    most = [0] * len(plan.units)
    for step, (index, op) in enumerate(ops):
        before = set().union(*(touched(other) for _, other in ops[: step + 1]))
        later = set().union(*(touched(other) for _, other in ops[step:]))
        used = np.zeros(plan.arena_size, bool)
        for name in before & later:
            tensor = plan.tensor(name)
            if tensor.offset is not None:
                used[tensor.offset : tensor.offset + tensor.size] = True
        scratch = getattr(op, "scratch", None)
        if scratch is not None:
            assert not used[scratch[0] : sum(scratch)].any()
            used[scratch[0] : sum(scratch)] = True
        most[index] = max(most[index], int(used.sum()))
    return most


@pytest.mark.parametrize("shape", ["option-b", "no-relu", "inverted"])
def test_the_arena_in_use_is_what_the_plan_lays_out(shape: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint", SHAPES[shape], seed=1, images=2)
    export_checkpoint(tmp_path / "checkpoint", tmp_path / "bundle", find_target("cortex-m4"))
    plan = load_bundle(tmp_path / "bundle").plan
    found = [use.tensors + use.scratch for use in arena_use(plan)]
    assert found == arena_by_bytes(plan)
    assert 0 < max(found) <= plan.arena_size
