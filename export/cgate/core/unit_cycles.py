"""What each part of a network costs on a target: cycles from the committed tables, not MACs.

MACs say little of a network whose 3x3 convolutions run as Winograd and whose 1x1 ones cannot.
"""

from __future__ import annotations

from cgate.core.costs import CostTable, Shape
from cgate.core.gates import probe_pool
from cgate.core.network import Block, Conv, Network, UnitCosts, conv_output, pool_output

Map = tuple[int, int, int]
"""Height, width, channels."""


class _Prices:
    """The fastest kernel of the table for each op."""

    def __init__(self, table: CostTable) -> None:
        self.table = table

    def op(self, op: str, shape: Shape) -> int:
        """Cost of an op, such as "add_s8"; 0 for what no table measures (pools)."""
        costs = [
            self.table.cost(name, shape)
            for name, rows in self.table.rows.items()
            if name.startswith(f"{op}__")
            # A kernel for other windows was never measured with this one.
            and any((row.kernel, row.stride) == (shape.kernel, shape.stride) for row in rows)
        ]
        known = [cost for cost in costs if cost is not None]
        # Far from what was measured a kernel may not even be allowed, such as one for words of
        # four channels on three.
        near = [cost for cost in known if cost.how != "extrapolated"]
        return min((cost.value for cost in near or known), default=0)

    def conv(self, conv: Conv, given: Map) -> tuple[int, Map]:
        """Cost of a convolution on this map, and the map that it gives."""
        height, width = conv_output(given[0], conv), conv_output(given[1], conv)
        out = (height, width, conv.out_channels)
        op = "conv2d_s8" if conv.groups == 1 else "depthwise_conv2d_s8"
        return self.op(op, Shape(given, out, (conv.kernel, conv.kernel), conv.stride)), out

    def linear(self, given: int, out: int) -> int:
        """Cost of a linear layer on this many channels."""
        return self.op("conv2d_s8", Shape((1, 1, given), (1, 1, out)))

    def head(self, given: Map, classes: int) -> int:
        """Cost of the head, or of an exit, on this map."""
        channels = given[2]
        return self.op("mean_s8", Shape(given, (1, 1, channels))) + self.linear(channels, classes)

    def body(self, block: Block, given: Map) -> tuple[int, Map]:
        """Cost of a block's convolutions and of adding their result."""
        total, shape = 0, given
        for conv in block.body:
            cost, shape = self.conv(conv, shape)
            total += cost
        if block.shortcut != "none":
            total += self.op("residual_add_s8", Shape(shape, shape))
        return total, shape

    def gate(self, block: Block, given: Map) -> int:
        """Cost of a decision on this map."""
        gate = block.gate
        assert gate is not None
        height, width, channels = given
        pooled = Shape(given, (1, 1, channels))
        mean = self.op("mean_s8", pooled)
        if gate.kind in ("controller", "cir"):
            return mean + self.linear(channels, gate.hidden) + self.linear(gate.hidden, 1)
        if gate.kind == "cir-predicted":
            layers = self.linear(2 * channels, 2 * gate.hidden) + self.linear(2 * gate.hidden, 1)
            return self.op("mean_max_s8", pooled) + layers
        if gate.kind == "probe":
            side = probe_pool(height, width)
            return mean + self.body(block, (height // side, width // side, channels))[0]
        return mean + self.linear(channels, 1) if gate.kind == "anchor" else 0


def network_cycles(network: Network, table: CostTable) -> UnitCosts:
    """Cost of every part of `network` per image, in the unit of `table`, with its fastest kernels.

    Pools, for which there are no tables, count nothing. The gate that needs the body is priced
    without it, as in `executed_share`.

    Args:
        table: from `cgate.core.costs.cost_table`.
    """
    prices = _Prices(table)
    stem, shape = prices.conv(network.stem, network.input_shape)
    if network.stem_pool is not None:
        height, width = (pool_output(side, network.stem_pool) for side in shape[:2])
        shape = (height, width, shape[2])
    leaving = {each.block for each in network.exits}
    gates: dict[str, int] = {}
    bodies: dict[str, int] = {}
    exits: dict[str, int] = {}
    shortcuts: dict[str, int] = {}
    for block in network.blocks:
        given = shape
        if block.gate is not None:
            gates[block.name] = prices.gate(block, given)
        bodies[block.name], shape = prices.body(block, given)
        if block.projection is not None:
            shortcuts[block.name] = prices.conv(block.projection, given)[0]
        elif block.shortcut == "pad":
            shortcuts[block.name] = prices.op(
                "shortcut_pad_s8", Shape(given, shape, stride=block.stride)
            )
        if block.pool is not None:
            height, width = (pool_output(side, block.pool) for side in shape[:2])
            shape = (height, width, shape[2])
        if block.name in leaving:
            exits[block.name] = prices.head(shape, network.classes)
    head = prices.head(shape, network.classes)
    return UnitCosts(stem, gates, bodies, head, exits, shortcuts)
