"""What a network looks like: a description that torch builds from and export lowers from.

The checkpoint's card carries it (SPEC.md, "Checkpoint"), so that export needs no torch and no
code per architecture.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cgate.core.errors import CgateError
from cgate.core.gates import GATE_KINDS, probe_pool
from cgate.core.gates import Gate as Gate

THRESHOLD = 0.45
"""Gates are open where sigmoid(logit) > 0.45 (CosineGate, arXiv 2512.22206)."""

MAX_BLOCKS = 100
MAX_CHANNELS = 4096
MAX_MARGIN = 1e30  # of an exit; above is no float, or infinite
SHORTCUTS = ("identity", "pad", "projection", "none")
POOLS = ("max", "average")


@dataclass(frozen=True)
class Conv:
    """A square convolution without bias, followed by batch norm; padding is kernel // 2.

    Args:
        groups: input and output channels are cut into so many parts that do not mix; as many as
            there are channels makes a depthwise convolution.
        relu6: whether the ReLU ends at 6.
    """

    in_channels: int
    out_channels: int
    kernel: int = 3
    stride: int = 1
    relu: bool = True
    groups: int = 1
    relu6: bool = False


@dataclass(frozen=True)
class Pool:
    """Square windows of a map, of which the largest value or the mean is kept.

    Args:
        kind: one of POOLS.
        padding: on each side, in pixels that count nothing; only "max" takes any.
    """

    kind: str
    size: int
    stride: int
    padding: int = 0


@dataclass(frozen=True)
class Block:
    """A residual block: relu(shortcut(x) + body(x)), or relu(shortcut(x)) where the gate is shut.

    With shortcut "none", a plain unit of a chain.

    Args:
        name: "s2b0": stage 2, block 0.
        body: the residual branch F; the last convolution has no ReLU.
        shortcut: "identity"; "pad": every stride-th pixel, new channels zero (option A of
            He et al. 2016): no weights, and never negative after a ReLU; "projection": a strided
            1x1 convolution with batch norm (option B); "none": no residual, relu(body(x)).
        gate: None if the body always runs.
        relu: whether a ReLU follows the addition.
        relu6: whether that ReLU ends at 6.
        pool: what follows all that; it always runs.
    """

    name: str
    body: tuple[Conv, ...]
    shortcut: str
    gate: Gate | None
    relu: bool = True
    relu6: bool = False
    pool: Pool | None = None

    @property
    def projection(self) -> Conv | None:
        """The convolution of a "projection" shortcut, None for the others."""
        if self.shortcut != "projection":
            return None
        ends = self.body[0].in_channels, self.body[-1].out_channels
        return Conv(*ends, kernel=1, stride=self.stride, relu=False)

    @property
    def stride(self) -> int:
        """Stride of the whole block."""
        product = 1
        for conv in self.body:
            product *= conv.stride
        return product


@dataclass(frozen=True)
class Exit:
    """A classifier behind a block: mean over the map, one linear layer.

    Its answer is final for an image whose two largest logits differ by more than the margin.

    Args:
        block: name of the block behind which it stands.
        margin: in the units of the float32 logits, at least 0; None never leaves.
    """

    block: str
    margin: float | None = None


@dataclass(frozen=True)
class Network:
    """A gated residual classifier: stem, blocks, mean over the map, one linear layer.

    Args:
        name: "resnet14".
        input_shape: height, width, channels.
        input_zero: pixel value (0..255) that the network sees as 0.0.
        input_divisor: the network sees (pixel - input_zero) / input_divisor.
        classes: number of logits.
        exits: in the order of their blocks.
        stem_pool: what follows the stem.
    """

    name: str
    input_shape: tuple[int, int, int]
    input_zero: int
    input_divisor: int
    classes: int
    stem: Conv
    blocks: tuple[Block, ...]
    exits: tuple[Exit, ...] = ()
    stem_pool: Pool | None = None

    @property
    def gated(self) -> tuple[Block, ...]:
        """The blocks that have a gate, in order."""
        return tuple(block for block in self.blocks if block.gate is not None)

    @property
    def features(self) -> int:
        """Channels that reach the head."""
        return self.blocks[-1].body[-1].out_channels if self.blocks else self.stem.out_channels

    def channels_after(self, block: str) -> int:
        """Channels of the stream behind the block of this name."""
        return next(each.body[-1].out_channels for each in self.blocks if each.name == block)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; `network_from_json` reads them back."""
        value: dict[str, Any] = asdict(self)
        return value


