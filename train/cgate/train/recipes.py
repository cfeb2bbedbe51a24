"""Recipes: everything that decides a training run, as plain values. Loads no torch."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from cgate.core.data import DATASETS, Dataset
from cgate.core.errors import CgateError
from cgate.core.network import Gate, Network

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Recipe:
    """One training run. Fractions are of the whole run; a penalty needs a gate.

    Args:
        name: how people call it; also stands in the card.
        data: data set, one of `cgate.core.data.DATASETS`.
        depth: of the ResNet, 6 n + 2.
        epochs: passes over the training images.
        batch: images per step; what is left over at the end of an epoch is dropped.
        lr: peak learning rate of all weights but the gates' (SGD, Nesterov momentum 0.9).
        rise: fraction after which both rates peak; they start at and fall to 0, linearly.
        weight_decay: on convolutions and the head, not on batch norm and gates.
        shift: augmentation: images move by up to this many pixels each way.
        flip: augmentation: half of the images are mirrored.
        dtype: of convolutions in training, one of DTYPES; evaluation is always float32.
        gate: None trains the dense network.
        gate_downsampling: gate the blocks that change the shape too.
        gate_bias: logit of an untrained gate; it starts open.
        gate_lr: peak learning rate of the gates' weights (Adam).
        tau: share of the dense network's MACs that costs nothing.
        cost_weight: of (share - tau)^2 above that.
        warmup: fraction over which the cost's weight grows from 0.
        consistency: weight of the consistency loss, 0 for none.
        temperature: of the relaxed gate at first.
        temperature_end: after `anneal`.
        anneal: fraction over which the temperature falls and the gates' noise fades to none.
        seed: of the initial weights and, with the epoch, of all that is drawn.
        limit: train on the first so many images only; None for all.
    """

    name: str
    data: str
    depth: int
    epochs: int
    batch: int
    lr: float
    tau: float
    width: int = 16
    rise: float = 0.25
    weight_decay: float = 5e-4
    shift: int = 4
    flip: bool = True
    dtype: str = "bfloat16"
    gate: Gate | None = field(default_factory=Gate)
    gate_downsampling: bool = False
    gate_bias: float = 2.0
    gate_lr: float = 2e-3
    cost_weight: float = 10.0
    warmup: float = 0.25
    consistency: float = 0.0
    temperature: float = 1.0
    temperature_end: float = 0.5
    anneal: float = 0.6
    seed: int = 0
    limit: int | None = None

    def __post_init__(self) -> None:
        """Check each value.

        Raises:
            CgateError: a value is not allowed; the message names it and what is.
        """

        def check(key: str, good: bool, allowed: str) -> None:
            if not good:
                value = getattr(self, key)
                raise CgateError(f"recipe {self.name}: {key} is {value!r}, allowed is {allowed}")

        check("data", self.data in DATASETS, " | ".join(DATASETS))
        check("dtype", self.dtype in DTYPES, " | ".join(DTYPES))
        check("width", self.width >= 1, "1 or more")
        check("epochs", self.epochs >= 1, "1 or more")
        check("batch", self.batch >= 2, "2 or more")
        check("limit", self.limit is None or self.limit >= 1, "1 or more")
        check("shift", self.shift >= 0, "0 or more")
        check("tau", 0 < self.tau <= 1, "above 0, up to 1")
        check("seed", 0 <= self.seed < 1 << 32, "0 to 4294967295")
        for key in ("rise", "warmup", "anneal"):
            check(key, 0 < getattr(self, key) < 1, "between 0 and 1")
        for key in ("lr", "gate_lr", "temperature", "temperature_end"):
            check(key, getattr(self, key) > 0, "above 0")
        for key in ("weight_decay", "cost_weight", "consistency"):
            check(key, getattr(self, key) >= 0, "0 or more")

    def dense(self) -> Recipe:
        """The same run without gates: the baseline to compare with."""
        return replace(self, name=f"{self.name}-dense", gate=None)

    def network(self, dataset: Dataset) -> Network:
        """The network that is trained on `dataset`."""
        from cgate.train.models import resnet

        return resnet(
            self.depth,
            dataset.input_shape,
            len(dataset.classes),
            dataset.input_zero,
            dataset.input_divisor,
            width=self.width,
            gate=self.gate,
            gate_downsampling=self.gate_downsampling,
        )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, for the card."""
        value: dict[str, Any] = asdict(self)
        return value


def _cosinegate(name: str, tau: float) -> Recipe:
    """ResNet-20 on CIFAR-10 for 160 epochs, 40 of them warm-up, as in arXiv 2512.22206.

    tau, the epochs, the warm-up and the consistency weight are the paper's. The learning rate's
    cycle, the straight-through gate, the annealing and the cost's weight are this project's.
    """
    return Recipe(name, "cifar10", 20, 160, 256, 0.4, tau, consistency=0.05)


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "demo",
            "digits",
            14,
            epochs=40,
            weight_decay=5e-3,
            consistency=0.1,
            batch=64,
            lr=0.1,
            tau=0.70,
            shift=1,
            flip=False,
            dtype="float32",
        ),
        Recipe("demo-cifar10", "cifar10", 14, epochs=4, batch=256, lr=0.4, tau=0.70),
        _cosinegate("aggressive", 0.60),
        _cosinegate("balanced", 0.70),
        _cosinegate("conservative", 0.72),
    )
}


def find_recipe(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        CgateError: there is none; the message lists all, the nearest first.
    """
    if name in RECIPES:
        return RECIPES[name]
    near = difflib.get_close_matches(name, RECIPES, len(RECIPES), 0.0)
    raise CgateError(
        f"unknown recipe {name!r}; known are {', '.join(RECIPES)}", f"try --recipe {near[0]}"
    )
