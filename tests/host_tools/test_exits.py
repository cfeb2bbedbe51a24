"""Networks with exits through build, run, verify and report: real programs, real counts."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from cgate.core.plan import Bundle, load_bundle
from cgate.core.targets import find_target
from cgate.export import reference
from cgate.export.bundle import export_checkpoint
from cgate.host_tools.build import build
from cgate.host_tools.report import write_report
from cgate.host_tools.runner import run
from cgate.host_tools.summary import headline, headline_lines
from cgate.host_tools.trace import Trace, make_trace, write_trace
from cgate.host_tools.verify import verify
from synthetic import random_images, small_network, write_checkpoint
from tiny import needs_host, needs_qemu

NETWORK = small_network(exits=("s1b0", "s2b1"))
IMAGES = random_images(NETWORK, 40, 7)
LABELS = [i % 10 for i in range(len(IMAGES))]
TARGET = find_target("cortex-m4")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("exits")
    write_checkpoint(folder / "checkpoint", NETWORK, seed=2)
    export_checkpoint(folder / "checkpoint", folder / "bundle", TARGET)
    return load_bundle(folder / "bundle")


def record(bundle: Bundle, on: str, gates: str = "learned") -> Trace:
    built = build(bundle.folder, TARGET, on=on)
    results = run(built, reference.to_input(IMAGES), gates=gates, jobs=2)
    return make_trace(
        bundle, built, results, gates=gates, data="synthetic", split="test",
        images=range(len(IMAGES)), labels=LABELS,
    )  # fmt: skip


@pytest.fixture(scope="module")
def on_host(bundle: Bundle) -> Trace:
    needs_host()
    return record(bundle, "host")


def answered(bundle: Bundle, trace: Trace) -> list[str]:
    """Name of the unit that answered each image: the last that ran."""
    return [
        max(
            (unit.index, unit.name) for unit, bit in zip(bundle.plan.units, row, strict=True) if bit
        )[1]
        for row in trace.ran
    ]


@pytest.mark.parametrize("gates", ["learned", "open", "shut"])
def test_a_host_run_is_the_reference(bundle: Bundle, gates: str) -> None:
    needs_host()
    trace = record(bundle, "host", gates)
    expected = reference.run(bundle.plan, bundle.weights, reference.to_input(IMAGES), gates)
    np.testing.assert_array_equal(trace.logits, expected.logits)
    np.testing.assert_array_equal(trace.decisions, expected.decisions)
    np.testing.assert_array_equal(trace.ran, expected.ran)
    assert trace.gated == ["s1b0.gate", "s1b0.exit", "s2b1.gate", "s2b1.exit"]
    names = {"open": {"head"}, "shut": {"s1b0.exit"}, "learned": {"s1b0.exit", "s2b1.exit", "head"}}
    assert set(answered(bundle, trace)) == names[gates]


@pytest.mark.qemu
def test_leaving_saves_instructions(bundle: Bundle) -> None:
    needs_qemu()
    traces = {gates: record(bundle, "qemu", gates) for gates in ("learned", "open", "shut")}
    totals = {}
    for gates, trace in traces.items():
        assert trace.instructions is not None
        counts = np.array(trace.instructions.units)
        np.testing.assert_array_equal(counts > 0, np.array(trace.ran) == 1)
        totals[gates] = np.array(trace.instructions.total)
        # What no unit accounts for is a few calls and compares, wherever the image leaves.
        assert (totals[gates] - counts.sum(axis=1) < 200).all()
    assert (totals["learned"] < totals["open"]).all()
    # With an equal route up to an exit, those that leave there cost less than all that go on.
    place = np.array(answered(bundle, traces["learned"]))
    on = place != "s1b0.exit"
    assert (totals["shut"][on] < totals["learned"][on]).all()
    first, second, end = (totals["learned"][place == n] for n in ("s1b0.exit", "s2b1.exit", "head"))
    assert first.max() < second.min() and second.mean() < end.mean()
    # All images run the same when forced, up to data-dependent branches of the arithmetic.
    assert np.ptp(totals["shut"]) < 0.01 * totals["shut"].mean()


def test_tflite_and_host_are_bit_exact(bundle: Bundle) -> None:
    needs_host()
    pytest.importorskip("tflite_runtime", reason="needs pip install 'cgate[golden]'")
    patterns = ("learned", "open", "shut")
    on = ("tflite", "network", "host")
    result = verify(bundle.folder, IMAGES, data="x", on=on, patterns=patterns)
    assert result.equal
    ran = [
        sum(
            step.unit in bundle.plan.gates and len(step.images)
            for step in reference.trace(
                bundle.plan, bundle.weights, reference.to_input(IMAGES), gates
            )
        )
        for gates in patterns
    ]
    # The one .tflite cannot be forced.
    assert [each.decisions for each in result.comparisons] == [sum(ran), ran[0], sum(ran)]


@pytest.mark.qemu
def test_qemu_is_bit_exact(bundle: Bundle) -> None:
    needs_qemu()
    assert verify(bundle.folder, IMAGES, data="x", on=("qemu",)).equal


def test_an_exit_that_is_left_too_soon_is_found(bundle: Bundle, tmp_path: Path) -> None:
    needs_host()
    folder = Path(shutil.copytree(bundle.folder, tmp_path / "bundle"))
    threshold = bundle.plan.exits[0].threshold
    source = folder / "c/model.c"
    pattern = rf"(cg_margin\(output, 10\) <=) {threshold};"
    text, count = re.subn(pattern, rf"\1 {threshold - 1};", source.read_text(), count=1)
    assert count == 1
    source.write_text(text)
    result = verify(folder, IMAGES, data="x", on=("host",), patterns=("learned",))
    difference = result.comparisons[0].difference
    assert difference is not None
    assert (difference.unit, difference.why) == ("s1b0.exit", "decision")


def test_the_summary_counts_who_answers(bundle: Bundle, on_host: Trace) -> None:
    value = headline(bundle.plan, on_host)
    names = answered(bundle, on_host)
    right = [a == b for a, b in zip(on_host.classes, LABELS, strict=True)]
    units = {unit.name: unit for unit in bundle.plan.units}
    assert [row["name"] for row in value["answers"]] == ["s1b0.exit", "s2b1.exit", "head"]
    for row in value["answers"]:
        rows = [i for i, name in enumerate(names) if name == row["name"]]
        assert row["images"] == len(rows) and row["share"] == len(rows) / len(IMAGES)
        assert row["accuracy"] == pytest.approx(sum(right[i] for i in rows) / len(rows))
        macs = [
            sum(bit * unit.macs for bit, unit in zip(on_host.ran[i], units.values(), strict=True))
            for i in rows
        ]
        assert row["macs_mean"] == pytest.approx(sum(macs) / len(rows))
        for label, share in enumerate(row["by_class"]):
            of_class = [i for i in range(len(IMAGES)) if LABELS[i] == label]
            assert share == pytest.approx(sum(i in rows for i in of_class) / len(of_class))
    # A gate's rate is of the images that reach it.
    second = value["gates"][1]
    reached = [row for row in range(len(IMAGES)) if names[row] != "s1b0.exit"]
    opened = sum(on_host.decisions[row][2] for row in reached)
    assert second["name"] == "s2b1.gate" and second["open"] == pytest.approx(opened / len(reached))
    text = dict(headline_lines(value))
    assert text["left behind s1b0"].startswith(f"{value['answers'][0]['share']:.1%}, ")
    assert "went to the end" in text
    shut = headline(bundle.plan, record(bundle, "host", "shut"))
    assert shut["answers"][0]["share"] == 1 and shut["answers"][1]["accuracy"] is None
    assert dict(headline_lines(shut, forced=True))["s2b1.gate said open"] == "not reached"


@pytest.mark.parametrize("exits", [("s1b0", "s2b1"), ("s2b0",)])
def test_the_report_shows_where_images_leave(exits: tuple[str, ...], tmp_path: Path) -> None:
    needs_host()
    write_checkpoint(tmp_path / "checkpoint", small_network(exits=exits), seed=2)
    export_checkpoint(tmp_path / "checkpoint", tmp_path / "bundle", TARGET)
    bundle = load_bundle(tmp_path / "bundle")
    write_trace(bundle.folder / "runs" / "test" / "trace.json", record(bundle, "host"))
    value = write_report(bundle.folder)
    html = (bundle.folder / "report.html").read_text()
    text = re.sub(r"<[^>]*>", " ", html)
    assert "Where images leave" in text
    assert ("there is one exit" if len(exits) == 1 else "there are 2 exits") in text
    assert sum(row["images"] for row in value["answers"]) == len(IMAGES)
    for row in value["answers"]:
        assert f"{100 * row['share']:.1f}%" in text
        assert f"{row['macs_mean']:,.0f}" in text
    cheapest = value["examples"]["cheapest"]
    assert all(row["left"] == exits[0] for row in cheapest)
    assert text.count(f"left behind {exits[0]}") >= len(cheapest)
    assert all(len(row["open"]) == len(value["gates"]) == 2 for row in cheapest)
