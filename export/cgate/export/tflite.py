"""Writing int8 TFLite flatbuffers directly: exact control of every scale, the same bytes always.

Only the generated schema classes of ai-edge-litert are used, no converter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import ArrayLike, NDArray

_TYPES = {
    np.dtype(np.int8): schema.TensorType.INT8,
    np.dtype(np.int32): schema.TensorType.INT32,
    np.dtype(np.bool_): schema.TensorType.BOOL,
}


class _AlignedBuffer(schema.BufferT):  # type: ignore[misc]
    """A constant's bytes on a 16-byte boundary.

    The schema asks for it (force_align: 16), but the generated Python ignores that attribute.
    """

    def Pack(self, builder: Any) -> Any:
        """Write the buffer; called by the generated packing code."""
        raw = self.data.tobytes()
        builder.StartVector(1, len(raw), 16)
        builder.head = builder.Head() - len(raw)
        builder.Bytes[builder.Head() : builder.Head() + len(raw)] = raw
        data = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, data)
        return schema.BufferEnd(builder)


class Subgraph:
    """One graph of tensors and operators under construction. Tensors are known by index."""

    def __init__(self, model: Model, name: str) -> None:
        self._model = model
        self._graph = schema.SubGraphT()
        self._graph.name = name
        self._graph.tensors = []
        self._graph.operators = []
        self._index = len(model._model.subgraphs)
        model._model.subgraphs.append(self._graph)

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: type[np.generic] = np.int8,
        *,
        scale: ArrayLike | None = None,
        zero_point: int = 0,
        data: NDArray[Any] | None = None,
        axis: int = 0,
    ) -> int:
        """Add a tensor; `data` makes it a constant, an array of scales is along `axis`."""
        tensor = schema.TensorT()
        tensor.name = name
        tensor.shape = [int(n) for n in shape]
        tensor.type = _TYPES[np.dtype(dtype)]
        tensor.hasRank = True
        tensor.buffer = 0
        if scale is not None:
            quantization = schema.QuantizationParametersT()
            quantization.scale = np.atleast_1d(np.asarray(scale, np.float32))
            quantization.zeroPoint = np.full(quantization.scale.shape, zero_point, np.int64)
            quantization.quantizedDimension = axis
            tensor.quantization = quantization
        if data is not None:
            buffer = _AlignedBuffer()
            buffer.data = np.frombuffer(np.ascontiguousarray(data, dtype).tobytes(), np.uint8)
            tensor.buffer = len(self._model._model.buffers)
            self._model._model.buffers.append(buffer)
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _operator(
        self,
        builtin: str,
        inputs: Sequence[int],
        output: int | Sequence[int],
        options: Any = None,
        version: int = 1,
    ) -> None:
        operator = schema.OperatorT()
        operator.opcodeIndex = self._model._opcode(
            getattr(schema.BuiltinOperator, builtin), version
        )
        operator.inputs = list(inputs)
        operator.outputs = [output] if isinstance(output, int) else list(output)
        if options is not None:
            kind = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            operator.builtinOptions = options
        self._graph.operators.append(operator)

    def conv2d(
        self,
        x: int,
        weights: int,
        bias: int,
        output: int,
        *,
        stride: int,
        same: bool,
        activation: str,
    ) -> None:
        """CONV_2D; `same` pads as TensorFlow's SAME, else VALID. For `activation` see add."""
        options = schema.Conv2DOptionsT()
        options.padding = _padding(same)
        options.strideH = options.strideW = stride
        options.dilationHFactor = options.dilationWFactor = 1
        options.fusedActivationFunction = _activation(activation)
        self._operator("CONV_2D", [x, weights, bias], output, options, 3)

    def depthwise_conv2d(
        self,
        x: int,
        weights: int,
        bias: int,
        output: int,
        *,
        stride: int,
        same: bool,
        activation: str,
    ) -> None:
        """DEPTHWISE_CONV_2D, with the arguments of `conv2d`; weights (1, kh, kw, out)."""
        options = schema.DepthwiseConv2DOptionsT()
        options.padding = _padding(same)
        options.strideH = options.strideW = stride
        options.dilationHFactor = options.dilationWFactor = 1
        tensors = self._graph.tensors
        options.depthMultiplier = tensors[output].shape[3] // tensors[x].shape[3]
        options.fusedActivationFunction = _activation(activation)
        self._operator("DEPTHWISE_CONV_2D", [x, weights, bias], output, options, 3)

    def fully_connected(
        self, x: int, weights: int, bias: int, output: int, *, activation: str
    ) -> None:
        """FULLY_CONNECTED: weights (out, in), output (rows, out)."""
        options = schema.FullyConnectedOptionsT()
        options.fusedActivationFunction = _activation(activation)
        self._operator("FULLY_CONNECTED", [x, weights, bias], output, options, 4)

    def softmax(self, x: int, output: int, beta: float) -> None:
        """SOFTMAX over the last axis."""
        options = schema.SoftmaxOptionsT()
        options.beta = beta
        self._operator("SOFTMAX", [x], output, options, 2)

    def pad(
        self, x: int, paddings: Sequence[tuple[int, int]], output: int, value: int | None = None
    ) -> None:
        """PAD with the tensor's zero point, or PADV2 with a code; (before, after) per axis."""
        padded = self._graph.tensors[output]
        name = f"{padded.name}/paddings"
        amounts = self.tensor(name, (len(paddings), 2), np.int32, data=np.array(paddings, np.int32))
        if value is None:
            self._operator("PAD", [x, amounts], output, schema.PadOptionsT(), 2)
            return
        code = self.tensor(
            f"{padded.name}/value",
            (),
            scale=padded.quantization.scale[0],
            zero_point=int(padded.quantization.zeroPoint[0]),
            data=np.array(value, np.int8),
        )
        self._operator("PADV2", [x, amounts, code], output, schema.PadV2OptionsT(), 2)

    def add(self, a: int, b: int, output: int, *, activation: str) -> None:
        """ADD; `activation` is one of NONE, RELU, RELU6."""
        options = schema.AddOptionsT()
        options.fusedActivationFunction = _activation(activation)
        self._operator("ADD", [a, b], output, options, 2)

    def mean(self, x: int, output: int) -> None:
        """MEAN over height and width, dimensions kept."""
        name = f"{self._graph.tensors[output].name}/axes"
        axes = self.tensor(name, (2,), np.int32, data=np.array([1, 2], np.int32))
        options = schema.ReducerOptionsT()
        options.keepDims = True
        self._operator("MEAN", [x, axes], output, options, 2)

    def pool(
        self,
        builtin: str,
        x: int,
        output: int,
        *,
        size: tuple[int, int],
        stride: tuple[int, int],
        same: bool = False,
        activation: str = "NONE",
    ) -> None:
        """MAX_POOL_2D or AVERAGE_POOL_2D; size and stride are (height, width)."""
        options = schema.Pool2DOptionsT()
        options.padding = _padding(same)
        options.filterHeight, options.filterWidth = size
        options.strideH, options.strideW = stride
        options.fusedActivationFunction = _activation(activation)
        self._operator(builtin, [x], output, options, 2)

    def multiply(self, a: int, b: int, output: int) -> None:
        """MUL, elementwise; an axis of length 1 is repeated."""
        options = schema.MulOptionsT()
        options.fusedActivationFunction = _activation("NONE")
        self._operator("MUL", [a, b], output, options, 2)

    def concatenate(self, parts: Sequence[int], output: int) -> None:
        """CONCATENATION along the channels; all at one scale."""
        options = schema.ConcatenationOptionsT()
        options.axis = 3
        options.fusedActivationFunction = _activation("NONE")
        self._operator("CONCATENATION", parts, output, options, 2)

    def quantize(self, x: int, output: int) -> None:
        """QUANTIZE from int8 to int8: another scale."""
        self._operator("QUANTIZE", [x], output, schema.QuantizeOptionsT(), 2)

    def greater(self, a: int, b: int, output: int) -> None:
        """GREATER, elementwise."""
        self._operator("GREATER", [a, b], output, schema.GreaterOptionsT(), 2)

    def less_equal(self, a: int, b: int, output: int) -> None:
        """LESS_EQUAL, elementwise."""
        self._operator("LESS_EQUAL", [a, b], output, schema.LessEqualOptionsT())

    def sub_int32(self, a: int, b: int, output: int) -> None:
        """SUB of int32 tensors, exact."""
        self._operator("SUB", [a, b], output, schema.SubOptionsT())

    def to_int32(self, x: int, output: int) -> None:
        """CAST of int8 codes to int32."""
        options = schema.CastOptionsT()
        options.inDataType = schema.TensorType.INT8
        options.outDataType = schema.TensorType.INT32
        self._operator("CAST", [x], output, options)

    def largest_two(self, x: int, values: int, indices: int) -> None:
        """TOPK_V2 with k = 2: the largest and the second largest along the last axis."""
        name = f"{self._graph.tensors[values].name}/count"
        count = self.tensor(name, (), np.int32, data=np.array(2, np.int32))
        self._operator("TOPK_V2", [x, count], (values, indices), schema.TopKV2OptionsT(), 2)

    def halves(self, x: int, axis: int, first: int, second: int) -> None:
        """SPLIT into two along `axis`."""
        name = f"{self._graph.tensors[x].name}/axis"
        where = self.tensor(name, (), np.int32, data=np.array(axis, np.int32))
        options = schema.SplitOptionsT()
        options.numSplits = 2
        self._operator("SPLIT", [where, x], (first, second), options)

    def reshape(self, x: int, output: int) -> None:
        """RESHAPE to the output's shape."""
        shape = np.array(self._graph.tensors[output].shape, np.int32)
        name = f"{self._graph.tensors[output].name}/shape"
        wanted = self.tensor(name, shape.shape, np.int32, data=shape)
        options = schema.ReshapeOptionsT()
        options.newShape = shape
        self._operator("RESHAPE", [x, wanted], output, options)

    def branch(
        self,
        condition: int,
        then: Subgraph,
        otherwise: Subgraph,
        inputs: Sequence[int],
        outputs: Sequence[int],
    ) -> None:
        """IF: one of two graphs with the same inputs and outputs; the other is not executed."""
        options = schema.IfOptionsT()
        options.thenSubgraphIndex = then._index
        options.elseSubgraphIndex = otherwise._index
        self._operator("IF", [condition, *inputs], outputs, options)

    def ends(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """Declare the graph's inputs and outputs."""
        self._graph.inputs = list(inputs)
        self._graph.outputs = list(outputs)

    def interface(
        self, inputs: Sequence[int], outputs: Sequence[int], key: str | None = None
    ) -> None:
        """Declare the graph's inputs and outputs, and a signature that names them.

        Args:
            key: of the signature; None takes the graph's name.
        """
        self.ends(inputs, outputs)
        signature = schema.SignatureDefT()
        signature.signatureKey = key or self._graph.name
        signature.subgraphIndex = self._index
        signature.inputs = [self._named(index) for index in inputs]
        signature.outputs = [self._named(index) for index in outputs]
        self._model._model.signatureDefs.append(signature)

    def _named(self, index: int) -> Any:
        entry = schema.TensorMapT()
        entry.name = self._graph.tensors[index].name
        entry.tensorIndex = index
        return entry


def _activation(name: str) -> int:
    kind: int = getattr(schema.ActivationFunctionType, name)
    return kind


def _padding(same: bool) -> int:
    kind: int = schema.Padding.SAME if same else schema.Padding.VALID
    return kind


class Model:
    """A .tflite file under construction."""

    def __init__(self, description: str) -> None:
        self._model = schema.ModelT()
        self._model.version = 3
        self._model.description = description
        self._model.operatorCodes = []
        self._model.subgraphs = []
        self._model.signatureDefs = []
        self._model.buffers = [schema.BufferT()]  # index 0 is the empty buffer, by convention

    def subgraph(self, name: str) -> Subgraph:
        """Add a subgraph; the first is the main one."""
        return Subgraph(self, name)

    def _opcode(self, builtin: int, version: int) -> int:
        for index, code in enumerate(self._model.operatorCodes):
            if (code.builtinCode, code.version) == (builtin, version):
                return index
        code = schema.OperatorCodeT()
        code.builtinCode = builtin
        code.deprecatedBuiltinCode = min(builtin, 127)
        code.version = version
        self._model.operatorCodes.append(code)
        return len(self._model.operatorCodes) - 1

    def pack(self) -> bytes:
        """The file's bytes."""
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(self._model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())
