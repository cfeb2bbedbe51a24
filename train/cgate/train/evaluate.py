"""Accuracy, open rates, leave rates and executed MACs of a network on a split, in float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cgate.core.data import Split
from cgate.core.gates import GATE_KINDS
from cgate.core.network import Network, network_macs
from cgate.train.exits import choose_margin, places
from cgate.train.gates import GatePolicy, learned
from cgate.train.models import GatedResNet
from cgate.train.recipes import Exits
from cgate.train.world import ALONE, World

BATCH = 500


@dataclass(frozen=True)
class Answers:
    """What a network says about every image of a split, exits and head alike, left or not.

    Args:
        logits: float32 [exits + 1, N, classes]; the head's are last.
        gates: gate values float64 [N] by block name.
        labels: int64 [N].
    """

    logits: Tensor
    gates: dict[str, Tensor]
    labels: Tensor


@dataclass(frozen=True)
class ExitResult:
    """One exit on a split.

    Args:
        block: the one behind which it stands.
        left: share of all images that left here.
        by_class: the same per label, in the order of the labels; 0 for a label without images.
        accuracy: of those that left; 0 if none did.
        alone: accuracy if every image left here.
        alone_macs: MACs per image if every image left here, mean.
    """

    block: str
    left: float
    by_class: list[float]
    accuracy: float
    alone: float
    alone_macs: float


@dataclass(frozen=True)
class Evaluation:
    """Results on a split.

    Args:
        correct: images classified correctly.
        images: images in all.
        open_rates: share of the images that reach the gate whose gate is open, by block name.
        by_class: the same per label, in the order of the labels; 0 for a label without images.
        executed_macs: MACs per image, mean over the images; gates and exits included.
        exits: a result per exit.
    """

    correct: int
    images: int
    open_rates: dict[str, float]
    by_class: dict[str, list[float]]
    executed_macs: float
    exits: tuple[ExitResult, ...] = ()

    @property
    def accuracy(self) -> float:
        """Share of images classified correctly."""
        return self.correct / self.images


def collect(
    model: GatedResNet, split: Split, policy: GatePolicy = learned, world: World = ALONE
) -> Answers:
    """Run `model` over `split` in evaluation mode; its mode is put back afterwards.

    The ranks of `world` share the work, and each gets all answers.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    logits: list[Tensor] = []
    gates: dict[str, list[Tensor]] = {block.name: [] for block in model.network.gated}
    with torch.inference_mode():
        for images in torch.split(torch.from_numpy(world.part(split.images)), BATCH):
            output = model(images.to(device), policy)
            logits.append(torch.stack([*output.exits.values(), output.logits], 1))
            for block, values in output.gates.items():
                gates[block].append(values)

        # Fetched once at the end: a GPU need not wait after each batch.
        def all_of(parts: list[Tensor]) -> Tensor:
            return world.gather(torch.cat(parts), len(split)).cpu()

        answers = all_of(logits).transpose(0, 1).contiguous()
        decisions = {block: all_of(parts).double() for block, parts in gates.items()}
    model.train(training)
    return Answers(
        answers,
        decisions,
        torch.from_numpy(split.labels),
    )


def image_macs(
    network: Network, gates: Mapping[str, Tensor], place: Tensor, fixed: bool = False
) -> Tensor:
    """Executed MACs of each image, float64 [N].

    Args:
        gates: 1 where a block's gate is open, else 0, [N] by block name.
        place: which exit the image leaves at, the number of exits for none, int64 [N].
        fixed: the gates decide nothing: they cost nothing, and no body runs for them alone.
    """
    macs = network_macs(network)
    total = torch.full((len(place),), float(macs.stem), dtype=torch.float64)
    going = torch.ones(len(place), dtype=torch.bool)
    exits = {each.block: i for i, each in enumerate(network.exits)}
    for block in network.blocks:
        always = macs.shortcuts.get(block.name, 0) + macs.pools.get(block.name, 0)
        skips = block.gate is not None
        if block.gate is not None and not fixed:
            always += macs.gates[block.name]
            skips = not GATE_KINDS[block.gate.kind].needs_body
        opened = gates[block.name] if skips else torch.ones((), dtype=torch.float64)
        total += going * (always + opened * macs.bodies[block.name])
        if block.name in exits:
            total += going * macs.exits[block.name]
            going = going & (place > exits[block.name])
    return total + going * macs.head


