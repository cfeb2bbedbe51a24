"""Reading a .tflite file that may be foreign or damaged: bytes -> plain, checked values.

The schema classes follow offsets wherever they lead, so nothing is read in one go: every count is
bounded before it is walked, only what operators use is read, and whatever the flatbuffer code
raises becomes one CgateError. What the values mean is `import_tflite`'s business.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from cgate.core.errors import CgateError

MAX_FILE = 64 << 20  # bytes: far beyond any microcontroller's flash
MAX_OPERATORS, MAX_OPERANDS, MAX_TENSORS, MAX_RANK = 1024, 64, 16384, 8
MAX_NAME = 200  # characters of a name that are kept, for messages

T = TypeVar("T")


def _names(enumeration: type) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if type(value) is int}


_OPERATORS = _names(schema.BuiltinOperator)
_TYPES = _names(schema.TensorType)
_OPTIONS = _names(schema.BuiltinOptions)
_ACTIVATIONS = _names(schema.ActivationFunctionType)
_PADDINGS = _names(schema.Padding)

# Operator -> its table of options and the fields that the importer looks at.
_FIELDS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "CONV_2D": (
        "Conv2DOptions",
        ("Padding", "StrideH", "StrideW", "DilationHFactor", "DilationWFactor"),
    ),
    "DEPTHWISE_CONV_2D": (
        "DepthwiseConv2DOptions",
        ("Padding", "StrideH", "StrideW", "DilationHFactor", "DilationWFactor"),
    ),
    "FULLY_CONNECTED": ("FullyConnectedOptions", ("WeightsFormat",)),
    "ADD": ("AddOptions", ()),
    "AVERAGE_POOL_2D": (
        "Pool2DOptions",
        ("Padding", "StrideH", "StrideW", "FilterHeight", "FilterWidth"),
    ),
    "MAX_POOL_2D": (
        "Pool2DOptions",
        ("Padding", "StrideH", "StrideW", "FilterHeight", "FilterWidth"),
    ),
    "SOFTMAX": ("SoftmaxOptions", ("Beta",)),
}
_DTYPES = {"INT8": np.int8, "INT32": np.int32, "INT64": np.int64}


@dataclass(frozen=True)
class FileTensor:
    """A tensor as the file describes it.

    Args:
        name: its first MAX_NAME characters; may be empty, and need not be unique.
        dtype: name in the schema, such as "INT8".
        scales: float32 [n]; empty if it is not quantised.
        zero_points: int64 [n].
        axis: which axis the scales belong to, where there are several.
        data: the constant's values in `shape`; None for activations.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scales: NDArray[np.float32]
    zero_points: NDArray[np.int64]
    axis: int
    data: NDArray[Any] | None


