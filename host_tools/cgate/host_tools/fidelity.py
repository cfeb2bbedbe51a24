"""What quantisation changes: a bundle's int8 network against the float network it came from.

The int8 side is the generated C on this computer, unit by unit. The float side is torch's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cgate.core.checkpoint import load_checkpoint
from cgate.core.errors import CgateError
from cgate.core.plan import Bundle, Plan, Unit, load_bundle
from cgate.core.progress import Progress, Silent
from cgate.core.targets import find_target
from cgate.export import reference
from cgate.host_tools.console import table
from cgate.host_tools.inputs import Inputs
from cgate.host_tools.verify import CompiledRoute, Outputs
from cgate.train.exits import margins
from cgate.train.gates import GatePolicy
from cgate.train.models import GatedResNet
from cgate.train.ranges import load_model

SCHEMA = 1
CHUNK = 100  # images at a time: bounds the memory for all intermediate results


@dataclass(frozen=True)
class UnitFidelity:
    """One unit.

    Args:
        images: those that ran it.
        sqnr_db: of its output: 10 log10 of the float values' squares over the squares of the
            differences, when the float network follows the same gate decisions. None where there
            is nothing to compare, or no difference.
    """

    name: str
    images: int
    sqnr_db: float | None


@dataclass(frozen=True)
class GateFidelity:
    """One gate or exit.

    Args:
        reached: images that reach it in both networks.
        changed: how many of these it decides otherwise.
    """

    name: str
    reached: int
    changed: int


@dataclass(frozen=True)
class Fidelity:
    """int8 against float on one split; each network follows its own gates.

    Args:
        same_source: whether the bundle was exported from this very checkpoint.
        float_correct, int8_correct: images classified correctly.
        same_class: images that both put into the same class.
    """

    plan_sha256: str
    same_source: bool
    data: str
    split: str
    images: int
    float_correct: int
    int8_correct: int
    same_class: int
    units: tuple[UnitFidelity, ...]
    gates: tuple[GateFidelity, ...]

    @property
    def changed(self) -> float:
        """Share of all gate decisions that int8 changes; 0 without gates."""
        reached = sum(gate.reached for gate in self.gates)
        return sum(gate.changed for gate in self.gates) / reached if reached else 0.0

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "schema": SCHEMA,
            **asdict(self),
            "accuracy": {
                "float": self.float_correct / self.images,
                "int8": self.int8_correct / self.images,
            },
            "changed": self.changed,
        }

    def lines(self) -> list[str]:
        """For people."""
        before, after = self.float_correct / self.images, self.int8_correct / self.images
        decisions = sum(gate.reached for gate in self.gates)
        lines = [
            f"{self.images:,} {self.split} images of {self.data}",
            f"accuracy  {before:.2%} in float, {after:.2%} in int8 "
            f"({100 * (after - before):+.2f} points); same class for "
            f"{self.same_class / self.images:.2%}",
        ]
        if decisions:
            lines.append(
                f"gates     {self.changed:.2%} of {decisions:,} decisions change "
                f"({1 - self.changed:.2%} agree)"
            )
        if not self.same_source:
            lines.append("the bundle was exported from another checkpoint than this one")
        changed = {
            gate.name: f"{gate.changed / gate.reached:.2%}" if gate.reached else "not reached"
            for gate in self.gates
        }
        rows = [
            [
                unit.name,
                f"{unit.images:,}",
                "" if unit.sqnr_db is None else f"{unit.sqnr_db:.1f} dB",
                changed.get(unit.name, ""),
            ]
            for unit in self.units
        ]
        return [*lines, "", *table(["unit", "images", "SQNR", "decisions changed"], rows)]


class _Float:
    """The float network, run as deployed and along the int8 network's path."""

    def __init__(self, model: GatedResNet, plan: Plan) -> None:
        self._model = model
        self._cut = math.log(plan.threshold / (1 - plan.threshold))

    def _learned(self, block: str, logits: Tensor) -> Tensor:
        return (logits > self._cut).to(logits)

    def deployed(self, images: Tensor) -> tuple[NDArray[np.int64], dict[str, NDArray[np.bool_]]]:
        """Classes [n], and the decisions by name of the unit: bool [n], as if all were reached."""
        output = self._model(images, self._learned)
        decisions = {f"{block}.gate": gate > 0 for block, gate in output.gates.items()}
        logits = output.logits
        # From the last exit to the first, so that the first that is left has the last word.
        for exit_ in reversed(self._model.network.exits):
            margin = math.inf if exit_.margin is None else exit_.margin
            going = margins(output.exits[exit_.block]) <= margin
            decisions[f"{exit_.block}.exit"] = going
            logits = torch.where(going[:, None], logits, output.exits[exit_.block])
        return logits.argmax(1).numpy(), {name: each.numpy() for name, each in decisions.items()}

    def along(self, images: Tensor, decisions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every tensor by name [n, ...], with gates held at `decisions` by block name [n]."""
        seen: dict[str, Tensor] = {}

        def policy(block: str, logits: Tensor) -> Tensor:
            # A static gate is no unit: its constant decides alike on both sides.
            held = decisions.get(block)
            return self._learned(block, logits) if held is None else held.to(logits)

        follow: GatePolicy = policy
        self._model(images, follow, lambda name, values, ran: seen.update({name: values}))
        return seen


def _rows(values: Tensor) -> NDArray[np.float64]:
    """Float values [n, C, H, W] or [n, C] as [n, H * W * C], the order of the plan's tensors."""
    if values.ndim == 4:
        values = values.permute(0, 2, 3, 1)
    rows: NDArray[np.float64] = values.reshape(len(values), -1).numpy().astype(np.float64)
    return rows


class _Tally:
    """Sums over chunks of images."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.float_correct = self.int8_correct = self.same_class = 0
        self.ran = dict.fromkeys((unit.name for unit in plan.units), 0)
        self.signal = dict.fromkeys(self.ran, 0.0)
        self.noise = dict.fromkeys(self.ran, 0.0)
        self.reached = dict.fromkeys((unit.name for unit in plan.gates), 0)
        self.changed = dict.fromkeys(self.reached, 0)

    def answers(
        self, outputs: Outputs, classes: NDArray[np.int64], labels: NDArray[np.int64]
    ) -> None:
        """Compare the classes."""
        found = np.full(len(labels), -1)
        for unit in self.plan.units:
            # Of an image that leaves at an exit no later unit ran.
            if unit.role in ("exit", "head") and unit.index in outputs:
                output = outputs[unit.index]
                found[output.images] = output.values.argmax(axis=1)
        self.float_correct += int((classes == labels).sum())
        self.int8_correct += int((found == labels).sum())
        self.same_class += int((found == classes).sum())

    def decisions(self, outputs: Outputs, decided: Mapping[str, NDArray[np.bool_]]) -> None:
        """Compare the decisions of gates that both networks reach."""
        count = len(next(iter(decided.values()))) if decided else 0
        going = np.ones(count, bool)  # of the float network: no exit was left before
        for unit in self.plan.gates:
            if unit.index not in outputs:
                continue
            output = outputs[unit.index]
            assert output.decisions is not None
            both = going[output.images]
            differs = output.decisions != decided[unit.name][output.images]
            self.reached[unit.name] += int(both.sum())
            self.changed[unit.name] += int((differs & both).sum())
            if unit.role == "exit":
                going &= decided[unit.name]

    def unit(self, unit: Unit, outputs: Outputs, tensors: Mapping[str, Tensor]) -> None:
        """Compare the values that `unit` left."""
        if unit.index not in outputs:
            return
        output, tensor = outputs[unit.index], self.plan.tensor(unit.output)
        self.ran[unit.name] += len(output.images)
        if unit.output not in tensors:
            return  # an anchor's logit, which in int8 has a unit of its own
        expected = _rows(tensors[unit.output])[output.images]
        found = (output.values.astype(np.float64) - tensor.zero_point) * tensor.scale
        self.signal[unit.name] += float((expected**2).sum())
        self.noise[unit.name] += float(((found - expected) ** 2).sum())

    def sqnr_db(self, name: str) -> float | None:
        """See UnitFidelity."""
        if self.signal[name] == 0 or self.noise[name] == 0:
            return None
        return 10 * math.log10(self.signal[name] / self.noise[name])


def _check_same_network(bundle: Bundle, model: GatedResNet) -> None:
    # Margins are no structure: they may have been chosen again.
    if bundle.plan.network.blocks != model.network.blocks:
        raise CgateError(
            "the bundle and the checkpoint are not of the same network "
            f"({bundle.plan.network.name}, {model.network.name})",
            "name the checkpoint that the bundle was exported from",
        )


def measure(
    checkpoint: Path, folder: Path, inputs: Inputs, progress: Progress | None = None
) -> Fidelity:
    """Compare the bundle in `folder` with the float network of `checkpoint`.

    Args:
        inputs: images of one split, with labels.

    Raises:
        CgateError: either cannot be read, they are of different networks, or there is no C
            compiler.
    """
    progress = progress or Silent()
    bundle = load_bundle(folder)
    plan = bundle.plan
    model, _ = load_model(checkpoint)
    _check_same_network(bundle, model)
    route = CompiledRoute(bundle, find_target(plan.target), "host", Silent())
    network, tally = _Float(model, plan), _Tally(plan)
    progress.start("fidelity", len(inputs.images))
    for start in range(0, len(inputs.images), CHUNK):
        chunk = inputs.images[start : start + CHUNK]
        outputs = route(reference.to_input(chunk), "learned")
        held: dict[str, Tensor] = {}
        for unit in plan.gates:
            if unit.role == "gate" and unit.block is not None:
                held[unit.block] = torch.zeros(len(chunk))
                if unit.index in outputs:
                    output = outputs[unit.index]
                    assert output.decisions is not None
                    held[unit.block][output.images] = torch.from_numpy(output.decisions).float()
        images = torch.from_numpy(chunk)
        with torch.inference_mode():
            classes, decided = network.deployed(images)
            tensors = network.along(images, held)
        tally.answers(outputs, classes, inputs.labels[start : start + CHUNK])
        tally.decisions(outputs, decided)
        for unit in plan.units:
            tally.unit(unit, outputs, tensors)
        progress.advance(len(chunk))
    return Fidelity(
        bundle.sha256,
        load_checkpoint(checkpoint).source_sha256 == plan.source_sha256,
        inputs.data,
        inputs.split,
        len(inputs.images),
        tally.float_correct,
        tally.int8_correct,
        tally.same_class,
        tuple(UnitFidelity(name, count, tally.sqnr_db(name)) for name, count in tally.ran.items()),
        tuple(
            GateFidelity(name, count, tally.changed[name]) for name, count in tally.reached.items()
        ),
    )
