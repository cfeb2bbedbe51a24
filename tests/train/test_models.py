import json

import numpy as np
import pytest

pytest.importorskip("torch", reason='pip install "cgate[train]"')

import torch
from torch import Tensor

from cgate.core.checkpoint import weight_shapes
from cgate.core.errors import CgateError
from cgate.core.network import (
    Block,
    Conv,
    Gate,
    Network,
    network_from_json,
    network_macs,
)
from cgate.train.gates import all_open, at_random, fixed, learned
from cgate.train.models import GatedResNet, StridedPoints
from cgate.train.networks import DEPTHS, Task, build_network

DIGITS = Task((8, 8, 1), 10, 73, 90)
CIFAR10 = Task((32, 32, 3), 10, 121, 64)

UNUSUAL = Network(
    "unusual",
    (9, 7, 2),
    100,
    50,
    3,
    Conv(2, 5, kernel=5, stride=2),
    (
        Block("a", (Conv(5, 4, 1), Conv(4, 4), Conv(4, 5, 1, relu=False)), "identity", Gate()),
        Block("b", (Conv(5, 8, 3, 2, relu=False),), "pad", Gate("controller", 3)),
        Block("c", (Conv(8, 8), Conv(8, 8, relu=False)), "identity", None),
    ),
)


def small(depth: int = 14) -> Network:
    return build_network(f"resnet{depth}", DIGITS, width=0.25, gate=Gate())


def pixels(network: Network, count: int, seed: int = 0) -> Tensor:
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.integers(0, 256, (count, *network.input_shape), np.uint8))


def undecided(network: Network) -> GatedResNet:
    """A model whose gates differ from image to image, and whose batch norms are not trivial."""
    torch.manual_seed(1)
    model = GatedResNet(network)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if ".fc2.weight" in name:
                value.normal_(std=1)
        for _ in range(3):
            model.train()(pixels(network, 64), all_open)
        for name, value in model.named_parameters():
            if name.endswith("fc2.bias"):
                logits: list[Tensor] = []
                block = name.split(".")[1]

                def observe(tensor: str, x: Tensor, ran: Tensor | None) -> None:
                    if tensor == f"{block}.gate.logit":  # noqa: B023 (used within the turn)
                        logits.append(x)  # noqa: B023

                model.eval()(pixels(network, 64), all_open, observe)
                value.sub_(logits[0].median())
    return model.eval()


@pytest.mark.parametrize("depth", DEPTHS)
def test_resnets_have_their_known_cost_and_gates(depth: int) -> None:
    network = build_network(f"resnet{depth}", CIFAR10, gate=Gate())
    # 40.55 M for depth 20 (He et al. 2016 give 41 M); 2.36 M x 2 per pair of convolutions.
    expected = {8: 12.25, 14: 26.40, 20: 40.55, 32: 68.87, 56: 125.49}[depth]
    assert network_macs(network).dense / 1e6 == pytest.approx(expected, abs=0.01)
    n = (depth - 2) // 6
    assert len(network.blocks) == 3 * n
    assert [block.name for block in network.blocks if block.gate is None] == ["s2b0", "s3b0"]
    assert network_from_json(json.loads(json.dumps(network.to_json()))) == network


def test_downsampling_blocks_are_gated_when_asked() -> None:
    network = build_network("resnet8", DIGITS, gate=Gate(), gate_downsampling=True)
    assert len(network.gated) == 3
    assert not build_network("resnet8", DIGITS).gated


def test_unknown_networks_are_refused() -> None:
    with pytest.raises(CgateError, match=r"'resnet18'.*known are resnet8, ") as caught:
        build_network("resnet18", DIGITS)
    assert caught.value.hint == "try resnet8"


@pytest.mark.parametrize("network", [small(), UNUSUAL], ids=lambda network: network.name)
def test_weights_have_exactly_the_names_of_a_checkpoint(network: Network) -> None:
    model = GatedResNet(network)
    found = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert found == weight_shapes(network)
    assert all(value.dtype == torch.float32 for value in model.state_dict().values())