@dataclass(frozen=True)
class FileOperator:
    """An operator: its name in the schema, tensor indices (-1: left out), options by name.

    Options are numbers, except `padding` and `activation`, which are names in the schema.
    """

    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class FileGraph:
    """The one subgraph of a file. `tensors` holds those that operators or the interface use."""

    tensors: Mapping[int, FileTensor]
    operators: tuple[FileOperator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def _damaged(where: str, reason: str) -> CgateError:
    return CgateError(f"{where} is no intact TFLite file: {reason}", "copy or convert it again")


def _count(length: int, limit: int, what: str) -> int:
    """`length` if it is believable; ValueError otherwise."""
    if not 0 <= length <= limit:
        raise ValueError(f"it claims {length} {what}, more than {limit}")
    return length


def _ints(length: int, item: Callable[[int], int], limit: int, what: str) -> tuple[int, ...]:
    return tuple(int(item(i)) for i in range(_count(length, limit, what)))


def _there(value: T | None, what: str) -> T:
    if value is None:
        raise ValueError(f"{what} is missing")
    return value


def _floats(length: int, array: Any, dtype: type[Any]) -> NDArray[Any]:
    """A vector by its accessor's result, which is 0 where the vector is missing."""
    if length == 0:
        return np.zeros(0, dtype)
    return np.array(array, dtype)


class _Reader:
    def __init__(self, content: bytes) -> None:
        self.size = len(content)
        self.model = schema.Model.GetRootAs(content, 0)
        graphs = _count(self.model.SubgraphsLength(), MAX_TENSORS, "subgraphs")
        if graphs != 1:
            raise CgateError(
                f"the file has {graphs} subgraphs; supported is one (no control flow)",
                "convert a network without if, while and call",
            )
        self.graph = _there(self.model.Subgraphs(0), "the subgraph")
        self.count = _count(self.graph.TensorsLength(), MAX_TENSORS, "tensors")

    def tensor(self, index: int) -> FileTensor:
        if not 0 <= index < self.count:
            raise ValueError(f"there is no tensor {index}")
        tensor = _there(self.graph.Tensors(index), f"tensor {index}")
        name = bytes(tensor.Name() or b"")[:MAX_NAME].decode("utf-8", "replace")
        shape = _ints(tensor.ShapeLength(), tensor.Shape, MAX_RANK, "axes of a tensor")
        if any(not 1 <= size < 1 << 31 for size in shape):
            raise ValueError(f"tensor {index} has shape {list(shape)}")
        dtype = _TYPES.get(tensor.Type(), f"type {tensor.Type()}")
        if tensor.Sparsity() is not None or tensor.IsVariable():
            dtype = f"sparse or variable {dtype}"
        scales, zero_points, axis = np.zeros(0, np.float32), np.zeros(0, np.int64), 0
        quantization = tensor.Quantization()
        if quantization is not None:
            n, zeros = quantization.ScaleLength(), quantization.ZeroPointLength()
            scales = _floats(n, quantization.ScaleAsNumpy(), np.float32)
            zero_points = _floats(zeros, quantization.ZeroPointAsNumpy(), np.int64)
            axis = quantization.QuantizedDimension()
        if len(zero_points) != len(scales):
            raise ValueError(f"tensor {index} has {n} scales and {zeros} zero points")
        if not (np.isfinite(scales).all() and (scales > 0).all()):
            raise ValueError(f"tensor {index} has a scale that is not above 0")
        data = self.constant(tensor.Buffer(), shape, dtype, index)
        return FileTensor(name, shape, dtype, scales, zero_points, axis, data)

    def constant(
        self, buffer: int, shape: tuple[int, ...], dtype: str, index: int
    ) -> NDArray[Any] | None:
        if not 0 <= buffer < self.model.BuffersLength():
            raise ValueError(f"tensor {index} is in buffer {buffer}, which does not exist")
        holder = _there(self.model.Buffers(buffer), f"buffer {buffer}")
        size = _count(holder.DataLength(), self.size, "bytes of a constant")
        if size == 0 or dtype not in _DTYPES:
            return None
        raw = np.asarray(holder.DataAsNumpy(), np.uint8).tobytes()
        values = np.frombuffer(raw, np.dtype(_DTYPES[dtype]).newbyteorder("<"))
        return values.astype(_DTYPES[dtype]).reshape(shape)

    def operator(self, place: int) -> FileOperator:
        operator = _there(self.graph.Operators(place), f"operator {place}")
        index = operator.OpcodeIndex()
        if not 0 <= index < self.model.OperatorCodesLength():
            raise ValueError(f"operator {place} has code {index}, which does not exist")
        code = _there(self.model.OperatorCodes(index), f"operator code {index}")
        # Files of before 2020 have the old field only, newer ones a cut-off copy in it.
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        name = _OPERATORS.get(number, f"operator {number}")
        if name == "CUSTOM":
            name = f"CUSTOM {bytes(code.CustomCode() or b'')[:MAX_NAME].decode('utf-8', 'replace')}"
        inputs = _ints(operator.InputsLength(), operator.Inputs, MAX_OPERANDS, "inputs")
        outputs = _ints(operator.OutputsLength(), operator.Outputs, MAX_OPERANDS, "outputs")
        return FileOperator(name, inputs, outputs, self.options(operator, name))

    @staticmethod
    def options(operator: Any, name: str) -> dict[str, Any]:
        if name not in _FIELDS:
            return {}
        kind, fields = _FIELDS[name]
        found = _OPTIONS.get(operator.BuiltinOptionsType())
        raw = operator.BuiltinOptions()
        if found != kind or raw is None:
            raise ValueError(f"a {name} has no {kind}")
        table = getattr(schema, kind)()
        table.Init(raw.Bytes, raw.Pos)
        values = {field: getattr(table, field)() for field in fields}
        if "Padding" in values:
            values["Padding"] = _PADDINGS.get(values["Padding"], "unknown")
        if hasattr(table, "FusedActivationFunction"):
            activation = table.FusedActivationFunction()
            values["Activation"] = _ACTIVATIONS.get(activation, f"number {activation}")
        return values

    def read(self) -> FileGraph:
        graph = self.graph
        count = _count(graph.OperatorsLength(), MAX_OPERATORS, "operators")
        operators = tuple(self.operator(place) for place in range(count))
        inputs = _ints(graph.InputsLength(), graph.Inputs, MAX_OPERANDS, "inputs")
        outputs = _ints(graph.OutputsLength(), graph.Outputs, MAX_OPERANDS, "outputs")
        used = {*inputs, *outputs}
        for operator in operators:
            used |= {*operator.inputs, *operator.outputs}
        tensors = {index: self.tensor(index) for index in sorted(used - {-1})}
        return FileGraph(tensors, operators, inputs, outputs)


def read_tflite(content: bytes, where: str) -> FileGraph:
    """Parse a .tflite file.

    Args:
        where: how errors name the file.

    Raises:
        CgateError: not a TFLite file, damaged, too large, or with more than one subgraph.
    """
    if len(content) > MAX_FILE:
        raise CgateError(
            f"{where} has {len(content):,} bytes, more than {MAX_FILE:,}: no microcontroller's",
            "give an int8 network that fits a target; `cgate targets` lists their flash",
        )
    if content[4:8] != b"TFL3":
        raise _damaged(where, "it does not begin like one")
    try:
        return _Reader(content).read()
    except CgateError as error:
        raise CgateError(f"{where}: {error.message}", error.hint) from error
    except (
        *(struct.error, ValueError, IndexError, KeyError, TypeError, AttributeError),
        OverflowError,
    ) as error:
        raise _damaged(where, str(error) or type(error).__name__) from error
