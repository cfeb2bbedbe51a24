"""Gated networks with each gate fixed at its more frequent decision: static networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from cgate.core.gates import Gate
from cgate.core.network import Block, Exit, Network, check_exits
from cgate.train.evaluate import Evaluation

SHUT_LOGIT = -10.0
"""Bias of a static gate that is shut."""


def majority(validation: Evaluation) -> dict[str, bool]:
    """The more frequent decision of each gate on validation images, by block name."""
    return {block: rate > 0.5 for block, rate in validation.open_rates.items()}


def _frozen(block: Block, opened: bool, positive: bool) -> Block | None:
    """The block without its decision; None where nothing of it is left.

    Args:
        positive: whether its input is never negative.
    """
    if opened:
        return replace(block, gate=None)
    passes = block.relu and positive and not block.relu6  # its ReLU changes nothing
    if block.shortcut == "identity" and passes and block.pool is None:
        return None
    # What is left changes the shape or the values: a body that a static gate holds shut.
    return replace(block, gate=Gate("static"))


def frozen_network(network: Network, decisions: Mapping[str, bool]) -> Network:
    """`network` without gates.

    A block whose gate is shut disappears if its shortcut is the identity and its input is never
    negative, so that the ReLU behind it (not so a ReLU6) does nothing either. Other shut blocks
    keep a static gate, which costs nothing. An exit behind a block that disappears moves to the
    block before.

    Args:
        decisions: whether the gate is open, by block name, one entry per gated block.

    Raises:
        CgateError: two exits would stand behind one block, or one behind the stem or the last
            block.
    """
    blocks: list[Block] = []
    exits: list[Exit] = []
    leaving = {each.block: each for each in network.exits}
    positive = True  # the stem ends in a ReLU
    for block in network.blocks:
        gated = block.gate is not None
        kept = _frozen(block, decisions[block.name], positive) if gated else block
        positive = block.relu
        if kept is not None:
            blocks.append(kept)
        if block.name in leaving:
            where = blocks[-1].name if blocks else "the stem"
            exits.append(replace(leaving[block.name], block=where))
    frozen = replace(
        network, name=f"{network.name}-frozen", blocks=tuple(blocks), exits=tuple(exits)
    )
    check_exits(frozen, f"{network.name} cannot be frozen")
    return frozen


def frozen_weights(
    network: Network, frozen: Network, weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The weights of `frozen_network(network, …)`, from those of `network`."""
    moved = {
        f"exits.{before.block}.": f"exits.{after.block}."
        for before, after in zip(network.exits, frozen.exits, strict=True)
    }
    kept: dict[str, Tensor] = {}
    blocks = {f"blocks.{block.name}." for block in frozen.blocks}
    for name, value in weights.items():
        if name.startswith("blocks."):
            prefix = ".".join(name.split(".")[:2]) + "."
            if prefix not in blocks or name.startswith(f"{prefix}gate."):
                continue
        for before, after in moved.items():
            if name.startswith(before):
                name = after + name.removeprefix(before)
                break
        kept[name] = value
    for block in frozen.gated:
        kept[f"blocks.{block.name}.gate.bias"] = torch.full((1,), SHUT_LOGIT)
    return kept
