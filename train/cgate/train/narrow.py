"""A narrower start from a wider trained network: its channels with the largest filters are kept.

Li et al. 2017, arXiv 1608.08710: a filter's worth is the sum of its magnitudes, here with batch
norm's factor folded in. What channels a map keeps is decided once for all that write it, as the
additions of a stage demand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from cgate.core.errors import CgateError
from cgate.core.network import Block, Conv, Network
from cgate.train.models import EPSILON

Weights = Mapping[str, Tensor]


def is_narrower(network: Network, wide: Network) -> bool:
    """Whether `network` is `wide` with fewer channels; gates, exits and the name may differ."""

    def plain(conv: Conv) -> Conv:
        return replace(conv, in_channels=1, out_channels=1, groups=1)

    def outline(of: Network) -> Network:
        blocks = tuple(
            replace(each, gate=None, body=tuple(plain(conv) for conv in each.body))
            for each in of.blocks
        )
        return replace(of, name="", exits=(), stem=plain(of.stem), blocks=blocks)

    def channels(of: Network) -> list[int]:
        convs = [of.stem, *(conv for block in of.blocks for conv in block.body)]
        return [conv.out_channels for conv in convs]

    if outline(network) != outline(wide):
        return False
    pairs = list(zip(channels(network), channels(wide), strict=True))
    return channels(network) != channels(wide) and all(ours <= theirs for ours, theirs in pairs)


def narrowed(weights: Weights, wide: Network, network: Network) -> dict[str, Tensor]:
    """The arrays of `network`'s trunk, head and exits, cut out of those of the wider one.

    Args:
        weights: state of the model of `wide`.
        network: `wide` with fewer channels, or as many (`is_narrower`).

    Raises:
        CgateError: a convolution has groups, whose channels cannot be chosen one by one.
    """
    if any(conv.groups > 1 for block in wide.blocks for conv in block.body):
        raise CgateError(
            f"{wide.name} cannot start a narrower network: it has convolutions with groups",
            "choose the --width of that checkpoint",
        )
    cut = _Cut(weights)
    stream = cut.best(_writers(wide.blocks, -1), network.stem.out_channels)
    cut.conv("stem.conv", "stem.bn", torch.arange(wide.stem.in_channels), stream)
    exits = {each.block for each in wide.exits} & {each.block for each in network.exits}
    for i, (block, ours) in enumerate(zip(wide.blocks, network.blocks, strict=True)):
        prefix = f"blocks.{block.name}"
        before = seen = stream
        if block.shortcut == "pad":
            stream = cut.padded(before, block, ours, _writers(wide.blocks, i))
        elif block.shortcut != "identity":
            stream = cut.best(_writers(wide.blocks, i), ours.body[-1].out_channels)
        if block.projection is not None:
            cut.conv(f"{prefix}.projection.conv", f"{prefix}.projection.bn", before, stream)
        for j, conv in enumerate(ours.body, 1):
            last = j == len(ours.body)
            made = stream if last else cut.best([f"{prefix}.conv{j}"], conv.out_channels)
            cut.conv(f"{prefix}.conv{j}", f"{prefix}.bn{j}", seen, made)
            seen = made
        if block.name in exits:
            cut.linear(f"exits.{block.name}", stream)
    cut.linear("head", stream)
    return cut.made


def _last(block: Block) -> str:
    return f"blocks.{block.name}.conv{len(block.body)}"


def _writers(blocks: tuple[Block, ...], place: int) -> list[str]:
    """The convolutions that write the map behind block `place`, or behind the stem (-1).

    Those of the blocks that add to it later are among them.
    """
    found = ["stem.conv"] if place < 0 else [_last(blocks[place])]
    if place >= 0 and blocks[place].projection is not None:
        found.append(f"blocks.{blocks[place].name}.projection.conv")
    for block in blocks[place + 1 :]:
        if block.shortcut != "identity":
            break
        found.append(_last(block))
    return found


class _Cut:
    """Arrays of a wide network, and what is cut out of them."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.made: dict[str, Tensor] = {}

    def worth(self, writers: list[str]) -> Tensor:
        """Of each channel: the magnitudes of all filters that write it, float32 [C]."""
        return torch.stack([self._magnitude(each) for each in writers]).sum(0)

    def _magnitude(self, conv: str) -> Tensor:
        place, _, layer = conv.rpartition(".")
        norm = f"{place}.{layer.replace('conv', 'bn')}"
        factor = self.weights[f"{norm}.weight"].abs()
        factor = factor / (self.weights[f"{norm}.running_var"] + EPSILON).sqrt()
        return self.weights[f"{conv}.weight"].abs().sum((1, 2, 3)) * factor

    def best(self, writers: list[str], count: int) -> Tensor:
        """The `count` channels of most worth, in order."""
        return self._best(self.worth(writers), count)

    @staticmethod
    def _best(worth: Tensor, count: int) -> Tensor:
        return worth.argsort(descending=True, stable=True)[:count].sort().values

    def padded(self, before: Tensor, block: Block, ours: Block, writers: list[str]) -> Tensor:
        """Channels of a map whose shortcut puts those of `before` between new ones."""
        worth = self.worth(writers)
        front = (block.body[-1].out_channels - block.body[0].in_channels) // 2
        added = ours.body[-1].out_channels - ours.body[0].in_channels
        behind = front + block.body[0].in_channels
        head = self._best(worth[:front], added // 2)
        tail = self._best(worth[behind:], added - added // 2)
        return torch.cat([head, before + front, tail + behind])

    def conv(self, conv: str, norm: str, seen: Tensor, made: Tensor) -> None:
        """Cut a convolution and its batch norm down to the channels it sees and makes."""
        self.made[f"{conv}.weight"] = self.weights[f"{conv}.weight"][made][:, seen]
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.made[f"{norm}.{name}"] = self.weights[f"{norm}.{name}"][made]

    def linear(self, name: str, seen: Tensor) -> None:
        """Cut a classifier down to the channels it sees."""
        self.made[f"{name}.weight"] = self.weights[f"{name}.weight"][:, seen]
        self.made[f"{name}.bias"] = self.weights[f"{name}.bias"]
