"""Named networks: descriptions that torch builds from. Loads no torch.

Each builder takes `gate`, which it puts on every block that keeps its shape, and
`gate_downsampling`, which puts it on the other blocks with a shortcut too; that shortcut always
runs. `width` multiplies the channels of the published network.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from cgate.core.data import Dataset
from cgate.core.errors import CgateError
from cgate.core.network import Block, Conv, Gate, Network, Pool


@dataclass(frozen=True)
class Task:
    """What a network is for.

    Args:
        input_shape: height, width, channels of an image.
        classes: number of logits.
        input_zero, input_divisor: the network sees (pixel - input_zero) / input_divisor.
    """

    input_shape: tuple[int, int, int]
    classes: int
    input_zero: int
    input_divisor: int


def task_of(dataset: Dataset) -> Task:
    """The task that `dataset` sets."""
    return Task(
        dataset.input_shape, len(dataset.classes), dataset.input_zero, dataset.input_divisor
    )


def _network(name: str, task: Task, width: float, stem: Conv, blocks: list[Block]) -> Network:
    return Network(
        name if width == 1 else f"{name}-x{width:g}",
        task.input_shape,
        task.input_zero,
        task.input_divisor,
        task.classes,
        stem,
        tuple(blocks),
    )


def _basic_blocks(
    channels: int,
    stages: tuple[int, ...],
    counts: tuple[int, ...],
    shortcut: str,
    gate: Gate | None,
    gate_downsampling: bool,
    relu: bool,
) -> list[Block]:
    """Stages of blocks of two 3x3 convolutions; a stage with other channels halves the map.

    Args:
        channels: of the map that the first block sees.
        stages: channels of each stage.
        counts: blocks of each stage.
    """
    blocks = []
    for stage, (out, count) in enumerate(zip(stages, counts, strict=True), 1):
        for index in range(count):
            same = channels == out
            blocks.append(
                Block(
                    f"s{stage}b{index}",
                    (Conv(channels, out, stride=1 if same else 2), Conv(out, out, relu=False)),
                    "identity" if same else shortcut,
                    gate if same or gate_downsampling else None,
                    relu,
                )
            )
            channels = out
    return blocks


def resnet(
    task: Task,
    counts: tuple[int, int, int],
    *,
    width: float = 1.0,
    shortcut: str = "pad",
    gate: Gate | None = None,
    gate_downsampling: bool = False,
) -> Network:
    """A CIFAR ResNet (He et al. 2016, arXiv 1512.03385, section 4.2).

    Args:
        counts: blocks of its three stages, of 16, 32 and 64 channels; n each are ResNet-(6 n + 2).
        shortcut: of blocks that change the shape: "pad" (option A) or "projection" (option B).
    """
    channels = max(1, round(16 * width))
    stages = (channels, 2 * channels, 4 * channels)
    blocks = _basic_blocks(channels, stages, counts, shortcut, gate, gate_downsampling, relu=True)
    name = _resnet_name(counts) + ("-b" if shortcut == "projection" else "")
    return _network(name, task, width, Conv(task.input_shape[2], channels), blocks)


def _resnet_name(counts: tuple[int, int, int]) -> str:
    """Such as "resnet20", or "resnet-1-1-5" for stages of different lengths."""
    even = len(set(counts)) == 1
    return f"resnet{6 * counts[0] + 2}" if even else f"resnet-{'-'.join(map(str, counts))}"


def resnet_bottleneck(
    task: Task,
    depth: int,
    *,
    width: float = 1.0,
    gate: Gate | None = None,
    gate_downsampling: bool = False,
) -> Network:
    """A CIFAR ResNet of bottleneck blocks (He et al. 2016, arXiv 1512.03385, figure 5).

    Args:
        depth: 9 n + 2: three stages of n blocks, of 64, 128 and 256 channels around 3x3
            convolutions of a quarter of that; projections where the shape changes.
    """
    channels = stem = max(1, round(16 * width))
    blocks = []
    for stage in range(3):
        inner = stem << stage
        for index in range((depth - 2) // 9):
            same = index > 0
            body = (
                Conv(channels, inner, 1),
                Conv(inner, inner, 3, stride=1 if same or stage == 0 else 2),
                Conv(inner, 4 * inner, 1, relu=False),
            )
            shortcut = "identity" if same else "projection"
            gated = gate if same or gate_downsampling else None
            blocks.append(Block(f"s{stage + 1}b{index}", body, shortcut, gated))
            channels = 4 * inner
    name = f"resnet{depth}-bottleneck"
    return _network(name, task, width, Conv(task.input_shape[2], stem), blocks)


# Simonyan and Zisserman 2015, table 1, column A: channels, and whether a pool follows.
_VGG11 = ((64, True), (128, True), (256, False), (256, True)) + 2 * ((512, False), (512, True))


def vgg11(
    task: Task, *, width: float = 1.0, gate: Gate | None = None, gate_downsampling: bool = False
) -> Network:
    """VGG-11 (Simonyan and Zisserman 2015, arXiv 1409.1556) with batch norm and one linear layer.

    A chain of plain units: nothing can be skipped, so `gate` has nothing to gate. Pools that a
    small map has no room for are left out.
    """
    del gate, gate_downsampling
    height, width_ = task.input_shape[:2]
    channels = stem = max(1, round(_VGG11[0][0] * width))
    blocks: list[Block] = []
    pools: list[Pool | None] = []
    for base, pooled in _VGG11:
        room = pooled and min(height, width_) >= 2
        pools.append(Pool("max", 2, 2) if room else None)
        if room:
            height, width_ = height // 2, width_ // 2
        out = max(1, round(base * width))
        if len(pools) > 1:
            conv = Conv(channels, out, relu=False)
            blocks.append(Block(f"u{len(pools)}", (conv,), "none", None, pool=pools[-1]))
        channels = out
    network = _network("vgg11", task, width, Conv(task.input_shape[2], stem), blocks)
    return replace(network, stem_pool=pools[0])


def cosinegate8(
    task: Task, *, width: float = 1.0, gate: Gate | None = None, gate_downsampling: bool = False
) -> Network:
    """The network of the CosineGate notebook, which is no ResNet-20.

    Eight basic blocks in stages of 32, 64, 128 and 256 channels, projection shortcuts, no ReLU
    after the addition. The notebook gates the downsampling blocks too.
    """
    channels = max(1, round(32 * width))
    stages = tuple(channels << stage for stage in range(4))
    blocks = _basic_blocks(
        channels, stages, (2,) * 4, "projection", gate, gate_downsampling, relu=False
    )
    return _network("cosinegate8", task, width, Conv(task.input_shape[2], channels), blocks)


# Sandler et al. 2018, table 2: (expansion, channels, blocks, stride of the first). The stem and
# the second stage keep the map's size here, because a CIFAR image is a seventh of an ImageNet one.
_INVERTED = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _of_eight(channels: float) -> int:
    """The nearest multiple of 8, but at least 8 and not below nine tenths, as the authors round."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def mobilenet_v2(
    task: Task, *, width: float = 1.0, gate: Gate | None = None, gate_downsampling: bool = False
) -> Network:
    """MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381) for images of about 32x32 pixels.

    ReLU stands in for ReLU6: int8 activations are bounded by their scale anyway. Blocks that
    change the shape have no shortcut, so `gate_downsampling` has nothing to gate. The last 1x1
    convolution is a block without shortcut.
    """
    del gate_downsampling
    channels = stem = _of_eight(32 * width)
    blocks = []
    for stage, (expansion, base, count, first) in enumerate(_INVERTED, 1):
        out = _of_eight(base * width)
        for index in range(count):
            stride = first if index == 0 else 1
            inner = channels * expansion
            expand = (Conv(channels, inner, 1),) if expansion > 1 else ()
            depthwise = Conv(inner, inner, 3, stride, groups=inner)
            same = stride == 1 and channels == out
            blocks.append(
                Block(
                    f"s{stage}b{index}",
                    (*expand, depthwise, Conv(inner, out, 1, relu=False)),
                    "identity" if same else "none",
                    gate if same else None,
                    relu=False,
                )
            )
            channels = out
    last = Conv(channels, _of_eight(1280 * max(1.0, width)), 1, relu=False)
    blocks.append(Block("last", (last,), "none", None))
    return _network("mobilenetv2", task, width, Conv(task.input_shape[2], stem), blocks)


