"""The kernel of every op: least expected cost that flash and RAM allow, exactly.

Expected cost weighs an op by how often its unit runs, as the checkpoint's card says. RAM does not
tie ops together: a kernel's scratch memory lives for one step, so that each kernel either lies
within the limit or does not. Flash does: that is a knapsack (knapsack.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cgate.core.code import code_table
from cgate.core.costs import Cost, CostTable, Shape, cost_table
from cgate.core.errors import EXIT_CHECK_FAILED, CgateError
from cgate.core.plan import (
    Choice,
    Conv2d,
    Convolution,
    Decision,
    DepthwiseConv2d,
    KernelOp,
    Op,
    Pool,
    Scratched,
    Softmax,
    Tensor,
    Unit,
    Weights,
)
from cgate.core.targets import Target, all_targets, core_features, size_text
from cgate.export.footprint import program_flash, program_ram
from cgate.export.kernels import (
    CMSIS_NN,
    CMSIS_NN_KERNELS,
    CONV_KERNELS,
    DSP_KERNELS,
    DSP_SCRATCH,
    MVE_KERNELS,
    NEEDS_CMSIS_NN,
    cmsis_nn_scratch,
    conv_layer,
    reference,
)
from cgate.export.knapsack import Option, smallest, solve
from cgate.export.memory import Layout

CHOICES = ("auto", "dsp", "ref", CMSIS_NN)
"""What `cgate export --kernels` takes; `dsp` is `auto` that insists on a core with DSP, `cmsis-nn`
is `auto` where Arm's library has nothing."""

CMSIS_NN_CODE: Mapping[str, Mapping[str, int]] = {
    name: {name: 24 * 1024 if "conv" in name else 2048} for name in NEEDS_CMSIS_NN
}
"""Room for the library's code, which is no part of cgate: no function of it is known here."""

MILLION = 1_000_000
RAREST = 10_000
"""The least that a unit is taken to run, per million images."""
UNKNOWN = Cost(0, "unknown")


@dataclass(frozen=True)
class Limits:
    """Bytes that a program may take, `ram` with stack, input and output."""

    flash: int
    ram: int


@dataclass(frozen=True)
class Candidate:
    """A kernel that computes an op.

    Args:
        why: what it does better than the reference; or why it is not to be had, if `refused`.
        flash: bytes of the constants that it reads.
        scratch: bytes of scratch memory; None if it takes none.
        peak: bytes of arena that the op then needs.
    """

    kernel: str
    why: str
    refused: bool
    cost: Cost
    flash: int
    scratch: int | None
    peak: int

    @property
    def variant(self) -> str:
        """Its name without the op's."""
        return self.kernel.split("__")[1]


def shape_of(op: KernelOp, tensors: Mapping[str, Tensor], weights: Weights) -> Shape:
    """What the op's cost depends on."""
    source, target = tensors[op.input].shape, tensors[op.output].shape
    if isinstance(op, Convolution):
        _, rows, columns, _ = weights[op.weights].shape
        return Shape(source, target, (rows, columns), op.stride)
    if isinstance(op, Pool):
        return Shape(source, target, op.size, op.stride)
    return Shape(source, target, stride=getattr(op, "stride", 1))


def run_rates(card: Mapping[str, Any], units: Sequence[Unit]) -> list[int]:
    """How often each unit runs, per million images; at least RAREST, at most a million.

    From the card's `open_rates`, of the images that reach a gate, and `exits`, shares of all
    images. What a card does not say is taken to run always. What was never seen to run may run on
    other images: weighed by 0, it would get a kernel ten times as slow to save a few hundred bytes,
    and the image that does run it would wait for that.
    """

    def share(value: object) -> float | None:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if number and 0 <= value <= 1 else None  # type: ignore[operator,arg-type]

    opened = card.get("open_rates")
    exits = card.get("exits")
    open_rates = {
        block: share(rates.get("all"))
        for block, rates in (opened.items() if isinstance(opened, dict) else ())
        if isinstance(rates, dict)
    }
    left = {
        item.get("block"): share(item.get("left"))
        for item in (exits if isinstance(exits, list) else ())
        if isinstance(item, dict)
    }
    going, found = 1.0, []
    for unit in units:
        rate = going
        if unit.condition is not None and unit.block is not None:
            known = open_rates.get(unit.block)
            rate *= 1.0 if known is None else known
        found.append(min(MILLION, max(RAREST, round(rate * MILLION))))
        if unit.role == "exit":
            going -= left.get(unit.block) or 0.0
    return found


@dataclass(frozen=True)
class _Step:
    """An op: its place in the order, how often it runs, and the kernels that can compute it."""

    number: int
    rate: int
    candidates: tuple[Candidate, ...]

    def allowed(self, arena: int) -> list[Candidate]:
        """The kernels that fit an arena of this size."""
        return [each for each in self.candidates if not each.refused and each.peak <= arena]


