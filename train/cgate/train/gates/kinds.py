"""The gates that do not look at F(x), and the table of all kinds."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from cgate.core.network import Block
from cgate.train import maps
from cgate.train.gates.base import (
    GOLDEN,
    GateModule,
    GateOptions,
    Score,
    Seen,
    two_layers,
)
from cgate.train.gates.cir import Cir, CirPredicted, Probe
from cgate.train.gates.policies import CUT

ANCHOR_TEMPERATURE = 2.0
"""At first. SRA (arXiv 2509.14255) starts at 10, for a softmax over many experts; with two anchors
that far apart that a gate starts open, a lower one leaves less to the direction of the image."""


class Controller(GateModule):
    """l = fc2(relu(fc1(mean of x))): the gate of ConvNet-AIG (arXiv 1711.11503)."""

    def __init__(self, block: Block, options: GateOptions) -> None:
        super().__init__(block, options)
        assert block.gate is not None
        self.fc1, self.fc2 = two_layers(block.body[0].in_channels, block.gate.hidden, options.bias)

    def forward(self, seen: Seen) -> Score:
        """Score a batch."""
        with torch.autocast(seen.x.device.type, enabled=False):
            mean = maps.mean(seen.x)
            hidden = torch.relu(self.fc1(mean))
            logit = self.fc2(hidden)
        return Score(logit[:, 0], {"mean": mean, "hidden": hidden, "logit": logit})


class Static(GateModule):
    """One learned constant: the block is run for all images or for none."""

    def __init__(self, block: Block, options: GateOptions) -> None:
        super().__init__(block, options)
        self.bias = nn.Parameter(torch.full((1,), options.bias))

    def forward(self, seen: Seen) -> Score:
        """Score a batch."""
        return Score(self.bias.expand(len(seen.x)))


class Random(GateModule):
    """Open for a share of the images, chosen by a checksum of their pixels; learns nothing.

    The control at equal rate: what a gate gains over this one it gains by knowing the image.
    """

    MARGIN = 20.0  # of the logit: no noise of training turns the decision

    def __init__(self, block: Block, options: GateOptions) -> None:
        super().__init__(block, options)
        assert block.gate is not None and block.gate.rate is not None
        self.rate = block.gate.rate
        self.salt = zlib.crc32(block.name.encode())

    def forward(self, seen: Seen) -> Score:
        """Score a batch."""
        # Multiply and shift as in splitmix64; int64 wraps around.
        mixed = (seen.keys ^ self.salt) * GOLDEN
        mixed = (mixed ^ (mixed >> 29)) * 0x1CE4E5B9BF58476D
        uniform = ((mixed >> 32) & 0xFFFFFF).to(torch.float32) / (1 << 24)
        return Score(torch.where(uniform < self.rate, CUT + self.MARGIN, CUT - self.MARGIN))


class Anchor(GateModule):
    """l = temperature * (cos(m, open) - cos(m, shut)) + CUT, with m the mean of x over the map.

    The two anchors are learned, and so is the temperature (cosine routing as in SRA, arXiv
    2509.14255). A gate is open exactly where its nearest anchor is the open one; |m| does not
    matter, so the deployed gate is the sign of the inner product of m and the difference of the
    two unit vectors.
    """

    def __init__(self, block: Block, options: GateOptions) -> None:
        super().__init__(block, options)
        channels = block.body[0].in_channels
        # After a ReLU a mean has no negative element: it points along `along`, more or less.
        along = functional.normalize(torch.ones(channels), dim=0)
        across = torch.randn(channels)
        across = functional.normalize(across - across @ along * along, dim=0)
        cosine = 1 - min(abs(options.bias) / ANCHOR_TEMPERATURE, 1.0)
        anchors = [along, cosine * along + math.sqrt(1 - cosine**2) * across]
        self.log_temperature = nn.Parameter(torch.full((1,), math.log(ANCHOR_TEMPERATURE)))
        self.anchors = nn.Parameter(torch.stack(anchors if options.bias >= 0 else anchors[::-1]))

    def forward(self, seen: Seen) -> Score:
        """Score a batch."""
        with torch.autocast(seen.x.device.type, enabled=False):
            mean = maps.mean(seen.x)
            anchors = functional.normalize(self.anchors, dim=1)
            near = functional.normalize(mean, dim=1) @ anchors.T
            logit = self.log_temperature.exp() * (near[:, 0] - near[:, 1]) + CUT
        return Score(logit, {"mean": mean})


KINDS: Mapping[str, type[GateModule]] = {
    "controller": Controller,
    "cir": Cir,
    "cir-predicted": CirPredicted,
    "probe": Probe,
    "static": Static,
    "random": Random,
    "anchor": Anchor,
}


def build_gate(block: Block, options: GateOptions) -> GateModule:
    """The module of a block's gate."""
    assert block.gate is not None
    return KINDS[block.gate.kind](block, options)
