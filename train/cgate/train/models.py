"""The torch module of a described network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from cgate.core.network import Block, Conv, Network, Pool
from cgate.train.gates import (
    GateOptions,
    GatePolicy,
    Score,
    Seen,
    Statistics,
    build_gate,
    image_keys,
    learned,
)
from cgate.train.maps import branch

EPSILON = 1e-5
NEARLY_OPEN = 0.9999
"""A gate value above this is open, or as good as open."""

Exact = Callable[[str, Tensor], Tensor]
"""(tensor name, values [N, ...]) -> the values to go on with, of the same shape."""

Observer = Callable[[str, Tensor, Tensor | None], None]
"""(tensor name, values [N, ...], gate values [N] where only images with an open gate count)."""


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

    def forward(self, x: Tensor, statistics: Statistics | None = None) -> Tensor:
        """Normalised `x`; in training mode the running statistics move by a tenth.

        Args:
            statistics: running ones to use and to move in place of the layer's own.
        """
        running = self if statistics is None else statistics
        return functional.batch_norm(
            x,
            running.running_mean,
            running.running_var,
            self.weight,
            self.bias,
            self.training,
            momentum=0.1,
            eps=EPSILON,
        )


class StridedPoints(nn.Conv2d):
    """A 1x1 convolution of some stride, as one of stride 1 over the pixels that it sees.

    The same values. On CPUs with AVX2 and without AVX-512, torch 2.13.0 writes beyond its memory
    when it takes the gradient of the weights of a strided one with fewer than 8 input channels.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve [N, C, H, W]."""
        rows, columns = self.stride
        seen = x[:, :, ::rows, ::columns]
        return functional.conv2d(seen, self.weight, self.bias, groups=self.groups)


def _conv(conv: Conv) -> nn.Conv2d:
    kind = StridedPoints if conv.kernel == 1 and conv.stride > 1 else nn.Conv2d
    layer = kind(
        conv.in_channels,
        conv.out_channels,
        conv.kernel,
        conv.stride,
        conv.kernel // 2,
        groups=conv.groups,
        bias=False,
    )
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


def _normalised(conv: Conv) -> nn.ModuleDict:
    return nn.ModuleDict({"conv": _conv(conv), "bn": BatchNorm(conv.out_channels)})


def _activate(x: Tensor, layer: Conv | Block) -> Tensor:
    """`x` after the ReLU of `layer`, if it has one."""
    if layer.relu6:
        return functional.relu6(x)
    return torch.relu(x) if layer.relu else x


def _pool(x: Tensor, pool: Pool | None) -> Tensor:
    if pool is None:
        return x
    if pool.kind == "max":
        return functional.max_pool2d(x, pool.size, pool.stride, pool.padding)
    return functional.avg_pool2d(x, pool.size, pool.stride)


class ResidualBlock(nn.Module):
    """relu(shortcut(x) + gate * body(x)), built from a Block, which may do without the ReLU."""

    def __init__(self, block: Block, options: GateOptions) -> None:
        super().__init__()
        self.block = block
        for i, conv in enumerate(block.body, 1):
            self.add_module(f"conv{i}", _conv(conv))
            self.add_module(f"bn{i}", BatchNorm(conv.out_channels))
        if block.projection is not None:
            self.projection = _normalised(block.projection)
        if block.gate is not None:
            self.gate = build_gate(block, options)

    def body(
        self,
        x: Tensor,
        own: Mapping[str, Statistics] | None = None,
        exact: Exact | None = None,
    ) -> list[Tensor]:
        """What each convolution of the residual branch leaves; the last one is F(x).

        Args:
            own: batch statistics by layer, in place of the block's.
            exact: see `GatedResNet.forward`.
        """
        made = []
        for i, conv in enumerate(self.block.body, 1):
            statistics = None if own is None else own[f"bn{i}"]
            x = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(x), statistics)
            x = _activate(x, conv)
            if exact is not None:
                x = exact(f"{self.block.name}.conv{i}", x)
            made.append(x)
        return made

    def shortcut(self, x: Tensor, own: Mapping[str, Statistics] | None = None) -> Tensor:
        """What is added to the residual branch; broadcasts to its shape.

        The input itself, every stride-th pixel of it between zero channels, its projection, or
        the scalar 0 of a block without a shortcut.
        """
        if self.block.shortcut == "identity":
            return x
        if self.block.shortcut == "none":
            return x.new_zeros(())
        if self.block.projection is not None:
            statistics = None if own is None else own["projection"]
            x = self.projection["bn"](self.projection["conv"](x), statistics)
        else:
            stride = self.block.stride
            added = self.block.body[-1].out_channels - x.shape[1]
            x = x[:, :, ::stride, ::stride]
            x = functional.pad(x, (0, 0, 0, 0, added // 2, added - added // 2))
        return x

    def activate(self, x: Tensor) -> Tensor:
        """What follows the addition."""
        return _activate(x, self.block)

    def replay(self, x: Tensor, own: Mapping[str, Statistics]) -> tuple[Tensor, Tensor]:
        """Shortcut and F of another input than the block's, with other batch statistics."""
        return self.shortcut(x, own), self.body(x, own)[-1]

    def observe(
        self,
        observe: Observer,
        score: Score | None,
        gate: Tensor | None,
        made: list[Tensor],
        stream: Tensor,
    ) -> None:
        """Tell of the block's tensors, in the order in which the device makes them."""
        name = self.block.name
        for what, value in {} if score is None else score.tensors.items():
            observe(f"{name}.gate.{what}", value, None)
        for i, value in enumerate(made, 1):
            observe(f"{name}.conv{i}", value, gate)
        if self.block.shortcut in ("pad", "projection"):
            observe(f"{name}.shortcut", stream, None)


