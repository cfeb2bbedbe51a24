"""What inferences cost: distribution, worst case, and what gates save by MACs and in truth.

Figures of different sources stand side by side and are never added or mixed: instructions that
QEMU counted, cycles by the model of the core, cycles that a board counted, joules of a meter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cgate.core.energy import Energy, Estimate, battery_days
from cgate.core.errors import CgateError
from cgate.core.plan import Plan, Unit
from cgate.core.targets import Target, find_target
from cgate.host_tools.majority import against_majority
from cgate.host_tools.meters.record import read_record
from cgate.host_tools.summary import KINDS, Numbers, Records, headline, records, spread
from cgate.host_tools.trace import Trace

SCHEMA = 1
MEASUREMENT = "measure.json"

LEVEL = 0.005
"""Difference of two shares below which MACs count as saying the truth."""

SOURCES = {
    "instructions": "executed instructions, exact, counted in QEMU; neither cycles nor time",
    "modelled_cycles": "cycles by the model of the core and of the target's flash, not measured",
    "board_cycles": "cycles that the board's own counter (DWT) measured",
}


@dataclass(frozen=True)
class Account:
    """What a run cost, by one source.

    Args:
        source: a key of SOURCES.
        units: per unit, 0 where it did not run [n, units].
        total: per inference [n].
    """

    source: str
    units: Numbers
    total: Numbers

    @property
    def timed(self) -> bool:
        """Whether it is cycles, which have a time and an energy."""
        return self.source != "instructions"


def accounts(trace: Trace) -> dict[str, Account]:
    """All that `trace` says about cost, by source, in the order of SOURCES."""
    found = {}
    for source in SOURCES:
        column = getattr(trace, source)
        if column is not None:
            shape = (len(trace.images), len(trace.units))
            units = np.array(column.units, np.int64).reshape(shape)
            found[source] = Account(source, units, np.array(column.total, np.int64))
    return found


def worst_case(runs: Sequence[Account]) -> int:
    """A bound for budgets: the dearest that each unit was ever seen, all of them in one inference.

    Gates and exits count; so does the most that an inference spent outside of units. It is not
    below any inference of `runs`, which should hold one with all gates open.
    """
    units = np.concatenate([run.units for run in runs])
    total = np.concatenate([run.total for run in runs])
    return int(units.max(axis=0).sum() + (total - units.sum(axis=1)).max())


def deciders(plan: Plan) -> list[int]:
    """Indices of the units that a network without gates and exits would not have."""
    return [unit.index for unit in plan.gates]


def static_cost(plan: Plan, opened: Account) -> float:
    """Mean cost of the same network without gates and exits: all open, less what decides."""
    return float((opened.total - opened.units[:, deciders(plan)].sum(axis=1)).mean())


def estimate_text(found: Mapping[str, Any]) -> str:
    """Whether MACs say truly what is saved, and where they mislead most, for people.

    Args:
        found: of `savings`.
    """
    total, kind = found["total"], KINDS[found["source"]]
    gap = total["macs"] - total["cost"]
    start = f"Of the network without gates and exits, {total['macs']:.1%} of the MACs are saved"
    if abs(gap) < LEVEL:
        return f"{start} and {total['cost']:.1%} of the {kind}: counting MACs does not mislead."
    text = (
        f"{start}, but {total['cost']:.1%} of the {kind}: counting MACs promises "
        f"{100 * abs(gap):.1f} points too {'much' if gap > 0 else 'little'}"
    )
    blocks = found["blocks"]
    if blocks:
        worst = max(blocks, key=lambda row: abs(row["macs"]["saved"] - row["cost"]["saved"]))
        text += (
            f", most of all in {worst['block']} ({worst['macs']['saved']:.1%} by MACs, "
            f"{worst['cost']['saved']:.1%} by {kind})"
        )
    return f"{text}."


def _bodies(plan: Plan, gate: Unit) -> list[int]:
    return [unit.index for unit in plan.units if unit.condition == gate.name]


def savings(plan: Plan, record: Records, run: Account, opened: Account) -> dict[str, Any]:
    """What gating saves as MACs predict it, and as it was counted.

    All shares are of the network without gates and exits. `skipped` is what did not run because
    the gate was shut, `gate` what deciding cost, `saved` the difference.

    Returns:
        `blocks`: a row per gate; `exits`: what leaving early saved, net (null without exits);
        `total`: all of it; `text`: where MACs mislead, in words.
    """
    whole = {"macs": float(plan.dense_macs), "cost": static_cost(plan, opened)}
    rows: list[dict[str, Any]] = []
    for i, unit in enumerate(plan.gates):
        if unit.role != "gate":
            continue
        reached = record.ran[:, unit.index]
        bodies = _bodies(plan, unit)
        shut = float((reached & (record.decisions[:, i] == 0)).mean())
        body = {
            "macs": float(sum(plan.units[index].macs for index in bodies)),
            "cost": float(opened.units[:, bodies].sum(axis=1).mean()),
        }
        gate = {
            "macs": unit.macs * float(reached.mean()),
            "cost": float(run.units[:, unit.index].mean()),
        }
        rows.append(
            {
                "block": unit.block,
                "open": float(record.decisions[reached, i].mean()) if reached.any() else None,
                **{
                    kind: {
                        "skipped": shut * body[kind] / whole[kind],
                        "gate": gate[kind] / whole[kind],
                        "saved": (shut * body[kind] - gate[kind]) / whole[kind],
                    }
                    for kind in whole
                },
            }
        )
    total = {
        "macs": 1 - float(record.macs.mean()) / whole["macs"],
        "cost": 1 - float(run.total.mean()) / whole["cost"],
    }
    rest = {kind: total[kind] - sum(row[kind]["saved"] for row in rows) for kind in total}
    found = {
        "source": run.source,
        "without_gates": whole["cost"],
        "blocks": rows,
        "exits": rest if plan.exits else None,
        "total": total,
    }
    return {**found, "text": estimate_text(found) if plan.gates else ""}


@dataclass(frozen=True)
class Board:
    """What turns cycles into time and energy.

    Args:
        name: the target that clock and energy are of.
        energy: None where no published run calibrates it.
    """

    name: str
    clock_hz: int
    energy: Energy | None


def board_for(target: Target, other: Target | None) -> Board:
    """Clock and energy of `target`, or of `other`, a board with the same core.

    Raises:
        CgateError: another core's cycles would mean nothing.
    """
    if other is not None and other.core != target.core:
        raise CgateError(
            f"{other.name} has a {other.core}, but the cycles are those of a {target.core}",
            f"choose a board with a {target.core}; `cgate targets` lists them",
        )
    chosen = other or target
    return Board(chosen.name, chosen.clock_hz, chosen.energy)


def _estimate(value: Estimate) -> list[float]:
    return [value.value, value.low, value.high]


def _time_and_energy(cycles: Mapping[str, float], board: Board) -> dict[str, Any]:
    """Each figure of `cycles` as milliseconds, and as microjoules [value, low, high]."""
    energy = board.energy
    return {
        "latency_ms": {key: 1e3 * value / board.clock_hz for key, value in cycles.items()},
        "energy_uj": None
        if energy is None
        else {key: _estimate(energy.per_inference(value)) for key, value in cycles.items()},
    }


def _unit_rows(
    plan: Plan, record: Records, run: Account, board: Board, classes: Mapping[str, Sequence[int]]
) -> list[dict[str, Any]]:
    """Cost per unit when it runs, and its share of the mean inference.

    Args:
        classes: instructions by class, as in a trace; they go with an account of instructions.
    """
    rows: list[dict[str, Any]] = []
    for unit in plan.units:
        ran = record.ran[:, unit.index]
        cost = spread(run.units[ran, unit.index]) if ran.any() else None
        row = {
            "name": unit.name,
            "role": unit.role,
            "block": unit.block,
            "ran": float(ran.mean()),
            "macs": unit.macs,
            "cost": cost,
            "share": float(run.units[:, unit.index].mean() / run.total.mean()),
            "macs_share": unit.macs * float(ran.mean()) / float(record.macs.mean()),
        }
        if run.timed:
            nothing = {"latency_ms": None, "energy_uj": None}
            row |= nothing if cost is None else _time_and_energy(cost, board)
        else:
            times = int(ran.sum())
            row["classes"] = (
                {name: column[unit.index] / times for name, column in classes.items()}
                if times
                else None
            )
        rows.append(row)
    return rows


def account_rows(
    plan: Plan,
    trace: Trace,
    opened: Trace | None,
    shut: Trace | None,
    board: Board,
) -> list[dict[str, Any]]:
    """Everything about the cost of a run, an entry per source.

    Args:
        trace: with the learned gates.
        opened: with all gates open, on the same machine; without it there is no worst case and
            nothing to compare savings with.
        shut: with all gates shut.
        board: whose clock and energy count.
    """
    record = records(plan, trace)
    full = {} if opened is None else accounts(opened)
    least = {} if shut is None else accounts(shut)
    classes = {} if trace.instructions is None else trace.instructions.classes
    rows: list[dict[str, Any]] = []
    for source, run in accounts(trace).items():
        most = full.get(source)
        figures: dict[str, float] = dict(spread(run.total))
        if source in least:
            figures["all_shut"] = float(least[source].total.mean())
        if most is not None:
            figures["all_open"] = float(most.total.mean())
            figures["worst"] = worst_case([run, most])
        row = {
            "source": source,
            "what": SOURCES[source],
            "inference": figures,
            "stalls": None
            if source != "modelled_cycles" or record.stalls is None
            else float(record.stalls.mean()),
            "units": _unit_rows(plan, record, run, board, classes),
            "savings": None if most is None else savings(plan, record, run, most),
        }
        if run.timed:
            row |= _time_and_energy(figures, board)
        rows.append(row)
    return rows


def duty(
    cycles: Mapping[str, float],
    board: Board,
    per_second: float,
    battery: tuple[float, float] | None,
) -> dict[str, Any]:
    """Average power of a board that infers `per_second` times and sleeps between; modelled.

    Args:
        cycles: `inference` of an account of cycles.
        battery: capacity in mAh, and mean voltage, which counts where the board has a switching
            regulator.

    Raises:
        CgateError: the board has no energy model, or there is no time for so many.
    """
    if board.energy is None:
        raise CgateError(
            f"no published run calibrates the energy of {board.name}",
            "--as-board nucleo-l4r5zi, or another board with the same core and an energy model",
        )
    try:
        power = board.energy.average_power(cycles["mean"], board.clock_hz, per_second)
    except ValueError as error:
        raise CgateError(str(error), "ask for fewer with --per-second") from error
    value: dict[str, Any] = {
        "per_second": per_second,
        "busy": per_second * cycles["mean"] / board.clock_hz,
        "power_uw": _estimate(power),
        "sleep_uw": board.energy.sleep_uw,
        "battery": None,
    }
    if "worst" in cycles:
        # What the clock allows if every image is the dearest.
        value["per_second_worst"] = board.clock_hz / cycles["worst"]
    if battery is not None:
        # Behind a linear regulator the current does not depend on the battery's voltage.
        capacity, volts = battery
        volts = board.energy.supply_v if board.energy.regulator == "ldo" else volts
        days = [battery_days(capacity, volts, p) for p in (power.value, power.high, power.low)]
        value["battery"] = {"mah": capacity, "volts": volts, "days": days}
    return value


def meter_rows(folder: Path, plan_sha256: str) -> list[dict[str, Any]]:
    """What power meters measured on this plan: the finished records under the bundle's power/."""
    rows = []
    for path in sorted((folder / "power").glob("*.json")):
        found = read_record(path)
        if found.get("plan_sha256") != plan_sha256 or not found.get("joules_per_inference"):
            continue
        try:
            rows.append(
                {
                    "meter": str(found["meter"]),
                    "board": str(found["board"]),
                    "windows": sum(1 for window in found["windows"] if not window["fault"]),
                    "energy_uj": 1e6 * float(found["joules_per_inference"]),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CgateError(
                f"{path} is damaged: {error!r}",
                f"remove it, then measure again: cgate power {folder}",
            ) from error
    return rows


def measurement(
    folder: Path,
    plan: Plan,
    learned: Trace,
    opened: Trace,
    shut: Trace,
    majority: Trace | None = None,
    *,
    as_board: Target | None = None,
    per_second: float | None = None,
    battery: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """The content of measure.json (SPEC.md, section 14).

    Args:
        folder: the bundle.
        majority: the images of `learned` with every gate held at its majority; None for a network
            without gates.
        as_board: a board with the same core whose clock and energy count; None takes the target's.
        per_second: inferences per second, for the average power.
        battery: capacity in mAh and mean voltage, for its life.

    Raises:
        CgateError: as `board_for` and `duty` do, or the target's cycles are not known.
    """
    board = board_for(find_target(learned.target), as_board)
    rows = account_rows(plan, learned, opened, shut, board)
    cycles = [row for row in rows if row["source"] != "instructions"]
    if per_second is not None and not cycles:
        raise CgateError(
            f"there is no model of the cycles of {learned.target}, hence none of its energy",
            "run on the board (--on serial), or measure with `cgate power`",
        )
    figures = headline(plan, learned)
    return {
        "schema": SCHEMA,
        "plan_sha256": learned.plan_sha256,
        "name": plan.name,
        "network": plan.network.name,
        "target": learned.target,
        "runner": learned.runner,
        "data": learned.data,
        "split": learned.split,
        "images": len(learned.images),
        "forced_images": len(opened.images),
        "board": {
            "name": board.name,
            "clock_hz": board.clock_hz,
            "energy": None if board.energy is None else asdict(board.energy),
        },
        **{key: figures[key] for key in ("accuracy", "macs", "gates", "answers")},
        "accounts": rows,
        "verdict": None if majority is None else against_majority(plan, learned, majority),
        "duty": None
        if per_second is None
        else duty(cycles[-1]["inference"], board, per_second, battery),
        "meters": meter_rows(folder, learned.plan_sha256),
    }
