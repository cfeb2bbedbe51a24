"""Recipes: everything that decides a training run, as plain values. Loads no torch."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from cgate.core.costs import cost_table
from cgate.core.data import DATASETS, Dataset
from cgate.core.errors import CgateError
from cgate.core.files import json_text
from cgate.core.gates import GATE_KINDS, Gate
from cgate.core.network import Exit, Network, UnitCosts, check_exits, network_macs
from cgate.core.targets import find_target
from cgate.core.unit_cycles import network_cycles
from cgate.train.networks import NETWORKS, build_network, task_of
from cgate.train.schedules import SCHEDULES

DTYPES = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class Exits:
    """Early exits: where they are, how they are trained, and what their margin is chosen for.

    Args:
        after: names of the blocks behind which an exit stands, in order.
        weights: of each exit's loss, beside the head's of 1.
        distill: share of an exit's loss that compares it with the head's soft answers; the rest
            compares it with the labels.
        detach: exits do not train the trunk.
        share: the margin is chosen to execute this share of the dense network's MACs, or
        loss: to lose this much accuracy (0.005 is half a point) against leaving never.
    """

    after: tuple[str, ...]
    weights: tuple[float, ...]
    distill: float = 0.0
    detach: bool = False
    share: float | None = None
    loss: float | None = None

    @property
    def problem(self) -> str:
        """What is wrong with the values, or ""."""
        if not self.after or len(self.after) != len(self.weights):
            return "one weight for each block in `after`, at least one"
        if not all(weight > 0 for weight in self.weights):
            return "weights above 0"
        if not 0 <= self.distill <= 1:
            return "distill from 0 to 1"
        if (self.share is None) == (self.loss is None):
            return "either share or loss"
        limit = self.loss if self.share is None else self.share
        return "" if limit is not None and 0 <= limit <= 1 else "share and loss from 0 to 1"


@dataclass(frozen=True)
class Recipe:
    """One training run. Fractions are of the whole run; a penalty needs a gate.

    Args:
        name: how people call it; also stands in the card.
        data: data set, one of `cgate.core.data.DATASETS`.
        model: network, one of `cgate.train.networks.NETWORKS`.
        epochs: passes over the training images.
        batch: images per step; what is left over at the end of an epoch is dropped.
        lr: peak learning rate of all weights but the gates' (SGD, Nesterov momentum 0.9).
        rise: fraction after which both rates peak; they start at and fall to 0, linearly.
        weight_decay: on convolutions and the head, not on batch norm and gates.
        shift: augmentation: images move by up to this many pixels each way.
        flip: augmentation: half of the images are mirrored.
        dtype: of convolutions in training, one of DTYPES; evaluation is always float32. "auto" is
            bfloat16 where the machine has instructions for it, else float32; a run that has begun
            keeps what it began with. The card tells what it was.
        gate: None trains the dense network.
        gate_downsampling: gate the blocks that change the shape too.
        gate_bias: logit of an untrained gate; it starts open.
        gate_lr: peak learning rate of the gates' weights (Adam).
        distillation: weight of the share of the CIRs' variance that their predictions leave
            ("cir-predicted").
        cir_gradient: let the trunk feel that its CIR is predicted ("cir-predicted").
        tau: share of the dense network's cost that costs nothing.
        cost: what tau is a share of: "macs", or cycles of this target's cost table.
        cost_weight: of (share - tau)^2 above that.
        warmup: fraction over which the cost's weight grows from 0; 0 is all of it at once.
        consistency: weight of the consistency loss, 0 for none.
        bandpass: weight of the bandpass loss, which is paid by each gate whose open rate lies
            below `floor` or above `ceiling`; 0 for none.
        noise: factor of the relaxed gate's logistic noise at first.
        hard: pass on 0 or 1 in training (straight-through); if not, values between.
        temperature: of the relaxed gate at first.
        temperature_end: after `anneal`.
        temperature_schedule: how it gets there, one of `cgate.train.schedules.SCHEDULES`.
        anneal: fraction over which the temperature falls and the gates' noise fades to none.
        seed: of the initial weights and, with the epoch, of all that is drawn.
        limit: train on the first so many images only; None for all.
        exits: None trains a network whose head answers every image.
        start: folder of a checkpoint whose weights the run starts from; gates and exits that it
            lacks start as ever. None for random weights.
        teacher: folder of a checkpoint whose answers the network learns to imitate.
        teach: share of the loss of answers that imitates the teacher; the labels have the rest.
    """

    name: str
    data: str
    model: str
    epochs: int
    batch: int
    lr: float
    tau: float
    width: float = 1.0
    rise: float = 0.25
    weight_decay: float = 5e-4
    shift: int = 4
    flip: bool = True
    dtype: str = "auto"
    gate: Gate | None = field(default_factory=Gate)
    gate_downsampling: bool = False
    gate_bias: float = 2.0
    gate_lr: float = 2e-3
    distillation: float = 1.0
    cir_gradient: bool = False
    cost: str = "macs"
    cost_weight: float = 10.0
    warmup: float = 0.25
    consistency: float = 0.0
    bandpass: float = 0.0
    floor: float = 0.05
    ceiling: float = 0.95
    noise: float = 1.0
    hard: bool = True
    temperature: float = 1.0
    temperature_end: float = 0.5
    temperature_schedule: str = "linear"
    anneal: float = 0.6
    seed: int = 0
    limit: int | None = None
    exits: Exits | None = None
    start: str | None = None
    teacher: str | None = None
    teach: float = 0.5

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
        check("model", self.model in NETWORKS, " | ".join(NETWORKS))
        check("width", 0 < self.width <= 8, "above 0, up to 8")
        check("epochs", self.epochs >= 1, "1 or more")
        check("batch", self.batch >= 2, "2 or more")
        check("limit", self.limit is None or self.limit >= 1, "1 or more")
        check("shift", self.shift >= 0, "0 or more")
        check("tau", 0 < self.tau <= 1, "above 0, up to 1")
        check("seed", 0 <= self.seed < 1 << 32, "0 to 4294967295")
        check("warmup", 0 <= self.warmup < 1, "0 or more, below 1")
        check("teach", 0 <= self.teach <= 1, "0 to 1")
        check("floor", 0 <= self.floor <= self.ceiling <= 1, "0 <= floor <= ceiling <= 1")
        check(
            "temperature_schedule",
            self.temperature_schedule in SCHEDULES,
            " | ".join(SCHEDULES),
        )
        for key in ("rise", "anneal"):
            check(key, 0 < getattr(self, key) < 1, "between 0 and 1")
        for key in ("lr", "gate_lr", "temperature", "temperature_end"):
            check(key, getattr(self, key) > 0, "above 0")
        for key in (
            "weight_decay",
            "cost_weight",
            "consistency",
            "bandpass",
            "noise",
            "distillation",
        ):
            check(key, getattr(self, key) >= 0, "0 or more")

        if self.cost != "macs":
            find_target(self.cost)
        if self.exits is not None:
            check("exits", not self.exits.problem, self.exits.problem)

    def with_gate(self, kind: str) -> Recipe:
        """The same run with gates of another kind, "none" for the dense network.

        Raises:
            CgateError: there is no such kind; the message lists all.
        """
        if kind == "none":
            return self.dense()
        if kind not in GATE_KINDS:
            raise CgateError(
                f"unknown gate {kind!r}; known are {', '.join(GATE_KINDS)}, and none",
                "--gate controller",
            )
        hidden = (self.gate or Gate()).hidden
        return replace(self, name=f"{self.name}-{kind}", gate=Gate(kind, hidden))

    def ablated(self, name: str) -> Recipe:
        """The same run but for one thing, a key of ABLATIONS.

        Raises:
            CgateError: there is no such ablation, or nothing to take away.
        """
        if name not in ABLATIONS:
            raise CgateError(
                f"unknown ablation {name!r}; known are {', '.join(ABLATIONS)}",
                f"--ablation {difflib.get_close_matches(name, ABLATIONS, 1, 0.0)[0]}",
            )
        if self.gate is None:
            raise CgateError(f"recipe {self.name} has no gates to take anything away from")
        changes = dict(ABLATIONS[name])
        if name == "no-cir":
            if "cir" not in self.gate.kind:
                raise CgateError(
                    f"recipe {self.name} has {self.gate.kind} gates, which do without CIR already",
                    "--gate cir --ablation no-cir",
                )
            changes["gate"] = Gate("controller", self.gate.hidden)
        if name == "felt-cir" and self.gate.kind != "cir-predicted":
            raise CgateError(
                f"recipe {self.name} has {self.gate.kind} gates, which predict no CIR",
                "--gate cir-predicted --ablation felt-cir",
            )
        ablated = replace(self, name=f"{self.name}-{name}", **changes)
        if replace(ablated, name=self.name) == self:
            raise CgateError(f"--ablation {name} changes nothing in recipe {self.name}")
        return ablated

    def dense(self) -> Recipe:
        """The same run without gates and exits: the baseline to compare with."""
        return replace(self, name=f"{self.name}-dense", gate=None, exits=None)

    def network(self, dataset: Dataset) -> Network:
        """The network that is trained on `dataset`; its exits have no margin yet.

        Raises:
            CgateError: an exit stands behind no block, or behind the last one.
        """
        gate = self.gate
        if gate is not None and gate.kind == "random" and gate.rate is None:
            gate = replace(gate, rate=self._rate(self._built(dataset, replace(gate, rate=1.0))))
        network = self._built(dataset, gate)
        exits = () if self.exits is None else self.exits.after
        network = replace(network, exits=tuple(Exit(block) for block in exits))
        check_exits(network, f"recipe {self.name}")
        return network

    def _built(self, dataset: Dataset, gate: Gate | None) -> Network:
        return build_network(
            self.model,
            task_of(dataset),
            width=self.width,
            gate=gate,
            gate_downsampling=self.gate_downsampling,
        )

    def costs(self, network: Network) -> UnitCosts:
        """What the penalty counts.

        Raises:
            CgateError: the target of `cost` has no cost table.
        """
        if self.cost == "macs":
            return network_macs(network)
        return network_cycles(network, cost_table(find_target(self.cost)))

    def _rate(self, network: Network) -> float:
        """The open rate at which gates that cost nothing execute `tau` of the dense network."""
        costs = self.costs(network)
        gated = sum(costs.bodies[block.name] for block in network.gated)
        return min(1.0, max(0.0, 1 - (1 - self.tau) * costs.dense / gated)) if gated else 1.0

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, for the card."""
        # Through text, so that a tuple here equals the list that a card or state gives back.
        value: dict[str, Any] = json.loads(json_text(asdict(self)))
        return value