@dataclass(frozen=True)
class Output:
    """What a forward pass gives.

    Args:
        logits: float32 [N, classes].
        gates: gate values float32 [N] by block name, for the gated blocks in order.
        scores: what each of these gates said, by block name.
        pairs: for each gated block, its output had the gate been open and its actual output,
            [M, C, H, W], of those images whose gate is not open; empty unless asked for.
        exits: the logits of each exit, float32 [N, classes] by block name, in order. All are
            computed for all images; `exits.places` tells who would have left where.
    """

    logits: Tensor
    gates: dict[str, Tensor]
    scores: dict[str, Score]
    pairs: list[tuple[Tensor, Tensor]]
    exits: dict[str, Tensor]


class GatedResNet(nn.Module):
    """The torch module of a `cgate.core.network.Network`.

    The names and shapes of its state_dict are those of `cgate.core.checkpoint.weight_shapes`.

    Args:
        network: any network that `network_from_json` accepts.
        options: how gates start and learn.
        detach_exits: whether the gradient of an exit ends at its input, so that the trunk is
            trained for the head alone.
    """

    def __init__(
        self,
        network: Network,
        options: GateOptions | None = None,
        detach_exits: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.detach_exits = detach_exits
        self.stem = _normalised(network.stem)
        self.blocks = nn.ModuleDict(
            {block.name: ResidualBlock(block, options or GateOptions()) for block in network.blocks}
        )
        self.head = nn.Linear(network.features, network.classes)
        # Last, so that all else starts with the same random weights as without exits.
        self.exits = nn.ModuleDict(
            {
                each.block: nn.Linear(network.channels_after(each.block), network.classes)
                for each in network.exits
            }
        )

    def forward(
        self,
        pixels: Tensor,
        policy: GatePolicy = learned,
        observe: Observer | None = None,
        pairs: bool = False,
        exact: Exact | None = None,
    ) -> Output:
        """Classify images.

        Args:
            pixels: uint8 [N, H, W, C], as data sets give them.
            policy: what decides the gates; `gates.learned` is the deployed network.
            observe: told of every tensor that ranges.json names, see SPEC.md, "Checkpoint".
            pairs: whether to fill `Output.pairs`.
            exact: replaces tensors by what the deployed network computes there: those of
                ranges.json but for the input and the inside of gates.
        """
        # NHWC permuted to NCHW is torch's channels_last layout, the fast one in bfloat16.
        x = pixels.permute(0, 3, 1, 2).to(torch.float32)
        x = (x - self.network.input_zero) / self.network.input_divisor
        if observe is not None:
            observe("input", x, None)
        x = _activate(self.stem["bn"](self.stem["conv"](x)), self.network.stem)
        if exact is not None:
            x = exact("stem", x)
        if observe is not None:
            observe("stem", x, None)
        x = _pool(x, self.network.stem_pool)
        keys = image_keys(pixels)
        gates: dict[str, Tensor] = {}
        scores: dict[str, Score] = {}
        outputs: list[tuple[Tensor, Tensor]] = []
        exits: dict[str, Tensor] = {}
        for name, module in self.blocks.items():
            assert isinstance(module, ResidualBlock)
            made = module.body(x, exact=exact)
            residual = made[-1]
            stream = module.shortcut(x)
            if exact is not None and module.block.shortcut in ("pad", "projection"):
                stream = exact(f"{name}.shortcut", stream)
            score, gate = None, None
            if module.block.gate is not None:
                score = module.gate(Seen(x, stream, residual, module.replay, keys))
                if exact is not None:
                    score = replace(score, logit=exact(f"{name}.gate.logit", score.logit))
                scores[name] = score
                gates[name] = gate = policy(name, score.logit)
            if observe is not None:
                module.observe(observe, score, gate, made, stream)
            if gate is None:
                x = module.activate(stream + residual)
            else:
                # Where a gate is open the pair is the same twice, and so is its gradient: zero.
                shut = gate < NEARLY_OPEN if pairs else torch.zeros_like(gate, dtype=torch.bool)
                sums = branch(stream, residual, gate, shut.nonzero()[:, 0])
                x, opened, actual = (module.activate(each) for each in sums)
                if pairs:
                    outputs.append((opened, actual))
            if exact is not None:
                x = exact(f"{name}.out", x)
            if observe is not None:
                observe(f"{name}.out", x, None)
            x = _pool(x, module.block.pool)
            if name in self.exits:
                seen = x.detach() if self.detach_exits else x
                exits[name] = _classify(seen, self.exits[name], f"{name}.exit", observe, exact)
        logits = _classify(x, self.head, "head", observe, exact)
        return Output(logits, gates, scores, outputs, exits)


def _classify(
    x: Tensor, linear: nn.Module, name: str, observe: Observer | None, exact: Exact | None
) -> Tensor:
    """Logits float32 [N, classes]: mean over the map, and a linear layer."""
    with torch.autocast(x.device.type, enabled=False):
        mean = x.mean((2, 3), dtype=torch.float32)
        if exact is not None:
            mean = exact(f"{name}.mean", mean)
        logits: Tensor = linear(mean)
        if exact is not None:
            logits = exact(f"{name}.logits", logits)
    if observe is not None:
        observe(f"{name}.mean", mean, None)
        observe(f"{name}.logits", logits, None)
    return logits
