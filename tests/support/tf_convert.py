"""Units through TensorFlow's own converter.

A program of its own, because TensorFlow must not be loaded into a process of tflite-runtime.

    python tf_convert.py FOLDER

reads FOLDER/units.json, {unit: {"inputs", "ops"}}, and FOLDER/weights.npz, and writes
FOLDER/<unit>.tflite. An input has `name`, `shape` and the real `range` of its codes. An op has
`kind` ("conv2d", "mean", "add"), `input`, `output`, the `range` of its output, and of a convolution
the layer's name, `stride`, `padding` (top, left, bottom, right) and `relu`; of an addition
`stream`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf


def rounded(x: Any, ends: list[float]) -> Any:
    """Tells the converter the range of a tensor."""
    return tf.quantization.fake_quant_with_min_max_args(x, ends[0], ends[1], num_bits=8)


def convolution(x: Any, op: dict[str, Any], ends: list[float], weights: Any) -> Any:
    kernel = weights[f"{op['layer']}.weights"].astype(np.float32)
    largest = np.abs(kernel).reshape(len(kernel), -1).max(axis=1)
    kernel = tf.quantization.fake_quant_with_min_max_vars_per_channel(
        tf.constant(kernel.transpose(1, 2, 3, 0)), -largest, largest, narrow_range=True
    )
    top, left, bottom, right = op["padding"]
    padding = "VALID"
    if any(op["padding"]):
        if op["stride"] == 1:
            padding = "SAME"
        else:
            x = tf.pad(x, [[0, 0], [top, bottom], [left, right], [0, 0]])
            x = rounded(x, ends)
    x = tf.nn.conv2d(x, kernel, op["stride"], padding)
    x = tf.nn.bias_add(x, weights[f"{op['layer']}.bias"].astype(np.float32))
    return tf.nn.relu(x) if op["relu"] else x


def convert(unit: dict[str, Any], weights: Any) -> bytes:
    inputs, ops = unit["inputs"], unit["ops"]
    ranges = {each["name"]: each["range"] for each in inputs}
    ranges |= {op["output"]: op["range"] for op in ops}

    def compute(*tensors: Any) -> Any:
        values = {
            each["name"]: rounded(x, each["range"]) for each, x in zip(inputs, tensors, strict=True)
        }
        for op in ops:
            x = values[op["input"]]
            if op["kind"] == "conv2d":
                x = convolution(x, op, ranges[op["input"]], weights)
            elif op["kind"] == "mean":
                x = tf.reduce_mean(x, [1, 2], keepdims=True)
            else:
                x = tf.nn.relu(values[op["stream"]] + x)
            values[op["output"]] = rounded(x, op["range"])
        return values[ops[-1]["output"]]

    specs = [tf.TensorSpec([1, *each["shape"]]) for each in inputs]
    traced = tf.function(compute, input_signature=specs).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([traced], tf.Module())
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    content: bytes = converter.convert()
    return content


def main() -> None:
    folder = Path(sys.argv[1])
    weights = np.load(folder / "weights.npz")
    for name, unit in json.loads((folder / "units.json").read_text()).items():
        (folder / f"{name}.tflite").write_bytes(convert(unit, weights))


if __name__ == "__main__":
    main()