def set_margins(model: GatedResNet, answers: Answers, settings: Exits) -> None:
    """Choose the margins of the model's exits from its answers on validation images."""
    network = model.network
    count = len(answers.labels)
    macs = torch.stack(
        [
            image_macs(network, answers.gates, torch.full((count,), place))
            for place in range(len(network.exits) + 1)
        ]
    )
    correct = answers.logits.argmax(2) == answers.labels
    dense = network_macs(network).dense
    model.network = choose_margin(network, answers.logits[:-1], correct, macs, settings, dense)


def score(
    network: Network, answers: Answers, place: Tensor | None = None, fixed: bool = False
) -> Evaluation:
    """The results of a network with these answers.

    Args:
        place: who answers each image, see `exits.places`; None goes by the exits' margins.
        fixed: see `image_macs`.
    """
    labels, images = answers.labels, torch.arange(len(answers.labels))
    if place is None:
        place = places(network, answers.logits[:-1])

    def by_class(values: Tensor, chosen: Tensor) -> list[float]:
        kept = labels[chosen]
        counts = torch.bincount(kept, minlength=network.classes)
        sums = torch.bincount(kept, values[chosen].double(), network.classes)
        rates: list[float] = (sums / counts.clamp(min=1)).tolist()
        return rates

    def mean(values: Tensor) -> float:
        return values.double().mean().item() if len(values) else 0.0

    rates: dict[str, float] = {}
    classes: dict[str, list[float]] = {}
    going = torch.ones(len(labels), dtype=torch.bool)
    exits = {each.block: i for i, each in enumerate(network.exits)}
    right = answers.logits.argmax(2) == labels
    results = []
    for block in network.blocks:
        if block.name in answers.gates:
            opened = answers.gates[block.name]
            rates[block.name] = mean(opened[going])
            classes[block.name] = by_class(opened, going)
        if block.name in exits:
            number = exits[block.name]
            left = place == number
            going = going & ~left
            everyone = torch.full_like(place, number)
            results.append(
                ExitResult(
                    block.name,
                    mean(left),
                    by_class(left, torch.ones_like(left)),
                    mean(right[number, left]),
                    mean(right[number]),
                    mean(image_macs(network, answers.gates, everyone, fixed)),
                )
            )
    return Evaluation(
        int(right[place, images].sum()),
        len(labels),
        rates,
        classes,
        mean(image_macs(network, answers.gates, place, fixed)),
        tuple(results),
    )


def evaluate(
    model: GatedResNet,
    split: Split,
    policy: GatePolicy = learned,
    leave: bool = True,
    fixed: bool = False,
    world: World = ALONE,
) -> Evaluation:
    """`score` of what `collect` gives; unless `leave`, no exit is taken."""
    answers = collect(model, split, policy, world)
    place = None if leave else torch.full((len(split),), len(model.network.exits))
    return score(model.network, answers, place, fixed)


def exit_controls(
    network: Network, answers: Answers, generator: torch.Generator
) -> dict[str, Evaluation]:
    """What a network with exits must beat: leaving never, and leaving as often but at random.

    The accuracy of each exit alone, the third control, is part of every evaluation.
    """
    place = places(network, answers.logits[:-1])
    order = torch.randperm(len(place), generator=generator)
    return {
        "never_left": score(network, answers, torch.full_like(place, len(network.exits))),
        "left_at_random": score(network, answers, place[order]),
    }
