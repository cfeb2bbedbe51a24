"""Accuracy, open rates and executed MACs of a network on a split, in float32."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cgate.core.data import Split
from cgate.core.network import network_macs
from cgate.train.gates import GatePolicy, learned
from cgate.train.models import GatedResNet

BATCH = 500


@dataclass(frozen=True)
class Evaluation:
    """Results on a split.

    Args:
        correct: images classified correctly.
        images: images in all.
        open_rates: share of images whose gate is open, by block name.
        by_class: the same per label, in the order of the labels; 0 for a label without images.
        executed_macs: MACs per image, mean over the images; gates included.
    """

    correct: int
    images: int
    open_rates: dict[str, float]
    by_class: dict[str, list[float]]
    executed_macs: float

    @property
    def accuracy(self) -> float:
        """Share of images classified correctly."""
        return self.correct / self.images


def evaluate(model: GatedResNet, split: Split, policy: GatePolicy = learned) -> Evaluation:
    """Run `model` over `split` in evaluation mode; its mode is put back afterwards."""
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    labels = torch.from_numpy(split.labels)
    predicted: list[Tensor] = []
    gates: dict[str, list[Tensor]] = {block.name: [] for block in model.network.gated}
    with torch.inference_mode():
        for images in torch.split(torch.from_numpy(split.images), BATCH):
            output = model(images.to(device), policy)
            predicted.append(output.logits.argmax(1).cpu())
            for block, values in output.gates.items():
                gates[block].append(values.cpu())
    model.train(training)
    decisions = {block: torch.cat(parts).double() for block, parts in gates.items()}
    counts = torch.bincount(labels, minlength=model.network.classes)
    by_class = {
        block: (
            torch.bincount(labels, weights=values, minlength=model.network.classes)
            / counts.clamp(min=1)
        ).tolist()
        for block, values in decisions.items()
    }
    rates = {block: values.mean().item() for block, values in decisions.items()}
    macs = network_macs(model.network)
    executed = macs.stem + macs.head + sum(macs.gates.values())
    executed_mean = executed + sum(
        cost * rates.get(block, 1.0) for block, cost in macs.bodies.items()
    )
    correct = int((torch.cat(predicted) == labels).sum())
    return Evaluation(correct, len(labels), rates, by_class, executed_mean)
