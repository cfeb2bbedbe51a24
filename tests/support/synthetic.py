"""Checkpoints of random networks, made without torch, with ranges from a float forward pass."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from cgate.core.checkpoint import CARD, RANGES, WEIGHTS, Checkpoint, load_checkpoint, weight_shapes
from cgate.core.files import write_bytes, write_json
from cgate.core.network import Block, Conv, Gate, Network
from cgate.export.fold import FloatConv, fold

Float = NDArray[np.float64]


def small_network(
    *, shape: tuple[int, int, int] = (8, 8, 1), gate_downsampling: bool = False, width: int = 8
) -> Network:
    """Three stages with an identity block after each start, all identity blocks gated."""
    gate = Gate("controller", 4)
    down = gate if gate_downsampling else None
    w = width
    blocks = (
        Block("s1b0", (Conv(w, w), Conv(w, w, relu=False)), "identity", gate),
        Block("s2b0", (Conv(w, 2 * w, 3, 2), Conv(2 * w, 2 * w, relu=False)), "pad", down),
        Block("s2b1", (Conv(2 * w, 2 * w), Conv(2 * w, 2 * w, relu=False)), "identity", gate),
        Block("s3b0", (Conv(2 * w, 4 * w, 3, 2), Conv(4 * w, 4 * w, relu=False)), "pad", None),
    )
    return Network("small", shape, 64, 32, 10, Conv(shape[2], w), blocks)


def float_conv(x: Float, layer: FloatConv, stride: int, relu: bool) -> Float:
    """Plain loops over the kernel: slow, obvious, shares nothing with the code under test."""
    size = layer.weights.shape[1]
    pad = size // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height = (x.shape[1] - 1) // stride + 1
    width = (x.shape[2] - 1) // stride + 1
    y = np.zeros((len(x), height, width, len(layer.bias))) + layer.bias
    for row in range(size):
        for column in range(size):
            view = padded[:, row : row + stride * height : stride]
            view = view[:, :height, column : column + stride * width : stride][:, :, :width]
            y += view @ layer.weights[:, row, column, :].T
    return np.maximum(y, 0) if relu else y


def float_tensors(
    network: Network, layers: dict[str, FloatConv], images: NDArray[np.uint8]
) -> dict[str, Float]:
    """All tensors of SPEC section 3 with every gate open."""
    x = (images.astype(np.float64) - network.input_zero) / network.input_divisor
    values = {"input": x}
    x = values["stem"] = float_conv(x, layers["stem"], network.stem.stride, True)
    for block in network.blocks:
        name = block.name
        if block.gate is not None:
            mean = values[f"{name}.gate.mean"] = x.mean(axis=(1, 2), keepdims=True)
            hidden = values[f"{name}.gate.hidden"] = float_conv(
                mean, layers[f"{name}.gate.fc1"], 1, True
            )
            values[f"{name}.gate.logit"] = float_conv(hidden, layers[f"{name}.gate.fc2"], 1, False)
        shortcut = x
        if block.shortcut == "pad":
            new = block.body[-1].out_channels - x.shape[3]
            shortcut = np.pad(
                x[:, :: block.stride, :: block.stride],
                ((0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)),
            )
            values[f"{name}.shortcut"] = shortcut
        for i, conv in enumerate(block.body, 1):
            layer = layers[f"{name}.conv{i}"]
            x = values[f"{name}.conv{i}"] = float_conv(x, layer, conv.stride, conv.relu)
        x = values[f"{name}.out"] = np.maximum(shortcut + x, 0)
    mean = values["head.mean"] = x.mean(axis=(1, 2), keepdims=True)
    values["head.logits"] = float_conv(mean, layers["head"], 1, False)
    return values


def random_images(network: Network, count: int, seed: int) -> NDArray[np.uint8]:
    """Smooth random pictures: neighbouring pixels resemble each other, as in photographs."""
    rng = np.random.default_rng(seed)
    height, width, channels = network.input_shape
    coarse = rng.integers(0, 256, (count, (height + 3) // 4, (width + 3) // 4, channels))
    images = coarse.repeat(4, axis=1).repeat(4, axis=2)[:, :height, :width]
    noise = rng.integers(-20, 21, images.shape)
    return np.clip(images + noise, 0, 255).astype(np.uint8)


def write_checkpoint(
    folder: Path, network: Network, seed: int = 0, *, images: int = 64
) -> Checkpoint:
    """Write random weights and their ranges to `folder`; gates are open about half the time."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in weight_shapes(network).items():
        if name.endswith("running_var"):
            array = rng.uniform(0.5, 2.0, shape)
        elif len(shape) > 1:
            array = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        else:
            array = rng.normal(1.0 if "bn" in name and "weight" in name else 0.0, 0.2, shape)
        weights[name] = array.astype(np.float32)
    write_bytes(folder / WEIGHTS, save(weights))
    classes = [f"class{i}" for i in range(network.classes)]
    card = {"schema": 1, "network": network.to_json(), "data": {"classes": classes}}
    write_json(folder / CARD, card)
    write_json(folder / RANGES, {"schema": 1, "tensors": {}})
    pictures = random_images(network, images, seed + 1)
    # Centre the gates' logits on the cut, one block after the other, as later ones see the result.
    for block in network.gated:
        values = float_tensors(network, fold(load_checkpoint(folder)), pictures)
        middle = np.median(values[f"{block.name}.gate.logit"]) + 0.2
        weights[f"blocks.{block.name}.gate.fc2.bias"] -= np.float32(middle)
        write_bytes(folder / WEIGHTS, save(weights))
    tensors = {}
    for name, values_ in float_tensors(network, fold(load_checkpoint(folder)), pictures).items():
        low, high = np.quantile(values_, (0.0001, 0.9999))
        ends = (values_.min(), values_.max(), low, high)
        fields = ("low", "high", "low_quantile", "high_quantile")
        tensors[name] = {"open": {k: float(v) for k, v in zip(fields, ends, strict=True)}}
    write_json(folder / RANGES, {"schema": 1, "tensors": tensors})
    return load_checkpoint(folder)
