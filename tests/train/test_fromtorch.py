"""Users' own torch modules, written as people write them, become checkpoints that export."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason='pip install "cgate[train]"')

import torch
from torch import Tensor, nn
from torch.nn import functional

from cgate.core.checkpoint import load_checkpoint
from cgate.core.errors import CgateError
from cgate.core.network import Network
from cgate.core.targets import find_target
from cgate.export import reference
from cgate.export.lower import lower
from cgate.train.fromtorch import convert
from synthetic import random_images

SHAPE = (16, 12, 3)


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding="same", bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return functional.relu(out)


class CifarResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 8))
        self.layer2 = nn.Sequential(BasicBlock(8, 16, 2), BasicBlock(16, 16))
        self.linear = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.layer2(self.layer1(out))
        out = functional.avg_pool2d(out, (out.size(2), out.size(3)))
        logits: Tensor = self.linear(out.view(out.size(0), -1))
        return logits


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, inner: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.relu(self.bn3(self.conv3(out)) + identity)
        return out


class ImageResNet(nn.Module):
    """As torchvision's: a 7x7 stem with stride 2 and a pool, bottlenecks, flatten(1)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = nn.Sequential(Bottleneck(8, 6, 16, 1), Bottleneck(16, 6, 16, 1))
        self.layer2 = Bottleneck(16, 8, 24, 2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.avgpool(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(torch.flatten(x, 1))
        return logits


class Inverted(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inner = 2 * inputs
        self.use_res = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, inner, 1, bias=False),
            nn.BatchNorm2d(inner, eps=1e-3),
            nn.ReLU6(),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
            nn.BatchNorm2d(inner, eps=1e-3),
            nn.ReLU6(),
            nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs, eps=1e-3),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return x + out if self.use_res else out


class OptionA(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 2, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.added = (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.conv1(x).relu())
        new = self.added
        short = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, new, new), "constant", 0)
        return torch.relu(torch.add(out, short))


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean([2, 3])


def stem(outputs: int = 8) -> list[nn.Module]:
    return [nn.Conv2d(3, outputs, 3, 1, 1), nn.BatchNorm2d(outputs), nn.ReLU()]


def head(inputs: int = 8) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 5)]


MODULES: dict[str, nn.Module] = {
    "cifar": CifarResNet(),
    "image": ImageResNet(),
    "mobile": nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        Inverted(8, 12, 2),
        Inverted(12, 12, 1),
        nn.Sequential(nn.Conv2d(12, 20, 1), nn.ReLU6()),
        nn.Dropout(0.2),
        Mean(),
        nn.Linear(20, 5),
    ),
    "vgg": nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(inplace=True), nn.AvgPool2d(2)),
        *(nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d((2, 2))),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(16, 5)),
    ),
    "option-a": nn.Sequential(*stem(), OptionA(8, 16), *head(16)),
}


def randomised(module: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif value.is_floating_point() and value.ndim == 1:
                value.add_(0.2 * torch.randn_like(value))
            elif value.is_floating_point():
                value.normal_(0, (2 / value[0].numel()) ** 0.5)
    return module


def images(count: int) -> Any:
    like = Network("like", SHAPE, 0, 1, 2, None, ())  # type: ignore[arg-type]
    return random_images(like, count, 4)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_becomes_a_checkpoint_that_exports(name: str, tmp_path: Path) -> None:
    module = randomised(MODULES[name]).train()
    pixels = images(60)
    network = convert(module, pixels, tmp_path / "a", name=name, input_zero=121, input_divisor=64)
    assert module.training
    plan, weights = lower(load_checkpoint(tmp_path / "a"), find_target("cortex-m4"))
    x = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - 121) / 64
    expected = module.eval()(x).detach().numpy()
    result = reference.run(plan, weights, reference.to_input(pixels))
    output = plan.tensor(plan.output)
    actual = (result.logits.astype(np.float64) - output.zero_point) * output.scale
    error = ((actual - expected) ** 2).sum()
    assert 10 * np.log10((expected**2).sum() / error) > 20  # dB
    assert not network.gated


def test_what_is_read_is_what_is_written() -> None:
    """The description of a module in all its parts."""
    from cgate.train.traced import trace

    steps = trace(MODULES["mobile"].eval(), torch.zeros(1, 3, 16, 12)).steps
    assert [step.shortcut for step in steps] == ["none"] * 4 + ["identity", "none"]
    assert [len(step.body) for step in steps] == [1, 1, 1, 1, 3, 1]
    assert [layer.shape.groups for layer in steps[4].body] == [1, 24, 1]
    assert [step.relu6 for step in steps] == [True, True, True, False, False, True]
    steps = trace(MODULES["image"].eval(), torch.zeros(1, 3, 16, 12)).steps
    assert [step.shortcut for step in steps] == ["none", "projection", "identity", "projection"]
    assert steps[0].pool is not None and steps[0].pool.padding == 1


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(*stem())
        self.body = nn.Conv2d(8, 8, 3, 1, 1)
        self.head = nn.Sequential(*head())

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        logits: Tensor = self.head(x + self.body(x).relu())
        return logits


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


REFUSED: list[tuple[nn.Module, str]] = [
    (nn.Sequential(*stem(), nn.Sequential(nn.GELU()), *head()), r"^3\.0: GELU is not supported"),
    (nn.Sequential(*stem(), nn.Conv2d(8, 8, (3, 1)), *head()), r"^3: a kernel of \(3, 1\)"),
    (nn.Sequential(*stem(), nn.Conv2d(8, 8, 3), *head()), r"^3: padding \(0, 0\) is not 1"),
    (nn.Sequential(*stem(), nn.Conv2d(8, 8, 1, dilation=2), *head()), "^3: .*dilation"),
    (nn.Sequential(*stem(), nn.Conv2d(8, 8, 1, groups=2), *head()), "^3: 2 groups are neither"),
    (nn.Sequential(*stem(), nn.BatchNorm2d(8), *head()), "^3: BatchNorm2d is not supported here"),
    (nn.Sequential(*stem(), nn.AvgPool2d(3, 1, 1), *head()), "^3: an average over padding"),
    (nn.Sequential(*stem(), nn.MaxPool2d(3, ceil_mode=True), *head()), "^3: pooling with .*ceil"),
    (nn.Sequential(*stem(), nn.AvgPool2d(2, divisor_override=3), *head()), "^3: pooling with"),
    (nn.Sequential(*stem(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 5)), "^3: Adapt"),
    (nn.Sequential(*stem(), nn.Flatten(), nn.Linear(1536, 5)), "^3: it makes"),
    (nn.Sequential(*stem(), *head(), nn.ReLU(), nn.Linear(5, 5)), "^5: something follows"),
    (nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), *head()), "does not begin with a convolution and"),
    (Twice(), "ends in a ReLU, behind body"),
    (Branching(), "Branching cannot be traced"),
]


@pytest.mark.parametrize(("module", "message"), REFUSED)
def test_what_is_not_supported_is_named(module: nn.Module, message: str, tmp_path: Path) -> None:
    with pytest.raises(CgateError, match=message) as caught:
        convert(module, images(2), tmp_path / "a")
    assert caught.value.hint
    assert not (tmp_path / "a").exists()


def test_a_module_that_changes_its_mind_is_refused(tmp_path: Path) -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(*stem(), *head())
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            logits: Tensor = self.inner(x)
            return logits if self.calls < 2 else logits * 1.1

    with pytest.raises(CgateError, match="differ by"):
        convert(Noisy(), images(2), tmp_path / "a")
