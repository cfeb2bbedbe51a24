"""`cgate compare`: bundles side by side on the same images, and whether gating pays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgate.core.errors import CgateError
from cgate.core.plan import Plan, load_bundle
from cgate.core.targets import find_target
from cgate.host_tools.runs import choose_run, find_runs
from cgate.host_tools.summary import KINDS, Records, records
from cgate.host_tools.trace import Trace

CLEAR = 2.0
"""Standard errors by which two accuracies must differ to be called different."""

LEVEL = 0.005
"""Relative difference of cost below which two networks cost the same."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Side:
    """One bundle and the run that speaks for it.

    Args:
        name: folder of the bundle.
        worst: cost of the dearest inference with all gates open, from a run with open gates; None
            if there is none.
    """

    name: str
    plan: Plan
    trace: Trace
    record: Records
    worst: int | None

    @property
    def unit(self) -> str:
        """What `cost` is counted in: "cycles" (modelled) where there is a model."""
        return "instructions" if self.record.cycles is None else "cycles"

    @property
    def kind(self) -> str:
        """The same in words, with where it comes from."""
        if self.record.cycles is None:
            return KINDS["instructions"]
        return KINDS["modelled_cycles" if self.trace.board_cycles is None else "board_cycles"]

    @property
    def cost(self) -> NDArray[np.int64]:
        """Cost per image [n]."""
        cost = self.record.total if self.record.cycles is None else self.record.cycles
        assert cost is not None
        return cost


def load_side(folder: Path, run: str | None = None) -> Side:
    """A bundle and its longest run under QEMU with its own gates.

    Args:
        run: another one, by the name of its folder.

    Raises:
        CgateError: there is no such run.
    """
    bundle = load_bundle(folder)
    runs = find_runs(bundle)
    chosen = choose_run(bundle, runs, run)
    if chosen.trace.runner != "qemu":
        raise CgateError(
            f"{folder} has no run whose cost was counted (the host counts none)",
            f"cgate run {folder}",
        )
    worst = None
    for other in runs:
        if other.trace.gates == "open" and other.trace.target == chosen.trace.target:
            side = Side(folder.name, bundle.plan, other.trace, records(bundle.plan, other.trace), 0)
            worst = max(worst or 0, int(side.cost.max()))
    return Side(folder.name, bundle.plan, chosen.trace, records(bundle.plan, chosen.trace), worst)


def check_alike(sides: Sequence[Side]) -> None:
    """CgateError unless all sides ran the same images on the same target."""
    first = sides[0]
    for side in sides[1:]:
        for what in ("target", "data", "split", "images"):
            mine, theirs = getattr(first.trace, what), getattr(side.trace, what)
            if mine != theirs:
                shown = "" if what == "images" else f" ({mine} and {theirs})"
                raise CgateError(
                    f"{first.name} and {side.name} were not run on the same {what}{shown}",
                    "run all of them with the same --target, --data, --split and --limit",
                )


def image_weights(labels: NDArray[np.int64], prior: Mapping[int, float]) -> Floats:
    """How much each image counts [n], in all 1.

    Args:
        labels: true classes [n].
        prior: share of some classes where the network is deployed; the others share the rest in
            proportion to their images.

    Raises:
        CgateError: the shares make no sense, or a class has no image.
    """
    weights = np.ones(len(labels))
    given = np.isin(labels, list(prior))
    total = sum(prior.values())
    if total > 1 + 1e-9 or (total < 1 - 1e-9 and given.all()):
        raise CgateError(f"the classes' shares add up to {total:g}, which leaves no sense", "")
    for label, share in prior.items():
        chosen = labels == label
        if not chosen.any():
            raise CgateError(f"no image of class {label} was run", "run more images")
        weights[chosen] = share / chosen.sum()
    if (~given).any():
        weights[~given] = (1 - total) / (~given).sum()
    return weights


def read_prior(texts: Sequence[str], classes: Sequence[str]) -> dict[int, float]:
    """`--prior cat=0.02` as class numbers and shares.

    Raises:
        CgateError: no such class, or no share.
    """
    prior: dict[int, float] = {}
    for text in texts:
        name, _, share = text.partition("=")
        if name not in classes:
            raise CgateError(
                f"--prior {text}: there is no class {name!r}; there are {', '.join(classes)}"
            )
        try:
            value = float(share)
        except ValueError:
            value = math.nan
        if not 0 <= value <= 1:
            raise CgateError(
                f"--prior {text}: {share!r} is no share from 0 to 1", f"--prior {name}=0.1"
            )
        prior[classes.index(name)] = value
    return prior


def _quantile(values: NDArray[np.int64], weights: Floats, share: float) -> int:
    """The least of `values` that `share` of the weight does not exceed."""
    order = np.argsort(values, kind="stable")
    place = int(np.searchsorted(np.cumsum(weights[order]), share * weights.sum() - 1e-12))
    return int(values[order][min(place, len(values) - 1)])


