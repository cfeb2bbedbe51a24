"""One walk through a network: its tensors, units and integers, at the scales of its stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from cgate.core.errors import CgateError
from cgate.core.network import (
    THRESHOLD,
    Block,
    Conv,
    Exit,
    Pool,
    conv_macs,
    conv_output,
    pool_macs,
    pool_output,
)
from cgate.core.plan import (
    Add,
    AvgPool2d,
    Conv2d,
    DepthwiseConv2d,
    Margin,
    MaxPool2d,
    Mean,
    MeanMax,
    Op,
    ResidualAdd,
    ShortcutPad,
    Threshold,
)
from cgate.export.assemble import Draft
from cgate.export.fixedpoint import (
    activation_clamp,
    add_multipliers,
    mean_multiplier,
    quantize_multiplier,
)
from cgate.export.fold import FloatConv, Inputs
from cgate.export.quantize import (
    RangeTable,
    Scale,
    exit_margin,
    gate_threshold,
    mean_scale,
    quantize_conv,
    relu_scale,
    scale_at,
    signed_scale,
)
from cgate.export.stages import Form

LOGIT_SCALE = Scale(1 / 32, 0)  # gate logits of -4 .. 4: sigmoid from 0.018 to 0.982

INPUT, POOLED, LOGITS = "input", "head.mean", "head.logits"


def _activation(layer: Conv | Block) -> str:
    if layer.relu6:
        return "RELU6"
    return "RELU" if layer.relu else "NONE"


class Lowering(Draft):
    """Collects tensors, units and weights while walking the network once.

    Args:
        layers: the folded float layers, by name.
        threshold: a gate is open where sigmoid(logit) exceeds it.
        settled: whether the body runs, of the blocks whose gate is a constant.
    """

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

    def conv(
        self, layer: str, source: str, output: str, conv: Conv, scale: Scale
    ) -> Conv2d | DepthwiseConv2d:
        """The op for float layer `layer`; declares `output` at `scale`."""
        height, width, _ = self.tensors[source].shape
        shape = (conv_output(height, conv), conv_output(width, conv), conv.out_channels)
        self.tensor(output, shape, scale)
        integers = quantize_conv(self.layers[layer], self.scale(source), scale, layer)
        for what in ("weights", "scale", "bias", "multiplier", "shift"):
            self.weights[f"{layer}.{what}"] = getattr(integers, what)
        depthwise = conv.groups > 1
        if depthwise:
            self.weights[f"{layer}.weights"] = integers.weights.transpose(3, 1, 2, 0)
        kind: type[Conv2d] | type[DepthwiseConv2d] = DepthwiseConv2d if depthwise else Conv2d
        pad = conv.kernel // 2
        return kind(
            input=source,
            output=output,
            weights=f"{layer}.weights",
            scale=f"{layer}.scale",
            bias=f"{layer}.bias",
            multiplier=f"{layer}.multiplier",
            shift=f"{layer}.shift",
            stride=conv.stride,
            padding=(pad, pad, pad, pad),
            clamp=activation_clamp(_activation(conv), scale.scale, scale.zero_point),
            macs=conv_macs(conv, shape[0], shape[1]),
            kernel=f"{kind.op}_s8__ref",
            why="portable",
        )

    def pool(self, pool: Pool, name: str, stream: str, block: str | None) -> str:
        """Add the unit that pools the stream behind a block, or behind the stem."""
        height, width, channels = self.tensors[stream].shape
        shape = (pool_output(height, pool), pool_output(width, pool), channels)
        output = self.tensor(f"{name}.pool", shape, self.scale(stream))
        kind: type[MaxPool2d] | type[AvgPool2d] = MaxPool2d if pool.kind == "max" else AvgPool2d
        op = kind(
            input=stream,
            output=output,
            size=(pool.size, pool.size),
            stride=pool.stride,
            padding=(pool.padding,) * 4,
            clamp=(-128, 127),
            macs=pool_macs(pool, shape),
            kernel=f"{kind.op}_s8__ref",
            why="portable",
        )
        return self.unit(output, "pool", (stream,), [op], block=block)

    def mean(self, source: str, output: str) -> Mean:
        """The mean over the map of `source`; declares `output`."""
        height, width, channels = self.tensors[source].shape
        scale = mean_scale(*self.ranges(output), self.scale(source))
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
        # In the tensor that it shares with the maximum, the mean has the same zero point.
        fine = scale_at(*self.ranges(f"{gate}.mean"), scale.zero_point).scale
        factor = scale.scale / fine
        multiplier, shift = mean_multiplier(factor, height * width)
        layer = self.layers[f"{gate}.fc1"]
        magnified = np.repeat([factor, 1.0], channels)
        inputs = layer.inputs and Inputs(
            layer.inputs.mean * magnified, layer.inputs.variance * magnified**2
        )
        self.layers[f"{gate}.fc1"] = FloatConv(layer.weights / magnified, layer.bias, inputs)
        macs = 2 * height * width * channels
        return MeanMax(
            source, output, fine, multiplier, shift, macs, "mean_max_s8__ref", "portable"
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

    def rescaled(
        self, block: Block, stream: str, name: str, scale: Scale, stride: int, channels: int
    ) -> str:
        """Add the unit that makes a new stream of another: subsampled, padded, saturated."""
        height, width, before = self.tensors[stream].shape
        shape = (-(-height // stride), -(-width // stride), channels)
        self.tensor(name, shape, scale)
        multiplier, shift = quantize_multiplier(self.scale(stream).scale / scale.scale)
        op = ShortcutPad(
            stream,
            name,
            stride,
            (channels - before) // 2,
            multiplier,
            shift,
            "shortcut_pad_s8__ref",
            "portable",
        )
        return self.unit(name, "shortcut", (stream,), [op], block=block.name)

    def shortcut(self, block: Block, source: str, scale: Scale) -> str:
        """Add the unit of a shortcut that is not the identity; returns what it leaves."""
        name = f"{block.name}.shortcut"
        if block.projection is None:
            channels = block.body[-1].out_channels
            return self.rescaled(block, source, name, scale, block.stride, channels)
        op = self.conv(name, source, name, block.projection, scale)
        return self.unit(name, "shortcut", (source,), [op], block=block.name)

    def body(self, block: Block, source: str, last: Conv, output: str, scale: Scale) -> list[Op]:
        """The ops of the body, with `last` in the place of the last: to `output` at `scale`."""
        ops: list[Op] = []
        value = source
        for i, conv in enumerate(block.body[:-1], 1):
            layer = f"{block.name}.conv{i}"
            low, high = self.ranges(layer)
            inner = relu_scale(high) if conv.relu else signed_scale(low, high)
            ops.append(self.conv(layer, value, layer, conv, inner))
            value = layer
        return [*ops, self.conv(f"{block.name}.conv{len(block.body)}", value, output, last, scale)]

    def block(self, block: Block, form: Form, source: str, scale: Scale) -> str:
        """Add a block's units; `scale` is its stage's. Returns the stream after the block."""
        gated = block.gate is not None and block.name not in self.settled
        condition = self.gate(block, source) if gated else None
        add = {Form.STREAM: self.in_place, Form.SUM: self.summed, Form.PLAIN: self.plain}[form]
        stream = add(block, source, scale, condition)
        if block.pool is not None:
            stream = self.pool(block.pool, block.name, stream, block.name)
        return stream

    def plain(self, block: Block, source: str, scale: Scale, condition: str | None) -> str:
        """The block's body is the new stream."""
        assert condition is None, "a block without a shortcut has no gate"
        last = replace(block.body[-1], relu=block.relu, relu6=block.relu6)
        ops = self.body(block, source, last, f"{block.name}.out", scale)
        return self.unit(f"{block.name}.body", "body", (source,), ops, block=block.name)

    def in_place(self, block: Block, source: str, scale: Scale, condition: str | None) -> str:
        """The block adds to the stream, or to the new one that its shortcut begins (5.4)."""
        begins = block.shortcut != "identity"
        stream = self.shortcut(block, source, scale) if begins else source
        if not self.settled.get(block.name, True):
            return stream
        name = f"{block.name}.conv{len(block.body)}"
        ops = self.body(block, source, block.body[-1], name, Scale(scale.scale, 0))
        output = self.tensor(f"{block.name}.out", self.tensors[stream].shape, scale)
        self.same_memory[output] = stream
        ops.append(ResidualAdd(name, stream, output, "residual_add_s8__ref", "portable"))
        inputs = tuple(dict.fromkeys((source, stream)))
        name = f"{block.name}.body"
        return self.unit(name, "body", inputs, ops, block=block.name, condition=condition)

    def summed(self, block: Block, source: str, scale: Scale, condition: str | None) -> str:
        """The block adds its shortcut to its body, each at its own scale (5.10)."""
        added = source
        if block.shortcut != "identity":
            own = signed_scale(*self.ranges(f"{block.name}.shortcut"))
            added = self.shortcut(block, source, own)
        inputs = tuple(dict.fromkeys((source, added)))
        name = f"{block.name}.conv{len(block.body)}"
        runs = self.settled.get(block.name, True)
        if condition is not None or not runs:
            # What the stream is without the body. With it, F takes its place.
            channels = self.tensors[added].shape[2]
            skip = self.rescaled(block, added, f"{block.name}.skip", scale, 1, channels)
            if not runs:
                return skip
            inputs = (*inputs, skip)
            self.same_memory[name] = skip
        ops = self.body(block, source, block.body[-1], name, signed_scale(*self.ranges(name)))
        ops.append(self.sum(block, added, name, scale))
        name = f"{block.name}.body"
        return self.unit(name, "body", inputs, ops, block=block.name, condition=condition)

    def sum(self, block: Block, added: str, body: str, scale: Scale) -> Add:
        """The addition of `added` to what the body leaves; declares the output at `scale`."""
        scales = (self.scale(added).scale, self.scale(body).scale, scale.scale)
        try:
            pairs = add_multipliers(*scales)
        except ValueError as error:
            raise CgateError(
                f"{block.name}: its sum cannot be rescaled: {error}",
                "check the training, or run `cgate calibrate` again",
            ) from error
        output = self.tensor(f"{block.name}.out", self.tensors[body].shape, scale)
        self.same_memory[output] = body
        (m0, r0), (m1, r1), (m2, r2) = pairs
        clamp = activation_clamp(_activation(block), scale.scale, scale.zero_point)
        return Add(
            input=added,
            stream=body,
            output=output,
            multiplier=(m0, m1, m2),
            shift=(r0, r1, r2),
            clamp=clamp,
            kernel="add_s8__ref",
            why="portable",
        )

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
        """Add the unit of the head, whose logits are the output."""
        self.unit("head", "head", (stream,), self.logits("head", stream, POOLED, LOGITS, scale))
