"""Gates: the layers that score a block, and the policies that turn scores into decisions.

A gate kind is a module that maps a block's input to a logit, one per image; a policy maps logits
to gate values. A new kind needs a class in GATES, its cost in `cgate.core.network.gate_macs` and,
to be exported, a lowering.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from cgate.core.network import THRESHOLD, Gate

CUT = math.log(THRESHOLD / (1 - THRESHOLD))
"""A gate is open where its logit exceeds this: sigmoid(CUT) = THRESHOLD, CUT = -0.2007."""

GatePolicy = Callable[[str, Tensor], Tensor]
"""(block name, logits float32 [N]) -> gate values float32 [N] in 0..1."""


class Controller(nn.Module):
    """Scores an image by the mean of the block's input: two linear layers, a ReLU between.

    Args:
        channels: of the block's input.
        hidden: units between the layers.
        bias: logit of an untrained gate, about; above CUT it starts open.
    """

    def __init__(self, channels: int, hidden: int, bias: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, 1)
        # Small weights, so that the bias alone decides at first, for every image.
        nn.init.normal_(self.fc2.weight, std=0.01)
        nn.init.constant_(self.fc2.bias, bias)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """The gate's tensors by their name in ranges.json, float32.

        Args:
            x: the block's input, [N, C, H, W].

        Returns:
            "mean" [N, C], "hidden" [N, hidden] and "logit" [N, 1].
        """
        # The decision is a comparison: bfloat16 would move it by more than the int8 gate does.
        with torch.autocast(x.device.type, enabled=False):
            mean = x.mean((2, 3), dtype=torch.float32)
            hidden = torch.relu(self.fc1(mean))
            return {"mean": mean, "hidden": hidden, "logit": self.fc2(hidden)}


GATES: Mapping[str, Callable[[int, int, float], nn.Module]] = {"controller": Controller}


def build_gate(gate: Gate, channels: int, bias: float) -> nn.Module:
    """The module of a gate on a block whose input has this many channels."""
    return GATES[gate.kind](channels, gate.hidden, bias)


def learned(block: str, logits: Tensor) -> Tensor:
    """Policy of the deployed network: open (1) where the logit exceeds CUT, else shut (0)."""
    return (logits > CUT).to(logits.dtype)


def all_open(block: str, logits: Tensor) -> Tensor:
    """Policy that opens every gate."""
    return torch.ones_like(logits)


def fixed(decisions: Mapping[str, bool]) -> GatePolicy:
    """Policy that holds each block's gate open or shut for all images."""

    def policy(block: str, logits: Tensor) -> Tensor:
        return torch.full_like(logits, float(decisions[block]))

    return policy


def at_random(generator: torch.Generator, share: float = 0.5) -> GatePolicy:
    """Policy that opens each gate for each image with probability `share`."""

    def policy(block: str, logits: Tensor) -> Tensor:
        drawn = torch.rand(len(logits), generator=generator)
        return (drawn < share).to(logits)

    return policy


def shuffled(generator: torch.Generator) -> GatePolicy:
    """Policy that gives each image the learned decision of another image of its batch.

    The open rates stay the same, only their tie to the image is cut; a drop in accuracy shows
    that decisions depend on the image.
    """

    def policy(block: str, logits: Tensor) -> Tensor:
        order = torch.randperm(len(logits), generator=generator).to(logits.device)
        return learned(block, logits)[order]

    return policy


def relaxed(
    temperature: float, noise: float, generator: torch.Generator, hard: bool = True
) -> GatePolicy:
    """Policy for training: a binary concrete gate (Maddison et al. 2017, arXiv 1611.00712).

    soft = sigmoid((logit - CUT + noise * logistic) / temperature). Its middle, 0.5, lies where
    the deployed gate is cut, so that without noise the forward pass equals the deployed network.

    Args:
        noise: factor of the logistic noise; 1 is the distribution itself, 0 is none.
        generator: a CPU generator.
        hard: pass on 0 or 1 and use the gradient of the soft value (straight-through).
    """

    def policy(block: str, logits: Tensor) -> Tensor:
        logistic = torch.logit(torch.rand(len(logits), generator=generator), eps=1e-6)
        soft = torch.sigmoid((logits - CUT + noise * logistic.to(logits)) / temperature)
        if not hard:
            return soft
        return (soft > 0.5).to(soft) + soft - soft.detach()

    return policy
