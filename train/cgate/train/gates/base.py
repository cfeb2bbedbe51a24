"""What a gate may see, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from cgate.core.network import Block

GOLDEN = -0x61C8864680B583EB
"""2^64 divided by the golden ratio, as int64: Weyl constant of splitmix64 (Steele et al. 2014)."""


class Statistics(nn.Module):
    """Running mean and variance of a batch norm, per channel."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))


@dataclass(frozen=True)
class Seen:
    """What a gate may look at.

    Args:
        x: the block's input, [N, C, H, W].
        stream: the identity path, to which F(x) is added, [N, C', H', W'].
        residual: F(x), [N, C', H', W'].
        replay: computes identity path and F of another input, with other batch statistics by
            layer: "bn<i>", "projection".
        keys: a checksum of each image's pixels, int64 [N].
    """

    x: Tensor
    stream: Tensor
    residual: Tensor
    replay: Callable[[Tensor, Mapping[str, Statistics]], tuple[Tensor, Tensor]]
    keys: Tensor


@dataclass(frozen=True)
class Score:
    """What a gate says of a batch.

    Args:
        logit: float32 [N]; the gate is open where it exceeds the cut.
        tensors: what the exported gate computes, by the name in ranges.json without the gate's
            own: float32 [N, ...].
        predicted: of a gate that predicts the CIR: its prediction, float32 [M], for the first M
            images of the batch; all of them in evaluation mode.
        cir: the true CIR that goes with `predicted`, float32 [M].
        teacher: the logit with the true CIR in place of the predicted one, float32 [N]; in
            evaluation mode only.
    """

    logit: Tensor
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    predicted: Tensor | None = None
    cir: Tensor | None = None
    teacher: Tensor | None = None


@dataclass(frozen=True)
class GateOptions:
    """How gates start and learn; not part of the network that is exported.

    Args:
        bias: logit of an untrained gate, about; above the cut it starts open.
        cir_gradient: "cir-predicted": let the trunk feel the prediction and its error. If not,
            only the predictor learns from the true CIR.
    """

    bias: float = 2.0
    cir_gradient: bool = False


class GateModule(nn.Module):
    """A gate: one logit per image, a function of that image alone in evaluation mode.

    The arrays are those of `cgate.core.gates.gate_weight_shapes`. Gates compute in float32 under
    autocast too: a decision is a comparison, which bfloat16 would move by more than int8 does.

    Args:
        block: the block that is gated.
        options: how the gate starts and learns.
    """

    def __init__(self, block: Block, options: GateOptions) -> None:
        super().__init__()
        assert block.gate is not None
        self.options = options

    def forward(self, seen: Seen) -> Score:
        """Score a batch."""
        raise NotImplementedError


def image_keys(pixels: Tensor) -> Tensor:
    """A checksum of each image, int64 [N], for uint8 pixels [N, ...]."""
    flat = pixels.flatten(1).to(torch.int64)
    # Odd multiples of the golden ratio's 64 bits: every pixel counts, whatever its place.
    places = torch.arange(flat.shape[1], device=flat.device) * 2 + 1
    return (flat * (places * GOLDEN)).sum(1)


def two_layers(inputs: int, hidden: int, bias: float) -> tuple[nn.Linear, nn.Linear]:
    """Two linear layers whose output is about `bias` for every input at first."""
    first, second = nn.Linear(inputs, hidden), nn.Linear(hidden, 1)
    nn.init.normal_(second.weight, std=0.01)
    nn.init.constant_(second.bias, bias)
    return first, second
