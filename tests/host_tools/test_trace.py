"""The record of a run: assembled from real runs, written, read back, and checked."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgate.core.errors import CgateError
from cgate.core.plan import Bundle, load_bundle
from cgate.core.targets import find_target
from cgate.export import reference
from cgate.export.bundle import export_checkpoint
from cgate.host_tools.build import build
from cgate.host_tools.plugin import CLASSES
from cgate.host_tools.runner import run
from cgate.host_tools.trace import (
    OUTSIDE,
    UNITS,
    Trace,
    make_trace,
    ran_units,
    read_trace,
    write_trace,
    write_units,
)
from synthetic import random_images, small_network, write_checkpoint
from tiny import needs_host, needs_qemu

NETWORK = small_network(gate_downsampling=True)
IMAGES = random_images(NETWORK, 20, 7)
TARGET = find_target("cortex-m4")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("trace")
    write_checkpoint(folder / "checkpoint", NETWORK)
    export_checkpoint(folder / "checkpoint", folder / "bundle", TARGET)
    return load_bundle(folder / "bundle")


def record(bundle: Bundle, on: str, gates: str = "learned") -> Trace:
    built = build(bundle.folder, TARGET, on=on)
    return make_trace(
        bundle,
        built,
        run(built, reference.to_input(IMAGES), gates=gates, jobs=2),
        gates=gates,
        data="synthetic",
        split="test",
        images=range(len(IMAGES)),
        labels=[0] * len(IMAGES),
    )


@pytest.fixture(scope="module")
def on_host(bundle: Bundle) -> Trace:
    needs_host()
    return record(bundle, "host")


@pytest.mark.parametrize("gates", ["learned", "open", "shut"])
def test_a_host_run_is_the_reference(bundle: Bundle, gates: str) -> None:
    needs_host()
    trace = record(bundle, "host", gates)
    expected = reference.run(bundle.plan, bundle.weights, reference.to_input(IMAGES), gates)
    np.testing.assert_array_equal(trace.logits, expected.logits)
    np.testing.assert_array_equal(trace.decisions, expected.decisions)
    np.testing.assert_array_equal(trace.ran, expected.ran)
    assert trace.classes == [int(np.argmax(row)) for row in expected.logits]
    assert trace.instructions is None and trace.binary is None
    assert trace.units == [unit.name for unit in bundle.plan.units]


@pytest.mark.qemu
@pytest.mark.parametrize("gates", ["learned", "open", "shut"])
def test_a_qemu_run_counts_what_ran(bundle: Bundle, gates: str) -> None:
    needs_qemu()
    trace, host = record(bundle, "qemu", gates), record(bundle, "host", gates)
    assert (trace.logits, trace.decisions, trace.ran) == (host.logits, host.decisions, host.ran)
    assert trace.instructions is not None and trace.binary is not None
    counts = np.array(trace.instructions.units)
    np.testing.assert_array_equal(counts > 0, np.array(trace.ran) == 1)
    assert (counts.sum(axis=1) < trace.instructions.total).all()
    assert trace.binary.stack < trace.binary.ram
    classes = np.array(list(trace.instructions.classes.values()))
    total = sum(trace.instructions.total)
    outside = total - counts.sum()
    assert classes.sum(axis=0).tolist() == [*counts.sum(axis=0).tolist(), outside]
    # Weights are multiplied in pairs by SMLAD; a gate's layers run in `ref`, product by product.
    names = dict(zip(trace.instructions.classes, classes, strict=True))
    assert names["mac2"][trace.units.index("head")] + names["mul"][trace.units.index("head")] > 0
    assert names["fp"].sum() == 0


@pytest.mark.qemu
def test_units_as_a_table_hold_the_sums_of_the_trace(bundle: Bundle, tmp_path: Path) -> None:
    needs_qemu()
    trace = record(bundle, "qemu")
    assert trace.instructions is not None and trace.modelled_cycles is not None
    write_units(tmp_path / UNITS, trace)
    with (tmp_path / UNITS).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["unit"] for row in rows] == [*trace.units, OUTSIDE]
    assert {row["images"] for row in rows} == {str(len(IMAGES))}
    for i, row in enumerate(rows[:-1]):
        assert int(row["ran"]) == sum(ran[i] for ran in trace.ran)
        assert int(row["instructions"]) == sum(counts[i] for counts in trace.instructions.units)
        assert int(row["modelled_cycles"]) == sum(of[i] for of in trace.modelled_cycles.units)
    for row in rows:
        assert int(row["instructions"]) == sum(int(row[name]) for name in CLASSES)
    for column, total in (
        ("instructions", trace.instructions.total),
        ("modelled_cycles", trace.modelled_cycles.total),
    ):
        assert sum(int(row[column]) for row in rows) == sum(total)


@pytest.mark.qemu
def test_counts_that_contradict_a_gate_are_noticed(bundle: Bundle) -> None:
    needs_qemu()
    built = build(bundle.folder, TARGET)
    results = run(built, reference.to_input(IMAGES[:2]), jobs=1)
    assert results[1].instructions is not None
    results[1] = replace(results[1], instructions=np.zeros_like(results[1].instructions))
    with pytest.raises(CgateError, match=r"image 8: unit stem did not run"):
        make_trace(bundle, built, results, gates="learned", data="synthetic", split="test",
                   images=[5, 8], labels=[0, 0])  # fmt: skip


def test_ran_units_follow_the_conditions(bundle: Bundle) -> None:
    plan = bundle.plan
    rng = np.random.default_rng(0)
    decisions = rng.integers(0, 2, (9, len(plan.gates))).astype(np.uint8)
    ran = ran_units(plan, decisions, "learned")
    names = [gate.name for gate in plan.gates]
    for unit in plan.units:
        expected = (
            np.ones(9) if unit.condition is None else decisions[:, names.index(unit.condition)]
        )
        np.testing.assert_array_equal(ran[:, unit.index], expected)
    conditional = [unit.condition is not None for unit in plan.units]
    for gates, value in (("open", 1), ("shut", 0)):
        assert (ran_units(plan, decisions, gates)[:, conditional] == value).all()


def test_what_is_written_is_read(on_host: Trace, tmp_path: Path) -> None:
    path = tmp_path / "runs" / "host" / "trace.json"
    write_trace(path, on_host)
    assert read_trace(path) == on_host
    assert len(path.read_text().splitlines()) == 2 + len(json.loads(path.read_text()))
    empty = replace(on_host, images=[], labels=[], logits=[], classes=[], decisions=[], ran=[])
    write_trace(path, empty)
    assert read_trace(path) == empty


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda v: v.update(schema=2), "schema is not 1"),
        (lambda v: v.pop("logits"), "'logits' is missing or unknown"),
        (lambda v: v.update(extra=1), "'extra' is missing or unknown"),
        (lambda v: v.update(runner="board"), "runner 'board'"),
        (lambda v: v.update(runner="qemu"), "instructions belong to runs under qemu"),
        (lambda v: v.update(units=[1]), "a name is no text"),
        (lambda v: v["labels"].pop(), "labels should be whole numbers"),
        (lambda v: v["logits"][3].pop(), "inhomogeneous"),
        (lambda v: v["logits"][3].__setitem__(0, 128), "logits has a value out of range"),
        (lambda v: v["ran"][0].__setitem__(0, 2), "ran has a value out of range"),
        (lambda v: v["decisions"][0].__setitem__(0, 0.5), "decisions should be whole numbers"),
        (lambda v: v.update(images="many"), "images should be whole numbers"),
        (lambda v: v.update(binary={"flash": 1}), "missing 2 required"),
        (lambda v: v.update(units=None), "must be an iterable"),
    ],
)
def test_broken_traces_are_refused(
    on_host: Trace, change: Callable[[dict[str, Any]], None], text: str, tmp_path: Path
) -> None:
    path = tmp_path / "trace.json"
    write_trace(path, on_host)
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    with pytest.raises(CgateError) as caught:
        read_trace(path)
    assert text in caught.value.message
    assert "cgate run" in caught.value.hint


def test_a_missing_trace_is_named(tmp_path: Path) -> None:
    with pytest.raises(CgateError, match="the trace is missing"):
        read_trace(tmp_path / "trace.json")
