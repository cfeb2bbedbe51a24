"""Named networks against published sizes, and against torch's own layers."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason='pip install "cgate[train]"')

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from cgate.core.checkpoint import CARD, RANGES, WEIGHTS, load_checkpoint, weight_shapes
from cgate.core.errors import CgateError
from cgate.core.files import write_json
from cgate.core.network import Block, Conv, Gate, Network, network_from_json, network_macs
from cgate.core.targets import find_target
from cgate.export.lower import lower
from cgate.train.gates import all_open, fixed
from cgate.train.models import GatedResNet
from cgate.train.networks import NETWORKS, Task, build_network

CIFAR10 = Task((32, 32, 3), 10, 121, 64)
SMALL = Task((12, 10, 3), 7, 121, 64)


def pixels(network: Network, count: int) -> Tensor:
    random = np.random.default_rng(3)
    return torch.from_numpy(random.integers(0, 256, (count, *network.input_shape), np.uint8))


def parameters(network: Network) -> int:
    return sum(
        math.prod(shape)
        for name, shape in weight_shapes(network).items()
        if ".running_" not in name
    )


@pytest.mark.parametrize(
    ("name", "width", "macs", "weights"),
    [
        # He et al. 2016 give 0.27 M and 0.46 M weights; option B adds its two projections:
        # 16 * 16 * 32 * 16 + 8 * 8 * 64 * 32 multiply-accumulates.
        ("resnet20", 1.0, 40.55, 269_722),
        ("resnet32", 1.0, 68.86, 464_154),
        ("resnet20-b", 1.0, 40.55 + 0.262144, 269_722 + 512 + 64 + 2048 + 128),
        ("resnet20", 2.0, 4 * 40.55 - 2 * 0.442, None),
        # The figures that collections of CIFAR-10 models print for these three.
        ("mobilenetv2", 1.0, 87.98, 2_236_682),
        ("mobilenetv2", 0.5, 27.97, None),
        ("mobilenetv2", 1.4, 170.07, None),
        ("resnet56", 1.0, 125.49, 853_018),
        # ResNet-8, and four blocks of two convolutions of 64 channels on 8x8 pixels.
        ("resnet-1-1-5", 1.0, 12.24 + 4 * 2 * 0.036864 * 64, 75_290 + 4 * 2 * (9 * 64 * 64 + 128)),
        # ResNet-14, and three of them: as many multiply-accumulates as ResNet-20.
        ("resnet-2-2-5", 1.0, 40.55, 172_506 + 3 * 2 * (9 * 64 * 64 + 128)),
        # Collections print 152.7 M and 9,231,114 for VGG-11; its pools and 2,752 needless biases.
        ("vgg11", 1.0, 152.87, 9_231_114 - 2_752),
        # 136.8 M in residual branches, 1.6 M in projections, 0.9 M in the stem.
        ("cosinegate8", 1.0, 139.3, None),
    ],
)
def test_networks_have_their_published_size(
    name: str, width: float, macs: float, weights: int | None
) -> None:
    network = build_network(name, CIFAR10, width=width)
    # The means before the head are counted here and not there: up to 0.03 M.
    assert network_macs(network).dense / 1e6 == pytest.approx(macs, abs=0.06)
    assert weights is None or parameters(network) == weights


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_described_built_and_run(name: str) -> None:
    network = build_network(name, SMALL, width=0.25, gate=Gate(), gate_downsampling=True)
    assert network_from_json(json.loads(json.dumps(network.to_json()))) == network
    model = GatedResNet(network)
    found = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert found == weight_shapes(network)
    images = pixels(network, 4)
    output = model(images, all_open)
    assert output.logits.shape == (4, 7) and output.logits.isfinite().all()
    assert [*output.gates] == [block.name for block in network.gated]
    output.logits.square().mean().backward()
    gradients = {key: value.grad for key, value in model.named_parameters()}
    assert all(value is not None for key, value in gradients.items() if ".gate." not in key)


def test_gates_stand_where_a_body_can_be_skipped() -> None:
    def gated(name: str, everywhere: bool) -> list[str]:
        network = build_network(name, CIFAR10, gate=Gate(), gate_downsampling=everywhere)
        return [block.name for block in network.gated]

    assert len(gated("cosinegate8", True)) == 8
    assert gated("cosinegate8", False) == ["s1b0", "s1b1", "s2b1", "s3b1", "s4b1"]
    # Stride 1 and equal channels: one less than the blocks of each stage.
    assert len(gated("mobilenetv2", True)) == 0 + 1 + 2 + 3 + 2 + 2
    assert gated("mobilenetv2", True) == gated("mobilenetv2", False)


class BasicBlockB(nn.Module):
    """Option B as it is usually written: conv-bn-relu-conv-bn plus a strided 1x1 conv-bn."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.skip: nn.Module = nn.Identity()
        if stride != 1:
            self.skip = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.skip(x) + self.branch(x))


