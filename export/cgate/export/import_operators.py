"""Operators of a .tflite file as ops of a plan, or why one cannot be one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgate.core.plan import (
    Add,
    Addition,
    AvgPool2d,
    Conv2d,
    Counted,
    DepthwiseConv2d,
    FullyConnected,
    MaxPool2d,
    Mean,
    ResidualAdd,
    ShortcutPad,
    Softmax,
)
from cgate.export.assemble import Draft
from cgate.export.fixedpoint import (
    activation_clamp,
    add_multipliers,
    mean_multiplier,
    quantize_multiplier,
)
from cgate.export.quantize import Scale, check_accumulators
from cgate.export.softmax import MAX_DEPTH, exp_table
from cgate.export.tflite_reader import FileGraph, FileOperator, FileTensor

MAX_EDGE = 65535  # of a tensor

INPUT = "input"
Made = Counted | ShortcutPad | Addition | Softmax
Shape = tuple[int, int, int]
Padding = tuple[int, int, int, int]
NO_PADDING = (0, 0, 0, 0)


class Refused(Exception):
    """Why an operator cannot be imported, and what to try."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


@dataclass(frozen=True)
class View:
    """What a tensor of the file is here: a plan's tensor, and padding that is still to be added.

    Args:
        shape: as the file has it, without the batch.
    """

    name: str
    shape: tuple[int, ...]
    padding: Padding = NO_PADDING


def _volume(shape: tuple[int, ...]) -> int:
    # In Python's integers: a file can claim any shape.
    total = 1
    for size in shape:
        total *= size
    return total


def map_shape(shape: tuple[int, ...]) -> Shape:
    """Height, width and channels of a tensor's shape without its batch."""
    if len(shape) > 3 or any(size > MAX_EDGE for size in shape):
        raise Refused(f"a tensor has shape {[1, *shape]}; supported are up to 4 axes")
    height, width, channels = (1, 1, 1, *shape)[-3:]
    return height, width, channels


def unbatched(tensor: FileTensor) -> tuple[int, ...]:
    """A tensor's shape without its batch, which must be of one."""
    if not tensor.shape or tensor.shape[0] != 1:
        raise Refused(
            f"{tensor.name!r} has shape {list(tensor.shape)}; supported is one image at a time",
            "convert the network with a batch size of 1",
        )
    return tensor.shape[1:]


def activation_scale(tensor: FileTensor) -> Scale:
    """The scale of an activation."""
    if tensor.dtype != "INT8" or len(tensor.scales) != 1:
        raise Refused(
            f"{tensor.name!r} is {tensor.dtype} with {len(tensor.scales)} scales; supported are "
            "int8 tensors with one",
            "convert with full integer quantisation: representative_dataset, "
            "inference_input_type = inference_output_type = tf.int8",
        )
    if not -128 <= tensor.zero_points[0] <= 127:
        raise Refused(f"{tensor.name!r} has zero point {tensor.zero_points[0]}")
    return Scale(float(tensor.scales[0]), int(tensor.zero_points[0]))


def _constant(tensor: FileTensor, dtype: str, rank: int) -> NDArray[Any]:
    if tensor.data is None or tensor.dtype != dtype or tensor.data.ndim != rank:
        raise Refused(
            f"{tensor.name!r} should be a constant {dtype} tensor with {rank} axes, and is "
            f"{'an activation' if tensor.data is None else 'a constant'} {tensor.dtype}"
            f"{list(tensor.shape)}"
        )
    return tensor.data