class Chooser:
    """All that one network's choice depends on but the limits."""

    def __init__(
        self,
        units: Sequence[Unit],
        tensors: Mapping[str, Tensor],
        weights: Weights,
        target: Target,
        kernels: str,
        layout: Layout,
        rates: Sequence[int],
        owned: int,
    ) -> None:
        """Collect the kernels of every op.

        Args:
            units: with the reference kernel for every op.
            kernels: one of CHOICES.
            layout: of all tensors in the arena; a step is an op, decisions included.
            rates: how often each unit runs, per million images.
            owned: bytes of input and output, which lie outside the arena.

        Raises:
            CgateError: `dsp` for a core without DSP; the target has no cost table.
        """
        if kernels == "dsp" and not target.has_dsp:
            raise CgateError(
                f"{target.name} is a {target.core}, which has no DSP instructions",
                "leave --kernels away, or choose a target such as cortex-m4",
            )
        self.units, self.tensors, self.weights = units, tensors, weights
        self.target, self.kernels, self.layout = target, kernels, layout
        self.rates, self.owned = tuple(rates), owned
        self.table: CostTable = cost_table(target)
        self.code = {**code_table(target.core), **CMSIS_NN_CODE}
        # By name and size: functions of two files may have the same name.
        self.parts = {
            f"{name}:{size}": -(-size // 4) * 4
            for symbols in self.code.values()
            for name, size in symbols.items()
        }
        self.steps: dict[tuple[int, int], _Step] = {}
        number = 0
        for unit, rate in zip(units, rates, strict=True):
            for place, op in enumerate(unit.ops):
                if not isinstance(op, Decision):
                    found = tuple(self._candidates(op, number))
                    self.steps[unit.index, place] = _Step(number, rate, found)
                number += 1

    def _candidates(self, op: KernelOp, step: int) -> list[Candidate]:
        """The reference kernel, then all others for this kind of op; or the library's alone."""
        shape = shape_of(op, self.tensors, self.weights)
        plain = reference(op.kernel)
        found = []

        def add(kernel: str, why: str, flash: int = 0, scratch: int | None = None) -> None:
            cost = self.table.cost(kernel, shape)
            # There must be one kernel for every op, measured or not.
            known = (cost is not None and kernel in self.code) or kernel in NEEDS_CMSIS_NN
            refused = not known and kernel != plain
            end = self.layout.size
            if scratch is not None:
                end = max(end, self.layout.free(step, scratch) + scratch)
            why = "it was never measured on this core" if refused else why
            found.append(Candidate(kernel, why, refused, cost or UNKNOWN, flash, scratch, end))

        dsp = self.kernels != "ref" and self.target.has_dsp
        if self.kernels == CMSIS_NN and type(op) in CMSIS_NN_KERNELS:
            theirs, size = CMSIS_NN_KERNELS[type(op)], 0
            scratch: int | None = None
            if isinstance(op, Convolution):
                layer = conv_layer(op, self.tensors, self.weights)
                size = layer.plain_size
                depthwise = isinstance(op, DepthwiseConv2d)
                scratch = cmsis_nn_scratch(shape.taps, shape.output[2], depthwise)
            add(theirs, "Arm's library, as asked for", size, scratch)
            return found
        if not isinstance(op, Convolution):
            table = self.weights[op.table].nbytes if isinstance(op, Softmax) else 0
            add(plain, "portable", table)
            if dsp and type(op) in DSP_KERNELS:
                add(*DSP_KERNELS[type(op)], scratch=DSP_SCRATCH.get(type(op)))
            return found
        layer = conv_layer(op, self.tensors, self.weights)
        add(plain, "portable", layer.plain_size)
        if dsp and type(op) in DSP_KERNELS:
            add(*DSP_KERNELS[type(op)], layer.plain_size)
        if dsp and type(op) in MVE_KERNELS and "mve" in core_features(self.target.core):
            add(*MVE_KERNELS[type(op)], layer.plain_size)
        packed = CONV_KERNELS.values() if dsp and isinstance(op, Conv2d) else ()
        for kernel in packed:
            if kernel.needs not in core_features(self.target.core):
                continue
            refusal = kernel.refuses(layer)
            if refusal is None:
                add(kernel.name, kernel.why, kernel.pack(layer).nbytes, kernel.scratch(layer))
            else:
                found.append(Candidate(kernel.name, refusal, True, UNKNOWN, 0, None, 0))
        return found

    def _groups(self, steps: Sequence[_Step], arena: int) -> list[list[Option]]:
        return [
            [
                Option(step.rate * each.cost.value, each.flash, self._code_of(each.kernel))
                for each in step.allowed(arena)
            ]
            for step in steps
        ]

    def _code_of(self, kernel: str) -> frozenset[str]:
        """The parts of the program that it needs."""
        return frozenset(f"{name}:{size}" for name, size in self.code.get(kernel, {}).items())

    def flash_of(self, chosen: Collection[Candidate]) -> int:
        """Bytes of the program with these kernels, at most."""
        used = frozenset[str]().union(*(self._code_of(each.kernel) for each in chosen))
        constants = sum(each.flash for each in chosen)
        return self._flash_besides + constants + sum(self.parts[name] for name in used)

    @property
    def least_ram(self) -> int:
        """Bytes of RAM below which no choice fits."""
        peaks = [min(each.peak for each in step.allowed(1 << 62)) for step in self.steps.values()]
        return max(peaks, default=0) + self._ram_besides

    def least_flash(self, ram: int) -> int:
        """Bytes of flash below which no choice fits that fits this RAM."""
        steps = list(self.steps.values())
        return self._flash_besides + smallest(
            self._groups(steps, ram - self._ram_besides), self.parts
        )

    @property
    def _flash_besides(self) -> int:
        return program_flash(self.units)

    @property
    def _ram_besides(self) -> int:
        return program_ram(self.units, self.owned)

    def choose(self, limits: Limits) -> tuple[list[Unit], Choice, int]:
        """The units with their kernels and scratch memory, what that costs, and the arena's size.

        Raises:
            CgateError: nothing fits the limits (exit code 1).
        """
        if self.least_ram > limits.ram or self.least_flash(limits.ram) > limits.flash:
            raise self._too_small(limits)
        arena = limits.ram - self._ram_besides
        steps = list(self.steps.values())
        groups = self._groups(steps, arena)
        picks = solve(groups, self.parts, limits.flash - self._flash_besides)
        assert picks is not None  # the smallest fits
        chosen = {
            key: step.allowed(arena)[pick]
            for (key, step), pick in zip(self.steps.items(), picks, strict=True)
        }
        units = [
            replace(
                unit,
                ops=tuple(
                    self._with(op, self.steps[key], chosen[key], arena)
                    if (key := (unit.index, place)) in chosen and not isinstance(op, Decision)
                    else op
                    for place, op in enumerate(unit.ops)
                ),
            )
            for unit in self.units
        ]
        peak = max([self.layout.size, *(each.peak for each in chosen.values())])
        costs = [(step.rate, chosen[key].cost) for key, step in self.steps.items()]
        choice = Choice(
            kernels=self.kernels,
            unit=self.table.unit,
            flash_limit=limits.flash,
            ram_limit=limits.ram,
            flash=self.flash_of(chosen.values()),
            ram=peak + self._ram_besides,
            expected=sum(rate * cost.value for rate, cost in costs) // MILLION,
            worst=sum(cost.value for _, cost in costs),
            extrapolated=sum(cost.value for _, cost in costs if cost.how == "extrapolated"),
            unmeasured=sum(cost is UNKNOWN for _, cost in costs),
            rates=self.rates,
        )
        return units, choice, peak

    def _with(self, op: KernelOp, step: _Step, chosen: Candidate, arena: int) -> Op:
        """The op with the chosen kernel and why nothing cheaper was taken."""
        why = [chosen.why]
        for each in step.candidates:
            if each.refused and each.kernel != chosen.kernel:
                why.append(f"{each.variant}: {each.why}")
            elif each.cost.value < chosen.cost.value:
                short = "RAM" if each.peak > arena else "flash"
                why.append(f"{each.variant}: no {short} left")
        changes: dict[str, Any] = {
            "kernel": chosen.kernel, "why": "; ".join(why), "cost": chosen.cost.value
        }  # fmt: skip
        if isinstance(op, Scratched):
            size = chosen.scratch
            place = None if size is None else (self.layout.free(step.number, size), size)
            changes["scratch"] = place
        return replace(op, **changes)

    def _too_small(self, limits: Limits) -> CgateError:
        """The error for limits that nothing fits: the least that would do, and where."""
        ram = self.least_ram
        flash = self.least_flash(max(ram, limits.ram))
        what = [
            f"about {size_text(need)} of {name} at least, there is {size_text(limit)}"
            for name, need, limit in (("flash", flash, limits.flash), ("RAM", ram, limits.ram))
            if need > limit
        ]
        fitting = [
            each.name for each in all_targets() if each.flash.size >= flash and each.ram.size >= ram
        ]
        given = self.target.flash.size >= flash and self.target.ram.size >= ram
        if given:
            hint = f"--flash {flash} --ram {max(ram, limits.ram)} would do"
        elif fitting:
            hint = f"it would fit {', '.join(fitting)}"
        else:
            hint = "no known target is large enough: train a narrower network"
        return CgateError(
            f"it does not fit {self.target.name}: it needs {' and '.join(what)}",
            hint,
            EXIT_CHECK_FAILED,
        )
