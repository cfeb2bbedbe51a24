import numpy as np
import pytest

pytest.importorskip("torch", reason='pip install "cgate[train]"')

import torch

from cgate.core.data import Split
from cgate.core.network import Gate, network_macs
from cgate.train.evaluate import BATCH, evaluate
from cgate.train.gates import all_open, at_random
from cgate.train.models import GatedResNet
from cgate.train.networks import Task, build_network

NETWORK = build_network(
    "resnet8", Task((4, 4, 1), 3, 128, 64), width=0.125, gate=Gate("controller", 2)
)


def test_counts_agree_with_a_plain_loop_over_images() -> None:
    random = np.random.default_rng(0)
    count = BATCH + 7
    split = Split(random.integers(0, 256, (count, 4, 4, 1), np.uint8), random.integers(0, 2, count))
    torch.manual_seed(0)
    model = GatedResNet(NETWORK).train()
    with torch.no_grad():
        model.get_parameter("blocks.s1b0.gate.fc2.weight").normal_(std=30)
    result = evaluate(model, split)
    assert model.training
    model.eval()
    correct, opened = 0, []
    with torch.no_grad():
        for image, label in zip(split.images, split.labels, strict=True):
            output = model(torch.from_numpy(image)[None])
            correct += int(output.logits.argmax()) == label
            opened.append(int(output.gates["s1b0"].item()))
    assert (result.correct, result.images) == (correct, count)
    assert result.accuracy == correct / count
    assert result.open_rates["s1b0"] == pytest.approx(np.mean(opened))
    for label in (0, 1):
        rate = np.mean(np.array(opened)[split.labels == label])
        assert result.by_class["s1b0"][label] == pytest.approx(rate)
    assert result.by_class["s1b0"][2] == 0  # no image has this label
    macs = network_macs(NETWORK)
    per_image = [
        macs.dense + macs.gates["s1b0"] - (1 - is_open) * macs.bodies["s1b0"] for is_open in opened
    ]
    assert result.executed_macs == pytest.approx(np.mean(per_image))


def test_a_policy_can_replace_the_learned_gates() -> None:
    split = Split(np.zeros((20, 4, 4, 1), np.uint8), np.zeros(20, np.int64))
    model = GatedResNet(NETWORK)
    assert evaluate(model, split, all_open).open_rates == {"s1b0": 1.0}
    drawn = evaluate(model, split, at_random(torch.Generator().manual_seed(0)))
    assert 0 < drawn.open_rates["s1b0"] < 1
