"""A narrow network cut out of a wide one."""

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason='pip install "cgate[train]"')

import torch

from cgate.core.data import load_dataset
from cgate.core.errors import CgateError
from cgate.core.network import Exit, Network
from cgate.train.gates import all_open
from cgate.train.loop import Run
from cgate.train.models import GatedResNet
from cgate.train.narrow import is_narrower, narrowed
from cgate.train.networks import Task, build_network
from cgate.train.recipes import Recipe

TASK = Task((8, 8, 1), 10, 73, 90)


def with_exit(network: Network) -> Network:
    return replace(network, exits=(Exit("s2b0"),))


def random_model(network: Network) -> GatedResNet:
    torch.manual_seed(0)
    model = GatedResNet(network).eval()
    for name, value in model.state_dict().items():
        if ".bn" in name or name.startswith("stem.bn"):
            value.uniform_(0.5, 1.5)
    return model


def silence(model: GatedResNet, conv: str, kept: torch.Tensor) -> None:
    """Make all channels that `conv` writes zero but the `kept` ones."""
    state = model.state_dict()
    place, _, layer = conv.rpartition(".")
    dead = torch.ones(len(state[f"{conv}.weight"]), dtype=torch.bool)
    dead[kept] = False
    state[f"{conv}.weight"][dead] = 0
    for what in ("weight", "bias"):
        state[f"{place}.{layer.replace('conv', 'bn')}.{what}"][dead] = 0


def some(count: int, of: int, first: int = 0) -> torch.Tensor:
    return first + torch.randperm(of)[:count].sort().values


@pytest.mark.parametrize("name", ["resnet14", "resnet14-b"])
def test_channels_that_say_nothing_can_go(name: str) -> None:
    wide, narrow = (with_exit(build_network(name, TASK, width=width)) for width in (0.75, 0.5))
    model = random_model(wide)
    # 12, 24 and 48 channels; 8, 16 and 32 of them speak.
    stages = [some(8, 12)]
    for stage in (1, 2):
        before = 12 << (stage - 1)
        if name.endswith("-b"):
            stages.append(some(8 << stage, 12 << stage))
        else:
            # Option A puts the old channels in the middle of the new ones.
            side, speak = before // 2, (8 << stage) // 4
            new = [some(speak, side), some(speak, side, before + side)]
            stages.append(torch.cat([new[0], stages[-1] + side, new[1]]))
    silence(model, "stem.conv", stages[0])
    for block in wide.blocks:
        kept = stages[int(block.name[1]) - 1]
        prefix = f"blocks.{block.name}"
        silence(model, f"{prefix}.conv1", some(len(kept), block.body[0].out_channels))
        silence(model, f"{prefix}.conv2", kept)
        if block.projection is not None:
            silence(model, f"{prefix}.projection.conv", kept)
    images = torch.randint(0, 256, (16, 8, 8, 1), dtype=torch.uint8)
    expected = model(images, all_open)
    assert is_narrower(narrow, wide)
    cut = GatedResNet(narrow).eval()
    cut.load_state_dict(narrowed(model.state_dict(), wide, narrow))
    found = cut(images, all_open)
    assert expected.logits.std() > 0.01
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.exits["s2b0"], expected.exits["s2b0"])


def test_a_network_of_the_same_width_is_left_as_it_is() -> None:
    network = with_exit(build_network("resnet14", TASK, width=0.5))
    state = random_model(network).state_dict()
    cut = narrowed(state, network, network)
    assert cut.keys() == state.keys()
    assert all(torch.equal(cut[name], value) for name, value in state.items())


def test_the_strongest_filters_stay() -> None:
    wide, narrow = (build_network("resnet8", TASK, width=width) for width in (0.5, 0.25))
    model = random_model(wide)
    weights = model.state_dict()["blocks.s1b0.conv1.weight"]
    weights[[1, 4, 5, 7]] *= 100
    cut = narrowed(model.state_dict(), wide, narrow)
    # Input channels are chosen too: what is left are rows of the four strong filters.
    assert cut["blocks.s1b0.conv1.weight"].abs().amax((1, 2, 3)).min() > 10


def test_other_networks_are_not_narrower() -> None:
    wide = build_network("resnet14", TASK)
    assert not is_narrower(wide, wide)
    assert not is_narrower(build_network("resnet8", TASK, width=0.5), wide)
    assert not is_narrower(build_network("resnet14", TASK, width=1.5), wide)
    assert not is_narrower(build_network("resnet14-b", TASK, width=0.5), wide)
    assert not is_narrower(build_network("resnet14", replace(TASK, classes=9), width=0.5), wide)


def test_groups_are_refused() -> None:
    wide, narrow = (
        build_network("mobilenetv2", replace(TASK, input_shape=(32, 32, 3)), width=width)
        for width in (0.5, 0.25)
    )
    model = GatedResNet(wide)
    with pytest.raises(CgateError, match="has convolutions with groups"):
        narrowed(model.state_dict(), wide, narrow)


def test_a_run_starts_narrower(trained: Path, tiny: Recipe) -> None:
    data = load_dataset(tiny.data)
    narrow = Run(replace(tiny, start=str(trained), width=0.125), data)
    plain = Run(replace(tiny, width=0.125), data)
    begun, own = narrow.model.state_dict(), plain.model.state_dict()
    trunk = [name for name in own if name.endswith("weight") and ".gate." not in name]
    assert not any(torch.equal(begun[name], own[name]) for name in trunk)
    # Gates are for another number of channels: they start as ever.
    assert all(torch.equal(begun[name], own[name]) for name in own if ".gate.fc1" in name)
