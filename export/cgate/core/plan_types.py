"""What a plan is made of: tensors, ops, units, and the plan itself (SPEC.md, section 6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cgate.core.imported import ImportedNetwork
from cgate.core.network import Network


@dataclass(frozen=True)
class Tensor:
    """An int8 activation: real value = scale * (q - zero_point).

    Args:
        shape: height, width, channels.
        scale: a float32 value.
        offset: first byte in the arena; None for the network's input and output, which the caller
            owns. Tensors with the same offset and overlapping lifetimes are the same memory (a
            stream).
    """

    name: str
    shape: tuple[int, int, int]
    scale: float
    zero_point: int
    offset: int | None

    @property
    def size(self) -> int:
        """Bytes."""
        return self.shape[0] * self.shape[1] * self.shape[2]


@dataclass(frozen=True)
class Convolution:
    """What both kinds of convolution have. `weights` .. `shift` are names in weights.npz.

    `scale` is the weights' float32 scale per output channel: formats that carry scales (TFLite)
    need it, the arithmetic does not. `scratch` is the place in the arena and the size, in bytes, of
    what the kernel needs besides. `cost`, here and below, is of one run of `kernel`, estimated, in
    the unit of the plan's choice.
    """

    op: ClassVar[str]
    input: str
    output: str
    weights: str
    scale: str
    bias: str
    multiplier: str
    shift: str
    stride: int
    padding: tuple[int, int, int, int]
    clamp: tuple[int, int]
    macs: int
    kernel: str
    why: str
    scratch: tuple[int, int] | None = None
    cost: int = 0


@dataclass(frozen=True)
class Conv2d(Convolution):
    """SPEC 5.2: weights (out, kh, kw, in)."""

    op: ClassVar[str] = "conv2d"


@dataclass(frozen=True)
class FullyConnected(Conv2d):
    """SPEC 5.13: a convolution whose factor TFLite rounds otherwise; all weights have one scale."""

    op: ClassVar[str] = "fully_connected"


@dataclass(frozen=True)
class DepthwiseConv2d(Convolution):
    """SPEC 5.8: weights (1, kh, kw, out); output channel o sees input channel o // (out / in)."""

    op: ClassVar[str] = "depthwise_conv2d"


@dataclass(frozen=True)
class Pool:
    """What both kinds of pooling have (SPEC 5.9); input and output share scale and zero point.

    Args:
        size: height and width of the window.
        padding: top, left, bottom, right; it holds no values: a window ends where the map ends.
        macs: one per element of a window.
    """

    op: ClassVar[str]
    input: str
    output: str
    size: tuple[int, int]
    stride: int
    padding: tuple[int, int, int, int]
    clamp: tuple[int, int]
    macs: int
    kernel: str
    why: str
    cost: int = 0


@dataclass(frozen=True)
class MaxPool2d(Pool):
    """SPEC 5.9: the largest of each window."""

    op: ClassVar[str] = "max_pool2d"


@dataclass(frozen=True)
class AvgPool2d(Pool):
    """SPEC 5.9: the rounded mean of each window."""

    op: ClassVar[str] = "avg_pool2d"


@dataclass(frozen=True)
class Mean:
    """SPEC 5.3."""

    op: ClassVar[str] = "mean"
    input: str
    output: str
    multiplier: int
    shift: int
    macs: int
    kernel: str
    why: str
    cost: int = 0


@dataclass(frozen=True)
class MeanMax:
    """SPEC 5.7: two statistics of each channel side by side, the mean at a scale of its own.

    `mean_scale` is that scale, a float32 value: formats that carry scales (TFLite) need it.
    """

    op: ClassVar[str] = "mean_max"
    input: str
    output: str
    mean_scale: float
    multiplier: int
    shift: int
    macs: int
    kernel: str
    why: str
    cost: int = 0


@dataclass(frozen=True)
class ShortcutPad:
    """SPEC 5.5."""

    op: ClassVar[str] = "shortcut_pad"
    input: str
    output: str
    stride: int
    channels_before: int
    multiplier: int
    shift: int
    kernel: str
    why: str
    cost: int = 0


@dataclass(frozen=True)
class ResidualAdd:
    """SPEC 5.4: `output` is `stream` after `input` (F) has been added, in the same memory."""

    op: ClassVar[str] = "residual_add"
    input: str
    stream: str
    output: str
    kernel: str
    why: str
    cost: int = 0


@dataclass(frozen=True)
class Add:
    """SPEC 5.10: `output` is `stream` + `input`, each at its own scale, in the memory of `stream`.

    Args:
        multiplier, shift: of the input, of the stream, of the output.
        scratch: as of a convolution.
    """

    op: ClassVar[str] = "add"
    input: str
    stream: str
    output: str
    multiplier: tuple[int, int, int]
    shift: tuple[int, int, int]
    clamp: tuple[int, int]
    kernel: str
    why: str
    scratch: tuple[int, int] | None = None
    cost: int = 0


@dataclass(frozen=True)
class Softmax:
    """SPEC 5.12, over the channels. `table` is a name in weights.npz: int32 [256].

    `beta` is a float32 value: formats that carry it (TFLite) need it, the arithmetic does not.
    """

    op: ClassVar[str] = "softmax"
    input: str
    output: str
    table: str
    beta: float
    kernel: str
    why: str
    cost: int = 0