DEPTHS = (8, 14, 20, 32, 56)
EVEN = tuple((count, count, count) for count in ((depth - 2) // 6 for depth in DEPTHS))
UNEVEN = ((1, 1, 5), (2, 2, 5), (1, 2, 1))
"""Blocks per stage of ResNets that reach their smallest map early, as the trunk of recipe `exit`
does, and of what they are compared with."""

NETWORKS: Mapping[str, Callable[..., Network]] = {
    **{_resnet_name(counts): partial(resnet, counts=counts) for counts in (*EVEN, *UNEVEN)},
    **{
        f"{_resnet_name(counts)}-b": partial(resnet, counts=counts, shortcut="projection")
        for counts in EVEN
    },
    "resnet29-bottleneck": partial(resnet_bottleneck, depth=29),
    "mobilenetv2": mobilenet_v2,
    "vgg11": vgg11,
    "cosinegate8": cosinegate8,
}
"""Builders by name; "-b" stands for option B shortcuts."""


def build_network(
    name: str,
    task: Task,
    *,
    width: float = 1.0,
    gate: Gate | None = None,
    gate_downsampling: bool = False,
) -> Network:
    """The network of this name.

    Raises:
        CgateError: there is none; the message lists all.
    """
    if name not in NETWORKS:
        near = difflib.get_close_matches(name, NETWORKS, 1, 0.0)
        raise CgateError(
            f"unknown network {name!r}; known are {', '.join(NETWORKS)}", f"try {near[0]}"
        )
    return NETWORKS[name](task, width=width, gate=gate, gate_downsampling=gate_downsampling)
