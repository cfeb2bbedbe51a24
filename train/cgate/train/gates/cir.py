"""The gates of the cosine incompatibility ratio, CIR = 1 - cos(x, F(x)) (arXiv 2512.22206).

Large where the body points elsewhere than the stream, that is, where it has something to add. A
gate opens with a larger CIR: its factor gamma is kept positive as the exponential of what is
learned. (Started below zero, as in the paper's code, it would turn the idea into its opposite.)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from cgate.core.gates import CIR_SPREAD, CIR_USUAL, NORM_EPSILON, probe_pool
from cgate.core.network import Block
from cgate.train import maps
from cgate.train.gates.base import (
    GateModule,
    GateOptions,
    Score,
    Seen,
    Statistics,
    two_layers,
)

GAMMA = 2.2
"""At first: the magnitude in the paper's code, where the sign is negative."""

TAUGHT = 4
"""In training one image in so many teaches the predictor: an angle between maps is dear, and a
quarter of a batch is plenty for a head this small."""


def incompatibility(stream: Tensor, residual: Tensor) -> Tensor:
    """CIR of two maps [N, C, H, W], flattened: 1 - cosine, float32 [N].

    A map that is all zero has no angle and counts as at right angles: 1.
    """
    return 1 - maps.cosine(stream, residual)


class Cir(GateModule):
    """l = gamma * (CIR(x, F(x)) + c(x)), c two linear layers on the mean of x: the paper's gate.

    The paper's c has three layers (64 and 32 hidden units); here it is that of `controller`, so
    that the two kinds differ in nothing but the CIR.
    """

    def __init__(self, block: Block, options: GateOptions) -> None:
        super().__init__(block, options)
        assert block.gate is not None
        self.log_gamma = nn.Parameter(torch.full((1,), math.log(GAMMA)))
        self.fc1, self.fc2 = two_layers(
            block.body[0].in_channels, block.gate.hidden, options.bias / GAMMA - CIR_USUAL
        )

    def logit(self, mean: Tensor, cir: Tensor) -> Tensor:
        """The gate's logit [N] for means of x [N, C] and a CIR [N]."""
        logit: Tensor = self.fc2(torch.relu(self.fc1(mean)))[:, 0]
        return self.log_gamma.exp() * (cir + logit)

    def forward(self, seen: Seen) -> Score:
        """Score a batch."""
        with torch.autocast(seen.x.device.type, enabled=False):
            cir = incompatibility(seen.stream, seen.residual)
            return Score(self.logit(maps.mean(seen.x), cir))


class CirPredicted(Cir):
    """`Cir` with h(x) in place of the CIR: two linear layers on the mean and maximum of x.

    h learns the true CIR while the network trains, where F(x) is computed anyway; deployed, the
    gate needs x alone. Unless `cir_gradient` is set, h learns from nothing else, so that it stays
    a prediction, and the trunk does not feel that it is predicted.
    """

    def __init__(self, block: Block, options: GateOptions) -> None:
        super().__init__(block, options)
        assert block.gate is not None
        channels = block.body[0].in_channels
        self.norm = Statistics(2 * channels)
        self.predict1 = nn.Linear(2 * channels, block.gate.hidden)
        self.predict2 = nn.Linear(block.gate.hidden, 1)

    def forward(self, seen: Seen) -> Score:
        """Score a batch."""
        through = self.options.cir_gradient
        with torch.autocast(seen.x.device.type, enabled=False):
            mean = maps.mean(seen.x)
            x = seen.x if through else seen.x.detach()
            peak = maps.peak(x)
            features = torch.cat([mean if through else mean.detach(), peak], 1)
            # A mean is a fraction of a maximum: without a common scale the mean is learned late.
            features = functional.batch_norm(
                features,
                self.norm.running_mean,
                self.norm.running_var,
                training=self.training,
                momentum=0.1,
                eps=NORM_EPSILON,
            )
            said: Tensor = self.predict2(torch.relu(self.predict1(features)))[:, 0]
            predicted = CIR_USUAL + CIR_SPREAD * said
            taught = -(-len(mean) // TAUGHT) if self.training else len(mean)
            with torch.set_grad_enabled(torch.is_grad_enabled() and through):
                cir = incompatibility(seen.stream[:taught], seen.residual[:taught])
            logit = self.logit(mean, predicted if through else predicted.detach())
            if self.training:
                return Score(logit, predicted=predicted[:taught], cir=cir)
            teacher = self.logit(mean, cir)
        return Score(logit, self._exported(mean, peak, features, logit), predicted, cir, teacher)

    def _exported(
        self, mean: Tensor, peak: Tensor, features: Tensor, logit: Tensor
    ) -> dict[str, Tensor]:
        """The tensors of the exported gate, whose layers are those of h and c side by side."""
        hidden = torch.cat([self.predict1(features), self.fc1(mean)], 1).relu()
        return {"mean": mean, "peak": peak, "hidden": hidden, "logit": logit[:, None]}


class Probe(GateModule):
    """l = gamma * (z + b), z the standardised CIR of x and F at a quarter of the resolution.

    F has the block's own weights and batch statistics of its own. It only reads the trunk: no
    gradient goes from here to the weights of F.
    """

    def __init__(self, block: Block, options: GateOptions) -> None:
        super().__init__(block, options)
        self.own = {f"bn{i}": Statistics(conv.out_channels) for i, conv in enumerate(block.body, 1)}
        if block.projection is not None:
            self.own["projection"] = Statistics(block.projection.out_channels)
        for name, statistics in self.own.items():
            self.add_module(name, statistics)
        self.cir = Statistics(1)
        # The CIR of one image differs from that of another by a tenth or less: without its own
        # scale gamma would have to grow a long way before the image mattered.
        self.log_gamma = nn.Parameter(torch.zeros(1))
        self.bias = nn.Parameter(torch.full((1,), options.bias))

    def forward(self, seen: Seen) -> Score:
        """Score a batch."""
        with torch.no_grad():
            small = functional.avg_pool2d(seen.x, probe_pool(*seen.x.shape[2:]))
            stream, residual = seen.replay(small, self.own)
            with torch.autocast(seen.x.device.type, enabled=False):
                cir = incompatibility(stream, residual)
                z = functional.batch_norm(
                    cir[:, None],
                    self.cir.running_mean,
                    self.cir.running_var,
                    training=self.training,
                    momentum=0.1,
                    # The variance is that of an angle, often below batch norm's usual 1e-5.
                    eps=1e-8,
                )[:, 0]
        return Score(self.log_gamma.exp() * (z + self.bias))
