"""Why there is no QDQ ONNX: its convolutions beside the plan's, on the same int8 inputs.

PYTHONPATH=train:export:host_tools:tests/support python tests/export/bench_qdq.py CHECKPOINT

For every convolution of the checkpoint's plan, images of the data set's test split go through the
reference up to its input; the convolution itself then runs as DequantizeLinear, Conv,
QuantizeLinear in onnxruntime, once as written (float32) and once as onnxruntime fuses it (int8).
Prints a CSV line per mode, and the first value that differs with its exact accumulator.
"""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cgate.core.checkpoint import load_checkpoint
from cgate.core.data import load_dataset
from cgate.core.plan import Conv2d, Plan, Weights
from cgate.core.targets import find_target
from cgate.export import reference
from cgate.export.lower import lower

IMAGES = 20
MODES = {
    "as written": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "fused": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


def qdq(plan: Plan, weights: Weights, op: Conv2d) -> bytes:
    """One convolution in the QDQ form: NCHW int8 in, int8 out."""
    source, target = plan.tensor(op.input), plan.tensor(op.output)
    kernel = weights[op.weights].transpose(0, 3, 1, 2)
    constants: dict[str, Any] = {
        "x_scale": np.float32(source.scale),
        "x_zero": np.int8(source.zero_point),
        "w": np.ascontiguousarray(kernel),
        "w_scale": weights[op.scale],
        "w_zero": np.zeros(len(kernel), np.int8),
        "b": weights[op.bias],
        "b_scale": np.float32(source.scale) * weights[op.scale],
        "b_zero": np.zeros(len(kernel), np.int32),
        "y_scale": np.float32(target.scale),
        "y_zero": np.int8(target.zero_point),
    }
    # A ReLU needs no node: its clamp is the one of int8, or that of the zero point -128.
    top, left, bottom, right = op.padding
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "x_scale", "x_zero"], ["xf"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wf"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "b_scale", "b_zero"], ["bf"], axis=0),
        helper.make_node(
            "Conv",
            ["xf", "wf", "bf"],
            ["yf"],
            pads=[top, left, bottom, right],
            strides=[op.stride] * 2,
        ),
        helper.make_node("QuantizeLinear", ["yf", "y_scale", "y_zero"], ["y"]),
    ]
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.INT8, ["n", each.shape[2], *each.shape[:2]])
        for name, each in (("x", source), ("y", target))
    )
    initializers = [
        numpy_helper.from_array(np.asarray(each), name) for name, each in constants.items()
    ]
    graph = helper.make_graph(nodes, "qdq", [x], [y], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def explain(
    plan: Plan, weights: Weights, op: Conv2d, x: NDArray[np.int8], place: tuple[int, ...], got: int
) -> str:
    """The value at `place` (image, row, column, channel) in exact arithmetic."""
    image, row, column, channel = place
    source, target = plan.tensor(op.input), plan.tensor(op.output)
    kernel = weights[op.weights][channel].astype(np.int64)
    top, left, bottom, right = op.padding
    edges = ((top, bottom), (left, right), (0, 0))
    padded = np.pad(x[image].astype(np.int64) - source.zero_point, edges)
    r, c = row * op.stride, column * op.stride
    window = padded[r : r + kernel.shape[0], c : c + kernel.shape[1]]
    accumulator = int((window * kernel).sum()) + int(weights[op.bias][channel])
    multiplier, shift = int(weights[op.multiplier][channel]), int(weights[op.shift][channel])
    exact = Fraction(accumulator * multiplier) * Fraction(2) ** (shift - 31)
    scale = np.float32(weights[op.scale][channel])
    wanted = reference.conv2d(x[image : image + 1], op, weights, source, target)[0][place[1:]]
    return (
        f"{op.output} {place}: accumulator {accumulator}, times {multiplier} * 2^{shift - 31} = "
        f"{float(exact):.9f}; reference {int(wanted) - target.zero_point:+d}, "
        f"onnxruntime {got - target.zero_point:+d} (scales {source.scale!r}, {float(scale)!r}, "
        f"{target.scale!r})"
    )


def main(folder: Path) -> None:
    """Print the comparison."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    checkpoint = load_checkpoint(folder)
    plan, weights = lower(checkpoint, find_target("cortex-m4"))
    data = load_dataset(checkpoint.card["data"]["name"])
    values = {plan.input: reference.to_input(data.test.images[:IMAGES])}
    for unit in plan.units:  # with all gates open, so that every unit has its inputs
        values |= reference.run_unit(plan, weights, unit, values)
    print("network,onnxruntime,mode,convolutions,values,differ,largest_difference,n,commit")
    for mode, level in MODES.items():
        convolutions = total = differing = largest = 0
        example = ""
        for unit in plan.units:
            for op in unit.ops:
                if not isinstance(op, Conv2d):
                    continue
                options = ort.SessionOptions()
                options.graph_optimization_level = level
                options.intra_op_num_threads = 1
                # On x86 onnxruntime does not fuse int8 activations unless told to.
                options.add_session_config_entry("session.qdqisint8allowed", "1")
                session = ort.InferenceSession(qdq(plan, weights, op), options)
                x = values[op.input]
                (y,) = session.run(None, {"x": np.ascontiguousarray(x.transpose(0, 3, 1, 2))})
                found, wanted = y.transpose(0, 2, 3, 1), values[op.output]
                difference = np.abs(found.astype(int) - wanted)
                convolutions += 1
                total += wanted.size
                differing += int(np.count_nonzero(difference))
                largest = max(largest, int(difference.max()))
                if difference.any() and not example:
                    place = tuple(int(i) for i in np.argwhere(difference)[0])
                    example = explain(plan, weights, op, x, place, int(found[place]))
        name = f"{plan.network.name},{ort.__version__},{mode},{convolutions}"
        print(f"{name},{total},{differing},{largest},{IMAGES},{commit}")
        print(f"  {example}", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
