"""The units through TensorFlow's converter, told the plan's ranges: the same integers."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from cgate.core.plan import Conv2d, Mean, Plan, ResidualAdd, Tensor, Unit
from cgate.core.targets import find_target
from cgate.export.emit_tflite import emit_tflite, unit_file
from cgate.export.fold import fold
from cgate.export.lower import lower
from synthetic import small_network, write_checkpoint

PROGRAM = Path(__file__).parents[1] / "support" / "tf_convert.py"
NETWORK = small_network(shape=(12, 12, 3), exits=("s1b0",))


def ends(tensor: Tensor) -> list[float]:
    """Real values of the codes -128 and 127."""
    return [tensor.scale * (code - tensor.zero_point) for code in (-128, 127)]


def described(plan: Plan, unit: Unit) -> dict[str, Any]:
    """The unit in the words of tf_convert.py; decisions have no weights to compare."""
    ops: list[dict[str, Any]] = []
    for op in unit.ops:
        if not isinstance(op, Conv2d | Mean | ResidualAdd):
            continue
        target = plan.tensor(op.output)
        value: dict[str, Any] = {
            "kind": "add" if isinstance(op, ResidualAdd) else op.op,
            "input": op.input,
            "output": op.output,
            "range": ends(target),
        }
        if isinstance(op, Conv2d):
            value |= {
                "layer": op.weights.removesuffix(".weights"),
                "stride": op.stride,
                "padding": op.padding,
                "relu": target.zero_point == -128,
            }
        if isinstance(op, ResidualAdd):
            value["stream"] = op.stream
        ops.append(value)
    tensors = [plan.tensor(name) for name in unit.inputs]
    inputs = [{"name": each.name, "shape": each.shape, "range": ends(each)} for each in tensors]
    return {"inputs": inputs, "ops": ops}


class Convolution:
    """What a file's CONV_2D holds."""

    def __init__(self, model: Any, graph: Any, operator: Any) -> None:
        def array(index: int, dtype: type[np.generic]) -> NDArray[Any]:
            raw = bytes(model.buffers[graph.tensors[index].buffer].data)
            return np.frombuffer(raw, dtype).reshape(graph.tensors[index].shape)

        def scale(index: int) -> NDArray[np.float32]:
            return np.asarray(graph.tensors[index].quantization.scale, np.float32)

        x, weights, bias = operator.inputs
        self.weights = array(weights, np.int8)
        self.bias = array(bias, np.int32)
        # The bias's scale is the product of the first two.
        self.scales = [scale(index) for index in (x, weights, operator.outputs[0])]
        self.zero_points = [
            int(graph.tensors[index].quantization.zeroPoint[0])
            for index in (x, operator.outputs[0])
        ]


def convolutions(content: bytes) -> Iterator[Convolution]:
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    for operator in graph.operators:
        if model.operatorCodes[operator.opcodeIndex].builtinCode == schema.BuiltinOperator.CONV_2D:
            yield Convolution(model, graph, operator)


@pytest.mark.slow
def test_the_converter_makes_the_same_integers(tmp_path: Path) -> None:
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip('tensorflow is missing: pip install "cgate[tf]"')
    checkpoint = write_checkpoint(tmp_path / "checkpoint", NETWORK, seed=3)
    plan, weights = lower(checkpoint, find_target("cortex-m4"))
    chosen = [unit for unit in plan.units if unit.role != "shortcut"]
    units = {unit.name: described(plan, unit) for unit in chosen}
    (tmp_path / "units.json").write_text(json.dumps(units))
    layers = fold(checkpoint)
    arrays = {f"{name}.weights": layer.weights for name, layer in layers.items()}
    arrays |= {f"{name}.bias": layer.bias for name, layer in layers.items()}
    np.savez(tmp_path / "weights.npz", **arrays)
    command = [sys.executable, str(PROGRAM), str(tmp_path)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "tensorflow" not in sys.modules
    files = emit_tflite(plan, weights)
    compared = 0
    for unit in chosen:
        ours = list(convolutions(files[unit_file(unit)]))
        theirs = list(convolutions((tmp_path / f"{unit.name}.tflite").read_bytes()))
        assert len(ours) == len(theirs) > 0
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one.weights, other.weights, err_msg=unit.name)
            np.testing.assert_array_equal(one.bias, other.bias, err_msg=unit.name)
            assert one.zero_points == other.zero_points, unit.name
            for mine, wanted in zip(one.scales, other.scales, strict=True):
                apart = np.abs(mine.view(np.int32) - wanted.view(np.int32))
                assert apart.max() <= 1, (unit.name, mine, wanted)
            compared += one.weights.size
    assert compared == sum(layer.weights.size for layer in layers.values())
