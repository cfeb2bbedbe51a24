"""How much of the arena is in use, unit by unit, as the plan has laid it out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cgate.core.plan import Addition, Convolution, Decision, Op, Plan

Span = tuple[int, int]
"""First byte, and the one behind the last."""


@dataclass(frozen=True)
class Use:
    """Bytes of the arena that one op of a unit needs at once, at the op that needs most.

    Args:
        tensors: in activations: those that are read now or later.
        scratch: besides, in the kernel's own memory.
    """

    tensors: int
    scratch: int


def _length(spans: Iterable[Span]) -> int:
    """Bytes in at least one of the spans."""
    end = total = 0
    for start, stop in sorted(spans):
        total += max(0, stop - max(start, end))
        end = max(end, stop)
    return total


def _names(op: Op) -> list[str]:
    if isinstance(op, Decision):
        return [op.input]
    return [op.input, op.output, *([op.stream] if isinstance(op, Addition) else [])]


def arena_use(plan: Plan) -> list[Use]:
    """What each unit needs when it runs, in the order of the units.

    A tensor counts from the op that first touches it to the one that last does; tensors that share
    memory (a stream) count once. What the caller owns does not lie in the arena.
    """
    steps = [(unit.index, op) for unit in plan.units for op in unit.ops]
    life: dict[str, Span] = {}
    for step, (_, op) in enumerate(steps):
        for name in _names(op):
            life[name] = (life.get(name, (step, step))[0], step)
    spans = {
        tensor.name: (tensor.offset, tensor.offset + tensor.size)
        for tensor in plan.tensors
        if tensor.offset is not None
    }
    peaks = [Use(0, 0)] * len(plan.units)
    for step, (unit, op) in enumerate(steps):
        alive = [
            spans[name]
            for name, (first, last) in life.items()
            if first <= step <= last and name in spans
        ]
        scratch = op.scratch[1] if isinstance(op, Convolution) and op.scratch else 0
        use = Use(_length(alive), scratch)
        if use.tensors + use.scratch > peaks[unit].tensors + peaks[unit].scratch:
            peaks[unit] = use
    return peaks