def recipe_from_json(value: Any) -> Recipe:
    """The recipe that `Recipe.to_json` wrote to a card or run.json.

    Raises:
        CgateError: it is none, or of another version.
    """
    if not isinstance(value, dict):
        raise CgateError("a recipe is an object with the fields of a recipe")
    fields_ = dict(value)
    try:
        if fields_.get("gate") is not None:
            fields_["gate"] = Gate(**fields_["gate"])
        if fields_.get("exits") is not None:
            exits = fields_["exits"]
            lists = {key: tuple(exits[key]) for key in ("after", "weights")}
            fields_["exits"] = Exits(**{**exits, **lists})
        return Recipe(**fields_)
    except (TypeError, KeyError) as error:
        raise CgateError(f"this is no recipe of this version: {error}") from error


def _cosinegate(name: str, tau: float) -> Recipe:
    """ResNet-20 on CIFAR-10 for 160 epochs, 40 of them warm-up, as in arXiv 2512.22206.

    tau, the epochs, the warm-up and the consistency weight are the paper's. The learning rate's
    cycle, the straight-through gate, the annealing and the cost's weight are this project's.
    """
    return Recipe(name, "cifar10", "resnet20", 160, 256, 0.4, tau, consistency=0.05)


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "demo",
            "digits",
            "resnet14",
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
        Recipe("demo-cifar10", "cifar10", "resnet14", epochs=4, batch=256, lr=0.4, tau=0.70),
        _cosinegate("aggressive", 0.60),
        _cosinegate("balanced", 0.70),
        _cosinegate("conservative", 0.72),
        # This project's own: the gate that can be exported, and no consistency loss, for which no
        # gain was seen. Half the batch gives twice the steps at less time per image: its maps
        # stay in a CPU's cache. Not tuned beyond short runs.
        Recipe("cgate", "cifar10", "resnet20", 100, 128, 0.2, 0.70, temperature_schedule="cosine"),
        # A classifier needs the small maps of the last stage (Huang et al. 2018, arXiv 1703.09844,
        # section 4, on coarse features), so this trunk gets there at 39 % of its MACs.
        Recipe(
            "exit",
            "cifar10",
            "resnet-1-1-5",
            epochs=60,
            batch=128,
            lr=0.2,
            tau=1.0,
            gate=None,
            exits=Exits(("s3b0", "s3b2"), (0.5, 0.5), distill=0.5, loss=0.005),
        ),
        Recipe(
            "exit-digits",
            "digits",
            "resnet14",
            epochs=40,
            weight_decay=5e-3,
            consistency=0.1,
            batch=64,
            lr=0.1,
            tau=0.85,
            shift=1,
            flip=False,
            dtype="float32",
            exits=Exits(("s1b1", "s2b1"), (0.3, 0.5), distill=0.5, loss=0.005),
        ),
    )
}


ABLATIONS: Mapping[str, Mapping[str, Any]] = {
    "no-cir": {},
    "no-consistency": {"consistency": 0.0},
    "immediate-penalty": {"warmup": 0.0},
    "short-warmup": {"warmup": 0.0625},
    "constant-temperature": {"temperature_schedule": "constant"},
    "cosine-temperature": {"temperature_schedule": "cosine"},
    "exponential-temperature": {"temperature_schedule": "exponential"},
    "no-noise": {"noise": 0.0},
    "soft-gates": {"hard": False},
    "no-penalty": {"cost_weight": 0.0},
    "felt-cir": {"cir_gradient": True},
}
"""What `Recipe.ablated` changes: what CosineGate names (arXiv 2512.22206), and a few more.

A short warm-up is 10 of 160 epochs instead of 40. "no-cir" leaves the controller alone. "felt-cir"
lets the trunk feel that its CIR is predicted.
"""


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