def figures(side: Side, weights: Floats) -> dict[str, Any]:
    """One column of the comparison.

    Args:
        weights: of the images, in all 1.
    """
    record, plan = side.record, side.plan
    right = record.classes == record.labels
    gates = np.array([unit.role == "gate" for unit in plan.units])
    cost = side.cost
    mean = float(cost @ weights)
    energy = find_target(side.trace.target).energy if record.cycles is not None else None
    joules = None if energy is None else energy.per_inference(mean)
    binary = side.trace.binary
    return {
        "bundle": side.name,
        "network": plan.network.name,
        "accuracy": float(right @ weights),
        "dense_macs": plan.dense_macs,
        "paper_macs": float(plan.executed_macs(record.ran & ~gates) @ weights),
        "executed_macs": float(record.macs @ weights),
        "instructions": None if record.total is None else float(record.total @ weights),
        "cycles": None if record.cycles is None else float(record.cycles @ weights),
        "cost": {
            "unit": side.unit,
            "mean": mean,
            **{f"p{n}": _quantile(cost, weights, n / 100) for n in (5, 50, 95)},
            "max": int(cost.max()),
            "all_open": side.worst,
        },
        "energy_uj": None if joules is None else [joules.value, joules.low, joules.high],
        "flash": None if binary is None else binary.flash,
        "ram": None if binary is None else binary.ram,
        "gated": bool(gates.any()),
    }


def paired(a: Side, b: Side, weights: Floats) -> tuple[float, float]:
    """Accuracy of `a` minus that of `b` on the same images, and its standard error."""
    difference = (a.record.classes == a.record.labels).astype(float)
    difference -= b.record.classes == b.record.labels
    mean = float(difference @ weights)
    variance = float((weights**2 * (difference - mean) ** 2).sum())
    return mean, math.sqrt(variance)


def verdict(a: Side, b: Side, weights: Floats) -> dict[str, Any]:
    """Whether `a` is to be preferred to `b`, in words, and what that rests on.

    "wins": not dearer and clearly more accurate, or cheaper and not clearly worse. "loses": the
    other way round. "level": neither differs. "trades": better in one and worse in the other.
    `better` and `cheaper` are 1, -1 for the opposite, and 0 where there is no (clear) difference.
    """
    difference, error = paired(a, b, weights)
    ratio = float(a.cost @ weights) / float(b.cost @ weights)
    better = 0 if abs(difference) <= CLEAR * error else int(math.copysign(1, difference))
    cheaper = 0 if abs(ratio - 1) <= LEVEL else (1 if ratio < 1 else -1)
    states = {0: "level", 1: "wins", -1: "loses"}
    state = "trades" if better * cheaper < 0 else states[better or cheaper]
    accuracy = (
        f"its accuracy is {abs(difference):.2%} {'higher' if difference > 0 else 'lower'} "
        f"(+- {error:.2%})"
    )
    if better == 0:
        accuracy = f"their accuracies do not differ clearly ({difference:+.2%} +- {error:.2%})"
    price = (
        f"it takes {abs(1 - ratio):.1%} {'fewer' if ratio < 1 else 'more'} {a.kind}"
        if cheaper
        else f"they take equally many {a.kind}"
    )
    words = {
        "wins": f"{a.name} pays against {b.name}",
        "loses": f"{a.name} does not pay against {b.name}",
        "level": f"{a.name} and {b.name} are level",
        "trades": f"{a.name} against {b.name} is a trade",
    }[state]
    return {
        "a": a.name,
        "b": b.name,
        "state": state,
        "better": better,
        "cheaper": cheaper,
        "accuracy_difference": difference,
        "standard_error": error,
        "cost_ratio": ratio,
        "text": f"{words}: {accuracy}, and {price}.",
    }


def misled(side: Side, weights: Floats) -> list[dict[str, Any]]:
    """Per unit, its share of the executed MACs against its share of the measured cost.

    The estimate by MACs misleads where the two differ; the largest differences come first.
    """
    record = side.record
    per_unit = record.units if record.unit_cycles is None else record.unit_cycles
    assert per_unit is not None
    macs = np.array([unit.macs for unit in side.plan.units], np.float64)
    predicted = (record.ran * macs).T @ weights
    measured = per_unit.T @ weights
    rows = [
        {
            "unit": unit.name,
            "predicted": float(predicted[unit.index] / predicted.sum()),
            "measured": float(measured[unit.index] / measured.sum()),
        }
        for unit in side.plan.units
    ]
    return sorted(rows, key=lambda row: -abs(float(row["measured"]) - float(row["predicted"])))


def compare(sides: Sequence[Side], prior: Mapping[int, float]) -> dict[str, Any]:
    """All figures: columns, verdicts of every pair, and where MACs mislead.

    Raises:
        CgateError: the sides do not compare, or the prior makes no sense.
    """
    check_alike(sides)
    first = sides[0]
    weights = image_weights(first.record.labels, prior)
    return {
        "target": first.trace.target,
        "data": first.trace.data,
        "split": first.trace.split,
        "images": len(first.trace.images),
        "prior": {first.plan.classes[label]: share for label, share in prior.items()},
        "columns": [figures(side, weights) for side in sides],
        "verdicts": [verdict(a, b, weights) for i, a in enumerate(sides) for b in sides[i + 1 :]],
        "misled": {side.name: misled(side, weights) for side in sides},
    }
