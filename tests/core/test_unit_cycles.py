"""The prices that training sees, against what the exporter says of the same network, op by op."""

from dataclasses import replace
from pathlib import Path

import pytest

from cgate.core.checkpoint import load_checkpoint
from cgate.core.costs import cost_table
from cgate.core.network import Gate, network_macs
from cgate.core.plan import ShortcutPad
from cgate.core.targets import find_target
from cgate.core.unit_cycles import network_cycles
from cgate.export.lower import lower

M4 = find_target("cortex-m4")
MODEL = Path(__file__).parents[2] / "models/resnet20-balanced"


def test_units_cost_what_the_plan_says() -> None:
    checkpoint = load_checkpoint(MODEL)
    plan, _ = lower(checkpoint, M4)
    costs = network_cycles(checkpoint.network, cost_table(M4))
    planned: dict[tuple[str, str | None], int] = {}
    for unit in plan.units:
        total = sum(getattr(op, "cost", 0) for op in unit.ops)
        # Where a body and its shortcut share a unit, they are told apart by the op.
        for op in unit.ops:
            if isinstance(op, ShortcutPad):
                key = ("shortcut", unit.block)
                planned[key] = planned.get(key, 0) + op.cost
                total -= op.cost
        key = (unit.role, unit.block)
        planned[key] = planned.get(key, 0) + total
    assert costs.stem == planned["stem", None]
    assert costs.head == pytest.approx(planned["head", None], rel=0.01)
    for block in checkpoint.network.blocks:
        assert costs.bodies[block.name] == planned["body", block.name]
        if block.gate is not None:
            assert costs.gates[block.name] == planned["gate", block.name]
        if block.shortcut == "pad":
            assert costs.shortcuts[block.name] == planned["shortcut", block.name]


def test_cycles_weigh_blocks_other_than_macs() -> None:
    """Why the penalty may count cycles: blocks of equal MACs are not equally dear."""
    network = load_checkpoint(MODEL).network
    cycles, macs = network_cycles(network, cost_table(M4)), network_macs(network)
    gated = [block.name for block in network.gated]
    assert len({macs.bodies[name] for name in gated}) == 1
    assert len({cycles.bodies[name] for name in gated}) > 1


@pytest.mark.parametrize("kind", ["controller", "cir", "cir-predicted", "probe", "anchor"])
def test_every_kind_of_gate_has_a_price(kind: str) -> None:
    network = load_checkpoint(MODEL).network
    blocks = tuple(
        block if block.gate is None else replace(block, gate=Gate(kind)) for block in network.blocks
    )
    costs = network_cycles(replace(network, blocks=blocks), cost_table(M4))
    for name, cost in costs.gates.items():
        assert 0 < cost < costs.bodies[name]
