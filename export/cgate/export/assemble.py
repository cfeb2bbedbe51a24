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
    Counted,
    Decision,
    Op,
    Plan,
    Tensor,
    Unit,
)
from cgate.core.targets import Target
from cgate.export.choose import MILLION, Chooser, Limits
from cgate.export.memory import Buffer, place
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
            step += 1
    buffers = [
        Buffer(name, draft.tensors[name].size, first[name], last[name]) for name in sorted(first)
    ]
    return buffers, home


class Assembly:
    """A finished draft with its tensors placed; what is left is the choice of kernels."""

    def __init__(
        self,
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
        rates: Sequence[int] | None = None,
    ) -> None:
        """Place the tensors and find the kernels that could be chosen.

        Args:
            draft: its first unit reads the network's input, its last unit leaves the output.
            kernels: one of choose.CHOICES.
            name: C identifier that prefixes the generated code.
            dense_macs: of the network without gates and exits.
            rates: how often each unit runs, per million images; None: always.

        Raises:
            CgateError: the target's core cannot run these kernels.
        """
        self.draft, self.target, self.name = draft, target, name
        self.source_sha256, self.threshold = source_sha256, threshold
        self.classes, self.network, self.dense_macs = tuple(classes), network, dense_macs
        self.source, self.output = draft.units[0].inputs[0], draft.units[-1].output
        buffers, self.home = _buffers(draft)
        self.chooser = Chooser(
            draft.units,
            draft.tensors,
            draft.weights,
            target,
            kernels,
            place(buffers),
            rates or [MILLION] * len(draft.units),
            draft.tensors[self.source].size + draft.tensors[self.output].size,
        )

    def plan(self, limits: Limits | None = None) -> Plan:
        """The plan with the best kernels within these limits (None: all that the target has).

        Raises:
            CgateError: no choice of kernels fits.
        """
        units, choice, arena = self.chooser.choose(
            limits or Limits(self.target.flash.size, self.target.ram.size)
        )
        offsets, home = self.chooser.layout.offsets, self.home
        tensors = tuple(
            replace(tensor, offset=offsets[home[tensor.name]] if tensor.name in home else None)
            for tensor in self.draft.tensors.values()
        )
        return Plan(
            self.name,
            self.target.name,
            self.source_sha256,
            ROUNDING,
            self.threshold,
            self.source,
            self.output,
            self.dense_macs,
            arena,
            self.classes,
            self.network,
            tensors,
            tuple(units),
            choice,
        )
