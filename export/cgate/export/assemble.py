"""The last step of every export: units and tensors -> kernels, places in memory, the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from cgate.core.imported import ImportedNetwork
from cgate.core.network import Network
from cgate.core.plan import (
    ROUNDING,
    Addition,
    Convolution,
    Counted,
    Decision,
    Op,
    Plan,
    Tensor,
    Unit,
)
from cgate.core.targets import Target
from cgate.export.kernels import choose, without_largest_scratch
from cgate.export.memory import STACK_ALLOWANCE, Buffer, place
from cgate.export.quantize import Scale


class Draft:
    """A network under construction: its tensors, units and weights, without kernels and places."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.units: list[Unit] = []
        self.weights: dict[str, NDArray[Any]] = {}
        # Tensor -> the tensor whose memory it takes over (a stream is written in place).
        self.same_memory: dict[str, str] = {}

    def tensor(self, name: str, shape: tuple[int, int, int], scale: Scale) -> str:
        """Declare a tensor; returns its name."""
        self.tensors[name] = Tensor(name, shape, scale.scale, scale.zero_point, None)
        return name

    def scale(self, name: str) -> Scale:
        """Scale and zero point of a tensor."""
        return Scale(self.tensors[name].scale, self.tensors[name].zero_point)

    def unit(
        self,
        name: str,
        role: str,
        inputs: tuple[str, ...],
        ops: Sequence[Op],
        *,
        block: str | None = None,
        condition: str | None = None,
    ) -> str:
        """Append a unit, whose output is the last op's; returns that tensor's name."""
        last = ops[-1]
        output = last.input if isinstance(last, Decision) else last.output
        macs = sum(op.macs for op in ops if isinstance(op, Counted))
        index = len(self.units)
        self.units.append(
            Unit(index, name, role, block, condition, inputs, output, macs, tuple(ops))
        )
        return output


def _buffers(draft: Draft) -> tuple[list[Buffer], dict[str, str]]:
    """Arena buffers with their lifetimes in ops, and the buffer each tensor lives in."""
    home: dict[str, str] = {}

    def buffer_of(name: str) -> str:
        while name in draft.same_memory:
            name = draft.same_memory[name]
        return name

    # The caller owns these; exits write their logits to the network's output too.
    ends = {unit.output for unit in draft.units if unit.role in ("exit", "head")}
    outside = {buffer_of(name) for name in (*draft.units[0].inputs, *ends)}
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    scratch: list[Buffer] = []
    step = 0
    for unit in draft.units:
        for op in unit.ops:
            names = [op.input]
            if not isinstance(op, Decision):
                names.append(op.output)
            if isinstance(op, Addition):
                names.append(op.stream)
            for name in names:
                if buffer_of(name) in outside:
                    continue
                home[name] = buffer_of(name)
                first.setdefault(home[name], step)
                last[home[name]] = step
            if isinstance(op, Convolution) and op.scratch is not None:
                scratch.append(Buffer(_scratch(op), op.scratch[1], step, step))
            step += 1
    buffers = [
        Buffer(name, draft.tensors[name].size, first[name], last[name]) for name in sorted(first)
    ]
    return [*buffers, *scratch], home


def _scratch(op: Convolution) -> str:
    """The name of an op's scratch buffer; no tensor has such a name."""
    return f"{op.output}.scratch"


def _place_scratch(unit: Unit, offsets: dict[str, int]) -> Unit:
    ops = [
        replace(op, scratch=(offsets[_scratch(op)], op.scratch[1]))
        if isinstance(op, Convolution) and op.scratch is not None
        else op
        for op in unit.ops
    ]
    return replace(unit, ops=tuple(ops))


def assemble(
    draft: Draft,
    target: Target,
    kernels: str,
    *,
    name: str,
    source_sha256: str,
    threshold: float,
    classes: Sequence[str],
    network: Network | ImportedNetwork,
    dense_macs: int,
) -> Plan:
    """Choose the kernels of a finished draft, place its tensors, and make the plan.

    Args:
        draft: its first unit reads the network's input, its last unit leaves the output.
        kernels: one of kernels.CHOICES.
        name: C identifier that prefixes the generated code.
        dense_macs: of the network without gates and exits.
    """
    source, output = draft.units[0].inputs[0], draft.units[-1].output
    draft.units = choose(draft.units, draft.tensors, draft.weights, target, kernels)
    buffers, home = _buffers(draft)
    offsets, arena = place(buffers)
    owned = draft.tensors[source].size + draft.tensors[output].size
    while arena + owned + STACK_ALLOWANCE > target.ram.size:
        fewer = without_largest_scratch(draft.units, draft.tensors, draft.weights)
        if fewer is None:
            break
        draft.units = fewer
        buffers, home = _buffers(draft)
        offsets, arena = place(buffers)
    tensors = tuple(
        replace(tensor, offset=offsets[home[tensor.name]] if tensor.name in home else None)
        for tensor in draft.tensors.values()
    )
    return Plan(
        name,
        target.name,
        source_sha256,
        ROUNDING,
        threshold,
        source,
        output,
        dense_macs,
        arena,
        tuple(classes),
        network,
        tensors,
        tuple(_place_scratch(unit, offsets) for unit in draft.units),
    )
