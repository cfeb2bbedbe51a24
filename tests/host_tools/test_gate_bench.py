"""`cgate bench gates` against the numpy reference, one image after the other."""

import csv
import io
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cgate.core.data import load_dataset
from cgate.core.errors import CgateError
from cgate.core.plan import Bundle, Unit, load_bundle
from cgate.core.progress import Silent
from cgate.core.targets import find_target
from cgate.export import reference
from cgate.export.bundle import export_checkpoint
from cgate.host_tools.cli import main
from cgate.host_tools.gate_bench import SHUFFLE_SEED, bench_checkpoint, bench_gates, to_csv
from synthetic import small_network, write_checkpoint

IMAGES = 40
Bits = NDArray[np.bool_]


def answer(bundle: Bundle, image: NDArray[np.int8], route: Bits) -> int:
    """The class of one image, whose gates do what `route` says."""
    plan, weights = bundle.plan, bundle.weights
    wanted = {unit.name: route[i : i + 1] for i, unit in enumerate(plan.gates)}

    def compute(
        unit: Unit, inputs: Mapping[str, NDArray[np.int8]]
    ) -> tuple[NDArray[np.int8], Bits | None]:
        return reference.run_unit(plan, weights, unit, inputs)[unit.output], wanted.get(unit.name)

    *_, last = reference.walk(plan, image[None], "learned", compute)
    return int(last.output.argmax())


def test_the_row_is_what_the_reference_says(digits_checkpoint: Path, digits_bundle: Path) -> None:
    row = bench_checkpoint(digits_checkpoint, None, IMAGES, Silent())
    bundle = load_bundle(digits_bundle)
    plan, digits = bundle.plan, load_dataset("digits")
    labels = digits.test.labels[:IMAGES]
    images = reference.to_input(digits.test.images[:IMAGES])
    learned = reference.run(plan, bundle.weights, images)
    votes = reference.run(
        plan, bundle.weights, reference.to_input(digits.validation.images[:IMAGES])
    ).decisions
    order = np.random.default_rng(SHUFFLE_SEED).permutation(IMAGES)
    majority = np.broadcast_to(votes.mean(axis=0) > 0.5, learned.decisions.shape)

    def share(routes: Bits) -> float:
        found = [answer(bundle, image, route) for image, route in zip(images, routes, strict=True)]
        return float((np.array(found) == labels).mean())

    assert row.top1 == (learned.classes == labels).mean()
    assert row.executed_macs == round(float(plan.executed_macs(learned.ran).mean()), 1)
    assert row.top1_shuffled == share(learned.decisions[order])
    assert row.top1_majority == share(majority)
    gates = sum(unit.macs for unit in plan.gates)
    fixed = int(plan.executed_macs(plan.ran(majority[:1]))[0]) - gates
    assert row.majority_macs == fixed
    assert row.n_images == IMAGES and row.checkpoint == digits_checkpoint.name
    rates = dict(each.split() for each in row.open_rates.split(", "))
    assert [float(rate) for rate in rates.values()] == [
        round(float(rate), 4) for rate in learned.decisions.mean(axis=0)
    ]


def test_the_row_of_exits_is_what_the_reference_says(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason='torch is missing: pip install "cgate[train]"')
    from cgate.train.loop import train
    from cgate.train.recipes import find_recipe

    recipe = replace(find_recipe("exit-digits"), width=0.5, epochs=4, gate=None, consistency=0)
    train(recipe, tmp_path / "exits", progress=Silent())
    row = bench_checkpoint(tmp_path / "exits", None, IMAGES, Silent())
    export_checkpoint(tmp_path / "exits", tmp_path / "bundle", find_target("cortex-m4"))
    bundle = load_bundle(tmp_path / "bundle")
    digits = load_dataset("digits")
    images = reference.to_input(digits.test.images[:IMAGES])
    result = reference.run(bundle.plan, bundle.weights, images)
    reached = np.append(result.ran[:, [unit.index for unit in bundle.plan.exits]].sum(axis=0), 0)
    reached[-1] = result.ran[:, -1].sum()
    left = [(here - on) / IMAGES for here, on in pairwise(reached)]
    assert row.left == f"s1b1 {left[0]:.4f}, s2b1 {left[1]:.4f}" and 0 < sum(left) < 1
    assert (row.kind, row.epochs, row.open_rates) == ("exit", 4, "")
    assert row.top1 == (result.classes == digits.test.labels[:IMAGES]).mean()
    # Without gates there is nothing to hold.
    assert (row.top1_majority, row.majority_macs) == (row.top1, row.executed_macs)


def test_a_folder_of_checkpoints_gives_a_table(digits_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to(digits_checkpoint)
    (tmp_path / "notes").mkdir()
    rows = bench_gates(tmp_path, None, IMAGES, Silent())
    (line,) = csv.DictReader(io.StringIO(to_csv(rows)))
    assert line["checkpoint"] == "one" and line["kind"] == "controller" and line["point"] == "demo"
    assert float(line["top1"]) == rows[0].top1


def test_a_folder_without_checkpoints_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CgateError, match="holds no finished checkpoint"):
        bench_gates(tmp_path, None, None, Silent())


def test_a_checkpoint_that_was_not_trained_here_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "foreign", small_network())
    with pytest.raises(CgateError, match="does not say how it was trained") as caught:
        bench_gates(tmp_path, None, None, Silent())
    assert "cgate train" in caught.value.hint


def test_the_command_writes_the_table(
    digits_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "gates.csv"
    arguments = ["bench", "gates", "--from", str(digits_checkpoint), "--limit", "10"]
    assert main([*arguments, "--out", str(out)]) == 0
    assert digits_checkpoint.name in capsys.readouterr().out
    (line,) = csv.DictReader(io.StringIO(out.read_text()))
    assert line["n_images"] == "10"
