"""Checkpoint -> plan: units, tensors, scales, integers, places in memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cgate.core.checkpoint import RANGES, Checkpoint
from cgate.core.errors import CgateError
from cgate.core.gates import GATE_KINDS
from cgate.core.network import (
    THRESHOLD,
    Block,
    Conv,
    Exit,
    Network,
    conv_macs,
    conv_output,
    network_macs,
)
from cgate.core.plan import (
    Conv2d,
    Margin,
    Mean,
    MeanMax,
    Op,
    Plan,
    ResidualAdd,
    ShortcutPad,
    Threshold,
    Weights,
)
from cgate.core.targets import Target
from cgate.export.assemble import Draft, assemble
from cgate.export.fixedpoint import mean_multiplier, quantize_multiplier
from cgate.export.fold import FloatConv, fold
from cgate.export.quantize import (
    DEFAULT_RANGES,
    RangeTable,
    Scale,
    as_float32,
    exit_margin,
    gate_threshold,
    quantize_conv,
    relu_scale,
    signed_scale,
)

LOGIT_SCALE = Scale(1 / 32, 0)  # gate logits of -4 .. 4: sigmoid from 0.018 to 0.982

INPUT, STEM, POOLED, LOGITS = "input", "stem", "head.mean", "head.logits"


def _check_supported(network: Network) -> None:
    """Refuse what has no integer form yet.

    Raises:
        CgateError: names the first block that cannot be lowered, and why.
    """
    hint = "exportable are ungrouped convolutions, shortcuts identity and pad, ReLU after the sum"
    convs = {"stem": (network.stem,), **{block.name: block.body for block in network.blocks}}
    for name, body in convs.items():
        if any(conv.groups != 1 for conv in body):
            raise CgateError(f"{name} cannot be exported: it has a grouped convolution", hint)
    for block in network.gated:
        assert block.gate is not None
        refusal = GATE_KINDS[block.gate.kind].refusal
        if refusal:
            exportable = [name for name, kind in GATE_KINDS.items() if not kind.refusal]
            raise CgateError(
                f"{block.name} cannot be exported: its gate is {block.gate.kind!r}, and {refusal}",
                f"train with --gate {' or '.join(exportable)}",
            )
    for block in network.blocks:
        if block.shortcut not in ("identity", "pad"):
            raise CgateError(
                f"{block.name} cannot be exported: its shortcut is {block.shortcut!r}", hint
            )
        if not block.relu:
            raise CgateError(f"{block.name} cannot be exported: no ReLU follows its addition", hint)


def _settled(checkpoint: Checkpoint, threshold: float) -> dict[str, bool]:
    """Whether the body runs, of the blocks whose gate is a constant."""
    cut = math.log(threshold / (1 - threshold))
    return {
        block.name: bool(checkpoint.weights[f"blocks.{block.name}.gate.bias"][0] > cut)
        for block in checkpoint.network.gated
        if block.gate is not None and block.gate.kind == "static"
    }


@dataclass(frozen=True)
class _Stage:
    """The blocks that share one stream: its scale, and the names of its tensors in order."""

    scale: Scale
    blocks: tuple[Block, ...]


def _stages(
    blocks: tuple[Block, ...], ranges: RangeTable, settled: Mapping[str, bool]
) -> list[_Stage]:
    """Split blocks where the stream changes and give each stream its scale (SPEC.md 5.6)."""
    groups: list[tuple[list[str], list[Block]]] = [([STEM], [])]
    for block in blocks:
        if block.shortcut != "identity":
            groups.append(([f"{block.name}.shortcut"], []))
        groups[-1][0].append(f"{block.name}.out")
        groups[-1][1].append(block)
    stages = []
    for names, members in groups:
        bodies = [
            f"{block.name}.conv{len(block.body)}"
            for block in members
            if settled.get(block.name, True)
        ]
        stages.append(_Stage(ranges.stream(names, bodies), tuple(members)))
    return stages


class _Lowering(Draft):
    """Collects tensors, units and weights while walking the network once."""

    def __init__(
        self,
        layers: dict[str, FloatConv],
        ranges: RangeTable,
        threshold: float,
        settled: Mapping[str, bool],
    ) -> None:
        super().__init__()
        self.layers = layers
        self.ranges = ranges
        self.threshold = threshold
        self.settled = settled

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
        if block.gate.kind == "anchor":
            self.unit(name, "gate", (stream,), self.nearest_anchor(name, stream), block=block.name)
            return name
        seen: Mean | MeanMax
        if block.gate.kind == "cir-predicted":
            seen = self.mean_max(stream, name)
            channels, hidden = 2 * channels, 2 * hidden
        else:
            seen = self.mean(stream, f"{name}.mean")
        fc1 = self.conv(
            f"{name}.fc1",
            seen.output,
            f"{name}.hidden",
            Conv(channels, hidden, 1, 1, True),
            relu_scale(self.ranges(f"{name}.hidden")[1]),
        )
        fc2 = self.conv(
            f"{name}.fc2", fc1.output, f"{name}.logit", Conv(hidden, 1, 1, 1, False), LOGIT_SCALE
        )
        cut = Threshold(fc2.output, gate_threshold(self.threshold, LOGIT_SCALE))
        self.unit(name, "gate", (stream,), [seen, fc1, fc2, cut], block=block.name)
        return name

    def mean_max(self, source: str, gate: str) -> MeanMax:
        """The statistics of a gate, whose first layer is changed to take a magnified mean."""
        height, width, channels = self.tensors[source].shape
        scale = self.scale(source)
        output = self.tensor(f"{gate}.statistics", (1, 1, 2 * channels), scale)
        mean_scale = relu_scale(self.ranges(f"{gate}.mean")[1]).scale
        factor = scale.scale / mean_scale
        multiplier, shift = mean_multiplier(factor, height * width)
        layer = self.layers[f"{gate}.fc1"]
        magnified = np.repeat([factor, 1.0], channels)
        self.layers[f"{gate}.fc1"] = FloatConv(layer.weights / magnified, layer.bias)
        macs = 2 * height * width * channels
        return MeanMax(
            source, output, mean_scale, multiplier, shift, macs, "mean_max_s8__ref", "portable"
        )

    def nearest_anchor(self, gate: str, stream: str) -> list[Op]:
        """The ops of an anchor gate: the sign of an inner product with the mean."""
        if self.threshold != THRESHOLD:
            raise CgateError(
                f"{gate} is an anchor gate, which has no threshold to move: it is open where the "
                "open anchor is the nearest",
                f"--threshold {THRESHOLD}",
            )
        mean = self.mean(stream, f"{gate}.mean")
        channels = self.tensors[mean.output].shape[2]
        # Only the sign counts, so the weights may be in any unit: in this one the logit is the
        # accumulator, saturated, and its sign that of the exact sum. (TFLite's GREATER, which
        # rescales both sides, is exact at this scale and would not be at the accumulator's own.)
        layer = self.layers[f"{gate}.side"]
        largest = max(float(np.abs(layer.weights).max()), 1e-6)
        unit = 127 * LOGIT_SCALE.scale / (self.scale(mean.output).scale * largest)
        self.layers[f"{gate}.side"] = FloatConv(layer.weights * unit, layer.bias)
        side = self.conv(
            f"{gate}.side",
            mean.output,
            f"{gate}.logit",
            Conv(channels, 1, 1, 1, False),
            LOGIT_SCALE,
        )
        return [mean, side, Threshold(side.output, 0)]

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
        gated = block.gate is not None and block.name not in self.settled
        condition = self.gate(block, source) if gated else None
        stream = source
        if block.shortcut != "identity":
            stream = self.shortcut(block, source, scale)
        if not self.settled.get(block.name, True):
            return stream
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

    def logits(self, layer: str, stream: str, pooled: str, output: str, scale: Scale) -> list[Op]:
        """The ops of the head or of an exit: mean over the map and the linear layer `layer`."""
        mean = self.mean(stream, pooled)
        classes, *_, channels = self.layers[layer].weights.shape
        return [mean, self.conv(layer, pooled, output, Conv(channels, classes, 1, 1, False), scale)]

    def exit(self, exit_: Exit, stream: str, scale: Scale) -> None:
        """Add the unit of an exit, whose logits take the place of the network's output."""
        name = f"{exit_.block}.exit"
        output = f"{name}.logits"
        ops = self.logits(name, stream, f"{name}.mean", output, scale)
        cut = Margin(output, exit_margin(exit_.margin, scale))
        self.unit(name, "exit", (stream,), [*ops, cut], block=exit_.block)

    def head(self, stream: str, scale: Scale) -> None:
        self.unit("head", "head", (stream,), self.logits("head", stream, POOLED, LOGITS, scale))


