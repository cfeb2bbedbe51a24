"""What a network looks like: a description that torch builds from and export lowers from.

The checkpoint's card carries it (SPEC.md, "Checkpoint"), so that export needs no torch and no
code per architecture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cgate.core.errors import CgateError

THRESHOLD = 0.45
"""Gates are open where sigmoid(logit) > 0.45 (CosineGate, arXiv 2512.22206)."""

MAX_BLOCKS = 100
MAX_CHANNELS = 4096


@dataclass(frozen=True)
class Conv:
    """A square convolution without bias, followed by batch norm; padding is kernel // 2."""

    in_channels: int
    out_channels: int
    kernel: int = 3
    stride: int = 1
    relu: bool = True


@dataclass(frozen=True)
class Gate:
    """A gate that needs only the block's input x.

    Args:
        kind: "controller": mean over the map, then two linear layers with a ReLU between.
        hidden: units between the two layers.
    """

    kind: str = "controller"
    hidden: int = 16


@dataclass(frozen=True)
class Block:
    """A residual block: relu(shortcut(x) + body(x)), or relu(shortcut(x)) where the gate is shut.

    Args:
        name: "s2b0": stage 2, block 0.
        body: the residual branch F; the last convolution has no ReLU.
        shortcut: "identity", or "pad": every stride-th pixel, new channels zero (option A of
            He et al. 2016): no weights, and never negative after a ReLU.
        gate: None if the body always runs.
    """

    name: str
    body: tuple[Conv, ...]
    shortcut: str
    gate: Gate | None

    @property
    def stride(self) -> int:
        """Stride of the whole block."""
        product = 1
        for conv in self.body:
            product *= conv.stride
        return product


