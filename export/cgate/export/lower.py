"""Checkpoint -> plan: units, tensors, scales, integers, places in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from cgate.core.checkpoint import Checkpoint
from cgate.core.network import Block, Conv, conv_macs, conv_output, network_macs
from cgate.core.plan import (
    ROUNDING,
    Conv2d,
    Mean,
    Op,
    Plan,
    ResidualAdd,
    ShortcutPad,
    Tensor,
    Threshold,
    Unit,
    Weights,
)
from cgate.core.targets import Target
from cgate.export.fixedpoint import mean_multiplier, quantize_multiplier
from cgate.export.fold import FloatConv, fold
from cgate.export.kernels import choose, without_largest_scratch
from cgate.export.memory import STACK_ALLOWANCE, Buffer, place
from cgate.export.quantize import (
    RangeTable,
    Scale,
    as_float32,
    gate_threshold,
    quantize_conv,
    relu_scale,
    signed_scale,
    stream_scale,
)

LOGIT_SCALE = Scale(1 / 32, 0)  # gate logits of -4 .. 4: sigmoid from 0.018 to 0.982

INPUT, STEM, POOLED, LOGITS = "input", "stem", "head.mean", "head.logits"


@dataclass(frozen=True)
class _Stage:
    """The blocks that share one stream: its scale, and the names of its tensors in order."""

    scale: Scale
    blocks: tuple[Block, ...]


def _stages(blocks: tuple[Block, ...], ranges: RangeTable) -> list[_Stage]:
    """Split blocks where the stream changes and give each stream its scale (SPEC.md 5.6)."""
    groups: list[tuple[list[str], list[Block]]] = [([STEM], [])]
    for block in blocks:
        if block.shortcut != "identity":
            groups.append(([f"{block.name}.shortcut"], []))
        groups[-1][0].append(f"{block.name}.out")
        groups[-1][1].append(block)
    stages = []
    for names, members in groups:
        highs = [ranges(name)[1] for name in names]
        bodies = [ranges(f"{block.name}.conv{len(block.body)}") for block in members]
        stages.append(_Stage(stream_scale(highs, bodies), tuple(members)))
    return stages


class _Lowering:
    """Collects tensors, units and weights while walking the network once."""

    def __init__(self, layers: dict[str, FloatConv], ranges: RangeTable, threshold: float) -> None:
        self.layers = layers
        self.ranges = ranges
        self.threshold = threshold
        self.tensors: dict[str, Tensor] = {}
        self.units: list[Unit] = []
        self.weights: dict[str, NDArray[Any]] = {}
        # Tensor -> the tensor whose memory it takes over (a stream is written in place).
        self.same_memory: dict[str, str] = {}

    def tensor(self, name: str, shape: tuple[int, int, int], scale: Scale) -> str:
        self.tensors[name] = Tensor(name, shape, scale.scale, scale.zero_point, None)
        return name

    def scale(self, name: str) -> Scale:
        return Scale(self.tensors[name].scale, self.tensors[name].zero_point)

    def unit(
        self,
        name: str,
        role: str,
        inputs: tuple[str, ...],
        ops: list[Op],
        *,
        block: str | None = None,
        condition: str | None = None,
    ) -> str:
        last = ops[-1]
        output = last.input if isinstance(last, Threshold) else last.output
        macs = sum(op.macs for op in ops if isinstance(op, Conv2d | Mean))
        index = len(self.units)
        self.units.append(
            Unit(index, name, role, block, condition, inputs, output, macs, tuple(ops))
        )
        return output

    def conv(self, layer: str, source: str, output: str, conv: Conv, scale: Scale) -> Conv2d:
        """The op for float layer `layer`; declares `output` at `scale`."""
        height, width, _ = self.tensors[source].shape
        shape = (conv_output(height, conv), conv_output(width, conv), conv.out_channels)
        self.tensor(output, shape, scale)
        integers = quantize_conv(self.layers[layer], self.scale(source), scale, layer)
        for what in ("weights", "scale", "bias", "multiplier", "shift"):
            self.weights[f"{layer}.{what}"] = getattr(integers, what)
        pad = conv.kernel // 2
        return Conv2d(
            input=source,
            output=output,
            weights=f"{layer}.weights",
            scale=f"{layer}.scale",
            bias=f"{layer}.bias",
            multiplier=f"{layer}.multiplier",
            shift=f"{layer}.shift",
            stride=conv.stride,
            padding=(pad, pad, pad, pad),
            clamp=(scale.zero_point if conv.relu else -128, 127),
            macs=conv_macs(conv, shape[0], shape[1]),
            kernel="conv2d_s8__ref",
            why="portable",
        )

    def mean(self, source: str, output: str) -> Mean:
        height, width, channels = self.tensors[source].shape
        scale = relu_scale(self.ranges(output)[1])
        self.tensor(output, (1, 1, channels), scale)
        factor = self.scale(source).scale / scale.scale
        multiplier, shift = mean_multiplier(factor, height * width)
        macs = height * width * channels
        return Mean(source, output, multiplier, shift, macs, "mean_s8__ref", "portable")

    def gate(self, block: Block, stream: str) -> str:
        """Add the gate unit of `block`, which sees only the stream; returns the unit's name."""
        assert block.gate is not None
        name, channels = f"{block.name}.gate", self.tensors[stream].shape[2]
        hidden = block.gate.hidden
        mean = self.mean(stream, f"{name}.mean")
        fc1 = self.conv(
            f"{name}.fc1",
            mean.output,
            f"{name}.hidden",
            Conv(channels, hidden, 1, 1, True),
            relu_scale(self.ranges(f"{name}.hidden")[1]),
        )
        fc2 = self.conv(
            f"{name}.fc2", fc1.output, f"{name}.logit", Conv(hidden, 1, 1, 1, False), LOGIT_SCALE
        )
        cut = Threshold(fc2.output, gate_threshold(self.threshold, LOGIT_SCALE))
        self.unit(name, "gate", (stream,), [mean, fc1, fc2, cut], block=block.name)
        return name

    def shortcut(self, block: Block, stream: str, scale: Scale) -> str:
        """Add the unit that starts the next stage's stream from the one before."""
        height, width, channels = self.tensors[stream].shape
        stride, outputs = block.stride, block.body[-1].out_channels
        shape = (-(-height // stride), -(-width // stride), outputs)
        output = self.tensor(f"{block.name}.shortcut", shape, scale)
        multiplier, shift = quantize_multiplier(self.scale(stream).scale / scale.scale)
        before = (outputs - channels) // 2
        op = ShortcutPad(
            stream,
            output,
            stride,
            before,
            multiplier,
            shift,
            "shortcut_pad_s8__ref",
            "portable",
        )
        return self.unit(output, "shortcut", (stream,), [op], block=block.name)

    def block(self, block: Block, source: str, scale: Scale) -> str:
        """Add a block's units; `scale` is its stage's. Returns the stream after the block."""
        condition = self.gate(block, source) if block.gate is not None else None
        stream = source
        if block.shortcut != "identity":
            stream = self.shortcut(block, source, scale)
        ops: list[Op] = []
        value = source
        for i, conv in enumerate(block.body, 1):
            name = f"{block.name}.conv{i}"
            if i < len(block.body):
                low, high = self.ranges(name)
                target = relu_scale(high) if conv.relu else signed_scale(low, high)
            else:
                target = Scale(scale.scale, 0)
            ops.append(self.conv(name, value, name, conv, target))
            value = name
        output = self.tensor(f"{block.name}.out", self.tensors[stream].shape, scale)
        self.same_memory[output] = stream
        ops.append(ResidualAdd(value, stream, output, "residual_add_s8__ref", "portable"))
        inputs = (source,) if stream == source else (source, stream)
        name = f"{block.name}.body"
        return self.unit(name, "body", inputs, ops, block=block.name, condition=condition)

    def head(self, stream: str, classes: int) -> None:
        mean = self.mean(stream, POOLED)
        channels = self.tensors[stream].shape[2]
        scale = signed_scale(*self.ranges(LOGITS))
        linear = self.conv("head", POOLED, LOGITS, Conv(channels, classes, 1, 1, False), scale)
        self.unit("head", "head", (stream,), [mean, linear])


def _buffers(lowering: _Lowering) -> tuple[list[Buffer], dict[str, str]]:
    """Arena buffers with their lifetimes in ops, and the buffer each tensor lives in."""
    home: dict[str, str] = {}

    def buffer_of(name: str) -> str:
        while name in lowering.same_memory:
            name = lowering.same_memory[name]
        return name

    first: dict[str, int] = {}
    last: dict[str, int] = {}
    scratch: list[Buffer] = []
    step = 0
    for unit in lowering.units:
        for op in unit.ops:
            names = [op.input]
            if not isinstance(op, Threshold):
                names.append(op.output)
            if isinstance(op, ResidualAdd):
                names.append(op.stream)
            for name in names:
                if name in (INPUT, LOGITS):
                    continue
                home[name] = buffer_of(name)
                first.setdefault(home[name], step)
                last[home[name]] = step
            if isinstance(op, Conv2d) and op.scratch is not None:
                scratch.append(Buffer(_scratch(op), op.scratch[1], step, step))
            step += 1
    buffers = [
        Buffer(name, lowering.tensors[name].size, first[name], last[name]) for name in sorted(first)
    ]
    return [*buffers, *scratch], home


def _scratch(op: Conv2d) -> str:
    """The name of an op's scratch buffer; no tensor has such a name."""
    return f"{op.output}.scratch"


def _place_scratch(unit: Unit, offsets: dict[str, int]) -> Unit:
    ops = [
        replace(op, scratch=(offsets[_scratch(op)], op.scratch[1]))
        if isinstance(op, Conv2d) and op.scratch is not None
        else op
        for op in unit.ops
    ]
    return replace(unit, ops=tuple(ops))


def lower(
    checkpoint: Checkpoint,
    target: Target,
    *,
    name: str = "model",
    threshold: float = 0.45,
    ranges: str = "minmax",
    kernels: str = "auto",
) -> tuple[Plan, Weights]:
    """Make the plan of a checkpoint for a target.

    Args:
        name: C identifier that prefixes the generated code.
        threshold: a gate is open where sigmoid(logit) exceeds it.
        ranges: one of quantize.RANGE_CHOICES.
        kernels: one of kernels.CHOICES.

    Returns:
        The plan and its int8 and int32 arrays by name.

    Raises:
        CgateError: a range is missing or a layer cannot be quantised.
    """
    network = checkpoint.network
    table = RangeTable(checkpoint.ranges, ranges, str(checkpoint.folder / "ranges.json"))
    lowering = _Lowering(fold(checkpoint), table, threshold)
    pixels = Scale(as_float32(1 / network.input_divisor), network.input_zero - 128)
    lowering.tensor(INPUT, network.input_shape, pixels)
    stages = _stages(network.blocks, table)
    stem = lowering.conv("stem", INPUT, STEM, network.stem, stages[0].scale)
    stream = lowering.unit("stem", "stem", (INPUT,), [stem])
    for stage in stages:
        for block in stage.blocks:
            stream = lowering.block(block, stream, stage.scale)
    lowering.head(stream, network.classes)
    lowering.units = choose(lowering.units, lowering.tensors, lowering.weights, target, kernels)
    buffers, home = _buffers(lowering)
    offsets, arena = place(buffers)
    ends = lowering.tensors[INPUT].size + lowering.tensors[LOGITS].size
    while arena + ends + STACK_ALLOWANCE > target.ram.size:
        fewer = without_largest_scratch(lowering.units, lowering.tensors, lowering.weights)
        if fewer is None:
            break
        lowering.units = fewer
        buffers, home = _buffers(lowering)
        offsets, arena = place(buffers)
    tensors = tuple(
        replace(tensor, offset=offsets[home[tensor.name]] if tensor.name in home else None)
        for tensor in lowering.tensors.values()
    )
    names = checkpoint.card.get("data", {}).get("classes", [])
    classes = [str(each) for each in names] if len(names) == network.classes else []
    plan = Plan(
        name,
        target.name,
        checkpoint.source_sha256,
        ROUNDING,
        threshold,
        INPUT,
        LOGITS,
        network_macs(network).dense,
        arena,
        tuple(classes or (str(i) for i in range(network.classes))),
        network,
        tensors,
        tuple(_place_scratch(unit, offsets) for unit in lowering.units),
    )
    return plan, lowering.weights