class InvertedResidual(nn.Module):
    """Expand, depthwise, project; added to the input where the shape allows it."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int) -> None:
        super().__init__()
        expand = [nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU()]
        self.branch = nn.Sequential(
            *(expand if inner != inputs else []),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.added = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.branch(x)
        return x + y if self.added else y


def written_out(network: Network) -> nn.Module:
    """The network of torch's own layers, in the order of the description's weights."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, network.stem.out_channels, 3, 1, 1, bias=False),
        nn.BatchNorm2d(network.stem.out_channels),
        nn.ReLU(),
    ]
    for block in network.blocks:
        first, last = block.body[0], block.body[-1]
        if block.name == "last":
            layers += [
                nn.Conv2d(first.in_channels, last.out_channels, 1, bias=False),
                nn.BatchNorm2d(last.out_channels),
                nn.ReLU(),
            ]
        elif network.name.startswith("mobilenet"):
            depthwise = block.body[-2]
            layers.append(
                InvertedResidual(
                    first.in_channels, depthwise.out_channels, last.out_channels, block.stride
                )
            )
        else:
            layers.append(BasicBlockB(first.in_channels, last.out_channels, block.stride))
    return nn.Sequential(
        *layers,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(network.features, network.classes),
    )


@pytest.mark.parametrize("name", ["resnet14-b", "mobilenetv2"])
def test_the_model_equals_one_of_torchs_own_layers(name: str) -> None:
    network = build_network(name, SMALL, width=0.25, gate=Gate())
    model = GatedResNet(network)
    torch.manual_seed(2)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if ".bn" in key and not key.endswith("running_var"):
                value.add_(torch.randn_like(value) * 0.1)
            elif key.endswith("running_var"):
                value.mul_(torch.rand_like(value) + 0.5)
    other = written_out(network)
    weights = [value for key, value in model.state_dict().items() if ".gate." not in key]
    target = {key: value for key, value in other.state_dict().items() if "num_batches" not in key}
    assert [value.shape for value in weights] == [value.shape for value in target.values()]
    other.load_state_dict(dict(zip(target, weights, strict=True)), strict=False)
    images = pixels(network, 5)
    x = (images.permute(0, 3, 1, 2).float() - 121) / 64
    found = model.eval()(images, all_open).logits
    torch.testing.assert_close(found, other.eval()(x), atol=1e-4, rtol=1e-4)
    shut = fixed({block.name: False for block in network.gated})
    assert not torch.allclose(model(images, shut).logits, found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"body": (Conv(8, 8, groups=2), Conv(8, 8, relu=False))},
            "convolution 1 has 2 groups of 4",
        ),
        ({"gate": Gate(), "relu6": True}, "it has a gate, and ReLU6 after its addition"),
        ({"gate": Gate("cir")}, "its decision needs F"),
    ],
)
def test_what_cannot_be_exported_is_named(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    block = Block("b", (Conv(8, 8), Conv(8, 8, relu=False)), "identity", None)
    network = Network("odd", (8, 8, 3), 121, 64, 7, Conv(3, 8), (replace(block, **changes),))
    save_file(GatedResNet(network).state_dict(), tmp_path / WEIGHTS)
    write_json(tmp_path / CARD, {"schema": 1, "network": network.to_json()})
    write_json(tmp_path / RANGES, {"schema": 1, "tensors": {}})
    with pytest.raises(CgateError, match=f"b cannot be exported: .*{message}") as caught:
        lower(load_checkpoint(tmp_path), find_target("cortex-m4"))
    assert caught.value.hint
