"""Gate policies: from logits to gate values, in training, in evaluation and for controls."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from cgate.core.network import THRESHOLD

CUT = math.log(THRESHOLD / (1 - THRESHOLD))
"""A gate is open where its logit exceeds this: sigmoid(CUT) = THRESHOLD, CUT = -0.2007."""

GatePolicy = Callable[[str, Tensor], Tensor]
"""(block name, logits float32 [N]) -> gate values float32 [N] in 0..1."""


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
        # A copy that blocked would make the host wait for the GPU at every gate.
        logistic = logistic.to(logits.device, logits.dtype, non_blocking=True)
        soft = torch.sigmoid((logits - CUT + noise * logistic) / temperature)
        if not hard:
            return soft
        return (soft > 0.5).to(soft) + soft - soft.detach()

    return policy
