"""What training pays for besides wrong answers: executed cost, and bodies that change much."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from cgate.core.network import UnitCosts
from cgate.train.gates import Score
from cgate.train.maps import cosine

TEMPERATURE = 2.0
"""Softens a teacher's answers before a student learns from them."""

LEAST_VARIANCE = 1e-6
"""Of a CIR, far below what images make of it: one that is constant is no division by 0."""


def imitation(student: Tensor, teacher: Tensor) -> Tensor:
    """T^2 * KL(teacher | student) of answers softened by T (Hinton et al. 2015, 1503.02531).

    Args:
        student: logits float32 [N, classes].
        teacher: the same; a constant here, it does not learn from its student.

    Returns:
        A scalar, float32, mean over the batch.
    """
    goal = functional.log_softmax(teacher.detach() / TEMPERATURE, 1)
    answer = functional.log_softmax(student / TEMPERATURE, 1)
    loss = functional.kl_div(answer, goal, reduction="batchmean", log_target=True)
    return TEMPERATURE**2 * loss


def executed_share(gates: Mapping[str, Tensor], costs: UnitCosts) -> Tensor:
    """Executed cost over the cost of the dense network, mean over a batch; differentiable.

    The body of a shut gate counts as saved, also where the gate needs F(x) and saves nothing
    (`cir`): that is the quantity which the paper penalises. Evaluation counts such bodies in full.

    What always runs, and the gates themselves, count: 0.70 means that 30 % is truly saved, and
    a network whose gates are all open has a share a little above 1. Exits count too, as if no
    image left: their margins are chosen after training.

    Args:
        gates: gate values float32 [N] by block name, one entry per gated block; not empty.
        costs: of the parts, from `network_macs` or `network_cycles`.

    Returns:
        A scalar, float32.
    """
    always = costs.stem + costs.head
    always += sum(
        sum(part.values()) for part in (costs.gates, costs.exits, costs.shortcuts, costs.pools)
    )
    always += sum(cost for block, cost in costs.bodies.items() if block not in gates)
    gated = torch.stack([gate.mean() * costs.bodies[block] for block, gate in gates.items()])
    return (always + gated.sum()) / costs.dense


def cost_penalty(share: Tensor, tau: float, weight: float, progress: float) -> Tensor:
    """The penalty on executing more than tau: weight * min(1, progress) * max(0, share - tau)^2.

    The progressive form is that of CosineGate (arXiv 2512.22206).

    Args:
        share: from `executed_share`.
        tau: share that costs nothing.
        progress: epochs done over the epochs of the warm-up; above 1 without one.
    """
    return weight * min(1.0, progress) * torch.relu(share - tau).square()


def consistency(pairs: Sequence[tuple[Tensor, Tensor]], images: int) -> Tensor:
    """1 - cosine of a block's output with its gate open and its actual output, mean over blocks.

    Zero where all gates are open. It draws shut blocks towards bodies that matter little
    (CosineGate, arXiv 2512.22206).

    Args:
        pairs: `Output.pairs`; not empty.
        images: in the batch. Those whose gate is open are not in the pairs: they add nothing.

    Returns:
        A scalar, float32.
    """
    sums = [(1 - cosine(opened, actual)).sum() for opened, actual in pairs]
    return torch.stack(sums).mean() / images


def bandpass(gates: Iterable[Tensor], floor: float, ceiling: float) -> Tensor:
    """The penalty on gates that open too seldom or too often, mean over gates.

    relu(floor - rate)^2 + relu(rate - ceiling)^2 with rate a gate's mean over the batch: the
    bandpass loss of SRA (arXiv 2509.14255) per gate in place of per expert; with two ways instead
    of N the factor N^2 goes into the weight.

    Args:
        gates: gate values float32 [N] of each gate; not empty.
        floor, ceiling: rates between which nothing is paid.

    Returns:
        A scalar, float32.
    """
    rates = torch.stack([gate.mean() for gate in gates])
    return (torch.relu(floor - rates).square() + torch.relu(rates - ceiling).square()).mean()


def distillation(scores: Iterable[Score]) -> Tensor | None:
    """Share of the CIR's variance that its prediction leaves, 1 - R^2, mean over the gates.

    Relative to the variance, because the CIRs of some blocks differ between images much less than
    those of others. Above 1 where the batch's mean predicts better.

    Returns:
        A scalar, float32; None if no gate predicts.
    """
    errors = [
        (score.predicted - score.cir).square().mean()
        / (score.cir.var(correction=0) + LEAST_VARIANCE)
        for score in scores
        if score.predicted is not None and score.cir is not None
    ]
    return torch.stack(errors).mean() if errors else None
