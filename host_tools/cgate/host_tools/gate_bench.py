"""`cgate bench gates`: what each checkpoint's gates are worth, from its int8 plan in host C."""

from __future__ import annotations

import csv
import io
import tempfile
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cgate.core.checkpoint import CARD, Checkpoint, load_checkpoint
from cgate.core.errors import CgateError
from cgate.core.plan import Plan
from cgate.core.progress import Progress
from cgate.core.targets import find_target
from cgate.export.bundle import export_checkpoint
from cgate.export.reference import to_input
from cgate.host_tools import runner
from cgate.host_tools.build import Build, build
from cgate.host_tools.inputs import Inputs, load_inputs
from cgate.host_tools.majority import majority_of
from cgate.host_tools.runner import FORCE

TARGET = "cortex-m4"
"""Whose bundle is made. The integers are the same for all targets."""

SHUFFLE_SEED = 0

Bits = NDArray[np.uint8]


@dataclass(frozen=True)
class GateRow:
    """One checkpoint on the test images. Accuracies are shares of them, by the int8 plan.

    Args:
        kind: of its gates; "none" for a network without.
        point: recipe that trained it, the operating point.
        epochs: of its last training run; of the gated network for a frozen one.
        top1: with its gates.
        executed_macs: per image, mean; gates and exits included.
        dense_macs: of the same network without gates.
        top1_majority: with each gate fixed at its more frequent decision on validation images.
        majority_macs: what that executes, without gates.
        top1_shuffled: each image on the route of another one, so that rates and MACs stay.
        top1_float: of the float32 network, from the card.
        open_rates: "s1b0 0.8123, …": share of the images that reach the gate and find it open.
        left: "s3b0 0.6123, …": share of all images that leave at this exit.
        n_images: test images.
        checkpoint: name of its folder.
    """

    kind: str
    point: str
    network: str
    epochs: int
    seed: int
    top1: float
    executed_macs: float
    dense_macs: int
    top1_majority: float
    majority_macs: float
    top1_shuffled: float
    top1_float: float
    open_rates: str
    left: str
    n_images: int
    checkpoint: str


@dataclass(frozen=True)
class _Pass:
    """Every image once through the network: right answers [n], what gates said [n, gates]."""

    right: NDArray[np.bool_]
    decisions: Bits


def _learned(built: Build, inputs: Inputs, progress: Progress) -> _Pass:
    results = runner.run(built, to_input(inputs.images), progress=progress)
    right = np.array([result.label for result in results]) == inputs.labels
    decisions = np.array([result.decisions for result in results], np.uint8)
    return _Pass(right, decisions.reshape(len(results), -1))


def _forced(
    built: Build,
    inputs: Inputs,
    learned: _Pass,
    wanted: Bits,
    held: NDArray[np.bool_],
    progress: Progress,
) -> _Pass:
    """The images with the gates that are `held` [gates] doing what `wanted` [n, gates] says.

    An image whose own gates say the same gives the same answer: it does not run again.
    """
    changed = ((wanted != learned.decisions) & held).any(axis=1)
    codes = np.where(wanted[changed] == 1, FORCE["open"], FORCE["shut"])
    rows = np.where(held, codes, FORCE["learned"]).astype(np.uint8)
    results = runner.run(built, to_input(inputs.images[changed]), gates=rows, progress=progress)
    right, decisions = learned.right.copy(), learned.decisions.copy()
    for image, result in zip(changed.nonzero()[0], results, strict=True):
        right[image] = result.label == inputs.labels[image]
        decisions[image] = result.decisions
    return _Pass(right, np.where(held, wanted, decisions).astype(np.uint8))


