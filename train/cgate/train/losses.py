"""What training pays for besides wrong answers: executed MACs, and bodies that change much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cgate.core.network import UnitMacs


def executed_share(gates: Mapping[str, Tensor], macs: UnitMacs) -> Tensor:
    """Executed MACs over the MACs of the dense network, mean over a batch; differentiable.

    What always runs, and the gates themselves, count: 0.70 means that 30 % is truly saved, and
    a network whose gates are all open has a share a little above 1.

    Args:
        gates: gate values float32 [N] by block name, one entry per gated block; not empty.
        macs: cost of the parts, from `cgate.core.network.network_macs`.

    Returns:
        A scalar, float32.
    """
    always = macs.stem + macs.head + sum(macs.gates.values())
    always += sum(cost for block, cost in macs.bodies.items() if block not in gates)
    gated = torch.stack([gate.mean() * macs.bodies[block] for block, gate in gates.items()])
    return (always + gated.sum()) / macs.dense


def cost_penalty(share: Tensor, tau: float, weight: float, progress: float) -> Tensor:
    """The penalty on executing more than tau: weight * min(1, progress) * max(0, share - tau)^2.

    The progressive form is that of CosineGate (arXiv 2512.22206).

    Args:
        share: from `executed_share`.
        tau: share that costs nothing.
        progress: epochs done over the epochs of the warm-up.
    """
    return weight * min(1.0, progress) * torch.relu(share - tau).square()


def consistency(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """1 - cosine of a block's output with its gate open and its actual output, mean over blocks.

    Zero where all gates are open. It draws shut blocks towards bodies that matter little
    (CosineGate, arXiv 2512.22206).

    Args:
        pairs: `Output.pairs`; not empty.

    Returns:
        A scalar, float32.
    """
    cosines = []
    for pair in pairs:
        # In NHWC order the maps flatten without a copy, as they are channels_last.
        opened, actual = (values.permute(0, 2, 3, 1).flatten(1).float() for values in pair)
        product, opened_square, actual_square = (
            torch.linalg.vecdot(left, right)
            for left, right in ((opened, actual), (opened, opened), (actual, actual))
        )
        # An image whose maps are all zero has no angle; the clamp keeps its gradient finite.
        norms = (opened_square * actual_square).clamp(min=1e-12).sqrt()
        cosines.append((product / norms).mean())
    return 1 - torch.stack(cosines).mean()
