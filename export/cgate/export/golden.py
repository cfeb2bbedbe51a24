"""TFLite's reference kernels on exported files: the independent oracle of the plan's arithmetic."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgate.core.errors import EXIT_TOOL_MISSING, CgateError

# Package -> module. tflite-runtime 2.14.0 is the golden one: frozen, its last release.
INTERPRETERS = {
    "tflite-runtime": "tflite_runtime.interpreter",
    "ai-edge-litert": "ai_edge_litert.interpreter",
}


def _interpreter(package: str) -> Callable[[bytes], Any]:
    try:
        module: Any = importlib.import_module(INTERPRETERS[package])
    except ImportError as error:
        raise CgateError(
            f"{package}, which has TFLite's reference kernels, is not installed",
            'pip install "cgate[golden]"',
            EXIT_TOOL_MISSING,
        ) from error
    resolver = module.OpResolverType.BUILTIN_REF
    return lambda content: module.Interpreter(
        model_content=content, experimental_op_resolver_type=resolver
    )


def require_golden() -> None:
    """Raise the CgateError that GoldenUnit would raise if the golden package is missing."""
    _interpreter("tflite-runtime")


class GoldenUnit:
    """One .tflite, of a unit or of the whole network, under BUILTIN_REF.

    Args:
        content: the file's bytes.
        package: a key of INTERPRETERS.

    Raises:
        CgateError: the package is missing.
    """

    def __init__(self, content: bytes, package: str = "tflite-runtime") -> None:
        self._interpreter = _interpreter(package)(content)
        self._interpreter.allocate_tensors()
        details = self._interpreter.get_input_details()
        self._inputs = [(each["index"], tuple(each["shape"])) for each in details]
        self._outputs = [each["index"] for each in self._interpreter.get_output_details()]

    def __call__(self, inputs: Sequence[NDArray[np.int8]]) -> list[NDArray[Any]]:
        """Run on n images: inputs and outputs are (n, ...) in the file's order."""
        rows: list[list[NDArray[Any]]] = []
        for i in range(len(inputs[0])):
            for (index, shape), values in zip(self._inputs, inputs, strict=True):
                self._interpreter.set_tensor(index, values[i].reshape(shape))
            self._interpreter.invoke()
            rows.append([self._interpreter.get_tensor(index) for index in self._outputs])
        return [np.concatenate(column) for column in zip(*rows, strict=True)]