@dataclass(frozen=True)
class Threshold:
    """SPEC 4: open iff the logit `input` > `value`."""

    op: ClassVar[str] = "threshold"
    input: str
    value: int


@dataclass(frozen=True)
class Margin:
    """SPEC 4.1: go on iff the two largest of the logits `input` differ by at most `value`."""

    op: ClassVar[str] = "margin"
    input: str
    value: int


Decision = Threshold | Margin
Addition = ResidualAdd | Add
"""Ops that write over one of the two tensors that they read, their `stream`."""

Scratched = Convolution | Add
"""Ops whose kernel may need scratch memory."""

Counted = Conv2d | DepthwiseConv2d | MaxPool2d | AvgPool2d | Mean | MeanMax
KernelOp = Counted | ShortcutPad | Addition | Softmax
Op = KernelOp | Threshold | Margin
OPS: dict[str, type[Op]] = {
    kind.op: kind
    for kind in (
        *(Conv2d, FullyConnected, DepthwiseConv2d, MaxPool2d, AvgPool2d, Mean, MeanMax),
        *(ShortcutPad, ResidualAdd, Add, Softmax, Threshold, Margin),
    )
}
ROLES = ("stem", "gate", "body", "shortcut", "pool", "layer", "exit", "head")


@dataclass(frozen=True)
class Unit:
    """A piece of the network that is run or skipped as a whole.

    Args:
        index: its place in the order of execution; also its marker id.
        condition: name of the gate unit that must be open, None if the unit always runs.
        inputs: tensors of other units that it reads. The last one of a unit with a condition is
            the stream: what `output` is, in the same memory, where the unit does not run.
        output: the tensor it leaves; a gate's is its logit, an exit's are its logits.
    """

    index: int
    name: str
    role: str
    block: str | None
    condition: str | None
    inputs: tuple[str, ...]
    output: str
    macs: int
    ops: tuple[Op, ...]

    @property
    def stream(self) -> str:
        """What stands in the place of `output` where the unit's gate is shut."""
        return self.inputs[-1]

    @property
    def threshold(self) -> int:
        """The integer a gate compares its logit with, or an exit its margin."""
        for op in self.ops:
            if isinstance(op, Decision):
                return op.value
        raise ValueError(f"{self.name} is no gate")


@dataclass(frozen=True)
class Choice:
    """How the kernels were chosen, and what is estimated of the program that they make.

    Args:
        kernels: as asked for.
        unit: what costs count: "instructions", "cycles" or "cycles_flash" (SPEC.md 12).
        flash_limit: bytes.
        ram_limit: bytes.
        flash: bytes.
        ram: bytes.
        expected: cost of an inference, each unit weighed by how often it runs.
        worst: cost of an inference in which all units run.
        extrapolated: the part of `worst` that lies beyond the shapes that were measured.
        unmeasured: ops whose kernel was never measured; they count as 0.
        rates: how often each unit runs, per million images, in the order of the units.
    """

    kernels: str
    unit: str
    flash_limit: int
    ram_limit: int
    flash: int
    ram: int
    expected: int
    worst: int
    extrapolated: int
    unmeasured: int
    rates: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """A whole exported network; SPEC section 6 explains the fields."""

    name: str
    target: str
    source_sha256: str
    rounding: str
    threshold: float
    input: str
    output: str
    dense_macs: int
    arena_size: int
    classes: tuple[str, ...]
    network: Network | ImportedNetwork
    tensors: tuple[Tensor, ...]
    units: tuple[Unit, ...]
    choice: Choice | None = None

    def tensor(self, name: str) -> Tensor:
        """The tensor of this name."""
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        raise KeyError(name)

    @property
    def gates(self) -> tuple[Unit, ...]:
        """The units that decide, in order: gates, and exits, which are gates on all that follows.

        This is the order of decisions in traces and on the wire.
        """
        return tuple(unit for unit in self.units if unit.role in ("gate", "exit"))

    @property
    def exits(self) -> tuple[Unit, ...]:
        """The exit units, in order."""
        return tuple(unit for unit in self.units if unit.role == "exit")

    def ran(self, opened: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which units run: (images, units), for the gates' `opened` (images, gates).

        A unit runs iff no exit before it was shut and the gate it depends on, if any, was open.
        """
        place = {unit.name: i for i, unit in enumerate(self.gates)}
        ran = np.ones((len(opened), len(self.units)), bool)
        going = np.ones(len(opened), bool)
        for unit in self.units:
            ran[:, unit.index] = going
            if unit.condition is not None:
                ran[:, unit.index] &= opened[:, place[unit.condition]]
            if unit.role == "exit":
                going &= opened[:, place[unit.name]]
        return ran

    def executed_macs(self, ran: NDArray[np.bool_]) -> NDArray[np.int64]:
        """MACs per image, for `ran` (images, units)."""
        macs = np.array([unit.macs for unit in self.units], np.int64)
        product: NDArray[np.int64] = ran.astype(np.int64) @ macs
        return product


Weights = Mapping[str, NDArray[Any]]