@dataclass(frozen=True)
class Network:
    """A gated residual classifier: stem, blocks, mean over the map, one linear layer.

    Args:
        name: "resnet14".
        input_shape: height, width, channels.
        input_zero: pixel value (0..255) that the network sees as 0.0.
        input_divisor: the network sees (pixel - input_zero) / input_divisor.
        classes: number of logits.
    """

    name: str
    input_shape: tuple[int, int, int]
    input_zero: int
    input_divisor: int
    classes: int
    stem: Conv
    blocks: tuple[Block, ...]

    @property
    def gated(self) -> tuple[Block, ...]:
        """The blocks that have a gate, in order."""
        return tuple(block for block in self.blocks if block.gate is not None)

    @property
    def features(self) -> int:
        """Channels that reach the head."""
        return self.blocks[-1].body[-1].out_channels if self.blocks else self.stem.out_channels

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; `network_from_json` reads them back."""
        value: dict[str, Any] = asdict(self)
        return value


def conv_macs(conv: Conv, out_height: int, out_width: int) -> int:
    """Multiply-accumulates of a convolution whose output has this height and width."""
    return out_height * out_width * conv.out_channels * conv.in_channels * conv.kernel**2


def conv_output(size: int, conv: Conv) -> int:
    """Output height (or width) of a convolution over `size` rows (or columns)."""
    return (size + 2 * (conv.kernel // 2) - conv.kernel) // conv.stride + 1


def gate_macs(gate: Gate, shape: tuple[int, int, int]) -> int:
    """Cost of a gate on a map of this (height, width, channels).

    The mean counts one MAC per element, so that the gate is never presented as free.
    """
    height, width, channels = shape
    return height * width * channels + channels * gate.hidden + gate.hidden


@dataclass(frozen=True)
class UnitMacs:
    """Cost in MACs of the parts of a network; gates and bodies by block name."""

    stem: int
    gates: Mapping[str, int]
    bodies: Mapping[str, int]
    head: int

    @property
    def dense(self) -> int:
        """The same network without gates."""
        return self.stem + sum(self.bodies.values()) + self.head


def network_macs(network: Network) -> UnitMacs:
    """Cost of every part of `network`, in MACs per image. Adds and copies count nothing."""
    height, width, _ = network.input_shape
    height, width = conv_output(height, network.stem), conv_output(width, network.stem)
    stem = conv_macs(network.stem, height, width)
    gates: dict[str, int] = {}
    bodies: dict[str, int] = {}
    channels = network.stem.out_channels
    for block in network.blocks:
        if block.gate is not None:
            gates[block.name] = gate_macs(block.gate, (height, width, channels))
        total = 0
        for conv in block.body:
            height, width = conv_output(height, conv), conv_output(width, conv)
            total += conv_macs(conv, height, width)
        bodies[block.name] = total
        channels = block.body[-1].out_channels
    head = height * width * channels + channels * network.classes
    return UnitMacs(stem, gates, bodies, head)


def _get(value: Any, key: str, kind: type, where: str) -> Any:
    if not isinstance(value, dict) or key not in value:
        raise CgateError(f"{where}: {key!r} is missing")
    item = value[key]
    if not isinstance(item, kind) or (kind is int and isinstance(item, bool)):
        raise CgateError(f"{where}: {key!r} should be {kind.__name__}, is {type(item).__name__}")
    return item


def _size(value: Any, key: str, where: str, low: int, high: int) -> int:
    size = _get(value, key, int, where)
    if not low <= size <= high:
        raise CgateError(f"{where}: {key!r} is {size}, allowed are {low} to {high}")
    return int(size)


def _conv(value: Any, where: str) -> Conv:
    conv = Conv(
        _size(value, "in_channels", where, 1, MAX_CHANNELS),
        _size(value, "out_channels", where, 1, MAX_CHANNELS),
        _size(value, "kernel", where, 1, 11),
        _size(value, "stride", where, 1, 4),
        _get(value, "relu", bool, where),
    )
    if conv.kernel % 2 == 0:
        raise CgateError(f"{where}: kernel {conv.kernel} is even; supported are odd kernels")
    return conv


def _block(value: Any, where: str) -> Block:
    name = _get(value, "name", str, where)
    if not name.isidentifier() or not name.isascii():
        raise CgateError(f"{where}: block name {name!r} is no identifier")
    where = f"{where} ({name})"
    gate = None
    if value.get("gate") is not None:
        kind = _get(value["gate"], "kind", str, f"{where}.gate")
        if kind != "controller":
            raise CgateError(
                f"{where}.gate: kind {kind!r} cannot be lowered", "supported gates: controller"
            )
        gate = Gate(kind, _size(value["gate"], "hidden", f"{where}.gate", 1, 1024))
    shortcut = _get(value, "shortcut", str, where)
    if shortcut not in ("identity", "pad"):
        raise CgateError(
            f"{where}: shortcut {shortcut!r} cannot be lowered",
            "supported shortcuts: identity, pad (option A)",
        )
    body = tuple(
        _conv(item, f"{where}.body[{i}]") for i, item in enumerate(_get(value, "body", list, where))
    )
    if not body or body[-1].relu:
        raise CgateError(f"{where}: the body must end in a convolution without ReLU")
    block = Block(name, body, shortcut, gate)
    if shortcut == "identity" and (
        block.stride != 1 or body[0].in_channels != body[-1].out_channels
    ):
        raise CgateError(f"{where}: an identity shortcut cannot change the shape")
    if body[-1].out_channels < body[0].in_channels:
        raise CgateError(f"{where}: a padded shortcut cannot drop channels")
    return block


def network_from_json(value: Any, where: str = "network") -> Network:
    """Check and read what `Network.to_json` wrote.

    Args:
        value: parsed JSON from a file that may be corrupt or foreign.
        where: how errors name it.

    Raises:
        CgateError: a field is missing, of the wrong type, out of range or not supported; the
            message names its path.
    """
    shape = _get(value, "input_shape", list, where)
    if len(shape) != 3 or not all(type(n) is int and 1 <= n <= 1024 for n in shape):
        raise CgateError(f"{where}: input_shape {shape!r} is not [height, width, channels]")
    blocks = _get(value, "blocks", list, where)
    if len(blocks) > MAX_BLOCKS:
        raise CgateError(f"{where}: {len(blocks)} blocks, at most {MAX_BLOCKS} are supported")
    name = _get(value, "name", str, where)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name):
        # It stands in comments of the generated C.
        raise CgateError(f"{where}: name {name!r} is not made of letters, digits, '.', '_', '-'")
    network = Network(
        name,
        (shape[0], shape[1], shape[2]),
        _size(value, "input_zero", where, 0, 255),
        _size(value, "input_divisor", where, 1, 1 << 16),
        _size(value, "classes", where, 2, 4096),
        _conv(_get(value, "stem", dict, where), f"{where}.stem"),
        tuple(_block(item, f"{where}.blocks[{i}]") for i, item in enumerate(blocks)),
    )
    if not network.stem.relu:
        raise CgateError(f"{where}.stem: the stem must end in a ReLU")
    names = [block.name for block in network.blocks]
    if len(set(names)) != len(names):
        raise CgateError(f"{where}: two blocks have the same name")
    channels = shape[2]
    for what, conv in [("stem", network.stem)] + [
        (block.name, conv) for block in network.blocks for conv in block.body
    ]:
        if conv.in_channels != channels:
            raise CgateError(
                f"{where}: {what} takes {conv.in_channels} channels but is given {channels}"
            )
        channels = conv.out_channels
    return network
