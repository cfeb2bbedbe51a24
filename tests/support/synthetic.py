"""Checkpoints of random networks, made without torch, with ranges from a float forward pass."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from cgate.core.checkpoint import CARD, RANGES, WEIGHTS, Checkpoint, load_checkpoint, weight_shapes
from cgate.core.files import write_bytes, write_json
from cgate.core.histogram import Histogram
from cgate.core.network import Block, Conv, Exit, Gate, Network, Pool
from cgate.export.fold import FloatConv, fold

Float = NDArray[np.float64]


def small_network(
    *,
    shape: tuple[int, int, int] = (8, 8, 1),
    gate_downsampling: bool = False,
    width: int = 8,
    kind: str = "controller",
    exits: tuple[str, ...] = (),
) -> Network:
    """Three stages with an identity block after each start, all identity blocks gated.

    Args:
        kind: of the gates.
        exits: blocks behind which to put one; their margins are `write_checkpoint`'s to choose.
    """
    gate = Gate(kind, 4, 0.5 if kind == "random" else None)
    down = gate if gate_downsampling else None
    w = width
    blocks = (
        Block("s1b0", (Conv(w, w), Conv(w, w, relu=False)), "identity", gate),
        Block("s2b0", (Conv(w, 2 * w, 3, 2), Conv(2 * w, 2 * w, relu=False)), "pad", down),
        Block("s2b1", (Conv(2 * w, 2 * w), Conv(2 * w, 2 * w, relu=False)), "identity", gate),
        Block("s3b0", (Conv(2 * w, 4 * w, 3, 2), Conv(4 * w, 4 * w, relu=False)), "pad", None),
    )
    stem = Conv(shape[2], w)
    return Network("small", shape, 64, 32, 10, stem, blocks, tuple(Exit(name) for name in exits))


def basic(
    name: str,
    channels: int,
    outputs: int,
    shortcut: str = "identity",
    *,
    stride: int = 1,
    gate: Gate | None = None,
    relu: bool = True,
    relu6: bool = False,
    pool: Pool | None = None,
) -> Block:
    """A block of two 3x3 convolutions."""
    body = (Conv(channels, outputs, 3, stride), Conv(outputs, outputs, relu=False))
    return Block(name, body, shortcut, gate, relu, relu6, pool)


def plain(name: str, body: tuple[Conv, ...], pool: Pool | None = None) -> Block:
    """A unit without a shortcut, ending in a ReLU."""
    return Block(name, body, "none", None, pool=pool)


def inverted(
    name: str, channels: int, outputs: int, *, stride: int = 1, gate: Gate | None = None
) -> Block:
    """An inverted residual of MobileNetV2, with ReLU6 and a linear end."""
    inner = 3 * channels
    body = (
        Conv(channels, inner, 1, relu6=True),
        Conv(inner, inner, 3, stride, groups=inner, relu6=True),
        Conv(inner, outputs, 1, relu=False),
    )
    same = stride == 1 and channels == outputs
    return Block(name, body, "identity" if same else "none", gate if same else None, relu=False)


def bottleneck(
    name: str, channels: int, outputs: int, *, stride: int = 1, gate: Gate | None = None
) -> Block:
    """A bottleneck of ResNet-50; its shortcut is a projection where the shape changes."""
    inner = outputs // 2
    body = (
        Conv(channels, inner, 1),
        Conv(inner, inner, 3, stride),
        Conv(inner, outputs, 1, relu=False),
    )
    same = stride == 1 and channels == outputs
    return Block(name, body, "identity" if same else "projection", gate)


def _network(
    name: str, blocks: tuple[Block, ...], stem: Conv, stem_pool: Pool | None = None
) -> Network:
    return Network(name, (12, 10, 3), 64, 32, 10, stem, blocks, stem_pool=stem_pool)


_GATE = Gate("controller", 4)
_HALVE = Pool("max", 2, 2)

SHAPES = {
    "option-b": _network(
        "option-b",
        (
            basic("s1b0", 8, 8, gate=_GATE),
            basic("s2b0", 8, 12, "projection", stride=2),
            basic("s2b1", 12, 12, gate=_GATE),
            basic("s3b0", 12, 16, "projection", stride=2, gate=_GATE),
            basic("s3b1", 16, 16, gate=_GATE),
        ),
        Conv(3, 8),
    ),
    "no-relu": _network(
        "no-relu",
        (
            basic("s1b0", 8, 8, gate=_GATE, relu=False),
            basic("s2b0", 8, 12, "projection", stride=2, gate=_GATE, relu=False),
            basic("s3b0", 12, 16, "pad", stride=2, gate=_GATE, relu=False),
        ),
        Conv(3, 8),
    ),
    "inverted": _network(
        "inverted",
        (
            Block(
                "first",
                (Conv(8, 8, groups=8, relu6=True), Conv(8, 8, 1, relu=False)),
                "none",
                None,
                relu=False,
            ),
            inverted("s2b0", 8, 12, stride=2),
            inverted("s2b1", 12, 12, gate=_GATE),
            inverted("s2b2", 12, 12, gate=Gate("cir-predicted", 4)),
            Block("last", (Conv(12, 24, 1, relu=False),), "none", None, relu6=True),
        ),
        Conv(3, 8, 3, 2, relu6=True),
    ),
    "bottleneck": _network(
        "bottleneck",
        (
            bottleneck("s1b0", 8, 16),
            bottleneck("s1b1", 16, 16, gate=_GATE),
            bottleneck("s2b0", 16, 24, stride=2, gate=_GATE),
        ),
        Conv(3, 8, 5),
        Pool("max", 3, 2, 1),
    ),
    "chain": _network(
        "chain",
        (
            plain("u2", (Conv(8, 12, relu=False),), _HALVE),
            plain("u3", (Conv(12, 12), Conv(12, 16, relu=False)), Pool("max", 3, 2, 1)),
            basic("u4", 16, 16, gate=_GATE, pool=Pool("average", 2, 1)),
        ),
        Conv(3, 8),
        Pool("max", 3, 1, 1),
    ),
    "signs": _network(
        "signs",
        (
            basic("a", 8, 8, gate=_GATE),
            basic("b", 8, 8, gate=_GATE, relu=False),
            basic("c", 8, 8, gate=_GATE),
            basic("d", 8, 8, relu6=True),
            basic("e", 8, 8, relu=False),
            basic("f", 8, 12, "pad", stride=2, gate=_GATE),
        ),
        Conv(3, 8),
    ),
}
"""Small networks that between them have every kind of block."""


def float_conv(x: Float, layer: FloatConv, stride: int, relu: bool) -> Float:
    """Plain loops over the kernel: slow, obvious, shares nothing with the code under test."""
    size = layer.weights.shape[1]
    pad = size // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height = (x.shape[1] - 1) // stride + 1
    width = (x.shape[2] - 1) // stride + 1
    y = np.zeros((len(x), height, width, len(layer.bias))) + layer.bias
    inputs = layer.weights.shape[3]
    groups = x.shape[3] // inputs
    outputs = len(layer.bias) // groups
    for row in range(size):
        for column in range(size):
            view = padded[:, row : row + stride * height : stride]
            view = view[:, :height, column : column + stride * width : stride][:, :, :width]
            for k in range(groups):
                part = slice(k * outputs, (k + 1) * outputs)
                seen = view[..., k * inputs : (k + 1) * inputs]
                y[..., part] += seen @ layer.weights[part, row, column, :].T
    return np.maximum(y, 0) if relu else y


def float_pool(x: Float, pool: Pool | None) -> Float:
    if pool is None:
        return x
    pad = pool.padding
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), constant_values=-np.inf)
    size, stride = pool.size, pool.stride
    height, width = ((n - size) // stride + 1 for n in padded.shape[1:3])
    reduce = np.max if pool.kind == "max" else np.mean
    y = np.zeros((len(x), height, width, x.shape[3]))
    for i, j in np.ndindex(height, width):
        window = padded[:, i * stride : i * stride + size, j * stride : j * stride + size]
        y[:, i, j] = reduce(window, axis=(1, 2))
    return y


def activated(x: Float, layer: Conv | Block) -> Float:
    x = np.minimum(x, 6) if layer.relu6 else x
    return np.maximum(x, 0) if layer.relu else x


def float_tensors(
    network: Network, layers: dict[str, FloatConv], images: NDArray[np.uint8]
) -> dict[str, Float]:
    """All tensors of SPEC section 3 with every gate open."""
    x = (images.astype(np.float64) - network.input_zero) / network.input_divisor
    values = {"input": x}
    exits = {each.block for each in network.exits}
    x = float_conv(x, layers["stem"], network.stem.stride, False)
    x = values["stem"] = activated(x, network.stem)
    x = float_pool(x, network.stem_pool)
    for block in network.blocks:
        name = block.name
        if block.gate is not None and block.gate.kind != "static":
            seen = values[f"{name}.gate.mean"] = x.mean(axis=(1, 2), keepdims=True)
            if block.gate.kind == "cir-predicted":
                peak = values[f"{name}.gate.peak"] = x.max(axis=(1, 2), keepdims=True)
                seen = np.concatenate([seen, peak], axis=3)
            last = layers[f"{name}.gate.side"] if block.gate.kind == "anchor" else None
            if last is None:
                last = layers[f"{name}.gate.fc2"]
                seen = float_conv(seen, layers[f"{name}.gate.fc1"], 1, True)
                values[f"{name}.gate.hidden"] = seen
            values[f"{name}.gate.logit"] = float_conv(seen, last, 1, False)
        shortcut = x if block.shortcut == "identity" else np.zeros(())
        if block.projection is not None:
            layer = layers[f"{name}.shortcut"]
            shortcut = values[f"{name}.shortcut"] = float_conv(x, layer, block.stride, False)
        if block.shortcut == "pad":
            new = block.body[-1].out_channels - x.shape[3]
            shortcut = np.pad(
                x[:, :: block.stride, :: block.stride],
                ((0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)),
            )
            values[f"{name}.shortcut"] = shortcut
        for i, conv in enumerate(block.body, 1):
            layer = layers[f"{name}.conv{i}"]
            x = activated(float_conv(x, layer, conv.stride, False), conv)
            values[f"{name}.conv{i}"] = x
        x = values[f"{name}.out"] = activated(shortcut + x, block)
        x = float_pool(x, block.pool)
        if name in exits:
            mean = values[f"{name}.exit.mean"] = x.mean(axis=(1, 2), keepdims=True)
            values[f"{name}.exit.logits"] = float_conv(mean, layers[f"{name}.exit"], 1, False)
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
    """Write random weights and their ranges to `folder`.

    Gates are open about half the time (static ones in every second block), and about half of the
    images leave at each exit.
    """
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
    for i, block in enumerate(network.gated):
        values = float_tensors(network, fold(load_checkpoint(folder)), pictures)
        gate = f"blocks.{block.name}.gate"
        assert block.gate is not None
        if block.gate.kind == "static":
            weights[f"{gate}.bias"][:] = 1 - 2 * (i % 2)
        elif block.gate.kind == "anchor":
            middle = values[f"{block.name}.gate.mean"].mean(axis=(0, 1, 2))
            away = weights[f"{gate}.anchors"][0] - weights[f"{gate}.anchors"][1]
            away -= (away @ middle) / (middle @ middle) * middle
            weights[f"{gate}.anchors"] = np.stack([middle + away, middle - away]).astype(np.float32)
        else:
            gamma = np.exp(weights.get(f"{gate}.log_gamma", np.zeros(1)))
            shift = (np.median(values[f"{block.name}.gate.logit"]) + 0.2) / gamma
            weights[f"{gate}.fc2.bias"] -= shift.astype(np.float32)
        write_bytes(folder / WEIGHTS, save(weights))
    tensors = {}
    values = float_tensors(network, fold(load_checkpoint(folder)), pictures)
    exits = []
    for exit_ in network.exits:
        ordered = np.sort(values[f"{exit_.block}.exit.logits"].reshape(images, -1), axis=1)
        exits.append(replace(exit_, margin=float(np.median(ordered[:, -1] - ordered[:, -2]))))
    write_json(folder / CARD, {**card, "network": replace(network, exits=tuple(exits)).to_json()})
    for name, values_ in values.items():
        low, high = np.quantile(values_, (0.0001, 0.9999))
        ends = (values_.min(), values_.max(), low, high)
        fields = ("low", "high", "low_quantile", "high_quantile")
        tensors[name] = {"open": {k: float(v) for k, v in zip(fields, ends, strict=True)}}
    histograms = {name: _histogram(array).to_json() for name, array in values.items()}
    write_json(folder / RANGES, {"schema": 1, "tensors": tensors, "histograms": histograms})
    return load_checkpoint(folder)


def _histogram(values: Float) -> Histogram:
    nonzero = values[values != 0]
    exponent = int(np.ceil(np.log2(np.abs(values).max() / 256 + 1e-9)))
    places = np.floor(nonzero / 2.0**exponent).astype(np.int64)
    first = int(places.min(initial=0))
    return Histogram(exponent, first, np.bincount(places - first), values.size - nonzero.size)
