"""ResNets with gates: their description, and the torch module built from a description."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from cgate.core.errors import CgateError
from cgate.core.network import Block, Conv, Gate, Network
from cgate.train.gates import GatePolicy, build_gate, learned

EPSILON = 1e-5
DEPTHS = (8, 14, 20, 32)

Observer = Callable[[str, Tensor, Tensor | None], None]
"""(tensor name, values [N, ...], gate values [N] where only images with an open gate count)."""


def resnet(
    depth: int,
    input_shape: tuple[int, int, int],
    classes: int,
    input_zero: int,
    input_divisor: int,
    *,
    width: int = 16,
    gate: Gate | None = None,
    gate_downsampling: bool = False,
) -> Network:
    """A CIFAR ResNet (He et al. 2016, arXiv 1512.03385, section 4.2) with option A shortcuts.

    Args:
        depth: 6 n + 2, one of DEPTHS: three stages of n blocks of two 3x3 convolutions.
        input_shape: height, width, channels.
        input_zero, input_divisor: the network sees (pixel - input_zero) / input_divisor.
        width: channels of the first stage; later stages have twice and four times as many.
        gate: put on every block that keeps its shape; None for a dense network.
        gate_downsampling: put it on the other blocks too; their shortcut always runs.

    Raises:
        CgateError: the depth is not in DEPTHS.
    """
    if depth not in DEPTHS:
        raise CgateError(f"depth {depth} is not supported; allowed are {DEPTHS}")
    blocks = []
    channels = width
    for stage in range(3):
        out = width << stage
        for index in range((depth - 2) // 6):
            same = channels == out
            body = (Conv(channels, out, stride=1 if same else 2), Conv(out, out, relu=False))
            blocks.append(
                Block(
                    f"s{stage + 1}b{index}",
                    body,
                    "identity" if same else "pad",
                    gate if same or gate_downsampling else None,
                )
            )
            channels = out
    return Network(
        f"resnet{depth}",
        input_shape,
        input_zero,
        input_divisor,
        classes,
        Conv(input_shape[2], width),
        tuple(blocks),
    )


class BatchNorm(nn.Module):
    """Batch norm over [N, C, H, W] without torch's step counter, which a checkpoint lacks."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised `x`; in training mode the running statistics move by a tenth."""
        return functional.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            momentum=0.1,
            eps=EPSILON,
        )


def _conv(conv: Conv) -> nn.Conv2d:
    layer = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel,
        conv.stride,
        conv.kernel // 2,
        bias=False,
    )
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


class ResidualBlock(nn.Module):
    """relu(shortcut(x) + gate * body(x)), built from a Block."""

    def __init__(self, block: Block, gate_bias: float) -> None:
        super().__init__()
        self.block = block
        for i, conv in enumerate(block.body, 1):
            self.add_module(f"conv{i}", _conv(conv))
            self.add_module(f"bn{i}", BatchNorm(conv.out_channels))
        if block.gate is not None:
            self.gate = build_gate(block.gate, block.body[0].in_channels, gate_bias)

    def body(self, x: Tensor, ran: Tensor | None, observe: Observer | None) -> Tensor:
        """The residual branch F(x), before it is gated."""
        for i, conv in enumerate(self.block.body, 1):
            x = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(x))
            if conv.relu:
                x = torch.relu(x)
            if observe is not None:
                observe(f"{self.block.name}.conv{i}", x, ran)
        return x

    def shortcut(self, x: Tensor, observe: Observer | None) -> Tensor:
        """The input itself, or every stride-th pixel of it between zero channels."""
        if self.block.shortcut == "identity":
            return x
        stride = self.block.stride
        added = self.block.body[-1].out_channels - x.shape[1]
        x = x[:, :, ::stride, ::stride]
        x = functional.pad(x, (0, 0, 0, 0, added // 2, added - added // 2))
        if observe is not None:
            observe(f"{self.block.name}.shortcut", x, None)
        return x

    def decide(self, x: Tensor, policy: GatePolicy, observe: Observer | None) -> Tensor | None:
        """Gate values float32 [N], or None for a block without a gate."""
        if self.block.gate is None:
            return None
        tensors: dict[str, Tensor] = self.gate(x)
        if observe is not None:
            for name, value in tensors.items():
                observe(f"{self.block.name}.gate.{name}", value, None)
        return policy(self.block.name, tensors["logit"][:, 0])


@dataclass(frozen=True)
class Output:
    """What a forward pass gives.

    Args:
        logits: float32 [N, classes].
        gates: gate values float32 [N] by block name, for the gated blocks in order.
        pairs: for each gated block, its output had the gate been open and its actual output,
            [N, C, H, W]; empty unless asked for.
    """

    logits: Tensor
    gates: dict[str, Tensor]
    pairs: list[tuple[Tensor, Tensor]]


class GatedResNet(nn.Module):
    """The torch module of a `cgate.core.network.Network`.

    The names and shapes of its state_dict are those of `cgate.core.checkpoint.weight_shapes`.

    Args:
        network: any network that `network_from_json` accepts.
        gate_bias: logit of an untrained gate, about.
    """

    def __init__(self, network: Network, gate_bias: float = 2.0) -> None:
        super().__init__()
        self.network = network
        self.stem = nn.ModuleDict(
            {"conv": _conv(network.stem), "bn": BatchNorm(network.stem.out_channels)}
        )
        self.blocks = nn.ModuleDict(
            {block.name: ResidualBlock(block, gate_bias) for block in network.blocks}
        )
        self.head = nn.Linear(network.features, network.classes)

    def forward(
        self,
        pixels: Tensor,
        policy: GatePolicy = learned,
        observe: Observer | None = None,
        pairs: bool = False,
    ) -> Output:
        """Classify images.

        Args:
            pixels: uint8 [N, H, W, C], as data sets give them.
            policy: what decides the gates; `gates.learned` is the deployed network.
            observe: told of every tensor that ranges.json names, see SPEC.md, "Checkpoint".
            pairs: whether to fill `Output.pairs`.
        """
        # NHWC permuted to NCHW is torch's channels_last layout, the fast one in bfloat16.
        x = pixels.permute(0, 3, 1, 2).to(torch.float32)
        x = (x - self.network.input_zero) / self.network.input_divisor
        if observe is not None:
            observe("input", x, None)
        x = torch.relu(self.stem["bn"](self.stem["conv"](x)))
        if observe is not None:
            observe("stem", x, None)
        gates: dict[str, Tensor] = {}
        outputs: list[tuple[Tensor, Tensor]] = []
        for name, module in self.blocks.items():
            assert isinstance(module, ResidualBlock)
            gate = module.decide(x, policy, observe)
            residual = module.body(x, gate, observe)
            stream = module.shortcut(x, observe)
            if gate is None:
                x = torch.relu(stream + residual)
            else:
                gates[name] = gate
                opened = torch.relu(stream + residual) if pairs else None
                x = torch.relu(stream + gate.to(residual.dtype)[:, None, None, None] * residual)
                if opened is not None:
                    outputs.append((opened, x))
            if observe is not None:
                observe(f"{name}.out", x, None)
        with torch.autocast(x.device.type, enabled=False):
            mean = x.mean((2, 3), dtype=torch.float32)
            logits = self.head(mean)
        if observe is not None:
            observe("head.mean", mean, None)
            observe("head.logits", logits, None)
        return Output(logits, gates, outputs)