def convolve(x: Tensor, model: GatedResNet, conv: str, norm: str, stride: int) -> Tensor:
    """Convolution and batch norm by their definition, in float64."""
    weights = model.state_dict()
    kernel = weights[f"{conv}.weight"].double()
    size = kernel.shape[-1]
    side = size // 2
    padded = torch.nn.functional.pad(x, (side, side, side, side))
    patches = padded.unfold(2, size, stride).unfold(3, size, stride)
    y = torch.einsum("nchwij,ocij->nohw", patches, kernel)
    mean, variance, scale, offset = (
        weights[f"{norm}.{name}"].double()[:, None, None]
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    normalised: Tensor = (y - mean) / torch.sqrt(variance + 1e-5) * scale + offset
    return normalised


def reference(model: GatedResNet, images: Tensor) -> tuple[Tensor, dict[str, list[int]]]:
    """The network of SPEC.md by its definition: a block whose gate is shut is not computed."""
    network = model.network
    weights = {name: value.double() for name, value in model.state_dict().items()}
    rows = []
    decisions: dict[str, list[int]] = {block.name: [] for block in network.gated}
    for image in images:
        x = (image.double().permute(2, 0, 1)[None] - network.input_zero) / network.input_divisor
        x = convolve(x, model, "stem.conv", "stem.bn", network.stem.stride).clamp(min=0)
        for block in network.blocks:
            prefix = f"blocks.{block.name}"
            is_open = True
            if block.gate is not None:
                hidden = weights[f"{prefix}.gate.fc1.weight"] @ x.mean((0, 2, 3))
                hidden = (hidden + weights[f"{prefix}.gate.fc1.bias"]).clamp(min=0)
                logit = weights[f"{prefix}.gate.fc2.weight"] @ hidden
                logit = logit + weights[f"{prefix}.gate.fc2.bias"]
                is_open = bool(torch.sigmoid(logit) > 0.45)
                decisions[block.name].append(int(is_open))
            stream = x
            if block.shortcut == "pad":
                added = block.body[-1].out_channels - x.shape[1]
                x_strided = x[:, :, :: block.stride, :: block.stride]
                before = x_strided.new_zeros(1, added // 2, *x_strided.shape[2:])
                after = x_strided.new_zeros(1, added - added // 2, *x_strided.shape[2:])
                stream = torch.cat([before, x_strided, after], 1)
            if is_open:
                f = x
                for i, conv in enumerate(block.body, 1):
                    f = convolve(f, model, f"{prefix}.conv{i}", f"{prefix}.bn{i}", conv.stride)
                    f = f.clamp(min=0) if conv.relu else f
                stream = stream + f
            x = stream.clamp(min=0)
        rows.append(weights["head.weight"] @ x.mean((0, 2, 3)) + weights["head.bias"])
    return torch.stack(rows), decisions


@pytest.mark.parametrize("network", [small(), UNUSUAL], ids=lambda network: network.name)
def test_the_model_computes_what_the_specification_says(network: Network) -> None:
    model = undecided(network)
    images = pixels(network, 24)
    output = model(images)
    logits, decisions = reference(model, images)
    assert {name: values.int().tolist() for name, values in output.gates.items()} == decisions
    torch.testing.assert_close(output.logits.double(), logits, atol=1e-3, rtol=1e-3)
    # The test would prove little if the gates did not differ between images.
    assert any(0 < sum(values) < len(values) for values in decisions.values())


def test_deployed_gates_are_a_function_of_their_image_alone() -> None:
    model = undecided(small())
    images = pixels(model.network, 16)
    together = model(images).gates
    alone = [model(image[None]).gates for image in images]
    for name, values in together.items():
        assert values.tolist() == [gates[name].item() for gates in alone]


def test_policies_rule_the_gates() -> None:
    model = undecided(small())
    images = pixels(model.network, 16)
    opened = model(images, all_open)
    assert all((values == 1).all() for values in opened.gates.values())
    chosen = {
        block.name: bool(learned_rate > 0.5)
        for block, learned_rate in zip(model.network.gated, (0, 1, 0, 1), strict=True)
    }
    output = model(images, fixed(chosen))
    for name, value in chosen.items():
        assert (output.gates[name] == float(value)).all()
    generator = torch.Generator().manual_seed(0)
    random = model(images, at_random(generator))
    assert set(torch.stack([*random.gates.values()]).flatten().tolist()) == {0.0, 1.0}


def test_observed_tensors_are_those_of_the_specification() -> None:
    model = undecided(UNUSUAL)
    seen: dict[str, tuple[int, ...]] = {}
    masked = []

    def observe(name: str, values: Tensor, ran: Tensor | None) -> None:
        assert values.dtype == torch.float32 and name not in seen
        seen[name] = tuple(values.shape[1:])
        if ran is not None:
            masked.append(name)

    model(pixels(UNUSUAL, 6), learned, observe)
    gates = ("gate.mean", "gate.hidden", "gate.logit")
    assert list(seen) == [
        "input",
        "stem",
        *(f"a.{name}" for name in (*gates, "conv1", "conv2", "conv3", "out")),
        *(f"b.{name}" for name in (*gates, "conv1", "shortcut", "out")),
        *(f"c.{name}" for name in ("conv1", "conv2", "out")),
        "head.mean",
        "head.logits",
    ]
    assert seen["input"] == (2, 9, 7) and seen["b.shortcut"] == (8, 3, 2)
    assert masked == ["a.conv1", "a.conv2", "a.conv3", "b.conv1"]


def test_pairs_are_the_open_and_the_actual_output() -> None:
    model = undecided(small())
    images = pixels(model.network, 8)
    shut = fixed({block.name: False for block in model.network.gated})
    for opened, actual in model(images, all_open, pairs=True).pairs:
        assert torch.equal(opened, actual)
    pairs = model(images, shut, pairs=True).pairs
    assert len(pairs) == 4
    assert not any(torch.equal(opened, actual) for opened, actual in pairs)
    assert model(images).pairs == []


def test_strided_points_are_a_strided_convolution() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = StridedPoints(3, 5, 1, 2, bias=False)
    x = torch.randn(4, 3, 7, 6, generator=generator).to(memory_format=torch.channels_last)
    x.requires_grad_()
    y = layer(x)
    assert layer.state_dict().keys() == {"weight"} and y.shape == (4, 5, 4, 3)
    weights = layer.weight.detach().double()[:, :, 0, 0]
    seen = x.detach().double()[:, :, ::2, ::2]
    expected = torch.einsum("oi,nihw->nohw", weights, seen)
    torch.testing.assert_close(y.detach().double(), expected, atol=1e-5, rtol=1e-5)
    back = torch.randn(y.shape, generator=generator)
    y.backward(back)
    assert layer.weight.grad is not None and x.grad is not None
    torch.testing.assert_close(
        layer.weight.grad[:, :, 0, 0].double(),
        torch.einsum("nohw,nihw->oi", back.double(), seen),
        atol=1e-5,
        rtol=1e-5,
    )
    torch.testing.assert_close(
        x.grad[:, :, ::2, ::2].double(),
        torch.einsum("oi,nohw->nihw", weights, back.double()),
        atol=1e-5,
        rtol=1e-5,
    )
    assert x.grad[:, :, 1::2].abs().max() == 0 and x.grad[:, :, :, 1::2].abs().max() == 0
