"""Early exits: what they are trained for, who leaves where, and the margin that decides it.

An exit's answer is final for an image whose two largest logits differ by more than the exit's
margin. Margins are chosen after training, on validation images, so that one trained network
serves many budgets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from cgate.core.network import Network
from cgate.train.losses import imitation
from cgate.train.recipes import Exits

CANDIDATES = 256
"""Margins tried: more than that only fits the noise of a few thousand validation images."""


def exit_loss(
    exits: Mapping[str, Tensor], logits: Tensor, labels: Tensor, settings: Exits
) -> Tensor:
    """What the exits add to the loss.

    The sum over exits of weight * ((1 - distill) * cross-entropy + distill * `imitation` of the
    head).

    Args:
        exits: logits float32 [N, classes] by block name, in the order of `settings.after`.
        logits: the head's, float32 [N, classes].
        labels: int64 [N].

    Returns:
        A scalar, float32.
    """
    total = logits.new_zeros(())
    for weight, answer in zip(settings.weights, exits.values(), strict=True):
        loss = (1 - settings.distill) * functional.cross_entropy(answer, labels)
        if settings.distill:
            loss = loss + settings.distill * imitation(answer, logits)
        total = total + weight * loss
    return total


def margins(logits: Tensor) -> Tensor:
    """Largest minus second largest logit, [..., classes] -> [...]."""
    largest = logits.topk(2, -1).values
    return largest[..., 0] - largest[..., 1]


def places(network: Network, exits: Tensor) -> Tensor:
    """Who answers each image: the number of an exit, or the number of exits for the head.

    Args:
        network: its exits have margins; one of None is never left.
        exits: logits float32 [exits, N, classes].

    Returns:
        int64 [N].
    """
    limits = [float("inf") if each.margin is None else each.margin for each in network.exits]
    sure = margins(exits) > torch.tensor(limits).reshape(-1, 1)
    end = torch.ones(1, exits.shape[1], dtype=torch.bool)
    # argmax gives the first of equals: the first exit that is sure, else the head.
    return torch.cat([sure, end]).int().argmax(0)


def choose_margin(
    network: Network, exits: Tensor, correct: Tensor, macs: Tensor, settings: Exits, dense: int
) -> Network:
    """`network` with the margin that meets the budget of `settings`, the same for all exits.

    One number for all exits: their losses are alike, so a margin means much the same at each,
    and a single number is not overfitted by a few hundred validation images.

    With `settings.share` it is the largest margin, the most careful one, whose mean executed
    MACs stay within that share: None (never leave) if that does, 0 if nothing else does.
    With `settings.loss` it is the smallest margin whose accuracy is at most so much below that
    of never leaving; None if there is none.

    Args:
        exits: logits float32 [exits, N, classes] on validation images.
        correct: whether each place answers right, bool [exits + 1, N].
        macs: MACs of an image that each place answers, float64 [exits + 1, N].
        dense: MACs of the network without gates and exits.
    """
    found = margins(exits).flatten().double()
    levels = torch.linspace(0, 1, CANDIDATES, dtype=torch.float64)
    candidates = {0.0, *torch.quantile(found, levels, interpolation="nearest").tolist()}
    images = torch.arange(exits.shape[1])

    def measure(margin: float | None) -> tuple[float, float]:
        place = places(_with_margin(network, margin), exits)
        accuracy = correct[place, images].double().mean().item()
        return accuracy, macs[place, images].mean().item() / dense

    if settings.share is not None:
        if measure(None)[1] <= settings.share:
            return _with_margin(network, None)
        fitting = [m for m in candidates if measure(m)[1] <= settings.share]
        return _with_margin(network, max(fitting, default=0.0))
    assert settings.loss is not None
    least = measure(None)[0] - settings.loss
    good = [m for m in candidates if measure(m)[0] >= least]
    return _with_margin(network, min(good, default=None))


def _with_margin(network: Network, margin: float | None) -> Network:
    return replace(network, exits=tuple(replace(each, margin=margin) for each in network.exits))