def _window(
    length: int, size: int, stride: int, before: int, after: int, same: bool
) -> tuple[int, int, int]:
    """Outputs along an axis, and the padding before and after it, SAME's own included."""
    padded = length + before + after
    if same:
        outputs = -(-padded // stride)
        total = max((outputs - 1) * stride + size - padded, 0)
        return outputs, before + total // 2, after + total - total // 2
    return (padded - size) // stride + 1, before, after


class Operators:
    """Operators of a file to ops of a plan, one by one in the order of the file.

    Each method named after operators returns the ops of a unit, none if it needs no unit, and
    raises `Refused`.

    Args:
        graph: the network in the file.
    """

    def __init__(self, graph: FileGraph) -> None:
        self.graph = graph
        self.draft = Draft()
        self.views: dict[int, View] = {}
        self.place = 0
        self.needed = self._needed()

    def _needed(self) -> list[tuple[int, FileOperator]]:
        """(index, operator) of those that the output depends on."""
        wanted = set(self.graph.outputs)
        kept = []
        for place in range(len(self.graph.operators) - 1, -1, -1):
            operator = self.graph.operators[place]
            if wanted & set(operator.outputs):
                wanted |= set(operator.inputs)
                kept.append((place, operator))
        return kept[::-1]

    # What an operator reads.

    def operand(self, operator: FileOperator, place: int) -> FileTensor | None:
        """An input as the file has it; None where it is left out."""
        if place >= len(operator.inputs) or operator.inputs[place] < 0:
            return None
        return self.graph.tensors[operator.inputs[place]]

    def required(self, operator: FileOperator, place: int) -> FileTensor:
        """An input as the file has it, which must be there."""
        tensor = self.operand(operator, place)
        if tensor is None:
            raise Refused(f"its input {place} is missing")
        return tensor

    def result(self, operator: FileOperator) -> FileTensor:
        """The one output as the file has it."""
        if len(operator.outputs) != 1 or operator.outputs[0] not in self.graph.tensors:
            raise Refused(f"it has {len(operator.outputs)} outputs; supported is one")
        return self.graph.tensors[operator.outputs[0]]

    def view(self, operator: FileOperator, place: int = 0) -> View:
        """An input that is an activation, with its padding."""
        tensor = self.required(operator, place)
        view = self.views.get(operator.inputs[place])
        if view is None:
            kind = "a constant" if tensor.data is not None else "not computed before it"
            raise Refused(f"its input {tensor.name!r} is {kind}; supported are activations")
        return view

    def whole(self, operator: FileOperator, place: int = 0) -> View:
        """An input for an operator that cannot pad."""
        view = self.view(operator, place)
        if view.padding != NO_PADDING:
            raise Refused(
                "its input is padded by a PAD, which only convolutions and MAX_POOL_2D can take in",
                "pad in the operator itself, as padding='same' does",
            )
        return view

    def image(self, view: View) -> Shape:
        """The shape of an input as a map, which the plan's tensor must have too."""
        shape = self.draft.tensors[view.name].shape
        if map_shape(view.shape) != shape:
            raise Refused(
                f"its input is a tensor of {list(shape)} reshaped to {list(view.shape)}; supported "
                "is reshaping before FULLY_CONNECTED and SOFTMAX",
                "flatten only before dense layers",
            )
        return shape

    # What an operator leaves.

    def output(self, operator: FileOperator, shape: Shape, name: str) -> str:
        """Declare the tensor that `operator` leaves; `shape` is what its input makes of it."""
        tensor = self.result(operator)
        inner = unbatched(tensor)
        if _volume(inner) != _volume(shape):
            raise Refused(
                f"its output {tensor.name!r} should have shape {[1, *shape]}, and has "
                f"{list(tensor.shape)}"
            )
        map_shape(shape)
        self.views[operator.outputs[0]] = View(name, inner)
        return self.draft.tensor(name, shape, activation_scale(tensor))

    def alias(self, operator: FileOperator, view: View) -> None:
        """The output of `operator` is what `view` says, under the scale that it has already."""
        old = self.draft.scale(view.name)
        if activation_scale(self.result(operator)) != old:
            raise Refused("its output has another scale than its input")
        self.views[operator.outputs[0]] = view

    def clamp(self, operator: FileOperator, scale: Scale) -> tuple[int, int]:
        """Bounds of an output of this scale under the fused activation."""
        activation = operator.options["Activation"]
        if activation not in ("NONE", "RELU", "RELU6"):
            raise Refused(f"its activation {activation} is not supported", "use ReLU or ReLU6")
        return activation_clamp(activation, scale.scale, scale.zero_point)

    # Operators: each returns the ops of its unit, none if it needs no unit.

    def conv2d(self, operator: FileOperator, name: str) -> list[Made]:
        """CONV_2D and DEPTHWISE_CONV_2D."""
        view = self.view(operator)
        channels = self.image(view)[2]
        weights = _constant(self.required(operator, 1), "INT8", 4)
        depthwise = operator.op == "DEPTHWISE_CONV_2D"
        if depthwise and (weights.shape[0] != 1 or weights.shape[3] % channels):
            raise Refused(f"weights of {list(weights.shape)} do not go with {channels} channels")
        if not depthwise and weights.shape[3] != channels:
            raise Refused(
                f"weights of {list(weights.shape)} on {channels} channels make a grouped "
                "convolution, which is not supported",
                "use an ordinary or a depthwise convolution",
            )
        (kh, kw), options = weights.shape[1:3], operator.options
        dilation = options["DilationHFactor"], options["DilationWFactor"]
        if (kh > 1 and dilation[0] != 1) or (kw > 1 and dilation[1] != 1):
            raise Refused(f"its dilation {dilation} is not supported", "use a dilation of 1")
        (rows, columns), stride, padding = self.windows(view, (kh, kw), options)
        outputs = weights.shape[3] if depthwise else weights.shape[0]
        self.output(operator, (rows, columns, outputs), name)
        macs = rows * columns * (weights.size if not depthwise else kh * kw * outputs)
        kind = DepthwiseConv2d if depthwise else Conv2d
        return [self.convolution(kind, operator, view, name, weights, stride, padding, macs)]

    def windows(
        self, view: View, size: tuple[int, int], options: Mapping[str, Any]
    ) -> tuple[tuple[int, int], int, Padding]:
        """(rows, columns) of the output, the stride, and all padding, of an op with a window."""
        if options["Padding"] not in ("SAME", "VALID"):
            raise Refused(f"its padding is {options['Padding']}")
        strides = options["StrideH"], options["StrideW"]
        if not all(1 <= each <= 255 for each in (*strides, *size)):
            raise Refused(f"its window {size} or its stride {strides} is not in 1 .. 255")
        top, left, bottom, right = view.padding
        same = options["Padding"] == "SAME"
        height, width, _ = map_shape(view.shape)
        rows, top, bottom = _window(height, size[0], strides[0], top, bottom, same)
        columns, left, right = _window(width, size[1], strides[1], left, right, same)
        if rows < 1 or columns < 1:
            raise Refused(f"its window {size} is larger than its input {list(view.shape)}")
        if max(top, left, bottom, right) > 255:
            raise Refused(f"it is padded by {[top, left, bottom, right]}; supported is up to 255")
        padding = (top, left, bottom, right)
        if strides[0] == strides[1]:
            return (rows, columns), strides[0], padding
        # A stride along an axis with one window is never taken.
        used = {step for step, count in zip(strides, (rows, columns), strict=True) if count > 1}
        if len(used) > 1 or padding != NO_PADDING:
            raise Refused(f"its strides {strides} differ", "use the same stride on both axes")
        return (rows, columns), max(used, default=1), padding

    def convolution(
        self,
        kind: type[Conv2d] | type[DepthwiseConv2d],
        operator: FileOperator,
        view: View,
        name: str,
        weights: NDArray[np.int8],
        stride: int,
        padding: Padding,
        macs: int,
    ) -> Conv2d | DepthwiseConv2d:
        """The op, and its constants in the plan's weights; its output is declared already."""
        depthwise = kind is DepthwiseConv2d
        outputs = weights.shape[3] if depthwise else weights.shape[0]
        source, target = self.draft.scale(view.name), self.draft.scale(name)
        stored, axis = self.required(operator, 1), 3 if depthwise else 0
        if stored.zero_points.any() or weights.min() < -127:
            raise Refused("its weights have a zero point, or the code -128; supported is neither")
        several = len(stored.scales) > 1
        if len(stored.scales) not in (1, outputs) or (several and stored.axis != axis):
            raise Refused(f"its weights have {len(stored.scales)} scales along axis {stored.axis}")
        scales = np.broadcast_to(stored.scales, outputs).astype(np.float32)
        tensor = self.operand(operator, 2)
        bias = np.zeros(outputs, np.int32) if tensor is None else _constant(tensor, "INT32", 1)
        if len(bias) != outputs:
            raise Refused(f"it has {len(bias)} biases for {outputs} channels")
        product = np.float32(source.scale) * scales if kind is FullyConnected else None
        wide = source.scale * scales.astype(np.float64) if product is None else product
        try:
            pairs = [quantize_multiplier(float(each) / target.scale) for each in wide]
        except ValueError as error:
            raise Refused(f"its scales do not go together: {error}") from error
        multiplier, shift = (np.array(each) for each in zip(*pairs, strict=True))
        check_accumulators(np.moveaxis(weights, axis, 0), bias, shift, name)
        for what, array in (
            ("weights", weights),
            ("scale", scales),
            ("bias", bias),
            ("multiplier", multiplier.astype(np.int32)),
            ("shift", shift.astype(np.int8)),
        ):
            self.draft.weights[f"{name}.{what}"] = array
        return kind(
            view.name,
            name,
            weights=f"{name}.weights",
            scale=f"{name}.scale",
            bias=f"{name}.bias",
            multiplier=f"{name}.multiplier",
            shift=f"{name}.shift",
            stride=stride,
            padding=padding,
            clamp=self.clamp(operator, target),
            macs=macs,
            kernel="depthwise_conv2d_s8__ref" if depthwise else "conv2d_s8__ref",
            why="portable",
        )

    def fully_connected(self, operator: FileOperator, name: str) -> list[Made]:
        """FULLY_CONNECTED: a convolution whose window is the whole map, or one pixel."""
        if operator.options["WeightsFormat"] != 0:
            raise Refused("its weights are shuffled", "convert without a hardware delegate")
        stored = self.required(operator, 1)
        if len(stored.scales) != 1:
            raise Refused(
                f"its weights have {len(stored.scales)} scales; supported is one for all, as in "
                "TFLite's frozen reference kernels",
                "converter._experimental_disable_per_channel_quantization_for_dense_layers = True",
            )
        matrix = _constant(stored, "INT8", 2)
        view = self.whole(operator)
        height, width, channels = self.draft.tensors[view.name].shape
        outputs, inputs = matrix.shape
        if inputs == height * width * channels and max(height, width) <= 255:
            # A flattened map: a convolution whose window is the whole map.
            weights, rows = matrix.reshape(outputs, height, width, channels), (1, 1)
        elif inputs == channels:
            weights, rows = matrix.reshape(outputs, 1, 1, channels), (height, width)
        else:
            raise Refused(f"{inputs} inputs do not go with a tensor of {list(view.shape)}")
        self.output(operator, (*rows, outputs), name)
        macs = rows[0] * rows[1] * matrix.size
        return [
            self.convolution(FullyConnected, operator, view, name, weights, 1, NO_PADDING, macs)
        ]

    def pool(self, operator: FileOperator, name: str) -> list[Made]:
        """AVERAGE_POOL_2D and MAX_POOL_2D."""
        view = self.view(operator)
        channels = self.image(view)[2]
        source = self.draft.scale(view.name)
        largest = operator.op == "MAX_POOL_2D"
        if view.padding != NO_PADDING and not (largest and source.zero_point == -128):
            self.whole(operator)  # elsewhere a padded zero counts, and says so
        size = operator.options["FilterHeight"], operator.options["FilterWidth"]
        (rows, columns), stride, padding = self.windows(view, size, operator.options)
        self.output(operator, (rows, columns, channels), name)
        if self.draft.scale(name) != source:
            raise Refused("its output has another scale than its input")
        kind = MaxPool2d if largest else AvgPool2d
        return [
            kind(
                view.name,
                name,
                size,
                stride,
                padding,
                self.clamp(operator, source),
                rows * columns * size[0] * size[1] * channels,
                f"{kind.op}_s8__ref",
                "portable",
            )
        ]

    def mean(self, operator: FileOperator, name: str) -> list[Made]:
        """MEAN over height and width."""
        view = self.whole(operator)
        height, width, channels = self.image(view)
        axes = self.required(operator, 1)
        rank = len(view.shape) + 1
        found = set() if axes.data is None else {int(axis) % rank for axis in axes.data.reshape(-1)}
        if rank != 4 or found != {1, 2}:
            raise Refused(f"it averages axes {sorted(found)}; supported are height and width")
        self.output(operator, (1, 1, channels), name)
        factor = self.draft.scale(view.name).scale / self.draft.scale(name).scale
        try:
            multiplier, shift = mean_multiplier(factor, height * width)
        except ValueError as error:
            raise Refused(f"its scales do not go together: {error}") from error
        macs = height * width * channels
        return [Mean(view.name, name, multiplier, shift, macs, "mean_s8__ref", "portable")]

    def pad(self, operator: FileOperator, name: str) -> list[Made]:
        """PAD: of the map it joins the next operator; of channels it is an op."""
        view = self.view(operator)
        height, width, channels = self.image(view)
        amounts = self.required(operator, 1)
        wanted = (len(view.shape) + 1, 2)
        if amounts.data is None or amounts.data.shape != wanted or len(view.shape) != 3:
            raise Refused("its paddings are no constant of a pair per axis of a map")
        pairs = [(int(before), int(after)) for before, after in amounts.data]
        if any(not 0 <= each <= 255 for pair in pairs for each in pair) or pairs[0] != (0, 0):
            raise Refused(f"its paddings are {pairs}; supported are 0 to 255, none on the batch")
        (top, bottom), (left, right), (before, after) = pairs[1:]
        if before or after:
            if (top, bottom, left, right) != NO_PADDING or view.padding != NO_PADDING:
                raise Refused("it pads the map and the channels", "use one PAD for each")
            self.output(operator, (height, width, channels + before + after), name)
            return [self.rescaled(view, name, before)]
        a, b, c, d = view.padding
        inner = unbatched(self.result(operator))
        if inner != (height + a + c + top + bottom, width + b + d + left + right, channels):
            raise Refused(f"its output has shape {list(self.result(operator).shape)}")
        padding = (a + top, b + left, c + bottom, d + right)
        self.alias(operator, replace(view, padding=padding))
        return []

    def rescaled(self, view: View, name: str, before: int = 0) -> ShortcutPad:
        """Tensor `name` from `view`, at its own scale, `before` channels of zeros before it."""
        factor = self.draft.scale(view.name).scale / self.draft.scale(name).scale
        multiplier, shift = quantize_multiplier(factor)
        kernel = "shortcut_pad_s8__ref"
        return ShortcutPad(view.name, name, 1, before, multiplier, shift, kernel, "portable")

    def quantize(self, operator: FileOperator, name: str) -> list[Made]:
        """QUANTIZE from int8 to int8, at another scale."""
        view = self.whole(operator)
        self.output(operator, self.image(view), name)
        try:
            return [self.rescaled(view, name)]
        except ValueError as error:
            raise Refused(f"its scales do not go together: {error}") from error

    def reshape(self, operator: FileOperator, name: str) -> list[Made]:
        """RESHAPE, SQUEEZE and EXPAND_DIMS: the same bytes under another shape."""
        view = self.whole(operator)
        shape = unbatched(self.result(operator))
        if _volume(shape) != _volume(view.shape):
            raise Refused(f"it makes {list(shape)} of {list(view.shape)}")
        if view.name == INPUT and not self.draft.units:
            # Nothing has looked at the input yet, so it may as well have this shape from the start.
            tensor = self.draft.tensors[INPUT]
            self.draft.tensors[INPUT] = replace(tensor, shape=map_shape(shape))
        self.alias(operator, replace(view, shape=shape))
        return []

    def softmax(self, operator: FileOperator, name: str) -> list[Made]:
        """SOFTMAX over the channels."""
        view = self.whole(operator)
        shape = self.draft.tensors[view.name].shape
        depth = view.shape[-1] if view.shape else 1
        if depth == _volume(shape):
            shape = (1, 1, depth)
        if depth != shape[2] or depth > MAX_DEPTH:
            raise Refused(
                f"it is over {depth} of {list(view.shape)} values; supported are the channels, at "
                f"most {MAX_DEPTH}"
            )
        self.output(operator, shape, name)
        if self.draft.scale(name) != Scale(1 / 256, -128):
            raise Refused("its output's scale is not 1/256 with zero point -128")
        beta = float(operator.options["Beta"])
        try:
            table = exp_table(self.draft.scale(view.name).scale, beta)
        except ValueError as error:
            raise Refused(str(error)) from error
        self.draft.weights[f"{name}.table"] = table
        return [Softmax(view.name, name, f"{name}.table", beta, "softmax_s8__ref", "portable")]

    def add(self, operator: FileOperator, name: str) -> list[Made]:
        """ADD of two activations of one shape."""
        first, second = self.whole(operator, 0), self.whole(operator, 1)
        if first.shape != second.shape or self.draft.tensors[first.name].shape != (
            self.draft.tensors[second.name].shape
        ):
            raise Refused(f"it adds {list(second.shape)} to {list(first.shape)}: no broadcasting")
        shape = self.draft.tensors[first.name].shape
        self.output(operator, shape, name)
        ops: list[Made] = []
        # The sum takes the memory of one of the two, which nothing may need afterwards.
        free = [view for view in (first, second) if self.ends_here(view.name)]
        stream = free[0] if free and first.name != second.name else None
        if stream is None:
            stream = View(f"{name}.copy", first.shape)
            self.draft.tensor(stream.name, shape, self.draft.scale(first.name))
            ops.append(self.rescaled(first, stream.name))
            other = second
        else:
            other = second if stream is first else first
        clamp = self.clamp(operator, self.draft.scale(name))
        ops.append(self.sum(other.name, stream.name, name, clamp))
        self.draft.same_memory[name] = stream.name
        return ops

    def sum(self, source: str, stream: str, name: str, clamp: tuple[int, int]) -> Addition:
        """The addition of two scales, or, where it comes to the same, of one."""
        a, b, target = (self.draft.scale(each) for each in (source, stream, name))
        if b == target and a == Scale(target.scale, 0) and clamp == (-128, 127):
            return ResidualAdd(source, stream, name, "residual_add_s8__ref", "portable")
        try:
            pairs = add_multipliers(a.scale, b.scale, target.scale)
        except ValueError as error:
            raise Refused(f"its scales do not go together: {error}") from error
        (m1, s1), (m2, s2), (m3, s3) = pairs
        return Add(
            source, stream, name, (m1, m2, m3), (s1, s2, s3), clamp, "add_s8__ref", "portable"
        )

    def ends_here(self, name: str) -> bool:
        """Whether no later operator reads the plan's tensor, whose memory may then be reused."""
        if name == INPUT:
            return False
        views = {index for index, view in self.views.items() if view.name == name}
        later = (each for place, each in self.needed if place > self.place)
        return not any(views & set(each.inputs) for each in later)
