"""`cgate measure`: its figures against traces counted by hand, and a real run under QEMU."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgate.core.errors import CgateError
from cgate.core.files import write_json
from cgate.core.plan import Plan, load_bundle
from cgate.core.targets import find_target
from cgate.export import reference
from cgate.export.bundle import export_checkpoint
from cgate.export.reference import to_input
from cgate.host_tools import resume, runner
from cgate.host_tools.build import build
from cgate.host_tools.cli import main
from cgate.host_tools.inputs import load_inputs
from cgate.host_tools.majority import held_gates, majority_of
from cgate.host_tools.measure import (
    Account,
    accounts,
    estimate_text,
    measurement,
    meter_rows,
    worst_case,
)
from cgate.host_tools.page.savings import savings_svg
from cgate.host_tools.trace import Binary, Trace, ran_units, read_trace
from counted import OUTSIDE, make_trace, unit_costs
from synthetic import small_network, write_checkpoint

IMAGES = 60
BOARD = "nucleo-l4r5zi"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measure")
    write_checkpoint(folder / "checkpoint", small_network(), seed=4)
    export_checkpoint(folder / "checkpoint", folder / "bundle", find_target("cortex-m4"))
    return folder / "bundle"


@pytest.fixture(scope="module")
def plan(bundle: Path) -> Plan:
    return load_bundle(bundle).plan


@pytest.fixture(scope="module")
def traces(bundle: Path) -> list[Trace]:
    runs = (("learned", IMAGES), ("open", 5), ("shut", 5), ("majority", IMAGES))
    return [make_trace(bundle, gates, count) for gates, count in runs]


def test_costs_are_those_of_the_units(bundle: Path, plan: Plan, traces: list[Trace]) -> None:
    value = measurement(bundle, plan, *traces)
    assert [row["source"] for row in value["accounts"]] == ["instructions", "modelled_cycles"]
    for row in value["accounts"]:
        cost, outside = unit_costs(plan, row["source"]), OUTSIDE[row["source"]]
        conditional = np.array([unit.condition is not None for unit in plan.units])
        assert row["inference"]["worst"] == row["inference"]["all_open"] == cost.sum() + outside
        assert row["inference"]["all_shut"] == cost[~conditional].sum() + outside
        for unit, one in zip(row["units"], cost, strict=True):
            if unit["ran"]:
                assert {unit["cost"][key] for key in ("min", "median", "max")} == {one}
            if row["source"] == "instructions":
                assert (unit["classes"] is None) == (unit["ran"] == 0)
                assert unit["classes"] is None or sum(unit["classes"].values()) == one
        shares = sum(unit["share"] for unit in row["units"])
        assert shares == pytest.approx(1 - outside / row["inference"]["mean"])
    assert "latency_ms" not in value["accounts"][0]
    cycles = value["accounts"][1]
    assert cycles["latency_ms"]["worst"] == pytest.approx(cycles["inference"]["worst"] / 25e3)
    assert cycles["energy_uj"] is None


def test_saved_is_what_did_not_run_less_the_gates(
    bundle: Path, plan: Plan, traces: list[Trace]
) -> None:
    learned = traces[0]
    ran = np.array(learned.ran, bool)
    for row in measurement(bundle, plan, *traces)["accounts"]:
        cost = unit_costs(plan, row["source"])
        gates = [unit.index for unit in plan.gates]
        whole = cost.sum() + OUTSIDE[row["source"]] - cost[gates].sum()
        assert row["savings"]["without_gates"] == whole
        for found in row["savings"]["blocks"]:
            body = next(u for u in plan.units if u.name == f"{found['block']}.body")
            gate = next(u for u in plan.units if u.name == f"{found['block']}.gate")
            skipped = 1 - ran[:, body.index].mean()
            assert found["open"] == pytest.approx(1 - skipped)
            for kind, of, total in (
                ("macs", [unit.macs for unit in plan.units], plan.dense_macs),
                ("cost", cost, whole),
            ):
                saved = (skipped * of[body.index] - of[gate.index]) / total
                assert found[kind]["saved"] == pytest.approx(saved)
        for kind in ("macs", "cost"):
            parts = sum(found[kind]["saved"] for found in row["savings"]["blocks"])
            assert row["savings"]["total"][kind] == pytest.approx(parts)


tables = st.lists(
    st.lists(st.integers(0, 1000), min_size=4, max_size=4), min_size=1, max_size=6
).map(np.array)


@given(tables, tables)
def test_the_worst_case_is_not_below_any_inference(one: Any, other: Any) -> None:
    runs = [Account("instructions", t[:, :3], t.sum(axis=1)) for t in (one, other)]
    assert worst_case(runs) >= max(run.total.max() for run in runs)
    assert worst_case(runs) == np.concatenate([one, other]).max(axis=0).sum()


def test_sources_are_not_mixed(traces: list[Trace]) -> None:
    learned = traces[0]
    assert learned.instructions is not None and learned.modelled_cycles is not None
    found = accounts(learned)
    assert found["instructions"].total.tolist() == learned.instructions.total
    assert found["modelled_cycles"].total.tolist() == learned.modelled_cycles.total
    without = replace(learned, modelled_cycles=None)
    assert list(accounts(without)) == ["instructions"]


def test_duty_cycle_by_hand(bundle: Path, plan: Plan, traces: list[Trace]) -> None:
    value = measurement(
        bundle, plan, *traces, as_board=find_target(BOARD), per_second=4, battery=(220, 3.0)
    )
    cycles, energy = value["accounts"][1], find_target(BOARD).energy
    assert energy is not None
    mean = cycles["inference"]["mean"]
    assert cycles["latency_ms"]["mean"] == pytest.approx(mean / 120e3)
    for i, pj in enumerate((energy.pj_per_cycle, energy.pj_low, energy.pj_high)):
        joules = mean * pj * 1e-12
        assert cycles["energy_uj"]["mean"][i] == pytest.approx(joules * 1e6)
        watts = 4 * joules + (1 - 4 * mean / 120e6) * energy.sleep_uw * 1e-6
        assert value["duty"]["power_uw"][i] == pytest.approx(watts * 1e6)
        # Least power, most days; and a linear regulator draws the same current from 3 V.
        days = 0.220 * 1.8 / watts / 24
        assert value["duty"]["battery"]["days"][(0, 2, 1)[i]] == pytest.approx(days)
    assert value["duty"]["per_second_worst"] == 120e6 / cycles["inference"]["worst"]


def test_what_is_not_known_is_refused(bundle: Path, plan: Plan, traces: list[Trace]) -> None:
    def fails(match: str, **options: Any) -> None:
        with pytest.raises(CgateError, match=match):
            measurement(bundle, plan, *traces, **options)

    fails("no published run calibrates", per_second=1)
    fails("do not fit", per_second=1e6, as_board=find_target(BOARD))
    fails("cortex-m33", as_board=find_target("nucleo-u575zi-q"))
    counted = [replace(trace, modelled_cycles=None) for trace in traces]
    with pytest.raises(CgateError, match="no model of the cycles"):
        measurement(bundle, plan, *counted, per_second=1)


def test_only_finished_records_of_this_plan_count(bundle: Path, tmp_path: Path) -> None:
    sha256 = load_bundle(bundle).sha256
    record = {
        "schema": 1, "meter": "ppk2", "board": BOARD, "plan_sha256": sha256,
        "windows": [{"fault": ""}] * 5 + [{"fault": "overflow"}], "joules_per_inference": 2.5e-4,
    }  # fmt: skip
    write_json(tmp_path / "power" / "ppk2.json", record)
    write_json(tmp_path / "power" / "otii.json", {**record, "plan_sha256": "0"})
    write_json(tmp_path / "power" / "csv.json", {**record, "joules_per_inference": None})
    assert meter_rows(tmp_path, sha256) == [
        {"meter": "ppk2", "board": BOARD, "windows": 5, "energy_uj": 250.0}
    ]


def test_the_verdict_is_against_every_gate_at_its_majority(
    bundle: Path, plan: Plan, traces: list[Trace]
) -> None:
    learned, control = traces[0], traces[3]
    value = measurement(bundle, plan, *traces)["verdict"]
    said = np.array(learned.decisions)
    opened = {unit.block: bool(said[:, i].sum() * 2 > IMAGES) for i, unit in enumerate(plan.gates)}
    assert value["open"] == opened and value["images"] == IMAGES
    held = [
        unit for unit in plan.units
        if unit.role != "gate" and (unit.condition is None or opened[unit.block])
    ]  # fmt: skip
    assert value["macs"] == sum(unit.macs for unit in held)
    for source, outside in OUTSIDE.items():
        cost = unit_costs(plan, source)
        assert value["cost"][source] == sum(cost[unit.index] for unit in held) + outside
    right = [
        [a == b for a, b in zip(run.classes, run.labels, strict=True)] for run in (learned, control)
    ]
    assert value["accuracy"]["correct"] == sum(right[1])
    difference = np.subtract(*np.array(right, int))
    assert value["accuracy_difference"] == pytest.approx(difference.mean())
    assert value["standard_error"] == pytest.approx(difference.std() / IMAGES**0.5)
    assert learned.modelled_cycles is not None
    gated = np.mean(learned.modelled_cycles.total)
    assert value["source"] == "modelled_cycles"
    assert value["cost_ratio"] == pytest.approx(gated / value["cost"]["modelled_cycles"])
    assert "modelled cycles" in value["text"]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1))
def test_the_majority_is_of_those_that_reach_the_gate(plan: Plan, rows: list[Any]) -> None:
    bits = np.array(rows, np.uint8)
    assert majority_of(plan, bits).tolist() == [int(2 * n > len(rows)) for n in bits.sum(axis=0)]
    codes = held_gates(plan, bits)
    ran = ran_units(plan, bits, codes)
    assert (ran == ran[0]).all()


def test_where_macs_mislead_in_words() -> None:
    block = {"block": "b", "macs": {"saved": 0.3}, "cost": {"saved": 0.2}}
    other = {"block": "c", "macs": {"saved": 0.1}, "cost": {"saved": 0.1}}

    def text(macs: float, cost: float) -> str:
        total = {"macs": macs, "cost": cost}
        found = {"source": "instructions", "blocks": [other, block], "total": total}
        return estimate_text(found)

    assert "10.0 points too much, most of all in b (30.0% by MACs" in text(0.4, 0.3)
    assert "10.0 points too little" in text(0.3, 0.4)
    assert "does not mislead" in text(0.3, 0.304)


@pytest.mark.qemu
def test_a_board_that_qemu_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its program runs on another machine with its core; clock, energy, flash and sizes are its."""
    board = find_target(BOARD)
    write_checkpoint(tmp_path / "checkpoint", small_network(), seed=4)
    bundle = tmp_path / "bundle"
    export_checkpoint(tmp_path / "checkpoint", bundle, board)
    assert main(["measure", str(bundle), "--limit", "3", "--jobs", "1", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)["data"]
    assert value["target"] == value["board"]["name"] == BOARD
    cycles = value["accounts"][-1]
    assert cycles["source"] == "modelled_cycles" and cycles["stalls"] > 0
    mean = cycles["inference"]["mean"]
    assert cycles["latency_ms"]["mean"] == pytest.approx(1e3 * mean / board.clock_hz)
    assert cycles["energy_uj"] is not None
    trace = read_trace(bundle / "runs" / "test-3" / "trace.json")
    own = build(bundle, board, io="uart")
    assert trace.binary == Binary(own.flash or 0, own.ram or 0, own.stack or 0)
    report = json.loads((bundle / "report.json").read_text())
    assert report["memory"]["ram_limit"] == board.ram.size
    assert main(["verify", str(bundle), "--on", "qemu", "--limit", "3", "--quiet"]) == 0


@pytest.mark.qemu
@pytest.mark.parametrize("exits", [(), ("s1b0",)])
def test_networks_without_gates(exits: tuple[str, ...], tmp_path: Path) -> None:
    """No control and no verdict; what exits save is said, what nothing decides is not."""
    network = small_network(exits=exits)
    network = replace(network, blocks=tuple(replace(b, gate=None) for b in network.blocks))
    write_checkpoint(tmp_path / "checkpoint", network, seed=2)
    bundle = tmp_path / "bundle"
    export_checkpoint(tmp_path / "checkpoint", bundle, find_target("cortex-m4"))
    assert main(["measure", str(bundle), "--limit", "5", "--jobs", "1", "--quiet"]) == 0
    value = json.loads((bundle / "measure.json").read_text())
    savings = value["accounts"][-1]["savings"]
    assert value["verdict"] is None and not savings["blocks"]
    assert not (bundle / "runs" / "test-5-majority").exists()
    html = (bundle / "report.html").read_text()
    assert ("What leaving early saves" in html) == ("What exits save" in html) == bool(exits)
    assert ("Every inference runs all of the network" in html) == (not exits)
    assert "pays" not in html and "gates included" not in html
    if exits:
        assert savings["total"]["cost"] == pytest.approx(savings["exits"]["cost"])
    else:
        assert savings["total"]["cost"] == pytest.approx(0) and savings["text"] == ""


@pytest.mark.qemu
def test_stopped_anywhere_it_goes_on(
    digits_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the second long run: the first is not run again, and the end is the same."""
    whole = Path(shutil.copytree(digits_bundle, tmp_path / "whole"))
    parts = Path(shutil.copytree(digits_bundle, tmp_path / "parts"))
    words = ["--limit", "12", "--jobs", "1", "--quiet"]
    assert main(["measure", str(whole), *words]) == 0
    monkeypatch.setattr(resume, "CHUNK", 5)
    run, calls = runner.run, []

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(len(args[1]))
        if len(calls) == 7:  # open 5 and 3, shut the same, learned 5, 5 and 2
            raise KeyboardInterrupt
        return run(*args, **options)

    monkeypatch.setattr(runner, "run", counted)
    assert main(["measure", str(parts), *words]) == 130
    calls.clear()
    assert main(["measure", str(parts), *words]) == 0
    assert calls == [2, 5, 5, 2]
    runs = [f"runs/test-12{name}/trace.json" for name in ("", "-majority")]
    for name in ("measure.json", "report.html", *runs):
        assert (parts / name).read_bytes() == (whole / name).read_bytes(), name
    assert not list(parts.rglob(resume.PARTIAL))


@pytest.mark.qemu
def test_command(digits_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = Path(shutil.copytree(digits_bundle, tmp_path / "bundle"))
    words = ["measure", str(bundle), "--limit", "6", "--jobs", "1", "--as-board", BOARD]
    words += ["--svg", str(tmp_path / "savings.svg")]
    assert main([*words, "--per-second", "2", "--battery-mah", "220"]) == 0
    text = capsys.readouterr().out
    first = (bundle / "measure.json").read_bytes()
    for wanted in ("modelled cycles", "worst case", "(346 to 392) pJ", "average power", "days"):
        assert wanted in text
    assert main([*words, "--per-second", "2", "--battery-mah", "220", "--json"]) == 0
    assert (bundle / "measure.json").read_bytes() == first
    value = json.loads(capsys.readouterr().out)["data"]
    assert (tmp_path / "savings.svg").read_text() == savings_svg(value)
    files = {"file": str(bundle / "measure.json"), "html": str(bundle / "report.html")}
    assert value == {**json.loads(first), **files}
    control = read_trace(bundle / "runs" / "test-6-majority" / "trace.json")
    found = load_bundle(bundle)
    held = {f"{block}.gate": opened for block, opened in value["verdict"]["open"].items()}
    images = to_input(load_inputs(found.plan, limit=6).images)
    expected = reference.run(found.plan, found.weights, images, held)
    assert control.logits == expected.logits.tolist()
    assert control.ran == expected.ran.astype(int).tolist()
    for row in value["accounts"]:
        assert row["inference"]["all_shut"] < row["inference"]["min"]
        assert row["inference"]["max"] <= row["inference"]["worst"]
    assert main(["measure", str(bundle), "--battery-mah", "220"]) == 2