def conv_macs(conv: Conv, out_height: int, out_width: int) -> int:
    """Multiply-accumulates of a convolution whose output has this height and width."""
    inputs = conv.in_channels // conv.groups
    return out_height * out_width * conv.out_channels * inputs * conv.kernel**2


def conv_output(size: int, conv: Conv) -> int:
    """Output height (or width) of a convolution over `size` rows (or columns)."""
    return (size + 2 * (conv.kernel // 2) - conv.kernel) // conv.stride + 1


def pool_output(size: int, pool: Pool) -> int:
    """Output height (or width) of pooling over `size` rows (or columns)."""
    return (size + 2 * pool.padding - pool.size) // pool.stride + 1


def pool_macs(pool: Pool, shape: tuple[int, int, int]) -> int:
    """Cost of pooling whose output has this (height, width, channels): one per element seen."""
    return math.prod(shape) * pool.size**2


def _body_macs(block: Block, height: int, width: int) -> tuple[int, int, int]:
    """Cost of a block's body on a map of this size, and the height and width that it leaves."""
    total = 0
    for conv in block.body:
        height, width = conv_output(height, conv), conv_output(width, conv)
        total += conv_macs(conv, height, width)
    return total, height, width


def gate_macs(block: Block, shape: tuple[int, int, int]) -> int:
    """Cost of the gate of `block`, whose input is a map of this (height, width, channels).

    A mean, a maximum and each of the three sums of a cosine count one MAC per element, so that
    the gate is never presented as free. A body that the gate needs is not part of its cost: it
    counts as executed.
    """
    gate = block.gate
    assert gate is not None
    height, width, channels = shape
    mean = height * width * channels
    layers = channels * gate.hidden + gate.hidden
    outputs = block.body[-1].out_channels
    if gate.kind == "controller":
        return mean + layers
    if gate.kind == "cir":
        _, out_height, out_width = _body_macs(block, height, width)
        return mean + layers + 3 * out_height * out_width * outputs
    if gate.kind == "cir-predicted":
        # As deployed: both statistics, and the layers of h and c side by side.
        return 2 * mean + 2 * channels * 2 * gate.hidden + 2 * gate.hidden
    if gate.kind == "probe":
        pool = probe_pool(height, width)
        body, out_height, out_width = _body_macs(block, height // pool, width // pool)
        return mean + body + 3 * out_height * out_width * outputs
    return mean + channels if gate.kind == "anchor" else 0


def head_macs(shape: tuple[int, int, int], classes: int) -> int:
    """Cost of the head, or of an exit, on a map of this (height, width, channels).

    The mean counts one MAC per element.
    """
    height, width, channels = shape
    return height * width * channels + channels * classes


@dataclass(frozen=True)
class UnitCosts:
    """Cost of the parts of a network, in MACs or cycles; the mappings are by block name.

    What costs nothing need not stand in them: a shortcut that is no projection has no MACs.
    `pools` are those behind blocks; the one behind the stem is in `stem`.
    """

    stem: int
    gates: Mapping[str, int]
    bodies: Mapping[str, int]
    head: int
    exits: Mapping[str, int] = field(default_factory=dict)
    shortcuts: Mapping[str, int] = field(default_factory=dict)
    pools: Mapping[str, int] = field(default_factory=dict)

    @property
    def dense(self) -> int:
        """The same network without gates and exits."""
        parts = (self.bodies, self.shortcuts, self.pools)
        return self.stem + sum(sum(part.values()) for part in parts) + self.head


def network_macs(network: Network) -> UnitCosts:
    """Cost of every part of `network`, in MACs per image. Adds and copies count nothing."""
    height, width, _ = network.input_shape
    height, width = conv_output(height, network.stem), conv_output(width, network.stem)
    stem = conv_macs(network.stem, height, width)
    channels = network.stem.out_channels

    def pooled(pool: Pool) -> int:
        nonlocal height, width
        height, width = pool_output(height, pool), pool_output(width, pool)
        return pool_macs(pool, (height, width, channels))

    if network.stem_pool is not None:
        stem += pooled(network.stem_pool)
    pools: dict[str, int] = {}
    gates: dict[str, int] = {}
    bodies: dict[str, int] = {}
    exits: dict[str, int] = {}
    leaving = {each.block for each in network.exits}
    shortcuts: dict[str, int] = {}
    for block in network.blocks:
        if block.gate is not None:
            gates[block.name] = gate_macs(block, (height, width, channels))
        bodies[block.name], height, width = _body_macs(block, height, width)
        if block.projection is not None:
            shortcuts[block.name] = conv_macs(block.projection, height, width)
        channels = block.body[-1].out_channels
        if block.pool is not None:
            pools[block.name] = pooled(block.pool)
        if block.name in leaving:
            exits[block.name] = head_macs((height, width, channels), network.classes)
    head = head_macs((height, width, channels), network.classes)
    return UnitCosts(stem, gates, bodies, head, exits, shortcuts, pools)


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
        _size({"groups": 1, **value}, "groups", where, 1, MAX_CHANNELS),
        _get({"relu6": False, **value}, "relu6", bool, where),
    )
    if conv.relu6 and not conv.relu:
        raise CgateError(f"{where}: 'relu6' without 'relu'")
    if conv.kernel % 2 == 0:
        raise CgateError(f"{where}: kernel {conv.kernel} is even; supported are odd kernels")
    if conv.in_channels % conv.groups or conv.out_channels % conv.groups:
        raise CgateError(
            f"{where}: {conv.groups} groups do not divide {conv.in_channels} input and "
            f"{conv.out_channels} output channels"
        )
    return conv


def _pool(value: Any, where: str) -> Pool | None:
    if value is None:
        return None
    kind = _get(value, "kind", str, where)
    if kind not in POOLS:
        raise CgateError(f"{where}: kind {kind!r} is not one of {', '.join(POOLS)}")
    size = _size(value, "size", where, 1, 64)
    padding = _size(value, "padding", where, 0, size // 2 if kind == "max" else 0)
    return Pool(kind, size, _size(value, "stride", where, 1, 64), padding)


def _gate(value: Any, where: str) -> Gate:
    kind = _get(value, "kind", str, where)
    if kind not in GATE_KINDS:
        raise CgateError(f"{where}: kind {kind!r} is not one of {', '.join(GATE_KINDS)}")
    rate = value.get("rate")
    if (kind == "random") != (rate is not None):
        raise CgateError(f"{where}: 'rate' is {rate!r}, which does not go with kind {kind!r}")
    if rate is not None and not (type(rate) in (int, float) and 0 <= rate <= 1):
        raise CgateError(f"{where}: 'rate' is {rate!r}, allowed is 0 to 1")
    return Gate(kind, _size(value, "hidden", where, 1, 1024), rate)


def _block(value: Any, where: str) -> Block:
    name = _get(value, "name", str, where)
    if not name.isidentifier() or not name.isascii():
        raise CgateError(f"{where}: block name {name!r} is no identifier")
    where = f"{where} ({name})"
    gate = None if value.get("gate") is None else _gate(value["gate"], f"{where}.gate")
    shortcut = _get(value, "shortcut", str, where)
    if shortcut not in SHORTCUTS:
        raise CgateError(f"{where}: shortcut {shortcut!r} is not one of {', '.join(SHORTCUTS)}")
    body = tuple(
        _conv(item, f"{where}.body[{i}]") for i, item in enumerate(_get(value, "body", list, where))
    )
    if not body or body[-1].relu:
        raise CgateError(f"{where}: the body must end in a convolution without ReLU")
    relu = _get({"relu": True, **value}, "relu", bool, where)
    relu6 = _get({"relu6": False, **value}, "relu6", bool, where)
    if relu6 and not relu:
        raise CgateError(f"{where}: 'relu6' without 'relu'")
    pool = _pool(value.get("pool"), f"{where}.pool")
    block = Block(name, body, shortcut, gate, relu, relu6, pool)
    if shortcut == "identity" and (
        block.stride != 1 or body[0].in_channels != body[-1].out_channels
    ):
        raise CgateError(f"{where}: an identity shortcut cannot change the shape")
    if shortcut == "pad" and body[-1].out_channels < body[0].in_channels:
        raise CgateError(f"{where}: a padded shortcut cannot drop channels")
    if shortcut == "none" and gate is not None:
        raise CgateError(f"{where}: a block without a shortcut cannot be skipped: it has no gate")
    return block


def _exit(value: Any, where: str) -> Exit:
    block = _get(value, "block", str, where)
    margin = _get(value, "margin", object, where)
    if margin is None:
        return Exit(block)
    if type(margin) not in (int, float) or not 0 <= margin <= MAX_MARGIN:
        raise CgateError(f"{where}: 'margin' is {margin!r}, allowed are null and 0 or more")
    return Exit(block, float(margin))


def check_exits(network: Network, where: str) -> None:
    """Refuse exits that are not behind blocks, in their order, or are behind the last one.

    Raises:
        CgateError: names the exit; `where` begins the message.
    """
    places = {block.name: i for i, block in enumerate(network.blocks)}
    before = -1
    for each in network.exits:
        place = places.get(each.block)
        if place is None:
            raise CgateError(f"{where}: an exit stands behind {each.block!r}, which is no block")
        if place <= before:
            raise CgateError(f"{where}: exits are not in the order of their blocks")
        if place == len(network.blocks) - 1:
            raise CgateError(
                f"{where}: an exit behind the last block, {each.block}, cannot save anything",
                "the head stands there already",
            )
        before = place


def _check_maps(network: Network, where: str) -> None:
    """Refuse a pool whose windows are larger than its map."""
    sides = network.input_shape[:2]
    steps: list[tuple[str, tuple[Conv, ...], Pool | None]] = [
        ("stem", (network.stem,), network.stem_pool)
    ]
    steps += [(block.name, block.body, block.pool) for block in network.blocks]
    for name, convs, pool in steps:
        for conv in convs:
            sides = conv_output(sides[0], conv), conv_output(sides[1], conv)
        if pool is not None:
            height, width = sides
            sides = pool_output(height, pool), pool_output(width, pool)
            if min(sides) < 1:
                raise CgateError(
                    f"{where}: the pool of {name} has windows of {pool.size}x{pool.size} pixels "
                    f"for a map of {height}x{width}"
                )


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
        tuple(
            _exit(item, f"{where}.exits[{i}]")
            for i, item in enumerate(_get({"exits": [], **value}, "exits", list, where))
        ),
        _pool(value.get("stem_pool"), f"{where}.stem_pool"),
    )
    if not network.stem.relu:
        raise CgateError(f"{where}.stem: the stem must end in a ReLU")
    names = [block.name for block in network.blocks]
    if len(set(names)) != len(names) or "stem" in names:
        raise CgateError(f"{where}: two blocks have the same name, or one is called 'stem'")
    channels = shape[2]
    for what, conv in [("stem", network.stem)] + [
        (block.name, conv) for block in network.blocks for conv in block.body
    ]:
        if conv.in_channels != channels:
            raise CgateError(
                f"{where}: {what} takes {conv.in_channels} channels but is given {channels}"
            )
        channels = conv.out_channels
    _check_maps(network, where)
    check_exits(network, where)
    return network