def bench_checkpoint(
    folder: Path, data_dir: Path | None, limit: int | None, progress: Progress
) -> GateRow:
    """Evaluate one checkpoint.

    Args:
        limit: use the first so many images of each split only; None for all.

    Raises:
        CgateError: nothing in its card says how it was trained, and on what; what loading,
            exporting, building and running raise.
    """
    checkpoint = load_checkpoint(folder)
    card = checkpoint.card
    missing = [key for key in ("recipe", "gate", "seed", "epochs", "accuracy") if key not in card]
    missing += [] if "name" in card.get("data", {}) else ["data.name"]
    if missing:
        raise CgateError(
            f"its card does not say how it was trained ({', '.join(missing)} missing)",
            "take checkpoints that `cgate train`, `cgate freeze` or `cgate qat` wrote",
        )
    with tempfile.TemporaryDirectory(prefix="cgate-") as temporary:
        bundle = Path(temporary) / "bundle"
        plan = export_checkpoint(folder, bundle, find_target(TARGET), kernels="ref").plan
        built = build(bundle, None, on="host")
        name = str(card["data"]["name"])
        inputs = load_inputs(plan, name, data_dir=data_dir, limit=limit)
        learned = _learned(built, inputs, progress)
        row = _row(checkpoint, plan, learned)
        if not plan.gates:
            return row
        chosen = load_inputs(plan, name, data_dir=data_dir, split="validation", limit=limit)
        votes = _learned(built, chosen, progress).decisions
        # Exits go on deciding: leaving never, or at random, are controls of the card.
        held = np.array([unit.role == "gate" for unit in plan.gates])
        wanted = np.broadcast_to(majority_of(plan, votes), learned.decisions.shape)
        majority = _forced(built, inputs, learned, wanted, held, progress)
        order = np.random.default_rng(SHUFFLE_SEED).permutation(len(inputs.labels))
        routes = learned.decisions[order]
        shuffled = _forced(built, inputs, learned, routes, np.ones_like(held), progress)
        ran = plan.ran(majority.decisions.astype(bool))
        # Gates that decide nothing need not run.
        ran &= np.array([unit.role != "gate" for unit in plan.units])
        return replace(
            row,
            top1_majority=float(majority.right.mean()),
            majority_macs=round(float(plan.executed_macs(ran).mean()), 1),
            top1_shuffled=float(shuffled.right.mean()),
        )


def _row(checkpoint: Checkpoint, plan: Plan, learned: _Pass) -> GateRow:
    """The row of a network without gates, whose controls are the network itself."""
    card = checkpoint.card
    gate = card["gate"]
    ran = plan.ran(learned.decisions.astype(bool))
    rates, left = [], []
    for unit, opened in zip(plan.gates, learned.decisions.T, strict=True):
        reached = ran[:, unit.index]
        if unit.role == "exit":
            left.append(f"{unit.block} {(reached & (opened == 0)).mean():.4f}")
        elif reached.any():
            rates.append(f"{unit.block} {opened[reached].mean():.4f}")
    top1, executed = float(learned.right.mean()), float(plan.executed_macs(ran).mean())
    kind = gate["kind"] if gate else "exit" if plan.gates else "none"
    return GateRow(
        kind=f"{kind}-frozen" if "frozen_from" in card else kind,
        point=card["recipe"]["name"],
        network=card["network"]["name"],
        epochs=card["epochs"],
        seed=card["seed"],
        top1=top1,
        executed_macs=round(executed, 1),
        dense_macs=plan.dense_macs,
        top1_majority=top1,
        majority_macs=round(executed, 1),
        top1_shuffled=top1,
        top1_float=card["accuracy"]["test"],
        open_rates=", ".join(rates),
        left=", ".join(left),
        n_images=len(learned.right),
        checkpoint=checkpoint.folder.name,
    )


def find_checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints directly in `folder`, or `folder` itself, by name.

    Raises:
        CgateError: there is none.
    """
    if (folder / CARD).is_file():
        return [folder]
    found = sorted(path.parent for path in folder.glob(f"*/{CARD}")) if folder.is_dir() else []
    if not found:
        raise CgateError(
            f"{folder} holds no finished checkpoint (no folder with a {CARD})",
            "cgate train --recipe balanced --out models/balanced",
        )
    return found


def bench_gates(
    folder: Path, data_dir: Path | None, limit: int | None, progress: Progress
) -> list[GateRow]:
    """A row per checkpoint in `folder`, the dearest first.

    Raises:
        CgateError: there is none, or what `bench_checkpoint` raises, with the checkpoint's name.
    """
    rows = []
    for path in find_checkpoints(folder):
        progress.message(f"checkpoint {path.name}")
        try:
            rows.append(bench_checkpoint(path, data_dir, limit, progress))
        except CgateError as error:
            raise CgateError(f"{path}: {error.message}", error.hint, error.code) from error
    return sorted(rows, key=lambda row: (-row.executed_macs, row.checkpoint))


def to_csv(rows: list[GateRow]) -> str:
    """The table as CSV text."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [field.name for field in fields(GateRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return stream.getvalue()