def lower(
    checkpoint: Checkpoint,
    target: Target,
    *,
    name: str = "model",
    threshold: float = 0.45,
    ranges: str = DEFAULT_RANGES,
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
        CgateError: a range is missing, or a block cannot be lowered or quantised.
    """
    network = checkpoint.network
    _check_supported(network)
    table = RangeTable(
        checkpoint.ranges, checkpoint.histograms, ranges, str(checkpoint.folder / RANGES)
    )
    gate_threshold(threshold, LOGIT_SCALE)  # refused here, also where no gate is left
    settled = _settled(checkpoint, threshold)
    lowering = _Lowering(fold(checkpoint), table, threshold, settled)
    pixels = Scale(as_float32(1 / network.input_divisor), network.input_zero - 128)
    lowering.tensor(INPUT, network.input_shape, pixels)
    stages = _stages(network.blocks, table, settled)
    stem = lowering.conv("stem", INPUT, STEM, network.stem, stages[0].scale)
    stream = lowering.unit("stem", "stem", (INPUT,), [stem])
    exits = {each.block: each for each in network.exits}
    # One scale for all answers: the output means the same whoever gave it. Nothing is clipped:
    # two classes at the same limit would be a tie.
    ends = [table.widest(name) for name in (*(f"{b}.exit.logits" for b in exits), LOGITS)]
    answers = signed_scale(min(low for low, _ in ends), max(high for _, high in ends))
    for stage in stages:
        for block in stage.blocks:
            stream = lowering.block(block, stream, stage.scale)
            if block.name in exits:
                lowering.exit(exits[block.name], stream, answers)
    lowering.head(stream, answers)
    names = checkpoint.card.get("data", {}).get("classes", [])
    classes = [str(each) for each in names] if len(names) == network.classes else []
    plan = assemble(
        lowering,
        target,
        kernels,
        name=name,
        source_sha256=checkpoint.source_sha256,
        threshold=threshold,
        classes=classes or [str(i) for i in range(network.classes)],
        network=network,
        dense_macs=network_macs(network).dense,
    )
    return plan, lowering.weights
